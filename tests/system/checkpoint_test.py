"""Tests `isr sync` of a running machine: it makes a version of memory and disks at one instant, which any host can resume."""
import support
import writing
from checkpoints import expect_resumes, set_up, sync, wait_for_more
from support import expect, expect_equal


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
    # After a loss of power the user goes back to the checkpoint.
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
                 test_after_a_crash_the_disks_are_newer_than_the_checkpoint_and_a_choice)
