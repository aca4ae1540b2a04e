from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from tests.viewer.asking import Client
from tests.viewer.conftest import Serving

from tensorkeep.viewer.guard import Guard, Message, Receive, Scope, Send
from tensorkeep.viewer.server import serve

ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
    "x-frame-options": "DENY",
}


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with serve([{"w": np.zeros(3)}]) as server:
        yield Client(server)


def assert_secured(headers: dict[str, str]) -> None:
    assert {name: headers.get(name) for name in ALWAYS} == ALWAYS
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "access-control-allow-origin" not in headers
    assert "server" not in headers


@pytest.mark.parametrize("path", ["", "page.js", "style.css", "api/things", "api/no", "no.js"])
def test_all_answers_are_secured(client: Client, path: str) -> None:
    reply = client.get(client.base + path)
    assert reply.status == (404 if "no" in path else 200)
    assert_secured(reply.headers)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "//",
        "/api/things",
        "/wrong/",
        "/wrong/api/things",
        "/wrong/page.js",
        "/favicon.ico",
        "/index.html",
        "*",
    ],
)
def test_without_the_token_nothing_is_told(client: Client, path: str) -> None:
    reply = client.get(path or "/%20")
    assert reply.status == 404
    assert_secured(reply.headers)
    # It looks as an unknown address does to who has the token.
    known = client.get(f"{client.base}no-such-file.js")
    assert (reply.status, reply.body) == (known.status, known.body)
    without_date = {name: value for name, value in reply.headers.items() if name != "date"}
    assert without_date == {k: v for k, v in known.headers.items() if k != "date"}


def test_a_token_that_is_nearly_right_is_wrong(client: Client) -> None:
    token = client.base.strip("/")
    for near in (token[:-1], token + "a", token.swapcase(), quote(token[0]) + token, f".{token}"):
        assert client.get(f"/{near}/api/things").status == 404
    encoded = f"%{ord(token[0]):02x}{token[1:]}"  # the same once decoded; nobody has to write so
    assert client.get(f"/{encoded}/api/things").status == 404
    assert client.get(f"/{token}").status == 404  # without the slash there is no page
    assert client.get(f"//{token}/api/things").status == 404
    assert client.get(f"/{token}/../{token}/api/things").status == 404


HOSTS = [
    "evil.example",
    "evil.example:{port}",
    "127.0.0.1",
    "127.0.0.1:1",
    "127.0.0.1:{port}.evil.example",
    "127.0.0.1.:{port}",
    "localhost.:{port}",
    "user@127.0.0.1:{port}",
    "127.0.0.1:{port}@evil.example",
    "127.1:{port}",
    "2130706433:{port}",
    "0.0.0.0:{port}",
    "0:{port}",
    "[::]:{port}",
    "[::ffff:127.0.0.1]:{port}",
    "127.0.0.1.nip.io:{port}",
    "localhost.evil.example:{port}",
    "127.0.0.1:0{port}",
    "127.0.0.1:{port},127.0.0.1:{port}",
]


@pytest.mark.parametrize("host", HOSTS)
def test_a_name_that_was_made_to_point_here_is_refused(client: Client, host: str) -> None:
    given = host.format(port=client.server.port)
    reply = client.get(f"{client.base}api/things", host=given)
    assert reply.status == 403
    assert reply.json["problem"] == "the request was meant for another server"
    assert_secured(reply.headers)


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}"])
def test_the_names_of_this_machine_are_good(client: Client, host: str) -> None:
    given = host.format(port=client.server.port)
    assert client.get(f"{client.base}api/things", host=given).status == 200


def test_a_request_without_a_host_is_refused(client: Client) -> None:
    target = f"{client.base}api/things"
    assert client.get(target, host=None, version="1.0").status == 403
    assert client.get(target, host=None).status == 400
    twice = client.get(target, [("Host", client.host)])
    assert twice.status == 400
    # The address in the request line does not stand in for the header.
    whole = f"http://127.0.0.1:{client.server.port}{target}"
    assert client.get(whole, host="evil.example").status == 403


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "https://evil.example",
        "http://127.0.0.1:1",
        "http://127.0.0.1",
        "https://127.0.0.1:{port}",
        "http://localhost:{port}",  # another origin than the one that is asked
        "http://127.0.0.1:{port}.evil.example",
        "file://",
        "",
    ],
)
def test_another_origin_is_refused(client: Client, origin: str) -> None:
    given = {"Origin": origin.format(port=client.server.port)}
    reply = client.get(f"{client.base}api/things", given)
    assert reply.status == 403
    assert_secured(reply.headers)


def test_the_own_origin_is_good(client: Client) -> None:
    own = {"Origin": f"http://{client.host}", "Sec-Fetch-Site": "same-origin"}
    assert client.get(f"{client.base}api/things", own).status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "None", "none, none"])
def test_what_other_sites_send_is_refused(client: Client, site: str) -> None:
    for path in ("", "api/things", "page.js"):
        reply = client.get(client.base + path, {"Sec-Fetch-Site": site})
        assert reply.status == 403
        assert_secured(reply.headers)
    both = [("Sec-Fetch-Site", "none"), ("Sec-Fetch-Site", "cross-site")]
    assert client.get(client.base, both).status == 403


