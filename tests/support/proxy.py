#!/usr/bin/env python3
"""Simulates a bad network in front of a server: delay, rate limit and faults, on loopback.

    proxy.py --listen 127.0.0.1:0 --to 127.0.0.1:8080 --delay-ms 20 --rate 100Mbit --port-file F

Each direction is delayed by --delay-ms (so a round trip costs twice that, and a
new connection costs one) and limited to --rate, over all connections together, as
on one link. Without faults it passes bytes and does not parse HTTP. With faults it
also counts requests, which needs requests with Content-Length (or no body).
It takes 7 % of a core at 100 Mbit/s, with 16 or with 64 connections.

SIGUSR1 cuts the link (connections are reset, new ones refused), SIGUSR2 mends
it, SIGTERM ends the proxy. The counters go to stderr at the end.
"""
import argparse
import asyncio
import os
import re
import signal
import socket
import struct
import sys

PIECE = 65536
# The length of the link's queue in seconds. It is short, as in a good router, so that a
# reader that gives up does not leave a second of its bytes in front of all others.
QUEUE = 0.02


class Link:
    """One direction of a link that all connections share."""

    def __init__(self, delay, rate):
        self.delay = delay
        self.rate = rate
        # Small pieces on a slow link let connections take turns.
        self.piece = max(1500, min(PIECE, int(rate * QUEUE / 4))) if rate else PIECE
        self.waiting = asyncio.Lock()  # first come, first served
        self.free_at = 0.0
        self.bytes = 0

    async def turn(self):
        """Waits until there is room in the queue."""
        if not self.rate:
            return
        async with self.waiting:
            ahead = self.free_at - asyncio.get_running_loop().time()
            if ahead > QUEUE:
                await asyncio.sleep(ahead - QUEUE / 2)

    def arrival(self, size, now):
        """Returns the time at which `size` bytes that are sent now have arrived."""
        self.bytes += size
        if self.rate:
            self.free_at = max(self.free_at, now) + size / self.rate
            return self.free_at + self.delay
        return now + self.delay


