"""What a test expects, and how it says that it was not so."""
import time


class Failure(AssertionError):
    """A test's expectation was not met; the text says which."""


def expect(condition, message):
    if not condition:
        raise Failure(message)


def expect_equal(found, wanted, what):
    expect(found == wanted, f"{what}: {found!r}, expected {wanted!r}")


def wait_until(condition, what, timeout=60, every=0.05):
    """Returns the first true answer of condition(); Failure after the deadline."""
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not within {timeout} s")
        time.sleep(every)
