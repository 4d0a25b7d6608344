"""Measures costs that should not grow with the size of an image or of the cache."""
import contextlib
import os
import random
import sqlite3
import time

from host import cache_index, mounted
from local import fill_cache
from measure import drop_page_cache, in_turn, random_reads, seconds, support


def huge_images(bench, host):
    """Measures empty images: the time until one is mounted, and the memory of its daemon."""
    for size in ("1G", "32G", "1T"):
        host.run("create", f"empty{size}", "--size", size)
    for size in ("1G", "32G", "1T"):
        residents = []

        def mount():
            began = time.monotonic()
            with mounted(host, f"empty{size}") as daemon:
                took = time.monotonic() - began
                with open(daemon.disk, "rb", buffering=0) as disk:
                    for at in range(16):
                        os.pread(disk.fileno(), 4096, os.fstat(disk.fileno()).st_size // 16 * at)
                residents.append(daemon.resident)
            return took

        ours, theirs = in_turn(bench.rounds, mount, lambda: seconds(lambda: host.run("ls")))
        bench.figures.add(f"mount of an image of {size}iB", "s", ours, theirs, "isr ls", "less", residents)


def big_cache(bench, host, size):
    """Measures warm reads from a cache whose index has a million objects more. These exist as rows of the index only
    (with one byte each, so that none is evicted), because only the lookup is measured."""
    fill_cache(host, "bench", size)

    def read():
        with mounted(host, "bench") as daemon:
            drop_page_cache()
            began = time.monotonic()
            random_reads(daemon.disk, bench.sizes.random_reads // 4, seed=5, size=size)
            return (time.monotonic() - began) / (bench.sizes.random_reads // 4) * 1e6

    small = [read() for _ in range(bench.rounds)]
    chance = random.Random(6)
    with contextlib.closing(sqlite3.connect(cache_index(host))) as index, index:
        pack = index.execute("SELECT pack FROM objects LIMIT 1").fetchone()[0]
        index.executemany("INSERT INTO objects VALUES (?, ?, 0, 1, 0)",
                          ((chance.randbytes(32), pack) for _ in range(bench.sizes.objects)))
    big = [read() for _ in range(bench.rounds)]
    with contextlib.closing(sqlite3.connect(cache_index(host))) as index:
        support.expect(index.execute("SELECT count(*) FROM objects").fetchone()[0] >= bench.sizes.objects,
                       "the cache kept the rows that were to make it big")
    bench.figures.add(f"4 KiB read, cache of {bench.sizes.objects:.0e} objects", "µs", big, small, "a small cache", "less")