def reset(writer):
    """Closes a connection with RST."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
    writer.transport.abort()


async def carry(reader, writer, link):
    """Moves bytes over the link until the end; the bytes under way are bounded."""
    loop = asyncio.get_running_loop()
    # As many bytes as a long fat pipe holds, so that delay alone does not limit throughput.
    under_way = asyncio.Queue(maxsize=256)

    async def deliver():
        while True:
            due, data = await under_way.get()
            wait = due - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            if data is None:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()

    delivery = asyncio.create_task(deliver())
    try:
        while not delivery.done():
            data = await reader.read(link.piece)
            await link.turn()
            due = link.arrival(len(data), loop.time())
            put = asyncio.create_task(under_way.put((due, data or None)))
            await asyncio.wait({put, delivery}, return_when=asyncio.FIRST_COMPLETED)
            if not data or not put.done():
                break
        await delivery
    finally:
        delivery.cancel()


class Proxy:
    def __init__(self, options):
        self.options = options
        host, port = options.to.rsplit(":", 1)
        self.to = (host, int(port))
        self.up = Link(options.delay_ms / 1000, options.rate)
        self.down = Link(options.delay_ms / 1000, options.rate)
        self.requests = 0
        self.puts = 0
        self.connections = 0
        self.faults = 0
        self.cut = False
        self.clients = set()

    # --- plain bytes ------------------------------------------------------

    async def on_client(self, reader, writer):
        self.connections += 1
        if self.cut:
            reset(writer)
            return
        self.clients.add(writer)
        upstream = None
        try:
            await asyncio.sleep(self.up.delay + self.down.delay)  # TCP's handshake
            server_reader, upstream = await asyncio.open_connection(*self.to)
            if self.options.faulty:
                await self.exchange_all(reader, writer, server_reader, upstream)
            else:
                await asyncio.gather(
                    carry(reader, upstream, self.up), carry(server_reader, writer, self.down)
                )
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            reset(writer)
        except asyncio.CancelledError:  # the proxy ends, and nothing waits for this task
            pass
        finally:
            self.clients.discard(writer)
            for end in (writer, upstream):
                if end is not None:
                    end.close()

    # --- request by request -----------------------------------------------

    async def send(self, writer, data, link):
        loop = asyncio.get_running_loop()
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            due = link.arrival(len(piece), loop.time())
            # The delay of a piece overlaps with the sending of the piece before it.
            await asyncio.sleep(max(0, due - link.delay - loop.time()))
            if start + PIECE >= len(data):
                await asyncio.sleep(link.delay)
            writer.write(piece)
            await writer.drain()

    @staticmethod
    async def read_message(reader, is_answer_to=None):
        """Reads one message. Returns (first line, all its bytes), or None at the end."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as end:
            if not end.partial:
                return None
            raise
        first = head.split(b"\r\n", 1)[0]
        fields = [line.split(b":", 1) for line in head.lower().split(b"\r\n")[1:] if b":" in line]
        headers = {name.strip(): value.strip() for name, value in fields}
        size = int(headers.get(b"content-length", b"0"))
        if is_answer_to == b"HEAD" or first.split(b" ")[1] in (b"204", b"304"):
            size = 0
        return first, head + (await reader.readexactly(size) if size else b"")

    def planned_fault(self, is_put):
        """Returns the fault for the request that was just counted."""
        options = self.options
        if is_put and self.puts in options.drop_response_after_put:
            return "drop-response"
        if options.reset_every and self.requests % options.reset_every == 0:
            return "reset"
        if options.status_every and self.requests % options.status_every[0] == 0:
            return "status"
        if options.truncate_every and self.requests % options.truncate_every == 0:
            return "truncate"
        if options.corrupt_every and self.requests % options.corrupt_every == 0:
            return "corrupt"
        return None

    async def exchange_all(self, reader, writer, server_reader, upstream):
        while True:
            request = await self.read_message(reader)
            if request is None:
                return
            first, data = request
            method = first.split(b" ")[0]
            self.requests += 1
            self.puts += method == b"PUT"
            fault = self.planned_fault(method == b"PUT")
            self.faults += fault is not None
            if fault == "reset":
                reset(writer)
                return
            if fault == "status":
                status = self.options.status_every[1]
                answer = f"HTTP/1.1 {status} Injected\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"
                await self.send(writer, answer.encode(), self.down)
                continue
            await self.send(upstream, data, self.up)
            answer = await self.read_message(server_reader, method)
            if answer is None:
                return
            if fault == "drop-response":  # the server carried it out, but the client gets no answer
                reset(writer)
                return
            data = answer[1]
            if fault == "corrupt" and not data.endswith(b"\r\n\r\n"):
                data = data[:-1] + bytes([data[-1] ^ 1])
            if fault == "truncate":
                await self.send(writer, data[: len(data) // 2], self.down)
                return
            await self.send(writer, data, self.down)

    # --- life ---------------------------------------------------------------

    def cut_link(self):
        self.cut = True
        for writer in list(self.clients):
            reset(writer)

    def mend_link(self):
        self.cut = False

    async def run(self):
        host, port = self.options.listen.rsplit(":", 1)
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, done.set)
        loop.add_signal_handler(signal.SIGUSR1, self.cut_link)
        loop.add_signal_handler(signal.SIGUSR2, self.mend_link)
        server = await asyncio.start_server(self.on_client, host, int(port), limit=1 << 21)
        port = server.sockets[0].getsockname()[1]
        if self.options.port_file:
            temporary = self.options.port_file + ".tmp"
            with open(temporary, "w", encoding="ascii") as file:
                file.write(f"{port}\n")
            os.replace(temporary, self.options.port_file)
        else:
            print(port, flush=True)
        await done.wait()
        server.close()
        self.cut_link()
        print(
            f"connections {self.connections} requests {self.requests} puts {self.puts} faults {self.faults}"
            f" up {self.up.bytes} down {self.down.bytes}",
            file=sys.stderr,
        )


def numbers(text):
    return {int(part) for part in text.split(",")}


def period_and_status(text):
    period, status = text.split(":")
    return int(period), int(status)


def bytes_per_second(text):
    """Parses a rate: 12500000 (bytes), or bits with a unit: 100Mbit, 512kbit."""
    units = {None: 1, "kbit": 125, "Mbit": 125_000, "Gbit": 125_000_000}
    match = re.fullmatch(r"([0-9.]+)([kMG]bit)?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"not a rate: {text}")
    return float(match.group(1)) * units[match.group(2)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    parser.add_argument("--port-file", metavar="F", help="gets the port once the proxy listens; else stdout")
    parser.add_argument("--delay-ms", type=float, default=0, help="of each direction")
    parser.add_argument("--rate", type=bytes_per_second, default=0, metavar="RATE",
                        help="of each direction: bytes a second, or 100Mbit; 0: no limit")
    faults = parser.add_argument_group("faults; requests and PUTs are counted from 1")
    faults.add_argument("--drop-response-after-put", type=numbers, default=set(), metavar="K[,K]",
                        help="the K-th PUT is applied, then the connection is reset")
    faults.add_argument("--reset-every", type=int, default=0, metavar="K", help="before the server sees it")
    faults.add_argument("--status-every", type=period_and_status, metavar="K:STATUS", help="instead of asking the server")
    faults.add_argument("--truncate-every", type=int, default=0, metavar="K", help="half an answer, then the end")
    faults.add_argument("--corrupt-every", type=int, default=0, metavar="K", help="one bit of the body is wrong")
    options = parser.parse_args()
    options.faulty = any((options.drop_response_after_put, options.reset_every, options.status_every,
                          options.truncate_every, options.corrupt_every))
    asyncio.run(Proxy(options).run())


if __name__ == "__main__":
    main()
