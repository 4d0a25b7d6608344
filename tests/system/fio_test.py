"""Tests verified random reads and writes of all sizes through a checkout, then reads the same bytes on another host."""
import hashlib
import os
import pathlib
import subprocess

import support

SIZE = os.environ.get("ISR_TEST_FIO_SIZE", "100M")  # bytes of each of three jobs; the long run uses 1G


def verified_writes(path, *options):
    done = subprocess.run(
        ["fio", "--name=verified", f"--filename={path}", "--ioengine=psync", f"--size={SIZE}", "--rw=randwrite",
         "--bsrange=512-1M", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0",
         "--fallocate=none", *options],
        capture_output=True, text=True, timeout=1800)
    support.expect(done.returncode == 0, f"fio {options} found wrong bytes:\n{done.stdout}\n{done.stderr}")


def digest(path):
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def disk(host):
    return pathlib.Path(host.stat("disk")["mount"]) / "disk.raw"


def test_verified_traffic(world):
    server = world.serve()
    a = world.host("a")
    a.init_repository(server.url)
    a.run("create", "disk", "--size", "1G")
    a.run("checkout", "disk")
    verified_writes(disk(a), "--fsync=64", "--randseed=1")
    verified_writes(disk(a), "--direct=1", "--fsync=32", "--randseed=2")
    verified_writes(disk(a), "--fdatasync=8", "--randseed=3")
    os.sync()
    written = digest(disk(a))
    a.run("sync", "disk")
    support.expect_equal(digest(disk(a)), written, "after a sync")
    a.run("checkin", "disk")
    b = world.host("b")
    b.add_repository(server.url)
    b.run("checkout", "disk")
    support.expect_equal(digest(disk(b)), written, "on the other host")
    b.run("checkin", "disk")


support.main(test_verified_traffic)
