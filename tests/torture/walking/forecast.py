"""Forecasts the answers of a command, and the states after it, in the present situation of a walk."""
from walking import expected


class Forecast:
    def __init__(self, scene):
        self.scene = scene

    def circumstances(self, parcel, step):
        online = parcel.name not in self.scene.cut
        if step.event in ("cut", "kill server"):
            online = None
        others = [p for p in self.scene.parcels.values() if p is not parcel]
        lock = "free"
        if parcel.lock_lost:
            lock = "taken"
        elif any("absent" not in p.states and not p.lock_lost for p in others):
            lock = "other"
        elif any(p.states != {"absent"} for p in others) or self.scene.locks_left - {parcel.name}:
            lock = None
        content = parcel.content if "absent" not in parcel.states else self.scene.auditor.newest
        known = not any(p.window for p in self.scene.parcels.values()) and content and parcel.state and "@" not in step.options
        base = ("suspended" if content.suspended else "off") if known else None
        return {"online": online, "lock": lock, "base": base}

    def outcomes(self, parcel, step):
        circumstances = self.circumstances(parcel, step)
        if step.command in ("export", "log"):
            return {(0, s) for s in parcel.states} | ({(13, s) for s in parcel.states} if circumstances["online"] is not True else set())
        found = set()
        for state in parcel.states:
            found |= expected.outcomes(state, step.command, step.options, **circumstances)
        return found

    def add_both(self, parcel, step, codes, states):
        """Adds the codes of the step's command and the states after both commands, of which either may be the first."""
        circumstances = self.circumstances(parcel, step)
        for _ in range(2):
            for command in (step.command, step.beside):
                for state in list(states | parcel.states):
                    found = expected.outcomes(state, command, step.options, **circumstances)
                    states |= {after for _, after in found}
                    if command == step.command:
                        codes |= {code for code, _ in found}

    def starts(self, parcel, step, before, target):
        """Returns the moments from which a VM started by this command may go on (None: not known), and whether it may
        boot."""
        if step.command == "start":
            return [], True
        moments, may_boot = [], False
        for state in before:
            if state == "absent":
                if len(before) > 1 and parcel.run:
                    continue  # it has published its own suspend
                version = self.scene.auditor.versions[target] if target else self.scene.auditor.newest
                if any(p.window for p in self.scene.parcels.values()):
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
