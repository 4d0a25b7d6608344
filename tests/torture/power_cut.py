"""Cuts the power below isr and checks that every answered flush and every answered publish is there afterwards.

state       the volume with a host's state and cache loses its power during writes to the mounted disk, flushes, and a
            sync, a checkin or a checkout: each sector is as the last answered flush left it, or newer
failed_sync the volume refuses the writes of one flush, whose pages the kernel then takes for written; later flushes
            of the same daemon or the next one succeed; then the power is cut
repository  the volume with the repository loses its power during a publish or right after its answer

    python3 tests/torture/power_cut.py build/release/isr [--long] [--seed N] [--state N] [--failed-sync N] [--repository N]
"""
import random
import shutil
import subprocess
import sys

import common
import support
import volume
import writing
from support import expect

SKIPPED = 77  # CTest's SKIP_RETURN_CODE
DISK = 80 << 20
CUTS_A_WORLD = 20


class Tally:
    def __init__(self):
        self.cuts = self.after_answer = self.flushes = self.published = 0

    def __str__(self):
        return (f"{self.cuts} cuts, {self.after_answer} of them right after an answer; {self.flushes} flushes and "
                f"{self.published} publishes answered; 0 lost")


def host_on(world, name, make_volume):
    """Makes a host whose state and cache lie on a volume."""
    host = world.host(name)
    disk = make_volume(world, host.home / "disk")
    host.state, host.cache = disk.path / "state" / "isr", disk.path / "cache" / "isr"
    host.variables |= {"XDG_STATE_HOME": str(disk.path / "state"), "XDG_CACHE_HOME": str(disk.path / "cache")}
    return host, disk


def power_off(host):
    """Kills all processes of the host at once, and so loses the contents of their memory."""
    for pid in host.world.processes(host.home):
        support.kill(pid)
    support.wait_until(lambda: not host.world.processes(host.home), "what was killed ends")
    for mount in host.world.mounts():
        if mount.startswith(f"{host.runtime}/"):
            volume.run("umount", "--lazy", mount)
    shutil.rmtree(host.runtime)
    host.runtime.mkdir(mode=0o700)


def restart(disk, host):
    power_off(host)
    disk.unmount()
    disk.mount()


def read(path):
    with open(path, "rb") as file:
        return file.read()


def new_disk(world, chance, host, size):
    image, content = world.new_file("image.raw"), bytearray(chance.randbytes(1 << 20) * (size >> 20))
    image.write_bytes(content)
    host.run("import", "work", image)
    return content