def test_a_notebook_may_show_the_page_and_nothing_else(serving: Serving) -> None:
    client = serving({"w": np.zeros(3)}, embed=True)
    frame = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe"}
    reply = client.get(client.base, frame)
    assert reply.status == 200
    assert "x-frame-options" not in reply.headers
    assert "frame-ancestors http://localhost:* " in reply.headers["content-security-policy"]
    for path in ("api/things", "page.js", "?x=1", "index.html"):
        assert client.get(client.base + path, frame).status == 403
    assert client.get("/wrong/", frame).status == 404
    for dest in ("document", "script", "image", "empty"):
        other = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": dest}
        assert client.get(client.base, other).status == 403
    assert client.get(client.base, {**frame, "Origin": "https://evil.example"}).status == 403
    assert client.get(client.base, frame, host="evil.example").status == 403


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"]
)
def test_nothing_is_sent_here(client: Client, method: str) -> None:
    preflight = {"Access-Control-Request-Method": "GET", "Content-Length": "0"}
    reply = client.get(f"{client.base}api/things", preflight, method=method)
    assert reply.status == 405
    assert reply.headers["allow"] == "GET, HEAD"
    assert_secured(reply.headers)


def test_head_gives_no_body(client: Client) -> None:
    reply = client.get(client.base, method="HEAD")
    assert (reply.status, reply.body) == (200, b"")
    assert int(reply.headers["content-length"]) > 100
    assert_secured(reply.headers)
    assert client.get(f"{client.base}no", method="HEAD").body == b""


def test_long_addresses_are_refused(client: Client) -> None:
    for target in (f"{client.base}{'a' * 8200}", f"{client.base}?{'a' * 8200}", "/" * 8200):
        reply = client.get(target)
        assert reply.status == 414
        assert_secured(reply.headers)
    assert client.get(f"{client.base}api/things?{'a' * 8000}").status == 400
    for size in (60_000, 1_000_000):
        # What is far too large is answered, or the line cut before all of it was read.
        with contextlib.suppress(ConnectionError):
            assert client.get(f"/{'a' * size}").status in (400, 414)
    assert client.api("things").status == 200


TRAVERSALS = [
    "../{file}",
    "..%2f{file}",
    "%2e%2e/{file}",
    "%2e%2e%2f{file}",
    "..%5c{file}",
    "..\\{file}",
    "....//{file}",
    "%252e%252e%252f{file}",
    "..%c0%af{file}",
    "..%00/{file}",
    "page.js/../{file}",
    "page.js%00.html",
    "./page.js",
    "page/page.js",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "file:///etc/passwd",
    "app.py",
    "__init__.py",
    ".hidden",
    "index.html",  # the page has one address
    "page.js/",
]


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_other_file_is_given(client: Client, path: str) -> None:
    for file in ("app.py", "../../../etc/passwd", "page/page.js"):
        for before in ("", "api/", "api/things/"):
            target = client.base + before + path.format(file=file)
            reply = client.get(target)
            assert reply.status == 404
            assert b"root:" not in reply.body


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the beginning of TLS
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n" * 20 + b"x" * 200 + b"\r\n\r\n",
    ],
)
def test_what_is_no_request_harms_nothing(client: Client, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", client.server.port), timeout=20) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
    assert answer == b"" or answer.split()[1] in (b"400", b"403", b"404", b"405")
    assert client.api("things").status == 200


def test_a_body_and_an_upgrade_are_not_looked_at(client: Client) -> None:
    smuggled = f"GET {client.base}api/things HTTP/1.1\r\nHost: {client.host}\r\n\r\n"
    reply = client.get(f"{client.base}api/things", {"Upgrade": "websocket"})
    assert reply.status == 200
    head = f"GET {client.base}api/no HTTP/1.1\r\nHost: {client.host}\r\nConnection: close\r\n"
    both = f"Content-Length: {len(smuggled)}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    data = (head + both + smuggled).encode()
    assert client.raw(data, body=False).body.count(b"HTTP/1.1") == 0


def test_a_ticket_is_good_once(client: Client) -> None:
    guard = client.server._guard
    ticket = guard.ticket()
    assert ticket not in client.server.url
    assert client.get(f"/{ticket}/api/things").status == 404
    assert client.get(f"/{ticket}/", host="evil.example").status == 403
    reply = client.get(f"/{ticket}/", {"Sec-Fetch-Site": "none"})
    assert (reply.status, reply.headers["location"]) == (303, client.base)
    assert_secured(reply.headers)
    assert client.get(f"/{ticket}/").status == 404


def test_a_ticket_runs_out(client: Client) -> None:
    guard = client.server._guard
    ticket = guard.ticket()
    guard._tickets[ticket.encode()] -= 61
    assert client.get(f"/{ticket}/").status == 404


def test_many_requests_at_once_are_all_answered(client: Client) -> None:
    with ThreadPoolExecutor(40) as pool:
        found = list(pool.map(lambda _: client.api("things/0/tensors").status, range(200)))
    assert set(found) == {200}


def test_more_requests_at_once_than_are_good_are_put_off() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await wait.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask(guard: Guard) -> int:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "http.request"}

        scope: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "raw_path": b"/token/api/things",
            "query_string": b"",
            "headers": [(b"host", b"127.0.0.1:80")],
        }
        await guard(scope, receive, send)
        return int(sent[0]["status"])

    async def flood() -> list[int]:
        guard = Guard(slow, "token", 80)
        asked = [asyncio.create_task(ask(guard)) for _ in range(100)]
        await asyncio.sleep(0)
        wait.set()
        return [*sorted(await asyncio.gather(*asked)), await ask(guard)]

    wait = asyncio.Event()
    with ThreadPoolExecutor(1) as other:  # a browser's tests keep a loop running in this thread
        statuses = other.submit(asyncio.run, flood()).result()
    assert statuses == [200] * 64 + [503] * 36 + [200]


def test_connections_that_say_nothing_keep_nobody_out(client: Client) -> None:
    idle = [
        socket.create_connection(("127.0.0.1", client.server.port), timeout=20) for _ in range(100)
    ]
    try:
        for connection in idle:
            connection.sendall(b"GET / HTTP/1.1\r\n")
        assert client.api("things").status == 200
    finally:
        for connection in idle:
            connection.close()
