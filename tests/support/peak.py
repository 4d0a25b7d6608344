#!/usr/bin/env python3
"""Runs a program and records its time and memory:  peak.py FILE SECONDS PROGRAM ARGUMENT..

FILE gets the seconds and the greatest resident set in MiB, as two numbers. A program that runs longer than SECONDS is
killed. This small process starts the program, because the peak of a child includes the size of the process that forked it."""
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time


def main():
    file, longest, *command = sys.argv[1:]
    began = time.monotonic()
    pids = []

    def pass_on(number, _):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[0], number)
    stops = (signal.SIGINT, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    with subprocess.Popen(command, preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, stops)) as process:
        pids.append(process.pid)
        for number in stops:
            signal.signal(number, pass_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stops)
        timer = threading.Timer(float(longest), process.kill)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        timer.cancel()
        code = process.returncode = os.waitstatus_to_exitcode(status)
    with open(file, "w", encoding="ascii") as out:
        out.write(f"{time.monotonic() - began:.3f} {usage.ru_maxrss / 1024:.1f}\n")
    os._exit(code if code >= 0 else 128 - code)  # without Python's cleanup, which would die of a late signal


if __name__ == "__main__":
    main()
