"""Measures reads and writes on this machine, and so the cost of the data path without a network."""
import os
import random
import shutil

from content import Content
from host import checked_out, empty_cache, mounted
from measure import drop_page_cache, durable_write, fio, in_turn, sequential


def fill_cache(host, name, size):
    with mounted(host, name) as daemon:
        sequential(daemon.disk, size)


def reads(bench, host, disk, size):
    figures = bench.figures
    plain = str(disk)

    def cold_sequential():
        empty_cache(host)
        with mounted(host, "bench") as daemon:
            drop_page_cache()
            daemon.restart()
            speed = sequential(daemon.disk, size)
            return speed, size / 1e6 / max(daemon.cpu, 0.01), daemon.peak

    def plain_sequential():
        drop_page_cache()
        return sequential(plain, size)

    ours, theirs = in_turn(bench.rounds, cold_sequential, plain_sequential)
    speeds, per_core, peaks = zip(*ours)
    figures.add("cold sequential read, loopback HTTP", "MB/s", speeds, theirs, "plain file", peak=peaks)
    figures.add("  for each second of a core", "MB/core-s", per_core)

    fill_cache(host, "bench", size)

    def warm(job):
        """Runs `job` on the mounted disk. isr's cache holds all of the disk, the kernel's page cache none of it."""
        def measure():
            with mounted(host, "bench") as daemon:
                drop_page_cache()
                return job(daemon.disk), daemon.peak
        return measure

    def both(name, unit, job):
        def plain_job():
            drop_page_cache()
            return job(plain)
        ours, theirs = in_turn(bench.rounds, warm(job), plain_job)
        speeds, peaks = zip(*ours)
        figures.add(name, unit, speeds, theirs, "plain file", peak=peaks)

    def at_once(jobs):
        count = bench.sizes.random_reads * (2 if jobs > 1 else 1)
        return lambda path: fio(path, "randread", bs="4k", size=size, io_size=count * 4096 // jobs, numjobs=jobs)["op/s"]

    def once_touched(job):
        """Runs `job` a second time, after the first read's bytes have been dropped from the page cache."""
        def measure(path):
            job(path)
            drop_page_cache()
            return job(path)
        return measure

    both("warm sequential read", "MB/s", lambda path: sequential(path, size))
    both("warm random 4 KiB read, one at a time", "reads/s", at_once(1))
    both("  of chunks that were read before", "reads/s", once_touched(at_once(1)))
    both("warm random 4 KiB read, 16 threads", "reads/s", at_once(16))
    both("  of chunks that were read before", "reads/s", once_touched(at_once(16)))


def patched_reads(bench, host, size):
    """Compares reads of a disk of which an eighth of the 4 KiB blocks are in a patch with reads of the same disk without one."""
    host.run("branch", "bench", "patched")
    daemon = checked_out(host, "patched")
    content, chance = Content(400), random.Random(400)
    with open(daemon.disk, "r+b", buffering=0) as disk:
        for block in chance.sample(range(size // 4096), size // 4096 // 8):
            os.pwrite(disk.fileno(), content.take(4096), block * 4096)
        os.fsync(disk.fileno())
    host.run("checkin", "patched", timeout=600)
    fill_cache(host, "patched", size)

    def read(name, job):
        with mounted(host, name) as daemon:
            job(daemon.disk)
            drop_page_cache()
            return job(daemon.disk), daemon.peak

    def compare(name, unit, job):
        ours, theirs = in_turn(bench.rounds, lambda: read("patched", job), lambda: read("bench", job)[0])
        speeds, peaks = zip(*ours)
        bench.figures.add(name, unit, speeds, theirs, "without patches", peak=peaks)

    count = bench.sizes.random_reads
    compare("random 4 KiB read of a disk with patches", "reads/s",
            lambda path: fio(path, "randread", bs="4k", size=size, io_size=count * 4096)["op/s"])
    compare("  sequential read", "MB/s", lambda path: sequential(path, size))


def writes(bench, host, size):
    """Measures writes over the content of a checked-out disk, and over a plain copy of it."""
    daemon = checked_out(host, "bench")
    plain = host.world.folder / "plain.raw"
    shutil.copyfile(daemon.disk, plain)
    count = bench.sizes.random_writes

    def compare(name, unit, job):
        def ours():
            drop_page_cache()
            return job(daemon.disk)
        def theirs():
            drop_page_cache()
            return job(str(plain))
        mine, other = in_turn(bench.rounds, ours, theirs)
        bench.figures.add(name, unit, mine, other, "plain file", peak=[daemon.peak])

    compare("sequential write, fsync at the end", "MB/s", lambda path: durable_write(path, size))
    compare("  as QEMU writes: O_DIRECT, 4 at once", "MB/s",
            lambda path: fio(path, "write", bs="1M", size=size, direct=1, end_fsync=1, ioengine="libaio", iodepth=4)["MB/s"])
    compare("random 4 KiB write, fsync every 32", "writes/s",
            lambda path: fio(path, "randwrite", bs="4k", size=size, io_size=count * 4096, fsync=32, direct=1)["op/s"])
    host.run("discard", "bench", "--yes")
    host.run("checkin", "bench")
    plain.unlink()
