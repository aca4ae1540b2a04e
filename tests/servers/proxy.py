"""An HTTP proxy in front of one server: it counts requests and bytes, and fails as it is told to.

Heads are passed on as they are, Host too, so that signatures stay right.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from tests.servers.faults import Answer, Cut, CutUpload, Fault, Hang, Reset, Rule, Slow

_PIECE = 256 << 10
_MAX_HEAD = 64 << 10
_GIVE_UP = 120.0
_NO_BODY = (204, 304)
_OWN = ("connection", "expect")  # headers that concern one connection alone

_Take = Callable[[bytes | memoryview], None]


@dataclass
class Seen:
    """A request that came, and what became of it."""

    method: str
    target: str  # path and query
    headers: dict[str, str]  # by lower-case name
    status: int = 0  # of the answer that was passed on; 0 where none was
    sent: int = 0  # bytes of the request's body that reached the server
    received: int = 0  # bytes of the answer's body that reached the client
    fault: Fault | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def range(self) -> str:
        """The part that was asked for, such as "bytes=0-99"; "" for all of it."""
        return self.headers.get("range", "")


class _GoneError(Exception):
    """The connection ended, on purpose or not."""


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes on to another; used as a context manager."""

    def __init__(self, to: int) -> None:
        self.to = to
        self.seen: list[Seen] = []
        self.rules: list[Rule] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def fail(
        self,
        fault: Fault,
        on: str = "",
        target: str = "",
        only: Collection[int] | None = None,
        chance: float = 1.0,
        seed: int = 0,
        most: int | None = None,
    ) -> Rule:
        """Let requests fail from now on; the arguments are those of `Rule`."""
        rule = Rule(fault, on, target, only, chance, seed, most)
        self.rules.append(rule)
        return rule

    def heal(self) -> None:
        """Fail no more."""
        self.rules.clear()

    def forget(self) -> None:
        """Count anew."""
        self.seen.clear()

    def requests(self, method: str = "") -> list[Seen]:
        """List what came, by one method or by all."""
        return [seen for seen in self.seen if method in ("", seen.method)]

    def count(self, method: str = "") -> int:
        return len(self.requests(method))

    def sent(self, method: str = "") -> int:
        """Count the bytes that bodies of requests had."""
        return sum(seen.sent for seen in self.requests(method))

    def received(self, method: str = "") -> int:
        """Count the bytes that bodies of answers had."""
        return sum(seen.received for seen in self.requests(method))

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        with self._lock:
            still = list(self._open)
        for one in (self._listener, *still):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _listen(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Pass on the requests of one connection, one after another."""
        with self._held(client):
            half = _Half(client)
            with contextlib.suppress(_GoneError, OSError):
                while self._pass_on(half):
                    pass

    @contextlib.contextmanager
    def _held(self, one: socket.socket) -> Iterator[socket.socket]:
        one.settimeout(_GIVE_UP)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._open.add(one)
        try:
            yield one
        finally:
            with self._lock:
                self._open.discard(one)
            one.close()

    def _pass_on(self, client: _Half) -> bool:
        """Pass on one request and its answer; say whether another may follow."""
        line, headers = client.head()
        method, target, _ = line.split(" ", 2)
        seen = Seen(method, target, headers)
        with self._lock:
            self.seen.append(seen)
        rules = [rule for rule in list(self.rules) if rule.applies(method, target)]
        fault = seen.fault = rules[0].fault if rules else None
        match fault:
            case Reset(after=False):
                client.reset()
            case Hang(seconds):
                self._closing.wait(seconds)
                client.reset()
            case Answer(status, body, more):
                client.continues(headers)
                client.body(headers, lambda piece: None)
                seen.status = status
                lines = [f"HTTP/1.1 {status} Planned", f"Content-Length: {len(body)}"]
                lines += [f"{name}: {value}" for name, value in more]
                client.send(_join(lines) + (b"" if method == "HEAD" else body))
                return True
        with self._held(socket.create_connection(("127.0.0.1", self.to), _GIVE_UP)) as upstream:
            return self._exchange(client, _Half(upstream), line, seen)

    def _exchange(self, client: _Half, server: _Half, line: str, seen: Seen) -> bool:
        headers, fault = seen.headers, seen.fault
        rate = fault.rate if isinstance(fault, Slow) else 0
        kept = [f"{name}: {value}" for name, value in client.raw if name.lower() not in _OWN]
        server.send(_join([line, *kept, "Connection: close"]))
        client.continues(headers)

        def upload(piece: memoryview | bytes) -> None:
            if isinstance(fault, CutUpload) and seen.sent + len(piece) >= fault.after:
                rest = piece[: fault.after - seen.sent]
                seen.sent = fault.after
                server.send(rest)
                server.abort()
                client.reset()
            seen.sent += len(piece)
            server.send(piece, rate)

        client.body(headers, upload)
        status_line, answered = server.head()
        if fault == Reset(after=True):
            client.reset()
        seen.status = int(status_line.split(" ")[1])
        bodiless = seen.method == "HEAD" or seen.status in _NO_BODY
        lasts = bodiless or "content-length" in answered or "transfer-encoding" in answered
        kept = [f"{name}: {value}" for name, value in server.raw if name.lower() != "connection"]
        if status_line.startswith("HTTP/1.0"):
            status_line = f"HTTP/1.1{status_line[8:]}"
        client.send(
            _join([status_line, *kept, f"Connection: {'keep-alive' if lasts else 'close'}"])
        )

        def download(piece: memoryview | bytes) -> None:
            if isinstance(fault, Cut) and seen.received + len(piece) >= fault.after:
                rest = piece[: fault.after - seen.received]
                seen.received = fault.after
                client.send(rest)
                if fault.reset:
                    client.reset()
                raise _GoneError
            seen.received += len(piece)  # before the client, who may ask at once, has them
            client.send(piece, rate)

        if not bodiless:
            server.body(answered, download, to_the_end=not lasts)
        return lasts and headers.get("connection", "").lower() != "close"


def _join(lines: list[str]) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class _Half:
    """One of the two connections: reads a head, then the body, and writes."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._ahead = bytearray()  # what came with the last read and is not used yet
        self.raw: list[tuple[str, str]] = []

    def head(self) -> tuple[str, dict[str, str]]:
        """Read the first line and the headers; those by lower-case name."""
        while (end := self._ahead.find(b"\r\n\r\n")) < 0:
            if len(self._ahead) > _MAX_HEAD:
                raise _GoneError
            self._more()
        first, *rest = bytes(self._ahead[:end]).decode("latin-1").split("\r\n")
        del self._ahead[: end + 4]
        if first.startswith("HTTP/1.1 100"):
            return self.head()
        self.raw = [
            (name, value.strip()) for name, _, value in (row.partition(":") for row in rest)
        ]
        return first, {name.lower(): value for name, value in self.raw}

    def continues(self, headers: dict[str, str]) -> None:
        """Tell a client that waits for it to go on with the body."""
        if "expect" in headers:
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def body(self, headers: dict[str, str], take: _Take, to_the_end: bool = False) -> None:
        """Read the body and give it away piece by piece, as it is: chunks stay chunks."""
        if "chunked" in headers.get("transfer-encoding", ""):
            self._chunks(take)
        else:
            self._count(int(headers.get("content-length", 0)), take)
        while to_the_end:
            if not self._ahead:
                try:
                    self._more()
                except _GoneError:
                    return
            take(bytes(self._ahead))
            self._ahead.clear()

    def _count(self, left: int, take: _Take) -> None:
        if left and self._ahead:
            piece = bytes(self._ahead[:left])
            del self._ahead[:left]
            take(piece)
            left -= len(piece)
        buffer = memoryview(bytearray(min(left, _PIECE)))
        while left:
            count = self._connection.recv_into(buffer[:left])
            if not count:
                raise _GoneError
            take(buffer[:count])
            left -= count

    def _chunks(self, take: _Take) -> None:
        size = -1
        while size:
            line = self._line()
            size = int(line.partition(b";")[0], 16)
            take(line + b"\r\n")
            self._count(size, take)
            take(self._line() + b"\r\n")  # the end of the chunk, or of all: no trailers here

    def _line(self) -> bytes:
        while (end := self._ahead.find(b"\r\n")) < 0:
            self._more()
        line = bytes(self._ahead[:end])
        del self._ahead[: end + 2]
        return line

    def _more(self) -> None:
        piece = self._connection.recv(_PIECE)
        if not piece:
            raise _GoneError
        self._ahead += piece

    def send(self, data: bytes | memoryview, rate: int = 0) -> None:
        step = max(1, rate // 20) if rate else len(data) or 1
        for start in range(0, len(data), step):
            self._connection.sendall(data[start : start + step])
            if rate:
                time.sleep(step / rate)

    def abort(self) -> None:
        """Reset the connection: what is under way is lost."""
        linger = struct.pack("ii", 1, 0)
        with contextlib.suppress(OSError):
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._connection.close()

    def reset(self) -> None:
        self.abort()
        raise _GoneError
