"""Tests state of a host that is lost, damaged, replaced or of another program: isr names it, and unsynced work stays."""
import os
import pathlib
import shutil
import sqlite3
import subprocess

import support
import writing
from support import expect, expect_equal

CHUNK = 128 << 10


def set_up(world):
    root = world.new_folder("repository")
    a, b = world.host("a"), world.host("b")
    a.init_repository(root)
    image, content = writing.small_disk(world, writing.chance(), size=1 << 20)
    a.run("import", "work", image)
    b.add_repository(root)
    return a, b, content


def write_stamp(disk, content, chance, at):
    stamp = chance.randbytes(4096)
    content[at:at + len(stamp)] = stamp
    with open(disk, "r+b") as file:
        file.seek(at)
        file.write(stamp)
        file.flush()
        os.fsync(file.fileno())


def expect_content(disk, content, what):
    with open(disk, "rb") as file:
        expect(file.read() == content, f"{what}: the disk is not what was written")


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def damaged_ways(place, parcel):
    """Yields (description, file, function that damages it, exit code of a checkout). A checkout survives the loss of files
    that are copies or can be made again."""
    ways = {"missing": lambda path: path.unlink(), "empty": lambda path: path.write_bytes(b""),
            "text": lambda path: path.write_text("neither a database nor anything else of isr\n")}
    for file, codes in ((place / "trust.db", (0, 14, 14)), (place / "device-key", (14, 14, 14)),
                        (parcel / "session", (14, 14, 14)), (parcel / "settled" / "index.db", (0, 0, 0)),
                        (parcel / "settled" / "format", (19, 19, 19))):
        for (name, damage), code in zip(ways.items(), codes):
            yield f"{file.name} {name}", file, damage, code


def test_lost_and_damaged_state_keeps_unsynced_work(world):
    a, _, content = set_up(world)
    write_stamp(writing.check_out(a, "work"), content, writing.chance(), 0)
    writing.kill_daemon(a, "work")
    place = next(a.state.glob("*/alice"))
    parcel = next(place.glob("parcels/*"))
    kept = shutil.copytree(place, world.folder / "kept")
    journal = files(parcel / "journal")
    for what, file, damage, code in damaged_ways(place, parcel):
        for log in file.parent.glob(file.name + "-*"):
            log.unlink()
        damage(file)
        result = a.run("checkout", "work", expect=code)
        if code == 0:
            expect_content(writing.check_out(a, "work"), content, what)
            writing.kill_daemon(a, "work")
        else:
            expect(str(file.parent) in result.err, f"{what}: not named: {result}")
        expect(files(parcel / "journal").items() >= journal.items(), f"{what}: the journal was changed")
        for mount in world.mounts():
            subprocess.run(["fusermount3", "-u", "-z", mount], check=True)
        shutil.rmtree(place)
        shutil.copytree(kept, place)
    expect_content(writing.check_out(a, "work"), content, "all put back")
    a.run("checkin", "work")
    a.run("check", "--deep")


def test_a_checkout_that_cannot_start_gives_the_lock_back(world):
    a, b, _ = set_up(world)
    look = world.new_folder("look")
    a.run("mount", "work", look)  # makes the cache
    a.run("umount", look)
    support.wait_until(lambda: not world.processes(), "the mount's daemon ends")  # it writes the index of the cache at its end
    usual, form = dict(a.variables), a.cache / "objects" / "format"
    good = form.read_text()
    for code, variables, text in ((20, {"XDG_RUNTIME_DIR": str(world.folder / "absent")}, good),
                                  (19, {}, good.replace('"version":1', '"version":2'))):
        form.write_text(text)
        before = files(a.cache)
        for command in ("checkout", "start"):
            a.variables = usual | variables
            a.run(command, "work", expect=code)
            a.variables = usual
            expect_equal(a.stat("work")["state"], "not checked out here", f"state after {command}")
        expect(files(a.cache) == before, "a cache that is not ours to use was changed")
        form.write_text(good)
        writing.check_out(b, "work")
        b.run("checkin", "work")


def test_a_session_belongs_to_one_daemon(world):
    a, _, _ = set_up(world)
    writing.check_out(a, "work")
    path = next((a.runtime / "isr" / "ctl").iterdir())
    path.rename(path.with_name("elsewhere"))
    refused = a.run("checkout", "work", expect=16)
    expect("in use" in refused.err, f"not said why: {refused}")
    path.with_name("elsewhere").rename(path)
    a.run("checkin", "work")


def test_a_session_daemon_has_the_configuration_of_its_command(world):
    repository = world.new_folder("repository")
    a, b = world.host("a"), world.host("b")
    a.init_repository(repository)
    image, content = writing.small_disk(world, writing.chance(), size=1 << 20)
    a.run("import", "work", image)
    b.add_repository(repository)
    elsewhere, other = world.folder / "elsewhere", b.home / "other.toml"
    other.write_text((b.config / "config.toml").read_text() + f'\n[cache]\ndir = "{elsewhere}"\n')
    mount = b.run("--config", other, "checkout", "work", json=True)["mount"]
    expect(pathlib.Path(mount, "disk.raw").read_bytes() == content, "the disk has other bytes")
    b.run("--config", other, "checkin", "work")
    expect(files(elsewhere), "nothing is in the cache that the command was told of")
    expect_equal(files(b.cache) if b.cache.exists() else [], [], "files in the other cache")


def memory_of(host, *command, expect=0):
    """Runs `command`, which starts a guest, and switches the guest off. Returns QEMU's mapping of its memory."""
    host.run(*command, "work", "--no-network", expect=expect)
    way = host.stat("work")["vm"]["memory"]
    host.run("poweroff", "work", "--yes")
    return way


