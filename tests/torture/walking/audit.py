"""Audits published versions: reads each when it is first seen, and checks later that it has not changed."""
import dataclasses
import hashlib

import support
from support import expect, expect_equal
from walking.place import PARCEL

PAGE = 4096
BLANK = bytes(PAGE)
# The least share of memory pages, compared with the fullest version. A guest frees pages, but needs most of them.
LEAST_SHARE = 0.4


@dataclasses.dataclass
class Moment:
    """A moment of a guest's memory: the last number printed by its counter is in low..high."""
    low: int
    high: int

    def __str__(self):
        return f"tick {self.low}..{self.high}"


@dataclasses.dataclass
class Version:
    number: int  # or a fork's name
    moment: Moment = None  # None: without memory
    flushed: int = 0  # at least this many sectors were flushed
    highest: int = 0
    pages: int = 0
    digests: dict = dataclasses.field(default_factory=dict)
    proven: bool = False  # a resume of it succeeded

    @property
    def suspended(self):
        return self.moment is not None


class Auditor:
    """Reads versions from the repository's directory with a cache that it throws away."""

    def __init__(self, place):
        self.place, self.host = place, place.hosts["auditor"]
        self.versions, self.forks = {}, {}
        self.fullest = 0

    @property
    def newest(self):
        return self.versions[max(self.versions)]

    def take(self, version, has_memory):
        """Notes a new version. `has_memory`: whether it must have memory, or None when both are right."""
        files, highest, pages = self._read(f"{PARCEL}@{version.number}", version.flushed)
        is_suspended = "memory.raw" in files
        expect(has_memory is None or has_memory == is_suspended,
               f"version {version.number} {'has' if is_suspended else 'lacks'} memory")
        if not is_suspended:
            version.moment = None
        version.digests, version.highest, version.pages = files, highest, pages
        if is_suspended:
            self.fullest = max(self.fullest, pages)
            is_booted = version.moment.low > 0  # else it may have waited for its disk since its first instruction
            expect(not is_booted or pages >= LEAST_SHARE * self.fullest,
                   f"version {version.number} has {pages} pages of memory that are not zeros, an earlier one {self.fullest}")
        (self.versions if isinstance(version.number, int) else self.forks)[version.number] = version

    def take_copy(self, number, original):
        version = Version(number, original.moment, original.flushed)
        self.take(version, original.suspended)
        expect_equal(self._same(version.digests), self._same(original.digests), f"what version {number} copies")

    def take_branch(self, name, original):
        files, _, _ = self._read(name, original.flushed)
        expect_equal(self._same(files), self._same(original.digests), f"what {name} copies of {original.number}")

    def recheck(self, version):
        files, _, _ = self._read(f"{PARCEL}@{version.number}", version.flushed)
        expect_equal(files, version.digests, f"what is in {version.number}")

    @staticmethod
    def _same(digests):
        return {name: digest for name, digest in digests.items() if name != "bootpack.raw"}

    def _read(self, name, flushed):
        self.place.lose_cache("auditor")
        folder = self.place.world.new_folder("look")
        self.host.run("mount", name, folder)
        try:
            digests, pages = {}, 0
            for file in sorted(folder.glob("*.raw")):
                data = file.read_bytes()
                digests[file.name] = hashlib.sha256(data).hexdigest()
                if file.name == "memory.raw":
                    pages = sum(data[at:at + PAGE] != BLANK for at in range(0, len(data), PAGE))
            highest = support.check_guest_disk(folder / "disk.raw", flushed)
        finally:
            self.host.run("umount", folder)
            folder.rmdir()
        return digests, highest, pages
