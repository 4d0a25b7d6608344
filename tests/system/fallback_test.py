"""Tests machines whose memory cannot be loaded or read: isr offers a way on, keeps the memory, and forces nothing."""
import pathlib
import signal
import subprocess
import time

import support
from support import expect, expect_equal

OLDER_QEMU = 'case "$1" in --version) echo "QEMU emulator version 6.2.0"; exit ;; esac'
FAILS_TO_RESUME = 'case "$*" in *-incoming*) echo "no luck today" >&2; exit 1 ;; esac'
FAILS_TO_BOOT = 'case "$*" in *memory.raw*) echo "no luck today" >&2; exit 1 ;; esac'


def suspended_machine(world, *options):
    server = world.serve()
    a = world.host("a")
    a.init_repository(server.url)
    a.run("import", "work", support.guest_image(), "--memory", "256M")
    a.run("start", "work")
    console = a.console("work")
    console.wait(r"TICK \d+", count=3)
    a.run("suspend", "work", *options)
    return server, a, console


def expect_goes_on(host, before, checksum):
    console = host.console("work")
    console.wait(r"TICK \d+", count=2)
    support.expect_continuation(before, console)
    console.wait(f"MEM ok {checksum}")
    return console


def can_be_opened_for_writing(path):
    try:
        with path.open("r+b"):
            return True
    except OSError:
        return False


def checksum_of(console):
    return console.find("MEM filled (.*)")[0]


def test_memory_of_a_newer_qemu_is_refused_before_anything_is_taken_and_a_boot_is_offered(world):
    server, a, on_a = suspended_machine(world)
    checksum = checksum_of(on_a)
    b = world.host("b")
    b.replace_qemu(OLDER_QEMU)
    b.add_repository(server.url)
    refused = b.run("resume", "work", expect=16)
    expect("here is the older 6.2" in refused.err and "isr start work" in refused.err, f"a refusal says: {refused.err}")
    expect_equal(b.stat("work")["state"], "not checked out here", "the state after a refusal")
    a.run("resume", "work")  # the lock was not taken
    on_a = expect_goes_on(a, on_a, checksum)
    saved = a.run("suspend", "work", json=True)["version"]

    b.run("start", "work")
    b.console("work").wait(r"BOOT seq=\d+ bad=0 .*")
    b.run("--yes", "poweroff", "work")
    b.run("checkin", "work")
    a.run("--yes", "rollback", f"work@{saved}")  # the saved version still has its memory
    a.run("resume", "work")
    expect_goes_on(a, on_a, checksum)
    a.run("suspend", "work")


def test_a_resume_that_failed_changes_nothing_and_can_be_tried_again(world):
    server, a, on_a = suspended_machine(world, "--no-upload")
    checksum = checksum_of(on_a)
    a.run("suspend", "work")
    a.replace_qemu(FAILS_TO_RESUME)
    b = world.host("b")
    b.add_repository(server.url)
    b.replace_qemu(FAILS_TO_RESUME)
    failed = b.run("resume", "work", expect=16)
    expect("no luck today" in failed.err, f"why it failed is not said: {failed.err}")
    expect_equal(b.stat("work")["state"], "not checked out here", "the state after a failure")

    a.replace_qemu("")
    a.run("resume", "work")  # the lock was given back
    on_a = expect_goes_on(a, on_a, checksum)
    a.run("suspend", "work", "--no-upload")
    daemon = a.stat("work")["daemon_pid"]
    support.kill(daemon)  # the next daemon uses the other QEMU
    a.replace_qemu(FAILS_TO_RESUME)
    for _ in range(2):
        failed = a.run("resume", "work", expect=16)
        expect("no luck today" in failed.err, f"why it failed is not said: {failed.err}")
        expect_equal(a.stat("work")["state"], "suspended here", "the state after a failure")
    a.replace_qemu("")
    a.run("resume", "work")
    expect_goes_on(a, on_a, checksum)
    a.run("suspend", "work")


def test_a_start_that_failed_drops_no_memory(world):
    server, a, on_a = suspended_machine(world)
    checksum = checksum_of(on_a)
    a.replace_qemu(FAILS_TO_BOOT)
    failed = a.run("start", "work", "--yes", expect=16)  # gives the lock back
    expect("no luck today" in failed.err, f"why it failed is not said: {failed.err}")
    expect_equal(len(list(server.root.glob("parcels/*/heads/*"))), 2, "versions after a start that failed")
    a.replace_qemu("")
    a.run("resume", "work")
    on_a = expect_goes_on(a, on_a, checksum)
    a.run("suspend", "work", "--no-upload")
    support.kill(a.stat("work")["daemon_pid"])  # the next daemon uses the other QEMU
    a.replace_qemu(FAILS_TO_BOOT)
    a.run("start", "work", "--yes", expect=16)
    expect_equal(a.stat("work")["state"], "suspended here", "the state after a failure")
    support.kill(a.stat("work")["daemon_pid"])
    a.replace_qemu("")
    a.run("resume", "work")
    expect_goes_on(a, on_a, checksum)
    a.run("suspend", "work")


