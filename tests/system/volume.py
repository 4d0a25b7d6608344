"""Volumes whose power can be cut: an ext4 in a file, mounted through a loop device. Needs root.

A cut keeps only the writes that ext4 had given to the device: the ioctl that xfstests uses stops the file system at once,
without its last transaction. A ThinVolume lies on a memory file system that can be filled up below it, as thin storage can.
Then a write of ext4 to a place that was not used before fails once, and its pages count as written."""
import contextlib
import fcntl
import os
import re
import shutil
import stat
import struct
import subprocess

import support

EXT4_IOC_SHUTDOWN = 0x8004587D
LOG_FLUSHED, LOG_LOST = 1, 2


def why_not():
    """Returns the reason why this machine cannot mount volumes, or None."""
    if os.geteuid() != 0:
        return "only root may mount volumes"
    for program in ("losetup", "mkfs.ext4", "dumpe2fs", "fsfreeze"):
        if not shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
            return f"{program} is not installed"
    found = subprocess.run(["losetup", "--find"], capture_output=True, text=True, check=False)
    return f"no loop devices: {found.stderr.strip()}" if found.returncode else None


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    support.expect(done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}")
    return done.stdout


def unmount(path):
    support.wait_until(lambda: subprocess.run(["umount", path], capture_output=True, check=False).returncode == 0,
                       f"{path} can be unmounted")


class Volume:
    """A volume mounted at a folder of the world, which unmounts it after a failed test."""

    def __init__(self, world, path, megabytes=4096):
        self.path, self.image = path, self._place_of_image(world) / "image"
        path.mkdir(exist_ok=True)
        with open(self.image, "wb") as image:
            image.truncate(megabytes << 20)
        run("mkfs.ext4", "-q", "-F", self.image)
        self.mount()

    def _place_of_image(self, world):
        return world.new_folder("volume")

    def mount(self):
        free = run("losetup", "--find").strip()
        if not os.path.exists(free):  # the kernel has a free device, but its node does not exist
            os.mknod(free, 0o600 | stat.S_IFBLK, os.makedev(7, int(free.removeprefix("/dev/loop"))))
        run("mount", "-o", "loop", self.image, self.path)
        self.path.chmod(0o700)

    def unmount(self):
        """Unmounts the volume once all its users have ended."""
        unmount(self.path)

    def remove(self):
        self.unmount()

    def cut(self, how=LOG_LOST):
        root = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(root, EXT4_IOC_SHUTDOWN, struct.pack("I", how))
        finally:
            os.close(root)


class ThinVolume(Volume):
    """A volume on thin storage: fill_below() makes writes to unused places fail, make_room() makes them succeed again."""

    def __init__(self, world, path, megabytes=160):
        self.megabytes = megabytes
        super().__init__(world, path, megabytes)
        run("fallocate", "--length", megabytes << 20, self.image)

    def _place_of_image(self, world):
        self.below = world.new_folder("below")
        run("mount", "-t", "tmpfs", "-o", f"size={self.megabytes + 8}m", "tmpfs", self.below)
        return self.below

    def _device(self):
        return run("findmnt", "--noheadings", "--output", "SOURCE", "--mountpoint", self.path).strip()

    def fill_below(self):
        run("fsfreeze", "--freeze", self.path)  # unused places must stay unused until the room below them is gone
        try:
            self._punch_free_blocks()
            page = bytes(4096)
            with open(self.below / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
                while filler.write(page):
                    pass
        finally:
            run("fsfreeze", "--unfreeze", self.path)

    def _punch_free_blocks(self):
        listing = run("dumpe2fs", self._device())
        block = int(re.search(r"^Block size: +(\d+)", listing, re.M).group(1))
        for ranges in re.findall(r"^  Free blocks: (.+)$", listing, re.M):
            for piece in ranges.split(", "):
                first, _, last = piece.partition("-")
                count = int(last or first) - int(first) + 1
                run("fallocate", "--punch-hole", "--offset", int(first) * block, "--length", count * block, self.image)

    def make_room(self):
        (self.below / "filler").unlink()

    def remove(self):
        super().remove()
        unmount(self.below)