def begin_command(host, *arguments):
    return host.start(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def state(world, chance, cuts, tally):
    server = world.serve()
    host, disk = host_on(world, "a", volume.Volume)
    host.init_repository(server.url)
    content = new_disk(world, chance, host, DISK)
    for number in range(cuts):
        activity = chance.choice(("write", "write", "sync", "settle", "checkin", "checkout"))
        path = writing.check_out(host, "work")
        writer = writing.Writer(path, content, chance, direct=chance.random() < 0.5, first=DISK if activity == "settle" else 0)
        command = None
        # A completely rewritten disk is settled some seconds after the last write.
        writer.wait(20 + (DISK >> 20 if activity == "settle" else 0), timeout=180)
        if activity == "checkin":  # isr refuses a checkin while the writer has the file open
            writer.stop()
            command = begin_command(host, "checkin", "work")
        elif activity == "sync":
            command = begin_command(host, "sync", "work")
        how = chance.choice((volume.LOG_LOST, volume.LOG_LOST, volume.LOG_FLUSHED))
        if activity in ("write", "sync") and chance.random() < 0.5:
            goal = writer.flushes + chance.randrange(1, 6)
            writer.flush_answered = lambda: disk.cut(how) if writer.flushes >= goal else None
            writer.wait_for_end("the writer meets the power cut")
            tally.after_answer += 1
        elif activity == "checkout":
            writer.stop()
            power_off(host)
            command = begin_command(host, "checkout", "work")
            writing.moment(chance, 1.0)
            disk.cut(how)
        else:
            writing.moment(chance, 5.0 if activity == "settle" else 1.5)
            writer.promises.are_over = True
            if activity == "checkin" and command.poll() == 0:
                writer.promises.flushed = bytearray(writer.content)  # the checkin published all writes
            disk.cut(how)
        restart(disk, host)
        writer.stop()
        if command:
            command.wait()
            tally.published += command.returncode == 0 and activity in ("checkin", "sync")
        tally.cuts += 1
        tally.flushes += writer.flushes
        content = bytearray(read(writing.check_out(host, "work")))
        print(f"    cut {number} ({how}) during {activity}, exit {command.returncode if command else '-'}, "
              f"{writer.flushes} flushes", file=sys.stderr, flush=True)
        writer.promises.check(content)
    host.run("checkin", "work")
    host.run("check", "--deep")
    exported = world.folder / "export.raw"
    host.run("export", "work", "--raw", exported)
    expect(read(exported) == content, "the export differs from what was written")
    disk.remove()


def failed_sync(world, chance, cuts, tally):
    """Gives each try a volume of its own, because the damage of a failed write stays on its volume."""
    server = world.serve()
    for number in range(cuts):
        host, disk = host_on(world, f"h{number}", volume.ThinVolume)
        if number == 0:
            host.init_repository(server.url)
            content = new_disk(world, chance, host, 8 << 20)
        else:
            host.add_repository(server.url)
        path = writing.check_out(host, "work")
        writer = writing.Writer(path, content, chance, direct=True)
        writer.wait(30)
        disk.fill_below()
        writer.wait_for_end("a flush or a write fails", timeout=120)
        disk.make_room()
        same_daemon = chance.random() < 0.5
        if not same_daemon:
            power_off(host)  # the volume keeps its power, so the page cache still has the failed writes
            path = writing.check_out(host, "work")
        writer.stop()
        again = writing.Writer(path, writer.content, chance, direct=True, promises=writer.promises)
        again.wait(60)
        goal = again.flushes + chance.randrange(1, 4)  # the first of these flushes covers all earlier writes
        again.flush_answered = lambda: disk.cut() if again.flushes >= goal else None
        again.wait_for_end("the writer meets the power cut")
        restart(disk, host)
        again.stop()
        tally.cuts += 1
        tally.after_answer += 1
        tally.flushes += writer.flushes + again.flushes
        content = bytearray(read(writing.check_out(host, "work")))
        again.promises.check(content)
        host.run("checkin", "work")
        tally.published += 1
        power_off(host)
        disk.remove()


def repository(world, chance, cuts, tally):
    """Cuts the power of a repository behind a server, or of one in a folder that the host writes to. A world has one of both."""
    disk = volume.Volume(world, world.folder / "volume")
    root = disk.path / "repository"
    root.mkdir()
    is_served = chance.random() < 0.5
    server = world.serve(root) if is_served else None
    place = server.url if is_served else root
    a, b = world.host("a"), world.host("b")
    a.init_repository(place)
    content = new_disk(world, chance, a, 8 << 20)
    b.add_repository(place)
    answered, exported = 1, world.folder / "export.raw"
    versions = {1: bytes(content)}
    for _ in range(cuts):
        path = writing.check_out(a, "work")
        writer = writing.Writer(path, content, chance)
        writer.wait(50)
        writer.stop()
        under_way = bytes(writer.content)
        command = begin_command(a, chance.choice(("sync", "checkin")), "work")
        if chance.random() < 0.5:
            command.wait(timeout=support.COMMAND_TIMEOUT)
            tally.after_answer += 1
        else:
            writing.moment(chance, 1.5)
        is_answered = command.poll() == 0  # answers after the cut do not count
        disk.cut(chance.choice((volume.LOG_LOST, volume.LOG_LOST, volume.LOG_FLUSHED)))
        if is_served:
            support.kill(server.process.pid)
            server.process.wait()
        restart(disk, a)
        command.wait()
        if is_served:
            server.start()
        newest = max(entry["version"] for entry in b.run("log", "work", json=True)["versions"])
        expect(newest in ((answered + 1,) if is_answered else (answered, answered + 1)),
               f"version {newest} is the newest after {answered} and {'an' if is_answered else 'no'} answer")
        if newest > answered:
            versions[newest] = under_way
        answered = newest
        tally.cuts += 1
        tally.flushes += writer.flushes
        tally.published += is_answered
        b.run("check", "--deep")
        b.run("export", f"work@{newest}", "--raw", exported)
        expect(read(exported) == versions[newest], f"version {newest} is not what was published")
        exported.unlink()
        content = bytearray(read(writing.check_out(a, "work")))
        expect(content == writer.content, "the host whose repository lost its power has lost writes")
    a.run("checkin", "work")
    b.run("check", "--deep")
    if is_served:
        server.stop()
    disk.remove()


PARTS = {"state": state, "failed_sync": failed_sync, "repository": repository}


def main():
    options = common.arguments(__doc__, state=(6, 200), failed_sync=(2, 40), repository=(3, 100))
    missing = volume.why_not()
    if missing:
        print(f"SKIPPED: {missing}")
        sys.exit(SKIPPED)
    support.stop_on_signals()
    failed = False
    for name, part in PARTS.items():
        tally, left = Tally(), getattr(options, name)
        seeds = []
        while left > 0 and not failed:
            seeds.append((options.seed or 1) + len(seeds))
            here = min(left, CUTS_A_WORLD)
            left -= here

            def run(world, part=part, seed=seeds[-1], here=here, tally=tally):
                part(world, random.Random(seed), here, tally)
            run.__name__ = f"test_{name}_{seeds[-1]}"
            failed = not support.run_test(run)
        print(f"{name}: seeds {seeds}: {tally if not failed else 'FAILED'}", flush=True)
        if failed:
            break
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
