"""Kills `isr suspend` or its daemon at any moment, and tests that the same command, run again, completes.

ISR_TEST_ROUNDS=20 suspend_kill_test.py ISR   tries more random moments than CI has time for."""
import pathlib
import signal
import subprocess

import race_test
import support
import writing
from support import expect, expect_equal


def start_quietly(host, command):
    return host.start(command, "work", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_daemon_at_work(host, command, longest, chance):
    """Runs a command and kills the daemon while it works for it, or shortly after. Returns the command's exit code."""
    daemon = host.stat("work")["daemon_pid"]
    process = host.start(command, "work", "--progress", "plain", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    process.stderr.readline()  # the daemon's first line of progress
    writing.moment(chance, longest)
    support.kill(daemon)
    process.communicate(timeout=support.COMMAND_TIMEOUT)
    return process.returncode


def expect_chain(root, number):
    expect_equal([int(name) for name in race_test.names(root, "parcels/*/heads/*")], list(range(1, number + 1)), "heads")
    expect_equal(race_test.names(root, "parcels/*/forks/*/*"), [], "forks")


def set_up_disk(world, chance):
    server = world.serve()
    a = world.host("a")
    a.init_repository(server.url)
    image, content = writing.small_disk(world, chance)
    a.run("import", "work", image)
    return server, a, content


def change(a, content, chance):
    disk = writing.check_out(a, "work")
    writer = writing.Writer(disk, content, chance)
    writer.wait(100)
    writer.stop()


def expect_published(world, host, content):
    exported = world.folder / "export.raw"
    exported.unlink(missing_ok=True)
    host.run("export", "work", "--raw", exported)
    expect(exported.read_bytes() == content, "what was published is not what was written")


def interrupted_checkins(world, interrupted_checkin):
    chance = writing.chance()
    server, a, content = set_up_disk(world, chance)
    early = 0
    for number in range(1, writing.rounds(4) + 1):
        change(a, content, chance)
        early += interrupted_checkin(a, chance) != 0
        a.run("checkin", "work")
        expect_chain(server.root, 1 + number)
        expect_published(world, a, content)
    print(f"    {early} of {writing.rounds(4)} were interrupted in time", flush=True)
    a.run("check", "--deep")


def test_a_checkin_whose_command_is_killed_completes_when_repeated(world):
    def killed(host, chance):
        process = start_quietly(host, "checkin")
        writing.moment(chance, 1.2)
        process.kill()
        return process.wait()
    interrupted_checkins(world, killed)


def test_a_checkin_whose_daemon_is_killed_completes_when_repeated(world):
    interrupted_checkins(world, lambda host, chance: kill_daemon_at_work(host, "checkin", 0.15, chance))


def change_much(a, content, chance):
    """Writes so much that an upload takes some seconds at 1 MiB/s."""
    content[:3 << 20] = chance.randbytes(3 << 20)
    with open(writing.check_out(a, "work"), "r+b") as disk:
        disk.write(content[:3 << 20])


def interrupt_while_it_uploads(server, host, command, limit):
    """Interrupts a command during its upload. The command must end, and the daemon must go on with the work."""
    before = len(race_test.names(server.root, "objects/*/*"))
    process = host.start(command, "work", "--bwlimit", limit, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    support.wait_until(lambda: len(race_test.names(server.root, "objects/*/*")) > before, "an object is uploaded", every=0.01)
    process.send_signal(signal.SIGINT)
    expect_equal(process.wait(timeout=support.COMMAND_TIMEOUT), 130, "the exit code of an interrupted command")
    expect_equal(host.stat("work").get("busy"), command, "what the daemon is busy with after an interruption")


def test_a_checkin_that_is_repeated_while_the_interrupted_one_goes_on_says_that_it_is_done(world):
    chance = writing.chance()
    server, a, content = set_up_disk(world, chance)
    for command in ("checkin", "suspend", "stop"):
        change_much(a, content, chance)
        interrupt_while_it_uploads(server, a, "checkin", "600K")
        again = a.run(command, "work", "--progress", "plain")
        waited = "upload" in again.err if command == "checkin" else "wait for checkin" in again.err
        expect(waited or "nothing to do" in again.err, f"a command that waits for another one says: {again}")
        expect("nothing to do" in again.err or command != "checkin" or "as version" in again.out, f"it says: {again}")
        expect_equal(a.stat("work")["state"], "not checked out here", f"the state after {command}")
        expect_published(world, a, content)
    change_much(a, content, chance)
    interrupt_while_it_uploads(server, a, "checkin", "1M")
    refused = a.run("sync", "work", expect=10)
    expect("not checked out here" in refused.err, f"sync of what has just ended says: {refused}")
    expect_chain(server.root, 5)


def expect_goes_on(a, before):
    """Checks that the resumed machine continues. Returns its console."""
    after = a.console("work")
    after.wait(r"TICK \d+", count=2)
    support.expect_continuation(before, after)
    return after


def test_a_suspend_that_is_repeated_while_the_interrupted_one_goes_on_says_that_it_is_done(world):
    server, a = suspended_machine(world)
    before = a.console("work")
    before.wait(r"TICK \d+")
    interrupt_while_it_uploads(server, a, "suspend", "12M")
    again = a.run("suspend", "work", "--progress", "plain")
    expect("as version 2" in again.out or "nothing to do" in again.err, f"a suspend that was run again says: {again}")
    expect_equal(a.stat("work")["state"], "not checked out here", "the state after a suspend that was run again")
    expect_chain(server.root, 2)
    a.run("resume", "work")
    expect_goes_on(a, before)
    a.run("suspend", "work")


def test_a_resume_that_meets_an_interrupted_suspend_continues_what_that_published(world):
    server, a = suspended_machine(world)
    before = a.console("work")
    before.wait(r"TICK \d+")
    interrupt_while_it_uploads(server, a, "suspend", "12M")
    a.run("resume", "work")
    expect_chain(server.root, 2)
    expect_goes_on(a, before)
    a.run("suspend", "work")


def suspended_machine(world):
    server = world.serve()
    a = world.host("a")
    a.init_repository(server.url)
    a.run("import", "work", support.guest_image(), "--memory", "256M")
    a.run("start", "work")
    return server, a


def test_a_suspend_whose_command_is_killed_completes_when_repeated(world):
    chance = writing.chance()
    server, a = suspended_machine(world)
    before = a.console("work")
    before.wait(r"TICK \d+")
    for number in range(1, writing.rounds(2) + 1):
        process = start_quietly(a, "suspend")
        writing.moment(chance, 3.0)
        process.kill()
        process.wait()
        a.run("suspend", "work")
        expect_chain(server.root, 1 + number)
        before.close()
        a.run("resume", "work")
        before = expect_goes_on(a, before)
    before.wait("MEM ok .*")
    flushed = before.flushed()
    a.run("suspend", "work")
    exported = world.folder / "export.raw"
    a.run("export", "work", "--raw", exported)
    support.check_guest_disk(exported, flushed)
    a.run("check", "work", "--deep")


def test_a_suspend_whose_daemon_is_killed_while_uploading_completes_when_repeated(world):
    chance = writing.chance()
    server, a = suspended_machine(world)
    before = a.console("work")
    before.wait(r"TICK \d+")
    for number in range(1, writing.rounds(2) + 1):
        # Memory is durable on this host before the upload begins, so the whole machine goes on, not only its disks.
        a.run("suspend", "work", "--no-upload")
        kill_daemon_at_work(a, "suspend", 0.5, chance)
        a.run("suspend", "work")
        expect_chain(server.root, 1 + number)
        before.close()
        a.run("resume", "work")
        before = expect_goes_on(a, before)
    before.wait("MEM ok .*")
    a.run("suspend", "work")
    a.run("check", "work", "--deep")
    expect(not list(pathlib.Path(a.state).glob("*/*/parcels/*/journal")), "a session is left")


if __name__ == "__main__":
    support.main(test_a_checkin_whose_command_is_killed_completes_when_repeated,
                 test_a_checkin_that_is_repeated_while_the_interrupted_one_goes_on_says_that_it_is_done,
                 test_a_suspend_that_is_repeated_while_the_interrupted_one_goes_on_says_that_it_is_done,
                 test_a_resume_that_meets_an_interrupted_suspend_continues_what_that_published,
                 test_a_checkin_whose_daemon_is_killed_completes_when_repeated,
                 test_a_suspend_whose_command_is_killed_completes_when_repeated,
                 test_a_suspend_whose_daemon_is_killed_while_uploading_completes_when_repeated)
