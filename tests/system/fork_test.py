"""Tests forks: work that lost the race for a version opens wherever a version does, and can be kept, left or branched."""
import pathlib

import race_test
import support
import writing
from support import expect, expect_equal


def make_hosts(world, url):
    """Makes two hosts and a repository, which host a initializes. Suspends on them run no rehearsal."""
    a, b = world.host("a"), world.host("b")
    for host in (a, b):
        host.variables["ISR_SUSPEND_REHEARSAL"] = "false"
    a.init_repository(url)
    return a, b


def forks_of(host, name):
    return [entry["fork"] for entry in host.run("log", name, json=True)["forks"]]


def lose_a_race(world, root):
    """Makes two checkins of one parcel. Returns (host a, host b, the fork of a, stamps of the fork and of the version)."""
    chance = writing.chance()
    a, b = make_hosts(world, root)
    image, _ = writing.small_disk(world, chance, size=2 << 20)
    a.run("import", "work", image)
    b.add_repository(root)
    lost = race_test.write_stamp(writing.check_out(a, "work"), chance)
    won = race_test.write_stamp(writing.check_out(b, "work", "--take-lock"), chance)
    b.run("checkin", "work")
    refused = a.run("checkin", "work", expect=17)
    (fork,) = forks_of(a, "work")
    for command in (f"isr rollback work@{fork}", "isr resume work", f"isr branch work@{fork} NEW"):
        expect(command in refused.err, f"the loser is not told of '{command}': {refused}")
    expect_equal(a.stat("work")["state"], "not checked out here", "state once the fork is kept")
    return a, b, fork, lost, won


def stamp_in(disk):
    with open(disk, "rb") as file:
        file.seek(64 << 10)
        return file.read(4096)


def test_a_fork_opens_wherever_a_version_does(world):
    root = world.new_folder("repository")
    a, b, fork, lost, won = lose_a_race(world, root)
    expect_equal(a.run("log", f"work@{fork}", json=True)["versions"][0]["fork"], fork, "the first entry of the fork's log")
    expect_equal([entry["version"] for entry in b.run("log", f"work@{fork}", json=True)["versions"]], [2, 1], "its versions")
    for host in (a, b):
        expect(race_test.stamp_of(host, world, f"work@{fork}") == lost, "the fork's export is not the loser's work")
        expect(race_test.stamp_of(host, world, "work") == won, "the version is not the winner's work")
    look = world.new_folder("look")
    shown = b.run("mount", f"work@{fork}", look)
    expect(f"work@{fork}" in shown.out, f"a mount that does not say of what: {shown}")
    expect(stamp_in(look / "disk.raw") == lost, "the fork's mount is not the loser's work")
    b.run("umount", look)
    # A session can begin from a fork; its version then follows the newest version.
    disk = writing.check_out(b, "work", "-r", fork)
    expect(stamp_in(disk) == lost, "what is checked out of the fork is not the loser's work")
    with open(disk, "r+b") as file:
        file.write(b"and on".ljust(4096))
    b.run("checkin", "work")
    expect(race_test.stamp_of(a, world, "work@3") == lost, "version 3 does not continue the fork")
    # Branch the fork, then roll back to it.
    before = race_test.names(root, "objects/*/*")
    made = a.run("branch", f"work@{fork}", "lab", json=True)
    expect_equal(race_test.names(root, "objects/*/*"), before, "the repository's objects after a branch")
    expect_equal((made["parcel"], made["version"], made["branch_of"]), ("lab", 1, f"work@{fork}"), "the branch")
    expect(race_test.stamp_of(b, world, "lab") == lost, "the branch is not the loser's work")
    expect_equal(b.run("lock", "show", "lab", json=True)["locks"][0]["state"], "free", "the branch's lock")
    expect_equal(b.run("log", "lab", json=True)["versions"][0]["copy_of"], f"work@{fork}", "what the branch is a copy of")
    a.run("rollback", f"work@{fork}", "--yes")
    expect(race_test.stamp_of(b, world, "work@latest") == lost, "the fork is not on top")
    for host in (a, b):
        host.run("check", "--deep")


