"""Disks to measure with: what an installed system has on its disk, cheap and the same for a seed.

Three quarters are the files below /usr in an order that the seed decides (programs, libraries,
text), one quarter is noise, as of what is compressed already. The same seed gives the same bytes
as long as /usr is the same.
"""
import functools
import os
import random

MIB = 1 << 20


@functools.cache
def installed_files():
    found = []
    for folder, folders, names in os.walk("/usr"):
        folders.sort()
        found += [os.path.join(folder, name) for name in sorted(names)]
    return found


class Content:
    """An endless stream of such bytes."""

    def __init__(self, seed):
        self._chance = random.Random(seed)
        self._files, self._pending = [], bytearray()

    def _next_file(self):
        if not self._files:
            self._files = list(installed_files())
            self._chance.shuffle(self._files)
            # Another time round the files lie elsewhere in their chunks: not the same chunks again.
            self._pending += self._chance.randbytes(self._chance.randrange(1, 4096))
        try:
            path = self._files.pop()
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as file:
                    data = file.read(16 * MIB)
                    self._pending += data + bytes(-len(data) % 4096)  # a file begins in a block
        except OSError:
            pass

    def take(self, size):
        """The next bytes; whole MiB are of one kind."""
        if self._chance.random() < 0.25:
            return self._chance.randbytes(size)
        while len(self._pending) < size:
            self._next_file()
        taken = bytes(self._pending[:size])
        del self._pending[:size]
        return taken


def make_dense(path, size, seed=1):
    """A disk that is full."""
    content = Content(seed)
    with open(path, "wb") as out:
        for _ in range(size // MIB):
            out.write(content.take(MIB))
    return path


def make_half_full(path, size, seed=2):
    """A disk with runs of 1 to 32 MiB of data, each with a hole of the same size after it. Returns the bytes of data."""
    content, chance, at = Content(seed), random.Random(seed), 0
    with open(path, "wb") as out:
        while at < size:
            run = min(chance.choice((1, 2, 4, 8, 16, 32)), (size - at) // MIB // 2) or 1
            out.seek(at)
            for _ in range(run):
                out.write(content.take(MIB))
            at += 2 * run * MIB
        out.truncate(size)
    return size // 2


def change(path, blocks, seed=3):
    """Rewrites that many runs of 64 KiB where there is data, as a day of work does."""
    content, chance = Content(seed), random.Random(seed)
    size = os.path.getsize(path)
    with open(path, "r+b") as out:
        for _ in range(blocks):
            at = chance.randrange(size) & ~65535
            try:
                at = os.lseek(out.fileno(), at, os.SEEK_DATA)
            except OSError:  # there is only a hole after it
                at = os.lseek(out.fileno(), 0, os.SEEK_DATA)
            out.seek(at)
            out.write(content.take(65536))
