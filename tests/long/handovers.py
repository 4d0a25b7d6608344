#!/usr/bin/env python3
"""Hands a machine over between two hosts ten times and checks all its memory each time.

    python3 tests/long/handovers.py build/release/isr

ISR_TEST_MEMORY is the guest's memory in MiB (512); half of it is filled with data whose checksum the guest
knows. ISR_TEST_ROUNDS is the number of moves (10). Prints the time of each move.
"""
import os
import pathlib
import sys
import time

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(PROJECT / "tests" / "system"))
import support  # noqa: E402
from support import expect_equal  # noqa: E402

LONG = 1800  # seconds: a bound for a hang only
MEMORY = int(os.environ.get("ISR_TEST_MEMORY", "512"))
ROUNDS = int(os.environ.get("ISR_TEST_ROUNDS", "10"))


def test_handovers(world):
    server = world.serve()
    here, there = world.host("a"), world.host("b")
    here.init_repository(server.url)
    image = support.guest_image("--append", f"isr.fill={MEMORY // 2} isr.verify=1024")
    here.run("import", "work", image, "--memory", f"{MEMORY}M", timeout=LONG)
    here.run("start", "work")
    before = here.console("work")
    checksum = before.wait("MEM filled (.*)", timeout=LONG)[0]
    before.wait(r"TICK \d+", count=2)
    there.add_repository(server.url)
    flushed = 0
    for number in range(1, ROUNDS + 1):
        began = time.monotonic()
        done = here.run("suspend", "work", json=True, timeout=LONG)
        suspended = time.monotonic() - began
        flushed = max(flushed, before.flushed())
        began = time.monotonic()
        there.run("resume", "work", timeout=LONG)
        after = there.console("work")
        after.wait(r"TICK \d+", timeout=LONG)
        resumed = time.monotonic() - began
        support.expect_continuation(before, after)
        after.type("verify")
        after.wait("MEM ok .*", timeout=LONG)
        expect_equal(set(after.find("MEM ok (.*)")), {checksum}, "sums of memory")
        after.wait("SECTORS ok", count=2)
        fetched = there.stat("work")["sources"]["repository_bytes"]
        print(f"{number:3}  {here.name} suspends in {suspended:.2f} s, {done['uploaded_bytes'] / 2**20:.1f} MiB; "
              f"{there.name} counts on after {resumed:.2f} s, all of it right, {fetched / 2**20:.1f} MiB fetched", flush=True)
        here, there, before = there, here, after
    here.run("suspend", "work", timeout=LONG)
    exported = world.folder / "export.raw"
    here.run("export", "work", "--raw", exported, timeout=LONG)
    support.check_guest_disk(exported, flushed)
    there.run("check", "work", "--deep", timeout=LONG)


support.main(test_handovers)
