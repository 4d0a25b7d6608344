"""Tests a session daemon that is told to end, as at a log-out or shutdown: it suspends its machine on this host, and the
machine goes on later."""
import os
import signal
import subprocess
import time

import support
import writing
from support import expect, expect_equal


def set_up(world):
    server = world.serve()
    a = world.host("a")
    a.init_repository(server.url)
    a.run("import", "work", support.guest_image(), "--memory", "256M")
    return server, a


def started(world):
    server, a = set_up(world)
    a.run("start", "work")
    console = a.console("work")
    console.wait(r"TICK \d+", count=2)
    return server, a, console


def gone(pid, timeout=100):
    support.wait_until(lambda: not os.path.exists(f"/proc/{pid}"), f"the end of process {pid}", timeout)


def tell(*pids):
    for pid in pids:
        os.kill(pid, signal.SIGTERM)


def expect_suspended_here(host):
    status = host.stat("work")
    expect_equal((status["state"], status["upload_due"]), ("suspended here", True), "state")
    said = host.run("stat", "work").out
    expect("suspended here" in said and "isr suspend work" in said, f"what is to do is not said: {said}")
    expect_equal([p["state"] for p in host.run("ls", json=True)["parcels"]], ["suspended here"], "state in ls")


def expect_goes_on(host, before):
    host.run("resume", "work")
    after = host.console("work")
    after.wait(r"TICK \d+", count=2)
    support.expect_continuation(before, after)
    return after


def test_a_machine_whose_daemon_is_told_to_end_is_suspended_here(world):
    _, a, console = started(world)
    a.run("sync", "work")  # the synced version needs no upload, the suspend after it does
    for _ in range(2):
        status = a.stat("work")
        # At a log-out each process of the login session gets the signal, QEMU too.
        os.kill(status["vm"]["pid"], signal.SIGHUP)
        tell(status["vm"]["pid"], status["daemon_pid"])
        gone(status["daemon_pid"])
        gone(status["vm"]["pid"])
        expect_equal(world.mounts(), [], "mounts")
        expect_suspended_here(a)
        console = expect_goes_on(a, console)
    console.wait("MEM ok .*")
    flushed = console.flushed()
    a.run("suspend", "work")
    expect_equal(a.stat("work")["upload_due"], False, "an upload to do")
    exported = world.folder / "export.raw"
    a.run("export", "work", "--raw", exported)
    support.check_guest_disk(exported, flushed)


