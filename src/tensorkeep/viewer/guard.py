"""What stands in front of the server: only the page that was opened is answered.

Anything on this machine can reach a port of it, and so can any web page in the user's browser. So a
request is answered only where its address begins with a token that nobody else knows, where its
Host is this server (a name that was made to point here is refused), and where the browser does not
say that another site sends it. Every answer tells the browser to run, frame and keep nothing more
than the page needs.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tensorkeep.viewer.answers import Problem
from tensorkeep.viewer.encoding import to_json

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
Fields = dict[bytes, list[bytes]]

NOTHING = "there is nothing here"
GIVEN = "Open the address that was given."

_TUNNEL = "Use the address that was given; a tunnel needs the same port at both ends."
_PASTED = "Paste the address into the browser: links of other sites do not lead here."
_MOST_ADDRESS = 8192  # bytes
_MOST_AT_ONCE = 64
_TICKET = 60.0  # seconds that one is good for
_OPENED_BY_ITSELF = (b"same-origin", b"none")
_FRAMES = "http://localhost:* http://127.0.0.1:* https://localhost:* https://127.0.0.1:*"
_PLAIN = re.compile(rb"[!-~]*")


class Guard:
    """An ASGI application that lets the one behind it see only requests that are in order.

    Args:
        app: what answers; it sees addresses without the token.
        token: what an address has to begin with.
        port: of the server.
        embed: other pages of this machine, a notebook's, may show the page in a frame.
    """

    def __init__(self, app: App, token: str, port: int, *, embed: bool = False) -> None:
        self._app = app
        self._token = token.encode()
        names = (b"127.0.0.1", b"localhost", b"[::1]")
        self._hosts = frozenset(b"%b:%d" % (name, port) for name in names)
        self._embed = embed
        self._open = 0
        self._headers = _headers(embed)
        self._tickets: dict[bytes, float] = {}

    def ticket(self) -> str:
        """Give what stands in for the token once, and only for a minute.

        A browser is told its address on a command line, which all users of the machine can read.
        """
        ticket = secrets.token_urlsafe(24)
        self._tickets[ticket.encode()] = time.monotonic() + _TICKET
        return ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if self._open >= _MOST_AT_ONCE:
            await self._refuse(send, 503, "too many requests at once", "Wait a little.")
            return
        self._open += 1
        try:
            await self._answer(scope, receive, send)
        finally:
            self._open -= 1

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, query = scope.get("raw_path") or b"", scope["query_string"]
        if len(path) + len(query) > _MOST_ADDRESS:
            await self._refuse(send, 414, "the address is too long")
            return
        if scope["method"] not in ("GET", "HEAD"):
            await self._refuse(send, 405, "this server only shows")
            return
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value.strip())
        if not self._is_here(headers):
            await self._refuse(send, 403, "the request was meant for another server", _TUNNEL)
            return
        if not self._is_own(scope, headers):
            await self._refuse(send, 403, "the request came from another site", _PASTED)
            return
        given, slash, rest = path.removeprefix(b"/").partition(b"/")
        known = hmac.compare_digest(given, self._token)
        if slash and not rest and self._takes(given):
            await self._lead(send)
            return
        if not (known and path.startswith(b"/") and slash and _PLAIN.fullmatch(rest)):
            await self._refuse(send, 404, NOTHING, GIVEN)
            return
        inner = dict(scope)
        inner["raw_path"] = b"/" + rest
        inner["path"] = inner["raw_path"].decode("ascii")
        await self._app(inner, receive, self._with_headers(send))

    def _takes(self, given: bytes) -> bool:
        """Whether this is a ticket that is still good; it is not any more then."""
        fitting = [ticket for ticket in list(self._tickets) if hmac.compare_digest(ticket, given)]
        return any(self._tickets.pop(ticket) > time.monotonic() for ticket in fitting)

    async def _lead(self, send: Send) -> None:
        headers = [(b"location", b"/%b/" % self._token), (b"content-length", b"0"), *self._headers]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    def _is_here(self, headers: Fields) -> bool:
        """Whether the request was sent to this server by its name."""
        hosts = headers.get(b"host", [])
        return len(hosts) == 1 and hosts[0].lower() in self._hosts

    def _is_own(self, scope: Scope, headers: Fields) -> bool:
        """Whether the user sent the request, or the page of this server did."""
        own = b"http://" + headers[b"host"][0]
        if any(origin != own for origin in headers.get(b"origin", [])):
            return False
        sites = headers.get(b"sec-fetch-site", [])
        return all(site in _OPENED_BY_ITSELF for site in sites) or (
            self._embed and _is_frame(scope, headers)
        )

    def _with_headers(self, send: Send) -> Send:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in self._headers}
                kept = [pair for pair in message.get("headers", ()) if pair[0].lower() not in own]
                message = {**message, "headers": [*kept, *self._headers]}
            await send(message)

        return guarded

    async def _refuse(self, send: Send, status: int, problem: str, cure: str = "") -> None:
        body = to_json(Problem(problem, cure))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *([(b"allow", b"GET, HEAD")] if status == 405 else []),
            *([(b"retry-after", b"1")] if status == 503 else []),
            *self._headers,
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _is_frame(scope: Scope, headers: Fields) -> bool:
    """Whether a page of another site shows this one in a frame, and asks for nothing but it."""
    path = scope.get("raw_path") or b""
    frame = headers.get(b"sec-fetch-dest") == [b"iframe"]
    return frame and path.count(b"/") == 2 and path.endswith(b"/") and not scope["query_string"]


def _headers(embed: bool) -> Headers:
    ancestors = _FRAMES if embed else "'none'"
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "worker-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
        f"frame-ancestors {ancestors}"
    )
    headers = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "cache-control": "no-store",
        "permissions-policy": "camera=(), microphone=(), geolocation=()",
    }
    if not embed:
        headers["x-frame-options"] = "DENY"
    return [(name.encode(), value.encode()) for name, value in headers.items()]
