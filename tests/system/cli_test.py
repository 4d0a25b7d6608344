"""Tests isr's answers to mistyped commands: the exit code, the message, and that nothing changes."""
import contextlib
import os
import signal
import socket
import subprocess
import threading
import time

import support
from support import expect, expect_equal


def test_usage_errors_are_one_line_and_a_suggestion(world):
    host = world.host("a")
    for words in ([], ["frobnicate"], ["--bogus"], ["repo"], ["repo", "frob"], ["log"], ["log", "a", "b"], ["repo", "rm"],
                  ["--color", "purple", "version"], ["login", "--ttl"], ["login", "--ttl", "-5"], ["ls", "--dry-run"]):
        refused = host.run(*words, expect=2)
        expect(refused.err.startswith("isr: ") and refused.out == "", f"another form: {refused}")
    expect("Did you mean \"version\"?" in host.run("versio", expect=2).err, "no suggestion for a command")
    expect("Did you mean \"--origin\"?" in host.run("config", "show", "--orgin", expect=2).err, "none for a flag")
    answer = host.run("versio", expect=2, json=True)
    expect_equal((answer["type"], answer["kind"], answer["retryable"], answer["exit_code"]), ("error", "usage", False, 2),
                 "the error as JSON")


def test_help_and_version_work_where_all_is_broken(world):
    host = world.host("a")
    host.config.mkdir(parents=True)
    (host.config / "config.toml").write_text("[broken\n")
    host.run("ls", expect=2)
    for words in (["--help"], ["--help-all"], ["help"], ["help", "undo"], ["version"], ["-V"], ["--json", "version"]):
        host.run(*words)
    listed = [line.split()[0] for line in host.run("--help").out.splitlines() if line.startswith("  ") and line[2] > " "]
    for command in [word for word in listed if not word.startswith("-")]:
        text = host.run(command, "--help").out
        for part in ("usage: isr", "Examples", "Exit codes"):
            expect(part in text, f"isr {command} --help has no {part}")
    for codes, commands in (((16, 20), "resume start suspend stop poweroff checkout checkin sync discard console view"),
                            ((20,), "stat mount umount")):
        for command in commands.split():
            said = host.run(command, "--help").out.partition("Exit codes\n")[2]
            expect(all(f"\n  {code} " in said for code in codes), f"isr {command} --help: exit codes {said}")


def test_bad_names_and_versions_are_refused_and_escaped(world):
    host = world.host("a")
    host.init_repository(world.new_folder("repository"))
    for name in ("", "x" * 65, ".", "..", "a/b", "a\nb", "\x1b[2J", "cafe\u0301", "a\u200f", "CON", "w@0", "w@-1", "w@abc",
                 "w@18446744073709551616", "w@latest~x"):
        refused = host.run("log", name, expect=2)
        expect("\x1b" not in refused.err and "\u200f" not in refused.err, f"not escaped: {refused.err!r}")
    host.run("log", "work", expect=10)
    host.run("log", "nowhere:work", expect=10)


def test_an_empty_name_stands_for_no_default(world):
    host = world.host("a")
    host.init_repository(world.new_folder("repository"))
    for words in (("repo", "rm", ""), ("login", ""), ("logout", ""), ("stat", ""), ("import", "x", "")):
        expect("is empty" in host.run(*words, expect=2).err, f"isr {words}")
    host.run("repo", "info", "home")


def test_a_second_init_changes_nothing(world):
    host = world.host("a")
    folder = world.new_folder("repository")
    host.init_repository(folder)
    before = sorted(p.relative_to(folder) for p in folder.rglob("*"))
    expect("exists" in host.run("repo", "init", folder, "--user", "bob", "--name", "two", expect=2).err, "no reason")
    expect_equal(sorted(p.relative_to(folder) for p in folder.rglob("*")), before, "the repository's files")
    full = world.new_folder("full")
    (full / "file").write_text("not ours")
    host.run("repo", "init", full, "--name", "full", expect=19)
    for url in ("", "ftp://host/", "http://user:sekret@host/", "http://host:0/", "http://host:65536/", "http://::1/"):
        refused = host.run("repo", "add", "bad", url, expect=2)
        expect("sekret" not in refused.err + refused.out, f"a password was echoed: {refused}")


