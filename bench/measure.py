"""Takes a figure: samples of two sides in turn, their medians, a row of the table.

A figure compares isr with a reference in the same minute: a plain file on the same
disk, the link, a round trip. Absolute numbers say more about the machine and its
other users than about isr; ratios can be compared between machines.
"""
import ctypes
import ctypes.util
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
import zlib

PROJECT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "tests" / "system"))
import support  # noqa: E402

from content import Content  # noqa: E402

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
CHUNK = 128 * KIB


class Figures:
    """Prints the table row by row as it is measured, and keeps the rows for a JSON document."""

    def __init__(self, side="isr"):
        self.side, self.rows = side, []

    def head(self):
        print(f"{'':<46}{self.side:>10} {'reference':>10} {'ratio':>7}  {'unit':<9} {'reference is':<20} {'peak MiB':>8}")

    def section(self, text):
        print(f"-- {text}", flush=True)

    def add(self, name, unit, ours, reference=(), against="", better="more", peak=None):
        """Adds a row. `ours`, `reference` and `peak` (the daemon's peak memory in bytes) have one number for each round.
        `better` says whether "more" or "less" is better."""
        mine = statistics.median(ours)
        theirs = statistics.median(reference) if reference else None
        ratio = mine / theirs if theirs else None
        peak_mib = statistics.median(peak) / MIB if peak else None
        self.rows.append({"name": name, "unit": unit, "better": better, "value": mine, "reference": theirs,
                          "against": against, "ratio": ratio, "peak_mib": peak_mib, "rounds": list(ours)})
        def number(value, width, digits=1):
            return f"{value:{width}.{digits}f}" if value is not None else f"{'':>{width}}"
        print(f"{name:<46}{number(mine, 10, 3 if mine < 10 else 1)} {number(theirs, 10, 3 if theirs and theirs < 10 else 1)}"
              f" {number(ratio, 7, 2)}  {unit:<9} {against:<20} {number(peak_mib, 8, 0)}", flush=True)

    def skip(self, name, why):
        print(f"{name:<46}skipped: {why}", flush=True)

    def document(self, mode, directory):
        return {"schema": 1, "mode": mode, "machine": machine(directory), "page_cache_dropped": drop_page_cache.possible,
                "figures": self.rows}


def in_turn(rounds, *sides):
    """Returns [[a1, a2, …], [b1, b2, …]]. The order is a, b, a, b, … so that a busy minute affects both."""
    answers = [[] for _ in sides]
    for _ in range(rounds):
        for side, answer in zip(sides, answers):
            answer.append(side())
    return answers


def file_system(directory):
    return subprocess.run(["stat", "-f", "-c", "%T", directory], capture_output=True, text=True, check=True).stdout.strip()


def add_common_options(parser):
    parser.add_argument("--isr", default=str(PROJECT / "build" / "release" / "isr"), metavar="PATH", help="build/release/isr")
    parser.add_argument("--dir", default="/tmp", help="on the disk to measure (/tmp)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")


def check_common_options(parser, options):
    if not os.access(options.isr, os.X_OK):
        parser.error(f"{options.isr} is not there; build it or say --isr PATH")
    if not os.path.isdir(options.dir):
        parser.error(f"{options.dir} is no directory")
    if file_system(options.dir) in ("tmpfs", "ramfs"):
        parser.error(f"{options.dir} is in memory; say --dir DIR, on the disk that is to be measured")


def machine(directory):
    """Describes the machine, without names and paths."""
    model = "unknown"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cores": os.cpu_count(), "cpu": model, "memory_gib": round(memory / GIB), "kernel": platform.release(),
            "file_system": file_system(directory), "load": round(os.getloadavg()[0], 1)}


def drop_page_cache():
    os.sync()
    try:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3\n", encoding="ascii")
    except OSError:
        drop_page_cache.possible = False


drop_page_cache.possible = True


