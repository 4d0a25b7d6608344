"""Tests failures around a running machine: isr names them, keeps the work, and the same command succeeds later."""
import contextlib
import http.server
import os
import resource
import shutil
import signal
import socket
import threading
import time

import support
import writing
from support import expect, expect_equal


def set_up(world):
    server = world.serve()
    a, b = world.host("a"), world.host("b")
    a.init_repository(server.url)
    a.run("import", "work", support.guest_image(), "--memory", "256M")
    b.add_repository(server.url)
    return server, a, b


def test_a_suspend_without_its_repository_is_completed_later(world):
    server, a, b = set_up(world)
    a.run("start", "work")
    on_a = a.console("work")
    on_a.wait(r"TICK \d+", count=2)
    server.stop()
    failed = a.run("suspend", "work", expect=13)
    expect("work is suspended on this host, but not uploaded" in failed.err, f"what is safe is not said: {failed.err}")
    expect("hint: nothing is lost" in failed.err, f"what to do is not said: {failed.err}")
    expect_equal(a.stat("work")["state"], "suspended here", "state")
    expect_equal(a.run("suspend", "work", "--json", expect=13).json["retryable"], True, "retryable")
    b_refused = b.run("resume", "work", expect=13)
    expect("cannot be reached" in b_refused.err or "not here" in b_refused.err, f"why not: {b_refused.err}")
    server.start()
    a.run("suspend", "work")
    b.run("resume", "work")
    on_b = b.console("work")
    on_b.wait(r"TICK \d+", count=2)
    support.expect_continuation(on_a, on_b)
    b.run("suspend", "work")


def test_a_stop_without_its_repository_leaves_the_disks_mounted(world):
    server, a, _ = set_up(world)
    mount = a.run("start", "work", json=True)["mount"]
    a.console("work").wait(r"TICK \d+")
    server.stop()
    a.run("stop", "work", expect=13)
    expect(os.path.exists(f"{mount}/disk.raw"), "the disks are not mounted")
    server.start()
    a.run("stop", "work")


def test_a_session_daemon_that_is_stopped_is_named(world):
    _, a, _ = set_up(world)
    a.run("start", "work")
    pid = a.stat("work")["daemon_pid"]
    support.stop_process(pid)
    for words in (["stat"], ["suspend"], ["stop"], ["sync"], ["checkin"], ["checkout"], ["poweroff", "--yes"],
                  ["discard", "--yes"], ["console", "--log"], ["view", "--print-url"]):
        silent = a.run(words[0], "work", *words[1:], expect=20, timeout=20)
        expect(f"process {pid}" in silent.err and f"kill -CONT {pid}" in silent.err, f"no way out: {silent}")
    a.run("ls", timeout=20)
    os.kill(pid, signal.SIGCONT)
    a.console("work").wait(r"TICK \d+")
    a.run("suspend", "work")


def test_what_is_said_of_a_qemu_that_is_stopped_and_of_one_that_died(world):
    _, a, _ = set_up(world)
    a.run("start", "work")
    a.console("work").wait(r"DISK \d+")
    qemu = a.stat("work")["vm"]["pid"]
    support.stop_process(qemu)
    expect_equal(a.run("stat", "work", json=True, timeout=20)["vm"]["state"], "not answering", "a stopped QEMU")
    os.kill(qemu, signal.SIGCONT)
    support.wait_until(lambda: a.stat("work")["vm"]["state"] == "running", "QEMU answers again")
    os.kill(qemu, signal.SIGKILL)
    died = support.wait_until(lambda: a.stat("work")["last_event"], "the end of QEMU is noticed")
    expect("QEMU has died" in died and "signal 9" in died, f"how it ended: {died}")
    expect("checked out here" in a.run("stat", "work").out, "the state in words")
    saved = a.run("suspend", "work")
    expect("there was no memory to save" in saved.err and "work saved as version 2" in saved.out, f"a suspend without memory: {saved}")


