"""Tables of the answers that a command may give in a state of the parcel, the lock and the network. They follow `isr help`
and the exit codes in the help of each command.

The states are those of src/session/session_state.h, as `isr stat` names them here:
    absent     not checked out here              suspended  memory kept here, no VM
    off        checked out, no memory            running    with a VM
"""

DONE, NOT_FOUND, LOCKED, OFFLINE, HISTORY, VM, FORKED, NO_DAEMON, INTERRUPTED = 0, 10, 11, 13, 15, 16, 17, 20, 130

ENDS = ("suspend", "stop", "checkin")
PUBLISHES = (*ENDS, "sync")
TAKES = ("resume", "start", "checkout", "rollback")


def outcomes(state, command, options, *, online, lock, base):
    """Returns {(exit code, state afterwards)}. `online`: True, False, or None for a network that fails in between. `lock`:
    "free", "other", None for either, or "taken": another host took the session's lock, so a resume may be refused and a
    publish may become a fork. `base`: the state after a fresh checkout or a discard, or None if it is not known."""
    bases = {base} if base else {"off", "suspended"}
    if command == "branch":
        return {(OFFLINE, state)} if online is False else {(DONE, state)} if online else {(DONE, state), (OFFLINE, state)}
    if lock == "taken":
        plain = outcomes(state, command, options, online=online, lock="free", base=base)
        if command in ("resume", "start", "checkout") and state != "running" and "--take-lock" not in options:
            return plain | {(LOCKED, state), (HISTORY, state)}
        if command in PUBLISHES and "--no-upload" not in options:
            return plain | {(FORKED, after) for _, after in plain} | {(FORKED, state)}
        return plain
    if state == "absent":
        if "--take-lock" in options:
            lock = "free"
        found = _absent(command, options, bases, lock)
        if online is not True and command in TAKES:
            found |= {(OFFLINE, "absent")}
        if online is False and command in TAKES:
            found = {(OFFLINE, "absent")}
        return found
    if command == "rollback" or "@" in options:
        return {(VM, state)}
    if command in ("resume", "start"):
        return {(VM, state)} if state == "running" else {(DONE, "running")}
    if command == "checkout":
        return {(DONE, state)}
    if command == "poweroff":
        return {(DONE, "off")}
    if command == "discard":
        return {(VM, state)} if state == "running" else {(DONE, b) for b in bases}
    if command == "suspend" and "--no-upload" in options:
        return {(DONE, "suspended" if state == "running" else state)}
    if command == "checkin" and state == "running":
        return {(VM, state)}
    done = {(DONE, "absent" if command in ENDS else state)}
    if command == "suspend":
        kept = {(OFFLINE, "suspended" if state == "running" else state)}
    elif command == "stop":
        kept = {(OFFLINE, "off" if state == "running" else state)}
    else:
        kept = {(OFFLINE, state)}
    if online is False and state != "running":
        return kept | done  # done: without changes there is nothing to upload
    return done if online else kept if online is False else done | kept


def _absent(command, options, bases, lock):
    if command in TAKES:
        taken = {"checkout": {(DONE, b) for b in bases}, "rollback": {(DONE, "absent")}}.get(command, {(DONE, "running")})
        return {"free": taken, "other": {(LOCKED, "absent")}, None: taken | {(LOCKED, "absent")}}[lock]
    return {(DONE if command in ENDS else NOT_FOUND, "absent")}


def states_after(event, state, command, plain):
    """Returns the possible states after an event hit the command, or the daemon or QEMU at work for it."""
    found = {state} | {after for _, after in plain}
    if command == "suspend" and state == "running":
        found |= {"suspended"}
    if command == "stop" and state == "running":
        found |= {"off"}
    if command in ("resume", "start", "checkout") and state == "absent":
        found |= {"off", "suspended"}
    if command == "start" and state == "suspended":
        found |= {"off"}
    if event.startswith(("kill daemon", "kill qemu")) and "running" in found:
        found |= {"off"}
    return found


def codes_after(event, number, plain):
    """Returns the possible exit codes of a command that an event hit. `number` is the signal of an interrupt."""
    codes = {code for code, _ in plain}
    if event == "interrupt":
        codes |= {INTERRUPTED, -number, DONE}
    elif event == "kill daemon":
        codes |= {NO_DAEMON, DONE}
    elif event == "kill qemu":
        codes |= {VM, DONE}
    elif event == "beside":
        codes |= {VM}  # in use by the other command
    elif event in ("cut", "kill server"):
        codes |= {OFFLINE}  # also for a parcel that is not here, whose name cannot be looked up
    return codes
