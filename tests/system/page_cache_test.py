"""Tests that the guest's agent drops the page cache before a suspend: isr uploads less, and works without the agent."""
import shutil
import time

import support
from support import expect, expect_equal

MIB = 1 << 20
CACHED = 64  # MiB
BOUND = 5  # seconds that the step may take, as `isr suspend --help` says
SLOW = 15  # seconds more on a busy machine


def disk_of_noise(world):
    """Makes the test guest's disk with noise at its end. The import uploads the noise, so later uploads are memory only."""
    image = world.folder / "noise.raw"
    shutil.copyfile(support.guest_image("--append", "isr.agent=1"), image)
    with open(image, "ab") as file, open("/dev/urandom", "rb") as noise:
        file.write(noise.read(CACHED * MIB))
    return image


def set_up(world):
    server = world.serve()
    a = world.host("a")
    a.init_repository(server.url)
    a.run("import", "work", disk_of_noise(world), "--memory", "256M")
    return a


def boot_with_full_cache(host):
    host.run("start", "work")
    console = host.console("work")
    console.wait("AGENT listens")
    fill_cache(console)
    return console


def fill_cache(console):
    console.type(f"cache {CACHED}")
    console.wait(f"CACHED {CACHED * MIB}", count=len(console.find("CACHED .*")) + 1)


def expect_goes_on(console):
    console.wait(r"TICK \d+", count=2)
    console.wait("MEM ok .*")
    console.wait("SECTORS ok")


def test_what_is_in_the_page_cache_is_not_uploaded(world):
    a = set_up(world)
    uploaded = {}
    for setting in ("false", "true"):
        a.run("config", "set", "suspend.drop_caches", setting)
        boot_with_full_cache(a).close()
        suspended = a.run("suspend", "work", json=True)
        uploaded[setting] = suspended["uploaded_bytes"] / MIB
        a.run("resume", "work")
        expect_goes_on(a.console("work"))
        a.run("stop", "work", "--kill")
    expect(uploaded["true"] < uploaded["false"] - CACHED / 2, f"MiB uploaded: {uploaded}")


def test_a_sync_drops_nothing(world):
    a = set_up(world)
    console = boot_with_full_cache(a)
    a.run("sync", "work")
    console.type("echo after the sync")
    console.wait("GOT after the sync")
    expect_equal(console.find("AGENT .*exec.*"), [], "what the agent was told to run")
    a.run("suspend", "work", "--no-upload")
    console.wait(r"TICK \d+")
    expect_equal(console.find("AGENT .*exec.*"), [], "what the agent was told to run")
    a.run("suspend", "work")


def test_an_agent_that_does_not_do_it_costs_a_suspend_little(world):
    a = set_up(world)
    console = boot_with_full_cache(a)
    took = {}
    for manner in ("refuse", "hang", "rave", "mute", "answer"):
        console.type(f"agent {manner}")
        console.wait(f"AGENT is {manner}")
        fill_cache(console)
        began = {}
        with open(world.new_file("progress"), "w+b") as progress:
            process = a.start("--progress", "json", "suspend", "work", stderr=progress, stdout=progress)
            while process.poll() is None:
                said = (world.folder / progress.name).read_text()
                for step in ("page cache", "memory"):
                    if f'"{step}"' in said:
                        began.setdefault(step, time.monotonic())
                time.sleep(0.02)
        expect_equal(process.returncode, 0, f"suspend with an agent that is to {manner}: {said}")
        took[manner] = began["memory"] - began["page cache"]
        expect(took[manner] < BOUND + SLOW, f"took {took}")
        a.run("resume", "work")
        console = a.console("work")
        expect_goes_on(console)
    print("    " + ", ".join(f"{manner} {seconds:.1f} s" for manner, seconds in took.items()), flush=True)
    a.run("suspend", "work")


if __name__ == "__main__":
    support.main(test_what_is_in_the_page_cache_is_not_uploaded,
                 test_a_sync_drops_nothing,
                 test_an_agent_that_does_not_do_it_costs_a_suspend_little)
