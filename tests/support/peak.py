#!/usr/bin/env python3
"""Runs a program and writes down what it took:  peak.py FILE SECONDS PROGRAM ARGUMENT..

FILE gets the seconds and the greatest resident set in MiB, as two numbers. A program that runs longer than SECONDS is
killed. It is measured from here, because a child of a large process counts as large as that was."""
import os
import signal
import subprocess
import sys
import threading
import time


def main():
    file, longest, *command = sys.argv[1:]
    began = time.monotonic()
    with subprocess.Popen(command) as process:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda n, _: os.kill(process.pid, n))  # poll() would reap it
        timer = threading.Timer(float(longest), process.kill)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        timer.cancel()
        code = process.returncode = os.waitstatus_to_exitcode(status)
    with open(file, "w", encoding="ascii") as out:
        out.write(f"{time.monotonic() - began:.3f} {usage.ru_maxrss / 1024:.1f}\n")
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
