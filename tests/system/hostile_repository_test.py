"""Tests a repository that lies: each command ends soon, needs little memory, returns a documented exit code, and accepts
no lie.

Prints the highest cost of each lie: seconds and MiB of a command, MiB of the daemons behind it."""
import contextlib
import itertools
import os
import pathlib
import re
import shutil
import signal
import sys

import race_test
import support
import writing
from support import expect, wait_until

sys.path.append(str(support.PROJECT / "tests" / "support"))
from hostile_server import Answer, HostileServer  # pylint: disable=wrong-import-position

MIB = 1 << 20
LONGEST = 30  # seconds: a bound for a hang; the printed times should stay below 5 s
MOST = 100  # MiB
SCRYPT = 128  # MiB more when a command needs the password
STAMP = 64 << 10  # the offset of the bytes that differ in each version of the disk
FINE = {"ls": 0, "log": 0, "export": 0, "mount": 0, "checkout": 0}


def all_of(code, **others):
    """Returns the exit codes of all commands. ls succeeds, because it lists each parcel with its problem."""
    return dict.fromkeys(FINE, code) | {"ls": 0} | others


class Stage:
    """A repository with one parcel: versions 1 and 2, and a fork beside 2. Host `known` has seen version 2. Each host of
    fresh() has the address and the keys, and has seen no version."""

    def __init__(self, world):
        self.world, self.count, self.most, self.exit_codes = world, 0, [], {}
        root = self.root = world.new_folder("repository")
        self.server = HostileServer(world.serve(root).port)
        self.known, self.added, other = (world.host(name) for name in ("known", "added", "other"))
        self.known.init_repository(self.server.url)
        chance = writing.chance()
        image, _ = writing.small_disk(world, chance, size=MIB)
        self.known.run("import", "work", image)
        for host in (self.added, other):
            host.add_repository(self.server.url)
        self.stamps = {"1": image.read_bytes()[STAMP:][:4096]}
        self.stamps["fork"] = race_test.write_stamp(writing.check_out(other, "work"), chance)
        self.stamps["2"] = race_test.write_stamp(writing.check_out(self.known, "work", "--take-lock"), chance)
        self.known.run("checkin", "work")
        other.run("checkin", "work", expect=17)
        self.parcel = next(root.glob("parcels/*")).relative_to(root).as_posix()
        self.head_name = f"{self.parcel}/heads/{2:016}"
        self.heads = {"1": (root / self.parcel / "heads" / f"{1:016}").read_bytes(),
                      "2": (root / self.head_name).read_bytes(),
                      "fork": next(root.glob("parcels/*/forks/*/*")).read_bytes()}
        self.limit = self.log_in()

    def log_in(self):
        """Logs in once for all hosts, because they share one user and one kernel. Without a keyring each command needs the
        password, and so the memory of scrypt. Returns the memory limit of a command in MiB."""
        logged_in = self.known.run("login", expect=None).code == 0
        for host in (self.known, self.added) if logged_in else ():
            host.variables.pop("ISR_PASSWORD_FILE")
        return MOST if logged_in else MOST + SCRYPT

    def end(self):
        self.server.lie = None
        self.known.run("logout", expect=None)
        self.server.stop()

    def fresh(self, password=False):
        self.count += 1
        host = self.world.host(f"fresh{self.count}")
        shutil.rmtree(host.home)
        shutil.copytree(self.added.home, host.home)
        if self.limit == MOST and not password:
            host.variables.pop("ISR_PASSWORD_FILE")
        return host

    def run(self, host, codes, *arguments, limit=None, meanwhile=None):
        """Runs a command under the current lie and checks its exit code, time and memory."""
        cost = self.world.new_file("cost")
        host.under = [sys.executable, support.PROJECT / "tests" / "support" / "peak.py", cost, LONGEST]
        try:
            result = host.run(*arguments, expect=None, timeout=2 * LONGEST, meanwhile=meanwhile)
        finally:
            host.under = []
        seconds, peak = map(float, cost.read_text().split())
        daemons = [self.peak_of(pid) for pid in self.world.processes(host.home)]
        self.most.append((seconds, peak, max(daemons, default=0)))
        said = f"{result} ({seconds:.1f} s, {peak:.0f} MiB, daemons {daemons})"
        codes = (codes,) if isinstance(codes, int) else codes
        command = next(word for word in arguments if word != "--json")
        expect(result.code in {*self.documented(command), 130}, f"not in isr {command} --help: {said}")
        expect(seconds < LONGEST, f"{host.name}: it hangs: {said}")
        expect(result.code in codes, f"{host.name}: expected exit {codes}: {said}")
        expect(max([peak, *daemons]) <= (limit or self.limit), f"{host.name}: too much memory: {said}")
        return result

    def documented(self, command):
        if command not in self.exit_codes:
            said = self.known.run(command, "--help").out.partition("Exit codes\n")[2]
            self.exit_codes[command] = [int(code) for code in re.findall(r"^  (\d+) ", said, re.MULTILINE)]
        return self.exit_codes[command]

    @staticmethod
    def peak_of(pid):
        with contextlib.suppress(OSError, AttributeError):
            status = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii")
            return int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) / 1024
        return 0

    def command(self, host, name, codes, believed):
        """Runs one command; the disk that it shows must be one of the versions `believed`."""
        stamp = None
        if name == "export":
            target = self.world.new_file("export")
            target.unlink()
            if self.run(host, codes, "export", "work", "--raw", target).code == 0:
                stamp = target.read_bytes()[STAMP:][:4096]
            target.unlink(missing_ok=True)
        elif name == "mount":
            look = self.world.new_folder("look")
            if self.run(host, codes, "mount", "work", look).code == 0:
                stamp = self.read(look / "disk.raw")
                host.run("umount", look)
        elif name == "checkout":
            done = self.run(host, codes, "--json", "checkout", "work")
            if done.code == 0:
                stamp = self.read(os.path.join(done.json["mount"], "disk.raw"))
            self.server.lie = None
            if done.code == 0:
                host.run("checkin", "work")
            else:  # the checkout may have taken the lock
                self.known.run("lock", "break", "work", "--yes", "--reason", "test", expect=None)
        else:
            self.run(host, codes, name, *(["work"] if name == "log" else []))
        shown = [version for version, bytes_ in self.stamps.items() if stamp == bytes_]
        expect(stamp is None or shown[:1] and shown[0] in believed, f"{host.name}: isr {name} showed version {shown}")

    @staticmethod
    def read(disk):
        with open(disk, "rb") as file:
            file.seek(STAMP)
            return file.read(4096)

    def case(self, title, make_lie, known, fresh, believed="2", only=FINE):
        """Runs commands under a lie. `make_lie` makes a new lie for each command; `known` and `fresh` are the exit codes
        that each host must return."""
        self.most = []
        for host_is_known, codes in ((True, known), (False, fresh)):
            for name in only:
                host = self.known if host_is_known else self.fresh()
                self.server.lie = make_lie()
                try:
                    self.command(host, name, codes[name], believed)
                finally:
                    self.server.lie = None
        self.say(title)

    def say(self, title):
        seconds, peak, daemon = (max(column) for column in zip(*self.most))
        print(f"    {seconds:5.2f} s  {peak:4.0f} MiB  daemons {daemon:4.0f} MiB  {title}", flush=True)


