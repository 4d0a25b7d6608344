"""Tests a repository that returns wrong bytes, no bytes or old ones: isr refuses them, names them, and works again once
they are right.

ISR_TEST_ROUNDS=4 damage_test.py ISR   damages every object in every way; the default damages each in one way."""
import os
import shutil

import support
import writing
from support import expect, expect_equal

CHUNK = 128 << 10
CHUNKS = 16


def flip(data, _, chance):
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1:]


def truncate(data, _, chance):
    return data[:chance.randrange(len(data))]


def swap(_, other, __):
    return other


def delete(*_):
    return None


DAMAGES = [flip, truncate, swap, delete]


def put(path, data):
    path.unlink(missing_ok=True)
    if data is not None:
        path.write_bytes(data)


def read_what_can_be(host, world, content):
    """Reads the mounted disk piece by piece; each piece must be right or an I/O error. Returns the number of errors, or
    None when the mount cannot be made."""
    look = world.new_folder("look")
    mounted = host.run("mount", "work", look, expect=(0, 14))
    if mounted.code:
        return None
    errors = 0
    try:
        file = os.open(look / "disk.raw", os.O_RDONLY)
        for at in range(0, len(content), CHUNK):
            try:
                piece = os.pread(file, CHUNK, at)
                expect(piece == content[at:at + CHUNK], f"wrong bytes were read at {at}")
            except OSError:
                errors += 1
        os.close(file)
    finally:
        host.run("umount", look)
    return errors


def write_a_patch(host, content, chance):
    """Publishes version 2, of which a little changed in some chunks and so is stored in a patch. Returns its content."""
    changed = bytearray(content)
    with open(writing.check_out(host, "work"), "r+b") as disk:
        for at in range(0, len(content), 3 * CHUNK):
            changed[at + 5000:at + 9096] = chance.randbytes(4096)
            disk.seek(at + 5000)
            disk.write(changed[at + 5000:at + 9096])
    host.run("checkin", "work")
    return bytes(changed)