def test_a_guest_whose_disk_failed_goes_on_when_the_disk_does(world):
    server, _, b = set_up(world)
    b.variables["ISR_READ_UNREACHABLE"] = "fail"
    b.run("start", "work")
    server.stop()
    support.wait_until(lambda: b.stat("work")["vm"]["io_error"], "the guest is held", timeout=120)
    expect("held because a disk failed" in b.run("stat", "work").out, "a person is not told")
    server.start()
    b.console("work").wait(r"TICK \d+")
    b.run("stop", "work")


# A boot sector that reports a panic to the panic device for ever:  mov dx,0x505; mov al,1; again: out dx,al; jmp again
PANICS = bytes.fromhex("ba0505 b001 ee ebfd").ljust(510, b"\0") + b"\x55\xaa"


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_guest_that_panics_in_a_loop_is_one_line_in_the_log(world):
    a = world.host("a")
    a.init_repository(world.new_folder("repository"))
    disk = world.new_file("disk.raw")
    disk.write_bytes(PANICS.ljust(1 << 20, b"\0"))
    a.run("import", "work", disk, "--memory", "64M")
    a.run("start", "work")
    daemon = support.wait_until(lambda: (s := a.stat("work"))["vm"]["guest_panicked"] and s["daemon_pid"], "the guest panics")
    began = cpu_seconds(daemon)
    support.wait_until(lambda: cpu_seconds(daemon) > began + 1, "thousands of panics reach the daemon", timeout=120)
    a.run("poweroff", "work", "--yes")
    log = a.daemon_logs()[0].read_text()
    expect_equal(log.count("has panicked"), 1, "lines about a panic")
    expect(len(log) < 10_000, f"the log has {len(log)} bytes: {log[:2000]}")
    a.run("checkin", "work")


def fill_memory(host):
    """Uses up the memory of a daemon that gets no more from the kernel, with the longest line that it accepts."""
    (control,) = host.runtime.glob("isr/ctl/*")
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(control))
        client.settimeout(support.COMMAND_TIMEOUT)
        client.sendall(b'{"text":"' + b"x" * ((1 << 20) - 100) + b'"}\n')
        client.recv(1)


def test_a_daemon_without_memory_ends_and_the_next_command_has_all_that_was_flushed(world):
    a = world.host("a")
    a.variables["MALLOC_ARENA_MAX"] = "1"  # a single arena, because others would have room left
    a.init_repository(world.new_folder("repository"))
    disk, content = writing.small_disk(world, writing.chance(), size=1 << 20)
    a.run("import", "work", disk, "--memory", "64M")
    with open(writing.check_out(a, "work"), "r+b", buffering=0) as file:
        content[:4096] = b"flushed!" * 512
        file.write(content[:4096])
        os.fsync(file.fileno())
    daemon = a.stat("work")["daemon_pid"]
    _, hard = resource.prlimit(daemon, resource.RLIMIT_AS)
    resource.prlimit(daemon, resource.RLIMIT_AS, (1 << 20, hard))  # no more memory than it has
    fill_memory(a)
    support.wait_until(lambda: not os.path.exists(f"/proc/{daemon}"), "the daemon ends")
    expect("out of memory: this process ends" in a.daemon_logs()[0].read_text(), "its last words are not in its log")
    with open(writing.check_out(a, "work"), "rb") as file:
        expect(file.read() == content, "the disk has other bytes")
    a.run("checkin", "work")


def test_the_log_of_mounts_does_not_grow_for_ever(world):
    server, a = world.serve(), world.host("a")
    a.init_repository(server.url)
    disk, _ = writing.small_disk(world, writing.chance(), size=1 << 20)
    a.run("import", "work", disk)
    look = world.new_folder("look")
    a.variables["ISR_READ_UNREACHABLE"] = "fail"
    a.run("mount", "work", look)
    a.run("umount", look)
    support.wait_until(lambda: not any("__mount" in line for line in world.processes().values()), "the mount's daemon ends")
    shutil.rmtree(a.cache)
    (log,) = a.state.glob("*/*/mount.log")
    log.write_bytes(b"an old line\n" * 400_000)
    before = log.stat().st_size
    a.run("mount", "work", look)
    server.stop()
    with contextlib.suppress(OSError):
        (look / "disk.raw").read_bytes()
    a.run("umount", look)
    expect_equal(log.with_name("mount.log.1").stat().st_size, before, "the log that was full")
    expect(0 < log.stat().st_size < 10_000, "the log that was begun")