def start_slow_upload(host, command):
    """Starts a command. Once its upload has begun, returns the command and its output until then."""
    host.variables["ISR_UPLOAD_LIMIT"] = "100K"
    process = host.start(command, "work", "--progress", "plain", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = ""
    while "upload" not in said:
        line = process.stderr.readline()
        expect(line, f"no upload: {said}")
        said += line
    return process, said


def test_a_daemon_that_is_told_to_end_while_it_uploads_leaves_a_suspended_machine(world):
    server, a, console = started(world)
    # Try it during the upload of a sync, while the guest runs, and during that of a suspend.
    for command in ("sync", "suspend"):
        daemon = a.stat("work")["daemon_pid"]
        process, said = start_slow_upload(a, command)
        tell(daemon)
        said += process.communicate(timeout=support.COMMAND_TIMEOUT)[1]
        expect_equal(process.returncode, 130, f"exit code of {command}, which said {said}")
        expect("not uploaded" in said and "nothing is lost" in said, f"what is safe is not said: {said}")
        gone(daemon)
        expect_suspended_here(a)
        a.variables["ISR_UPLOAD_LIMIT"] = "0"
        console = expect_goes_on(a, console)
    a.run("suspend", "work")
    expect_equal(len(list(server.root.glob("parcels/*/heads/*"))), 2, "versions")
    expect_goes_on(a, console)
    a.run("poweroff", "work", "--yes")
    a.run("checkin", "work")


def test_a_daemon_that_is_told_to_end_while_nothing_answers_leaves_a_suspended_machine(world):
    server, a, console = started(world)
    for command in ("sync", "suspend"):
        daemon = a.stat("work")["daemon_pid"]
        process, said = start_slow_upload(a, command)
        support.stop_process(server.process.pid)  # the kernel accepts connections, but the server does not answer
        try:
            time.sleep(3)  # long enough that an upload waits for its answer
            tell(daemon)
            said += process.communicate(timeout=support.COMMAND_TIMEOUT)[1]
            gone(daemon)
        finally:
            server.process.send_signal(signal.SIGCONT)
        expect_equal(process.returncode, 130, f"exit code of {command}, which said {said}")
        expect_suspended_here(a)
        a.variables["ISR_UPLOAD_LIMIT"] = "0"
        console = expect_goes_on(a, console)
    a.run("suspend", "work")
    expect_goes_on(a, console)
    a.run("poweroff", "work", "--yes")
    a.run("checkin", "work")


def test_a_daemon_that_is_told_to_end_while_it_resumes_leaves_a_suspended_machine(world):
    chance = writing.chance()
    _, a, console = started(world)
    a.run("suspend", "work", "--no-upload")
    last = console.ticks()[-1]
    given_up = 0
    for _ in range(writing.rounds(3)):
        a.run("checkout", "work")
        daemon = a.stat("work")["daemon_pid"]
        process = a.start("resume", "work", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        writing.moment(chance, 2.5)
        tell(daemon)
        expect(process.wait(timeout=support.COMMAND_TIMEOUT) in (0, 13, 20, 130), f"exit code {process.returncode}")
        given_up += process.returncode != 0
        gone(daemon)
        status = a.stat("work")
        if status["state"] == "running":
            # The command reached a daemon that was about to end, and began again with another one.
            expect_equal(process.returncode, 0, f"exit code of a resume after which {status}")
            expect(status["daemon_pid"] != daemon, f"a daemon that was told to end lives: {status}")
            tell(status["daemon_pid"])
            gone(status["daemon_pid"])
        expect_suspended_here(a)
    print(f"    {given_up} of {writing.rounds(3)} did not run", flush=True)
    a.run("resume", "work")
    after = a.console("work")
    after.wait(r"TICK \d+", count=2)
    expect(after.find(r"BOOT .*") == [] and after.ticks()[0] > last, f"it did not go on: {after.ticks()} after {last}")
    a.run("poweroff", "work", "--yes")
    a.run("checkin", "work")


def test_a_second_signal_ends_a_daemon_that_cannot_suspend_and_keeps_the_disks(world):
    _, a, console = started(world)
    console.wait(r"DISK \d+")
    flushed = console.flushed()
    status = a.stat("work")
    support.stop_process(status["vm"]["pid"])
    tell(status["daemon_pid"])
    support.wait_until(lambda: "was told to end" in a.daemon_logs()[0].read_text(), "it has heard")
    expect(os.path.exists(f"/proc/{status['daemon_pid']}"), "it did not try")
    tell(status["daemon_pid"])
    gone(status["daemon_pid"], 10)
    gone(status["vm"]["pid"])
    expect_equal(a.stat("work")["state"], "crashed", "state")
    a.run("checkin", "work")
    exported = world.folder / "export.raw"
    a.run("export", "work", "--raw", exported)
    support.check_guest_disk(exported, flushed)


def test_a_daemon_that_is_told_to_end_while_it_suspends_leaves_a_suspended_machine(world):
    chance = writing.chance()
    _, a, console = started(world)
    asked = 0
    for _ in range(writing.rounds(3)):
        daemon = a.stat("work")["daemon_pid"]
        process = a.start("suspend", "work", "--no-upload", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        writing.moment(chance, 1.5)
        tell(daemon)
        expect(process.wait(timeout=support.COMMAND_TIMEOUT) in (0, 20, 130), f"exit code {process.returncode}")
        asked += process.returncode != 20
        gone(daemon)
        expect_suspended_here(a)
        console = expect_goes_on(a, console)
    print(f"    {asked} of {writing.rounds(3)} commands were under way", flush=True)
    a.run("poweroff", "work", "--yes")
    a.run("checkin", "work")


def test_a_shutdown_that_logind_announces_waits_until_the_machine_is_suspended(world):
    _, a = set_up(world)
    holds, begins = world.folder / "holds", world.folder / "begins"
    a.replace_qemu(f"""echo "$@" >{holds}
while [ ! -e {begins} ]; do sleep 0.1; done
echo '/org/freedesktop/login1: org.freedesktop.login1.Manager.PrepareForShutdown (true,)'
exec sleep 600""", "systemd-inhibit")
    a.run("start", "work")
    console = a.console("work")
    console.wait(r"TICK \d+", count=2)
    shown = support.wait_until(lambda: holds.exists() and holds.read_text(), "a shutdown is delayed")
    expect("--what=shutdown --mode=delay" in shown, f"what is delayed: {shown}")
    expect(" work " not in shown, f"every user of the host is shown the parcel's name: {shown}")
    daemon = a.stat("work")["daemon_pid"]
    begins.touch()
    gone(daemon)
    expect_suspended_here(a)
    begins.unlink()
    expect_goes_on(a, console)
    a.run("poweroff", "work", "--yes")
    a.run("checkin", "work")


if __name__ == "__main__":
    support.main(test_a_machine_whose_daemon_is_told_to_end_is_suspended_here,
                 test_a_daemon_that_is_told_to_end_while_it_uploads_leaves_a_suspended_machine,
                 test_a_daemon_that_is_told_to_end_while_nothing_answers_leaves_a_suspended_machine,
                 test_a_daemon_that_is_told_to_end_while_it_resumes_leaves_a_suspended_machine,
                 test_a_daemon_that_is_told_to_end_while_it_suspends_leaves_a_suspended_machine,
                 test_a_second_signal_ends_a_daemon_that_cannot_suspend_and_keeps_the_disks,
                 test_a_shutdown_that_logind_announces_waits_until_the_machine_is_suspended)