def of_head(stage, *order):
    """Makes a lie: GETs of version 2 return these heads in turn, then the last one for ever."""
    def make():
        left = itertools.chain(order, itertools.repeat(order[-1]))
        return lambda request: (Answer(200, stage.heads[next(left)])
                                if request.method == "GET" and request.name == stage.head_name else None)
    return make


def two_answers_for_one_head(stage):
    maybe = all_of((0, 15))
    stage.case("version 2, then its fork", of_head(stage, "2", "fork"), maybe, maybe)
    refused = all_of(15)
    stage.case("its fork, then version 2", of_head(stage, "fork", "2"), refused, maybe, believed=("fork",))
    stage.case("version 1 in its place", of_head(stage, "1"), all_of((14, 15)), all_of((14, 15)), believed="")

    def rolled_back():
        return lambda request: {stage.head_name: Answer(404), f"{stage.parcel}/latest": Answer(200, b"%016d\n" % 1)
                                }.get(request.name)
    stage.case("version 2 gone", rolled_back, refused, FINE, believed="1")
    # A fork is signed, so a host that has seen no version takes it for the version and then keeps to it.
    deceived = stage.fresh()
    stage.server.lie = of_head(stage, "fork")()
    stage.command(deceived, "export", 0, ("fork",))
    stage.server.lie = None
    for name in ("log", "export", "checkout"):
        stage.command(deceived, name, 15, "")
    for name in FINE:
        stage.command(stage.known, name, 0, "2")


