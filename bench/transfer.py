"""Measures imports of whole disks, checkins of changes, and the replay of a journal after a crash."""
import os
import random
import subprocess

from content import Content, change, make_half_full
from host import checked_out, empty_cache
from link import Link
from measure import CHUNK, MIB, compressed_size, drop_page_cache, in_turn, seconds, support, wait_counted


def copy_durably(source, target):
    """Copies a file without its holes, with an fsync at the end."""
    with open(source, "rb") as from_, open(target, "wb") as to:
        size, at = os.fstat(from_.fileno()).st_size, 0
        while True:
            try:
                at = os.lseek(from_.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(from_.fileno(), at, os.SEEK_HOLE)
            from_.seek(at), to.seek(at)
            while at < end:
                data = from_.read(min(MIB, end - at))
                to.write(data)
                at += len(data)
        to.truncate(size)
        to.flush()
        os.fsync(to.fileno())


def imports(bench, host):
    """Measures imports of a half-full disk, and of the same disk after a day of work."""
    folder, figures = bench.world.folder, bench.figures
    disk, copy = folder / "half.raw", folder / "half.copy"
    size = bench.sizes.import_
    data = make_half_full(disk, size)

    empty_cache(host)

    def imported(number):
        drop_page_cache()
        used = []
        def command():
            used.extend(wait_counted(host.start("import", f"half{number}", disk, "--quiet", stdout=subprocess.DEVNULL), 3600))
        took = seconds(command)
        return took, *used

    def copied():
        drop_page_cache()
        return seconds(lambda: copy_durably(disk, copy))

    rounds = iter(range(100))
    [first], [first_copy] = in_turn(1, lambda: imported(next(rounds)), copied)
    def again():
        change(disk, max(16, size // (64 * MIB)), seed=next(rounds))
        return imported(next(rounds))
    again_, copies = in_turn(bench.rounds, again, copied)
    for name, ours, theirs in (("import of a half-full disk", [first], [first_copy]),
                               ("import of it again, a little changed", again_, copies)):
        took, cpu, peak = zip(*ours)
        figures.add(name, "MB/s", [data / t / 1e6 for t in took], [data / t / 1e6 for t in theirs], "copy, fsync", peak=peak)
        figures.add("  its zeros counted, too", "MB/s", [size / t / 1e6 for t in took])
        figures.add("  CPU", "s/GiB", [c / (data / 1024 / MIB) for c in cpu], better="less")
    disk.unlink()
    copy.unlink()


def checkins(bench, host):
    """Compares the bytes that a checkin sends with those that were written: large new files, and 4 KiB in random places."""
    name, size = "changing", bench.sizes.disk
    host.run("create", name, "--size", str(size))
    counted, port = bench.world.host("counted"), support.free_port()
    with Link(bench.world, bench.server.port, port=port) as link:
        counted.add_repository(link.url)
        bench.world.log_in(counted)
    big = bench.sizes.checkin

    def large(number):
        content = Content(100 + number)
        at = (number * big) % (size - big) & ~(MIB - 1)
        return [(at + piece * CHUNK, content.take(CHUNK)) for piece in range(big // CHUNK)]

    def scattered(number):
        content, chance = Content(200 + number), random.Random(200 + number)
        blocks = chance.sample(range(size // 4096), big // CHUNK)
        return [(block * 4096, content.take(4096)) for block in blocks]

    for label, changes in (("of large new files", large), ("of 4 KiB here and there", scattered)):
        sent, changed, speeds, peaks = [], [], [], []
        for number in range(bench.rounds):
            with Link(bench.world, bench.server.port, port=port) as link:
                daemon = checked_out(counted, name)
                pieces = changes(number)
                with open(daemon.disk, "r+b", buffering=0) as file:
                    for offset, data in pieces:
                        os.pwrite(file.fileno(), data, offset)
                    os.fsync(file.fileno())
                peaks.append(daemon.peak)
                took = seconds(lambda: counted.run("checkin", name))
            sent.append(link.up)
            changed.append(sum(compressed_size(data) for _, data in pieces))
            speeds.append(sum(len(data) for _, data in pieces) / took / 1e6)
        bench.figures.add(f"checkin {label}: uploaded", "MB", [s / 1e6 for s in sent], [c / 1e6 for c in changed],
                          "changes, compressed", "less", peaks)
        bench.figures.add("  its speed", "MB/s", speeds)


def journal(bench, host):
    """Measures a checkout after the daemon died with a full journal; it reads all of the journal."""
    size = bench.sizes.journal
    plain = bench.world.folder / "journal.plain"
    content = Content(300)
    host.run("create", "crashing", "--size", str(size))
    daemon = checked_out(host, "crashing")
    with open(daemon.disk, "r+b", buffering=0) as disk, open(plain, "wb") as file:
        for at in range(0, size, MIB):
            data = content.take(MIB)
            os.pwrite(disk.fileno(), data, at)
            file.write(data)
        os.fsync(disk.fileno())
        os.fsync(file.fileno())
    peaks = []

    def replay():
        nonlocal daemon
        support.kill(daemon.pid)
        support.wait_until(lambda: not os.path.exists(f"/proc/{daemon.pid}"), "the killed daemon ends")
        drop_page_cache()
        def again():
            nonlocal daemon
            daemon = checked_out(host, "crashing", timeout=1800)
        took = seconds(again)
        peaks.append(daemon.peak)
        return took

    def read():
        drop_page_cache()
        with open(plain, "rb", buffering=0) as file:
            return seconds(lambda: [None for _ in iter(lambda: file.read(MIB), b"")])

    ours, theirs = in_turn(bench.rounds, replay, read)
    bench.figures.add(f"replay of a journal of {size // MIB} MiB", "s", ours, theirs, "reading as much", "less", peaks)
    host.run("discard", "crashing", "--yes")
    host.run("checkin", "crashing")
    plain.unlink()
