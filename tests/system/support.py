"""The frame of a system test: hosts, servers, guests, and a check that nothing is left behind.

A test is a program:  python3 NAME_test.py PATH-OF-ISR

    import support

    def test_something(world):
        server = world.serve()
        a = world.host("a")
        a.run("repo", "init", server.url, "--user", "alice")
        ...

    support.main(test_something)

A World is one test's temporary folder. At its end it kills every process whose command
line or environment names that folder, and removes every mount below it. A test that
left any of these fails, even if it succeeded otherwise.
"""
import contextlib
import fcntl
import inspect
import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

from expectations import Failure, expect, expect_equal, wait_until
from servers import Link, Server, StaticServer, free_port  # pylint: disable=unused-import

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent
SCRIPTS = PROJECT / "scripts"
ISR = pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else PROJECT / "build" / "release" / "isr"

# Deadlines catch hangs, not slowness, because machines that run tests are busy.
COMMAND_TIMEOUT = 180
GUEST_TIMEOUT = 180
PASSWORD = "correct horse battery staple 7f3a"


class Result:
    """The exit code and output of a finished command."""

    def __init__(self, arguments, code, out, err):
        self.arguments, self.code, self.out, self.err = arguments, code, out, err

    @property
    def json(self):
        """Returns the output as a JSON document; the last one if there are several."""
        return json.loads(self.out.strip().splitlines()[-1])

    def __str__(self):
        return f"isr {' '.join(map(str, self.arguments))}: exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class Host:
    """A user's computer, simulated by home and XDG folders of its own. Several hosts share this machine."""

    def __init__(self, world, name, password=PASSWORD):
        self.world, self.name = world, name
        self.home = world.folder / name
        self.runtime = self.home / "run"
        self.state = self.home / "state" / "isr"
        self.cache = self.home / "cache" / "isr"
        self.config = self.home / "config" / "isr"
        self.home.mkdir()
        self.runtime.mkdir(mode=0o700)
        self.password_file = self.home / "password"
        self.password_file.write_text(password + "\n")
        self.password_file.chmod(0o600)
        self.variables = {"ISR_PASSWORD_FILE": str(self.password_file)}
        self.under = []  # a program, with its arguments, that starts isr

    def environment(self):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ISR_", "XDG_"))}
        return kept | {
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "XDG_STATE_HOME": str(self.home / "state"),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "XDG_RUNTIME_DIR": str(self.runtime),
        } | self.variables

    def start(self, *arguments, **options):
        """Starts isr; the caller waits for it or kills it. Takes the options of subprocess.Popen."""
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("env", self.environment())
        return subprocess.Popen([*map(str, self.under), str(ISR), *map(str, arguments)], **options)

    def run(self, *arguments, expect=0, timeout=COMMAND_TIMEOUT, stdin=None, json=False, meanwhile=None):
        """Runs isr to its end. `expect`: the exit code wanted, several, or None for any. `meanwhile`: called with the
        process once it runs. Returns a Result; with json=True (adds --json) the document it printed."""
        if json:
            arguments = ("--json", *arguments)
        # Output goes into files, because a daemon that keeps a pipe open would keep us waiting.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = self.start(*arguments, stdout=out, stderr=err, stdin=subprocess.PIPE if stdin else subprocess.DEVNULL)
            try:
                if meanwhile:
                    meanwhile(process)
                process.communicate(stdin.encode() if isinstance(stdin, str) else stdin, timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            out.seek(0), err.seek(0)
            result = Result(arguments, process.returncode, out.read(), err.read())
        wanted = (expect,) if isinstance(expect, int) else expect
        if wanted is not None and result.code not in wanted:
            raise Failure(f"on host {self.name}, expected exit {expect} within {timeout} s\n{result}")
        return result.json if json else result

    def stat(self, name):
        return self.run("stat", name, json=True)

    def add_repository(self, url, user="alice", name="home"):
        return self.run("repo", "add", name, url, "--user", user)

    def init_repository(self, url, user="alice"):
        return self.run("repo", "init", url, "--user", user, "--recovery-file", self.home / "recovery-key")

    def replace_qemu(self, script, program="qemu-system-x86_64"):
        """Replaces this host's QEMU by a shell script, which gets little of our environment. "$QEMU" in it is the real
        program, which runs after the script. An empty script restores the real program."""
        programs = self.home / "programs"
        programs.mkdir(exist_ok=True)
        qemu = programs / program
        qemu.write_text(f'#!/bin/sh\nQEMU={shutil.which(program)}\n{script}\nexec "$QEMU" "$@"\n')
        qemu.chmod(0o700)
        self.variables["PATH"] = f"{programs}:/usr/bin:/bin"

    def console(self, name):
        """Listens to the guest of a running parcel from now on."""
        return Console(self, name)

    def daemon_logs(self):
        return sorted(self.state.glob("*/*/parcels/*/daemon.log"))


def on_terminal(host, arguments, talk):
    """Runs isr on a terminal of its own. `talk` is a list of (text to wait for, text to type). Returns (exit code, screen)."""
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {k: v for k, v in host.environment().items() if k != "ISR_PASSWORD_FILE"}
        os.execve(ISR, [str(ISR), *map(str, arguments)], environment)
    screen, seen, talk, end = b"", 0, list(talk), time.monotonic() + 30
    while time.monotonic() < end:
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            got = os.read(terminal, 4096)
        except OSError:
            break
        if not got:
            break
        screen += got
        if talk and talk[0][0] in screen[seen:]:
            seen = len(screen)
            os.write(terminal, talk.pop(0)[1])
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), screen.decode()


