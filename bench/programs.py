"""Runs other programs that show a distant disk as a local file; each has a small class.

A program has a name and a list of commands that must be installed. prepare(site) puts the disk on
the site in the program's own form. open(site, port, folder) is a context that yields the path of
the disk as a file; the program fetches it from 127.0.0.1:`port` and keeps its files below `folder`.
The site does not change while it is read.
"""
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import threading
import time

from measure import CHUNK, support


class Site:
    """A folder with the disk in it, and the servers that programs fetch from; each is started once, when it is needed."""

    def __init__(self, world, disk):
        self.world, self.disk, self.size = world, disk, os.path.getsize(disk)
        self.root = world.new_folder("site")
        os.link(disk, self.root / "disk.raw")
        self._ports = {}

    def static(self):
        """Returns the port of a plain web server."""
        return self._once("static", lambda: self.world.static_server(self.root).port)

    def rclone(self, kind, folder):
        """Returns the port of `rclone serve KIND` for a folder of the site."""
        def start():
            port = support.free_port()
            (self.root / folder).mkdir(exist_ok=True)
            process = spawn(self.world, "rclone", "serve", kind, self.root / folder, "--addr", f"127.0.0.1:{port}")
            self.world.services.append(Service(process))
            support.wait_until(lambda: support.answers(port), f"rclone serve {kind} listens")
            return port
        return self._once(kind, start)

    def _once(self, name, start):
        if name not in self._ports:
            self._ports[name] = start()
        return self._ports[name]


class Service:
    """A server in the form that World.services expects."""

    def __init__(self, process):
        self.process = process

    def stop(self):
        end(self.process)


def environment(world):
    """Returns variables that put all files of a program below the world's folder. They also mark its processes."""
    home = world.folder / "programs"
    home.mkdir(exist_ok=True)
    return os.environ | {"HOME": str(home), "TMPDIR": str(home), "XDG_CACHE_HOME": str(home / "cache"), "XDG_CONFIG_HOME": str(home),
                         "RESTIC_PASSWORD": "bench", "BORG_PASSPHRASE": "bench", "BORG_BASE_DIR": str(home),
                         "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}


def spawn(world, *command, folder=None):
    log = world.new_file(pathlib.Path(command[0]).name + ".log")
    with open(log, "wb") as out:
        process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                   start_new_session=True, cwd=folder or world.folder, env=environment(world))
    process.log = log
    return process


def run(world, *command, folder=None, timeout=600):
    process = spawn(world, *command, folder=folder)
    try:
        process.wait(timeout)
    finally:
        end(process)
    support.expect(process.returncode == 0, f"{command[0]} ended with {process.returncode}: {process.log.read_text()[-500:]}")


def end(process, how=signal.SIGTERM):
    """Ends a program and its process group."""
    if process.poll() is None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
    if process.poll() is None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


def unmount(path):
    for command in (["umount", path], ["fusermount3", "-u", path], ["umount", "-l", path], ["fusermount3", "-u", "-z", path]):
        if not os.path.ismount(path):
            return
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


@contextlib.contextmanager
def serving(world, mount_point, *command, file=None, timeout=60, how=signal.SIGTERM):
    """Runs a program that mounts something. Yields the answer of `file` once it is true (without `file`: once the folder
    is a mount). Afterwards the program and the mount are gone, also after a failure."""
    process = spawn(world, *command)
    def there():
        support.expect(process.poll() is None, f"{command[0]} ended: {process.log.read_text()[-500:]}")
        return file() if file else os.path.ismount(mount_point)
    running.append(process)
    try:
        yield support.wait_until(there, f"{command[0]} mounts", timeout)
    finally:
        running.remove(process)
        if process.poll() is None and how == signal.SIGTERM:
            unmount(mount_point)
        end(process, how)
        unmount(mount_point)


running = []  # the processes that within() kills when a job hangs


def within(timeout, what, job):
    """Returns the answer of job(). Only the end of the serving process ends a read that hangs on its mount, so after the
    deadline, or when we are interrupted, this kills the processes in `running`."""
    answers, errors = [], []
    def work():
        try:
            answers.append(job())
        except Exception as error:  # pylint: disable=broad-except
            errors.append(error)
    thread = threading.Thread(target=work, daemon=True)
    began = time.monotonic()
    thread.start()
    try:
        while thread.is_alive() and time.monotonic() - began < timeout:
            thread.join(0.2)
        late = thread.is_alive()
    finally:
        if thread.is_alive():
            for process in reversed(list(running)):
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
            thread.join(30)
    support.expect(not late, f"{what} did not end within {timeout} s")
    if errors:
        raise errors[0]
    return answers[0]


def a_file(path):
    return lambda: path if path.exists() and path.stat().st_size else None


# --- the programs -----------------------------------------------------------

class Program:
    needs, note = (), ""
    port = None  # the port that its link must have, if any


class Nbdkit(Program):
    name, needs, note = "nbdkit", ("nbdkit", "nbdfuse"), "curl plugin, cow filter with cow-on-read, nbdfuse"

    def prepare(self, site):
        return site.static()

    @contextlib.contextmanager
    def open(self, site, port, folder):
        socket, mount = folder / "socket", folder / "mount"
        mount.mkdir()
        server = spawn(site.world, "nbdkit", "-f", "-U", socket, "--filter=cow", "curl", f"http://127.0.0.1:{port}/disk.raw",
                       "cow-on-read=true")
        running.append(server)
        try:
            support.wait_until(socket.exists, "nbdkit listens")
            with serving(site.world, mount, "nbdfuse", "-r", mount, "--unix", socket, file=a_file(mount / "nbd")) as disk:
                yield disk
        finally:
            running.remove(server)
            end(server)


