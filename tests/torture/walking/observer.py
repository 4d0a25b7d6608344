"""Looks at what is there after a step, and holds that it may be so."""
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
        """stat, once the daemon has nothing to do, and has noticed that QEMU is gone."""
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
        """A daemon is on its way out, or in, or its VM's end is not seen to yet: what stat says is about to change."""
        if status["state"] == "running" and place.is_gone(status.get("vm", {}).get("pid", 0)):
            return True
        return "daemon_pid" not in status and bool(self.scene.place.pids(parcel.name, b"isr __session"))

    def _settled_after(self, parcel, step, wanted):
        """The same, and of a command that was interrupted: the daemon may not have begun, or ended, what it was asked for."""
        status = self.settled(parcel, wanted)
        if step.event not in ("interrupt", "pause command"):
            return status
        # The guest was asked to shut down.
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
            is_sure = before == {"absent"}  # else it may be the session that was here, or have run meanwhile
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
        """Where the disks are; brings the daemon back when it was killed. None: refused, for its lock was lost."""
        if "mount" in status:
            return status["mount"]
        result = parcel.host.run("--json", "checkout", PARCEL, expect=(0, expected.LOCKED, expected.HISTORY) if parcel.lock_lost else 0)
        return result.json["mount"] if result.code == 0 else None

    def _meet(self, parcel):
        """A guest that was just started says where it is."""
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
        """The session is gone: all that it had is published."""
        content = parcel.content
        if content and before != {"absent"} and code != expected.FORKED and not parcel.lock_lost:
            expect(content.highest >= parcel.flushed,
                   f"version {content.number} has sectors up to {content.highest}, but {parcel.flushed} were flushed")
            kept = ended_run.moment() if ended_run else parcel.memory
            is_crashed = ended_run and step.event in ("kill daemon", "kill qemu")  # perhaps before it was suspended
            if kept and not is_crashed and step.command in ("suspend", "checkin", "sync"):
                expect(content.suspended, f"version {content.number} lacks the memory that was suspended")
                expect(content.moment.high >= kept.low,
                       f"version {content.number} is of {content.moment}, what was suspended of {kept}")
        if step.event in ("cut", "kill server") or parcel.name in self.scene.cut:
            self.scene.locks_left.add(parcel.name)
        if code in (0, expected.FORKED):
            parcel.window = None  # a version that comes from now on is another host's
        parcel.content = parcel.memory = None
        parcel.flushed, parcel.lock_lost, parcel.daemon_pid = 0, False, 0