def test_passwords_come_from_where_they_are_said_to_be(world):
    host = world.host("a")
    host.init_repository(world.new_folder("repository"))
    password = host.password_file.read_text()
    host.run("ls")
    host.variables = {}
    host.run("ls", "--password-file", "-", stdin=password)
    host.run("ls", "--password-command", f"cat {host.password_file}")
    host.run("ls", "--password-file", "-", stdin="wrong\n", expect=12)
    host.run("ls", "--password-file", "-", stdin="\n", expect=2)
    host.run("ls", "--password-file", "-", stdin="x" * (2 << 20), expect=2)
    host.run("ls", "--password-command", "exit 3", expect=12)
    host.run("ls", "--password-file", world.folder / "absent", expect=12)
    began = time.monotonic()
    refused = subprocess.run([support.ISR, "ls"], stdin=subprocess.DEVNULL, env=host.environment(), capture_output=True,
                             text=True, start_new_session=True, check=False)
    expect_equal(refused.returncode, 12, "exit code without a terminal")
    expect("--password-file" in refused.stderr and time.monotonic() - began < 10, f"no hint, or slow: {refused.stderr}")


def test_prompts_ask_twice_and_leave_the_terminal_as_it_was(world):
    host = world.host("a")
    folder = world.new_folder("repository")
    init = ["repo", "init", folder, "--user", "alice"]
    code, screen = support.on_terminal(host, init, [(b"New password", b"one\n"), (b"Again", b"two\n")])
    expect(code == 2 and "differ" in screen and "one" not in screen.replace("one of", ""), f"{code}: {screen}")
    code, screen = support.on_terminal(host, init, [(b"New password", b"onx\x7fe\n"), (b"Again", b"one\n")])
    expect_equal(code, 0, f"exit code of the second attempt: {screen}")
    code, screen = support.on_terminal(host, ["ls"], [(b"Password", b"\x03")])
    expect_equal(code, 130, f"exit code of Ctrl-C: {screen}")
    code, screen = support.on_terminal(host, ["ls"], [(b"Password", b"one\n")])
    expect_equal(code, 0, f"exit code with the right password: {screen}")


def test_a_password_is_changed_and_a_lost_one_replaced(world):
    server = world.serve()
    here, there, fresh = world.host("a"), world.host("b"), world.host("c")
    here.init_repository(server.url)
    there.add_repository(server.url)
    there.run("ls")
    key = here.home / "recovery-key"
    new, third, wrong_key = (world.new_file(name) for name in ("new", "third", "wrong-key"))
    new.write_text("new password\n")
    third.write_text("third password\n")
    wrong_key.write_text("isr-recovery" + "-0000" * 14)
    here.run("passwd", "--password-file", new, "--new-password-file", third, expect=12)
    here.run("passwd", "--new-password-file", new)
    here.run("ls", expect=12)
    here.run("ls", "--password-file", new)
    there.run("--offline", "ls")  # offline, it cannot know of the new password
    refused = there.run("ls", expect=12)
    expect("was changed" in refused.err and "isr passwd" in refused.err, f"not said what to do: {refused}")
    there.run("ls", "--password-file", new)
    there.run("--offline", "ls", expect=12)

    there.run("passwd", "--recovery-file", wrong_key, "--new-password-file", third, expect=2)  # a mistyped key
    there.run("passwd", "--recovery-file", world.folder / "absent", "--new-password-file", third, expect=12)
    typed = [(b"Recovery key", key.read_bytes()), (b"New password", b"new password\n"), (b"Again", b"new password\n")]
    code, screen = support.on_terminal(there, ["passwd", "--recovery"], typed)
    expect(code == 0 and key.read_text().strip() not in screen, f"{code}: {screen}")
    fresh.run("repo", "add", "home", server.url, "--user", "alice", "--recovery-file", key, "--new-password-file", third)
    fresh.run("ls", "--password-file", third)
    here.run("ls", "--password-file", new, expect=12)
    other = world.host("d")
    other.run("repo", "init", world.new_folder("other"), "--recovery-file", other.home / "key")
    there.run("passwd", "--recovery-file", other.home / "key", "--new-password-file", new, expect=12)
    server.stop()
    here.run("passwd", "--password-file", third, "--new-password-file", new, expect=13)