class S3backer(Program):
    name, needs, note = "s3backer", ("s3backer", "nginx"), "blocks of 128 KiB from a web server, cache file, readAhead=16, 20 threads"

    def prepare(self, site):
        bucket = site.root / "s3" / "bucket"
        bucket.mkdir(parents=True)
        with open(site.disk, "rb") as disk:
            for number, block in enumerate(iter(lambda: disk.read(CHUNK), b"")):
                (bucket / f"{number:08x}").write_bytes(block)
        return site.static()

    @contextlib.contextmanager
    def open(self, site, port, folder):
        mount = folder / "mount"
        mount.mkdir()
        blocks = site.size // CHUNK
        with serving(site.world, mount, "s3backer", "-f", "--readOnly", "--accessType=public-read", f"--size={site.size}",
                     f"--baseURL=http://127.0.0.1:{port}/s3/", f"--blockSize={CHUNK}", f"--blockCacheFile={folder}/cache",
                     f"--blockCacheSize={blocks}", "--blockCacheThreads=20", "--readAhead=16", "bucket", mount,
                     file=a_file(mount / "file")) as disk:
            yield disk


class Qemu(Program):
    name, needs = "qemu", ("qemu-storage-daemon", "qemu-img", "nginx")
    note = "http driver, copy-on-read into qcow2, FUSE export"

    def prepare(self, site):
        return site.static()

    @contextlib.contextmanager
    def open(self, site, port, folder):
        disk, cache = folder / "disk", folder / "cache.qcow2"
        disk.touch()
        run(site.world, "qemu-img", "create", "-q", "-f", "qcow2", cache, str(site.size))
        with serving(site.world, disk, "qemu-storage-daemon",
                     "--blockdev", f"driver=http,node-name=net,url=http://127.0.0.1:{port}/disk.raw,read-only=on",
                     "--blockdev", "driver=raw,node-name=raw,file=net,read-only=on",
                     "--blockdev", f"driver=file,node-name=file,filename={cache}",
                     "--blockdev", "driver=qcow2,node-name=cache,file=file,backing=raw",
                     "--blockdev", "driver=copy-on-read,node-name=top,file=cache",
                     "--export", f"type=fuse,id=export,node-name=top,mountpoint={disk}"):
            yield disk


class Casync(Program):
    name, needs, note = "casync", ("casync", "nginx"), "mount of an archive, chunks from a web server, --cache"

    def prepare(self, site):
        content = site.world.new_folder("content")
        os.link(site.disk, content / "disk.raw")
        run(site.world, "casync", "make", f"--store={site.root}/chunks.castr", site.root / "archive.caidx", content)
        return site.static()

    @contextlib.contextmanager
    def open(self, site, port, folder):
        mount = folder / "mount"
        mount.mkdir()
        url = f"http://127.0.0.1:{port}"
        with serving(site.world, mount, "casync", "mount", f"--store={url}/chunks.castr", f"--cache={folder}/cache",
                     f"{url}/archive.caidx", mount, file=a_file(mount / "disk.raw")) as disk:
            yield disk


class Rclone(Program):
    name, needs, note = "rclone", ("rclone",), "mount of rclone serve http, --vfs-cache-mode full"

    def prepare(self, site):
        (site.root / "rclone").mkdir()
        os.link(site.disk, site.root / "rclone" / "disk.raw")
        return site.rclone("http", "rclone")

    @contextlib.contextmanager
    def open(self, site, port, folder):
        mount = folder / "mount"
        mount.mkdir()
        with serving(site.world, mount, "rclone", "mount", ":http:", mount, "--http-url", f"http://127.0.0.1:{port}", "--read-only",
                     "--vfs-cache-mode", "full", "--cache-dir", folder / "cache", file=a_file(mount / "disk.raw")) as disk:
            yield disk


class Restic(Program):
    name, needs, note = "restic", ("restic", "rclone"), "mount of a snapshot from rclone serve restic; it keeps no data"

    def prepare(self, site):
        port = site.rclone("restic", "restic")
        at = ("restic", "-q", "-r", f"rest:http://127.0.0.1:{port}/", "--no-cache")
        run(site.world, *at, "init")
        run(site.world, *at, "backup", site.root / "disk.raw")
        return port

    @contextlib.contextmanager
    def open(self, site, port, folder):
        mount = folder / "mount"
        mount.mkdir()
        def disk():
            found = list((mount / "ids").glob("*")) if os.path.ismount(mount) else []
            return next(iter(found[0].rglob("disk.raw")), None) if found else None
        with serving(site.world, mount, "restic", "-q", "-r", f"rest:http://127.0.0.1:{port}/", "--cache-dir", folder / "cache",
                     "--no-lock", "mount", mount, file=disk) as path:
            yield path


def missing(program):
    return [need for need in program.needs if not shutil.which(need, path=os.environ.get("PATH", "") + ":/usr/sbin")]


ALL = (Nbdkit(), S3backer(), Qemu(), Casync(), Rclone(), Restic())