def test_an_interrupted_resume_leaves_the_machine_suspended(world):
    _, a, on_a = suspended_machine(world)
    go = world.folder / "go"
    a.replace_qemu(f'case "$*" in *-incoming*) while [ ! -e {go} ]; do sleep 0.1; done ;; esac')
    resume = a.start("resume", "work", stderr=subprocess.DEVNULL)
    support.wait_until(lambda: any("-incoming" in line for line in world.processes().values()), "QEMU starts")
    resume.send_signal(signal.SIGINT)
    expect_equal(resume.wait(timeout=60), 130, "the exit code of an interrupted resume")
    go.touch()
    support.wait_until(lambda: not a.stat("work").get("busy"), "the daemon has given it up")
    expect_equal(a.stat("work")["state"], "suspended here", "the state after an interrupted resume")
    a.run("resume", "work")
    expect_goes_on(a, on_a, checksum_of(on_a))
    a.run("suspend", "work")


def test_a_machine_that_waits_for_the_network_can_be_switched_off(world):
    server, _, _ = suspended_machine(world)
    b = world.host("b")
    b.add_repository(server.url)
    b.run("resume", "work", "--prefetch", "none")
    server.stop()
    support.wait_until(lambda: b.stat("work")["sources"]["waiting"], "somebody waits for what is not here", timeout=120)
    began = time.monotonic()
    b.run("--yes", "poweroff", "work", timeout=100)
    took = time.monotonic() - began
    expect(took < 60, f"switching it off took {took:.0f} s")  # reads of guest memory wait for the network for ever
    expect_equal(b.stat("work")["phase"], "checkedout", "the phase after a poweroff")
    server.start()
    b.run("checkin", "work")


def test_a_poweroff_drops_suspended_memory_and_nothing_else(world):
    server, a, on_a = suspended_machine(world, "--no-upload")
    a.run("poweroff", "work", expect=2)  # without --yes and without a terminal to ask on
    expect_equal(a.stat("work")["state"], "suspended here", "the state after a question")
    disk = pathlib.Path(a.stat("work")["mount"]) / "disk.raw"
    with disk.open("rb"):
        expect(not can_be_opened_for_writing(disk), "the disk below suspended memory can be written to")
    a.run("--yes", "poweroff", "work")
    expect_equal(a.stat("work")["phase"], "checkedout", "the phase after a poweroff")
    expect(can_be_opened_for_writing(disk), "the disk of a machine that is off cannot be written to")
    booted = a.run("resume", "work")
    expect("no saved memory: it boots" in booted.err, f"that it boots is not said: {booted.err}")
    seq = int(a.console("work").wait(r"BOOT seq=(\d+) bad=0 .*")[0])
    expect(seq >= on_a.flushed(), f"the disk has {seq}, {on_a.flushed()} was flushed")
    a.run("--yes", "poweroff", "work")
    a.run("checkin", "work")
    look = world.new_folder("look")
    a.run("mount", "work@latest", look)
    expect_equal(sorted(file.name for file in look.glob("*.raw")), ["disk.raw"], "what the version has")
    a.run("umount", look)
    expect(server.process.poll() is None, "the server has ended")


def test_memory_that_cannot_be_fetched_is_waited_for(world):
    server, _, on_a = suspended_machine(world)
    b = world.host("b")
    b.add_repository(server.url)
    b.run("resume", "work")
    server.stop()
    support.wait_until(lambda: b.stat("work")["sources"]["waiting"], "the guest wants what is not here", timeout=120)
    expect("WAITING" in b.run("stat", "work").out, "a person is not told")
    expect("vm" in b.stat("work"), "QEMU has died")
    server.start()
    on_b = b.console("work")
    on_b.wait(f"MEM ok {checksum_of(on_a)}")
    expect_equal(on_b.find("BOOT .*"), [], "boots instead of going on")
    b.run("suspend", "work")
    b.run("check", "work", "--deep")


def pages_in_use(world, host, version):
    look = world.new_folder("look")
    host.run("mount", f"work@{version}", look)
    blank, used = bytes(4096), 0
    with open(look / "memory.raw", "rb") as memory:
        while page := memory.read(4096):
            used += page != blank
    host.run("umount", look)
    return used


def test_memory_that_the_guest_has_freed_is_not_carried(world):
    a = world.host("a")
    a.init_repository(world.new_folder("repository"))
    a.run("import", "work", support.guest_image(), "--memory", "256M")
    a.run("start", "work")
    console = a.console("work")
    console.wait(r"TICK \d+")
    console.type("grab 80")
    console.wait(f"GRABBED {80 << 20}")
    full = pages_in_use(world, a, a.run("sync", "work", json=True)["version"])
    console.type("grab 0")
    console.wait("GRABBED 0")

    def smaller():  # the guest reports its free pages some seconds later
        used = pages_in_use(world, a, a.run("sync", "work", json=True)["version"])
        return used < full - (60 << 20) // 4096
    support.wait_until(smaller, "memory gets smaller", timeout=120)
    console.wait("MEM ok .*")
    a.run("suspend", "work")


if __name__ == "__main__":
    support.main(test_memory_of_a_newer_qemu_is_refused_before_anything_is_taken_and_a_boot_is_offered,
                 test_a_resume_that_failed_changes_nothing_and_can_be_tried_again,
                 test_a_start_that_failed_drops_no_memory,
                 test_an_interrupted_resume_leaves_the_machine_suspended,
                 test_a_machine_that_waits_for_the_network_can_be_switched_off,
                 test_a_poweroff_drops_suspended_memory_and_nothing_else,
                 test_memory_that_cannot_be_fetched_is_waited_for,
                 test_memory_that_the_guest_has_freed_is_not_carried)
