"""Tests commands that are interrupted by keys, a closed terminal, a reader that leaves, or a stop.

Each command ends at once with the usual exit code, and the same command succeeds when it is run again."""
import json
import os
import signal
import socket
import subprocess
import threading
import time

import support
import writing
from support import expect, expect_equal


def set_up(world):
    a = world.host("a")
    a.init_repository(world.new_folder("repository"))
    image, _ = writing.small_disk(world, writing.chance(), size=1 << 20)
    a.run("import", "work", image)
    return a, image


def commands(world, image):
    """Yields commands in an order in which each has something to do. Commands that create something use a new name each
    time."""
    yield from (("ls",), ("log", "work"), ("repo", "ls"), ("repo", "info"), ("config", "show"), ("check", "--deep"),
                ("lock", "ls"), ("lock", "show", "work"), ("checkout", "work"), ("stat", "work"), ("sync", "work"),
                ("discard", "work", "--yes"), ("checkin", "work"), ("rollback", "work@1", "--yes"), ("login",), ("logout",),
                ("version",), ("--help",))
    made = world.new_folder("made")
    yield "import", f"i{made.suffix[1:]}", image
    yield "create", f"c{made.suffix[1:]}", "--size", "1M"
    yield "export", "work", "--raw", made / "export"
    yield "mount", "work", world.new_folder("mount")


def expect_made(host, command):
    """Checks that the result of a command exists, after a repeated command said so."""
    if command[0] == "mount":
        expect(os.path.ismount(command[-1]), f"nothing is mounted, and {command} says that it is")
    else:
        listed = [parcel["name"] for parcel in host.run("--json", "ls").json["parcels"]]
        expect(command[1] in listed, f"{command[1]} is in no list, and {command} says that it exists")
        host.run("log", command[1])


def end_mount(host, command):
    if command[0] == "mount":
        host.run("umount", command[-1], expect=(0, 10))


def test_a_reader_that_leaves_ends_every_command_quietly(world):
    a, image = set_up(world)
    for command in commands(world, image):
        reading, closed = os.pipe()
        os.close(reading)
        process = a.start(*command, stdout=closed, stderr=subprocess.PIPE, text=True)
        os.close(closed)
        said = process.communicate(timeout=support.COMMAND_TIMEOUT)[1]
        expect_equal(process.returncode, -signal.SIGPIPE, f"exit code of {command}, which said {said}")
        expect("isr: " not in said, f"{command} complains: {said}")
        end_mount(a, command)
    a.run("checkin", "work")


def test_every_command_ends_on_a_signal_and_runs_again(world):
    chance = writing.chance()
    a, image = set_up(world)
    interrupted = 0
    for _ in range(writing.rounds(1)):
        for command in commands(world, image):
            number = chance.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
            process = a.start(*command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            writing.moment(chance, 0.4)
            process.send_signal(number)
            said = process.communicate(timeout=support.COMMAND_TIMEOUT)[1]
            # Before isr installs its handlers, and after it removes them, the signal itself ends the process.
            expect(process.returncode in (0, 130, -number), f"exit {process.returncode} of {command}: {said}")
            interrupted += process.returncode != 0
            if process.returncode != 0:
                # The signal may have come after the work was done; then the result exists already.
                again = a.run(*command, expect=(0, 2) if command[0] in ("import", "create", "mount") else 0)
                if again.code == 2:
                    expect_made(a, command)
            end_mount(a, command)
    print(f"    {interrupted} were interrupted in time", flush=True)
    a.run("checkin", "work")
    a.run("check", "--deep")


def test_a_qcow2_export_that_ends_early_leaves_nothing(world):
    a, image = set_up(world)
    made = world.new_folder("made")
    disk = made / "disk.qcow2"
    a.replace_qemu("echo no space here >&2; exit 1", "qemu-img")
    said = a.run("export", "work", "--qcow2", disk, expect=18).err
    expect("no space here" in said, f"it does not say why: {said}")
    expect_equal(os.listdir(made), [], "files after a failure")
    begun = world.folder / "begun"
    a.replace_qemu(f"touch {begun}; sleep 600", "qemu-img")
    process = a.start("export", "work", "--qcow2", disk, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    support.wait_until(begun.exists, "qemu-img runs", 30)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=support.COMMAND_TIMEOUT)[1]
    expect_equal(process.returncode, 130, f"exit code of an interrupted export, which said {said}")
    expect_equal(os.listdir(made), [], "files after an interruption")
    a.replace_qemu("", "qemu-img")
    a.run("export", "work", "--qcow2", disk)
    expect_equal(os.listdir(made), [disk.name], "files after an export")
    raw = made / "disk.raw"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, raw], check=True)
    expect(support.same_bytes(raw, image), "the export became another disk")


