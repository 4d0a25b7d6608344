"""Puts a long and narrow link (tests/support/proxy.py) between a client and a server of this machine."""
import re
import subprocess
import sys

from measure import PROJECT, support


class Link:
    """A context manager: the link works inside the `with` block. Afterwards `down` and `up` are the bytes that it carried,
    and another link may use its port."""

    def __init__(self, world, to_port, rate_mbit=0, round_trip=0.0, port=None):
        self.world, self.to_port = world, to_port
        self.port = port or support.free_port()
        self.rate, self.round_trip = rate_mbit * 1e6 / 8, round_trip
        self.up = self.down = 0
        self._process = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        port_file = self.world.new_file("link")
        port_file.unlink()
        self._log = self.world.new_file("link.log")
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, PROJECT / "tests" / "support" / "proxy.py", "--listen", f"127.0.0.1:{self.port}",
                 "--to", f"127.0.0.1:{self.to_port}", "--port-file", port_file,
                 "--rate", str(self.rate), "--delay-ms", str(self.round_trip * 500)], stderr=log)
        support.wait_until(lambda: port_file.exists() or self._process.poll() is not None, "the link is up")
        support.expect(port_file.exists(), f"no link: {self._log.read_text()}")
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(timeout=30)
        counted = re.search(r"up (\d+) down (\d+)", self._log.read_text())
        if counted:
            self.up, self.down = int(counted[1]), int(counted[2])
