"""Makes allocations of the session daemon fail, the k-th or all from then on, during writes, flushes, reads and publishes.

A daemon without memory ends at once, and that must lose no answered write. The test checks that the disk of the next
daemon has all answered writes, that reads are right, that nothing hangs, that every command has a documented exit code
and succeeds when it is run again, and that the version published in the end has exactly the written bytes.

The printed options repeat one failure, e.g. --at 1234 --sticky 1."""
import random
import sys

import common

chosen = common.arguments(__doc__, allocations=(10, 400), at=(0, 0), sticky=(0, 0))
sys.argv = [sys.argv[0], chosen.isr]  # support.py reads it

import support  # noqa: E402
from shim import torture  # noqa: E402


def main():
    seed = 30 if chosen.seed is None else chosen.seed
    chance = torture.begin(seed)
    if chosen.at > 0:
        plan = iter([torture.Fault("allocate", chosen.at, "ENOMEM", bool(chosen.sticky), daemons_only=True)])
    else:
        total = torture.count(chosen.isr, chance, ["allocate"], daemons_only=True)["allocate"]
        # Most allocations are those of a daemon's start, so half of the failures are drawn from the later ones.
        at = [chance.randrange(1, total + 1) if number % 2 else int(total * (1 - chance.random() ** 2 / 2))
              for number in range(chosen.allocations)]
        plan = iter([torture.Fault("allocate", max(1, k), "ENOMEM", chance.random() < 0.5, daemons_only=True) for k in at])
    sys.exit(torture.run(chosen.isr, chance, plan, "failed allocations"))


if __name__ == "__main__":
    main()
