"""Tests locks: isr gives each lock back in all cases, and no lock is taken over or lost without a message."""
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time

import support
import writing
from support import expect, expect_equal

LEASE = 3


def two_hosts(world):
    server = world.serve()
    a, b = world.host("a"), world.host("b")
    a.init_repository(server.url)
    a.run("create", "work", "--size", "1M", "--memory", "64M")
    b.add_repository(server.url)
    return server, a, b


def lock_of(host):
    return host.run("lock", "show", "work", json=True)["locks"][0]


def row_of(host):
    return host.run("ls", "work", json=True)["parcels"][0]


def write(host, number):
    disk = next(iter(sorted((path for path in os.scandir(host.stat("work")["mount"]) if path.name.endswith(".raw")),
                            key=lambda path: path.name)))
    with open(disk.path, "r+b") as file:
        file.seek(4096 * number)
        file.write(bytes([number]) * 4096)
        file.flush()
        os.fsync(file.fileno())


def test_a_lock_that_could_not_be_given_back_is_remembered(world):
    server, a, b = two_hosts(world)
    a.run("checkout", "work")
    server.stop()
    told = a.run("checkin", "work")
    expect("given back when" in told.err, f"a checkin that could not give the lock back says so\n{told}")
    expect(a.run("stat", "work", json=True)["lock_due"], "stat says that the lock is due")
    expect(row_of(a)["lock_due"], "ls says that the lock is due")
    expect("lock here" in a.run("ls").out, "ls shows that the lock is here")
    a.run("checkin", "work")
    server.start()
    a.run("log", "work")
    expect_equal(lock_of(b)["state"], "free", "the lock after the next command")
    expect(not row_of(a)["lock_due"], "nothing is due")
    b.run("checkout", "work")
    b.run("checkin", "work")


def test_a_checkout_killed_at_any_moment_leaves_nothing_or_a_session(world):
    _, a, b = two_hosts(world)
    chance = writing.chance()
    for sign in (signal.SIGKILL, signal.SIGINT) * 4 * writing.rounds(1):
        moment = chance.uniform(0, 0.3)
        process = a.start("checkout", "work", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment)
        process.send_signal(sign)
        process.wait()
        support.wait_until(lambda: a.run("checkin", "work", expect=None).code == 0, "the parcel is given back")
        expect_equal(lock_of(b)["state"], "free", f"the lock after {sign.name} at {moment:.2f} s")
    b.run("checkout", "work")
    b.run("checkin", "work")


def test_a_lock_that_was_broken_here_is_no_conflict(world):
    _, a, b = two_hosts(world)
    a.run("checkout", "work")
    write(a, 1)
    a.run("lock", "break", "work", "--confirm", "work")
    a.run("sync", "work")
    b.run("checkout", "work", expect=11)
    a.run("lock", "break", "work", "--confirm", "work")
    a.run("checkout", "work")
    expect_equal(lock_of(a)["state"], "ours", "the lock after another look")
    write(a, 2)
    a.run("lock", "break", "work", "--confirm", "work")
    a.run("checkin", "work")
    expect_equal(row_of(b)["version"], 3, "versions")


@contextlib.contextmanager
def asleep(a, b):
    """Starts the machine on host a and stops its daemon. Yields once b sees the lease as expired; wakes the daemon at the
    end."""
    for host in (a, b):
        host.variables["ISR_LOCK_LEASE"] = str(LEASE)
    a.run("start", "work")
    daemon = a.stat("work")["daemon_pid"]
    support.stop_process(daemon)
    try:
        support.wait_until(lambda: lock_of(b)["state"] == "expired", "the lease runs out")
        yield
    finally:
        os.kill(daemon, signal.SIGCONT)


def test_a_lease_that_ran_out_is_not_taken_in_silence(world):
    _, a, b = two_hosts(world)
    with asleep(a, b):
        for command in ("resume", "start", "checkout"):
            refused = b.run("--no-input", command, "work", expect=11)
            expect("--take-lock" in refused.err and "last seen" in refused.err, f"who has it and the way on are said\n{refused}")
    support.wait_until(lambda: lock_of(b)["state"] == "held", "the sleeper renews its lease")
    a.run("poweroff", "work", "--yes")
    a.run("checkin", "work")


def test_a_host_that_comes_back_to_a_lost_lock_chooses(world):
    _, a, b = two_hosts(world)
    with asleep(a, b):
        b.run("start", "work", "--take-lock")
    support.wait_until(lambda: a.stat("work")["lock_lost"], "the sleeper notices")
    a.run("suspend", "work", "--no-upload")
    refused = a.run("resume", "work", expect=11)
    expect("taken over" in refused.err and "--take-lock" in refused.err, f"what happened and the choices are said\n{refused}")
    expect("once" in refused.err, f"the other can be had only when its host has given it back\n{refused}")
    expect(a.stat("work")["upload_due"], "the session is kept")
    a.run("resume", "work", "--take-lock")
    support.wait_until(lambda: b.stat("work")["lock_lost"], "the other host notices")
    a.run("suspend", "work")
    b.run("suspend", "work", "--no-upload")
    passed = b.run("resume", "work", expect=15)
    expect("has published version 2" in passed.err and "--take-lock" in passed.err, f"the choices are said\n{passed}")
    b.run("suspend", "work", expect=17)


