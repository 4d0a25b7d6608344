"""Plans the steps of a walk from its seed alone: the same seed gives the same commands.

The plan guesses the state after each step. Where the guess is wrong (a kill came too late, say), commands meet another
state than the planned one. That is harmless, because expected.py has the right answers for every state.
"""
import dataclasses
import random
import signal

# Choices that are not drawn because of a known defect: a whole choice, or the last word of several choices. Remove a line
# together with its defect.
AVOIDED = {
}

INTERRUPTS = (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
# The latest time of an event after the start of a command, in seconds.
LONGEST = {"suspend": 3.5, "sync": 1.5, "resume": 0.8, "start": 0.4, "stop": 2.5, "checkin": 2.5, "discard": 0.2}
STATES = ("absent", "off", "suspended", "running")

# The choices for each guessed state of a host's parcel, with weights: "command", "event" or "event command".
CHOICES = {
    "absent": {"resume": 9, "start": 1, "checkout": 1.5, "resume older": 1.5, "rollback": 1, "lose cache": 1,
               "interrupt resume": 1.5, "cut resume": 1, "kill daemon resume": 1, "export": 0.4, "log": 0.3,
               "suspend": 0.3, "sync": 0.2, "checkin": 0.2, "discard": 0.1, "poweroff": 0.1, "mapping": 1, "branch": 0.6,
            "interrupt branch": 0.3, "beside resume": 0.5, "beside checkout": 0.3},
    "off": {"resume": 3, "start": 2, "checkin": 2, "sync": 1.5, "discard": 1, "suspend": 1, "interrupt checkin": 1,
            "kill daemon": 1, "kill daemon checkin": 1, "cut checkin": 1, "kill server checkin": 0.5, "lose cache": 1,
            "stop": 0.3, "poweroff": 0.2, "checkout": 0.3, "rollback": 0.2, "mapping": 1, "branch": 0.3,
            "beside checkin": 0.5, "copied home": 0.5, "take resume": 0.3},
    "suspended": {"resume": 5, "suspend": 2, "sync": 1.5, "checkin": 1, "stop": 0.5, "start": 0.7, "poweroff": 0.5,
                  "discard": 0.7, "kill daemon": 1.5, "interrupt suspend": 1.5, "interrupt resume": 1.5,
                  "kill daemon suspend": 1.5, "kill daemon resume": 1, "cut suspend": 1.5, "cut resume": 1,
                  "kill server suspend": 1, "lose cache": 1.5, "pause daemon": 0.5, "checkout": 0.3, "mapping": 1,
                  "term daemon": 0.7, "branch": 0.3, "beside suspend": 0.5, "beside resume": 0.4, "copied home": 0.7,
                  "take resume": 0.3},
    "running": {"run": 4, "borrow": 1, "work": 0.7, "suspend": 4, "suspend here": 2.5, "sync": 5, "stop": 0.8,
                "poweroff": 0.6, "start": 0.2, "resume": 0.2, "checkin": 0.3, "discard": 0.2, "checkout": 0.2,
                "rollback": 0.1, "interrupt suspend": 3, "interrupt sync": 2, "interrupt stop": 0.5,
                "kill daemon": 1, "kill daemon suspend": 2, "kill daemon sync": 1.5, "kill qemu": 0.8,
                "kill qemu suspend": 0.8, "kill qemu sync": 0.5, "pause daemon": 0.6, "pause qemu": 0.6,
                "pause command suspend": 0.7, "pause command sync": 0.7, "cut sync": 2, "cut suspend": 2,
                "kill server sync": 1, "kill server suspend": 1, "lose cache": 1.5, "term daemon": 1, "branch": 0.4,
                "interrupt branch": 0.2, "beside suspend": 0.7, "beside sync": 0.7},
}
# The choices for a parcel that another host holds.
REFUSED = {"resume": 3, "start": 1, "checkout": 1, "rollback": 1, "export": 1, "log": 1, "suspend": 0.5, "sync": 0.3,
           "lose cache": 1, "mapping": 1, "branch": 0.5, "take resume": 1.2, "take checkout": 0.5}
EVENTS = ("interrupt", "cut", "kill daemon", "kill qemu", "kill server", "pause command", "beside")
# The second commands that a host may run during the first one.
BESIDE = {"suspend": ("suspend", "sync"), "sync": ("suspend", "sync"), "resume": ("resume", "checkout"),
          "checkin": ("checkin", "sync"), "checkout": ("checkout", "resume")}


@dataclasses.dataclass
class Step:
    """One step of a walk. `event` happens `moment` seconds after the start of the command (or alone, without a command)
    and is over after `length` seconds. `chance` chooses among things that only the walk itself knows, such as a version."""
    host: str
    event: str = ""
    command: str = ""
    options: tuple = ()
    beside: str = ""  # the other command of the event "beside"
    signal: int = 0
    moment: float = 0.0
    length: float = 0.0
    settle: bool = True  # wait until the daemon has nothing to do any more, before the next step
    chance: float = 0.0

    def __str__(self):
        text = " ".join((self.command, *self.options)) or self.event
        if self.command and self.event:
            what = signal.Signals(self.signal).name if self.signal else self.beside or self.event
            text += f" [{what} after {self.moment:.2f} s{f', for {self.length:.1f} s' if self.length else ''}]"
        return text


class Planner:
    def __init__(self, seed, hosts, with_server):
        self._chance = random.Random(seed)
        self._hosts, self._with_server = hosts, with_server
        self._states = {host: "absent" for host in hosts}
        self._again = {}  # host → the command that was interrupted
        self._newest_suspended = False
        self._cut = {}  # host → steps until its link is mended

    def steps(self, count):
        for _ in range(count):
            yield self._next()

    def _next(self):
        draw = self._chance
        for host in list(self._cut):
            self._cut[host] -= 1
            if self._cut[host] <= 0:
                del self._cut[host]
                return Step(host, event="mend link", chance=draw.random())
        host = self._choose_host()
        if host in self._again and draw.random() < 0.7:
            name = self._again[host]
        elif self._with_server and host not in self._cut and draw.random() < 0.04:
            self._cut[host] = draw.randint(2, 5)
            return Step(host, event="cut link", chance=draw.random())
        else:
            choices = REFUSED if self._is_refused(host) else CHOICES[self._states[host]]
            names = [name for name in choices if not self._is_avoided(name)]
            name = draw.choices(names, [choices[n] for n in names])[0]
        step = self._make(host, name)
        self._guess(step)
        return step

    def _is_avoided(self, name):
        without_server = not self._with_server and name.startswith(("cut", "kill server"))
        return without_server or name in AVOIDED or name.split()[-1] in AVOIDED

    def _holders(self):
        """Returns the hosts with a session; more than one after a take-over."""
        return [h for h, state in self._states.items() if state != "absent"]

    def _is_refused(self, host):
        holders = self._holders()
        return bool(holders) and host not in holders

    def _choose_host(self):
        holders = self._holders()
        if self._again and self._chance.random() < 0.8:
            return next(iter(self._again))
        if holders and self._chance.random() < 0.85:
            return self._chance.choice(holders)
        return self._chance.choice(self._hosts)

    def _make(self, host, name):
        draw = self._chance
        event = next((e for e in EVENTS if name.startswith(e + " ") or name == e), "")
        command = name[len(event):].strip() if event else name
        step = Step(host, event=event, chance=draw.random())
        if command in ("run", "borrow", "work", "lose cache", "mapping", "pause daemon", "pause qemu", "term daemon",
                       "copied home"):
            step.event = command
        elif command == "suspend here":
            step.command, step.options = "suspend", ("--no-upload",)
        elif command == "resume older":
            step.command, step.options = "resume", ("@",)
        elif command.startswith("take "):
            step.command, step.options = command.removeprefix("take "), ("--take-lock",)
        else:
            step.command = command
        if step.command == "resume":
            step.options += draw.choice(((), (), ("--prefetch", "none"), ("--prefetch", "ws")))
        if step.event == "mapping":
            step.options = (draw.choice(("private", "private", "shared")),)
        if step.event == "beside":
            step.beside = draw.choice(BESIDE[step.command])
        if step.event == "interrupt":
            step.signal = int(draw.choice(INTERRUPTS))
        step.moment = round(draw.uniform(0, LONGEST.get(step.command, 0.5)), 3)
        if step.event in ("cut", "kill server", "pause command", "pause qemu"):
            step.length = round(draw.uniform(0.2, 4), 1)
        if step.event == "interrupt":
            step.settle = draw.random() < 0.5 or "at once" in AVOIDED
        return step

    def _guess(self, step):
        """Guesses the state after the step."""
        host, before, command = step.host, self._states[step.host], step.command
        self._again.pop(host, None)
        if step.event in ("kill daemon", "kill qemu") and not command:
            if before == "running":
                self._states[host] = "off"
            return
        if self._is_refused(host) and "--take-lock" not in step.options:
            return
        if step.event and command:
            self._again[host] = command
            # The command may or may not have finished before the event; a wrong guess costs only a refusal.
            if step.event in ("kill daemon", "kill qemu") and before == "running":
                self._states[host] = "off"
                return
            if step.event == "interrupt" and command == "resume":
                self._states[host] = "running" if before == "running" else "suspended" if self._newest_suspended else "off"
                return
        self._states[host] = self._after(before, step)

    def _after(self, before, step):
        command = step.command
        base = "suspended" if self._newest_suspended else "off"
        if command == "suspend" and step.options:
            return "suspended" if before == "running" else before
        if command in ("suspend", "stop", "checkin") and before != "absent" and (command, before) != ("checkin", "running"):
            self._newest_suspended = before in ("running", "suspended") and command != "stop"
            return "absent"
        if command == "sync" and before != "absent":
            self._newest_suspended = before in ("running", "suspended")
        if command in ("resume", "start"):
            return "running"
        if command == "checkout" and before == "absent":
            return base
        if command == "poweroff" and before != "absent":
            return "off"
        if command == "discard" and before in ("off", "suspended"):
            return base
        return before
