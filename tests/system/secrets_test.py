"""What nobody else may read is found nowhere that others can look: files, logs, core dumps."""
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
        expect_nowhere(secret, *everywhere)  # with a journal
    b.run("sync", "work")
    writing.kill_daemon(b, "work")
    for secret in (CANARY, support.PASSWORD):
        expect_nowhere(secret, *everywhere)  # with what a crash leaves
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
    # Memory that its own user may not look into belongs to root.
    status = pathlib.Path(f"/proc/{pid}/mem").stat()
    expect_equal(status.st_uid, 0, "owner of the daemon's memory")
    before = core_files_of(pid)
    os.kill(pid, signal.SIGABRT)
    support.wait_until(lambda: not pathlib.Path(f"/proc/{pid}").exists(), "the daemon ends")
    expect_equal(core_files_of(pid) - before, set(), "core files")
    writing.check_out(a, "work")
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
                 test_a_machine_that_runs_shows_nobody_its_name_and_holds_nothing_of_its_starter)
