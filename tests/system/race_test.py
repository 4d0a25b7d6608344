"""Tests two hosts that publish the same parcel at once; one of them took the lock from the other."""
import pathlib
import threading

import support
import writing
from support import expect, expect_equal


def together(*actions):
    """Runs all actions at the same time, on threads. Returns their answers in order."""
    answers = [None] * len(actions)
    barrier = threading.Barrier(len(actions))

    def run(index, action):
        barrier.wait()
        answers[index] = action()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def names(root, pattern):
    return sorted(path.name for path in pathlib.Path(root).glob(pattern))


def write_stamp(disk, chance):
    stamp = chance.randbytes(4096)
    with open(disk, "r+b") as file:
        file.seek(64 << 10)
        file.write(stamp)
    return stamp


def stamp_of(host, world, version):
    exported = world.new_file("export")
    exported.unlink()
    host.run("export", version, "--raw", exported)
    return exported.read_bytes()[64 << 10:][:4096]


def expect_one_head_one_fork(root, heads, forks, results):
    expect_equal(sorted(result.code for result in results), [0, 17], f"exit codes of {[str(r) for r in results]}")
    for number, name in enumerate(names(root, "parcels/*/heads/*"), 1):
        expect_equal(int(name), number, "a head")
    expect_equal(len(names(root, "parcels/*/heads/*")), heads, "heads")
    expect_equal(len(names(root, "parcels/*/forks/*/*")), forks, "forks")
    loser = next(result for result in results if result.code == 17)
    expect("fork" in (loser.out + loser.err).lower(), f"the loser does not say where its work is: {loser}")


def test_two_checkins_make_one_version_and_one_fork(world):
    chance = writing.chance()
    server = world.serve()
    a, b = world.host("a"), world.host("b")
    a.init_repository(server.url)
    image, _ = writing.small_disk(world, chance, size=2 << 20)
    a.run("import", "work", image)
    b.add_repository(server.url)
    wins = {"a": 0, "b": 0}
    for number in range(1, writing.rounds(5) + 1):
        stamps = [write_stamp(writing.check_out(a, "work"), chance),
                  write_stamp(writing.check_out(b, "work", "--take-lock"), chance)]
        results = together(*(lambda host=host: host.run("checkin", "work", expect=None) for host in (a, b)))
        expect_one_head_one_fork(server.root, 1 + number, number, results)
        winner = 0 if results[0].code == 0 else 1
        wins["ab"[winner]] += 1
        expect(stamp_of(a, world, "work") == stamps[winner], "the version is not the winner's work")
        for host in (a, b):
            expect_equal(host.stat("work")["state"], "not checked out here", "state afterwards")
    print(f"    the first came first {wins['a']} times, the thief {wins['b']} times", flush=True)
    a.run("check", "--deep")
    b.run("check", "--deep")


def test_two_suspends_make_one_version_and_one_fork(world):
    server = world.serve()
    a, b = world.host("a"), world.host("b")
    a.init_repository(server.url)
    a.run("import", "work", support.guest_image(), "--memory", "256M")
    b.add_repository(server.url)
    a.run("start", "work")
    a.console("work").wait(r"TICK \d+")
    refused = b.run("start", "work", expect=11)
    expect("hint:" in refused.err, f"a refusal without a hint: {refused}")
    b.run("start", "work", "--take-lock")
    b.console("work").wait(r"TICK \d+")
    results = together(*(lambda host=host: host.run("suspend", "work", expect=None) for host in (a, b)))
    expect_one_head_one_fork(server.root, 2, 1, results)
    loser = a if results[0].code == 17 else b
    loser.run("resume", "work")  # the other's machine, whose lock is free now
    console = loser.console("work")
    console.wait(r"TICK \d+", count=2)
    console.check()
    loser.run("suspend", "work")


if __name__ == "__main__":
    support.main(test_two_checkins_make_one_version_and_one_fork, test_two_suspends_make_one_version_and_one_fork)
