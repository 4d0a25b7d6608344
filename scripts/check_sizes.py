#!/usr/bin/env python3
"""Fails when a source file has more than 400 lines, or a function more than 60.

It finds functions by the layout of clang-format: a block ends with a line that
begins with a brace, at the indentation of the block's first line.
"""
import re
import sys

import checker

MOST_LINES = 400
MOST_FUNCTION_LINES = 60
SOURCE_SUFFIXES = {".h", ".hpp", ".c", ".cpp", ".cc"}
NO_FUNCTION = re.compile(r"\s*(namespace|class|struct|enum|union|extern|template|using|static const|constexpr)\b[^(]*$")
MOST_INDENTATION = 8  # of a function's first line; a method of a class inside a class has it


def indentation(line):
    return len(line) - len(line.lstrip(" "))


def check_functions(path, lines):
    begun = {}  # indentation → index of the last line there that may have opened a block
    for index, line in enumerate(lines):
        depth = indentation(line)
        if not line.strip() or line.lstrip().startswith(("//", "#")) or depth > MOST_INDENTATION:
            continue
        if not line.lstrip().startswith("}"):
            begun[depth] = index
            continue
        first = begun.get(depth, index)
        if index - first >= MOST_FUNCTION_LINES and not NO_FUNCTION.match(lines[first]):
            yield f"{path}:{first + 1}: {index - first + 1} lines in one function, {MOST_FUNCTION_LINES} are allowed"


def check_tree(source):
    for path in sorted(source.rglob("*")):
        if path.suffix not in SOURCE_SUFFIXES or not path.is_file():
            continue
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        if len(lines) > MOST_LINES:
            yield f"{path}: {len(lines)} lines, {MOST_LINES} are allowed; divide it by what it is about"
        yield from check_functions(path, lines)


if __name__ == "__main__":
    sys.exit(checker.run("sizes", "src", check_tree, __doc__))
