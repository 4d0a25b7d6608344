#!/usr/bin/env python3
"""Measures how qemu-guest-agent in an ordinary Debian helps isr: it drops the guest's page cache before a suspend.

    python3 tests/long/debian_agent.py build/release/isr

Prints the cost of a suspend and the resume after it, with and without `suspend.drop_caches`. The guest is that of
debian.py.
"""
import time

from debian import LONG, MEMORY, MIB, Shell, debian_image, support
from support import expect

FILES = "/usr/lib /usr/share"  # about 700 MB, more than the guest's memory leaves for them


def import_debian(world):
    server = world.serve()
    a = world.host("a")
    a.init_repository(server.url)
    a.run("import", "debian", debian_image(), "--memory", MEMORY, timeout=LONG)
    return server, a


def boot(host):
    host.run("start", "debian", "--accelerator", "tcg", timeout=LONG)
    shell = Shell(host)
    shell.wait_for_login()
    support.wait_until(lambda: shell.ask("systemctl is-active qemu-guest-agent || true") == "active",
                       "the agent runs", LONG, every=1)
    return shell


def read_files(shell):
    shell.ask(f"find {FILES} -xdev -type f -print0 | xargs -0 cat 2>&1 >/dev/null | head -c 0")
    return int(shell.ask("awk '/^Cached:/ { print $2 }' /proc/meminfo")) / 1024


def timed(action):
    began = time.monotonic()
    answer = action()
    return time.monotonic() - began, answer


def test_a_page_cache_that_is_dropped_is_not_uploaded(world):
    server, a = import_debian(world)
    uploaded = {}
    for setting in ("false", "true"):
        a.run("config", "set", "suspend.drop_caches", setting)
        shell = boot(a)
        cached = read_files(shell)
        took, answer = timed(lambda: a.run("suspend", "debian", json=True, timeout=LONG))
        uploaded[setting] = answer["uploaded_bytes"] / MIB
        print(f"    drop_caches={setting}: {cached:.0f} MiB cached; suspend {took:.1f} s, {uploaded[setting]:.0f} MiB uploaded", flush=True)
        b = world.host(f"b-{setting}")
        b.add_repository(server.url)
        def until_it_answers():
            b.run("resume", "debian", "--prefetch", "ws", timeout=LONG)
            shell = Shell(b)
            shell.ask("echo here")
            return shell
        took, shell = timed(until_it_answers)
        def fetched():
            return b.stat("debian")["sources"]["repository_bytes"] / MIB
        print(f"        resume to the shell's answer {took:.1f} s, {fetched():.0f} MiB fetched", flush=True)
        took, _ = timed(lambda: shell.ask("git --version >/dev/null; python3 -c 'import json, ssl' >/dev/null; echo done"))
        print(f"        git and python3 {took:.1f} s, {fetched():.0f} MiB fetched by then", flush=True)
        took, _ = timed(lambda: read_files(shell))
        print(f"        all files again {took:.1f} s, {fetched():.0f} MiB fetched by then", flush=True)
        b.run("--yes", "poweroff", "debian")
        b.run("--yes", "discard", "debian")
        b.run("checkin", "debian")
    expect(uploaded["true"] < uploaded["false"] * 0.7, f"MiB uploaded: {uploaded}")


if __name__ == "__main__":
    support.main(test_a_page_cache_that_is_dropped_is_not_uploaded)
