"""Measures cold reads over a long link: the share of the link that is used, and the round trips that a guest waits."""
import contextlib
import statistics

from host import cached, empty_cache, mounted
from link import Link
from measure import CHUNK, drop_page_cache, percentile, random_reads, sequential, support


class FarHost:
    """Another computer of the same user, at the far end of a link."""

    def __init__(self, bench):
        self.bench, self.port = bench, support.free_port()
        self.host = bench.world.host("far")
        with self._link(0, 0) as link:
            self.host.add_repository(link.url)
            bench.world.log_in(self.host)

    def _link(self, rate_mbit, round_trip):
        return Link(self.bench.world, self.bench.server.port, rate_mbit, round_trip, self.port)

    @contextlib.contextmanager
    def mounted(self, rate_mbit, round_trip):
        """Yields the daemon that serves the disk, with all caches empty."""
        empty_cache(self.host)
        with self._link(rate_mbit, round_trip), mounted(self.host, "bench") as daemon:
            drop_page_cache()
            yield daemon


def sequential_read(bench, far, name, rate_mbit, round_trip, size):
    """Measures the share of the link that carried objects: their stored bytes, each object counted once.
    It reads the end of the disk, so everything that is fetched ahead is also read."""
    shares, speeds, peaks = [], [], []
    for _ in range(bench.far_rounds):
        with far.mounted(rate_mbit, round_trip) as daemon:
            speed = sequential(daemon.disk, size, bench.sizes.disk - size, timeout=300)
            peaks.append(daemon.peak)
        _, received = cached(far.host)
        speeds.append(speed)
        shares.append(received / (size / 1e6 / speed) / 1e6)
    bench.figures.add(f"cold sequential read, {name}", "MB/s", shares, [rate_mbit / 8], "the link", peak=peaks)
    bench.figures.add("  as the guest sees it, uncompressed", "MB/s", speeds)


def random_read(bench, far, round_trip=0.04):
    medians, worst, amplifications, objects, peaks = [], [], [], [], []
    for number in range(bench.far_rounds):
        with far.mounted(100, round_trip) as daemon:
            times, chunks = random_reads(daemon.disk, bench.sizes.far_reads, seed=number, size=bench.sizes.disk)
            peaks.append(daemon.peak)
        count, received = cached(far.host)
        medians.append(statistics.median(times) * 1000)
        worst.append(percentile(times, 99) * 1000)
        amplifications.append(received / (chunks * CHUNK))
        objects.append(count / chunks)
    add, milliseconds = bench.figures.add, [round_trip * 1000]
    add("cold random 4 KiB read at 40 ms, median", "ms", medians, milliseconds, "a round trip", "less", peaks)
    add("  99th percentile", "ms", worst, milliseconds, "a round trip", "less")
    add("  objects fetched for each chunk asked for", "", objects, better="less")
    add("  bytes fetched for each byte of those", "", amplifications, better="less")


def links(bench):
    far, sizes = FarHost(bench), bench.sizes
    for name, rate, round_trip, amount in (("100 Mbit/s 40 ms", 100, 0.04, sizes.link_100),
                                           ("10 Mbit/s 40 ms", 10, 0.04, sizes.link_10),
                                           ("1 Mbit/s 100 ms", 1, 0.1, sizes.link_1)):
        sequential_read(bench, far, name, rate, round_trip, amount)
    random_read(bench, far)
