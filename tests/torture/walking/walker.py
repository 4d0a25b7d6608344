"""Takes the steps of a plan and holds what must be true after each."""
import contextlib
import dataclasses
import os
import signal
import subprocess
import threading
import time

import support
from support import expect
from walking import expected, guest, place
from walking.audit import Auditor, Moment, Version
from walking.conflicts import Conflicts
from walking.expected import PUBLISHES
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


class Walker:
    def __init__(self, the_place, say):
        self.place, self.say = the_place, say
        self.auditor = Auditor(the_place)
        self.conflicts = Conflicts(the_place, self.auditor)
        self.parcels = {n: Parcel(n, h) for n, h in the_place.hosts.items() if n != "auditor"}
        self.cut = set()
        self.locks_left = set()  # hosts whose lock may have stayed in the repository
        self.auditor.take(Version(1), False)

    # --- one step ---------------------------------------------------------------

    def take(self, step):
        parcel = self.parcels[step.host]
        began = time.monotonic()
        self._said = ""
        code = ""
        try:
            if step.command:
                code = self._command(parcel, step)
            else:
                self._event(parcel, step)
            self._look_at_everything(parcel, step)
        finally:
            states = " ".join(f"{p.name}:{'|'.join(sorted(p.states))}" for p in self.parcels.values())
            self.say(f"{place.seconds_since(began):5.1f} s  {step.host}  {step}{self._said}"
                     f"{f'  exit {code}' if code != '' else ''}   ({states}, versions {len(self.auditor.versions)})")

    def _look_at_everything(self, parcel, step):
        for other in self.parcels.values():
            other.heard()
        self._find_versions(parcel)
        numbers = sorted(self.auditor.versions)
        self.auditor.recheck(self.auditor.versions[numbers[int(step.chance * len(numbers))]])

    def _note(self, text):
        self._said += f" ({text})"

    # --- commands -----------------------------------------------------------------

    def _command(self, parcel, step):
        arguments, target = self._arguments(step)
        before = set(parcel.states)
        plain = self._outcomes(parcel, step)
        codes = {code for code, _ in plain}
        states = {state for _, state in plain}
        if step.event:
            for state in before:
                here = expected.outcomes(state, step.command, step.options, **self._circumstances(parcel, step))
                codes |= expected.codes_after(step.event, step.signal, plain)
                states |= expected.states_after(step.event, state, step.command, here)
        if step.beside:
            self._expect_both(parcel, step, codes, states)
        if step.command in PUBLISHES and "--no-upload" not in step.options and before != {"absent"}:
            self._open_window(parcel)
        if step.beside in PUBLISHES and not parcel.window and before != {"absent"}:
            self._open_window(parcel)
        if "--take-lock" in step.options:
            for other in self.parcels.values():
                other.lock_lost |= other is not parcel and other.states != {"absent"}
        result, seconds, waited = self._run(parcel, step, arguments)
        if waited:
            self._note("the link was mended, for it waited")
            plain = self._outcomes(parcel, step)
            codes |= {code for code, _ in plain}
            states |= {state for _, state in plain}
        expect(seconds < place.COMMAND_TIMEOUT, f"{step} hangs: {result}")
        expect(result.code in codes, f"{step}: exit {result.code}, expected one of {sorted(codes)} in {sorted(before)}\n{result}")
        if not step.event:
            states = {state for code, state in plain if code == result.code}
            if len(before) > 1:  # an earlier command may still be at work
                states |= before | {state for _, state in plain}
        if result.code == expected.FORKED and step.command in PUBLISHES:
            window = parcel.window
            if self.conflicts.take_fork(result, window.low, window.flushed):
                self._note("its work is a fork")
        if step.command == "branch" and result.code == 0:
            self._look_at_branch(arguments[-1], self.auditor.versions[target], step.chance)
        if step.command in ("export", "log", "branch"):
            return result.code
        parcel.states = states
        allowed, may_boot = self._starts(parcel, step, before, target)
        if step.command == "rollback" and result.code == 0:
            self._find_copy(parcel, target)
        if step.settle:
            self._observe(parcel, step, result.code, (allowed, may_boot), target, before)
        return result.code

    def _arguments(self, step):
        """Of the command line, and the version that it names."""
        numbers, name, target = sorted(self.auditor.versions), PARCEL, None
        if step.command in ("rollback", "branch") or "@" in step.options:
            target = numbers[int(step.chance * len(numbers))]
            name = f"{PARCEL}@{target}"
        options = [o for o in step.options if o != "@"]
        if step.command == "export":
            file = self.place.world.new_file("export")
            file.unlink()
            options += ["--raw", file]
        if step.command == "branch":
            options.append(self.conflicts.new_branch())
        if step.command in ("start", "poweroff", "discard", "rollback"):
            options.append("--yes")
        if step.command == "stop":
            options += ["--timeout", "40s", "--kill"]
        return [step.command, name, *options], target

    def _circumstances(self, parcel, step):
        online = parcel.name not in self.cut
        if step.event in ("cut", "kill server"):
            online = None
        others = [p for p in self.parcels.values() if p is not parcel]
        lock = "free"
        if parcel.lock_lost:
            lock = "taken"
        elif any("absent" not in p.states and not p.lock_lost for p in others):
            lock = "other"
        elif any(p.states != {"absent"} for p in others) or self.locks_left - {parcel.name}:
            lock = None
        content = parcel.content if "absent" not in parcel.states else self.auditor.newest
        known = not any(p.window for p in self.parcels.values()) and content and parcel.state and "@" not in step.options
        base = ("suspended" if content.suspended else "off") if known else None
        return {"online": online, "lock": lock, "base": base}

    def _outcomes(self, parcel, step):
        circumstances = self._circumstances(parcel, step)
        if step.command in ("export", "log"):
            return {(0, s) for s in parcel.states} | ({(13, s) for s in parcel.states} if circumstances["online"] is not True else set())
        found = set()
        for state in parcel.states:
            found |= expected.outcomes(state, step.command, step.options, **circumstances)
        return found

    def _expect_both(self, parcel, step, codes, states):
        """Of two commands at once either may be the first; adds what the one may answer, and what both may leave."""
        circumstances = self._circumstances(parcel, step)
        for _ in range(2):
            for command in (step.command, step.beside):
                for state in list(states | parcel.states):
                    found = expected.outcomes(state, command, step.options, **circumstances)
                    states |= {after for _, after in found}
                    if command == step.command:
                        codes |= {code for code, _ in found}

    def _look_at_branch(self, name, original, chance):
        self.auditor.take_branch(name, original)
        if original.suspended and chance < 0.3:
            self.conflicts.prove(name, original.moment, False)

    def _run(self, parcel, step, arguments):
        """The command with what happens to it. Returns its result, its seconds, and whether the link had to be mended."""
        ended, waited = threading.Event(), []
        threads, failures = [], []
        def thread(body, *values):
            def guarded():
                try:
                    body(*values)
                except Exception as failure:  # pylint: disable=broad-except
                    failures.append(failure)
            threads.append(threading.Thread(target=guarded))
            threads[-1].start()
        def mend_if_it_waits():
            if not ended.wait(PATIENCE):
                self._mend(parcel.name)
                waited.append(True)
        def meanwhile(process):
            if parcel.name in self.cut:
                thread(mend_if_it_waits)
            if step.event:
                thread(self._happen, parcel, step, process, ended)
        began = time.monotonic()
        try:
            result = parcel.host.run(*arguments, expect=None, timeout=place.COMMAND_TIMEOUT, meanwhile=meanwhile)
            seconds = place.seconds_since(began)
        finally:
            ended.set()
            for one in threads:
                one.join()
        if failures:
            raise failures[0]
        return result, seconds, bool(waited)

    def _happen(self, parcel, step, process, ended):
        """What happens to a command, and the end of that."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(step.moment)
        if step.event == "interrupt":
            if process.poll() is None:
                process.send_signal(step.signal)
        elif step.event == "pause command":
            with place.paused(process.pid):
                ended.wait(step.length)
        elif step.event == "cut":
            self.place.links[parcel.name].cut()
            ended.wait(step.length)
            if parcel.name not in self.cut:
                self.place.links[parcel.name].mend()
        elif step.event == "kill server":
            self.place.restart_server(step.length, ended.wait)
        elif step.event == "kill daemon":
            self._kill_daemon(parcel)
        elif step.event == "kill qemu":
            self._kill_qemu(parcel)
        elif step.event == "beside":
            result = parcel.host.run(step.beside, PARCEL, expect=None, timeout=place.COMMAND_TIMEOUT)
            self._note(f"{step.beside} beside it: exit {result.code}")
            codes, states = {expected.VM}, set()
            self._expect_both(parcel, dataclasses.replace(step, command=step.beside, beside=step.command), codes, states)
            expect(result.code in codes, f"{step.beside} beside {step}: exit {result.code}, expected one of {sorted(codes)}\n{result}")

    def _kill_daemon(self, parcel):
        for pid in self.place.pids(parcel.name, b"isr __session"):
            support.kill(pid)
            place.wait_for_death(pid)

    def _kill_qemu(self, parcel):
        pids = [parcel.vm_pid] if parcel.vm_pid else self.place.pids(parcel.name, b"qemu-system")
        for pid in pids:
            support.kill(pid)
            place.wait_for_death(pid)

    # --- events without a command ------------------------------------------------------

    def _event(self, parcel, step):
        event = step.event
        if event == "cut link":
            self.place.links[parcel.name].cut()
            self.cut.add(parcel.name)
        elif event == "mend link":
            self._mend(parcel.name)
        elif event == "lose cache":
            self.place.lose_cache(parcel.name)
        elif event == "mapping":
            parcel.host.variables["ISR_VM_MEMORY"] = step.options[0]
            self._note(step.options[0])
        elif event in ("run", "borrow", "work"):
            self._let_run(parcel, event)
        elif event == "pause qemu":
            if parcel.vm_pid:
                with place.paused(parcel.vm_pid):
                    self._stat(parcel)
        elif event == "pause daemon":
            self._pause_daemon(parcel)
        elif event == "kill daemon":
            self._kill_daemon(parcel)
            parcel.states = {"off" if s == "running" else s for s in parcel.states}
        elif event == "kill qemu":
            self._kill_qemu(parcel)
            parcel.states = {"off" if s == "running" else s for s in parcel.states}
        elif event == "term daemon":
            for pid in self.place.pids(parcel.name, b"isr __session"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
                place.wait_for_death(pid, place.SUSPEND_TIMEOUT)
            parcel.states = {"suspended" if s == "running" else s for s in parcel.states}
        elif event == "copied home":
            self._copy_home(parcel)
        if event in ("kill daemon", "kill qemu", "term daemon", "copied home") and parcel.state != "absent":
            self._observe(parcel, step, 0, (None, True), None, set(parcel.states))

    def _copy_home(self, parcel):
        if parcel.state not in ("off", "suspended") or parcel.lock_lost or parcel.window or parcel.name in self.cut:
            return
        self._kill_daemon(parcel)
        self.conflicts.copied_home(parcel)

    def _mend(self, name):
        self.cut.discard(name)
        self.place.links[name].mend()

    def _let_run(self, parcel, event):
        if parcel.state != "running" or not parcel.run:
            return
        if not parcel.run.wait(lambda: self._waits(parcel), checks=1):
            self._note("its memory is out of reach")
        elif event == "borrow" and parcel.name not in self.cut:
            parcel.run.type("borrow 8", "BORROWED 8")
        elif event == "work" and parcel.name not in self.cut:
            parcel.run.type("work", "WORK .*")

    def _waits(self, parcel):
        return parcel.name in self.cut and self._stat(parcel).get("sources", {}).get("waiting", 0) > 0

    def _pause_daemon(self, parcel):
        pids = self.place.pids(parcel.name, b"isr __session")
        if not pids or not parcel.state or parcel.state == "absent":
            return
        with place.paused(pids[-1]):
            began = time.monotonic()
            result = parcel.host.run("stat", PARCEL, expect=None, timeout=60)
            took = place.seconds_since(began)
        expect(result.code == expected.NO_DAEMON, f"stat of a daemon that stands still: {result}")
        expect(took < place.STAT_TIMEOUT, f"stat of a daemon that stands still took {took:.1f} s")
        self._stat(parcel)
        if parcel.run and parcel.state == "running":
            parcel.run.listen_again()

    # --- what is there afterwards ------------------------------------------------------

    def _stat(self, parcel):
        began = time.monotonic()
        result = parcel.host.run("--json", "stat", PARCEL, expect=None, timeout=60)
        took = place.seconds_since(began)
        # A host that never saw the list of parcels, and cannot now.
        if result.code == expected.OFFLINE and parcel.name in self.cut:
            return {"state": "not checked out here"}
        expect(result.code == 0, f"{result}")
        expect(took < place.STAT_TIMEOUT, f"stat took {took:.1f} s: {result}")
        return result.json

    def _settled(self, parcel, wanted=None):
        """stat, once the daemon has nothing to do, and has noticed that QEMU is gone."""
        mended = False
        deadline = time.monotonic() + place.COMMAND_TIMEOUT
        while True:
            status = self._stat(parcel)
            if not status.get("busy") and (not wanted or STATES[status["state"]] in wanted) and not self._ends(parcel, status):
                return status
            expect(time.monotonic() < deadline, f"the daemon is busy for ever: {status}")
            if parcel.name in self.cut and not mended and time.monotonic() > deadline - place.COMMAND_TIMEOUT + PATIENCE:
                self._mend(parcel.name)
                self._note("the link was mended, for it waited")
                mended = True
            time.sleep(0.1)

    def _ends(self, parcel, status):
        """A daemon is on its way out, or in, or its VM's end is not seen to yet: what stat says is about to change."""
        if status["state"] == "running" and place.is_gone(status.get("vm", {}).get("pid", 0)):
            return True
        return "daemon_pid" not in status and bool(self.place.pids(parcel.name, b"isr __session"))

    def _settled_after(self, parcel, step, wanted):
        """The same, and of a command that was interrupted: the daemon may not have begun, or ended, what it was asked for."""
        status = self._settled(parcel, wanted)
        if step.event not in ("interrupt", "pause command"):
            return status
        # The guest was asked to shut down.
        patience = 10 if step.command == "stop" and STATES[status["state"]] == "running" else 0.5
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and (now := self._settled(parcel, wanted)):
            if now["state"] != status["state"]:
                return self._settled(parcel, wanted)
            time.sleep(0.1)
        return status

    def _starts(self, parcel, step, before, target):
        """From where a VM that this command starts may go on: moments (None: not known), and whether it may boot."""
        if step.command == "start":
            return [], True
        moments, may_boot = [], False
        for state in before:
            if state == "absent":
                if len(before) > 1 and parcel.run:
                    continue  # its own suspend
                version = self.auditor.versions[target] if target else self.auditor.newest
                if any(p.window for p in self.parcels.values()):
                    return None, True
                if version.suspended:
                    moments.append(version.moment)
                may_boot |= not version.suspended
            elif state == "suspended":
                if not parcel.memory:
                    return None, True
                moments.append(parcel.memory)
            elif state == "off":
                may_boot = True
        if parcel.run:
            moments.append(parcel.run.moment())
        return moments, may_boot

    def _observe(self, parcel, step, code, starts, target, before):
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
        self._find_versions(parcel)
        if state != "absent" and ("absent" in before or not parcel.content):
            fresh = self.auditor.versions[target] if target else self.auditor.newest
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
        if state == "off" and parcel.name not in self.cut:  # else a read may wait for the network
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
        if not parcel.run.wait(lambda: self._waits(parcel)):
            self._note("its memory is out of reach")
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
        if step.event in ("cut", "kill server") or parcel.name in self.cut:
            self.locks_left.add(parcel.name)
        if code in (0, expected.FORKED):
            parcel.window = None  # a version that comes from now on is another host's
        parcel.content = parcel.memory = None
        parcel.flushed, parcel.lock_lost, parcel.daemon_pid = 0, False, 0

    # --- versions -------------------------------------------------------------------

    def _open_window(self, parcel):
        parcel.heard()
        low = parcel.run.moment().low if parcel.run else parcel.memory.low if parcel.memory else 0
        if parcel.window:
            low, flushed = min(low, parcel.window.low), min(parcel.flushed, parcel.window.flushed)
        else:
            flushed = parcel.flushed
        parcel.window = Window(low, flushed)

    def _new_versions(self):
        return [number for number in self.place.heads() if number not in self.auditor.versions]

    def _find_versions(self, acting, but=None):
        """What was published since the last look, by whom it may be."""
        for number in self._new_versions():
            if number == but:
                continue
            candidates = [acting] if acting.window else [p for p in self.parcels.values() if p.window]
            expect(candidates, f"version {number} was published by nobody")
            parcel = candidates[0]
            parcel.heard()
            if parcel.run:
                high = parcel.run.moment().high
            else:
                high = parcel.memory.high if parcel.memory else 1 << 60
            version = Version(number, Moment(parcel.window.low, high), parcel.window.flushed)
            self.auditor.take(version, None)
            parcel.content = version

    def _find_copy(self, parcel, target):
        """A publish that was interrupted may have gone on, and end before the rollback makes the last version."""
        new = self._new_versions()
        if new:
            self._find_versions(parcel, but=new[-1])
            self.auditor.take_copy(new[-1], self.auditor.versions[target])

    # --- the end ------------------------------------------------------------------------

    def finish(self, most):
        """Publishes what is left, then looks at every version, and resumes `most` of those that nobody has resumed yet."""
        for name in list(self.cut):
            self._mend(name)
        for parcel in self.parcels.values():
            self._gather(parcel)
        for version in self.auditor.versions.values():
            self.auditor.recheck(version)
        self.conflicts.settle_forks()
        unproven = [v for v in self.auditor.versions.values() if v.suspended and not v.proven]
        for version in unproven[::-1][:most]:
            self._prove(version)
        self.auditor.host.run("check", "--deep")

    def _gather(self, parcel):
        if parcel.states != {"absent"}:
            self._open_window(parcel)
        result = parcel.host.run("suspend", PARCEL, expect=(0, expected.FORKED) if parcel.lock_lost else 0)
        if result.code == expected.FORKED:
            self.conflicts.take_fork(result, parcel.window.low, parcel.window.flushed)
        if parcel.run:
            parcel.run.end()
            parcel.heard()
        parcel.states = {"absent"}
        if parcel.content or parcel.window:
            self._open_window(parcel)
        self._find_versions(parcel)
        self.say(f"         {parcel.name}  suspend  exit {result.code}")
        expect(STATES[self._settled(parcel)["state"]] == "absent", "a suspended parcel is still here")

    def _prove(self, version):
        began = time.monotonic()
        self.conflicts.prove(f"{PARCEL}@{version.number}", version.moment, bool(self.locks_left))
        version.proven = True
        self.say(f"{place.seconds_since(began):5.1f} s  version {version.number} goes on")
