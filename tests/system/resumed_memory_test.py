"""Tests memory of a resumed machine: each version that a sync or a suspend makes continues the machine."""
import support
from checkpoints import expect_resumes, set_up, sync, wait_for_more
from support import expect

# As before Linux 6.7: isr cannot track writes, so it copies all memory while the guest is paused.
OLD_KERNEL = f'exec python3 {support.PROJECT}/tests/support/refuse.py userfaultfd "$QEMU" "$@"'
PAGE = 4096


def pages_of(host, version):
    """Returns the pages of the version's memory."""
    look = host.world.new_folder(f"version {version}")
    host.run("mount", f"work@{version}", look)
    memory = (look / "memory.raw").read_bytes()
    host.run("umount", look)
    return [memory[at:at + PAGE] for at in range(0, len(memory), PAGE)]


def go_back_to(host, version, before, after, checksum):
    host.run("resume", f"work@{version}")
    expect_resumes(host, before, after, checksum)
    host.run("--yes", "poweroff", "work")
    host.run("--yes", "discard", "work")
    host.run("checkin", "work")


def versions_of_a_resumed_machine(world, mapping, qemu=""):
    """Runs a suspend, a failing sync, a sync and another suspend; each version must continue the machine of its moment."""
    server, a, console = set_up(world, mapping)
    checksum = console.find("MEM filled (.*)")[0]
    a.run("suspend", "work")
    a.replace_qemu(qemu)
    a.run("resume", "work")
    console = a.console("work")
    console.wait(r"TICK \d+", count=2)
    server.stop()
    a.run("sync", "work", expect=13)
    server.start()
    before = console.ticks()[-1]
    sync(a)
    after = console.ticks()[-1]
    wait_for_more(console, f"MEM ok {checksum}")
    a.run("suspend", "work")
    last = console.ticks()[-1]
    a.replace_qemu("")

    suspended, synced, later = (pages_of(a, version) for version in (2, 3, 4))
    zeros = bytes(PAGE)
    in_use = [i for i, page in enumerate(suspended) if page != zeros]
    for version, pages in ((3, synced), (4, later)):
        lost = sum(pages[i] == zeros for i in in_use)
        print(f"    {lost} of {len(in_use)} pages of version 2 are zeros in version {version}", flush=True)
        expect(lost < len(in_use) / 50, f"{lost} of {len(in_use)} pages of version 2 are zeros in version {version}")
    go_back_to(a, 3, before, after, checksum)
    go_back_to(a, 4, last - 1, last + 1, checksum)
    a.run("check", "work", "--deep")


def test_every_version_of_a_resumed_machine_is_that_machine(world):
    versions_of_a_resumed_machine(world, "private")


def test_every_version_is_that_machine_where_the_kernel_does_not_track_writes(world):
    versions_of_a_resumed_machine(world, "private", OLD_KERNEL)


def test_every_version_is_that_machine_when_its_memory_is_shared(world):
    versions_of_a_resumed_machine(world, "shared")


def test_a_guest_that_gives_memory_back_while_it_is_synced_keeps_the_rest(world):
    server, a, console = set_up(world, "private", memory="384M")
    checksum = console.find("MEM filled (.*)")[0]
    a.run("suspend", "work")
    a.run("resume", "work")
    console = a.console("work")
    console.wait(r"TICK \d+", count=2)
    for number in range(1, 7):
        console.type("borrow 64")
        before = console.ticks()[-1]
        sync(a)
        after = console.ticks()[-1]
        console.wait("BORROWED 64", count=number)
    wait_for_more(console, f"MEM ok {checksum}")
    a.run("--yes", "poweroff", "work")
    a.run("--yes", "discard", "work")
    a.run("resume", "work")
    expect_resumes(a, before, after, checksum)
    a.run("suspend", "work")
    a.run("check", "work", "--deep")


if __name__ == "__main__":
    support.main(test_every_version_of_a_resumed_machine_is_that_machine,
                 test_every_version_is_that_machine_where_the_kernel_does_not_track_writes,
                 test_every_version_is_that_machine_when_its_memory_is_shared,
                 test_a_guest_that_gives_memory_back_while_it_is_synced_keeps_the_rest)