def seconds(job):
    began = time.monotonic()
    job()
    return time.monotonic() - began


# --- processes ------------------------------------------------------------

def cpu_seconds(pid):
    """Returns the CPU seconds that a running process has used so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid, kind):
    """Returns VmHWM (the peak) or VmRSS (now) of a process, in bytes."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(kind + ":"):
            return int(line.split()[1]) * KIB
    return 0


def wait_counted(process, timeout):
    """Waits for a child. Returns (CPU seconds, peak memory in bytes) of it and of the children that it waited for."""
    deadline = time.monotonic() + timeout
    while True:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            break
        if time.monotonic() > deadline:
            process.kill()
            raise support.Failure(f"{process.args} takes more than {timeout} s")
        time.sleep(0.01)
    support.expect(process.returncode == 0, f"{process.args} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss * KIB


# --- reading and writing --------------------------------------------------

def fio(path, kind, timeout=600, **options):
    """Runs one job of synchronous pread or pwrite through the page cache. Options can change that: direct=1 bypasses the
    page cache, numjobs runs several jobs. Returns {"MB/s", "op/s"}."""
    command = ["fio", "--name=job", f"--filename={path}", f"--rw={kind}", "--ioengine=psync", "--thread", "--output-format=json",
               "--group_reporting", "--randseed=7", "--fallocate=none", "--gtod_reduce=1"]
    command += ["--readonly"] if "read" in kind else []
    command += [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, cwd=os.path.dirname(path))
    support.expect(done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    job = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]
    side = job["read" if "read" in kind else "write"]
    took = max(side["runtime"], 1) / 1000
    return {"MB/s": side["io_bytes"] / took / 1e6, "op/s": side["total_ios"] / took}


def sequential(path, size, offset=0, timeout=600):
    """Returns the MB/s of reading a range from its beginning to its end, 1 MiB at a time."""
    return fio(path, "read", timeout, bs=f"{min(size, MIB)}", size=size, offset=offset)["MB/s"]


def durable_write(path, size):
    """Returns the MB/s of writing over a file from its beginning, 1 MiB at a time, with an fsync at the end."""
    data = memoryview(Content(7).take(16 * MIB))
    file = os.open(path, os.O_WRONLY)
    try:
        began = time.monotonic()
        for at in range(0, size, MIB):
            os.pwrite(file, data[at % len(data):at % len(data) + MIB], at)
        os.fsync(file)
        return size / (time.monotonic() - began) / 1e6
    finally:
        os.close(file)


def random_reads(path, count, seed, size, timeout=120):
    """Returns the seconds that each 4 KiB read took, and the number of distinct chunks that they touched."""
    import random
    chance = random.Random(seed)
    offsets = [chance.randrange(size // 4096) * 4096 for _ in range(count)]
    times, deadline = [], time.monotonic() + timeout
    file = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        for offset in offsets:
            began = time.monotonic()
            support.expect(len(os.pread(file, 4096, offset)) == 4096, f"a short read at {offset}")
            times.append(time.monotonic() - began)
            support.expect(time.monotonic() < deadline, f"{count} reads of 4 KiB take more than {timeout} s")
    finally:
        os.close(file)
    return times, len({offset // CHUNK for offset in offsets})


def percentile(values, percent):
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def compressed_size(data):
    """Returns the size after zstd at level 1, which isr uses; without libzstd, after zlib at level 1."""
    library = ctypes.util.find_library("zstd")
    if not library:
        return len(zlib.compress(data, 1))
    zstd = ctypes.CDLL(library)
    zstd.ZSTD_compress.restype = zstd.ZSTD_compressBound.restype = ctypes.c_size_t
    bound = zstd.ZSTD_compressBound(ctypes.c_size_t(len(data)))
    out = ctypes.create_string_buffer(bound)
    return zstd.ZSTD_compress(out, ctypes.c_size_t(bound), data, ctypes.c_size_t(len(data)), 1)
