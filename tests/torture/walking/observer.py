"""Observes the state after a step and checks that it is possible."""
import os
import time

import support
from support import expect
from walking import expected, guest, place
from walking.place import PARCEL
from walking.scene import PATIENCE, STATES


class Observer:
    def __init__(self, scene, versions):
        self.scene, self.versions = scene, versions

    def settled(self, parcel, wanted=None):
        """Returns the answer of `isr stat`, once the daemon has nothing to do and has noticed an ended QEMU."""
        mended = False
        deadline = time.monotonic() + place.COMMAND_TIMEOUT
        while True:
            status = self.scene.stat(parcel)
            if not status.get("busy") and (not wanted or STATES[status["state"]] in wanted) and not self._ends(parcel, status):
                return status
            expect(time.monotonic() < deadline, f"the daemon is busy for ever: {status}")
            if parcel.name in self.scene.cut and not mended and time.monotonic() > deadline - place.COMMAND_TIMEOUT + PATIENCE:
                self.scene.mend(parcel.name)
                self.scene.note("the link was mended, for it waited")
                mended = True
            time.sleep(0.1)

    def _ends(self, parcel, status):
        """Returns whether the status is about to change, because a daemon starts or ends, or has not yet noticed the end of
        its VM."""
        if status["state"] == "running" and place.is_gone(status.get("vm", {}).get("pid", 0)):
            return True
        return "daemon_pid" not in status and bool(self.scene.place.pids(parcel.name, b"isr __session"))

    def _settled_after(self, parcel, step, wanted):
        """Like settled(). After an interrupted command it also waits for the daemon, which may not have begun or finished
        the work."""
        status = self.settled(parcel, wanted)
        if step.event not in ("interrupt", "pause command"):
            return status
        # A stop asks the guest to shut down, which takes longer.
        patience = 10 if step.command == "stop" and STATES[status["state"]] == "running" else 0.5
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and (now := self.settled(parcel, wanted)):
            if now["state"] != status["state"]:
                return self.settled(parcel, wanted)
            time.sleep(0.1)
        return status

    def observe(self, parcel, step, code, starts, target, before):
        wanted = parcel.states
        status = self._settled_after(parcel, step, wanted if step.event == "kill qemu" else None)
        state = STATES[status["state"]]
        expect(state in wanted, f"after {step} (exit {code}) the state is {status['state']}, expected one of {sorted(wanted)}")
        pid = status.get("vm", {}).get("pid", 0)
        parcel.daemon_pid, parcel.vm_pid = status.get("daemon_pid", 0), pid
        lost = step.event in ("kill daemon", "kill qemu")
        ended_run = None
        if parcel.run and (state != "running" or pid != parcel.run.vm_pid):
            parcel.run.end()
            parcel.heard()
            ended_run, parcel.run = parcel.run, None
        self.versions.find(parcel)
        if state != "absent" and ("absent" in before or not parcel.content):
            fresh = self.scene.auditor.versions[target] if target else self.scene.auditor.newest
            is_sure = before == {"absent"}  # else the session may be an older one, or have run meanwhile
            parcel.flushed = fresh.flushed if is_sure or not parcel.content else min(parcel.flushed, fresh.flushed)
            parcel.content, parcel.memory = fresh, fresh.moment if is_sure else None
        if state == "absent":
            self._has_ended(parcel, step, code, before, ended_run)
        elif state == "suspended":
            if ended_run:
                parcel.memory = ended_run.moment(lost)
            elif step.command == "discard" and code == 0 and parcel.content.suspended:
                parcel.memory = parcel.content.moment
        elif state == "off":
            parcel.memory = None
        if step.command == "discard" and code == 0 and state != "absent":
            parcel.flushed = parcel.content.flushed
        if state == "off" and parcel.name not in self.scene.cut:  # else a read may wait for the network
            mount = self._mount(parcel, status)
            if mount:
                support.check_guest_disk(os.path.join(mount, "disk.raw"), parcel.flushed)
        parcel.states = {state}
        if state == "running" and parcel.run:
            parcel.run.listen_again()
        elif state == "running":
            allowed, may_boot = starts
            parcel.run = guest.Run(parcel.host, pid, allowed, may_boot or lost)
            self._meet(parcel)
        if parcel.window:
            parcel.window.quiet += 1
            if parcel.window.quiet > 1:
                parcel.window = None

    def _mount(self, parcel, status):
        """Returns the folder of the disks; starts a daemon when it was killed. None: refused, because the lock is lost."""
        if "mount" in status:
            return status["mount"]
        result = parcel.host.run("--json", "checkout", PARCEL, expect=(0, expected.LOCKED, expected.HISTORY) if parcel.lock_lost else 0)
        return result.json["mount"] if result.code == 0 else None

    def _meet(self, parcel):
        """Waits until a guest that was just started prints its counter, and checks its disk."""
        if not parcel.run.wait(lambda: self.scene.waits(parcel)):
            self.scene.note("its memory is out of reach")
            return
        found = parcel.run.boot_sequence()
        if found is not None:
            expect(found >= parcel.flushed, f"the guest found sectors up to {found} on its disk, {parcel.flushed} were flushed")
        elif parcel.content and parcel.content.moment and parcel.memory is parcel.content.moment:
            parcel.content.proven = True
        parcel.memory = None

    def _has_ended(self, parcel, step, code, before, ended_run):
        """Checks that a session which has ended has published all its work."""
        content = parcel.content
        if content and before != {"absent"} and code != expected.FORKED and not parcel.lock_lost:
            expect(content.highest >= parcel.flushed,
                   f"version {content.number} has sectors up to {content.highest}, but {parcel.flushed} were flushed")
            kept = ended_run.moment() if ended_run else parcel.memory
            is_crashed = ended_run and step.event in ("kill daemon", "kill qemu")  # perhaps before its suspend
            if kept and not is_crashed and step.command in ("suspend", "checkin", "sync"):
                expect(content.suspended, f"version {content.number} lacks the memory that was suspended")
                expect(content.moment.high >= kept.low,
                       f"version {content.number} is of {content.moment}, what was suspended of {kept}")
        if step.event in ("cut", "kill server") or parcel.name in self.scene.cut:
            self.scene.locks_left.add(parcel.name)
        if code in (0, expected.FORKED):
            parcel.window = None  # later versions belong to other hosts
        parcel.content = parcel.memory = None
        parcel.flushed, parcel.lock_lost, parcel.daemon_pid = 0, False, 0
