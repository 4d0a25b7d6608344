"""Tests the end of a session whose disks are in use: isr names the program, or the version has all its flushed data."""
import os
import subprocess
import sys
import threading
import time

import support
import writing
from support import expect, expect_equal

sys.path.append(str(support.PROJECT / "tests" / "support"))
from hostile_server import HostileServer  # pylint: disable=wrong-import-position

# Opens a file in the mode of its second argument, prints a line, and keeps the file open until its standard input ends.
HOLDER = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY if sys.argv[2] == "read" else os.O_RDWR)
if sys.argv[2] == "map":
    mapping = mmap.mmap(fd, 4096)
    os.close(fd)
    mapping[0:9] = b"by a map."
print("has it", flush=True)
sys.stdin.read()
"""


def hold(path, how):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, path, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


def let_go(process):
    process.communicate(b"")
    expect_equal(process.returncode, 0, "the holder's exit code")


def set_up(world, size=2 << 20):
    server = world.serve()
    a = world.host("a")
    a.init_repository(server.url)
    image, content = writing.small_disk(world, writing.chance(), size=size)
    a.run("import", "work", image)
    return server, a, content


def exported(world, host):
    path = world.new_file("export")
    path.unlink()
    host.run("export", "work", "--raw", path)
    return path.read_bytes()


def refuse(host, pid, *command):
    refused = host.run(*command, expect=16)
    expect(f"process {pid}" in refused.err and "python" in refused.err, f"who has it open is not said: {refused}")
    expect("hint:" in refused.err and "nothing was changed" in refused.err, f"what to do is not said: {refused}")


def test_whoever_has_a_disk_open_is_named_and_keeps_it(world):
    _, a, content = set_up(world)
    disk = writing.check_out(a, "work")
    for how in ("write", "read", "map"):
        holder = hold(disk, how)
        for command in (("checkin",), ("stop",), ("suspend",), ("suspend", "--no-upload"), ("discard", "--yes"),
                        ("poweroff", "--yes"), ("start",), ("resume",)):
            refuse(a, holder.pid, command[0], "work", *command[1:])
        expect_equal(a.stat("work")["state"], "checked out", "state")
        a.run("sync", "work")  # a sync works while the disk is in use
        let_go(holder)
    with open(disk, "r+b") as file:
        file.write(b"the last")
    a.run("checkin", "work")
    content[0:9] = b"the last."
    expect(exported(world, a) == content, "what was published is not what was written")


def test_a_file_system_that_is_mounted_from_a_disk_is_named_and_keeps_its_files(world):
    if os.geteuid() != 0:
        print("    only root mounts file systems", flush=True)
        return
    a = world.host("a")
    a.init_repository(world.new_folder("repository"))
    a.run("create", "work", "--size", "16M")
    disk = writing.check_out(a, "work")
    subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
    point = world.new_folder("loop")
    subprocess.run(["mount", "-o", "loop", disk, point], check=True)
    try:
        (point / "pending").write_text("two")
        for command in ("checkin", "stop", "suspend"):
            refused = a.run(command, "work", expect=16)
            expect("/dev/loop" in refused.err and f"umount {point}" in refused.err, f"who: {refused}")
        (point / "later").write_text("three")
    finally:
        subprocess.run(["umount", point], check=True)
    a.run("checkin", "work")
    image = world.new_file("image")
    image.write_bytes(exported(world, a))
    listed = subprocess.run(["debugfs", "-R", "ls -p /", image], capture_output=True, text=True, check=True).stdout
    expect("/pending/" in listed and "/later/" in listed, f"files: {listed}")
    subprocess.run(["e2fsck", "-fn", image], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class FlushingWriter:
    """Opens the disk, writes a numbered sector, flushes and closes it, again and again. `answered` has the flushed ones."""

    def __init__(self, path):
        self.answered, self.refused, self._path, self._stop = [], 0, path, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @staticmethod
    def sector(number):
        return f"sector {number}".encode().ljust(512, b".")

    def _run(self):
        number, sectors = 0, os.stat(self._path).st_size // 512
        while not self._stop.is_set():
            try:
                fd = os.open(self._path, os.O_RDWR)
            except OSError:
                self.refused += 1
                time.sleep(0.002)  # during the upload there may be no disk to open
                continue
            try:
                os.pwrite(fd, self.sector(number), number % sectors * 512)
                os.fsync(fd)
                self.answered.append(number)
                number += 1
            except OSError:
                pass
            finally:
                os.close(fd)

    def stop(self):
        self._stop.set()
        self._thread.join()

    def lost(self, content):
        """Returns the flushed sectors that are missing in `content`, without those that a later write replaced."""
        sectors = len(content) // 512
        newest = {number % sectors: number for number in self.answered}
        return [n for place, n in newest.items() if content[place * 512:place * 512 + 512] != self.sector(n)]


def test_what_is_flushed_while_a_command_uploads_is_in_the_version_or_still_here(world):
    server, a, _ = set_up(world, size=8 << 20)
    a.variables["ISR_UPLOAD_LIMIT"] = "1M"
    for number, command in enumerate(("checkin", "suspend", "stop") * writing.rounds(1)):
        disk = writing.check_out(a, "work")
        with open(disk, "r+b") as file:
            file.seek(4 << 20)
            file.write(os.urandom(2 << 20))
        writer = FlushingWriter(disk)
        support.wait_until(lambda: writer.answered, "a first flush")
        if number == 0:
            server.stop()
            a.run(command, "work", expect=(13, 16))
            before = len(writer.answered)
            support.wait_until(lambda: len(writer.answered) > before, "it can be written again after a failed upload")
            server.start()
        # The writer opens and closes the disk all the time; a command that finds it open must name it.
        support.wait_until(lambda: a.run(command, "work", expect=(0, 16)).code == 0, f"a {command}", timeout=170)
        writer.stop()
        if a.stat("work")["state"] == "checked out":
            a.run("checkin", "work")
        lost = writer.lost(exported(world, a))
        print(f"    {command}: {len(writer.answered)} flushes answered, {writer.refused} refused, {len(lost)} lost", flush=True)
        expect(not lost, f"flushed, and gone after {command}: {lost[:10]}")
        expect(writer.refused > 0, f"the upload of {command} was too fast to try")


def test_a_checkout_while_the_session_before_gives_its_lock_back_has_a_disk_that_is_kept(world):
    server = HostileServer(world.serve().port)
    a = world.host("a")
    a.init_repository(server.url)
    image, _ = writing.small_disk(world, writing.chance(), size=2 << 20)
    a.run("import", "work", image)
    writing.check_out(a, "work")
    held, let_go_on = threading.Event(), threading.Event()

    def hold_releases(request):
        if request.method == "PUT" and "/locks/" in request.name:
            held.set()
            let_go_on.wait(20)

    server.lie = hold_releases
    try:
        ending = a.start("checkin", "work", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        expect(held.wait(60), "a checkin that gives its lock back")
        server.lie = None
        disk = writing.check_out(a, "work")
        with open(disk, "r+b", buffering=0) as file:
            file.write(b"written after the end")
            os.fsync(file.fileno())
        let_go_on.set()
        expect_equal(ending.wait(60), 0, "exit code of the checkin")
        a.run("checkin", "work")
        expect(exported(world, a).startswith(b"written after the end"), "what was written is in no version")
    finally:
        let_go_on.set()
        server.stop()


if __name__ == "__main__":
    support.main(test_whoever_has_a_disk_open_is_named_and_keeps_it,
                 test_a_file_system_that_is_mounted_from_a_disk_is_named_and_keeps_its_files,
                 test_what_is_flushed_while_a_command_uploads_is_in_the_version_or_still_here,
                 test_a_checkout_while_the_session_before_gives_its_lock_back_has_a_disk_that_is_kept)
