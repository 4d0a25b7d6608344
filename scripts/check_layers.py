#!/usr/bin/env python3
"""Fails when a source file includes a layer that it must not know.

Layers point one way (docs/architecture.md). A layer may include itself and
every layer below it in the table BELOW. A folder that is not in the table is an
error, so that a new layer is placed there on purpose.
"""
import pathlib
import re
import sys

import checker

BELOW = {
    "base": [],
    "repository": ["base"],
    "chunkstore": ["repository"],
    "image": ["chunkstore"],
    "fusefs": ["image"],
    "vm": ["base"],
    "host": ["repository"],
    "account": ["host", "image", "vm"],
    "session": ["account", "fusefs"],
    "machine": ["session"],
    "daemon": ["machine"],
    "transfer": ["session"],
    "server": ["repository"],
    "cli": ["daemon", "transfer", "server"],
}
SOURCE_SUFFIXES = {".h", ".hpp", ".c", ".cpp", ".cc"}
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">]+)[">]')


def reachable(layer):
    """Returns the layer itself and all layers below it."""
    found = {layer}
    for below in BELOW[layer]:
        found |= reachable(below)
    return found


def check_include(path, layer, quote, target):
    """Returns the problem with one include in a file of `layer`, or None."""
    folder, slash, _ = target.partition("/")
    if folder in BELOW and slash:
        if folder not in reachable(layer):
            return f"{layer} must not include {folder}: {target}"
        return None
    if quote == '"' and not (path.parent / target).is_file():
        return f"include of an unknown layer: {target}"
    if ".." in pathlib.PurePosixPath(target).parts:
        return f"include by a relative path hides its layer: {target}"
    return None


def check_file(path, layer):
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        match = INCLUDE.match(line)
        problem = match and check_include(path, layer, *match.groups())
        if problem:
            yield f"{path}:{number}: {problem}"


def check_tree(source):
    for path in sorted(source.rglob("*")):
        if path.suffix not in SOURCE_SUFFIXES or not path.is_file():
            continue
        layer = path.relative_to(source).parts[0]
        if layer not in BELOW:
            yield f"{path}: {layer} is not a layer that scripts/check_layers.py knows"
        else:
            yield from check_file(path, layer)


if __name__ == "__main__":
    sys.exit(checker.run("layers", "src", check_tree, __doc__))
