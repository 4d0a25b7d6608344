#!/usr/bin/env python3
"""Fails when a changelog entry does not have the form that changelog/README.md describes.

Each change has one file NNNN-words.md with a number of its own. It has one title `# TYPE: SENTENCE`, then two
paragraphs at most.
"""
import re
import sys

import checker

NAME = re.compile(r"([0-9]{4})-[a-z0-9]+(-[a-z0-9]+)*\.md")
TITLE = re.compile(r"# (Bugfix|Enhancement|Change|Security): \S.*[^.\s]")
MAX_TITLE = 110
MAX_PARAGRAPHS = 2


def check_text(text):
    """Yields (line number, problem)."""
    lines = text.splitlines()
    if not lines or not TITLE.fullmatch(lines[0]):
        yield 1, "the first line is not '# TYPE: SENTENCE' with Bugfix, Enhancement, Change or Security, and no full stop"
    elif len(lines[0]) > MAX_TITLE:
        yield 1, f"the title has more than {MAX_TITLE} characters"
    if len(lines) > 1 and lines[1]:
        yield 2, "no empty line behind the title"
    for number, line in enumerate(lines[1:], start=2):
        if line.startswith("#"):
            yield number, "a second title: write one file for each change"
        elif line.startswith(("* ", "- ")):
            yield number, "a list: write one file for each change, or a sentence"
    paragraphs = [p for p in re.split(r"\n\s*\n", text.strip()) if not p.startswith("#")]
    if len(paragraphs) > MAX_PARAGRAPHS:
        yield 1, f"more than {MAX_PARAGRAPHS} paragraphs"


def check_folder(folder):
    numbers = {}
    for path in sorted(folder.iterdir()):
        name = NAME.fullmatch(path.name)
        if not name:
            yield f"{path}: the name is not NNNN-words.md"
            continue
        first = numbers.setdefault(name[1], path.name)
        if first != path.name:
            yield f"{path}: {first} has this number already"
        for number, problem in check_text(path.read_text(encoding="utf-8")):
            yield f"{path}:{number}: {problem}"


def check_tree(changelog):
    folders = [path for path in sorted(changelog.iterdir()) if path.is_dir()]
    if not folders:
        yield f"{changelog}: there is no folder with entries"
    for folder in folders:
        yield from check_folder(folder)


if __name__ == "__main__":
    sys.exit(checker.run("changelog", "changelog", check_tree, __doc__))
