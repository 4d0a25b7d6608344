"""Tests a guest that was suspended for hours: its clock is set, and it notices its new network.

The hours are simulated: on the second host isr and QEMU run under libfaketime, five hours ahead."""
import time

import support
from support import expect, expect_equal

HOURS = 5 * 3600
NEAR = 120  # seconds: enough for a slow machine, and much less than the simulated hours


def five_hours_later(world, name):
    """Makes a host whose clock is five hours ahead. QEMU gets little of our environment, so a script sets it."""
    library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
    host = world.host(name)
    faked = {"FAKETIME": f"+{HOURS}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1"}
    assignments = " ".join(f"{key}={value}" for key, value in faked.items())
    host.replace_qemu(f'export {assignments} LD_PRELOAD="{library} $LD_PRELOAD"')
    host.variables |= faked | {"LD_PRELOAD": library}
    return host


def move_five_hours_on(world, image, ready, mute=False):
    server = world.serve()
    a = world.host("a")
    b = five_hours_later(world, "b")
    a.init_repository(server.url)
    a.run("import", "work", image, "--memory", "256M")
    b.add_repository(server.url)
    a.run("start", "work")
    on_a = a.console("work")
    on_a.wait(ready)
    on_a.wait(r"TICK \d+", count=2)
    if mute:
        on_a.type("agent mute")
        on_a.wait("AGENT is mute")
    _, changes = on_a.cable()
    a.run("suspend", "work")
    b.run("resume", "work")
    on_b = b.console("work")
    on_b.wait(r"TICK \d+", count=2)
    support.expect_continuation(on_a, on_b)
    return b, on_b, changes


def expect_cable_was_out(console, changes_before):
    support.wait_until(lambda: console.cable() >= (True, changes_before + 2), "the cable was out and is in", every=0.5)


def clocks(console):
    """Returns how far the guest's clock and its hardware clock are from five hours ahead, in seconds."""
    console.type("clock")
    said = console.wait(r"CLOCK (\d+ rtc=\d+)", count=len(console.find(r"CLOCK .*")) + 1)[-1]
    ours = time.time() + HOURS
    return [int(number) - ours for number in said.split(" rtc=")]


def said_of_clock(host):
    return support.wait_until(lambda: host.stat("work")["vm"]["awakening"], "what became of the clock is told")


def test_after_hours_an_agent_sets_the_clock_and_the_network_cable_was_out(world):
    b, on_b, changes = move_five_hours_on(world, support.guest_image("--append", "isr.agent=1"), "AGENT listens")
    expect_cable_was_out(on_b, changes)
    expect_equal(said_of_clock(b), "the agent in the guest has set its clock", "what is told")
    clock, hardware = clocks(on_b)
    expect(abs(clock) < NEAR, f"the guest's clock is {clock} s off")
    expect(abs(hardware) < NEAR, f"its hardware clock is {hardware} s off")
    b.run("suspend", "work")


def test_a_sync_right_after_a_resume_does_not_cost_the_guest_its_clock(world):
    b, on_b, changes = move_five_hours_on(world, support.guest_image("--append", "isr.agent=1"), "AGENT listens", mute=True)
    b.run("sync", "work")
    expect_equal(b.stat("work")["vm"]["awakening"], "", "what is told of the clock after a sync")
    on_b.type("agent answer")
    expect_equal(said_of_clock(b), "the agent in the guest has set its clock", "what is told")
    clock, _ = clocks(on_b)
    expect(abs(clock) < NEAR, f"the guest's clock is {clock} s off")
    expect_cable_was_out(on_b, changes)
    b.run("suspend", "work")


def test_after_hours_without_an_agent_the_hardware_clock_is_right(world):
    b, on_b, changes = move_five_hours_on(world, support.guest_image(), r"TICK \d+")
    expect_cable_was_out(on_b, changes)
    told = said_of_clock(b)
    expect("no agent" in told and "hardware clock is right" in told, f"what is told: {told}")
    clock, hardware = clocks(on_b)
    expect(abs(hardware) < NEAR, f"the hardware clock is {hardware} s off")
    expect(clock < -HOURS / 2, f"the guest's clock is {clock} s off: is what is told still true?")
    expect("no agent" in b.run("stat", "work").out, "a person is not told")
    b.run("suspend", "work")


if __name__ == "__main__":
    support.main(test_after_hours_an_agent_sets_the_clock_and_the_network_cable_was_out,
                 test_a_sync_right_after_a_resume_does_not_cost_the_guest_its_clock,
                 test_after_hours_without_an_agent_the_hardware_clock_is_right)
