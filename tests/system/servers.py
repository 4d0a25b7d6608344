"""Starts servers and links that tests put between isr and its repository; each ends with its World."""
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

from expectations import expect, wait_until

PROXY = pathlib.Path(__file__).resolve().parent.parent / "support" / "proxy.py"


class Server:
    """`isr serve` on a folder, on a port of its own."""

    def __init__(self, world, root, *options):
        self.world, self.root, self.options = world, root, options
        self.log = world.new_file("serve.log")
        self.port = 0
        self.start()

    def start(self):
        """Starts the server. After a stop() it uses the same port again."""
        port_file = self.world.new_file("port")
        port_file.unlink()
        host = self.world.service_host()
        with open(self.log, "ab") as log:
            self.process = host.start("serve", "--root", self.root, "--listen", f"127.0.0.1:{self.port}", "--port-file",
                                      port_file, *self.options, stdout=log, stderr=log)
        def port():
            expect(self.process.poll() is None, f"isr serve ended:\n{self.log.read_text()}")
            return port_file.exists() and port_file.read_text().strip()
        self.port = int(wait_until(port, "isr serve listens"))

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(timeout=30)


class Link:
    """tests/support/proxy.py in front of a server, with the proxy's options."""

    def __init__(self, world, port, *options):
        port_file = world.new_file("proxy-port")
        port_file.unlink()
        self.process = subprocess.Popen([sys.executable, PROXY, "--to",
                                         f"127.0.0.1:{port}", "--port-file", port_file, *options],
                                        stderr=subprocess.DEVNULL)
        world.services.append(self)
        self.port = int(wait_until(lambda: port_file.exists() and port_file.read_text().strip(), "the proxy listens"))
        self.url = f"http://127.0.0.1:{self.port}"

    def cut(self):
        self.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: not self._passes(), "the link is cut")

    def mend(self):
        """Mends a link that was cut. The server must be running."""
        self.process.send_signal(signal.SIGUSR2)
        wait_until(self._passes, "the link is mended")

    def _passes(self):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(b"GET /isr-repository HTTP/1.0\r\n\r\n")
            return connection.recv(1) != b""
        return False

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)


class StaticServer:
    """A read-only nginx on a folder, as an ordinary web server. `tls`: lines of its configuration."""

    def __init__(self, world, root, tls=""):
        self.scheme = "https" if tls else "http"
        folder = world.new_folder("nginx")
        self.port = free_port()
        configuration = folder / "nginx.conf"
        configuration.write_text(f"""
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log {folder}/access.log; default_type application/octet-stream;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{self.port}{" ssl" if tls else ""}; root {root}; {tls} }}
}}
""")
        self.access_log = folder / "access.log"
        nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
        expect(nginx, "nginx is not installed")
        # Started by root, nginx would serve as www-data, which may not enter our folder.
        user = ["-g", "user root;"] if os.geteuid() == 0 else []
        self.process = subprocess.Popen([nginx, "-p", folder, "-c", configuration, *user], stderr=subprocess.DEVNULL)
        wait_until(lambda: answers(self.port), "nginx listens")

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)


def free_port():
    """Returns a free port, for servers that cannot choose one themselves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
