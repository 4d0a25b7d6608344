"""Tests both mappings of guest memory: a machine suspended with one continues with the other, and a kill loses only the
work since the last suspend."""
import pathlib

import support
import writing
from support import expect, expect_equal

GUEST = ("--append", "isr.fill=128")  # MiB: the guest goes through them in 16 s, so that most of memory is cold after a resume


def set_up(world, *hosts, memory="256M"):
    server = world.serve()
    first, *others = [world.host(name) for name in hosts]
    first.init_repository(server.url)
    first.run("import", "work", support.guest_image(*GUEST), "--memory", memory)
    for host in others:
        host.add_repository(server.url)
    return (first, *others)


def mapping_in_force(host):
    """Returns the mapping of the memory file in QEMU, as the kernel reports it."""
    pid = host.stat("work")["vm"]["pid"]
    lines = [line.split() for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return [modes for _, modes, *rest in lines if rest[-1].endswith("/memory.raw")]


def begin(host, command, way, *flags):
    """Starts or resumes with this mapping of memory; returns the console."""
    host.variables["ISR_VM_MEMORY"] = way
    host.run(command, "work", *flags)
    expect_equal(host.stat("work")["vm"]["memory"], way, "the mapping that stat shows")
    wanted = {"shared": ["rw-s"], "private": ["rw-p"] if command == "resume" else []}[way]
    expect_equal(mapping_in_force(host), wanted, f"QEMU's mappings of memory.raw after {command}")
    return host.console("work")


def test_memory_goes_from_one_mapping_to_the_other_and_back(world):
    a, b = set_up(world, "a", "b")
    before = begin(a, "start", "private")
    checksum = before.wait("MEM filled (.*)")[0]
    before.wait(r"TICK \d+", count=2)
    for host, way in ((b, "private"), (a, "shared"), (b, "private"), (a, "private")):
        before.check()
        (a if host is b else b).run("suspend", "work")
        after = begin(host, "resume", way)
        after.wait(r"TICK \d+", count=2)
        support.expect_continuation(before, after)
        before = after
    before.wait(f"MEM ok {checksum}", count=1)
    a.run("suspend", "work")
    a.run("check", "work", "--deep")


def test_a_machine_that_booted_with_shared_memory_continues_with_private(world):
    (a,) = set_up(world, "a")
    before = begin(a, "start", "shared")
    checksum = before.wait("MEM filled (.*)")[0]
    before.wait(r"TICK \d+")
    a.run("suspend", "work", "--no-upload")
    after = begin(a, "resume", "private")
    after.wait(f"MEM ok {checksum}")
    support.expect_continuation(before, after)
    a.run("suspend", "work")


def test_a_suspend_fetches_nothing_that_the_guest_did_not_touch(world):
    a, b = set_up(world, "a", "b")
    console = begin(a, "start", "private")
    console.wait(r"TICK \d+")
    a.run("suspend", "work")
    console = begin(b, "resume", "private", "--prefetch", "none")
    console.wait(r"TICK \d+")
    b.run("suspend", "work", "--no-upload")
    fetched = b.stat("work")["sources"]["repository_bytes"]
    expect(fetched < 64 << 20, f"{fetched >> 20} MiB were fetched")
    again = begin(b, "resume", "private")
    again.wait("MEM ok .*")
    support.expect_continuation(console, again)
    b.run("suspend", "work")


def own_memory(host):
    """Returns the MiB of memory that are private to QEMU, which a suspend must keep."""
    pid = host.stat("work")["vm"]["pid"]
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) >> 10


def borrow(host, console, count):
    """Lets the guest use 64 MiB and free them, and checks that QEMU then frees them, too."""
    before = own_memory(host)
    console.type("borrow 64")
    console.wait("BORROWED 64", count=count)
    support.wait_until(lambda: own_memory(host) < before + 32, f"QEMU has little more than {before} MiB", every=0.2)


def test_memory_that_the_guest_gives_back_is_not_kept(world):
    (a,) = set_up(world, "a", memory="384M")
    console = begin(a, "start", "private")
    checksum = console.wait("MEM filled (.*)")[0]
    borrow(a, console, 1)
    a.run("suspend", "work")
    after = begin(a, "resume", "private")
    after.wait(r"TICK \d+", count=2)
    support.expect_continuation(console, after)
    borrow(a, after, 1)
    borrow(a, after, 2)
    after.wait(f"MEM ok {checksum}")
    a.run("suspend", "work")
    last = begin(a, "resume", "shared")
    last.type("borrow 64")
    last.wait("BORROWED 64")
    last.wait(f"MEM ok {checksum}")
    a.run("suspend", "work")
    a.run("check", "work", "--deep")


def test_a_kill_while_memory_comes_on_demand_leaves_the_suspended_version(world):
    (a,) = set_up(world, "a")
    chance = writing.chance()
    for way in ("private", "shared"):
        suspended = begin(a, "start" if way == "private" else "resume", way)
        suspended.wait(r"TICK \d+", count=2)
        a.run("suspend", "work")
        lost = begin(a, "resume", way)
        lost.wait(r"TICK \d+")
        writing.moment(chance, 3.0)
        qemu = a.stat("work")["vm"]["pid"]
        writing.kill_daemon(a, "work")
        support.wait_until(lambda: not pathlib.Path(f"/proc/{qemu}").exists(), "QEMU ends with its daemon")
        a.run("--yes", "discard", "work")
        again = begin(a, "resume", way)
        again.wait("MEM ok .*")
        support.expect_continuation(suspended, again)
        a.run("suspend", "work")
    a.run("check", "work", "--deep")


if __name__ == "__main__":
    support.main(test_memory_goes_from_one_mapping_to_the_other_and_back,
                 test_a_machine_that_booted_with_shared_memory_continues_with_private,
                 test_a_suspend_fetches_nothing_that_the_guest_did_not_touch,
                 test_memory_that_the_guest_gives_back_is_not_kept,
                 test_a_kill_while_memory_comes_on_demand_leaves_the_suspended_version)
