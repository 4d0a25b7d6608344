"""The knowledge of a walk about the parcel on its hosts, which all parts of the walk share."""
import time

from support import expect
from walking import expected, place
from walking.audit import Auditor, Version
from walking.conflicts import Conflicts
from walking.place import PARCEL

STATES = {"not checked out here": "absent", "checked out": "off", "crashed": "off", "suspended here": "suspended",
          "running": "running"}
# The seconds that a command waits for a cut link before the walk mends it; reads of memory would wait for ever.
PATIENCE = 15


class Window:
    """A publish that may be under way, with the lowest counter and the sectors that its version must have."""

    def __init__(self, low, flushed):
        self.low, self.flushed, self.quiet = low, flushed, 0


class Parcel:
    """The parcel on one host, as far as it is known."""

    def __init__(self, name, host):
        self.name, self.host = name, host
        self.states = {"absent"}  # the real state is one of these
        self.run = None  # the guest.Run while it runs
        self.memory = None  # the Moment of the memory that is kept here
        self.flushed = 0
        self.content = None  # the Version that the session continues
        self.window = None
        self.lock_lost = False
        self.daemon_pid = self.vm_pid = 0

    @property
    def state(self):
        return next(iter(self.states)) if len(self.states) == 1 else None

    def heard(self):
        """Checks the guest's output until now and notes its flushed sectors."""
        if self.run:
            self.run.check()
            self.flushed = max(self.flushed, self.run.flushed())


class Scene:
    def __init__(self, the_place, say):
        self.place, self.say = the_place, say
        self.auditor = Auditor(the_place)
        self.conflicts = Conflicts(the_place, self.auditor)
        self.parcels = {n: Parcel(n, h) for n, h in the_place.hosts.items() if n != "auditor"}
        self.cut = set()
        self.locks_left = set()  # hosts whose lock may have stayed in the repository
        self.said = ""  # notes on the current step
        self.auditor.take(Version(1), False)

    def note(self, text):
        self.said += f" ({text})"

    def mend(self, name):
        self.cut.discard(name)
        self.place.links[name].mend()

    def stat(self, parcel):
        began = time.monotonic()
        result = parcel.host.run("--json", "stat", PARCEL, expect=None, timeout=60)
        took = place.seconds_since(began)
        # The host never read the list of parcels, and cannot read it now.
        if result.code == expected.OFFLINE and parcel.name in self.cut:
            return {"state": "not checked out here"}
        expect(result.code == 0, f"{result}")
        expect(took < place.STAT_TIMEOUT, f"stat took {took:.1f} s: {result}")
        return result.json

    def waits(self, parcel):
        return parcel.name in self.cut and self.stat(parcel).get("sources", {}).get("waiting", 0) > 0
