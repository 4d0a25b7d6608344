"""Checks of a test, and the exception for a check that fails."""
import time


class Failure(AssertionError):
    """An expectation of a test was not met; the text names it."""


def expect(condition, message):
    if not condition:
        raise Failure(message)


def expect_equal(found, wanted, what):
    expect(found == wanted, f"{what}: {found!r}, expected {wanted!r}")


def wait_until(condition, what, timeout=60, every=0.05):
    """Returns the first true answer of condition(). Raises Failure after the deadline."""
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not within {timeout} s")
        time.sleep(every)
