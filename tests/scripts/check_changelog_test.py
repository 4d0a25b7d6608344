"""Tests that the changelog check accepts good entries and names the problems of bad ones."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

CHECK = pathlib.Path(__file__).resolve().parent.parent.parent / "scripts" / "check_changelog.py"
TITLE = "# Bugfix: Disks of any size start\n"


class CheckChangelog(unittest.TestCase):
    def run_on(self, files):
        with tempfile.TemporaryDirectory() as root:
            folder = pathlib.Path(root, "changelog", "unreleased")
            folder.mkdir(parents=True)
            for name, text in files.items():
                (folder / name).write_text(text)
            return subprocess.run([sys.executable, CHECK, "--root", root], capture_output=True, text=True)

    def assert_refused(self, files, *words):
        result = self.run_on(files)
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)

    def assert_accepted(self, files):
        result = self.run_on(files)
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_an_entry_with_title_and_two_paragraphs_is_accepted(self):
        self.assert_accepted({
            "0001-disk-sizes.md": TITLE + "\nThey did not.\nNow they do.\n\n`isr start NAME` boots them.\n",
            "0002-short.md": TITLE,
        })

    def test_every_type_is_accepted(self):
        for kind in ("Bugfix", "Enhancement", "Change", "Security"):
            self.assert_accepted({"0001-a.md": f"# {kind}: Disks start\n"})

    def test_an_unknown_type_and_a_title_without_type_are_refused(self):
        for title in ("# Fix: Disks start\n", "# Disks start\n", "Bugfix: Disks start\n", "# Bugfix:\n", ""):
            self.assert_refused({"0001-a.md": title}, "0001-a.md:1", "TYPE")

    def test_a_title_with_a_full_stop_is_refused(self):
        self.assert_refused({"0001-a.md": "# Bugfix: Disks start.\n"}, "full stop")

    def test_a_title_that_is_too_long_is_refused(self):
        self.assert_refused({"0001-a.md": "# Bugfix: Disks" + " start" * 20 + "\n"}, "characters")

    def test_text_directly_under_the_title_is_refused(self):
        self.assert_refused({"0001-a.md": TITLE + "They did not.\n"}, "0001-a.md:2")

    def test_two_changes_in_one_file_are_refused(self):
        self.assert_refused({"0001-a.md": TITLE + "\nText.\n\n" + TITLE}, "0001-a.md:5", "second title")
        self.assert_refused({"0001-a.md": TITLE + "\n* one\n* two\n"}, "0001-a.md:3", "list")

    def test_a_third_paragraph_is_refused(self):
        self.assert_refused({"0001-a.md": TITLE + "\nOne.\n\nTwo.\n\nThree.\n"}, "paragraphs")

    def test_a_wrong_file_name_is_refused(self):
        for name in ("disks.md", "1-disks.md", "0001-Disks.md", "0001-disks.txt", "0001-.md"):
            self.assert_refused({name: TITLE}, name, "NNNN")

    def test_a_number_that_is_used_twice_is_refused(self):
        self.assert_refused({"0001-a.md": TITLE, "0001-b.md": TITLE}, "0001-b.md", "0001-a.md")

    def test_a_changelog_without_folders_is_refused(self):
        with tempfile.TemporaryDirectory() as root:
            pathlib.Path(root, "changelog").mkdir()
            result = subprocess.run([sys.executable, CHECK, "--root", root], capture_output=True, text=True)
            self.assertEqual(result.returncode, 1, result.stderr)
            self.assertIn("no folder", result.stderr)

    def test_a_missing_changelog_ends_the_check_with_code_2(self):
        with tempfile.TemporaryDirectory() as root:
            result = subprocess.run([sys.executable, CHECK, "--root", root], capture_output=True, text=True)
            self.assertEqual(result.returncode, 2, result.stderr)
            self.assertIn("not there", result.stderr)


if __name__ == "__main__":
    unittest.main()
