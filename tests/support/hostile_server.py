"""A repository on loopback that answers truthfully unless a test gives it a lie.

    server = HostileServer(port_of_an_isr_serve)
    server.lie = lambda request: Answer(200, b"junk") if request.name.endswith("/latest") else None

Each request goes to `lie` first; where that returns None, the `isr serve` behind it answers. The server runs on threads of
this process, so a lie is a function and can look at earlier requests.
"""
import http.client
import http.server
import threading

SERVED = (("Isr-Repository", "writable"), ("Content-Type", "application/octet-stream"))


class Request:
    """`name` is the name of a blob, `prefix` and `after` are the parameters of a list; unused ones are empty."""

    def __init__(self, method, target, headers, body):
        self.method, self.target, self.headers, self.body = method, target, headers, body
        self.prefix, _, self.after = target.removeprefix("/?list=").partition("&after=")
        is_list = target.startswith("/?list=")
        self.name = "" if is_list else target[1:]
        if not is_list:
            self.prefix = ""


class Answer:
    """`body` is bytes, or an iterator of pieces that may be endless. `length` replaces the body's length in Content-Length;
    with pieces and no `length` there is no Content-Length, and the end of the connection ends the body. `pause` seconds
    follow each piece."""

    def __init__(self, status, body=b"", headers=(), length=None, pause=0):
        self.status, self.headers, self.pause = status, headers, pause
        self.length = len(body) if length is None and isinstance(body, bytes) else length
        self.pieces = (body,) if isinstance(body, bytes) else body


class HostileServer:
    def __init__(self, port):
        self.lie, self.requests = None, 0
        self._port, self._over = port, threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # a client that gives up resets the connection
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self):
        self._over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def truth(self, request):
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        passed = {key: value for key, value in request.headers.items() if key.lower() in ("range", "if-none-match")}
        if request.method == "PUT":
            passed["Content-Length"] = str(len(request.body))
        connection.request(request.method, request.target, request.body or None, passed)
        answer = connection.getresponse()
        body = answer.read()
        headers = [pair for pair in answer.getheaders() if pair[0].lower() not in ("content-length", "connection", "date", "server")]
        connection.close()
        return Answer(answer.status, body, headers, length=int(answer.getheader("Content-Length") or 0))

    def _handler(outer):  # pylint: disable=no-self-argument
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_):
                pass

            def _answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = Request(self.command, self.path, self.headers, body)
                outer.requests += 1
                lie = outer.lie
                answer = lie and lie(request)
                if not answer:
                    answer = outer.truth(request)
                try:
                    self._send(answer)
                except OSError:  # the client has given up
                    self.close_connection = True

            do_GET = do_HEAD = do_PUT = do_DELETE = _answer

            def _send(self, answer):
                self.send_response(answer.status)
                for key, value in answer.headers or SERVED:
                    self.send_header(key, value)
                if answer.length is not None:
                    self.send_header("Content-Length", str(answer.length))
                else:
                    self.send_header("Connection", "close")
                self.end_headers()
                sent = 0
                for piece in answer.pieces if self.command != "HEAD" else ():
                    self.wfile.write(piece)
                    sent += len(piece)
                    if outer._over.wait(answer.pause) if answer.pause else outer._over.is_set():
                        break
                if self.command != "HEAD" and sent != answer.length:
                    self.close_connection = True

        return Handler
