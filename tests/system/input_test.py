"""Tests odd arguments, files, folders and surroundings: the documented exit code, a helpful message, and no change.

cli_test.py tests words and passwords, images_test.py disk images; this file tests files and folders around them."""
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import time

import support
import writing
from odd_input import parcels, refuse, set_up
from support import expect, expect_equal


def test_sizes_and_versions(world):
    _, a, image, _ = set_up(world)
    for size in ("0", "-1", "1", "511", "131073", " 8G", "9223372036854775808", "18446744073709551616", "1e3", "", "G", "8 parsecs"):
        refuse(a, 2, [], "create", "new", f"--size={size}")
    refuse(a, 2, ["16 TiB"], "create", "new", "--size=17T")
    for memory in ("0", "-1", "1", "x", "1T", "100T"):
        refuse(a, 2, [], "create", "new", f"--memory={memory}")
        refuse(a, 2, [], "import", "new", image, f"--memory={memory}")
    expect_equal(parcels(a), ["work"], "parcels after refused commands")
    a.run("create", "huge", "--size", "16T")
    disk = writing.check_out(a, "huge")
    with open(disk, "r+b") as file:
        file.seek((16 << 40) - 4096)
        file.write(b"end of a large disk".ljust(4096))
    a.run("checkin", "huge")
    a.run("check", "huge", "--deep")
    for version in ("0", "-1", "abc", "18446744073709551616"):
        refuse(a, 2, [], "checkout", f"work@{version}")
        refuse(a, (2, 10), [], "checkout", "work", f"--version={version}")
    refuse(a, 10, ["version"], "checkout", "work@2")
    refuse(a, 10, [], "checkout", "works")


def test_places_of_a_repository(world):
    host = world.host("a")
    file = world.new_file("file")
    loop = world.folder / "loop"
    loop.symlink_to(loop)
    for place in (file, loop, "/proc/isr"):
        refuse(host, (18, 19), [], "repo", "init", place, "--user", "alice", "--recovery-file", world.folder / "key")
    refuse(host, (2, 10, 13, 18, 19), [], "repo", "add", "home", world.folder / "absent", "--user", "alice")
    refuse(host, 10, ["no repository"], "repo", "add", "home", world.new_folder("empty"), "--user", "alice")
    refuse(host, 13, [], "repo", "add", "home", f"http://127.0.0.1:{support.free_port()}", "--user", "alice")
    expect_equal(host.run("repo", "ls", json=True)["repositories"], [], "repositories after refused commands")
    # Two inits at once: one succeeds, the other is refused.
    root, b = world.new_folder("repository"), world.host("b")
    racing = [h.start("repo", "init", root, "--user", "alice", "--recovery-file", h.home / "key", stdout=subprocess.DEVNULL,
                      stderr=subprocess.DEVNULL) for h in (host, b)]
    codes = [process.wait(timeout=support.COMMAND_TIMEOUT) for process in racing]
    expect_equal(sorted(codes), [0, 2], "exit codes of two inits")
    (host, b)[codes.index(0)].run("create", "work", "--size", "1M")


def test_mount_points(world):
    _, a, _, content = set_up(world)
    full, file, look = world.new_folder("full"), world.new_file("file"), world.new_folder("look")
    (full / "mine").touch()
    for place, words in ((full, "not empty"), (file, "not a directory"), (world.folder / "absent", "does not exist")):
        refuse(a, 2, [words], "mount", "work", place)
    expect_equal([p.name for p in full.iterdir()], ["mine"], "the folder in the way")
    a.run("mount", "work", look)
    refuse(a, 2, ["already mounted"], "mount", "work", look)
    refuse(a, 2, ["not a directory"], "mount", "work", look / "disk.raw")
    refuse(a, 2, ["does not exist"], "mount", "work", look / "inside")
    expect((look / "disk.raw").read_bytes() == content, "the mounted disk")
    mounter = [pid for pid, line in world.processes().items() if "__mount" in line]
    for pid in mounter:
        support.kill(pid)
    support.wait_until(lambda: not any(pid in world.processes() for pid in mounter), "the mount's daemon ends")
    a.run("mount", "work", look)  # over the dead mount
    expect((look / "disk.raw").read_bytes() == content, "the disk, mounted again")
    a.run("umount", look)
    refuse(a, (2, 10, 18), [], "umount", look)