def test_a_lock_that_is_lost_while_a_machine_starts_keeps_its_guest_from_running(world):
    _, a, b = two_hosts(world)
    a.run("checkout", "work")
    write(a, 1)
    begun, may_go_on = world.folder / "begun", world.folder / "may-go-on"
    a.replace_qemu(f'case "$*" in *qmp*) touch {begun}; while [ ! -e {may_go_on} ]; do sleep 0.1; done;; esac')
    writing.kill_daemon(a, "work")  # the next daemon uses this QEMU
    process = a.start("start", "work", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    support.wait_until(begun.exists, "QEMU is started")
    b.run("checkout", "work", "--take-lock")
    may_go_on.touch()
    said = process.communicate(timeout=support.COMMAND_TIMEOUT)
    expect_equal(process.returncode, 11, f"the exit code of a start whose lock was taken meanwhile: {said}")
    expect(b"taken over" in said[1], f"what happened is not said: {said}")
    stat = a.stat("work")
    expect_equal((stat["state"], "vm" in stat), ("checked out", False), "the session, and no guest")
    a.run("checkin", "work", expect=17)
    expect_equal(lock_of(b)["state"], "ours", "the other host's lock")
    b.run("checkin", "work")


def test_a_lease_that_ran_out_is_taken_when_the_user_agrees(world):
    """Also follows the hint that the host with the lost lock gets, and so takes the other's work."""
    _, a, b = two_hosts(world)
    with asleep(a, b):
        before, holder = lock_of(b), socket.gethostname().lower().encode()
        for answer, code, state in ((b"n", 130, "expired"), (b"y", 0, "ours")):
            talk = [(b"Password", support.PASSWORD.encode() + b"\n"), (b"[y/N]", answer + b"\n")]
            exit_code, screen = support.on_terminal(b, ("checkout", "work"), talk)
            expect_equal(exit_code, code, f"the exit code after {answer}: {screen}")
            question = screen[:screen.index("[y/N]")]
            expect(holder.decode() in question and re.search(r"last seen (\d+ \w+ ago|just now)", question),
                   f"who has it and how old that is are not asked: {screen}")
            expect_equal(lock_of(b)["state"], state, f"the lock after {answer}")
            if answer == b"n":
                expect_equal(lock_of(b)["host"], before["host"], "the holder")
    support.wait_until(lambda: a.stat("work")["lock_lost"], "the sleeper notices")
    a.run("suspend", "work", "--no-upload")
    refused = a.run("resume", "work", expect=11)
    (hint,) = [line for line in refused.err.splitlines() if "to take the other" in line]
    *commands, last = re.findall(r"isr (\w+) work", hint)
    expect_equal(last, "resume", f"the last command of '{hint}'")
    for command in commands:
        a.run("--yes", command, "work")
    expect_equal(a.stat("work")["state"], "not checked out here", f"the state after {commands}")
    expect_equal(lock_of(b)["state"], "ours", "the other host's lock")
    write(b, 2)
    b.run("checkin", "work")
    a.run("resume", "work")
    expect_equal(a.stat("work")["version"], 2, "the version that the host which gave in has")
    a.run("poweroff", "work", "--yes")
    a.run("checkin", "work")


def daemon_lives(host):
    return "daemon_pid" in host.stat("work")


def test_a_command_that_is_refused_leaves_no_daemon_and_no_other_command_notices(world):
    _, a, b = two_hosts(world)
    a.run("checkout", "work")
    write(a, 1)
    writing.kill_daemon(a, "work")
    b.run("checkout", "work", "--take-lock")
    a.run("checkout", "work", expect=11)
    support.wait_until(lambda: not daemon_lives(a), "the daemon of the refused checkout ends")
    expect(not world.processes(a.home), "processes are left")
    several = [a.start("checkout", "work", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(4)]
    for process in several:
        said = process.communicate(timeout=support.COMMAND_TIMEOUT)[1]
        expect_equal(process.returncode, 11, f"the exit code of one of several: {said}")
    a.run("checkout", "work", "--take-lock")
    a.run("checkout", "work")
    expect(daemon_lives(a), "the daemon of a session that has its lock stays")
    b.run("checkin", "work")
    a.run("checkin", "work")
    expect_equal(row_of(b)["version"], 2, "the version with what was written before the refusal")


def copy_of(world, host):
    """Makes a host with a copy of another host's home directory. The daemon of the original goes on."""
    copy = world.host("copy")
    for folder in ("config", "state"):
        shutil.copytree(host.home / folder, copy.home / folder)
    return copy


def test_a_copy_of_the_home_directory_is_another_host(world):
    _, a, b = two_hosts(world)
    a.run("checkout", "work")
    write(a, 1)
    copy = copy_of(world, a)
    for command in ("checkout", "checkin", "resume"):
        refused = copy.run(command, "work", expect=11)
        expect("this one was copied" in refused.err and "--take-lock" in refused.err, f"what it may be is said\n{refused}")
    expect_equal(lock_of(a)["state"], "ours", "the lock of the original")
    copy.run("discard", "work", "--yes")  # discards the copy's own changes; it has a daemon of its own
    a.run("checkin", "work")
    expect_equal(row_of(b)["version"], 2, "the version with what the original wrote")
    copy.run("checkin", "work")


def test_a_copy_under_the_same_runtime_directory_does_not_reach_the_daemon_of_the_original(world):
    _, a, b = two_hosts(world)
    a.run("checkout", "work")
    write(a, 1)
    shutil.copytree(a.home / "state", a.home / "other")
    original = a.environment()["XDG_STATE_HOME"]
    a.variables["XDG_STATE_HOME"] = str(a.home / "other")
    for command in (("discard", "work", "--yes"), ("checkin", "work"), ("suspend", "work"), ("resume", "work")):
        refused = a.run(*command, expect=16)
        expect("another state directory" in refused.err, f"where it is in use is said\n{refused}")
    a.variables["XDG_STATE_HOME"] = original
    a.run("checkin", "work")
    expect_equal(row_of(b)["version"], 2, "the version with what the original wrote")


def test_of_two_copies_one_publishes(world):
    _, a, b = two_hosts(world)
    a.run("checkout", "work")
    write(a, 1)
    copy = copy_of(world, a)
    copy.run("checkout", "work", "--take-lock")
    kept = a.run("checkin", "work", expect=17)
    expect("has taken over" in kept.err, f"the original is told that it has the lock no more\n{kept}")
    copy.run("checkin", "work")
    expect_equal(row_of(b)["version"], 2, "versions")
    expect_equal(lock_of(b)["state"], "free", "the lock in the end")


def move_state(host):
    moved = host.home / f"moved{len(list(host.home.glob('moved*')))}"
    os.rename(host.environment()["XDG_STATE_HOME"], moved)
    host.variables["XDG_STATE_HOME"] = str(moved)
    host.state = moved / "isr"


def test_a_moved_state_directory_publishes_what_it_has(world):
    _, a, b = two_hosts(world)
    a.run("checkout", "work")
    write(a, 1)
    writing.kill_daemon(a, "work")
    move_state(a)
    refused = a.run("checkin", "work", expect=11)
    expect("--take-lock" in refused.err, f"the way on is said\n{refused}")
    a.run("checkin", "work", "--take-lock")
    expect_equal(lock_of(b)["state"], "free", "the lock in the end")
    expect_equal(row_of(b)["version"], 2, "versions")

    a.run("checkout", "work")
    writing.kill_daemon(a, "work")
    move_state(a)
    told = a.run("checkin", "work")
    expect("isr lock break work" in told.err, f"that the lock stays is said\n{told}")
    expect_equal(lock_of(b)["state"], "held", "the lock of the moved session")
    expect(a.run("stat", "work", json=True)["lock_due"], "the lock is not forgotten")
    a.run("lock", "break", "work", "--confirm", "work")
    a.run("ls")
    expect(not a.run("stat", "work", json=True)["lock_due"], "nothing is due once it is free")
    b.run("checkout", "work")
    b.run("checkin", "work")


if __name__ == "__main__":
    support.main(test_a_lock_that_could_not_be_given_back_is_remembered,
                 test_a_checkout_killed_at_any_moment_leaves_nothing_or_a_session,
                 test_a_lock_that_was_broken_here_is_no_conflict,
                 test_a_lease_that_ran_out_is_not_taken_in_silence,
                 test_a_host_that_comes_back_to_a_lost_lock_chooses,
                 test_a_lock_that_is_lost_while_a_machine_starts_keeps_its_guest_from_running,
                 test_a_lease_that_ran_out_is_taken_when_the_user_agrees,
                 test_a_command_that_is_refused_leaves_no_daemon_and_no_other_command_notices,
                 test_a_copy_of_the_home_directory_is_another_host,
                 test_a_copy_under_the_same_runtime_directory_does_not_reach_the_daemon_of_the_original,
                 test_of_two_copies_one_publishes,
                 test_a_moved_state_directory_publishes_what_it_has)
