"""Tests network modes: the user chooses one at every start and resume, and the guest's memory continues with any."""
import itertools

import support
from support import expect, expect_equal

MODES = ("none", "restricted", "user")


def set_up(world):
    a = world.host("a")
    a.init_repository(world.new_folder("repository"))
    a.run("import", "work", support.guest_image(), "--memory", "256M")
    return a


def restricts(host):
    """Returns whether the running QEMU blocks the guest's way out."""
    pid = host.stat("work")["vm"]["pid"]
    with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
        network = next(word for word in file.read().split("\0") if word.startswith("user,"))
    expect("restrict=on" in network or "restrict=off" in network, f"its network: {network}")
    return "restrict=on" in network


def expect_network(host, run, mode):
    expect(f"network {mode}:" in run.err, f"what the guest can reach is not said: {run}")
    expect_equal(restricts(host), mode != "user", f"restricted with {mode}")


def test_a_new_machine_reaches_nothing_until_it_is_said(world):
    a = set_up(world)
    expect_network(a, a.run("start", "work"), "restricted")
    a.run("poweroff", "work", "--yes")
    expect_network(a, a.run("start", "work", "--network", "user", "--no-network"), "restricted")
    a.run("poweroff", "work", "--yes")
    expect_network(a, a.run("start", "work"), "user")  # --no-network applied to one start only
    a.run("poweroff", "work", "--yes")
    a.run("checkin", "work")
    expect_network(a, a.run("start", "work"), "user")  # the version keeps the mode
    a.run("poweroff", "work", "--yes")
    a.run("checkin", "work")
    a.run("create", "open", "--size", "1M", "--memory", "64M", "--network", "user")
    said = a.run("start", "open").err
    expect("network user:" in said, f"what create was told: {said}")
    a.run("poweroff", "open", "--yes")
    a.run("checkin", "open")
    disk = world.new_file("disk.raw")
    disk.write_bytes(bytes(1 << 20))
    for mode in ("none", "user"):
        a.run("import", mode, disk, "--memory", "64M", "--network", mode)
        said = a.run("start", mode).err
        expect(f"network {mode}:" in said, f"what import was told: {said}")
        a.run("poweroff", mode, "--yes")
        a.run("checkin", mode)


def test_suspended_memory_continues_with_any_network(world):
    a = set_up(world)
    a.run("start", "work", "--network", "none")
    console = a.console("work")
    console.wait(r"TICK \d+", count=2)
    # Try each mode after each other mode.
    way = ["restricted", "user", "none", "user", "restricted", "none"]
    expect_equal(sorted(itertools.pairwise(["none"] + way)), sorted(itertools.permutations(MODES, 2)), "changes")
    for mode in way:
        a.run("suspend", "work", "--no-upload")
        expect_network(a, a.run("resume", "work", "--network", mode), mode)
        continued = a.console("work")
        continued.wait(r"TICK \d+", count=2)
        support.expect_continuation(console, continued)
        support.wait_until(lambda: continued.cable()[0] == (mode != "none"), f"the cable is right with {mode}", every=0.5)
        console = continued
    a.run("suspend", "work")
    expect_network(a, a.run("resume", "work"), "none")
    a.run("poweroff", "work", "--yes")
    a.run("checkin", "work")


if __name__ == "__main__":
    support.main(test_a_new_machine_reaches_nothing_until_it_is_said, test_suspended_memory_continues_with_any_network)
