"""A writer for tests that interrupt isr during writes; it records which data must survive."""
import mmap
import os
import random
import sys
import threading
import time

import support

BLOCK = 4096


def rounds(default):
    """Returns the number of random tries of a test. ISR_TEST_ROUNDS asks for more than CI has time for."""
    return int(os.environ.get("ISR_TEST_ROUNDS", default))


def chance():
    """Returns a random generator. ISR_TEST_SEED sets its seed, to repeat a failure."""
    seed = int(os.environ.get("ISR_TEST_SEED", random.randrange(1 << 30)))
    print(f"    ISR_TEST_SEED={seed}", file=sys.stderr, flush=True)
    return random.Random(seed)


def small_disk(world, chance_, size=8 << 20):
    """Makes a raw disk of noise with some zeros in it. Returns its path and its bytes."""
    content = bytearray(chance_.randbytes(size))
    zeros = size // 8
    content[zeros:2 * zeros] = bytes(zeros)
    path = world.new_file("disk.raw")
    path.write_bytes(content)
    return path, content


def check_out(host, parcel, *options):
    """Checks a parcel out. Returns the path of its writable disk."""
    return os.path.join(host.run("checkout", parcel, *options, json=True)["mount"], "disk.raw")


def kill_daemon(host, parcel):
    pid = host.stat(parcel)["daemon_pid"]
    support.kill(pid)
    support.wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the killed daemon ends")


class Promises:
    """The contents that each sector may have after a power cut: the data that the last answered flush covered, or data
    written since that flush began. Set `are_over` before the power is cut; later answers do not count. After a real cut
    no program gets an answer, but an ext4 that is shut down may answer a sync that it was in the middle of."""

    def __init__(self, content):
        self.flushed, self._since, self.are_over = bytearray(content), [], False

    def write(self, offset, data):
        """Notes a write. To be called before it, because a write may arrive although it is not answered."""
        self._since.append((offset, data))

    def flush_begins(self):
        return len(self._since)

    def flush_answered(self, began):
        if self.are_over:
            return
        for offset, data in self._since[:began]:
            self.flushed[offset:offset + len(data)] = data
        del self._since[:began]

    def check(self, found):
        support.expect_equal(len(found), len(self.flushed), "the disk's size")
        found = bytes(found)
        if found == self.flushed:
            return
        later = {}
        for offset, data in self._since:
            for at in range(0, len(data), 512):
                later.setdefault(offset + at, set()).add(data[at:at + 512])
        bad = [at for at in range(0, len(found), 512) if found[at:at + 512] != self.flushed[at:at + 512] and
               found[at:at + 512] not in later.get(at, ())]
        support.expect(not bad, f"{len(bad)} sectors are neither as flushed nor newer, the first at {bad[:1]}")


class Writer:
    """Writes at random places of a file until the file fails or stop() is called. `content` is the file after all answered
    writes. `under_way` is the one range that may be old, new or, block by block, both. `promises` has the contents that a
    power cut may leave. `first` bytes from the start are written once before the random writes. `flush_answered` is called
    after each flush."""

    def __init__(self, path, content, chance_, direct=False, first=0, promises=None):
        self.content, self.under_way, self.writes, self.flushes = content, None, 0, 0
        self.promises, self.flush_answered, self._first = promises or Promises(content), lambda: None, first
        self._chance, self._stop = random.Random(chance_.random()), threading.Event()
        self._file = os.open(path, os.O_RDWR | (os.O_DIRECT if direct else 0))
        self._direct = direct
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _piece(self):
        unit = 512
        if self._first > 0:
            length = min(self._first, 1 << 20)
            self._first -= length
            offset = self._first
        else:
            length = unit * self._chance.choice((1, 1, 2, 7, 8, 8, 8, 16, 129, 512))
            offset = unit * self._chance.randrange((len(self.content) - length) // unit)
        stamp = self._chance.randbytes(16)
        data = mmap.mmap(-1, length)  # aligned, as O_DIRECT requires
        data[:] = stamp * (length // 16)
        return offset, data

    def _run(self):
        try:
            while not self._stop.is_set():
                offset, data = self._piece()
                self.under_way = (offset, bytes(data))
                self.promises.write(*self.under_way)
                if os.pwrite(self._file, data, offset) != len(data):
                    return
                self.content[offset:offset + len(data)] = data
                self.under_way = None
                self.writes += 1
                if self._chance.random() < 0.1:
                    began = self.promises.flush_begins()
                    os.fsync(self._file)
                    self.promises.flush_answered(began)
                    self.flushes += 1
                    self.flush_answered()
        except OSError:
            pass
        finally:
            try:
                os.close(self._file)
            except OSError:
                pass  # the daemon of the file was killed

    def wait(self, writes, timeout=60):
        goal = self.writes + writes
        support.wait_until(lambda: self.writes >= goal or not self._thread.is_alive(), f"{writes} more writes", timeout, 0.002)

    def wait_for_end(self, what, timeout=60):
        support.wait_until(lambda: not self._thread.is_alive(), what, timeout, 0.002)

    def stop(self):
        """Ends the writer, also after its file's daemon was killed."""
        self._stop.set()
        self._thread.join(timeout=60)
        support.expect(not self._thread.is_alive(), "a write hangs")

    def check(self, path):
        """Checks that the file has exactly the answered writes. Takes the range that was under way into `content`."""
        with open(path, "rb") as file:
            found = file.read()
        support.expect_equal(len(found), len(self.content), "the disk's size")
        if self.under_way:
            offset, data = self.under_way
            for at in range(offset, offset + len(data), 512):
                new = data[at - offset:at - offset + 512]
                if found[at:at + 512] == new:
                    self.content[at:at + 512] = new
        if found != self.content:
            bad = [at for at in range(0, len(found), 512) if found[at:at + 512] != self.content[at:at + 512]]
            raise support.Failure(f"{len(bad)} sectors differ from what was written, the first at {bad[0]}")


def moment(chance_, longest=1.0):
    """Sleeps for a random time, which a test of interruptions needs."""
    time.sleep(chance_.uniform(0, longest))
