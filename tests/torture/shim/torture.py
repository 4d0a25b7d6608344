"""Runs rounds of work for failing_calls.py and failing_allocations.py, each with a fault, and checks the results. A failed
check ends its world, because later rounds would only repeat the failure; the next fault gets a new world."""
import collections
import dataclasses
import errno
import os
import random
import threading
import time

import support
import writing
from shim import shim as shims
from support import expect

SECTOR = 512
SIZE = 2 << 20
DOCUMENTED = {0, 1, 3, *range(10, 21), 130}  # without 2, because the commands are correct
PATIENCE = 90


@dataclasses.dataclass
class Fault:
    kind: str
    at: int
    error: str
    sticky: bool
    daemons_only: bool = False

    def __str__(self):
        return f"{self.kind:9} {self.at:6} {self.error:8} {'sticky' if self.sticky else 'once':6}"

    @property
    def options(self):
        """Returns the options with which the program repeats this fault."""
        sticky = f"--at {self.at} --sticky {int(self.sticky)}"
        if self.daemons_only:
            return sticky
        return f"--kind {shims.KINDS.index(self.kind)} {sticky} --error {getattr(errno, self.error)}"


class Disk:
    """The expected contents of the disk: for each sector its bytes, or several choices after a write that failed."""

    def __init__(self, content, chance):
        self.sectors = [{bytes(content[at:at + SECTOR])} for at in range(0, len(content), SECTOR)]
        self.chance = chance

    def write(self, path):
        """Does some writes and flushes. An error ends them and is no failure of the test."""
        def body():
            try:
                file = os.open(path, os.O_RDWR)
            except OSError:
                return
            try:
                for number in range(12):
                    self._write_one(file)
                    if number % 4 == 3:
                        os.fsync(file)
            except OSError:
                pass
            finally:
                try:
                    os.close(file)
                except OSError:
                    pass
        in_time(body, "writing")

    def _write_one(self, file):
        count = self.chance.choice((1, 1, 3, 8, 64))
        first = self.chance.randrange(len(self.sectors) - count)
        data = self.chance.randbytes(SECTOR) * count
        for sector in range(first, first + count):
            self.sectors[sector] |= {data[:SECTOR]}  # both contents are allowed until the write is answered
        done = os.pwrite(file, data, first * SECTOR)
        for sector in range(first, first + done // SECTOR):
            self.sectors[sector] = {data[:SECTOR]}

    def check(self, path, what):
        """Checks the disk's contents, which then are the only ones allowed. Returns None when it cannot be read."""
        found = []
        def body():
            try:
                with open(path, "rb") as file:
                    found.append(file.read())
            except OSError:
                pass
        in_time(body, what)
        if not found:
            return None
        expect(len(found[0]) == len(self.sectors) * SECTOR, f"{what}: {len(found[0])} bytes")
        bad = []
        for number, allowed in enumerate(self.sectors):
            is_now = found[0][number * SECTOR:(number + 1) * SECTOR]
            if is_now not in allowed:
                bad.append(number)
            self.sectors[number] = {is_now}
        expect(not bad, f"{what}: {len(bad)} sectors are wrong, the first is {bad[:1]}")
        return True


def in_time(body, what):
    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    expect(not thread.is_alive(), f"{what} hangs")


class Torture:
    def __init__(self, world, isr, chance):
        self.world, self.chance = world, chance
        self.host = world.host("a")
        repository = world.new_folder("repository")
        self.host.init_repository(repository)
        image, content = writing.small_disk(world, chance, SIZE)
        self.host.run("import", "work", image)
        self.disk = Disk(content, chance)
        self.shim = shims.Shim(self.host, shims.library(isr), [self.host.home / "state", self.host.home / "cache", repository])
        self.codes = collections.Counter()

    def command(self, *arguments):
        """Runs a command with the fault and, if it fails, again without. Returns True if it succeeded the first time."""
        result = self.host.run(*arguments, expect=None, timeout=PATIENCE)
        self.codes[result.code] += 1
        expect(result.code in DOCUMENTED, f"an exit code that is not documented\n{result}")
        expect("unexpected:" not in result.err, f"a failure that nobody thought of\n{result}")
        for log in self.host.daemon_logs():
            expect("terminate called" not in log.read_text(errors="replace"), f"the daemon has aborted\n{result}")
        if result.code == 0:
            return True
        self.shim.heal()
        again = self.host.run(*arguments, expect=None, timeout=PATIENCE)
        expect(again.code == 0, f"without the fault it fails, too\n{again}\nbefore, with it:\n{result}")
        return False

    def mounted_disk(self):
        mounts = [mount for mount in self.world.mounts() if os.path.exists(os.path.join(mount, "disk.raw"))]
        return os.path.join(mounts[0], "disk.raw") if mounts else None

    def daemons(self):
        return [pid for pid, line in self.world.processes().items() if "__session" in line]

    def kill_daemon(self):
        for pid in self.daemons():
            support.kill(pid)
            support.wait_until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"), "the killed daemon ends")

    def write(self):
        path = self.mounted_disk()
        if path:
            self.disk.write(path)

    def read(self, what):
        path = self.mounted_disk()
        if path and self.disk.check(path, what) is None:
            self.shim.heal()
            if not self.daemons():  # an ended daemon is allowed
                self.command("checkout", "work")
            expect(self.disk.check(self.mounted_disk(), f"{what}, without the fault"), f"{what} fails without the fault")

    def workload(self):
        self.command("checkout", "work")
        self.write()
        self.command("sync", "work")
        self.write()
        self.read("reading back")
        self.kill_daemon()
        self.command("checkout", "work")
        self.read("reading after a kill")
        self.write()
        if self.chance.random() < 0.5:
            self.shim.heal()
        self.command("checkin", "work")
        self.shim.heal()
        exported = self.world.folder / "export.raw"
        self.host.run("export", "work", "--raw", exported)
        self.disk.check(exported, "what was published")
        exported.unlink()

    def count(self, kinds, daemons_only):
        self.shim.count(kinds, daemons_only)
        self.workload()
        return {kind: self.shim.counted(kind) for kind in kinds}

    def survive(self, fault):
        began = time.monotonic()
        self.shim.fail(fault.kind, fault.at, fault.error, fault.sticky, fault.daemons_only)
        try:
            self.workload()
        except support.Failure:
            print(f"FAILED  {fault}  {self.shim.first_hit}\n    repeat it with {fault.options}", flush=True)
            raise
        finally:
            self.shim.heal()
        print(f"ok  {fault} hits {self.shim.hits:5} {time.monotonic() - began:5.1f} s  {self.shim.first_hit}", flush=True)


def begin(seed):
    support.stop_on_signals()
    os.umask(0o077)
    print(f"--seed {seed}", flush=True)
    return random.Random(seed)


def count(isr, chance, kinds, daemons_only=False):
    """Returns the number of calls of each kind in a round."""
    counts = {}
    def test_count(world):
        torture = Torture(world, isr, random.Random(chance.random()))
        torture.workload()  # the first round does more than later ones
        counts.update(torture.count(kinds, daemons_only))
        print("calls of one round: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()), flush=True)
    expect(support.run_test(test_count), "the work fails without a fault")
    return counts


def run(isr, chance, plan, what):
    """Runs the plan. Returns the exit code of the program."""
    tries = hits = lost = 0
    codes = collections.Counter()

    def test_faults(world):
        nonlocal tries, hits
        torture = Torture(world, isr, random.Random(chance.random()))
        torture.codes = codes
        for fault in plan:
            tries += 1
            try:
                torture.survive(fault)
            finally:
                hits += torture.shim.hits > 0
    while True:
        before = tries
        good = support.run_test(test_faults)
        lost += not good
        if good or tries == before:
            break
    print(f"exit codes: {dict(sorted(codes.items()))}\n{tries} {what}, {hits} of them hit, {lost} broken promises", flush=True)
    return int(lost > 0)
