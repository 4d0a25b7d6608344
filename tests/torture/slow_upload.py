#!/usr/bin/env python3
"""Rewrites 64 MiB of a disk without pause while a sync uploads over a line of 384 kbit/s. Checks that the session's files
on this host stay below twice the disk plus the journal's limit during writes, and that all written data is there at the
end, also after a kill.

    python3 tests/torture/slow_upload.py PATH-OF-ISR [--long] [--seed N] [--seconds N] [--kbit N] [--rate N]

--rate is the speed of the writes in MiB a second; 0 means no limit.
"""
import os
import pathlib
import random
import subprocess
import sys
import threading
import time

import common

import support
import writing

REWRITTEN = 64 << 20
DISK = 80 << 20
PIECE = 1 << 20
BUSY_LIMIT = 1 << 30  # the journal's limit in src/image/settle_policy.h
BOUND = 2 * DISK + BUSY_LIMIT


class Rewriter:
    """Writes the first 64 MiB of a disk from end to end, again and again, and flushes now and then."""

    def __init__(self, path, seed, rate):
        self.content, self.written, self.failure = bytearray(REWRITTEN), 0, None
        self._noise = random.Random(seed).randbytes(2 * PIECE)  # every round differs, and none compresses
        self._path, self._stop, self._pause = path, threading.Event(), 1 / rate if rate else 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        try:
            file = os.open(self._path, os.O_RDWR)
            number = 0
            while not self._stop.is_set():
                for at in range(0, REWRITTEN, PIECE):
                    number += 1
                    begin = number * 4099 % PIECE
                    data = number.to_bytes(8, "little") + self._noise[begin:begin + PIECE - 8]
                    if os.pwrite(file, data, at) != PIECE:
                        raise OSError("a short write")
                    self.content[at:at + PIECE] = data
                    self.written += PIECE
                    if self._stop.wait(self._pause) if self._pause else self._stop.is_set():
                        break
                os.fsync(file)
            os.fsync(file)
            os.close(file)
        except OSError as error:
            self.failure = error

    def stop(self):
        self._stop.set()
        self._thread.join(timeout=120)
        support.expect(not self._thread.is_alive(), "a write hangs")
        support.expect(self.failure is None, f"a write failed: {self.failure}")


def size_below(folder):
    """Returns the bytes that the folder takes on the disk. Files may vanish meanwhile."""
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(directory, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return total


def mib(size):
    return f"{size / (1 << 20):.0f} MiB"


def test_slow_upload(world):
    seed = OPTIONS.seed if OPTIONS.seed is not None else 1
    print(f"    seed {seed}, {OPTIONS.seconds} s at {OPTIONS.kbit} kbit/s, {OPTIONS.rate or 'as many as it can'} MiB/s written",
          flush=True)
    server = world.serve()
    b = world.host("b")
    b.init_repository(server.url)
    image = world.new_file("disk.raw")
    os.truncate(image, DISK)
    b.run("import", "work", image, "--memory", "64M")
    a = world.host("a")
    a.add_repository(support.Link(world, server.port, "--rate", f"{OPTIONS.kbit}kbit").url)
    disk = writing.check_out(a, "work")
    session = next(a.state.glob("*/*/parcels/*"))
    rewriter = Rewriter(disk, seed, OPTIONS.rate)
    support.wait_until(lambda: rewriter.written >= REWRITTEN or rewriter.failure, "the disk is written once", timeout=120)
    greatest, syncs, published, sync = {}, 0, 0, None
    until = time.monotonic() + OPTIONS.seconds
    while time.monotonic() < until and rewriter.failure is None:
        if sync is None or sync.poll() is not None:
            if sync is not None:
                support.expect(sync.returncode == 0, f"a sync ended with {sync.returncode}")
                published += 1
            sync = a.start("sync", "work", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            syncs += 1
        sizes = {"journal": size_below(session / "journal"), "settled": size_below(session / "settled")}
        sizes["both"] = sum(sizes.values())
        for name, size in sizes.items():
            greatest[name] = max(greatest.get(name, 0), size)
        time.sleep(0.1)  # between two measurements
    rewriter.stop()
    print(f"    written {mib(rewriter.written)}, syncs begun {syncs}, ended {published}; greatest: "
          + ", ".join(f"{name} {mib(size)}" for name, size in greatest.items()) + f"; bound {mib(BOUND)}", flush=True)
    support.expect(greatest["both"] < BOUND, f"{mib(greatest['both'])} lay here")
    check(disk, rewriter.content)
    writing.kill_daemon(a, "work")
    sync.wait(timeout=60)
    check(writing.check_out(a, "work"), rewriter.content)
    a.run("--yes", "discard", "work")
    a.run("checkin", "work")


def check(disk, content):
    with open(disk, "rb") as file:
        for at in range(0, REWRITTEN, PIECE):
            support.expect(file.read(PIECE) == content[at:at + PIECE], f"other bytes at {at}")


if __name__ == "__main__":
    OPTIONS = common.arguments(__doc__, seconds=(40, 1800), kbit=(384, 384), rate=(0, 60))
    support.ISR = pathlib.Path(OPTIONS.isr).resolve()
    support.stop_on_signals()
    sys.exit(0 if support.run_test(test_slow_upload) else 1)