@contextlib.contextmanager
def captive_portal(port):
    """Serves the answer of a network that wants a login to all requests."""
    class Portal(http.server.BaseHTTPRequestHandler):
        def answer(self):
            self.send_response(302)
            self.send_header("Location", "http://login.example/")
            self.send_header("Content-Length", "0")
            self.end_headers()
        do_GET = do_HEAD = do_PUT = do_DELETE = answer  # names given by http.server

        def log_message(self, *_):
            pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Portal)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def test_a_network_that_wants_a_login_is_a_repository_out_of_reach(world):
    server = world.serve()
    a, b = world.host("a"), world.host("b")
    a.init_repository(server.url)
    a.run("create", "work", "--size", "1M", "--memory", "64M")
    b.add_repository(server.url)
    a.run("start", "work")
    server.stop()
    with captive_portal(server.port):
        for words in (["stat"], ["stat", "work"], ["console", "work", "--log"], ["view", "work", "--print-url"],
                      ["suspend", "work", "--no-upload"], ["--offline", "ls"]):
            said = a.run(*words).err
            expect("login" not in said, f"{words} asked the repository: {said}")
        for host, words in ((a, ["suspend", "work"]), (b, ["checkout", "work"]), (b, ["repo", "info"])):
            said = host.run(*words, expect=13).err
            expect("perhaps this network wants a login" in said and "--offline" in said, f"{words} says: {said}")
    server.start()
    a.run("suspend", "work")


def test_a_server_that_starts_a_moment_later_is_waited_for(world):
    server = world.serve()
    a = world.host("a")
    a.init_repository(server.url)
    a.run("create", "work", "--size", "1M", "--memory", "64M")
    server.stop()
    # Connections are refused while nothing listens there.
    a.run("checkout", "work", meanwhile=lambda process: (time.sleep(0.5), server.start()))
    a.run("checkin", "work")


def test_what_was_checked_out_and_what_is_kept_is_said_as_it_is(world):
    a = world.host("a")
    a.init_repository(world.new_folder("repository"))
    disk = world.new_file("disk.raw")
    disk.write_bytes(bytes(1 << 20))
    a.run("import", "work", disk, "--memory", "64M")
    for number in (2, 3):
        with open(f"{a.run('checkout', 'work', json=True)['mount']}/disk.raw", "r+b") as file:
            file.write(bytes([number]) * 4096)
        a.run("checkin", "work")
    older = a.run("checkout", "work", "-r", "1")
    expect(older.out.startswith("work@1 is checked out at ") and "becomes 4" in older.err, f"an older version: {older}")
    expect_equal(a.run("checkout", "work", json=True)["version"], 1, "the version in JSON")
    kept = a.run("suspend", "work", "--no-upload")
    expect("is kept on this host only" in kept.out and "nothing of work was running" in kept.err, f"it says: {kept}")
    a.run("checkin", "work")


support.main(test_a_network_that_wants_a_login_is_a_repository_out_of_reach,
             test_a_server_that_starts_a_moment_later_is_waited_for,
             test_what_was_checked_out_and_what_is_kept_is_said_as_it_is, test_a_suspend_without_its_repository_is_completed_later,
             test_a_stop_without_its_repository_leaves_the_disks_mounted, test_a_session_daemon_that_is_stopped_is_named,
             test_what_is_said_of_a_qemu_that_is_stopped_and_of_one_that_died,
             test_a_guest_whose_disk_failed_goes_on_when_the_disk_does,
             test_a_guest_that_panics_in_a_loop_is_one_line_in_the_log,
             test_a_daemon_without_memory_ends_and_the_next_command_has_all_that_was_flushed,
             test_the_log_of_mounts_does_not_grow_for_ever)
