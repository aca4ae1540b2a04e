"""A client of the viewer's server that sends exactly what it is told to."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.viewer.server import Server


@dataclass(frozen=True)
class Reply:
    """What came back; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def binary(self) -> tuple[Any, npt.NDArray[np.float32]]:
        length = int.from_bytes(self.body[:4], "little")
        start = -(-(4 + length) // 8) * 8
        return json.loads(self.body[4 : 4 + length]), np.frombuffer(self.body[start:], "<f4")


class Client:
    """Asks one server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.host = f"127.0.0.1:{server.port}"
        self.base = "/" + server.url.split("/", 3)[3]

    def api(self, path: str) -> Reply:
        return self.get(f"{self.base}api/{path}")

    def job(self, path: str) -> Any:
        """Ask until a job is finished; gives it as it is then."""
        for _ in range(2000):
            reply = self.api(path)
            assert reply.status == 200, reply
            if reply.json["finished"]:
                return reply.json
        raise AssertionError(f"{path} does not finish")

    def get(
        self,
        target: str,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        *,
        method: str = "GET",
        host: str | None = "",
        version: str = "1.1",
    ) -> Reply:
        """Send a request; `host` None leaves the header out, and empty is the server's own."""
        lines = [f"{method} {target} HTTP/{version}"]
        if host is not None:
            lines.append(f"Host: {host or self.host}")
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        lines += [f"{name}: {value}" for name, value in pairs]
        lines += ["Connection: close", "", ""]
        return self.raw("\r\n".join(lines).encode("latin-1"), body=method != "HEAD")

    def raw(self, data: bytes, *, body: bool = True) -> Reply:
        """Send bytes, and read all that comes back."""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=20) as connection:
            connection.sendall(data)
            answer = b""
            while part := connection.recv(1 << 16):
                answer += part
        head, _, rest = answer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        if body and "content-length" in headers:
            assert len(rest) == int(headers["content-length"])
        return Reply(int(first.split()[1]), headers, rest)