class Console:
    """The output of a guest on one host, from its start or resume to its end there."""

    def __init__(self, host, name):
        self.host = host
        self.path = host.world.new_file("console")
        with open(self.path, "wb") as out:
            self.process = host.start("console", name, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.DEVNULL)

    def text(self):
        return self.path.read_bytes().decode("latin-1")

    def lines(self):
        """Returns whole lines only. The guest may be in the middle of one, or was when it was suspended."""
        return [line.rstrip("\r") for line in self.text().split("\n")[:-1]]

    def find(self, pattern):
        """Returns the first groups (or whole texts) of all whole lines that match."""
        matches = (re.fullmatch(pattern, line) for line in self.lines())
        return [m.group(1) if m.re.groups else m.group(0) for m in matches if m]

    def wait(self, pattern, count=1, timeout=GUEST_TIMEOUT):
        """Waits until `count` lines match. Raises Failure when the guest reports damage or the time is over."""
        def enough():
            self.check()
            found = self.find(pattern)
            return found if len(found) >= count else None
        try:
            return wait_until(enough, f'guest on host {self.host.name} says {count} x "{pattern}"', timeout, every=0.2)
        except Failure as failure:
            raise Failure(f"{failure}\n--- the console's end\n{self.text()[-2000:]}") from None

    def check(self):
        bad = self.find(r"(?:MEM|SECTORS) BAD.*")
        expect(not bad, f"the guest found damage: {bad}")

    def ticks(self):
        return [int(n) for n in self.find(r"TICK (\d+)")]

    def flushed(self):
        """Returns the highest sector whose flush was answered to the guest."""
        return max((int(n) for n in self.find(r"DISK (\d+)")), default=0)

    def cable(self):
        """Returns whether the guest's network cable is in, and how often it was put in or out."""
        self.type("cable")
        said = self.wait(r"CABLE ([01] changes=\d+)", count=len(self.find("CABLE .*")) + 1)[-1]
        is_in, changes = said.split(" changes=")
        return is_in == "1", int(changes)

    def type(self, line):
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def close(self):
        self.process.kill()
        self.process.wait()


def expect_continuation(before, after):
    """Checks that the guest's counter went on from one console to the next without a gap.

    One line that the guest printed at the moment of a suspend may be lost, but not
    more than one."""
    expect(after.find(r"BOOT .*") == [], "the guest booted again instead of going on")
    last, ticks = before.ticks()[-1], after.ticks()
    expect(ticks[0] in (last + 1, last + 2), f"the counter went from {last} to {ticks[0]}")
    expect_equal(ticks, list(range(ticks[0], ticks[0] + len(ticks))), "ticks")


