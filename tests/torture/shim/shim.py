"""Controls shim.c: sets the call that fails, its error and the processes; reads the counts and the first hit."""
import ctypes
import errno
import mmap
import os

KINDS = ("open", "read", "write", "sync", "truncate", "rename", "link", "unlink", "map", "send", "thread", "allocate", "accept")

# The errors of each kind, and the errors that a call does not return again and again: EINTR asks for an immediate retry.
ERRORS = {
    "open": ("EMFILE", "EIO", "ENOSPC", "ENOMEM"),
    "read": ("EIO", "EINTR"),
    "write": ("ENOSPC", "EIO", "EINTR"),
    "sync": ("EIO", "ENOSPC"),
    "truncate": ("ENOSPC", "EIO"),
    "rename": ("EIO", "ENOSPC"),
    "link": ("ENOSPC", "EIO"),
    "unlink": ("EIO",),
    "map": ("ENOMEM",),
    "send": ("EPIPE", "ENOBUFS", "EINTR"),
    "thread": ("EAGAIN",),
    "allocate": ("ENOMEM",),
    "accept": ("EMFILE", "ECONNABORTED"),
}
ONCE_ONLY = ("EINTR",)


class Control(ctypes.Structure):
    """The struct Control of shim.c."""
    _fields_ = [(name, ctypes.c_uint64) for name in ("at", "sticky", "error", "kinds", "hits", "daemons_only")] + [
        ("counts", ctypes.c_uint64 * len(KINDS)), ("first_hit", ctypes.c_char * 512), ("folders", ctypes.c_char * 2048)]


class Shim:
    """Adds the shim to every isr that a host starts from now on. It makes no call fail until fail()."""

    def __init__(self, host, library, folders):
        path = host.world.new_file("torture")
        path.write_bytes(bytes(ctypes.sizeof(Control)))
        with open(path, "r+b") as file:
            self._control = Control.from_buffer(mmap.mmap(file.fileno(), ctypes.sizeof(Control)))
        self._control.folders = "".join(f"{folder}\n" for folder in folders).encode()
        host.variables |= {"LD_PRELOAD": str(library), "ISR_TORTURE": str(path)}

    def count(self, kinds, daemons_only=False):
        """Counts calls of these kinds from now on and makes none fail."""
        control = self._control
        control.at = control.hits = 0
        control.first_hit = b""
        control.daemons_only = int(daemons_only)
        control.kinds = sum(1 << KINDS.index(kind) for kind in kinds)
        for kind in range(len(KINDS)):
            control.counts[kind] = 0

    def fail(self, kind, at, error, sticky, daemons_only=False):
        """Makes the at-th call from now on fail; with `sticky` all later ones, too."""
        self.count([kind], daemons_only)
        self._control.error, self._control.sticky = getattr(errno, error), int(sticky)
        self._control.at = at

    def heal(self):
        self._control.at = 0

    def counted(self, kind):
        return self._control.counts[KINDS.index(kind)]

    @property
    def hits(self):
        return self._control.hits

    @property
    def first_hit(self):
        return self._control.first_hit.decode(errors="replace")


def library(isr):
    """Returns the path of the shim, which CMake builds beside the tests."""
    path = os.path.join(os.path.dirname(os.path.abspath(isr)), "tests", "torture_shim.so")
    if not os.path.exists(path):
        raise SystemExit(f"{path} is missing; it is built beside isr, with the tests")
    return path
