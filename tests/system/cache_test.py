"""Tests that a cache that cannot be used costs time and one warning, nothing else."""
import os
import subprocess

import support
import writing
from support import expect, expect_equal


def small_volume(folder, size):
    """Mounts a volume of this size at the folder. Returns False when this user may not."""
    folder.mkdir(parents=True, exist_ok=True)
    made = os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder],
                                                check=False).returncode == 0
    if not made:
        print("    skipped: only root can make a small volume", flush=True)
    return made


def fill(folder):
    with open(folder / "filler", "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(1 << 16))
        except OSError:
            pass


def warnings_of(result):
    return [line for line in result.err.splitlines() if "warning:" in line]


def everything_works(world, a, chance):
    """Imports, mounts, checks out, writes and checks in with a cache that cannot be used. Returns the import's result."""
    image, content = writing.small_disk(world, chance, size=12 << 20)
    imported = a.run("import", "two", image)
    expect(len(warnings_of(imported)) <= 1, f"more than one warning:\n{imported.err}")
    look = world.new_folder("look")
    a.run("mount", "two", look)
    expect_equal((look / "disk.raw").read_bytes() == bytes(content), True, "what is mounted is what was imported")
    a.run("umount", look)
    disk = writing.check_out(a, "two")
    with open(disk, "r+b") as file:
        file.write(b"written")
        os.fsync(file.fileno())
    content[:7] = b"written"
    with open(disk, "rb") as file:
        expect_equal(file.read() == bytes(content), True, "what was written is read")
    a.run("sync", "two")
    a.run("checkin", "two")
    a.run("check", "--deep")
    return imported


def test_a_full_cache_disk_costs_speed_and_one_warning(world):
    a, chance = world.host("a"), writing.chance()
    if not small_volume(a.home / "cache", "3m"):
        return
    try:
        a.init_repository(world.new_folder("repo"))
        image, _ = writing.small_disk(world, chance, size=3 << 20)
        a.run("import", "one", image)
        fill(a.home / "cache")
        imported = everything_works(world, a, chance)
        expect_equal(len(warnings_of(imported)), 1, f"warnings of the import:\n{imported.err}")
        look = world.new_folder("first")
        a.run("mount", "one", look)
        expect((look / "disk.raw").exists(), "the first import is not mounted")
        a.run("umount", look)
    finally:
        subprocess.run(["umount", "-l", a.home / "cache"], check=False)


def test_a_cache_folder_that_is_read_only_from_the_start_costs_speed_and_one_warning(world):
    a, chance = world.host("a"), writing.chance()
    if not small_volume(a.home / "cache", "64m"):
        return
    try:
        a.init_repository(world.new_folder("repo"))
        subprocess.run(["mount", "-o", "remount,ro", a.home / "cache"], check=True)
        imported = everything_works(world, a, chance)
        expect_equal(len(warnings_of(imported)), 1, f"warnings of the import:\n{imported.err}")
    finally:
        subprocess.run(["umount", "-l", a.home / "cache"], check=False)


def test_a_full_disk_beside_a_cache_does_not_fail_writes(world):
    a, chance = world.host("a"), writing.chance()
    if not small_volume(a.home / "disk", "128m"):
        return
    volume = a.home / "disk"
    try:
        for name in ("cache", "state"):
            (volume / name).mkdir(mode=0o700)
            (a.home / name).symlink_to(volume / name)
        a.variables["ISR_CACHE_MIN_FREE"] = "0"
        a.init_repository(world.new_folder("repo"))
        image, content = writing.small_disk(world, chance, size=64 << 20)
        a.run("import", "work", image)
        disk = writing.check_out(a, "work")
        free = os.statvfs(volume).f_bavail * os.statvfs(volume).f_frsize
        (volume / "others").write_bytes(bytes(free - (4 << 20)))
        with open(disk, "r+b") as file:
            for at in range(0, 16 << 20, 1 << 20):
                piece = chance.randbytes(1 << 20)
                file.seek(at)
                file.write(piece)
                file.flush()
                os.fsync(file.fileno())
                content[at:at + len(piece)] = piece
        with open(disk, "rb") as file:
            expect_equal(file.read() == bytes(content), True, "what was written is read")
        a.run("checkin", "work")
        a.run("check", "--deep")
    finally:
        a.run("discard", "work", "--yes", expect=None)
        subprocess.run(["umount", "-l", volume], check=False)


if __name__ == "__main__":
    support.main(test_a_full_cache_disk_costs_speed_and_one_warning,
                 test_a_cache_folder_that_is_read_only_from_the_start_costs_speed_and_one_warning,
                 test_a_full_disk_beside_a_cache_does_not_fail_writes)