class World:
    """One test's folder, with its hosts and servers. Ends all of them."""

    def __init__(self, name):
        # The path is short, because sockets lie below it, and a socket's path has 107 bytes at most.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"isr-{name[:12]}-", dir="/tmp"))
        self.hosts, self.services, self.files = {}, [], 0

    def host(self, name, **options):
        self.hosts[name] = Host(self, name, **options)
        return self.hosts[name]

    def service_host(self):
        return self.hosts.get("service") or self.host("service")

    def serve(self, root=None, options=()):
        self.services.append(Server(self, root or self.new_folder("repository"), *options))
        return self.services[-1]

    def static_server(self, root, tls=""):
        self.services.append(StaticServer(self, root, tls))
        return self.services[-1]

    def new_file(self, name):
        self.files += 1
        path = self.folder / f"{self.files}.{name}"  # the number comes first, so that the suffix stays
        path.touch()
        return path

    def new_folder(self, name):
        self.files += 1
        path = self.folder / f"{name}.{self.files}"
        path.mkdir()
        return path

    def mounts(self):
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as mounts:
            targets = [re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split()[1]) for line in mounts]
        return [t for t in targets if t.startswith(f"{self.folder}/")]

    def processes(self, folder=None):
        """Returns process ids and command lines of all processes of this world, or of the host with that home."""
        wanted, found = os.fsencode(folder or self.folder), {}
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            for part in ("cmdline", "environ"):
                with contextlib.suppress(OSError), open(f"{entry.path}/{part}", "rb") as file:
                    if wanted in file.read():
                        found[int(entry.name)] = pathlib.Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" ").decode("latin-1")
        return found

    def daemons(self):
        """Returns the process ids of daemons. They hide their environment, so `isr stat` gives the ids."""
        for host in self.hosts.values():
            with contextlib.suppress(Exception):
                for parcel in host.run("ls", "--local", json=True, timeout=15)["parcels"]:
                    with contextlib.suppress(Exception):
                        yield host.stat(parcel["name"])["daemon_pid"]

    def leftovers(self):
        """Describes processes and mounts that should have ended by themselves. Waits a little for those that are ending."""
        def gone():
            return not self.processes() and not self.mounts()
        with contextlib.suppress(Failure):
            wait_until(gone, "everything ends", timeout=10)
        return [f"process {pid}: {line}" for pid, line in self.processes().items()] + [f"mount {m}" for m in self.mounts()]

    def end(self, failed):
        for service in self.services:
            if service.process.poll() is None:
                with contextlib.suppress(Exception):
                    service.stop()
        left = [] if failed else self.leftovers()
        if failed and os.geteuid() != 0:
            for pid in list(self.daemons()):
                kill(pid)
        for pid in self.processes():
            kill(pid)
        wait_until(lambda: not self.processes(), "killed processes end", timeout=30)
        for mount in reversed(self.mounts()):
            if subprocess.run(["umount", "-l", mount], stderr=subprocess.DEVNULL, check=False).returncode:
                subprocess.run(["fusermount3", "-u", "-z", mount], check=False)
        if failed and os.environ.get("ISR_TEST_KEEP"):
            print(f"files are kept in {self.folder}", file=sys.stderr)
        else:
            shutil.rmtree(self.folder)
        expect(not left, "left behind:\n  " + "\n  ".join(left))

    def say_logs(self):
        for host in self.hosts.values():
            for log in host.daemon_logs():
                print(f"--- {log}\n{log.read_text(errors='replace')[-4000:]}", file=sys.stderr)


def kill(pid):
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def stop_process(pid):
    """Stops a process with SIGSTOP. Returns once none of its threads runs any more: the kernel stops a thread that is in a
    call only when it returns from there, and until then others may go on."""
    def are_stopped():
        states = []
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):  # a thread that has just ended
                states.append((task / "stat").read_text().rpartition(")")[2].split()[0])
        return set(states) <= set("TtZX")
    os.kill(pid, signal.SIGSTOP)
    wait_until(are_stopped, f"process {pid} is stopped")


def guest_image(*options):
    """Returns the path of a test guest's raw disk, which is built once for each set of make-guest
    options and kept beside the isr binary. Callers may read and copy it, but never write to it."""
    key = re.sub(r"[^A-Za-z0-9.=]+", "_", "guest" + "".join(options))
    folder = ISR.parent / "test-guests" / key
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / "guest.raw"
    newest = max(path.stat().st_mtime for path in (SCRIPTS / "make-guest", PROJECT / "tests" / "guest" / "guest.c"))
    with open(folder / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.exists() or image.stat().st_mtime < newest:
            subprocess.run([SCRIPTS / "make-guest", *options, folder], check=True, stdout=subprocess.DEVNULL)
    return image


def check_guest_disk(image, at_least):
    """Checks that every sector that the guest has flushed is on the image. Returns the highest sector there."""
    checked = subprocess.run([SCRIPTS / "check-guest-disk", image, "--at-least", str(at_least)], capture_output=True,
                             text=True, check=False)
    expect(checked.returncode == 0, f"check-guest-disk: {checked.stderr}")
    return int(re.search(r"highest seq (\d+)", checked.stdout).group(1))


def same_bytes(first, second):
    return subprocess.run(["cmp", "--silent", first, second], check=False).returncode == 0


def run_test(test):
    name = test.__name__.removeprefix("test_")
    began = time.monotonic()
    world = World(name)
    failed = True
    try:
        try:
            test(world)
            failed = False
        finally:
            if failed:
                world.say_logs()
            world.end(failed)
    except Exception:  # pylint: disable=broad-except
        traceback.print_exc()
        failed = True
    print(f"{'FAILED' if failed else 'ok'}  {name}  ({time.monotonic() - began:.1f} s)", flush=True)
    return not failed


def stop_on_signals():
    """Makes SIGTERM clean up, too, because CTest sends it to a test that takes too long."""
    def stop(number, _):
        raise SystemExit(128 + number)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)


def main(*tests):
    """Runs the tests, or those that further arguments name, and exits with their result."""
    stop_on_signals()
    os.umask(0o077)
    wanted = sys.argv[2:]
    chosen = [t for t in tests if not wanted or t.__name__ in wanted or t.__name__.removeprefix("test_") in wanted]
    expect(chosen, f"no such test: {wanted}; there are {[t.__name__ for t in tests]}")
    expect(ISR.exists(), f"{ISR} is not there; {inspect.getsourcefile(tests[0])} wants the path of isr")
    results = [run_test(test) for test in chosen]
    sys.exit(0 if all(results) else 1)