def says_yes(request):
    return Answer(200, length=100) if request.method == "HEAD" else None


def everything_is_there_or_taken_or_kept(stage):
    stage.case("HEAD says yes", lambda: says_yes, FINE, FINE)
    for number, (title, lie, code) in enumerate((
            ("HEAD says yes", says_yes, (0, 14)),
            ("PUT: taken", lambda request: Answer(412) if request.method == "PUT" else None, 14),
            ("PUT: kept, and is not", lambda request: Answer(201) if request.method == "PUT" else None, 14))):
        stage.most = []
        host = stage.fresh()
        stage.server.lie = lie
        stage.run(host, code, "branch", "work", f"lab{number}")
        if "PUT" in title:
            stage.run(host, 14, "checkout", "work")
        stage.server.lie = None
        stage.say(f"writing: {title}")
        host.run("log", "work")


def numbers_without_end(request, each):
    first = int(request.after.rsplit("/", 1)[1]) + 1 if request.after else 1
    names = (f"{request.prefix}{n:016}\n" for n in range(first, first + each))
    return Answer(200, "".join(names).encode() + b".more\n")


def names_without_end(request):
    return Answer(200, itertools.chain((request.prefix.encode(),), itertools.repeat(b"a" * 65536)))


def many_short_names(request):
    room = (MIB - 6) // (len(request.prefix) + 6)
    first = int(request.after.rsplit("/", 1)[1], 16) + 1 if request.after else 0
    return Answer(200, "".join(f"{request.prefix}{n:05x}\n" for n in range(first, first + room)).encode() + b".more\n")


def many_forks(request):
    names = (f"{request.prefix}evil-0000/{n:016}\n" for n in range(1, 12000))
    return Answer(200, "".join(names).encode() + b".end\n") if request.prefix.endswith("/forks/") else None


def lists_without_end(stage):
    def listing(answer, others=lambda _: None):
        return lambda: lambda request: answer(request) if request.prefix else others(request)

    def full(request):
        return numbers_without_end(request, 16000)

    def short(request):
        return numbers_without_end(request, 1)
    fine_or_damaged = all_of((0, 14))
    stage.case("a list of full pages", listing(full), FINE, FINE)
    stage.case("a list of pages of one name", listing(short), FINE, FINE)
    stage.case("a list of pages of short names", listing(many_short_names), FINE, FINE, only=("ls", "log", "checkout"))
    stage.case("12000 forks that are not there", listing(many_forks), FINE, FINE, only=("ls", "log", "checkout"))
    stage.case("a list of full pages, and HEAD says yes", listing(full, says_yes), fine_or_damaged, fine_or_damaged)
    stage.case("a page without end", listing(names_without_end), fine_or_damaged, fine_or_damaged)


def lie_of_junk(stage, name, content):
    """Makes a lie: a blob that the repository does not have exists with this content, also in lists."""
    def lie(request):
        if request.name == name and request.method in ("GET", "HEAD"):
            return Answer(200, content)
        if request.name == name and request.method == "PUT":
            return Answer(412)
        if request.prefix and name.startswith(request.prefix):
            names = {*stage.server.truth(request).pieces[0].decode().splitlines(), name} - {".end"}
            return Answer(200, "".join(f"{listed}\n" for listed in sorted(names)).encode() + b".end\n")
        return None
    return lie


JUNK = {"nothing": b"", "a word": b"junk", "more than a blob": b"x" * (MIB + 1)}


