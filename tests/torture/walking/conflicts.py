"""Tests conflicts of several hosts over one parcel: forks, branches, and copies of a home directory."""
import re
import shutil

from support import Failure, expect
from walking import expected, guest
from walking.audit import Moment, Version
from walking.place import PARCEL

EVER = 1 << 60


class Conflicts:
    def __init__(self, the_place, auditor):
        self.place, self.auditor = the_place, auditor
        self._names = 0

    def take_fork(self, result, low, flushed):
        """Returns the fork that a command has kept a session as, or None. Checks that the fork opens with all flushed
        sectors. `low` is the lowest possible last number of its counter."""
        name = re.search(rf"the fork {PARCEL}@(\S+)", result.err)
        if not name:
            return None
        fork = Version(name.group(1), Moment(low, EVER), flushed)
        self.auditor.take(fork, None)
        return fork

    def new_branch(self):
        self._names += 1
        return f"branch{self._names}"

    def copied_home(self, parcel):
        """Copies the home directory of a host with a session. Checks that the copy is refused, and that its work stays, or
        becomes a fork once the original has published."""
        self._names += 1
        copy = self.place.world.host(f"copy{self._names}")
        copy.variables = dict(parcel.host.variables)
        for folder in ("config", "state"):
            shutil.copytree(parcel.host.home / folder, copy.home / folder)
        refused = copy.run("resume", PARCEL, expect=None)
        expect(refused.code in (expected.LOCKED, expected.HISTORY), f"a copy of a home directory resumes the session: {refused}")
        kept = copy.run("suspend", PARCEL, expect=(expected.DONE, expected.LOCKED, expected.FORKED))
        low = parcel.memory.low if parcel.memory else 0
        fork = self.take_fork(kept, low, parcel.flushed)
        expect((kept.code == expected.FORKED) == (fork is not None), f"no fork is named: {kept}")
        if kept.code == expected.LOCKED:
            copy.run("--yes", "discard", PARCEL)
            copy.run("checkin", PARCEL)
        shutil.rmtree(copy.home)

    def prove(self, name, moment, take_lock):
        """Checks that a suspended version continues from its moment."""
        host = self.auditor.host
        host.run("resume", name, *(["--take-lock"] if take_lock else []))
        parcel = name.split("@", maxsplit=1)[0]
        run = guest.Run(host, 0, [moment], False, parcel)
        try:
            run.wait(lambda: False, checks=1)
        except Failure as failure:
            raise Failure(f"{name}: {failure}") from None
        for command in ("poweroff", "discard"):
            host.run("--yes", command, parcel)
        run.end()
        host.run("checkin", parcel)

    def settle_forks(self):
        """Checks all forks at the end, when no host has a session. Rolls back to some of them and branches others."""
        for count, fork in enumerate(list(self.auditor.forks.values())):
            self.auditor.recheck(fork)
            if count % 3 == 0:
                self.auditor.host.run("rollback", "--yes", f"{PARCEL}@{fork.number}")
                self.auditor.take_copy(max(self.place.heads()), fork)
            elif count % 3 == 1:
                name = self.new_branch()
                self.auditor.host.run("branch", f"{PARCEL}@{fork.number}", name)
                self.auditor.take_branch(name, fork)
                if fork.suspended:
                    self.prove(name, fork.moment, False)
