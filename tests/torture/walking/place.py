"""The place of a walk: one repository, hosts of one user with a link each, and an auditor, which reads the repository's
directory without a link or the server."""
import contextlib
import os
import pathlib
import shutil
import signal
import time

import support

MEMORY = "96M"  # the minimum for a boot of the test guest
# Small sizes: sectors are rewritten several times in a walk, and a check of memory takes less than a second.
GUEST = ("--append", "isr.fill=16 isr.churn=512 isr.tick=250 isr.rate=40 isr.verify=8192", "--data-size", "4")
PARCEL = "work"
# Answers that are promised within 5 s may take twice that on a busy machine.
STAT_TIMEOUT = 10
COMMAND_TIMEOUT = 150
LEASE = "5"  # seconds; it expires while a daemon stands still or a link is cut
SUSPEND_TIMEOUT = 70  # seconds; a daemon that is told to end takes a minute at most


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
        # One key in the kernel's keyring serves all hosts, so that no command spends time on the password.
        if first.run("login", expect=None).code == 0:
            for host in self.hosts.values():
                del host.variables["ISR_PASSWORD_FILE"]
        first.run("import", PARCEL, support.guest_image(*GUEST), "--memory", MEMORY)
        (self.parcel,) = self.root.glob("parcels/*")

    def url(self, name):
        return self.links[name].url if name in self.links else self.root

    def heads(self):
        """Returns the numbers of the published versions."""
        return sorted(int(path.name) for path in self.parcel.glob("heads/*"))

    def lose_cache(self, name):
        shutil.rmtree(self.hosts[name].cache, ignore_errors=True)

    def restart_server(self, after, wait):
        """Kills the server, calls wait(after), which waits that many seconds, and starts the server again."""
        self.server.stop(signal.SIGKILL)
        wait(after)
        self.server.start()

    def pids(self, name, program):
        """Returns the process ids of a host whose command line contains `program`."""
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
        """Prints the status of every host's parcel and of its processes, to explain a violation."""
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
    """Returns whether a process has ended. A zombie counts, but not while some of its threads still hold its files."""
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/stat", encoding="latin-1") as file:
            state = file.read().rsplit(")", 1)[1].split()[0]
        return state == "Z" and len(os.listdir(f"/proc/{pid}/task")) == 1
    return True


@contextlib.contextmanager
def paused(pid):
    """Stops a process, and continues it in any case."""
    try:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def seconds_since(began):
    return time.monotonic() - began