def test_what_is_no_fork_is_refused(world):
    root = world.new_folder("repository")
    a, b, fork, _, _ = lose_a_race(world, root)
    for wrong, code in (("a-0000/2", 10), (fork.replace("/2", "/3"), 10), ("x/2", 2), ("/2", 2), (f"{fork}/1", 2),
                        (fork.replace("/2", "/0"), 2), (f"../{fork}", 2), (fork.replace("/2", "/-2"), 2)):
        for command in (("log", f"work@{wrong}"), ("checkout", f"work@{wrong}"), ("resume", "work", "-r", wrong),
                        ("rollback", f"work@{wrong}", "--yes"), ("branch", f"work@{wrong}", "lab"),
                        ("export", f"work@{wrong}", "--raw", world.folder / "no")):
            refused = a.run(*command, expect=code)
            expect("hint:" in refused.err, f"a refusal without a hint: {refused}")
    for command in (("log", f"work@{fork}"), ("branch", f"work@{fork}", "lab"), ("branch", "work", "lab")):
        a.run(*command, "--offline", expect=13)
    a.run("branch", f"work@{fork}", "work", expect=2)
    a.run("branch", "work", "lab@2", expect=2)
    a.run("branch", "work", "other:lab", expect=2)
    a.run("branch", "nothing", "lab", expect=10)
    (kept,) = root.glob("parcels/*/forks/*/*")
    good = kept.read_bytes()

    def refused_with(code, content):
        kept.chmod(0o600)
        kept.write_bytes(content)
        for command in (("mount", f"work@{fork}", world.new_folder("look")), ("branch", f"work@{fork}", "lab")):
            a.run(*command, expect=code)
        listed = a.run("log", "work")
        expect(f"fork {fork} is not shown" in listed.err, f"a log that does not name what is no fork: {listed}")

    refused_with(14, b"junk")
    refused_with(14, next(root.glob("parcels/*/heads/0000000000000002")).read_bytes())  # signed, but another head
    kept.write_bytes(good)
    # The refused commands made no parcel. A read-only address refuses a branch and still opens the fork.
    expect_equal([entry["name"] for entry in a.run("ls", json=True)["parcels"]], ["work"], "parcels after refusals")
    served = world.static_server(root)
    c = world.host("c")
    c.add_repository(served.url)
    c.run("branch", "work", "lab", expect=19)
    c.run("log", f"work@{fork}")


def test_a_session_stays_until_its_fork_opens(world):
    root = world.new_folder("repository")
    chance = writing.chance()
    a, b = make_hosts(world, root)
    image, _ = writing.small_disk(world, chance, size=2 << 20)
    a.run("import", "work", image)
    b.add_repository(root)
    disk = writing.check_out(a, "work")
    lost = race_test.write_stamp(disk, chance)
    a.run("sync", "work")
    heads = sorted(root.glob("parcels/*/heads/*"))
    race_test.write_stamp(disk, chance)
    # The repository is restored to its state before a's version, and b goes on from there.
    latest = next(root.glob("parcels/*/latest"))
    heads[1].unlink()
    latest.unlink()
    won = race_test.write_stamp(writing.check_out(b, "work", "--take-lock"), chance)
    b.run("checkin", "work")
    a.run("accept-older", "work@2", "--reason", "restored from a backup")
    refused = a.run("checkin", "work", expect=15)
    expect("stays" in refused.err, f"not told where the work is: {refused}")
    expect_equal(forks_of(a, "work"), [], "forks that nobody could open")
    expect(stamp_in(disk) != lost and stamp_in(disk) != won, "the session is gone, or not what it was")
    a.run("discard", "work", "--yes")
    a.run("checkin", "work")


def suspend_together_again_and_again(world, url, root):
    a, b = make_hosts(world, url)
    a.run("import", "work", support.guest_image(), "--memory", "256M")
    b.add_repository(url)
    a.run("start", "work")
    before = a.console("work")
    before.wait(r"TICK \d+", count=2)
    a.run("suspend", "work")
    names, consoles = ["work", "work"], [before, before]
    for number in range(1, writing.rounds(3) + 1):
        # The hosts continue different lines: the version that won, and the fork that lost.
        opened = []
        for host, name, last in zip((a, b), names, consoles):
            host.run("resume", name, *(["--take-lock"] if host is b else []))
            opened.append(host.console("work"))
            opened[-1].wait(r"TICK \d+", count=3)
            support.expect_continuation(last, opened[-1])
        results = race_test.together(*(lambda host=host: host.run("suspend", "work", expect=None) for host in (a, b)))
        race_test.expect_one_head_one_fork(root, 2 + number, number, results)
        loser = 0 if results[0].code == 17 else 1
        (fork,) = [fork for fork in forks_of(a, "work") if fork.endswith(f"/{2 + number}")]
        consoles = [opened[1 - loser], opened[loser]]
        names = ["work", f"work@{fork}"]
        for console in opened:
            console.check()
    won, lost = consoles
    # Try all three ways: branch the fork, take the other's version, roll back to the fork.
    b.run("branch", names[1], "lab")
    for parcel, last in (("work", won), ("lab", lost)):
        goes_on(b, parcel, last)
    b.run("rollback", names[1], "--yes")
    goes_on(a, "work", lost)
    goes_on(a, "work@latest~1", won)
    a.run("check")


def goes_on(host, name, last):
    parcel = name.split("@")[0]
    host.run("resume", name)
    console = host.console(parcel)
    console.wait(r"TICK \d+", count=3)
    support.expect_continuation(last, console)
    console.check()
    host.run("poweroff", parcel, "--yes")
    host.run("discard", parcel, "--yes")
    host.run("checkin", parcel)


def test_two_suspends_again_and_again_in_a_directory(world):
    root = world.new_folder("repository")
    suspend_together_again_and_again(world, root, root)


def test_two_suspends_again_and_again_on_a_server(world):
    server = world.serve()
    suspend_together_again_and_again(world, server.url, pathlib.Path(server.root))


if __name__ == "__main__":
    support.main(test_a_fork_opens_wherever_a_version_does, test_what_is_no_fork_is_refused,
                 test_a_session_stays_until_its_fork_opens, test_two_suspends_again_and_again_in_a_directory,
                 test_two_suspends_again_and_again_on_a_server)
