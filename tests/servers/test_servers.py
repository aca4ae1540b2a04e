"""The servers of the tests themselves: they answer, and the proxy fails as it is told to."""

from __future__ import annotations

import socket
import sys
import time
import urllib.error
import urllib.request
from http.client import HTTPConnection, IncompleteRead

import obstore
import pytest
from obstore.store import AzureStore, ObjectStore, S3Store
from tests.servers import (
    Answer,
    Bucket,
    Cut,
    CutUpload,
    FileServer,
    Hang,
    Proxy,
    Reset,
    Server,
    Slow,
)
from tests.servers.process import free_port, running

DATA = bytes(range(256)) * 4096


def connect(bucket: Bucket, retries: int = 0) -> ObjectStore:
    once = {"max_retries": retries}
    if bucket.kind == "az":
        return AzureStore(
            bucket.name, **bucket.options, client_options={"allow_http": True}, retry_config=once
        )
    return S3Store(
        bucket.name, **bucket.options, client_options={"allow_http": True}, retry_config=once
    )


@pytest.mark.parametrize("name", ["s3", "rclone_s3", "azure"])
def test_every_server_keeps_objects(name: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(name)
    bucket, other = server.bucket(), server.bucket()
    with Proxy(server.port) as proxy:
        store = connect(bucket.through(proxy))
        obstore.put(store, "a/b c+%#?ü.bin", DATA)
        obstore.put(store, "large", iter([DATA] * 12), chunk_size=5 << 20)
        assert bytes(obstore.get(connect(bucket), "a/b c+%#?ü.bin").bytes()) == DATA
        assert bytes(obstore.get(store, "large").bytes()) == DATA * 12
        if server.ranges:
            part = obstore.get_range(store, "large", start=10, end=20)
            assert bytes(part) == DATA[10:20]
        listed = [row["path"] for batch in obstore.list(store) for row in batch]
        assert sorted(listed) == ["a/b c+%#?ü.bin", "large"]
        assert len(DATA) * 13 <= proxy.sent("PUT") < len(DATA) * 13 + 1000
        assert proxy.received("GET") > len(DATA) * 12
        with pytest.raises(FileNotFoundError):
            obstore.get(connect(other), "large")


def test_the_http_server(http: FileServer) -> None:
    http.files["a b.bin"] = DATA
    url = http.url("a b.bin")
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == DATA
        assert answer.headers["ETag"]
    part = urllib.request.Request(url, headers={"Range": "bytes=3-5"})
    with urllib.request.urlopen(part) as answer:
        assert answer.status == 206
        assert answer.read() == DATA[3:6]
    http.ranges = http.lengths = http.etags = False
    with urllib.request.urlopen(part) as answer:
        assert answer.status == 200
        assert answer.read() == DATA
        assert not answer.headers["ETag"]
    with pytest.raises(urllib.error.HTTPError, match="404") as missing:
        urllib.request.urlopen(http.url("none"))
    missing.value.close()
    assert http.seen[1] == ("GET", "a b.bin", "bytes=3-5")


def test_the_proxy_fails_as_told(http: FileServer) -> None:
    http.files["a"] = DATA

    def get() -> bytes:
        connection = HTTPConnection("127.0.0.1", proxy.port)
        try:
            connection.request("GET", "/a")
            return connection.getresponse().read()
        finally:
            connection.close()

    with Proxy(http.port) as proxy:
        assert get() == DATA
        proxy.fail(Reset(), only={0})
        with pytest.raises(ConnectionError):
            get()
        assert get() == DATA
        assert len(http.seen) == 2  # it was reset before the server saw it
        proxy.heal()
        proxy.fail(Reset(after=True), on="GET", most=1)
        with pytest.raises(ConnectionError):
            get()
        assert get() == DATA
        assert len(http.seen) == 4
        proxy.fail(Cut(1000), target="^/a$", only={0})
        with pytest.raises(IncompleteRead) as cut:
            get()
        assert cut.value.partial == DATA[:1000]
        proxy.fail(Answer(503, b"planned"), only={0})
        assert get() == b"planned"
        proxy.fail(Hang(0.1), only={0})
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            get()
        assert time.monotonic() - began >= 0.1
        proxy.fail(Slow(8 * len(DATA)), only={0})
        began = time.monotonic()
        assert get() == DATA
        assert time.monotonic() - began >= 0.1
    assert [seen.status for seen in proxy.seen] == [200, 0, 200, 0, 200, 200, 503, 0, 200]
    assert proxy.received("GET") == 4 * len(DATA) + 1000


def test_an_upload_that_is_cut_leaves_nothing(s3: Server) -> None:
    bucket = s3.bucket()
    with Proxy(s3.port) as proxy:
        proxy.fail(CutUpload(5000), on="PUT")
        with pytest.raises(obstore.exceptions.BaseError):
            obstore.put(connect(bucket.through(proxy)), "a", DATA, use_multipart=False)
        assert proxy.sent("PUT") == 5000
    with pytest.raises(FileNotFoundError):
        obstore.head(connect(bucket), "a")


def test_chance_comes_from_a_seed(http: FileServer) -> None:
    http.files["a"] = b"1"

    def statuses() -> list[int]:
        with Proxy(http.port) as proxy:
            proxy.fail(Answer(500), chance=0.5, seed=3)
            for _ in range(20):
                connection = HTTPConnection("127.0.0.1", proxy.port)
                connection.request("GET", "/a")
                connection.getresponse().read()
                connection.close()
            return [seen.status for seen in proxy.seen]

    first = statuses()
    assert first == statuses()
    assert 4 < first.count(500) < 16


def test_a_server_that_fails_shows_what_it_printed() -> None:
    script = "import sys; print('no such disk'); sys.exit(3)"
    with (
        pytest.raises(RuntimeError, match=r"status 3; it printed:\nno such disk"),
        running([sys.executable, "-c", script], free_port()),
    ):
        pass


def test_a_server_ends_with_its_block() -> None:
    port = free_port()
    serve = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    with running(serve, port) as process:
        assert process.poll() is None
    assert process.poll() is not None
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port))
