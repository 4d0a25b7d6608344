"""`isr sync` of a running machine: a version of its memory and disks at one instant, that any host can resume."""
import support
import writing
from support import expect, expect_equal


def set_up(world, mapping="auto", memory="256M"):
    server = world.serve()
    a = world.host("a")
    a.variables["ISR_VM_MEMORY"] = mapping
    a.init_repository(server.url)
    a.run("import", "work", support.guest_image(), "--memory", memory)
    a.run("start", "work")
    console = a.console("work")
    console.wait(r"TICK \d+", count=3)
    console.wait(r"DISK \d+", count=2)
    return server, a, console


def sync(host):
    done = host.run("sync", "work", json=True)
    print(f"    paused {done['paused_ms']:.1f} ms, {done['uploaded_bytes']} bytes uploaded", flush=True)
    return done


def wait_for_more(console, what, count=2):
    console.wait(what, count=len(console.find(what)) + count)


def expect_resumes(host, before, after, checksum):
    """The machine goes on from a moment between two ticks, and all of it is right."""
    console = host.console("work")
    console.wait(r"TICK \d+", count=2)
    expect_equal(console.find(r"BOOT .*"), [], "boots instead of going on")
    expect(before < console.ticks()[0] <= after + 1,
           f"goes on with {console.ticks()[0]}, the checkpoint was made between {before} and {after}")
    wait_for_more(console, f"MEM ok {checksum}")
    wait_for_more(console, "SECTORS ok")
    return console


def test_a_machine_that_was_lost_goes_on_elsewhere_from_its_last_sync(world):
    server, a, on_a = set_up(world)
    checksum = on_a.find("MEM filled (.*)")[0]
    before, flushed = on_a.ticks()[-1], on_a.flushed()
    said = a.run("sync", "work")
    after = on_a.ticks()[-1]
    expect("paused" in said.out and "uploaded" in said.out, f"sync says: {said.out}")
    expect_equal(a.stat("work")["phase"], "running", "the phase after a sync")
    wait_for_more(on_a, f"MEM ok {checksum}")
    wait_for_more(on_a, "SECTORS ok")
    expect_equal(on_a.ticks(), list(range(1, len(on_a.ticks()) + 1)), "the counter of a guest that was synced")
    writing.kill_daemon(a, "work")
    on_a.close()

    b = world.host("b")
    b.add_repository(server.url)
    look = world.new_folder("look")
    b.run("mount", "work@2", look)
    support.check_guest_disk(look / "disk.raw", flushed)
    b.run("umount", look)
    b.run("resume", "work", "--take-lock")
    on_b = expect_resumes(b, before, after, checksum)
    b.run("suspend", "work")
    exported = world.folder / "export.raw"
    b.run("export", "work", "--raw", exported)
    support.check_guest_disk(exported, max(flushed, on_b.flushed()))
    b.run("check", "work", "--deep")
    a.run("--yes", "discard", "work")
    a.run("checkin", "work", expect=None)


def test_a_second_sync_uploads_what_changed_and_a_suspend_what_changed_since(world):
    server, a, on_a = set_up(world)
    first, second = sync(a), sync(a)
    expect_equal((first["version"], second["version"]), (2, 3), "versions")
    expect(second["uploaded_bytes"] < first["uploaded_bytes"] / 2,
           f"uploaded {first['uploaded_bytes']} and then {second['uploaded_bytes']} bytes")
    suspended = a.run("suspend", "work", json=True)
    expect(suspended["uploaded_bytes"] < first["uploaded_bytes"] / 2,
           f"uploaded {first['uploaded_bytes']} and then {suspended['uploaded_bytes']} bytes")
    b = world.host("b")
    b.add_repository(server.url)
    b.run("resume", "work")
    on_b = b.console("work")
    on_b.wait(r"TICK \d+", count=2)
    support.expect_continuation(on_a, on_b)
    wait_for_more(on_b, "MEM ok " + on_a.find("MEM filled (.*)")[0])
    b.run("suspend", "work")
    b.run("check", "work", "--deep")


def test_a_sync_without_its_repository_leaves_the_machine_running(world):
    server, a, on_a = set_up(world)
    checksum = on_a.find("MEM filled (.*)")[0]
    server.stop()
    failed = a.run("sync", "work", expect=13)
    expect("nothing is lost" in failed.err, f"a failed sync says: {failed.err}")
    wait_for_more(on_a, f"MEM ok {checksum}")
    server.start()
    before = on_a.ticks()[-1]
    expect_equal(sync(a)["version"], 2, "the version")
    after = on_a.ticks()[-1]
    wait_for_more(on_a, f"MEM ok {checksum}")
    # Power goes, and the checkpoint is what one goes back to.
    a.run("--yes", "poweroff", "work")
    a.run("--yes", "discard", "work")
    a.run("resume", "work")
    expect_resumes(a, before, after, checksum)
    a.run("suspend", "work")
    a.run("check", "work", "--deep")


# As before Linux 6.7: nothing tells what is written, so that all is copied while the guest stands still.
OLD_KERNEL = f'exec python3 {support.PROJECT}/tests/support/refuse.py userfaultfd "$QEMU" "$@"'
PAGE = 4096


def pages_of(host, version):
    """Of its memory."""
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
    """A suspended one, a sync that fails, one that does not, another suspend: each of them is the machine of its moment."""
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


def test_after_a_crash_the_disks_are_newer_than_the_checkpoint_and_a_choice(world):
    _, a, on_a = set_up(world, "shared")
    checksum = on_a.find("MEM filled (.*)")[0]
    before = on_a.ticks()[-1]
    sync(a)
    after = on_a.ticks()[-1]
    wait_for_more(on_a, r"DISK \d+")
    writing.kill_daemon(a, "work")
    on_a.close()
    expect_equal(a.stat("work")["state"], "crashed", "the state")
    support.check_guest_disk(writing.check_out(a, "work"), on_a.flushed())
    a.run("--yes", "discard", "work")
    expect_equal(a.stat("work")["state"], "suspended here", "the state after discard")
    a.run("resume", "work")
    expect_resumes(a, before, after, checksum)
    a.run("--yes", "poweroff", "work")
    a.run("checkin", "work")


if __name__ == "__main__":
    support.main(test_a_machine_that_was_lost_goes_on_elsewhere_from_its_last_sync,
                 test_a_second_sync_uploads_what_changed_and_a_suspend_what_changed_since,
                 test_a_sync_without_its_repository_leaves_the_machine_running,
                 test_every_version_of_a_resumed_machine_is_that_machine,
                 test_every_version_is_that_machine_where_the_kernel_does_not_track_writes,
                 test_every_version_is_that_machine_when_its_memory_is_shared,
                 test_a_guest_that_gives_memory_back_while_it_is_synced_keeps_the_rest,
                 test_after_a_crash_the_disks_are_newer_than_the_checkpoint_and_a_choice)
