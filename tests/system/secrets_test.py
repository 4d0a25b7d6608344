"""Tests that secrets are in no place that others can read: files, logs, core dumps."""
import os
import pathlib
import resource
import signal
import subprocess

import support
import writing
from support import expect, expect_equal

CANARY = "canary-6d1f-nobody-reads-this"


def expect_nowhere(secret, *places):
    found = subprocess.run(["grep", "-rlaF", "--", secret, *map(str, places)], capture_output=True, text=True, check=False)
    expect_equal(found.stdout, "", f'files with "{secret}"')


def test_a_disk_written_by_hand_is_readable_nowhere_else(world):
    chance = writing.chance()
    server = world.serve()
    a, b = world.host("a"), world.host("b")
    a.init_repository(server.url)
    image, content = writing.small_disk(world, chance)
    planted = (CANARY + "-image\n").encode() * 4096
    content[2 << 20:(2 << 20) + len(planted)] = planted
    image.write_bytes(content)
    a.run("import", "work", image)
    image.unlink()
    b.add_repository(server.url)
    disk = writing.check_out(b, "work")
    with open(disk, "r+b") as file:
        expect(CANARY.encode() in file.read(), "the canary is not where it was planted")
        file.seek(5 << 20)
        file.write((CANARY + "-written\n").encode() * 4096)
        os.fsync(file.fileno())
    everywhere = [server.root, server.log] + [place for host in (a, b) for place in (host.state, host.cache, host.config)]
    for secret in (CANARY, support.PASSWORD):
        expect_nowhere(secret, *everywhere)  # while there is a journal
    b.run("sync", "work")
    writing.kill_daemon(b, "work")
    for secret in (CANARY, support.PASSWORD):
        expect_nowhere(secret, *everywhere)  # after a crash
    b.run("checkin", "work")
    for host in (a, b):
        for secret in (CANARY, support.PASSWORD):
            expect_nowhere(secret, server.root, server.log, host.state, host.cache, host.config)


def core_files_of(pid):
    places = [pathlib.Path("/"), pathlib.Path.cwd(), pathlib.Path(f"/proc/{pid}/cwd")]
    return {str(path) for place in places if place.exists() for path in place.glob("core*")}


def test_a_daemon_that_aborts_leaves_no_core(world):
    a = world.host("a")
    a.init_repository(world.new_folder("repository"))
    image, _ = writing.small_disk(world, writing.chance())
    resource.setrlimit(resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE)[1:] * 2)
    a.run("import", "work", image)
    writing.check_out(a, "work")
    pid = a.stat("work")["daemon_pid"]
    limits = pathlib.Path(f"/proc/{pid}/limits").read_text(encoding="ascii")
    expect(any(line.split()[:5] == ["Max", "core", "file", "size", "0"] for line in limits.splitlines()), limits)
    # The memory of a process that is not dumpable belongs to root, so its own user cannot read it.
    status = pathlib.Path(f"/proc/{pid}/mem").stat()
    expect_equal(status.st_uid, 0, "owner of the daemon's memory")
    before = core_files_of(pid)
    os.kill(pid, signal.SIGABRT)
    support.wait_until(lambda: not pathlib.Path(f"/proc/{pid}").exists(), "the daemon ends")
    expect_equal(core_files_of(pid) - before, set(), "core files")
    writing.check_out(a, "work")
    a.run("checkin", "work")


def mappings_of(pid):
    """Returns the first address, the end and the flags of each mapping."""
    found = []
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            begin, end = (int(address, 16) for address in words[0].split("-"))
        elif words[0] == "VmFlags:":
            found.append((begin, end, words[1:]))
    return found


def is_like_a_key(block):
    return len(set(block)) >= 22 and 6 <= sum(byte >= 0x80 for byte in block) <= 26