def test_settings_say_where_they_come_from(world):
    host = world.host("a")
    host.run("config", "set", "cache.limit", "5G")
    host.variables["ISR_READ_UNREACHABLE"] = "fail"
    origins = {s["key"]: (s["value"], s["origin"]) for s in host.run("config", "show", json=True)["settings"]}
    expect_equal(origins["cache.limit"], ("5G", str(host.config / "config.toml")), "from the file")
    expect_equal(origins["read.unreachable"], ("fail", "environment ISR_READ_UNREACHABLE"), "from the environment")
    expect_equal(origins["upload.limit"], ("0", "built in"), "built in")
    host.run("config", "set", "password.command", "false")
    host.run("config", "set", "password.command", "")
    values = {s["key"]: s["value"] for s in host.run("config", "show", json=True)["settings"]}
    expect_equal(values["password.command"], "", "a setting that is empty again")
    (host.config / "config.toml").chmod(0o666)
    host.run("config", "show", expect=2)


def test_a_closed_pipe_and_a_full_disk_are_noticed(world):
    host = world.host("a")
    reading, writing = os.pipe()
    os.close(reading)
    process = host.start("--help", stdout=writing)
    os.close(writing)
    expect_equal(process.wait(timeout=30), -signal.SIGPIPE, "end of a command whose reader is gone")
    with open("/dev/full", "wb") as full:
        process = host.start("--help", stdout=full, stderr=subprocess.DEVNULL)
        expect_equal(process.wait(timeout=30), 18, "exit code with a full disk")


def test_a_signal_asks_how_far_it_is(world):
    host = world.host("a")
    host.init_repository(world.serve().url)
    disk = world.folder / "disk.raw"
    disk.write_bytes(os.urandom(48 << 20))
    said = world.new_file("said")
    with open(said, "wb") as err:
        process = host.start("import", "work", disk, "--bwlimit", "16M", "--progress", "none", stderr=err)

    def caught():
        with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
            mask = next(line for line in status if line.startswith("SigCgt")).split()[1]
        return int(mask, 16) >> (signal.SIGUSR1 - 1) & 1

    # Wait for the handler; before, the signal would end the process.
    support.wait_until(caught, "the signal has a handler", every=0.005)

    def told():
        process.send_signal(signal.SIGUSR1)
        return b"Importing work: import" in said.read_bytes()

    support.wait_until(told, "a line of status")
    expect_equal(process.wait(timeout=60), 0, "the import goes on")


def test_every_command_that_is_done_says_so_in_json(world):
    host = world.host("a")
    host.init_repository(world.new_folder("repository"))
    expect_equal(host.run("create", "lab", "--size", "1M", json=True)["size"], 1 << 20, "create")
    expect_equal(host.run("stat", json=True)["parcels"], [], "what is checked out here")
    host.run("checkout", "lab", json=True)
    everything = host.run("stat", json=True)["parcels"]
    expect_equal([(p["parcel"], p["state"]) for p in everything], [("lab", "checked out")], "what is checked out here")
    expect("lab@1  checked out here since" in host.run("stat").out, "stat without a name")
    host.run("stat", "lab@1", expect=2)
    for words in (["poweroff", "lab"], ["discard", "lab"], ["checkin", "lab"], ["checkin", "lab"], ["suspend", "lab"],
                  ["stop", "lab"], ["rollback", "lab@1"], ["lock", "break", "lab"],
                  ["export", "lab", "--raw", world.folder / "export.raw"]):
        answer = host.run(*words, "--yes", json=True)
        expect_equal((answer["type"], answer["parcel"]), ("summary", "lab"), f"isr {words[0]}")
    expect_equal(host.run("repo", "rm", "home", json=True)["repository"], "home", "repo rm")


