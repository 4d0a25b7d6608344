"""Runs the isr that is measured and observes it from outside."""
import contextlib
import os
import pathlib
import shutil
import sqlite3
import tempfile

from measure import cpu_seconds, memory, support


class BenchWorld(support.World):
    """A world on the measured disk, with its own copy of isr, so that a build in the meantime changes nothing."""

    def __init__(self, directory, isr):
        super().__init__("bench")
        os.rmdir(self.folder)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="isr-bench-", dir=directory))
        shutil.copy2(isr, self.folder / "isr")
        support.ISR = self.folder / "isr"
        self.logged_in = []

    def log_in(self, host):
        """Puts the key into the kernel's keyring, if there is one, so that no command spends a second on a password."""
        if host.run("login", expect=None).code == 0:
            host.variables = {}
            self.logged_in.append(host)

    def end(self, failed):
        for host in self.logged_in:
            with contextlib.suppress(Exception):
                host.run("logout", "home", timeout=30)  # --all would also end the user's own logins
        super().end(failed)


class Daemon:
    """A running daemon of isr, its memory, and the CPU time that it has used since restart()."""

    def __init__(self, pid, disk):
        self.pid, self.disk = pid, str(disk)
        self.restart()

    def restart(self):
        self._cpu = cpu_seconds(self.pid)

    @property
    def cpu(self):
        return cpu_seconds(self.pid) - self._cpu

    @property
    def peak(self):
        return memory(self.pid, "VmHWM")

    @property
    def resident(self):
        return memory(self.pid, "VmRSS")


def mount_daemons():
    """Returns the process ids of the mount daemons of all users of this machine."""
    found = set()
    for entry in os.scandir("/proc"):
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and pathlib.Path(entry.path, "cmdline").read_bytes().startswith(b"isr\0__mount\0"):
                found.add(int(entry.name))
    return found


def our_daemon(world, before):
    """Returns the daemon that is not in `before`. Only root can tell it from one that another user started meanwhile."""
    new = mount_daemons() - before
    ours = new & set(world.processes()) or new
    support.expect(len(ours) == 1, f"one new mount daemon, not {ours}")
    return ours.pop()


@contextlib.contextmanager
def mounted(host, name):
    """Mounts a version in an empty directory and yields its Daemon; unmounts it at the end."""
    look, before, pid = host.world.new_folder("look"), mount_daemons(), None
    host.run("mount", name, look)
    try:
        pid = our_daemon(host.world, before)
        yield Daemon(pid, look / "disk.raw")
    finally:
        host.run("umount", look)
        support.wait_until(lambda: pid is None or not os.path.exists(f"/proc/{pid}"), "the mount's daemon ends")


def checked_out(host, name, timeout=support.COMMAND_TIMEOUT):
    host.run("checkout", name, timeout=timeout)
    state = host.stat(name)
    return Daemon(state["daemon_pid"], pathlib.Path(state["mount"]) / "disk.raw")


def empty_cache(host):
    shutil.rmtree(host.cache, ignore_errors=True)


def cache_index(host):
    """Returns the path of the index of a host's cache."""
    found = list(host.cache.glob("**/index.db"))
    support.expect(len(found) == 1, f"one cache, not {found}")
    return found[0]


def cached(host):
    """Returns (objects, bytes) of a host's cache, which nothing may use at that time."""
    with contextlib.closing(sqlite3.connect(cache_index(host))) as index:
        return index.execute("SELECT count(*), coalesce(sum(length), 0) FROM objects").fetchone()