def test_a_damaged_object_is_named_and_never_read(world):
    chance = writing.chance()
    root = world.new_folder("repository")
    a, b = world.host("a"), world.host("b")
    b.variables["ISR_READ_UNREACHABLE"] = "fail"
    a.init_repository(root)
    image, content = writing.small_disk(world, chance, size=CHUNKS * CHUNK)
    a.run("import", "work", image)
    content = write_a_patch(a, content, chance)
    b.add_repository(root)
    objects = sorted((root / "objects").glob("*/*"))
    good = [path.read_bytes() for path in objects]
    expect(len(objects) > CHUNKS // 4, f"only {len(objects)} objects")
    for number, path in enumerate(objects):
        for turn in range(min(writing.rounds(1), len(DAMAGES))):
            damage = DAMAGES[(number + turn) % len(DAMAGES)]
            what = f"{path.name}, {damage.__name__}"
            put(path, damage(good[number], good[(number + 1) % len(good)], chance))
            shutil.rmtree(b.cache, ignore_errors=True)
            expect(read_what_can_be(b, world, content) != 0, f"{what}: nobody noticed")
            checked = b.run("check", "work", "--deep", expect=14)
            expect(path.name[:12] in checked.out + checked.err, f"{what}: not named: {checked}")
            put(path, good[number])
            expect_equal(read_what_can_be(b, world, content), 0, f"errors after the repair of {what}")
    b.run("check", "--deep")


def test_a_damaged_head_is_refused(world):
    chance = writing.chance()
    root = world.new_folder("repository")
    a, b = world.host("a"), world.host("b")
    a.init_repository(root)
    image, _ = writing.small_disk(world, chance, size=CHUNK)
    a.run("import", "work", image)
    b.add_repository(root)
    head = next(root.glob("parcels/*/heads/*"))
    work = head.read_bytes()
    a.run("import", "other", image)
    other = next(path for path in root.glob("parcels/*/heads/*") if path != head).read_bytes()
    for number in range(8):
        damaged = [flip(work, None, chance), truncate(work, None, chance), other, work + b" ", b" " + work, b"",
                   work.replace(b'"', b'" ', 1), flip(work, None, chance)][number]
        put(head, damaged)
        for host, command in ((b, ("log", "work")), (a, ("check", "work"))):
            refused = host.run(*command, expect=(14, 15))
            expect("Traceback" not in refused.err and head.parts[-3] in refused.err + refused.out, f"unclear: {refused}")
    put(head, work)
    b.run("log", "work")
    a.run("check", "--deep")


def test_a_repository_of_yesterday_is_refused_until_it_is_accepted(world):
    chance = writing.chance()
    root = world.new_folder("repository")
    a = world.host("a")
    a.init_repository(root)
    image, content = writing.small_disk(world, chance, size=CHUNK)
    a.run("import", "work", image)
    yesterday = world.folder / "yesterday"
    shutil.copytree(root, yesterday)
    disk = writing.check_out(a, "work")
    with open(disk, "r+b") as file:
        file.write(chance.randbytes(4096))
    a.run("checkin", "work")
    shutil.rmtree(root)
    shutil.copytree(yesterday, root)
    for command in (("checkout", "work"), ("start", "work"), ("mount", "work", world.new_folder("look")),
                    ("log", "work"), ("check", "work")):
        refused = a.run(*command, expect=15)
        expect("accept-older" in refused.err, f"no way on: {refused}")
    expect(a.run("ls", expect=None).code in (0, 15), "ls does not say what is wrong")
    a.run("accept-older", "work@1", "--reason", "restored from a backup", "--yes")
    disk = writing.check_out(a, "work")
    with open(disk, "rb") as file:
        expect(file.read() == content, "the accepted version is not the first one")
    a.run("checkin", "work")
    a.run("check", "--deep")


def read_under_junk(host, world, warnings):
    """Runs commands that read work@1; each must print the same warning `warnings` times."""
    for command in (("log", "work"), ("check", "work"), ("export", "work", "--raw", world.folder / "exported"),
                    ("export", "work@1", "--raw", world.folder / "exported"), ("lock", "show", "work")):
        (world.folder / "exported").unlink(missing_ok=True)
        result = host.run(*command)
        found = result.err.count("the number 2 holds something that is not a version")
        expect_equal(found, 0 if command[0] == "lock" else warnings, f"warnings of {result}")


def test_junk_under_the_next_number_is_passed_once_it_is_accepted(world):
    chance = writing.chance()
    root = world.new_folder("repository")
    a, b, c, fresh = (world.host(name) for name in ("a", "b", "c", "fresh"))
    a.init_repository(root)
    image, _ = writing.small_disk(world, chance, size=CHUNK)
    a.run("import", "work", image)
    for host in (b, fresh):
        host.add_repository(root)
    c.add_repository(world.static_server(root).url)
    b.run("log", "work")
    parcel = next(root.glob("parcels/*"))
    (parcel / "heads" / f"{2:016}").write_bytes(b"junk")
    for fork in ("desk-0000", "no fork", "junk"):
        (parcel / "forks" / fork).mkdir(parents=True)
        (parcel / "forks" / fork / f"{2:016}").write_bytes(b"junk")

    # A host that has seen version 1 goes on reading it, and publishes nothing.
    for host in (a, b):
        read_under_junk(host, world, warnings=1)
    listed = a.run("log", "work")
    expect_equal(listed.err.count("is not shown"), 2, f"warnings for two forks that are none, and a stray file: {listed}")
    expect_equal(a.run("log", "work", json=True)["forks"], [], "forks")
    disk = writing.check_out(a, "work")
    written = chance.randbytes(4096)
    with open(disk, "r+b") as file:
        file.write(written)
    refused = a.run("checkin", "work", expect=15)
    expect("the number 2 holds" in refused.err and "accept-older work@1" in refused.err.replace("NAME", "work"),
           f"a refusal that does not say why, or the way on: {refused}")
    expect_equal(a.stat("work")["state"], "checked out", "state after the refused checkin")
    # A host that has seen nothing cannot know what the junk hides.
    for host in (fresh, c):
        for command in (("log", "work"), ("check", "work"), ("mount", "work", world.new_folder("look"))):
            refused = host.run(*command, expect=15)
            expect("it may hide newer versions" in refused.err and "accept-older" in refused.err, f"unclear: {refused}")

    accepted = a.run("accept-older", "work@1", "--reason", "somebody left junk there")
    expect("the number 2 is skipped, the next version will be 3" in accepted.out, f"unclear: {accepted}")
    read_under_junk(a, world, warnings=0)
    read_under_junk(b, world, warnings=1)
    a.run("checkin", "work")
    for host in (a, b, fresh, c):
        listed = host.run("log", "work")
        expect("holds something that is not a version" not in listed.err, f"a warning of junk that a version names: {listed}")
        expect_equal([entry["version"] for entry in host.run("log", "work", json=True)["versions"]], [3, 1], "versions")
        exported = world.folder / "exported"
        exported.unlink(missing_ok=True)
        host.run("export", "work@3", "--raw", exported)
        expect(exported.read_bytes()[:4096] == written, f"host {host.name} does not read what was written")
        host.run("log", "work@2", expect=10)
    disk = writing.check_out(b, "work")
    with open(disk, "r+b") as file:
        file.write(b"next".ljust(4096))
    b.run("checkin", "work")
    b.run("rollback", "work@1", "--yes")
    expect_equal([entry["version"] for entry in a.run("log", "work", json=True)["versions"]], [5, 4, 3, 1], "versions")
    for host in (a, b):
        host.run("check", "--deep")


if __name__ == "__main__":
    support.main(test_a_damaged_object_is_named_and_never_read, test_a_damaged_head_is_refused,
                 test_a_repository_of_yesterday_is_refused_until_it_is_accepted,
                 test_junk_under_the_next_number_is_passed_once_it_is_accepted)