def test_keys_of_a_daemon_lie_in_locked_memory_and_nowhere_else(world):
    if os.geteuid() != 0:
        print("    skipped: only root may look into a daemon", flush=True)
        return
    a = world.host("a")
    a.init_repository(world.new_folder("repository"))
    image, _ = writing.small_disk(world, writing.chance())
    a.run("import", "work", image)
    with open(writing.check_out(a, "work"), "r+b") as disk:
        disk.write(os.urandom(1 << 20))
        os.fsync(disk.fileno())
    a.run("sync", "work")
    pid = a.stat("work")["daemon_pid"]
    mappings = mappings_of(pid)
    keys = set()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        def read(begin, end):
            memory.seek(begin)
            try:
                return memory.read(end - begin)
            except OSError:  # guard pages, [vvar]
                return b""
        for begin, end, flags in mappings:
            if "lo" not in flags:
                continue
            expect("dd" in flags, f"locked memory that a core would hold: {flags}")
            data = read(begin, end)
            keys |= {block for block in (data[at:at + 32] for at in range(0, len(data), 32)) if is_like_a_key(block)}
        # The user has four keys, the host two (device, trust store), the parcel two (epoch, journal).
        expect(len(keys) >= 8, f"{len(keys)} keys in locked memory")
        for begin, end, flags in mappings:
            if "lo" in flags or "rd" not in flags:
                continue
            data = read(begin, end)
            expect(support.PASSWORD.encode() not in data, f"the password at {begin:x}")
            for key in keys:
                at = data.find(key)
                expect(at < 0, f"a copy of a key at {begin + at:x}, mapping {begin:x}-{end:x} {flags}")
    print(f"    {len(keys)} keys", flush=True)
    a.run("checkin", "work")


def test_a_machine_that_runs_shows_nobody_its_name_and_holds_nothing_of_its_starter(world):
    a = world.host("a")
    a.init_repository(world.new_folder("repository"))
    a.run("create", CANARY, "--size", "1M", "--memory", "64M")
    inherited = world.new_file("inherited")
    with open(inherited, "rb") as file:
        os.set_inheritable(file.fileno(), True)
        process = a.start("start", CANARY, pass_fds=(file.fileno(),), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        expect_equal(process.wait(60), 0, "exit code of start")
    status = a.stat(CANARY)
    for pid in (status["daemon_pid"], status["vm"]["pid"]):
        process = pathlib.Path("/proc", str(pid))
        expect(CANARY not in (process / "cmdline").read_text(encoding="latin-1"), "a command line with the parcel's name")
        expect(CANARY not in (process / "comm").read_text(encoding="latin-1"), "a process called like the parcel")
        opened = [os.readlink(fd) for fd in (process / "fd").iterdir()]
        expect(str(inherited) not in opened, f"what its starter had open is open in process {pid}: {opened}")
        expect(CANARY not in (process / "mounts").read_text(encoding="utf-8"), "a mount called like the parcel")
        expect_equal(int((process / "coredump_filter").read_text(encoding="ascii"), 16), 0, "what a core would hold")
    os.kill(status["daemon_pid"], signal.SIGTERM)
    support.wait_until(lambda: not os.path.exists(f"/proc/{status['daemon_pid']}"), "the daemon ends")
    a.run("resume", CANARY)
    expect_nowhere(CANARY, a.state, a.cache)
    point = world.new_folder("mount")
    a.run("mount", CANARY, point)
    mounts = pathlib.Path("/proc/mounts").read_text(encoding="utf-8")
    expect(str(point) in mounts and CANARY not in mounts, f"a mounted version called like the parcel: {mounts}")
    a.run("umount", point)
    a.run("poweroff", CANARY, "--yes")
    a.run("checkin", CANARY)


if __name__ == "__main__":
    support.main(test_a_disk_written_by_hand_is_readable_nowhere_else, test_a_daemon_that_aborts_leaves_no_core,
                 test_keys_of_a_daemon_lie_in_locked_memory_and_nowhere_else,
                 test_a_machine_that_runs_shows_nobody_its_name_and_holds_nothing_of_its_starter)
