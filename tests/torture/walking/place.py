"""Where a walk happens: one repository, hosts of one user with a link each, and an auditor who reads the repository's
directory itself, whatever the links and the server do."""
import contextlib
import os
import pathlib
import shutil
import signal
import time

import support

MEMORY = "96M"  # the least that the test guest boots with
# Little of everything: sectors go round several times in a walk, memory is checked within a second.
GUEST = ("--append", "isr.fill=16 isr.churn=512 isr.tick=250 isr.rate=40 isr.verify=8192", "--data-size", "4")
PARCEL = "work"
# Answers that are promised within 5 s may take twice that on a machine that runs other things.
STAT_TIMEOUT = 10
COMMAND_TIMEOUT = 150
LEASE = "5"  # seconds: it runs out when a daemon stands still, or a link is cut
SUSPEND_TIMEOUT = 70  # of a daemon that is told to end: a minute


class Place:
    def __init__(self, world, hosts, with_server, link_options):
        self.world = world
        self.root = world.new_folder("repository")
        self.server = world.serve(self.root) if with_server else None
        self.hosts = {name: world.host(name) for name in (*hosts, "auditor")}
        for host in self.hosts.values():
            host.variables["ISR_LOCK_LEASE"] = LEASE
        self.links = {}
        first = self.hosts[hosts[0]]
        if with_server:
            self.links = {name: support.Link(world, self.server.port, *link_options) for name in hosts}
        first.init_repository(self.url(hosts[0]))
        for name in self.hosts:
            if name != hosts[0]:
                self.hosts[name].add_repository(self.url(name))
        # One key in the kernel's keyring serves all of them, and no command spends its time on the password.
        if first.run("login", expect=None).code == 0:
            for host in self.hosts.values():
                del host.variables["ISR_PASSWORD_FILE"]
        first.run("import", PARCEL, support.guest_image(*GUEST), "--memory", MEMORY)
        (self.parcel,) = self.root.glob("parcels/*")

    def url(self, name):
        return self.links[name].url if name in self.links else self.root

    def heads(self):
        """Numbers of the versions that are published."""
        return sorted(int(path.name) for path in self.parcel.glob("heads/*"))

    def lose_cache(self, name):
        shutil.rmtree(self.hosts[name].cache, ignore_errors=True)

    def restart_server(self, after, wait):
        """The server is killed and comes back; `wait` waits so many seconds."""
        self.server.stop(signal.SIGKILL)
        wait(after)
        self.server.start()

    def pids(self, name, program):
        """Processes of a host whose command line has the program."""
        home, found = os.fsencode(f"{self.hosts[name].home}/"), []
        for entry in os.scandir("/proc"):
            with contextlib.suppress(OSError, ValueError):
                pid = int(entry.name)
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    line = file.read()
                with open(f"/proc/{pid}/environ", "rb") as file:
                    if program in line.replace(b"\0", b" ") and (home in line or home in file.read()):
                        found.append(pid)
        return sorted(found)

    def describe(self):
        """What every host's parcel is at, for whoever looks into a violation."""
        for name, host in self.hosts.items():
            print(f"--- {name}: {host.run('--json', 'stat', PARCEL, expect=None, timeout=30)}", flush=True)
            for pid in (*self.pids(name, b"isr __session"), *self.pids(name, b"qemu-system")):
                for task in sorted(os.scandir(f"/proc/{pid}/task"), key=lambda entry: int(entry.name)):
                    with contextlib.suppress(OSError):
                        waits = [pathlib.Path(task.path, file).read_text(encoding="latin-1").strip() for file in ("comm", "wchan")]
                        print(f"    {pid} {task.name} {' '.join(waits)}", flush=True)

    def end(self):
        with contextlib.suppress(Exception):
            self.hosts["auditor"].run("logout", timeout=30)


def wait_for_death(pid, timeout=30):
    support.wait_until(lambda: is_gone(pid), f"process {pid} ends", timeout)


def is_gone(pid):
    """Also when nobody has asked how it ended; but not while some of its threads still hold what it had open."""
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/stat", encoding="latin-1") as file:
            state = file.read().rsplit(")", 1)[1].split()[0]
        return state == "Z" and len(os.listdir(f"/proc/{pid}/task")) == 1
    return True


@contextlib.contextmanager
def paused(pid):
    """A process that stands still; it never stays so."""
    try:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def seconds_since(began):
    return time.monotonic() - began
