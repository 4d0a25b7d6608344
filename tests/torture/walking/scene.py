"""The parcel on its hosts, as far as a walk knows it: what all parts of a walk share."""
import time

from support import expect
from walking import expected, place
from walking.audit import Auditor, Version
from walking.conflicts import Conflicts
from walking.place import PARCEL

STATES = {"not checked out here": "absent", "checked out": "off", "crashed": "off", "suspended here": "suspended",
          "running": "running"}
# How long a command may wait for a link that is cut for longer; memory is waited for for ever.
PATIENCE = 15


class Window:
    """A publish that may be under way: what its version must have at least."""

    def __init__(self, low, flushed):
        self.low, self.flushed, self.quiet = low, flushed, 0


class Parcel:
    """The parcel on one host, as far as is known."""

    def __init__(self, name, host):
        self.name, self.host = name, host
        self.states = {"absent"}  # one of these
        self.run = None  # while it runs
        self.memory = None  # Moment of what is kept here
        self.flushed = 0
        self.content = None  # the Version that the session continues
        self.window = None
        self.lock_lost = False
        self.daemon_pid = self.vm_pid = 0

    @property
    def state(self):
        return next(iter(self.states)) if len(self.states) == 1 else None

    def heard(self):
        """Takes note of what the guest said until now."""
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
        self.said = ""  # notes of the step that is being taken
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
        # A host that never saw the list of parcels, and cannot now.
        if result.code == expected.OFFLINE and parcel.name in self.cut:
            return {"state": "not checked out here"}
        expect(result.code == 0, f"{result}")
        expect(took < place.STAT_TIMEOUT, f"stat took {took:.1f} s: {result}")
        return result.json

    def waits(self, parcel):
        return parcel.name in self.cut and self.stat(parcel).get("sources", {}).get("waiting", 0) > 0
