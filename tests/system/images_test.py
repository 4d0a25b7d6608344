"""Tests import and export of disk images: imports that succeed, are refused or are forced, and complete exports."""
import os
import re
import shutil
import subprocess

import support
import vhdx_with_log
import writing
from odd_input import parcels, refuse, set_up
from support import expect, expect_equal


def test_a_disk_of_any_size_starts_and_is_exported_with_its_size(world):
    _, a, image, content = set_up(world)
    created = a.run("create", "created", "--size", "131584", "--memory", "64M")
    expect("131584" in created.err and "135168" in created.err, f"the padding is not said: {created}")
    folder = world.new_folder("images")
    for length in (len(content) - 3584, len(content) - 100):
        odd = folder / "odd.raw"
        odd.write_bytes(content[:length])
        imported = a.run("import", f"odd-{length}", odd, "--memory", "64M")
        expect(str(length) in imported.err, f"the padding is not said: {imported}")
        expect_equal("cut off" in imported.err, length % 512 != 0, "a warning of a file that may be cut off")
    for parcel, size in ("created", 131584), (f"odd-{len(content) - 3584}", len(content) - 3584), \
            (f"odd-{len(content) - 100}", len(content) - 100):
        a.run("start", parcel)
        a.run("poweroff", parcel, "--yes")
        a.run("checkin", parcel)
        out = folder / f"{parcel}.out"
        expect_equal(a.run("export", parcel, "--raw", out, json=True)["size"], size, "size that was exported")
        expect(out.read_bytes() == (bytes(size) if parcel == "created" else content[:size]), f"{parcel} became another disk")
    # The guest may use the whole disk that it sees.
    disk = writing.check_out(a, "created")
    expect_equal(os.path.getsize(disk), 135168, "size of the disk that the guest sees")
    with open(disk, "r+b") as file:
        file.seek(135168 - 5)
        file.write(b"beyond"[:5])
    a.run("checkin", "created")
    exported = a.run("export", "created", "--raw", folder / "whole")
    expect("131584" in exported.err, f"nothing about what was written behind the end: {exported}")
    expect((folder / "whole").read_bytes() == bytes(135168 - 5) + b"beyon", "what was written behind the end is lost")
    a.run("export", "created@1", "--qcow2", folder / "first.qcow2")
    subprocess.run(["qemu-img", "convert", "-O", "raw", folder / "first.qcow2", folder / "first"], check=True)
    expect_equal((folder / "first").stat().st_size, 131584, "size of version 1")


def test_what_is_imported(world):
    _, a, image, content = set_up(world)
    folder = world.new_folder("images")

    def made(name, *options):
        subprocess.run(["qemu-img", *map(str, options)], check=True, stdout=subprocess.DEVNULL)
        return folder / name

    secret = folder / "shadow"
    secret.write_bytes(b"root:secret\n" * 1000)
    backed = made("backed.qcow2", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", folder / "backed.qcow2", "1M")
    refuse(a, 19, ["backing"], "import", "new", backed)
    good = made("good.qcow2", "convert", "-f", "raw", "-O", "qcow2", image, folder / "good.qcow2")
    cut = folder / "cut.qcow2"
    cut.write_bytes(good.read_bytes()[:300])
    refuse(a, 19, ["cut off"], "import", "new", cut)
    empty = folder / "empty.raw"
    empty.touch()
    refuse(a, (2, 19), [], "import", "new", empty)
    fifo = folder / "fifo"
    os.mkfifo(fifo)
    refuse(a, (2, 19), [], "import", "new", fifo, timeout=30)
    refuse(a, (2, 18), [], "import", "new", folder)
    refuse(a, (2, 18), [], "import", "new", folder / "absent")
    refuse(a, 2, [], "import", "new", image, "--format", "exe")
    refuse(a, 19, [], "import", "new", image, "--format", "qcow2")
    refuse(a, (2, 18), ["exists"], "import", "work", image)
    # A guest's raw disk may begin like a qcow2; with the raw format given, it is imported as raw.
    disguised = folder / "disguised.raw"
    disguised.write_bytes(backed.read_bytes().ljust(1 << 20, b"\0"))
    a.run("import", "disguised", disguised, "--format", "raw")
    a.run("export", "disguised", "--raw", folder / "disguised.out")
    expect(support.same_bytes(disguised, folder / "disguised.out"), "a raw image was interpreted")
    a.run("import", "good", good)
    a.run("export", "good", "--raw", folder / "good.out")
    expect((folder / "good.out").read_bytes() == content, "the qcow2 became another disk")
    sparse = folder / "sparse.raw"
    with open(sparse, "wb") as file:
        file.truncate(8 << 40)
    a.run("import", "sparse", sparse, timeout=60)
    refuse(a, (2, 18), [], "export", "work", "--raw", "/dev/full")
    present = folder / "present"
    present.write_bytes(b"mine")
    refuse(a, (2, 18), ["exists"], "export", "work", "--raw", present)
    refuse(a, 18, ["too long"], "export", "work", "--raw", folder / ("x" * 300))
    expect_equal(present.read_bytes(), b"mine", "a file that was there")
    expect_equal(parcels(a), ["disguised", "good", "sparse", "work"], "parcels")


def test_what_is_no_disk_is_refused_unless_it_is_said_to_be_raw(world):
    _, a, image, content = set_up(world)
    folder = world.new_folder("images")
    unknown = folder / "unknown.img"
    unknown.write_bytes(b"Unknown Format 1" + content[16:])
    refuse(a, 19, ["Unknown Format 1", "--format raw"], "import", "new", unknown)
    expect_equal(parcels(a), ["work"], "parcels after a refused import")
    a.run("import", "said", unknown, "--format", "raw")
    named = unknown.rename(folder / "named.raw")
    a.run("import", "named", named)
    for file, command in (("disk.vhd", "-f vpc"), ("disk.iso", "--cdrom"), ("disk.ova", "tar xf")):
        named = folder / file
        if file == "disk.vhd":
            subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vpc", image, named], check=True)
        elif file == "disk.ova":
            subprocess.run(["tar", "cf", named, "-C", folder, "named.raw"], check=True)
        else:
            named.write_bytes(bytes(32769) + b"CD001" + content)
        refuse(a, 19, [command, "--format raw"], "import", "new", named)


def test_an_image_that_was_not_closed_is_refused_with_what_repairs_it(world):
    _, a, image, content = set_up(world)
    folder = world.new_folder("images")
    whole = folder / "whole.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", "lazy_refcounts=on", image, whole], check=True)
    for bit, word in ((1, "dirty"), (2, "corrupt")):
        unclean = folder / f"{word}.qcow2"
        data = bytearray(whole.read_bytes())
        data[79] |= bit  # incompatible features
        unclean.write_bytes(data)
        refused = refuse(a, 19, [word, "qemu-img check -r all", "--force"], "import", "new", unclean)
        repair = re.search(r"qemu-img check .*?\.qcow2", refused.err).group().split()
        a.run("import", f"forced-{word}", unclean, "--force")
        subprocess.run(repair, check=True, stdout=subprocess.DEVNULL)
        a.run("import", word, unclean)
        for parcel in (word, f"forced-{word}"):
            a.run("export", parcel, "--raw", folder / parcel)
            expect((folder / parcel).read_bytes() == content, f"{parcel} became another disk")
    logged = folder / "logged.vhdx"
    vhdx_with_log.make(logged)
    refused = refuse(a, 19, ["log", "qemu-img check -r all"], "import", "new", logged)
    subprocess.run(re.search(r"qemu-img check .*?\.vhdx", refused.err).group().split(), check=True, stdout=subprocess.DEVNULL)
    a.run("import", "logged", logged)
    a.run("export", "logged", "--raw", folder / "logged")
    expect((folder / "logged").read_bytes().startswith(b"LOGGED"), "the log's write is lost")


