"""Tests that a new machine boots from a CD image of this host, and that its versions have nothing of that host."""
import struct
import subprocess

import support
from support import expect, expect_equal

SECTOR = 2048
WORDS = b"CD BOOTED\r\n"

# Real mode code at 0:7c00: prints WORDS on the serial port and halts.
SAY_WORDS = bytes.fromhex(
    "fa 31c0 8ed8"  # cli; ax = 0; ds = ax
    "be217c fc"     # si = WORDS; cld
    "ac 84c0 7412"  # next: al = *si++; at its end go to halt
    "88c4"          # ah = al
    "bafd03 ec a820 74fb"  # wait until the port can take a byte
    "baf803 88e0 ee"       # write it
    "ebe9"          # go to next
    "f4"            # halt, for good: interrupts are off
) + WORDS + b"\0"


def bootable_cd(path):
    """Writes the smallest image that a BIOS boots (El Torito, no emulation): a boot record, its catalogue, a program."""
    sectors = {
        16: b"\1CD001\1\0",
        17: (b"\0CD001\1EL TORITO SPECIFICATION").ljust(71, b"\0") + struct.pack("<I", 19),
        18: b"\xffCD001\1",
        20: SAY_WORDS,
    }
    validation = bytearray(b"\1\0\0\0".ljust(28, b"\0") + b"\0\0\x55\xaa")
    struct.pack_into("<H", validation, 28, -sum(struct.unpack("<16H", validation)) & 0xFFFF)
    sectors[19] = bytes(validation) + struct.pack("<BBHBBHI", 0x88, 0, 0, 0, 0, 4, 20).ljust(32, b"\0")
    path.write_bytes(b"".join(sectors.get(n, b"").ljust(SECTOR, b"\0") for n in range(64)))
    return path


def in_the_drive(host, image):
    with open(f"/proc/{host.stat('lab')['vm']['pid']}/cmdline", "rb") as line:
        return str(image).replace(",", ",,").encode() in line.read()  # QEMU's option syntax doubles a comma


def test_a_machine_boots_from_the_cd_it_was_created_with(world):
    a, b, repository = world.host("a"), world.host("b"), world.new_folder("repository")
    a.init_repository(repository)
    image = bootable_cd(world.folder / "a, b=c.iso")
    for bad in (world.folder / "absent.iso", world.new_folder("folder"), world.new_file("empty")):
        refused = a.run("create", "lab", "--size", "8M", "--memory", "64M", "--cdrom", bad, expect=2)
        expect(str(bad) in refused.err, f"the image is not named: {refused.err}")
    a.run("create", "lab", "--size", "8M", "--memory", "64M", "--cdrom", image)

    a.run("start", "lab")
    listener = a.console("lab")
    listener.wait(WORDS.decode().strip())
    # Suspend with the CD and resume without it, because its file belongs to that host and that run.
    a.run("suspend", "lab")
    a.run("resume", "lab")
    expect(not in_the_drive(a, image), "a resume found a CD in the drive")
    a.run("--yes", "poweroff", "lab")
    a.run("resume", "lab")  # boots: the CD is still inserted on this host
    expect(in_the_drive(a, image), "the CD is not in the drive any more")
    a.run("--yes", "poweroff", "lab")
    a.run("start", "lab", "--cdrom", "none")
    expect(not in_the_drive(a, image), "the CD was not taken out")
    a.run("--yes", "poweroff", "lab")
    a.run("start", "lab")
    expect(not in_the_drive(a, image), "the CD that was taken out came back")
    a.run("--yes", "poweroff", "lab")
    a.run("checkin", "lab")

    b.add_repository(repository)
    b.run("start", "lab")
    expect(not in_the_drive(b, image), "another host has a CD that nobody gave it")
    b.run("--yes", "poweroff", "lab")
    b.run("start", "lab", "--cdrom", image)
    b.console("lab").wait(WORDS.decode().strip())
    b.run("--yes", "poweroff", "lab")
    image.unlink()
    gone = b.run("start", "lab")
    expect(image.name in gone.err and "drive stays empty" in gone.err, f"nothing is said of the lost image: {gone.err}")
    b.run("--yes", "poweroff", "lab")
    b.run("checkin", "lab")
    found = subprocess.run(["grep", "-rlaF", image.name, repository], capture_output=True, text=True, check=False)
    expect_equal(found.stdout, "", "files of the repository that name the image")


support.main(test_a_machine_boots_from_the_cd_it_was_created_with)
