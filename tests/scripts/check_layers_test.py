"""Tests that the layer check finds forbidden includes in small source trees and accepts allowed ones."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

CHECK = pathlib.Path(__file__).resolve().parent.parent.parent / "scripts" / "check_layers.py"


class CheckLayers(unittest.TestCase):
    def run_on(self, files):
        with tempfile.TemporaryDirectory() as root:
            for name, text in files.items():
                path = pathlib.Path(root, "src", name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            return subprocess.run([sys.executable, CHECK, "--root", root], capture_output=True, text=True)

    def assert_refused(self, files, *words):
        result = self.run_on(files)
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)

    def assert_accepted(self, files):
        result = self.run_on(files)
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_includes_of_layers_below_are_accepted(self):
        self.assert_accepted({
            "base/error.h": "#include <string>\n",
            "image/tree.cpp": '#include "image/tree.h"\n#include "base/error.h"\n#include "chunkstore/object.h"\n',
            "image/tree.h": '#include "repository/head.h"\n',
            "session/session.cpp": '#include "vm/qemu.h"\n#include "fusefs/mount.h"\n',
            "cli/main.cpp": '#include "server/server.h"\n#include <CLI/CLI.hpp>\n',
        })

    def test_an_upward_include_is_refused_and_named(self):
        self.assert_refused({"base/error.h": '#pragma once\n#include "repository/head.h"\n'}, "base/error.h:2", "repository")

    def test_an_upward_include_is_found_however_it_is_written(self):
        for include in ('#  include   "session/session.h"', "#include <session/session.h>", '\t#include"session/session.h"'):
            self.assert_refused({"image/tree.cpp": include + "\n"}, "image must not include session")

    def test_sideways_includes_are_refused(self):
        self.assert_refused({"vm/qemu.cpp": '#include "fusefs/mount.h"\n'}, "vm must not include fusefs")
        self.assert_refused({"fusefs/mount.cpp": '#include "vm/qemu.h"\n'}, "fusefs must not include vm")
        self.assert_refused({"server/server.cpp": '#include "chunkstore/object.h"\n'}, "server must not include chunkstore")

    def test_an_unknown_folder_is_refused(self):
        self.assert_refused({"helpers/thing.h": "\n"}, "helpers")
        self.assert_refused({"thing.h": "\n"}, "thing.h")

    def test_an_include_of_an_unknown_folder_is_refused(self):
        self.assert_refused({"image/tree.cpp": '#include "helpers/thing.h"\n'}, "unknown layer")

    def test_a_relative_include_cannot_hide_a_layer(self):
        self.assert_refused({"base/a.h": '#include "../cli/b.h"\n', "cli/b.h": "\n"}, "relative path")


if __name__ == "__main__":
    unittest.main()