def test_an_interrupted_init_never_loses_the_recovery_key(world):
    chance = writing.chance()
    host = world.host("a")

    def init(name, key):
        return "repo", "init", world.folder / f"root-{name}", "--user", "alice", "--name", name, "--recovery-file", key

    host.run(*init("wrong", world.folder / "absent" / "key"), expect=18)
    host.run(*init("wrong", world.folder / "key"))
    for number in range(writing.rounds(6)):
        name, key = f"r{number}", world.folder / f"key{number}"
        process = host.start(*init(name, key), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        writing.moment(chance, 0.9)
        process.kill()
        process.wait()
        partial = key.with_name(key.name + ".partial")
        if not list((world.folder / f"root-{name}").glob("users/*/*")):
            host.run(*init(name, key))
            expect(key.exists() and not partial.exists(), "the recovery key is not where it was wanted")
        expect(key.exists() or partial.exists(), "a user without a recovery key")


def test_a_command_that_was_stopped_finds_its_answer_when_it_goes_on(world):
    a, _ = set_up(world)
    writing.check_out(a, "work")
    path = next((a.runtime / "isr" / "ctl").iterdir())
    path.rename(path.with_name("real"))
    asked, stopped = threading.Event(), threading.Event()
    golden = support.PROJECT / "tests" / "golden" / "control" / "answer-status.json"
    status = {**json.loads(golden.read_text()), "last_event": "answered"}

    def answer(listener):
        while True:  # a connection without a request only tests whether the daemon listens
            peer = listener.accept()[0]
            if peer.recv(4096):
                break
            peer.close()
        with listener, peer:
            peer.sendall(b'{"type":"accepted"}\n')
            asked.set()
            stopped.wait(60)
            peer.sendall(b'{"type":"alive"}\n' + json.dumps({**status, "type": "result"}).encode() + b"\n")

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    thread = threading.Thread(target=answer, args=(listener,))
    thread.start()
    try:
        process = a.start("stat", "work", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        expect(asked.wait(60), "the daemon was not asked")
        process.send_signal(signal.SIGSTOP)
        stopped.set()
        thread.join()
        time.sleep(5)  # longer than a daemon may be silent; the test needs this time to pass
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=60)
        expect(process.returncode == 0 and "answered" in out, f"exit {process.returncode}: {out}{err}")
    finally:
        path.unlink()
        path.with_name("real").rename(path)
    a.run("checkin", "work")


def test_a_stop_is_given_up_by_an_interruption_and_the_guest_goes_on(world):
    a = world.host("a")
    a.init_repository(world.new_folder("repository"))
    a.run("create", "work", "--size", "1M", "--memory", "64M")  # no operating system, so nothing reacts to the power button
    a.run("start", "work")
    process = a.start("stop", "work", "--progress", "plain", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    expect("guest shuts down" in process.stderr.readline(), "it does not say what it waits for")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=support.COMMAND_TIMEOUT)[1]
    expect_equal(process.returncode, 130, f"exit code of an interrupted stop, which said {said}")
    expect("was asked to shut down" in said and "isr suspend work" in said, f"an interrupted stop says: {said}")
    status = a.stat("work")
    expect_equal((status["phase"], status["busy"]), ("running", ""), "what is going on after an interrupted stop")
    a.run("suspend", "work", "--no-upload")
    a.run("poweroff", "work", "--yes")
    a.run("checkin", "work")


if __name__ == "__main__":
    support.main(test_a_reader_that_leaves_ends_every_command_quietly, test_every_command_ends_on_a_signal_and_runs_again,
                 test_a_qcow2_export_that_ends_early_leaves_nothing,
                 test_an_interrupted_init_never_loses_the_recovery_key,
                 test_a_stop_is_given_up_by_an_interruption_and_the_guest_goes_on,
                 test_a_command_that_was_stopped_finds_its_answer_when_it_goes_on)
