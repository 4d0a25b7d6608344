"""Makes disks to measure with, whose content is like that of an installed system.

Three quarters are the files below /usr (programs, libraries, text) in an order that the seed
decides. One quarter is noise and stands for compressed files. The same seed gives the same bytes
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
    """An endless stream of the bytes described above."""

    def __init__(self, seed):
        self._chance = random.Random(seed)
        self._files, self._pending = [], bytearray()

    def _next_file(self):
        if not self._files:
            self._files = list(installed_files())
            self._chance.shuffle(self._files)
            # A shift of the files' places in their chunks, so that no round repeats the chunks of the one before.
            self._pending += self._chance.randbytes(self._chance.randrange(1, 4096))
        try:
            path = self._files.pop()
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as file:
                    data = file.read(16 * MIB)
                    self._pending += data + bytes(-len(data) % 4096)  # each file begins at a block boundary
        except OSError:
            pass

    def take(self, size):
        """Returns the next `size` bytes; callers take whole MiB, each of which is either files or noise."""
        if self._chance.random() < 0.25:
            return self._chance.randbytes(size)
        while len(self._pending) < size:
            self._next_file()
        taken = bytes(self._pending[:size])
        del self._pending[:size]
        return taken


def make_dense(path, size, seed=1):
    """Makes a disk without holes."""
    content = Content(seed)
    with open(path, "wb") as out:
        for _ in range(size // MIB):
            out.write(content.take(MIB))
    return path


def make_half_full(path, size, seed=2):
    """Makes a disk with runs of 1 to 32 MiB of data, each followed by a hole of the same size. Returns the bytes of data."""
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
    """Rewrites `blocks` runs of 64 KiB where there is data, as a day of work does."""
    content, chance = Content(seed), random.Random(seed)
    size = os.path.getsize(path)
    with open(path, "r+b") as out:
        for _ in range(blocks):
            at = chance.randrange(size) & ~65535
            try:
                at = os.lseek(out.fileno(), at, os.SEEK_DATA)
            except OSError:  # no data follows
                at = os.lseek(out.fileno(), 0, os.SEEK_DATA)
            out.seek(at)
            out.write(content.take(65536))
