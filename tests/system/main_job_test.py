"""Tests the main job: a machine suspended on one host continues on another through HTTP."""
import functools
import http.server
import os
import subprocess
import threading

import support
from support import expect, expect_equal


def set_up(world, parcel="work"):
    server = world.serve()
    a, b = world.host("a"), world.host("b")
    a.init_repository(server.url)
    a.run("import", parcel, support.guest_image(), "--memory", "256M")
    return server, a, b


def expect_memory_and_disk_right(console, checksum):
    console.wait(f"MEM ok {checksum}")
    console.wait("SECTORS ok", count=2)
    expect_equal(set(console.find("MEM ok (.*)")), {checksum}, "memory checksums")


def test_suspend_here_resume_there(world):
    _, a, b = set_up(world)
    a.run("start", "work")
    on_a = a.console("work")
    on_a.wait(r"TICK \d+", count=3)
    checksum = on_a.find("MEM filled (.*)")[0]
    a.run("suspend", "work")
    expect(not world.mounts(), "a suspended parcel is still mounted")

    b.add_repository(a.run("repo", "ls", json=True)["repositories"][0]["url"])
    b.run("resume", "work")
    on_b = b.console("work")
    on_b.wait(r"TICK \d+", count=3)
    support.expect_continuation(on_a, on_b)

    refused = a.run("resume", "work", expect=11)
    expect("hint:" in refused.err, f"a refusal without a hint: {refused.err}")
    b.run("resume", "work", expect=16)

    expect_memory_and_disk_right(on_b, checksum)
    b.run("suspend", "work")

    a.run("resume", "work")
    back_on_a = a.console("work")
    back_on_a.wait(r"TICK \d+", count=2)
    support.expect_continuation(on_b, back_on_a)
    expect_memory_and_disk_right(back_on_a, checksum)
    a.run("suspend", "work")

    exported = world.folder / "export.raw"
    a.run("export", "work", "--raw", exported)
    support.check_guest_disk(exported, max(c.flushed() for c in (on_a, on_b, back_on_a)))
    b.run("check", "work", "--deep")


def test_stop_then_start_boots_from_the_disk_that_was_left(world):
    server, a, b = set_up(world)
    a.run("start", "work")
    first = a.console("work")
    first.wait(r"DISK \d+", count=2)
    # Without --kill the command succeeds only if the guest switched itself off.
    a.run("stop", "work", "--timeout", "120s")
    b.add_repository(server.url)
    b.run("start", "work")
    second = b.console("work")
    seq = int(second.wait(r"BOOT seq=(\d+) bad=0 .*")[0])
    expect(seq >= first.flushed(), f"the disk has sectors up to {seq}, but {first.flushed()} was flushed")
    second.wait(r"TICK \d+")
    b.run("--yes", "poweroff", "work")
    b.run("--yes", "discard", "work")
    b.run("checkin", "work")


def last_words(console):
    """Returns all lines of a listener, which ends by itself when the guest ends."""
    console.process.wait(timeout=60)
    return console.lines()


def test_a_console_is_heard_to_its_last_word(world):
    _, a, _ = set_up(world)
    a.run("start", "work")
    listener = a.console("work")
    listener.wait(r"TICK \d+")
    stop = a.start("stop", "work", "--timeout", "120s")
    listener.wait("POWEROFF")
    # The daemon that answers here is in the middle of the stop, or has just ended with it.
    log = a.run("console", "work", "--log", expect=(0, 16, 20))
    expect(log.code != 0 or "POWEROFF" in log.out, f"the shutdown is not in the log: {log}")
    expect_equal(stop.wait(timeout=120), 0, "isr stop")
    heard = [line for line in last_words(listener) if line]
    expect("POWEROFF" in heard, "the shutdown was not heard")
    expect(heard[-1].endswith("reboot: Power down"), f"the last word of the guest's kernel is missing: {heard[-1]}")

    a.run("start", "work")
    listener = a.console("work")
    listener.wait(r"TICK \d+")
    a.run("--yes", "poweroff", "work")
    heard = last_words(listener)
    expect(any(line.startswith("TICK") for line in heard), "nothing was heard before the power went")
    # The parcel is still checked out, so a later `isr console` still shows the guest's output.
    log = a.run("console", "work", "--log")
    expect_equal(log.out.replace("\r", ""), listener.text().replace("\r", ""), "what was said")
    a.run("start", "work")
    listener = a.console("work")
    listener.wait(r"TICK \d+")
    a.run("suspend", "work")
    expect(any(line.startswith("TICK") for line in last_words(listener)), "nothing was heard before the suspend")


