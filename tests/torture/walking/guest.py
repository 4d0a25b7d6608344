"""Checks the output of the guest from one start or resume to its end."""
import re
import subprocess

from support import Failure, expect, expect_equal, wait_until
from walking.audit import Moment
from walking.place import PARCEL

# The lines that may be missing after a suspend: the line printed at that moment, and one more under way.
UNHEARD = 2
# The lines that may be missing after a kill of the daemon, which loses all output that it has not passed on.
UNHEARD_OF_THE_DEAD = 40
GUEST_TIMEOUT = 120
TROUBLE = re.compile(r".*(?:MEM BAD|SECTORS BAD|Kernel panic|BUG:|Oops|rcu: INFO|soft lockup).*")


class Run:
    """One VM from its start or resume on. It may go on from the moments in `allowed`, or boot if `may_boot`."""

    def __init__(self, host, vm_pid, allowed, may_boot, parcel=PARCEL):
        self.vm_pid, self._host, self.console = vm_pid, host, host.console(parcel)
        self._parcel = parcel
        self._allowed, self._may_boot = allowed, may_boot
        self._begun = False

    def listen_again(self):
        """Replaces a listener that left because the daemon stood still too long. The new one hears all from the beginning."""
        if self.console.process.poll() is None:
            return
        heard = len(self.console.ticks())
        self.console = self._host.console(self._parcel)
        wait_until(lambda: len(self.console.ticks()) >= heard, "a new listener hears what the old one had heard", GUEST_TIMEOUT)

    def check(self):
        """Checks all output until now."""
        console = self.console
        bad = console.find(TROUBLE)
        expect(not bad, f"the guest says {bad[:3]}")
        boots, ticks = console.find(r"BOOT .*"), console.ticks()
        expect(len(boots) <= 1, f"the guest booted again by itself: {boots}")
        if not ticks:
            return
        expect_equal(ticks, list(range(ticks[0], ticks[0] + len(ticks))), "the guest's counter")
        if self._begun:
            return
        self._begun = True
        if boots:
            expect(self._may_boot, f"the guest boots, where it should go on from {self._moments()}")
            expect_equal(ticks[0], 1, "the counter of a guest that booted")
        elif self._allowed is not None:
            expect(any(m.low < ticks[0] <= m.high + 1 + UNHEARD for m in self._allowed),
                   f"the guest goes on with {ticks[0]}, where it should {'boot or ' if self._may_boot else ''}go on from "
                   f"{self._moments()}")

    def _moments(self):
        return " or ".join(map(str, self._allowed or ["nothing"]))

    def boot_sequence(self):
        """Returns the highest sector that the guest found at its boot, or None if it did not boot."""
        found = self.console.find(r"BOOT seq=(\d+) .*")
        return int(found[0]) if found else None

    def last_tick(self):
        ticks = self.console.ticks()
        return ticks[-1] if ticks else None

    def flushed(self):
        """Returns the highest sector whose flush was answered to the guest."""
        return max(self.console.flushed(), self.boot_sequence() or 0)

    def moment(self, lost=False):
        """Returns the moment of a memory that is kept now. `lost`: its daemon was killed."""
        unheard = UNHEARD_OF_THE_DEAD if lost else UNHEARD
        last = self.last_tick()
        if last is None:  # without any output it is still at its beginning
            allowed = self._allowed or []
            return Moment(min((m.low for m in allowed), default=0), max((m.high for m in allowed), default=0) + unheard)
        return Moment(last, last + unheard)

    def wait(self, waits_for_network, ticks=2, checks=0):
        """Waits for this many more lines. Returns False when the guest itself waits for memory that is out of reach."""
        before = {what: len(self.console.find(what)) for what in (r"TICK \d+", "MEM ok .*", "SECTORS ok")}
        wanted = {r"TICK \d+": ticks, "MEM ok .*": checks, "SECTORS ok": checks}
        def enough():
            self.listen_again()  # the listener may have left meanwhile
            self.check()
            if all(len(self.console.find(what)) >= before[what] + wanted[what] for what in before):
                return "enough"
            return "waits" if waits_for_network() else None
        try:
            return wait_until(enough, "the guest counts and checks itself", GUEST_TIMEOUT, every=0.1) == "enough"
        except Failure as failure:
            raise Failure(f"{failure}\n--- the console's end\n{self.console.text()[-1500:]}") from None

    def type(self, line, answer):
        self.console.type(line)
        self.console.wait(answer, count=len(self.console.find(answer)) + 1, timeout=GUEST_TIMEOUT)

    def end(self):
        """Checks the last output after the VM has ended."""
        try:
            self.console.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.console.close()
        self.check()