def test_an_image_that_was_cut_off_is_refused_and_forced_with_a_warning(world):
    _, a, image, content = set_up(world)
    folder = world.new_folder("images")
    chance = writing.chance()
    for format in ("vdi", "qcow2", "vmdk", "vhdx"):
        file = folder / f"disk.{format}"
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", format, image, file], check=True)
        whole = file.read_bytes()
        for missing in (1, 511, 512, 30000, chance.randrange(1, len(whole) // 2)):
            file.write_bytes(whole[:-missing])
            name = f"{format}-{missing}"
            refused = a.run("import", name, file, expect=(0, 19))
            if refused.code == 19:
                expect("bytes are missing" in refused.err and "--force" in refused.err, f"not helpful: {refused}")
                continue
            # The missing bytes hold no data of the disk.
            a.run("export", name, "--raw", folder / name)
            expect((folder / name).read_bytes() == content, f"{format} without {missing} bytes became another disk")
        file.write_bytes(whole[:-30000])
        forced = a.run("import", f"forced-{format}", file, "--force", expect=3)
        expect("bytes are missing" in forced.err, f"no warning: {forced}")
        a.run("export", f"forced-{format}", "--raw", folder / "out")
        expect_equal((folder / "out").stat().st_size, len(content), f"size of the disk of a cut {format}")
        (folder / "out").unlink()
    subprocess.run(["gzip", "--keep", image], check=True)
    refuse(a, 19, ["gzip --decompress", "--format raw"], "import", "new", f"{image}.gz")


def test_an_export_is_whole_or_leaves_no_file(world):
    root, a, _, content = set_up(world)
    out = world.new_folder("out")
    for path in writing.chance().sample(sorted(root.glob("objects/*/*")), 4):
        good = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(good[:len(good) // 2])
        shutil.rmtree(a.cache, ignore_errors=True)
        for kind in ("--raw", "--qcow2"):
            refuse(a, 14, [], "export", "work", kind, out / "disk")
            expect_equal(os.listdir(out), [], "files after an export of a damaged version")
        path.write_bytes(good)
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", out], check=False).returncode:
        print("    skipped: only root can make a small volume", flush=True)
        return
    try:
        for kind in ("--raw", "--qcow2"):
            refuse(a, 18, [], "export", "work", kind, out / "disk")
            expect_equal(os.listdir(out), [], "files after an export to a full volume")
    finally:
        subprocess.run(["umount", "-l", out], check=False)


if __name__ == "__main__":
    support.main(test_a_disk_of_any_size_starts_and_is_exported_with_its_size,
                 test_what_is_imported,
                 test_what_is_no_disk_is_refused_unless_it_is_said_to_be_raw,
                 test_an_image_that_was_not_closed_is_refused_with_what_repairs_it,
                 test_an_image_that_was_cut_off_is_refused_and_forced_with_a_warning,
                 test_an_export_is_whole_or_leaves_no_file)
