"""The command line of the programs in this folder. Each program is a test of CTest, label `torture`.

    python3 tests/torture/NAME.py PATH-OF-ISR [--long] [--seed N]

Without --long a program runs its short form: fixed seeds, a minute or so, for every CI run. All random choices of a
program come from a seed that it prints, so that the same command repeats them.
"""
import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "system"))  # support.py, writing.py


def arguments(description, **numbers):
    """Parses the command line: isr, --long, --seed, and an option for each number (its default, its default with --long).
    E.g. arguments(__doc__, kills=(5, 500)) gives .isr .long .seed .kills"""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("isr", nargs="?", default="build/release/isr", help="the program to torture")
    parser.add_argument("--long", action="store_true", help="the long form, by hand")
    parser.add_argument("--seed", type=int, help="one seed instead of the usual ones")
    for name in numbers:
        parser.add_argument("--" + name.replace("_", "-"), type=int)
    chosen = parser.parse_args()
    for name, (short, long) in numbers.items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, long if chosen.long else short)
    return chosen