def test_a_running_daemon_follows_the_configuration_of_each_command(world):
    a, _, _ = set_up(world)
    other = a.home / "other.toml"
    other.write_text((a.config / "config.toml").read_text() +
                     '\n[vm]\nmemory = "shared"\n[cache]\nlimit = "3G"\n[read]\nunreachable = "fail"\n')
    a.variables["ISR_VM_MEMORY"] = "private"
    a.run("checkout", "work")
    daemon = a.stat("work")["daemon_pid"]
    expect_equal(memory_of(a, "start"), "private", "memory as the command that checked out has it")
    a.variables["ISR_VM_MEMORY"] = "shared"
    expect_equal(memory_of(a, "start"), "shared", "memory as the environment of a start has it")
    del a.variables["ISR_VM_MEMORY"]
    expect_equal(memory_of(a, "--config", other, "start"), "shared", "memory as the --config of a start has it")
    expect_equal(memory_of(a, "start"), "private", "memory as it is built in")
    for command in (("checkout",), ("sync",), ("--yes", "discard")):
        told = a.run("--config", other, *command, "work")
        expect("keeps the cache.limit, read.unreachable with which it began" in told.err, f"not said what stays: {told}")
        told = a.run(*command, "work")
        expect("with which it began" not in told.err, f"nothing stays that differs: {told}")
    a.variables["ISR_CACHE_DIR"] = str(a.home / "cache elsewhere")
    told = a.run("sync", "work")
    expect("the cache.dir with which it began" in told.err, f"not said that the cache stays: {told}")
    del a.variables["ISR_CACHE_DIR"]
    expect_equal(a.stat("work")["daemon_pid"], daemon, "the daemon")
    a.run("checkin", "work")


def test_a_session_is_controlled_from_another_runtime_directory(world):
    a, _, content = set_up(world)
    writing.check_out(a, "work")
    a.runtime = a.home / "another"
    a.runtime.mkdir(mode=0o700)
    expect("mount" in a.stat("work"), "the daemon does not answer")
    expect_equal(a.stat("work")["state"], "checked out", "the state seen from another runtime directory")
    a.run("sync", "work")
    a.run("checkin", "work")
    expect_content(writing.check_out(a, "work"), content, "the disk checked out again")
    a.run("checkin", "work")


def test_a_cache_that_goes_away_or_is_replaced_is_only_a_cache(world):
    chance = writing.chance()
    a, b, content = set_up(world)
    victim, places = world.new_folder("victim"), iter(range(0, 1 << 20, CHUNK))

    def work(disk, what):
        write_stamp(disk, content, chance, next(places))
        expect_content(disk, content, what)
        a.run("sync", "work")
        expect_equal(list(victim.iterdir()), [], f"{what}: files that were written elsewhere")

    disk = writing.check_out(a, "work")
    shutil.rmtree(a.cache)
    work(disk, "deleted")
    shutil.rmtree(a.cache, ignore_errors=True)
    a.cache.symlink_to(victim)
    work(disk, "replaced by a symlink")
    a.run("checkin", "work")
    expect("symbolic link" in a.run("checkout", "work", expect=12).err, "not said what is wrong with the cache")
    a.cache.unlink()
    disk = writing.check_out(a, "work")
    shutil.rmtree(a.cache / "objects")
    (a.cache / "objects").symlink_to(victim)
    work(disk, "its objects replaced by a symlink")
    a.run("checkin", "work")
    (a.cache / "objects").unlink()
    disk = writing.check_out(a, "work")
    database = sqlite3.connect(a.cache / "objects" / "index.db")
    database.execute("PRAGMA user_version = 9")
    database.close()
    work(disk, "its index of a newer isr")
    a.run("checkin", "work")
    a.run("checkout", "work", expect=19)
    expect((a.cache / "objects" / "index.db").exists(), "an index of a newer isr was deleted")
    (a.cache / "objects" / "index.db").unlink()
    expect_content(writing.check_out(a, "work"), content, "a new index")
    a.run("checkin", "work")
    b.run("check", "work", "--deep")


def test_a_cache_that_becomes_read_only_is_only_a_cache(world):
    a, _, content = set_up(world)
    disk = writing.check_out(a, "work")
    if os.geteuid() != 0 or subprocess.run(["mount", "--bind", a.cache, a.cache], check=False).returncode:
        print("    skipped: only root can make a folder read-only to itself", flush=True)
        a.run("checkin", "work")
        return
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", a.cache], check=True)
        write_stamp(disk, content, writing.chance(), CHUNK)
        expect_content(disk, content, "read-only cache")
        a.run("checkin", "work")
    finally:
        # The session's daemon, which has answered its last command, may still be closing its files there.
        support.wait_until(lambda: subprocess.run(["umount", a.cache], check=False, stderr=subprocess.DEVNULL).returncode == 0,
                           "the cache is unmounted")
    expect_content(writing.check_out(a, "work"), content, "writable again")
    a.run("checkin", "work")


if __name__ == "__main__":
    support.main(test_lost_and_damaged_state_keeps_unsynced_work, test_a_checkout_that_cannot_start_gives_the_lock_back,
                 test_a_session_daemon_has_the_configuration_of_its_command,
                 test_a_running_daemon_follows_the_configuration_of_each_command,
                 test_a_session_is_controlled_from_another_runtime_directory, test_a_session_belongs_to_one_daemon, test_a_cache_that_goes_away_or_is_replaced_is_only_a_cache,
                 test_a_cache_that_becomes_read_only_is_only_a_cache)
