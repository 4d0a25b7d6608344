"""Tests that reads which wait for an unreachable repository hold up no work that does not need it."""
import contextlib
import mmap
import os
import signal
import subprocess
import threading
import time

import support
import writing
from support import expect, expect_equal, wait_until

CHUNK = 128 << 10
READS = 150  # more than FUSE's default limit of background requests, and than QEMU's threads for its disks


def test_who_waits_for_a_repository_without_an_answer_is_told(world):
    server = world.serve()
    a = world.host("a")
    link = support.Link(world, server.port, "--rate", "8Mbit")
    a.init_repository(link.url)
    a.run("create", "work", "--size", "16M", "--memory", "64M")
    with open(writing.check_out(a, "work"), "r+b") as disk:
        disk.write(os.urandom(8 << 20))
    said = {name: world.new_file(name) for name in ("sync", "log", "suspend")}

    def start(name):
        with open(said[name], "wb") as err:
            return a.start(name, "work", stdout=err, stderr=err)

    def tells(name, text):
        wait_until(lambda: text in said[name].read_text(), f"{name} says '{text}'")

    processes = [start("sync")]
    tells("sync", "upload")
    with paused(server):
        processes.append(start("log"))
        for name in ("sync", "log"):
            tells(name, "no answer from home for 1")
    for process in processes:
        expect_equal(process.wait(60), 0, "exit code once the repository answers")
    with open(writing.check_out(a, "work"), "r+b") as disk:
        disk.write(os.urandom(8 << 20))
    suspend = start("suspend")
    tells("suspend", "upload")
    with paused(server):
        tells("suspend", "no answer from home for 1")
    expect_equal(suspend.wait(60), 0, "exit code of suspend once the repository answers")
    expect_equal(a.stat("work")["state"], "not checked out here", "the state after suspend")


def test_an_interrupted_checkout_of_a_repository_without_an_answer_ends_and_keeps_no_lock(world):
    chance = writing.chance()
    server = world.serve()
    a, b = world.host("a"), world.host("b")
    a.init_repository(server.url)
    a.run("create", "work", "--size", "16M", "--memory", "64M")
    b.add_repository(server.url)
    codes = []
    for command in ("checkout", "start") * writing.rounds(3):
        process = a.start(command, "work", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        writing.moment(chance, 1.0)
        with paused(server):
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            codes.append(process.wait(30))
        expect(codes[-1] in (0, 130), f"exit code {codes[-1]}")
        state = a.run("ls", json=True)["parcels"][0]["state"]
        if state == "running":
            a.run("stop", "work", "--kill")
        elif state in ("checked out", "crashed"):  # the daemon of the command was starting
            a.run("checkin", "work")
        # The server carries out the last requests only now, after its pause.
        wait_until(lambda: a.run("ls") and b.run("checkout", "work", expect=(0, 11)).code == 0, "the lock is free")
        b.run("checkin", "work")
    print(f"    exit codes {codes}", flush=True)


@contextlib.contextmanager
def paused(server):
    support.stop_process(server.process.pid)
    try:
        yield
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


def direct(size):
    return mmap.mmap(-1, size)  # aligned, as O_DIRECT requires


def test_direct_writes_and_flushes_are_answered_while_many_direct_reads_wait(world):
    chance = writing.chance()
    server = world.serve()
    a, b = world.host("a"), world.host("b")
    a.init_repository(server.url)
    image, content = writing.small_disk(world, chance, 2 * READS * CHUNK)
    a.run("import", "work", image)
    b.add_repository(server.url)
    path = writing.check_out(b, "work")
    server.stop()
    file = os.open(path, os.O_RDWR | os.O_DIRECT)
    places = [CHUNK * n for n in range(2 * READS) if content[CHUNK * n:CHUNK * n + 4096] != bytes(4096)][:READS]
    found = {}

    def read(at):
        buffer = direct(4096)
        if os.preadv(file, [buffer], at) == 4096:
            found[at] = buffer[:]
    readers = [threading.Thread(target=read, args=(at,), daemon=True) for at in places]
    for reader in readers:
        reader.start()
    wait_until(lambda: b.stat("work")["sources"]["waiting"] > 0, "reads wait")

    def write():
        data = direct(4096)
        data[:] = b"w" * 4096
        os.pwritev(file, [data], len(content) - 4096)
        os.fsync(file)
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    writer.join(20)
    in_time = not writer.is_alive()
    still_waiting = sum(reader.is_alive() for reader in readers)
    server.start()
    for thread in (*readers, writer):
        thread.join(support.COMMAND_TIMEOUT)
        expect(not thread.is_alive(), "a request hangs though the repository is there again")
    os.close(file)
    expect(in_time, "a direct write waits for reads")
    expect_equal(still_waiting, len(places), "reads that waited meanwhile")
    expect(all(found[at] == bytes(content[at:at + 4096]) for at in places), "a read that waited has other bytes")
    b.run("checkin", "work")


def test_a_command_does_not_wait_for_what_settling_fetches(world):
    chance = writing.chance()
    server = world.serve()
    a, b = world.host("a"), world.host("b")
    a.init_repository(server.url)
    image, content = writing.small_disk(world, chance, 1200 * CHUNK)
    a.run("import", "work", image)
    b.add_repository(server.url)
    path = writing.check_out(b, "work")
    support.stop_process(server.process.pid)  # from now on requests get neither an answer nor a refusal
    try:
        file = os.open(path, os.O_RDWR)
        for at in range(0, len(content), CHUNK):  # the seal of each chunk needs its other half, which must be fetched
            os.pwrite(file, chance.randbytes(CHUNK // 2), at)
        os.fsync(file)
        os.close(file)
        time.sleep(6)  # after some seconds without writes the journal is settled
        b.run("--offline", "--yes", "discard", "work", timeout=60)
    finally:
        server.process.send_signal(signal.SIGCONT)
    with open(path, "rb") as disk:
        expect_equal(disk.read(CHUNK), bytes(content[:CHUNK]), "the disk's first chunk")
    b.run("checkin", "work")


support.main(test_who_waits_for_a_repository_without_an_answer_is_told,
             test_an_interrupted_checkout_of_a_repository_without_an_answer_ends_and_keeps_no_lock,
             test_direct_writes_and_flushes_are_answered_while_many_direct_reads_wait,
             test_a_command_does_not_wait_for_what_settling_fetches)