def test_what_keeps_fuse_from_working(world):
    _, a, _, content = set_up(world)
    look = world.new_folder("look")
    if os.geteuid() == 0:
        # This mount namespace has a /dev without the device.
        hide = ('mkdir -p "$0" && mount -t tmpfs none "$0" && cp -a /dev/null /dev/urandom "$0" && mount --move "$0" /dev'
                ' && exec "$@"')
        a.under = ["unshare", "--mount", "sh", "-c", hide, world.folder / "dev"]
        cause = "/dev/fuse is absent"
    else:
        a.under = ["setpriv", "--no-new-privs"]
        cause = "no_new_privs"
    refuse(a, 20, [cause], "mount", "work", look)
    refuse(a, 20, [cause], "checkout", "work")
    a.under = []
    a.run("mount", "work", look)
    expect((look / "disk.raw").read_bytes() == content, "the mounted disk")
    a.run("umount", look)
    writing.check_out(a, "work")
    a.run("checkin", "work")


def test_states_of_a_parcel(world):
    root, a, _, _ = set_up(world)
    b = world.host("b")
    b.add_repository(root)
    disk = writing.check_out(a, "work")
    refuse(b, 11, ["hint:", "in use on"], "checkout", "work")
    refuse(b, 11, ["hint:"], "resume", "work")
    refuse(b, 11, ["hint:"], "rollback", "work@1", "--yes")
    refuse(a, 16, [], "checkout", "work@1")
    refuse(a, 16, ["checkin"], "rollback", "work@1", "--yes")
    refuse(a, 2, ["--yes"], "discard", "work")
    # A checkin without changes makes no new version.
    before = len(list(root.glob("parcels/*/heads/*")))
    a.run("checkin", "work")
    expect_equal(len(list(root.glob("parcels/*/heads/*"))), before, "versions after a checkin of nothing")
    a.run("checkin", "work")  # again: nothing to do
    refuse(a, 10, [], "discard", "work", "--yes")
    refuse(a, (10, 16), [], "poweroff", "work", "--yes")
    # Another host takes over; this host keeps its work as a fork and says so.
    disk = writing.check_out(a, "work")
    with open(disk, "r+b") as file:
        file.write(b"work of a".ljust(4096))
    refuse(b, 11, ["hint:"], "start", "work")
    theirs = writing.check_out(b, "work", "--take-lock")
    with open(theirs, "r+b") as file:
        file.write(b"work of b".ljust(4096))
    b.run("checkin", "work")
    refuse(a, 17, ["fork"], "checkin", "work")


def test_settings_files(world):
    host = world.host("a")
    host.config.mkdir(parents=True)
    file = host.config / "config.toml"
    # (content, the line that the message names; 0: the file is good; None: the whole file is refused without a line)
    for content, line in ((b"", 0), (b"\xef\xbb\xbfoffline = false\n", 0), (b"\0\1\2\xff" * 100, 1), (b"\noffline = tr", 2),
                          (b"[cache]\nlimit = '1G'\nlimit = '2G'\n", 3), (b"[cache]\nlimt = '1G'\n", 2),
                          (b"[cache]\r\n\r\nlimit = 'much'\r\n", 3), (b"\n[repo.x]\nurl = 'http://a:sekret@b/'\nuser = 'a'\n", 3),
                          (b"\n[repo.x]\nurl = '/x'\n", 3), (b"a = " + b"[" * 5000, 1), (b"# " + b"x" * (100 << 20), None)):
        file.write_bytes(content)
        named = "config.toml" if line is None else f"config.toml:{line}:"
        if line == 0:
            host.run("config", "show", timeout=20)
        else:
            refused = refuse(host, 2, [named], "config", "show", timeout=20)
            expect("sekret" not in refused.err, f"a password was echoed: {refused}")
    file.write_bytes(b"")
    for mode in (0o620, 0o602):
        file.chmod(mode)
        refuse(host, 2, ["chmod"], "ls")
        refuse(host, 2, ["chmod"], "config", "set", "offline", "true")
        expect_equal(file.read_bytes(), b"", "a file that others may write")
    file.unlink()
    file.mkdir()
    refuse(host, 2, ["config.toml"], "config", "show")