def junk_in_place(stage):
    def case(place, name, content, known, fresh, only):
        stage.case(f"junk {place}", lambda: lie_of_junk(stage, name, content), known, fresh, only=only)
    refused, everywhere = all_of(15), dict.fromkeys(FINE, 15)
    locks = len(list((stage.root / stage.parcel / "locks").iterdir()))
    profile = len(list((stage.root / "users/alice/profile/heads").iterdir()))
    for what, content in JUNK.items():
        case(f"behind the heads: {what}", f"{stage.parcel}/heads/{3:016}", content, FINE, refused,
             FINE if what == "a word" else ("log", "export"))
        case(f"behind the locks: {what}", f"{stage.parcel}/locks/{locks + 9:016}", content, FINE, FINE, ("ls", "checkout"))
        case(f"among the forks: {what}", f"{stage.parcel}/forks/evil-0000/{3:016}", content, FINE, FINE, ("log",))
        case(f"behind the profile: {what}", f"users/alice/profile/heads/{profile + 1:016}", content, FINE, everywhere,
             ("ls", "export"))
        junk_behind_the_keybox(stage, what, content)


def junk_behind_the_keybox(stage, what, content):
    """Tests junk as a newer keybox. A host with a keybox that opened uses that one; another host cannot know of an older
    keybox."""
    host = stage.fresh(password=True)
    stage.most = []
    for code in (0, 14):
        stage.server.lie = lie_of_junk(stage, f"users/alice/keybox/{2:016}", content)
        stage.run(host, code, "log", "work", limit=MOST + SCRYPT)
        stage.server.lie = None
        shutil.rmtree(host.state)
    stage.say(f"junk behind the keybox: {what} (with the {SCRYPT} MiB of the password)")


def answers_that_are_too_long_or_do_not_end(stage):
    def of_parcel(answer):
        def lie(request):
            return answer if request.name.startswith(stage.parcel) and request.method != "PUT" else None
        return lambda: lie
    damaged = all_of((13, 14, 15))
    for title, answer in (
            ("blobs without end", Answer(200, itertools.repeat(b"a" * 65536))),
            ("blobs above 1 MiB", Answer(200, b"a" * (MIB + 1))),
            ("more than the length says", Answer(200, b"a" * 200, length=100)),
            ("headers without end", Answer(200, headers=[(f"X-{n}", "y" * 1000) for n in range(500)])),
            ("another part than asked for", Answer(206, b"a" * 100, headers=[("Content-Range", "bytes 0-99/100")]))):
        is_damage = title.startswith("blobs")  # the others look like a bad line, and isr retries them
        stage.case(title, of_parcel(answer), damaged, damaged, only=("ls", "log", "export", "checkout") if is_damage else ("export",))
    # At a byte a second ls gives up soon; other commands have patience for slow networks and can be interrupted.
    drip = of_parcel(Answer(200, itertools.repeat(b"a"), length=1000, pause=1))
    stage.case("a byte a second", drip, FINE, FINE, only=("ls",))

    def faster(request):  # faster than isr's limit for a slow answer, but a page of the list would take half an hour
        return Answer(200, itertools.repeat(b"a" * 200), length=MIB, pause=0.3) if request.prefix else None
    stage.case("lists of 600 bytes a second", lambda: faster, all_of(13, ls=13), all_of(13, ls=13), only=("ls",))
    stage.most = []
    for host in (stage.known, stage.fresh()):
        stage.server.lie, asked = drip(), stage.server.requests

        def interrupt(process):
            wait_until(lambda: stage.server.requests >= asked + 6, "it asks")
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGINT)
        stage.run(host, 130, "export", "work", "--raw", stage.world.folder / "none", meanwhile=interrupt)
        stage.server.lie = None
    stage.say("a byte a second, interrupted")


def test_a_repository_that_lies(world):
    stage = Stage(world)
    try:
        two_answers_for_one_head(stage)
        lists_without_end(stage)
        junk_in_place(stage)
        answers_that_are_too_long_or_do_not_end(stage)
        everything_is_there_or_taken_or_kept(stage)
    finally:
        stage.end()


if __name__ == "__main__":
    support.main(test_a_repository_that_lies)
