"""Makes system calls of isr fail, one by one: the k-th open, read, write, sync, … of files below its folders and those
of the repository, sends on its sockets and starts of its threads. The call fails once, or all calls from then on fail
until the fault is removed.

The test checks that every command ends in time with a documented exit code and succeeds when it is run again without
the fault, that the disk has all answered writes after the daemon was killed, that reads are right, and that the version
published in the end has exactly the written bytes.

The printed options repeat one failure, e.g. --kind 3 --at 17 --error 28 --sticky 1."""
import errno
import sys

import common

chosen = common.arguments(__doc__, calls=(9, 100000), upto=(300, 300), kind=(-1, -1), at=(0, 0), error=(errno.EIO, errno.EIO), sticky=(0, 0))
sys.argv = [sys.argv[0], chosen.isr]  # support.py reads it

from shim import shim as shims  # noqa: E402
from shim import torture  # noqa: E402

KINDS = [kind for kind in shims.KINDS if kind != "allocate"]


def faults(chance, counts):
    """Yields all faults up to the limit, or a sample of them."""
    every = [(kind, at) for kind in counts for at in range(1, min(counts[kind], chosen.upto) + 1)]
    if chosen.calls < len(every):
        # Draw equally many of each kind, because most calls are reads.
        kinds = [kind for kind in counts if counts[kind] > 0]
        every = [(kind, chance.randrange(1, min(counts[kind], chosen.upto) + 1))
                 for kind in kinds * (chosen.calls // len(kinds) + 1)]
        chance.shuffle(every)
        every = every[:chosen.calls]
    for kind, at in every:
        error = chance.choice(shims.ERRORS[kind])
        yield torture.Fault(kind, at, error, error not in shims.ONCE_ONLY and chance.random() < 0.5)


def main():
    chance = torture.begin(20 if chosen.seed is None else chosen.seed)
    kinds = KINDS if chosen.kind < 0 else [shims.KINDS[chosen.kind]]
    if chosen.at > 0:
        plan = iter([torture.Fault(kinds[0], chosen.at, errno.errorcode[chosen.error], bool(chosen.sticky))])
    else:
        plan = faults(chance, torture.count(chosen.isr, chance, kinds))
    sys.exit(torture.run(chosen.isr, chance, plan, "failing calls"))


if __name__ == "__main__":
    main()
