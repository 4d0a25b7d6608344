"""Tests a resume with a boot pack: few fetches before the guest goes on, the rest later, and right memory in all cases."""
import contextlib
import signal
import sqlite3
import subprocess

import support
from support import expect, expect_equal, wait_until

CHUNK = 131072


def set_up(world, *link_options, guest=()):
    server = world.serve()
    a = world.host("a")
    a.init_repository(server.url)
    a.run("import", "work", support.guest_image(*guest), "--memory", "256M")
    a.run("start", "work")
    console = a.console("work")
    console.wait(r"TICK \d+", count=3)
    checksum = console.find("MEM filled (.*)")[0]
    a.run("suspend", "work")
    link = support.Link(world, server.port, *link_options)
    return server, link, a, console, checksum


def new_host(world, name, link):
    host = world.host(name)
    host.add_repository(link.url)
    return host


def expect_right(before, after, checksum):
    after.wait(f"MEM ok {checksum}")
    after.wait("SECTORS ok", count=2)
    support.expect_continuation(before, after)
    expect_equal(set(after.find("MEM ok (.*)")), {checksum}, "memory checksums")


def give_up(host):
    host.run("--yes", "poweroff", "work")
    host.run("--yes", "discard", "work")
    host.run("checkin", "work")


def offline_safe(host):
    return host.stat("work").get("memory", {}).get("offline_safe_since")


def image_of(world, host, name):
    """Returns the bytes of a file of the newest version, or None."""
    folder = world.new_folder("look")
    host.run("mount", "work@latest", folder)
    file = folder / name
    content = file.read_bytes() if file.exists() else None
    host.run("umount", folder)
    return content


def test_a_boot_pack_saves_most_fetches_that_a_guest_waits_for(world):
    # This guest touches all of its working set within two seconds, so the moment of the measurement does not matter.
    _, link, _, before, checksum = set_up(world, "--delay-ms", "5", guest=("--append", "isr.fill=4"))
    waited = {}
    for mode in ("none", "ws"):
        host = new_host(world, mode, link)
        host.run("resume", "work", "--prefetch", mode)
        console = host.console("work")
        console.wait(r"TICK \d+")
        stat = host.stat("work")
        waited[mode] = stat["sources"]["guest_fetches"]
        expect_equal(stat["boot_pack_pages"] > 0, mode == "ws", f"a boot pack with --prefetch {mode}")
        expect_right(before, console, checksum)
        give_up(host)
    expect(waited["ws"] * 4 < waited["none"], f"fetches that the guest waited for until it counted: {waited}")


def test_the_rest_comes_behind_and_a_second_hand_over_is_right(world):
    _, link, a, before, checksum = set_up(world, "--delay-ms", "5")
    b = new_host(world, "b", link)
    b.run("resume", "work")
    on_b = b.console("work")
    wait_until(lambda: offline_safe(b), "memory is offline-safe", timeout=120)
    expect("offline-safe since" in b.run("stat", "work").out, "stat does not say so")
    link.cut()
    expect_right(before, on_b, checksum)  # the link is cut, so this needs no fetch
    link.mend()
    b.run("suspend", "work")
    a.run("resume", "work")
    on_a = a.console("work")
    expect_right(on_b, on_a, checksum)
    a.run("suspend", "work")
    a.run("check", "work", "--deep")
    expect(image_of(world, a, "bootpack.raw")[:4] == b"ISRB", "the last version has no boot pack")


def test_a_suspend_while_the_rest_still_comes_loses_nothing(world):
    _, link, a, before, checksum = set_up(world, "--delay-ms", "5", "--rate", "20Mbit")
    b = new_host(world, "b", link)
    b.run("resume", "work")
    on_b = b.console("work")
    on_b.wait(r"TICK \d+")
    expect(not offline_safe(b), "all of memory is here already: the test is too late")
    b.run("suspend", "work")
    support.expect_continuation(before, on_b)
    a.run("resume", "work")
    on_a = a.console("work")
    expect_right(on_b, on_a, checksum)
    give_up(a)


