"""Tests that the size check finds files and functions that are too long, and nothing else."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

CHECK = pathlib.Path(__file__).resolve().parent.parent.parent / "scripts" / "check_sizes.py"


def function(lines, indentation=""):
    return "".join(f"{indentation}{line}\n" for line in ["int f() {", *["  g();"] * lines, "}"])


class CheckSizes(unittest.TestCase):
    def run_on(self, text):
        with tempfile.TemporaryDirectory() as root:
            path = pathlib.Path(root, "src", "base", "a.cpp")
            path.parent.mkdir(parents=True)
            path.write_text(text)
            return subprocess.run([sys.executable, CHECK, "--root", root], capture_output=True, text=True, check=False)

    def assert_refused(self, text, words):
        result = self.run_on(text)
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        self.assertIn(words, result.stderr)

    def test_a_file_of_400_lines_is_accepted_and_one_of_401_is_refused(self):
        self.assertEqual(self.run_on("\n" * 400).returncode, 0)
        self.assert_refused("\n" * 401, "401 lines")

    def test_a_function_of_60_lines_is_accepted_and_one_of_61_is_refused(self):
        self.assertEqual(self.run_on(function(58)).returncode, 0)
        self.assert_refused(function(59), "a.cpp:1: 61 lines in one function")

    def test_a_function_in_a_class_is_counted_and_the_class_is_not(self):
        self.assertEqual(self.run_on("class A {\n" + function(40, "  ") * 3 + "};\n").returncode, 0)
        self.assert_refused("class A {\n" + function(70, "  ") + "};\n", "a.cpp:2: 72 lines")

    def test_a_function_is_counted_whatever_its_head_begins_with(self):
        for head in ("constexpr int f() {", "static const A& f() {", "struct stat f() {", "template <class T> T f() {"):
            self.assert_refused(head + "\n" + "  g();\n" * 70 + "}\n", "a.cpp:1: 72 lines")

    def test_a_function_that_ends_in_a_catch_is_counted(self):
        self.assert_refused("int f() try {\n" + "  g();\n" * 70 + "} catch (...) {\n}\n", "a.cpp:1: 72 lines")

    def test_a_method_of_a_class_in_a_class_is_counted(self):
        body = "class A {\n  class B {\n    class C {\n" + function(70, "      ") + "    };\n  };\n};\n"
        self.assert_refused(body, "a.cpp:4: 72 lines")

    def test_a_function_whose_head_has_several_lines_is_counted_from_its_first(self):
        self.assert_refused("int f(int a,\n      int b) {\n" + "  g();\n" * 70 + "}\n", "a.cpp:1:")


if __name__ == "__main__":
    unittest.main()
