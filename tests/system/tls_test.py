"""Tests that a server that cannot prove its identity gets nothing: no password, no request."""
import subprocess

import support
import writing
from support import expect, expect_equal


class Authority:
    """Makes certificates for a test with openssl."""

    def __init__(self, world):
        self.folder = world.new_folder("tls")
        self.file = self.folder / "authority.pem"
        self._openssl("req", "-x509", *self._key("authority.key"), "-out", self.file, "-subj", "/CN=authority", "-days", "2")

    def _openssl(self, *arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _key(self, name):
        return "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", self.folder / name

    def server(self, name, subject="IP:127.0.0.1", days=2, signed=True):
        """Makes a certificate. Returns the lines of an nginx configuration that use it."""
        key, request, certificate = (self.folder / f"{name}.{end}" for end in ("key", "csr", "pem"))
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={subject}\n")
        self._openssl("req", "-new", *self._key(f"{name}.key"), "-out", request, "-subj", f"/CN={name}")
        by = ["-CA", self.file, "-CAkey", self.folder / "authority.key", "-CAcreateserial"] if signed else ["-signkey", key]
        self._openssl("x509", "-req", "-in", request, *by, "-days", days, "-extfile", extensions, "-out", certificate)
        return f"ssl_certificate {certificate}; ssl_certificate_key {key};"


def test_a_certificate_must_be_trusted_current_and_for_this_host(world):
    root = world.new_folder("repository")
    a = world.host("a")
    a.init_repository(root)
    image, _ = writing.small_disk(world, writing.chance(), size=1 << 20)
    a.run("import", "work", image)
    authority = Authority(world)
    trusted = {"SSL_CERT_FILE": str(authority.file)}
    good = authority.server("good")
    for name, tls, variables in (("self-signed", authority.server("self", signed=False), trusted),
                                 ("of an unknown authority", good, {}),
                                 ("for another host", authority.server("other", subject="DNS:other.example"), trusted),
                                 ("expired", authority.server("expired", days=-1), trusted),
                                 ("old protocol", good + " ssl_protocols TLSv1.1; ssl_ciphers ALL:@SECLEVEL=0;", trusted)):
        server = world.static_server(root, tls=tls)
        b = world.host("".join(c for c in name if c.isalpha()))
        b.variables |= variables
        refused = b.run("repo", "add", "home", server.url, "--user", "alice", expect=13)
        expect("TLS" in refused.err, f"{name}: not said that it is TLS: {refused}")
        expect_equal(b.run("repo", "ls", json=True)["repositories"], [], f"{name}: repositories afterwards")
        requests = server.access_log.read_text() if server.access_log.exists() else ""
        expect("isr-repository" not in requests, f"{name}: something was asked for: {requests}")
        server.stop()
    server = world.static_server(root, tls=good)
    b = world.host("b")
    b.variables |= trusted
    b.run("repo", "add", "home", server.url, "--user", "alice")
    b.run("check", "work", "--deep")
    server.stop()


if __name__ == "__main__":
    support.main(test_a_certificate_must_be_trusted_current_and_for_this_host)
