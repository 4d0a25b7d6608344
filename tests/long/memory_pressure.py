#!/usr/bin/env python3
"""Checks that a guest which rewrites its memory never stands still while QEMU and isr together get 1.2 times that memory.

    python3 tests/long/memory_pressure.py build/release/isr [--minutes 60] [--memory private|shared]

Needs root, and a memory cgroup (version 1 or 2) that may have children. It looks for a
deadlock: a page becomes free only when the daemon writes another page back, and the
daemon itself waits for a page. Prints the longest time between two counts of the guest.
"""
import argparse
import contextlib
import os
import pathlib
import sys
import time

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(PROJECT / "tests" / "system"))
import support  # noqa: E402
from support import expect, expect_equal  # noqa: E402

MIB = 1 << 20
GUEST_MIB = 1024
STANDSTILL = 120  # seconds without a count; only a deadlock explains more
GUEST = ("--append", "isr.fill=128 isr.churn=655360 isr.rate=50")  # 640 MiB, a quarter of them a second


class Cgroup:
    """A new memory cgroup below that of this process."""

    def __init__(self, limit):
        memberships = [line.strip().split(":", 2) for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines()]
        mine = {names: path for _, names, path in memberships}
        if "memory" in mine:
            root, names = "/sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.failcnt", "memory.oom_control")
        else:
            root, names = "/sys/fs/cgroup", ("memory.max", "memory.events", "memory.events")
        self._usage, self._ooms = names[1:]
        parent = pathlib.Path(root + mine.get("memory", mine.get("", "/")))
        if not parent.is_dir():  # inside a container
            parent = pathlib.Path(root)
        self.path = parent / f"isr-{os.getpid()}"
        self.path.mkdir()
        (self.path / names[0]).write_text(str(limit))

    def under(self):
        """Returns the command line that starts a program in the cgroup."""
        return ["sh", "-c", f'echo $$ >"{self.path}/cgroup.procs" && exec "$@"', "sh"]

    def pressure(self):
        return (self.path / self._usage).read_text().replace("\n", " ").strip()

    def killed(self):
        lines = dict(line.split() for line in (self.path / self._ooms).read_text().splitlines())
        return int(lines.get("oom_kill", 0))

    def remove(self):
        with contextlib.suppress(support.Failure):
            support.wait_until(lambda: not (self.path / "cgroup.procs").read_text(), "the cgroup is empty", 30)
        self.path.rmdir()


def watch(console, cgroup, seconds):
    """Returns the longest time between two counts of the guest, in seconds."""
    begin = last = time.monotonic()
    longest, seen = 0.0, len(console.ticks())
    while time.monotonic() < begin + seconds:
        time.sleep(0.2)
        console.check()
        now = time.monotonic()
        if len(console.ticks()) > seen:
            seen, last = len(console.ticks()), now
        longest = max(longest, now - last)
        expect(now - last < STANDSTILL, f"the guest stands still; {cgroup.pressure()}")
        expect_equal(cgroup.killed(), 0, "processes that the kernel killed for lack of memory")
    return longest


def run_under_pressure(world, cgroup, mapping, seconds):
    host = world.host("a")
    host.variables["ISR_VM_MEMORY"] = mapping
    host.init_repository(world.serve().url)
    host.run("import", "work", support.guest_image(*GUEST), "--memory", f"{GUEST_MIB}M")
    host.under = cgroup.under()
    console = None
    for command in ("start", "resume"):
        host.run(command, "work", timeout=600)
        expect_equal(host.stat("work")["vm"]["memory"], mapping, "mapping in force")
        before, console = console, host.console("work")
        console.wait(r"TICK \d+", count=2, timeout=600)
        if before:
            support.expect_continuation(before, console)
        longest = watch(console, cgroup, seconds / 2)
        print(f"    {mapping}, {command}: {len(console.ticks())} counts, at most {longest:.1f} s between two;"
              f" {cgroup.pressure()}", flush=True)
        host.run("suspend", "work", timeout=1800)
    host.under = []
    host.run("check", "work", "--deep", timeout=1800)


def make_test(mapping, seconds):
    def test(world):
        cgroup = Cgroup(GUEST_MIB * MIB * 6 // 5)
        try:
            run_under_pressure(world, cgroup, mapping, seconds)
        finally:
            for pid in (cgroup.path / "cgroup.procs").read_text().split():
                support.kill(int(pid))
            cgroup.remove()
    test.__name__ = f"test_{mapping}_memory_under_pressure"
    return test


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("isr")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--memory", choices=("private", "shared"), action="append")
    options = parser.parse_args()
    try:
        Cgroup(GUEST_MIB * MIB).remove()
    except OSError as error:
        sys.exit(f"NOT RUN: no memory cgroup can be made here: {error}")
    sys.argv[2:] = []
    support.main(*(make_test(m, options.minutes * 60) for m in options.memory or ("private", "shared")))


if __name__ == "__main__":
    main()