def test_surroundings(world):
    _, a, _, content = set_up(world)
    usual = dict(a.variables)
    a.variables = usual | {"XDG_RUNTIME_DIR": str(world.folder / "absent" / "deep")}
    look = world.new_folder("look")
    refuse(a, 20, [], "checkout", "work")
    open_folder = world.new_folder("open")
    open_folder.chmod(0o777)
    a.variables = usual | {"XDG_RUNTIME_DIR": str(open_folder)}
    a.run("ls", expect=(0, 20))
    long = world.folder / ("long " * 30) / ("name " * 30)
    long.mkdir(parents=True, mode=0o700)
    a.variables = usual | {"XDG_RUNTIME_DIR": str(long)}
    if a.run("checkout", "work", expect=(0, 2, 20)).code == 0:
        a.run("checkin", "work")
    a.variables = usual | {"HOME": "", "XDG_CONFIG_HOME": "", "XDG_STATE_HOME": "", "XDG_CACHE_HOME": ""}
    refuse(a, 2, ["HOME"], "ls")
    a.variables = usual | {"LC_ALL": "de_DE.UTF-8", "TZ": "Asia/Kathmandu", "COLUMNS": "10", "NO_COLOR": "1", "TERM": "dumb"}
    a.run("ls"), a.run("log", "work")
    expect_equal(a.run("log", "absent", expect=10, json=True)["exit_code"], 10, "an error as JSON")
    # Other users cannot read our files under any umask.
    process = a.start("mount", "work", look, umask=0, stdout=subprocess.DEVNULL)
    expect_equal(process.wait(timeout=60), 0, "mount with an open umask")
    expect((look / "disk.raw").read_bytes() == content, "the mounted disk")
    a.run("umount", look)
    a.variables = usual
    readable = [path for place in (a.state, a.cache, a.config, a.runtime) for path in place.rglob("*")
                if path.is_file() and path.stat().st_mode & 0o077]
    expect_equal([path for path in readable if path.name != "CACHEDIR.TAG"], [], "files that others may read")
    for name, kind, limit in (("few files", resource.RLIMIT_NOFILE, 16), ("small files", resource.RLIMIT_FSIZE, 1024),
                              ("little memory", resource.RLIMIT_AS, 60 << 20)):
        process = a.start("checkout", "work", preexec_fn=lambda k=kind, n=limit: resource.setrlimit(k, (n, n)),
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = process.communicate(timeout=60)[1]
        expect(process.returncode >= 0 and (process.returncode == 0 or said.startswith("isr: ")),
               f"{name}: exit {process.returncode}: {said}")
    a.under = ["prlimit", "--nofile=64:4096"]
    a.run("checkout", "work")
    limits = open(f"/proc/{a.stat('work')['daemon_pid']}/limits", encoding="ascii").read()
    expect(re.search(r"Max open files +4096 +4096 ", limits), f"a daemon has not as many files as it may: {limits}")
    a.run("checkin", "work")
    a.under = []
    closed = subprocess.run(f"exec {support.ISR} ls >&-", shell=True, env=a.environment(), stdin=subprocess.DEVNULL,
                            capture_output=True, text=True, check=False, timeout=60)
    expect(closed.returncode in (0, 18), f"stdout closed: {closed}")


def test_a_mount_whose_path_is_no_text(world):
    """The daemon gets a mount namespace of its own, because other tests read the list of mounts as text."""
    if os.geteuid() != 0:
        return
    a = world.host("a")
    a.init_repository(world.serve().url)
    a.run("create", "work", "--size", "1M", "--memory", "64M")
    runtime = a.home / os.fsdecode(b"run\xff")
    runtime.mkdir(mode=0o700)
    a.variables["XDG_RUNTIME_DIR"] = str(runtime)
    a.under = ["unshare", "--mount"]
    shown = str(a.home / "run") + "\\xff/isr/mnt/"
    expect(a.run("checkout", "work", json=True)["mount"].startswith(shown), "checkout shows the bytes of the mount")
    expect(a.stat("work")["mount"].startswith(shown), "stat shows the bytes of the mount")
    expect(shown in a.run("stat", "work").out, "stat shows them to people")
    expect(shown in a.run("checkout", "work").out, "checkout shows them to people")
    a.run("checkin", "work")


def test_control_sockets(world):
    _, a, _, _ = set_up(world)
    disk = writing.check_out(a, "work")
    path = next((a.runtime / "isr" / "ctl").iterdir())
    pid = a.stat("work")["daemon_pid"]
    # While the daemon is stopped, every command says so within five seconds.
    support.stop_process(pid)
    try:
        for command in (("stat", "work"), ("checkin", "work"), ("suspend", "work"), ("sync", "work"), ("console", "work"),
                        ("checkout", "work"), ("resume", "work")):
            began = time.monotonic()
            a.run(*command, expect=20, timeout=60)
            took = time.monotonic() - began
            expect(took < 5 + 5, f"isr {command[0]} took {took:.1f} s to say that the daemon does not answer")
        a.run("ls", timeout=60, expect=(0, 20))
    finally:
        os.kill(pid, signal.SIGCONT)
    a.run("stat", "work")
    # The daemon survives any request.
    for said in (b"\n", b"{", b"{}\n", b"[" * 100000 + b"\n", b"\xff" * 100 + b"\n", b'{"command":7}\n', b"x" * (2 << 20)):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(30)
            peer.connect(str(path))
            try:
                peer.sendall(said)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(4096):
                    pass
            except OSError:
                pass
    expect_equal(a.stat("work")["daemon_pid"], pid, "the daemon")
    # A new daemon replaces the stale socket of a killed one, but refuses to start over a regular file.
    writing.kill_daemon(a, "work")
    expect(path.exists(), "a killed daemon's socket is expected to be left")
    writing.check_out(a, "work")
    a.run("checkin", "work")
    support.wait_until(lambda: not path.exists(), "the daemon's end takes its socket away")
    path.write_text("a file")
    refuse(a, 20, ["socket"], "checkout", "work")
    path.unlink()
    disk = writing.check_out(a, "work")
    expect(pathlib.Path(disk).exists(), "no disk")
    a.run("checkin", "work")


def test_a_full_server_names_the_cause_and_shows_no_half(world):
    full = world.new_folder("full")
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", full], check=False).returncode:
        print("    skipped: only root can make a small volume", flush=True)
        return
    try:
        server = world.serve(root=full)
        a = world.host("a")
        a.init_repository(server.url)
        image, _ = writing.small_disk(world, writing.chance(), size=8 << 20)
        refuse(a, 18, ["no room"], "import", "work", image)
        for path in full.glob("objects/*/*"):
            sum_ = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]
            expect_equal(sum_, path.name, "an object's digest")
        a.run("ls")
        subprocess.run(["mount", "-o", "remount,size=64m", full], check=True)
        a.run("import", "work", image)
        a.run("check", "--deep")
        server.stop()
    finally:
        subprocess.run(["umount", "-l", full], check=False)
    shutil.rmtree(full, ignore_errors=True)


if __name__ == "__main__":
    support.main(test_sizes_and_versions, test_places_of_a_repository, test_mount_points,
                 test_what_keeps_fuse_from_working,
                 test_states_of_a_parcel, test_settings_files, test_surroundings, test_a_mount_whose_path_is_no_text, test_control_sockets,
                 test_a_full_server_names_the_cause_and_shows_no_half)
