"""A plain HTTP server of files in memory: ranges, HEAD, ETag, dates, and switches to lack them."""

from __future__ import annotations

import email.utils
import hashlib
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class FileServer:
    """Serves what is in `files`, by name; used as a context manager.

    >>> with FileServer() as server:
    ...     server.files["a.npy"] = b"bytes"
    ...     server.url("a.npy").startswith("http://127.0.0.1:")
    True
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges = True  # False: every GET is answered with the whole file and 200
        self.etags = True
        self.dates = True
        self.lengths = True  # False: the body comes in chunks, of a length that is not said
        self.heads = True  # False: HEAD is answered with 405
        self.moved: dict[str, str] = {}  # names that are answered with a redirect to another URL
        self.seen: list[tuple[str, str, str]] = []  # method, name, Range
        self._changed: dict[str, tuple[bytes, float]] = {}
        self._etags: dict[str, tuple[bytes, str]] = {}
        self._server = _Threads(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def url(self, name: str = "") -> str:
        return f"http://127.0.0.1:{self.port}/{quote(name)}"

    def modified(self, name: str) -> float:
        """Say since when a file has had its bytes, in seconds since 1970."""
        data = self.files[name]
        if name not in self._changed or self._changed[name][0] is not data:
            self._changed[name] = data, time.time()
        return self._changed[name][1]

    def etag(self, name: str) -> str:
        """Give the ETag of a file's bytes, which are hashed once."""
        data = self.files[name]
        if name not in self._etags or self._etags[name][0] is not data:
            self._etags[name] = data, f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        return self._etags[name][1]

    def __enter__(self) -> FileServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Threads(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    owner: FileServer

    def handle_error(self, request: object, client_address: object) -> None:
        """Be silent about clients that went away."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Threads

    def setup(self) -> None:
        super().setup()
        # An answer is two writes: without this the second may wait for the first's receipt.
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        if self.server.owner.heads:
            self._answer(with_body=False)
        else:
            self._head(405, {"Content-Length": "0"})

    def _answer(self, with_body: bool) -> None:
        owner, name = self.server.owner, unquote(self.path.partition("?")[0].lstrip("/"))
        owner.seen.append((self.command, name, self.headers.get("Range", "")))
        if name in owner.moved:
            return self._head(302, {"Location": owner.moved[name], "Content-Length": "0"})
        data = owner.files.get(name)
        if data is None:
            return self._send(404, {}, b"there is no such file", with_body)
        headers = {"Accept-Ranges": "bytes"} if owner.ranges else {}
        if owner.etags:
            headers["ETag"] = owner.etag(name)
        if owner.dates:
            headers["Last-Modified"] = email.utils.formatdate(owner.modified(name), usegmt=True)
        wanted = self.headers.get("If-Match")
        if wanted not in (None, "*") and wanted != headers.get("ETag"):
            return self._send(412, headers, b"changed", with_body)
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        if asked is None or not owner.ranges:
            return self._send(200, headers, data, with_body)
        size = len(data)
        if asked[1]:
            start, stop = int(asked[1]), min(size, int(asked[2] or size) + 1)
        else:
            start, stop = max(0, size - int(asked[2])), size
        if start >= stop:
            return self._send(416, {"Content-Range": f"bytes */{size}"}, b"", with_body)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return self._send(206, headers, memoryview(data)[start:stop], with_body)

    def _send(
        self, status: int, headers: dict[str, str], body: bytes | memoryview, with_body: bool
    ) -> None:
        if self.server.owner.lengths or status != 200:
            self._head(status, {**headers, "Content-Length": str(len(body))})
            if with_body:
                self.wfile.write(body)
            return
        self._head(status, {**headers, "Transfer-Encoding": "chunked"})
        if with_body:
            if body:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(body), bytes(body)))
            self.wfile.write(b"0\r\n\r\n")

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""
