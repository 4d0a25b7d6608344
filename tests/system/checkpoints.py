"""Functions shared by the tests of `isr sync` of a running machine."""
import support
from support import expect, expect_equal


def set_up(world, mapping="auto", memory="256M"):
    server = world.serve()
    a = world.host("a")
    a.variables["ISR_VM_MEMORY"] = mapping
    a.init_repository(server.url)
    a.run("import", "work", support.guest_image(), "--memory", memory)
    a.run("start", "work")
    console = a.console("work")
    console.wait(r"TICK \d+", count=3)
    console.wait(r"DISK \d+", count=2)
    return server, a, console


def sync(host):
    done = host.run("sync", "work", json=True)
    print(f"    paused {done['paused_ms']:.1f} ms, {done['uploaded_bytes']} bytes uploaded", flush=True)
    return done


def wait_for_more(console, what, count=2):
    console.wait(what, count=len(console.find(what)) + count)


def expect_resumes(host, before, after, checksum):
    """Checks that the machine goes on from a moment between two ticks, and that its memory and disk are right."""
    console = host.console("work")
    console.wait(r"TICK \d+", count=2)
    expect_equal(console.find(r"BOOT .*"), [], "boots instead of going on")
    expect(before < console.ticks()[0] <= after + 1,
           f"goes on with {console.ticks()[0]}, the checkpoint was made between {before} and {after}")
    wait_for_more(console, f"MEM ok {checksum}")
    wait_for_more(console, "SECTORS ok")
    return console