def test_a_static_web_server_serves_an_imported_image(world):
    repository = world.new_folder("repository")
    a, b = world.host("a"), world.host("b")
    a.init_repository(repository)
    image = support.guest_image()
    a.run("import", "work", image, "--memory", "256M")
    web = world.static_server(repository)
    b.add_repository(web.url)
    look = world.new_folder("look")
    b.run("mount", "work@1", look)
    expect(support.same_bytes(look / "disk.raw", image), "the mounted disk differs from the image")
    b.run("umount", look)
    refused = b.run("resume", "work", expect=19)
    expect("read-only" in refused.err, f"resume on a read-only store says: {refused.err}")


def test_a_static_web_server_without_byte_ranges_serves_an_image(world):
    repository = world.new_folder("repository")
    a, b = world.host("a"), world.host("b")
    a.init_repository(repository)
    image = world.new_file("disk.raw")
    image.write_bytes(os.urandom(1 << 20))
    a.run("import", "work", image)
    handler = functools.partial(QuietFiles, directory=repository)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        b.add_repository(f"http://127.0.0.1:{web.server_port}")
        exported = world.folder / "exported.raw"
        b.run("export", "work", "--raw", exported)
        b.run("check", "work", "--deep")
        web.shutdown()
    expect(support.same_bytes(exported, image), "the exported disk differs from the image")


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    """A quiet file server; Python's does not support ranges."""
    def log_message(self, *_):
        pass


def test_nothing_readable_leaves_the_host(world):
    parcel, canary = "payroll-of-alice", "canary-3b9d-plain"
    server, a, _ = set_up(world, parcel)
    a.run("start", parcel)
    console = a.console(parcel)
    console.wait(r"TICK \d+", count=2)
    console.type(f"fill {canary}")
    console.wait(f"FILLED {canary}")
    a.run("sync", parcel)
    a.run("suspend", parcel)
    everywhere = [server.root, server.log, a.state, a.cache, a.config, a.runtime]
    for secret, places in ((canary, everywhere), (support.PASSWORD, everywhere), (parcel, [server.root, server.log])):
        found = subprocess.run(["grep", "-rlaF", "--", secret, *places], capture_output=True, text=True, check=False)
        expect_equal(found.stdout, "", f'files with "{secret}"')


def test_suspended_and_resumed_at_once_on_the_same_host(world):
    _, a, _ = set_up(world)
    a.run("start", "work")
    before = a.console("work")
    before.wait(r"TICK \d+", count=2)
    for _ in range(3):
        a.run("suspend", "work")
        a.run("resume", "work")  # the daemon that kept the machine is still ending
        after = a.console("work")
        after.wait(r"TICK \d+")
        support.expect_continuation(before, after)
        before = after
    a.run("suspend", "work")


support.main(test_suspend_here_resume_there, test_suspended_and_resumed_at_once_on_the_same_host,
             test_stop_then_start_boots_from_the_disk_that_was_left, test_a_console_is_heard_to_its_last_word,
             test_a_static_web_server_serves_an_imported_image,
             test_a_static_web_server_without_byte_ranges_serves_an_image, test_nothing_readable_leaves_the_host)