def test_stat_shows_all_parcels_when_one_cannot_be_asked(world):
    host = world.host("a")
    host.init_repository(world.new_folder("repository"))
    for name in ("lab", "work"):
        host.run("create", name, "--size", "1M")
    host.run("checkout", "work")
    (path,) = (host.runtime / "isr" / "ctl").iterdir()
    (state,) = host.state.glob("*/*/parcels/*/session")
    host.run("checkout", "lab")
    real = path.with_name("real")
    path.rename(real)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def answer():
        with contextlib.suppress(OSError):  # accept() fails once the listener is closed
            while True:
                with listener.accept()[0] as peer:
                    if peer.recv(4096):
                        peer.sendall(b'{"type":"accepted"}\n{"type":"result","words":"of another version"}\n')

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        said = host.run("stat", expect=20).out
        expect("lab@1  checked out here since" in said, f"the other parcel is not shown: {said}")
        expect("work: checked out\nERROR    the session daemon may be of another version of isr" in said, f"no word of the one: {said}")
        found = {p["parcel"]: p for p in host.run("stat", json=True, expect=20)["parcels"]}
        expect("error" in found["work"] and "error" not in found["lab"], f"{found}")
        host.run("stat", "lab")
        host.run("stat", "work", expect=20)
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        path.unlink()
        real.rename(path)
    whole = state.read_bytes()
    state.write_bytes(whole[:100])
    said = host.run("stat", expect=14).out
    expect("lab@1  checked out here since" in said and "work: unknown\nERROR    " in said, f"with a damaged state: {said}")
    found = {p["parcel"]: p for p in host.run("stat", json=True, expect=14)["parcels"]}["work"]
    expect_equal([found[key] for key in ("upload_due", "lock_due", "version")], [None] * 3, "what is not known")
    state.write_bytes(whole)
    for name in ("lab", "work"):
        host.run("checkin", name)


def test_a_file_may_be_called_anything(world):
    a = world.host("a")
    a.init_repository(world.new_folder("repository"))
    content = os.urandom(510) + b"\x55\xaa" + os.urandom((1 << 20) - 512)  # looks like a disk with a boot sector
    bytes_that_are_no_text = os.fsdecode(b"a\xff")
    for number, name in enumerate((bytes_that_are_no_text, "nbd:localhost:1", "json:{}", "-f")):
        folder, parcel = world.new_folder("files"), f"p{number}"
        (folder / name).write_bytes(content)
        for words in (["import", parcel, folder / name], ["export", parcel, "--raw", folder / f"{name}.raw"],
                      ["export", parcel, "--qcow2", folder / f"{name}.qcow2"], ["mount", parcel, folder / f"{name}.mount"],
                      ["umount", folder / f"{name}.mount"], ["start", parcel, "--cdrom", folder / name],
                      ["poweroff", parcel, "--yes"], ["checkin", parcel]):
            if words[0] == "mount":
                words[2].mkdir()
            a.run(*words)
        expect((folder / f"{name}.raw").read_bytes() == content, f"the export of {name!r} is another disk")
        # A relative path, because QEMU's tools may take only that for an address.
        again = a.start("import", f"q{number}", "--", f"{name}.qcow2", cwd=folder, stderr=subprocess.PIPE)
        said = again.communicate(timeout=support.COMMAND_TIMEOUT)[1]
        expect_equal(again.returncode, 2 if name == bytes_that_are_no_text else 0, f"import of {name!r}, which said {said}")


support.main(test_a_file_may_be_called_anything, test_usage_errors_are_one_line_and_a_suggestion, test_help_and_version_work_where_all_is_broken,
             test_bad_names_and_versions_are_refused_and_escaped, test_an_empty_name_stands_for_no_default, test_a_second_init_changes_nothing,
             test_passwords_come_from_where_they_are_said_to_be, test_prompts_ask_twice_and_leave_the_terminal_as_it_was,
             test_a_password_is_changed_and_a_lost_one_replaced,
             test_settings_say_where_they_come_from, test_a_closed_pipe_and_a_full_disk_are_noticed,
             test_a_signal_asks_how_far_it_is, test_stat_shows_all_parcels_when_one_cannot_be_asked,
             test_every_command_that_is_done_says_so_in_json)
