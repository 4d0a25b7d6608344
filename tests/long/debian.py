#!/usr/bin/env python3
"""Moves an ordinary Debian between two hosts and back and checks its files from outside. Prints the cost of each step.

    python3 tests/long/debian.py build/release/isr

It takes a few minutes and 6 GB of disk, so CTest does not run it. The guest
(tests/guest/make-debian) is built once and kept beside isr; the first build needs a
Debian mirror.
"""
import fcntl
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(PROJECT / "tests" / "system"))
import support  # noqa: E402
from support import expect, expect_equal  # noqa: E402

MIB = 1 << 20
LONG = 1800  # seconds: a bound for a hang only, because an emulated Debian on a busy machine is slow
MEMORY = "1G"
os.environ["PATH"] += ":/usr/sbin:/sbin"


def debian_image():
    """Returns the path of a qcow2 image of Debian, which is built once."""
    folder = support.ISR.parent / "test-guests" / "debian"
    folder.mkdir(parents=True, exist_ok=True)
    recipe, image = PROJECT / "tests" / "guest" / "make-debian", folder / "debian.qcow2"
    with open(folder / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.exists() or image.stat().st_mtime < recipe.stat().st_mtime:
            subprocess.run([recipe, folder], check=True, stdout=subprocess.DEVNULL)
    return image


def allocated(path):
    """Returns the bytes on disk of a file, or of all files below a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_blocks * 512 for file in files)


class Steps:
    """Runs one step after the other and prints the time of each."""

    def __init__(self, repository):
        self.repository = repository

    def __call__(self, name, action, note=lambda answer: ""):
        print(f"{time.strftime('%H:%M:%S')}  {name} …", flush=True)
        began = time.monotonic()
        answer = action()
        print(f"{'':10}{time.monotonic() - began:7.1f} s  {note(answer)}"
              f"  [repository {allocated(self.repository) / MIB:.0f} MiB]", flush=True)
        return answer


def uploaded(answer):
    return f"uploaded {answer['uploaded_bytes'] / MIB:.1f} MiB"


def fetched(host):
    """Returns what `isr stat` says about the fetches of a running parcel."""
    stat = host.stat("debian")
    sources = stat["sources"]
    disk = next(image for image in stat["images"] if image["name"] == "disk")
    return (f"fetched {sources['repository_bytes'] / MIB:.1f} MiB in {sources['repository_fetches']} requests,"
            f" {sources['cache_hits']} cache hits, disk read {disk['read_bytes'] / MIB:.0f} MiB"
            f" written {disk['written_bytes'] / MIB:.0f} MiB, uploaded {stat['uploaded_bytes'] / MIB:.1f} MiB,"
            f" {stat['vm']['accelerator']}")


class Shell:
    """Root's shell on the guest's serial console, as one host hears it."""

    def __init__(self, host):
        self.console, self.asked = host.console("debian"), 0

    def wait_for_login(self):
        support.wait_until(lambda: "isr-debian login:" in self.console.text(), "the login prompt", LONG, every=0.5)
        support.wait_until(lambda: "root@isr-debian" in self.console.text(), "root's prompt", LONG, every=0.5)

    def ask(self, command):
        """Runs a command, which must print one line, and returns that line. The shell's echo does not match as an answer."""
        self.asked += 1
        mark = f"{os.getpid()}.{self.asked}"
        self.console.type(f'echo "A=""{mark}:$({command}):$?"')
        answer = self.console.wait(rf".*A={re.escape(mark)}:(.*:\d+)", timeout=LONG)[0]
        text, _, code = answer.rpartition(":")
        expect_equal(code, "0", f"in the guest: {command}: {text}: exit code")
        return text


def partition_offset(image):
    """Returns the offset at which the file system of / begins."""
    table = json.loads(subprocess.run(["sfdisk", "-J", image], capture_output=True, check=True).stdout)["partitiontable"]
    return next(p["start"] for p in table["partitions"] if p["type"] == "83") * table.get("sectorsize", 512)


def check_file_system(image, sums):
    """Checks that the exported / needs no repair and holds the files that the guest wrote, byte for byte."""
    place = f"{image}?offset={partition_offset(image)}"
    checked = subprocess.run(["e2fsck", "-fn", place], capture_output=True, text=True, check=False)
    expect_equal(checked.returncode, 0, f"e2fsck -fn: {checked.stdout}{checked.stderr}")
    for path, wanted in sums.items():
        data = subprocess.run(["debugfs", "-R", f"cat {path}", place], capture_output=True, check=True).stdout
        expect_equal(hashlib.sha256(data).hexdigest(), wanted, f"SHA-256 of {path} ({len(data)} bytes)")
    return checked.stdout.strip().splitlines()[-1].removeprefix(f"{image}: ")


def write_file(shell, path, mib):
    """Writes a new file of random bytes in the guest. Returns its SHA-256."""
    shell.ask(f"head -c {mib}M /dev/urandom >{path}; sync")
    return shell.ask(f"sha256sum {path} | cut -c1-64")


def test_debian(world):
    image = debian_image()
    server = world.serve()
    step = Steps(server.root)
    a, b = world.host("a"), world.host("b")
    a.init_repository(server.url)
    step("A: import", lambda: a.run("import", "debian", image, "--memory", MEMORY, json=True, timeout=LONG),
         lambda r: f"{r['size'] / MIB:.0f} MiB disk, {r['data_bytes'] / MIB:.0f} MiB of data, {uploaded(r)}")

    b.add_repository(server.url)
    step("B: start, nothing cached", lambda: b.run("start", "debian", "--accelerator", "tcg", timeout=LONG), lambda _: fetched(b))
    on_b = Shell(b)
    step("B: to root's prompt", on_b.wait_for_login, lambda _: fetched(b))
    sums = {}
    def use_it():
        sums["/root/on-b"] = write_file(on_b, "/root/on-b", 20)
        on_b.console.type("kept_in_memory=4711")
        return on_b.ask("cat /proc/sys/kernel/random/boot_id"), float(on_b.ask("cut -d' ' -f1 /proc/uptime"))
    boot, uptime = step("B: 20 MiB written and synced", use_it, lambda r: f"up {r[1]} s, {fetched(b)}")
    step("B: suspend", lambda: b.run("suspend", "debian", json=True, timeout=LONG), uploaded)

    step("A: resume", lambda: a.run("resume", "debian", timeout=LONG), lambda _: fetched(a))
    on_a = Shell(a)
    def look():
        expect_equal(on_a.ask("cat /proc/sys/kernel/random/boot_id"), boot, "the boot")
        expect_equal(on_a.ask("echo $kept_in_memory"), "4711", "a variable of the shell")
        expect_equal(on_a.ask("sha256sum /root/on-b | cut -c1-64"), sums["/root/on-b"], "the file from B")
        now = float(on_a.ask("cut -d' ' -f1 /proc/uptime"))
        expect(now > uptime, f"up {now} s, was {uptime} s")
        return now
    step("A: the same boot, the same shell", look, lambda now: f"up {now} s, {fetched(a)}")
    def use_it_more():
        sums["/root/on-a"] = write_file(on_a, "/root/on-a", 20)
        # Without vim-tiny: vim-runtime diverts two of its files.
        return on_a.ask("set -o pipefail; cd /; ls var/lib/dpkg/info/*.md5sums | grep -v /vim-tiny | xargs cat"
                        " | md5sum -c --quiet 2>&1 | tail -n 1")
    damaged = step("A: 20 MiB more; the files of all packages compared", use_it_more, lambda _: fetched(a))
    expect_equal(damaged, "", "a file that differs from its package's")
    step("A: stop", lambda: a.run("stop", "debian", "--timeout", "900s", json=True, timeout=LONG), uploaded)

    exported = world.folder / "export.raw"
    step("A: export", lambda: a.run("export", "debian", "--raw", exported, timeout=LONG),
         lambda _: f"{allocated(exported) / MIB:.0f} MiB")
    step("e2fsck, and the files compared", lambda: check_file_system(exported, sums), str)
    step("B: check --deep", lambda: b.run("check", "debian", "--deep", timeout=LONG))
    print(f"caches: A {allocated(a.cache) / MIB:.0f} MiB, B {allocated(b.cache) / MIB:.0f} MiB")


if __name__ == "__main__":
    support.main(test_debian)
