"""Tests shared guest memory, which needs room on this host: a start checks the room, a running machine waits for it."""
import contextlib
import os
import subprocess

import support
from support import expect, expect_equal

MEMORY = "256M"
ROOM = "700m"  # for the memory and for the objects that a suspend seals


@contextlib.contextmanager
def small_volume(folder):
    """Mounts a small volume at the folder. Yields False when this user may not."""
    folder.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "none", folder], check=False).returncode == 0
    if not mounted:
        print("    skipped: only root can make a small volume", flush=True)
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", folder], check=False)


def fill(folder, but=0):
    """Fills the volume except for `but` bytes. Returns the file that does so."""
    filler = folder / "filler"
    room = os.statvfs(folder)
    left = room.f_bavail * room.f_frsize - but
    with open(filler, "wb", buffering=0) as file:
        for piece in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while but == 0 or left >= piece:
                    left -= file.write(bytes(piece))
    return filler


def waits_for(host):
    return host.stat("work")["memory_waits_for"]


def expect_waiting(host):
    why = support.wait_until(lambda: waits_for(host), "the guest waits for room", timeout=support.GUEST_TIMEOUT)
    expect("no space left" in why, f"the guest waits for {why}")


def test_memory_that_finds_no_room_waits_for_it_and_is_never_old(world):
    a = world.host("a")
    with small_volume(a.home / "state") as mounted:
        if not mounted:
            return
        server = world.serve()
        a.variables["ISR_VM_MEMORY"] = "shared"
        a.init_repository(server.url)
        a.run("import", "work", support.guest_image(), "--memory", MEMORY)

        filler = fill(a.home / "state", but=100 << 20)
        refused = a.run("start", "work", expect=18)
        expect("MiB free" in refused.err, f"start says: {refused.err}")
        filler.unlink()

        a.run("start", "work")
        console = a.console("work")
        filler = fill(a.home / "state")
        expect_waiting(a)
        said = a.run("stat", "work").out
        expect("WAITING  to write the guest's memory" in said, f"stat says: {said}")
        filler.unlink()
        support.wait_until(lambda: waits_for(a) == "", "memory is written")
        checksum = console.wait("MEM filled (.*)")[0]
        console.wait(f"MEM ok {checksum}")
        # The log is on the full volume, too, so only its last lines were certainly written.
        told = sum(log.read_text().count("all waiting writes are done") for log in a.daemon_logs())
        expect(1 <= told <= 10, f"it was told {told} times")
        a.run("suspend", "work")

        a.run("resume", "work")
        after = a.console("work")
        after.wait(f"MEM ok {checksum}")
        support.expect_continuation(console, after)

        # While a suspend waits for room, the machine can be switched off; that frees the room of its memory.
        # The kernel may have written everything back since the resume, so let the guest change more memory.
        after.type("grab 48")
        after.wait("GRABBED (.*)")
        filler = fill(a.home / "state", but=1 << 20)
        suspend = a.start("suspend", "work", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        expect_waiting(a)
        a.run("--yes", "poweroff", "work")
        expect(suspend.wait(timeout=support.COMMAND_TIMEOUT) != 0, "a suspend of a machine that was switched off says it was done")
        filler.unlink()
        expect_equal(a.stat("work")["phase"], "checkedout", "the phase")
        a.run("--yes", "discard", "work")
        a.run("resume", "work")
        last = a.console("work")
        last.wait(f"MEM ok {checksum}")
        a.run("suspend", "work")
        a.run("check", "work", "--deep")
        server.stop()


if __name__ == "__main__":
    support.main(test_memory_that_finds_no_room_waits_for_it_and_is_never_old)
