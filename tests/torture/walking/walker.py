"""Takes the steps of a plan and checks the results of each."""
import time

from support import expect
from walking import expected, place
from walking.expected import PUBLISHES
from walking.forecast import Forecast
from walking.incidents import Incidents
from walking.observer import Observer
from walking.place import PARCEL
from walking.scene import STATES, Scene
from walking.versions import Versions


class Walker:
    def __init__(self, the_place, say):
        self.scene = Scene(the_place, say)
        self.forecast = Forecast(self.scene)
        self.versions = Versions(self.scene)
        self.observer = Observer(self.scene, self.versions)
        self.incidents = Incidents(self.scene, self.forecast, self.observer)

    def take(self, step):
        parcel = self.scene.parcels[step.host]
        began = time.monotonic()
        self.scene.said = ""
        code = ""
        try:
            if step.command:
                code = self._command(parcel, step)
            else:
                self.incidents.event(parcel, step)
            self._look_at_everything(parcel, step)
        finally:
            states = " ".join(f"{p.name}:{'|'.join(sorted(p.states))}" for p in self.scene.parcels.values())
            self.scene.say(f"{place.seconds_since(began):5.1f} s  {step.host}  {step}{self.scene.said}"
                     f"{f'  exit {code}' if code != '' else ''}   ({states}, versions {len(self.scene.auditor.versions)})")

    def _look_at_everything(self, parcel, step):
        for other in self.scene.parcels.values():
            other.heard()
        self.versions.find(parcel)
        numbers = sorted(self.scene.auditor.versions)
        self.scene.auditor.recheck(self.scene.auditor.versions[numbers[int(step.chance * len(numbers))]])

    def _command(self, parcel, step):
        arguments, target = self._arguments(step)
        before = set(parcel.states)
        plain = self.forecast.outcomes(parcel, step)
        codes = {code for code, _ in plain}
        states = {state for _, state in plain}
        if step.event:
            for state in before:
                here = expected.outcomes(state, step.command, step.options, **self.forecast.circumstances(parcel, step))
                codes |= expected.codes_after(step.event, step.signal, plain)
                states |= expected.states_after(step.event, state, step.command, here)
        if step.beside:
            self.forecast.add_both(parcel, step, codes, states)
        if step.command in PUBLISHES and "--no-upload" not in step.options and before != {"absent"}:
            self.versions.open_window(parcel)
        if step.beside in PUBLISHES and not parcel.window and before != {"absent"}:
            self.versions.open_window(parcel)
        if "--take-lock" in step.options:
            for other in self.scene.parcels.values():
                other.lock_lost |= other is not parcel and other.states != {"absent"}
        result, seconds, waited = self.incidents.run(parcel, step, arguments)
        if waited:
            self.scene.note("the link was mended, for it waited")
            plain = self.forecast.outcomes(parcel, step)
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
            if self.scene.conflicts.take_fork(result, window.low, window.flushed):
                self.scene.note("its work is a fork")
        if step.command == "branch" and result.code == 0:
            self._look_at_branch(arguments[-1], self.scene.auditor.versions[target], step.chance)
        if step.command in ("export", "log", "branch"):
            return result.code
        parcel.states = states
        allowed, may_boot = self.forecast.starts(parcel, step, before, target)
        if step.command == "rollback" and result.code == 0:
            self.versions.find_copy(parcel, target)
        if step.settle:
            self.observer.observe(parcel, step, result.code, (allowed, may_boot), target, before)
        return result.code

    def _arguments(self, step):
        """Returns the arguments of the command line, and the version that they name, if any."""
        numbers, name, target = sorted(self.scene.auditor.versions), PARCEL, None
        if step.command in ("rollback", "branch") or "@" in step.options:
            target = numbers[int(step.chance * len(numbers))]
            name = f"{PARCEL}@{target}"
        options = [o for o in step.options if o != "@"]
        if step.command == "export":
            file = self.scene.place.world.new_file("export")
            file.unlink()
            options += ["--raw", file]
        if step.command == "branch":
            options.append(self.scene.conflicts.new_branch())
        if step.command in ("start", "poweroff", "discard", "rollback"):
            options.append("--yes")
        if step.command == "stop":
            options += ["--timeout", "40s", "--kill"]
        return [step.command, name, *options], target

    def _look_at_branch(self, name, original, chance):
        self.scene.auditor.take_branch(name, original)
        if original.suspended and chance < 0.3:
            self.scene.conflicts.prove(name, original.moment, False)

    def finish(self, most):
        """Publishes the remaining work, rechecks every version, and resumes `most` of those that were not resumed yet."""
        for name in list(self.scene.cut):
            self.scene.mend(name)
        for parcel in self.scene.parcels.values():
            self._gather(parcel)
        for version in self.scene.auditor.versions.values():
            self.scene.auditor.recheck(version)
        self.scene.conflicts.settle_forks()
        unproven = [v for v in self.scene.auditor.versions.values() if v.suspended and not v.proven]
        for version in unproven[::-1][:most]:
            self._prove(version)
        self.scene.auditor.host.run("check", "--deep")

    def _gather(self, parcel):
        if parcel.states != {"absent"}:
            self.versions.open_window(parcel)
        result = parcel.host.run("suspend", PARCEL, expect=(0, expected.FORKED) if parcel.lock_lost else 0)
        if result.code == expected.FORKED:
            self.scene.conflicts.take_fork(result, parcel.window.low, parcel.window.flushed)
        if parcel.run:
            parcel.run.end()
            parcel.heard()
        parcel.states = {"absent"}
        if parcel.content or parcel.window:
            self.versions.open_window(parcel)
        self.versions.find(parcel)
        self.scene.say(f"         {parcel.name}  suspend  exit {result.code}")
        expect(STATES[self.observer.settled(parcel)["state"]] == "absent", "a suspended parcel is still here")

    def _prove(self, version):
        began = time.monotonic()
        self.scene.conflicts.prove(f"{PARCEL}@{version.number}", version.moment, bool(self.scene.locks_left))
        version.proven = True
        self.scene.say(f"{place.seconds_since(began):5.1f} s  version {version.number} goes on")
