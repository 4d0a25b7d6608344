"""Kills the session daemon during writes and checks that no flushed data is missing afterwards. A killed import leaves
nothing behind.

ISR_TEST_ROUNDS=20 crash_test.py ISR   tries more random moments than CI has time for."""
import pathlib
import subprocess

import support
import writing
from support import expect


def test_after_a_kill_the_disk_is_exactly_what_was_written(world):
    chance = writing.chance()
    a = world.host("a")
    a.init_repository(world.new_folder("repository"))
    image, content = writing.small_disk(world, chance)
    a.run("import", "work", image)
    disk = writing.check_out(a, "work")
    for number in range(writing.rounds(4)):
        writer = writing.Writer(disk, content, chance, direct=number % 2 == 1)
        writer.wait(20)
        writing.moment(chance)
        writing.kill_daemon(a, "work")
        writer.stop()
        expect(world.mounts(), "the mount of a killed daemon went away by itself: is this test right?")
        disk = writing.check_out(a, "work")
        writer.check(disk)
        if number % 3 == 1:  # the recovered work can also be published
            a.run("checkin", "work")
            disk = writing.check_out(a, "work")
            writer.check(disk)
    a.run("checkin", "work")
    exported = world.folder / "export.raw"
    a.run("export", "work", "--raw", exported)
    expect(exported.read_bytes() == content, "the export differs from what was written")
    a.run("check", "--deep")


def test_after_a_kill_under_a_guest_all_flushed_sectors_are_there(world):
    chance = writing.chance()
    server = world.serve()
    a = world.host("a")
    a.init_repository(server.url)
    a.run("import", "work", support.guest_image(), "--memory", "256M")
    a.run("start", "work")
    flushed = 0
    for number in range(writing.rounds(2)):
        console = a.console("work")
        console.wait(r"DISK \d+", count=2)
        writing.moment(chance, 4.0)
        writing.kill_daemon(a, "work")
        console.close()
        console.check()
        flushed = max(flushed, console.flushed())
        # Check first with another program that reads the disk as a file, then with the guest itself when it boots.
        disk = writing.check_out(a, "work")
        support.check_guest_disk(disk, flushed)
        resumed = a.run("resume", "work")
        expect("boot" in (resumed.out + resumed.err).lower(), f"resume does not say that it boots: {resumed}")
        after = a.console("work")
        seq = int(after.wait(r"BOOT seq=(\d+) bad=\d+.*")[0])
        after.close()
        expect(seq >= flushed, f"round {number}: the guest found {seq}, but {flushed} was flushed")
    a.run("--yes", "poweroff", "work")
    a.run("checkin", "work")
    exported = world.folder / "export.raw"
    a.run("export", "work", "--raw", exported)
    support.check_guest_disk(exported, flushed)
    expect(not list(pathlib.Path(a.runtime).glob("**/disk.raw")), "something is still mounted")


def test_a_killed_import_leaves_no_process_and_no_mount(world):
    chance = writing.chance()
    a = world.host("a")
    a.init_repository(world.serve().url)
    raw, disk = world.folder / "disk.raw", world.folder / "disk.qcow2"
    raw.write_bytes(chance.randbytes(64 << 20))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk], check=True)

    def reading():
        return [pid for pid, line in world.processes().items() if "qemu-storage-daemon" in line]

    for number in range(writing.rounds(4)):
        # An import that is killed while it makes the export may leave its folder (with empty files), but no more.
        temporary = world.new_folder("tmp")
        a.variables["TMPDIR"] = str(temporary)
        # A slow import, so that it does not end before it is killed.
        process = a.start("import", "work", disk, "--bwlimit", "4M", "--progress", "plain", stderr=subprocess.PIPE)
        support.wait_until(reading, "the image is being read", every=0.002)
        if number % 2 == 0:  # while the export is made
            writing.moment(chance, 0.05)
        else:
            process.stderr.readline()  # the first line of progress
            expect(not world.mounts() and not list(temporary.iterdir()), "the export's mount point is still there")
        support.kill(process.pid)
        process.wait()
        process.stderr.close()
        support.wait_until(lambda: not reading() and not world.mounts(), "the storage daemon and its mount are gone")
    a.variables["TMPDIR"] = "/tmp"
    a.run("import", "work", disk)
    exported = world.folder / "export.raw"
    a.run("export", "work", "--raw", exported)
    expect(support.same_bytes(raw, exported), "the import after the killed ones is not the image")


if __name__ == "__main__":
    support.main(test_after_a_kill_the_disk_is_exactly_what_was_written,
                 test_after_a_kill_under_a_guest_all_flushed_sectors_are_there,
                 test_a_killed_import_leaves_no_process_and_no_mount)
