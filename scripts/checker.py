"""The frame of the check_*.py programs: the option --root, the list of problems, the exit code."""
import argparse
import pathlib
import sys


def run(name, folder, check, description):
    """Calls check(ROOT/folder), an iterable of problems, and prints each of them.

    Returns the exit code: 0 without problems, 1 with some, 2 when the folder is not there.
    """
    parser = argparse.ArgumentParser(description=description.split("\n\n")[0])
    default = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--root", type=pathlib.Path, default=default, help=f"the project; its {folder}/ is checked")
    path = parser.parse_args().root / folder
    if not path.is_dir():
        print(f"{path} is not there", file=sys.stderr)
        return 2
    problems = list(check(path))
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        return 1
    print(f"{name}: ok")
    return 0