def pack_objects(world, server, link):
    """Returns the object files of the newest version's boot pack: those that a reader of the pack fetches, without those
    that the rest of the version shares."""
    host, folder = new_host(world, "reader", link), world.new_folder("look")
    host.run("mount", "work@latest", folder)
    pack = (folder / "bootpack.raw").read_bytes()
    host.run("umount", folder)
    [index] = host.cache.rglob("index.db")
    def names():
        with contextlib.closing(sqlite3.connect(index)) as rows:
            return {cid.hex() for cid, in rows.execute("SELECT cid FROM objects")}
    least = sum(any(pack[at:at + CHUNK]) for at in range(0, len(pack), CHUNK))
    wait_until(lambda: len(names()) > least, "the pack and its page are in the cache's index")
    fetched = names()
    objects = [path for path in (server.root / "objects").rglob("*") if path.is_file()]
    last = sorted(objects, key=lambda path: path.stat().st_mtime_ns)[-least - 1:]  # the pack is uploaded last
    found = [path for path in last if path.name in fetched]
    expect(len(found) > least // 2, f"{len(found)} of {least} chunks of the pack are found")
    return found


def flip(file, positions):
    content = bytearray(file.read_bytes())
    for at in positions:
        content[at % len(content)] ^= 0x10
    file.chmod(0o600)
    file.write_bytes(content)


def test_a_damaged_boot_pack_costs_time_alone(world):
    server, link, _, before, checksum = set_up(world)
    objects = pack_objects(world, server, link)
    b = new_host(world, "b", link)
    b.run("resume", "work")
    wait_until(lambda: offline_safe(b), "memory is offline-safe", timeout=120)
    give_up(b)
    # Damage b's cache and every second object of the pack in the repository; later remove all these objects.
    packs = [file for file in b.cache.rglob("*.pack") if file.stat().st_size > 1_000_000]
    expect(packs, "the cache has no pack that could be damaged")
    for file in packs:
        flip(file, range(50_000, file.stat().st_size, 400_000))
    for file in objects[::2]:
        flip(file, [len(file.name) * 7])
    b.run("resume", "work")
    on_b = b.console("work")
    expect_right(before, on_b, checksum)
    give_up(b)
    for file in objects:
        file.unlink()
    c = new_host(world, "c", link)
    c.run("resume", "work")
    on_c = c.console("work")
    expect_right(before, on_c, checksum)
    expect_equal(c.stat("work")["boot_pack_pages"], 0, "pages of a pack that is gone")
    give_up(c)


def test_a_guest_waits_for_a_link_that_is_cut_and_goes_on_when_it_is_mended(world):
    _, link, _, before, checksum = set_up(world, "--delay-ms", "5")
    b = new_host(world, "b", link)
    b.run("resume", "work", "--prefetch", "none", "--no-network")
    link.cut()
    console = b.console("work")
    wait_until(lambda: b.stat("work")["sources"]["waiting"] > 0, "the guest waits for the repository")
    said = b.run("stat", "work").out
    expect("WAITING" in said and str(link.port) in said, f"stat does not say what for: {said}")
    link.mend()
    expect_right(before, console, checksum)
    give_up(b)


def test_a_resume_that_is_interrupted_leaves_the_suspended_state(world):
    _, link, _, before, _ = set_up(world, "--delay-ms", "5", "--rate", "4Mbit")
    b = new_host(world, "b", link)
    progress = world.new_file("progress")
    with open(progress, "wb") as out:
        resume = b.start("--progress", "plain", "resume", "work", stderr=out, stdout=subprocess.DEVNULL)
    wait_until(lambda: b"boot pack" in progress.read_bytes() or resume.poll() is not None, "the boot pack comes")
    expect(resume.poll() is None, f"the resume has ended: {progress.read_text()}")
    resume.send_signal(signal.SIGINT)
    expect_equal(resume.wait(timeout=60), 130, "isr resume, interrupted")
    wait_until(lambda: b.stat("work").get("busy", "") == "", "the daemon has given up, too")
    expect_equal(b.stat("work")["phase"], "suspended", "phase after the interruption")
    b.run("resume", "work")
    console = b.console("work")
    console.wait(r"TICK \d+")
    support.expect_continuation(before, console)
    give_up(b)


support.main(test_a_boot_pack_saves_most_fetches_that_a_guest_waits_for,
             test_the_rest_comes_behind_and_a_second_hand_over_is_right,
             test_a_suspend_while_the_rest_still_comes_loses_nothing,
             test_a_damaged_boot_pack_costs_time_alone,
             test_a_guest_waits_for_a_link_that_is_cut_and_goes_on_when_it_is_mended,
             test_a_resume_that_is_interrupted_leaves_the_suspended_state)
