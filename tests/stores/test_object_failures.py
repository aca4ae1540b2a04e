"""What is wrong from the start: told in one line, with where, what and the cure."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from tests.servers import Answer, Bucket, FileServer, Proxy, Server
from tests.servers.process import free_port
from tests.stores.objects import put, read, store_of

import tensorkeep as tk
from tensorkeep import errors
from tensorkeep.stores.object import ObjectStore


def told(failed: pytest.ExceptionInfo[errors.TensorKeepError]) -> str:
    text = str(failed.value)
    assert "\n" not in text
    assert len(text) < 400
    assert "the-secret-of-the-tests" not in text
    return text


@pytest.fixture(params=["s3", "rclone_s3", "azure"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    server: Server = request.getfixturevalue(request.param)
    return server.bucket()


@pytest.fixture(params=["rclone_s3", "azure"])
def checking(request: pytest.FixtureRequest) -> Bucket:
    """A bucket of a server that checks signatures."""
    server: Server = request.getfixturevalue(request.param)
    return server.bucket()


def test_a_missing_key(bucket: Bucket) -> None:
    store = store_of(bucket, "run")
    with pytest.raises(errors.MissingError, match=f"{bucket.name}/run/a b: there is no such"):
        store.get("a b")
    assert store.look("a b") is None
    with pytest.raises(errors.MissingError) as failed:
        tk.open(tk.remote(bucket.url("none.npz"), **bucket.options))
    assert "none.npz" in told(failed)


def test_a_missing_bucket(bucket: Bucket) -> None:
    store = ObjectStore(f"{bucket.kind}://never-made/run", **bucket.options)
    with pytest.raises(errors.TensorKeepError, match="never-made") as failed:
        put(store, "a", b"1")
    told(failed)
    store.rollback()
    with pytest.raises(errors.MissingError) as missing:
        store.get("a")
    assert "never-made" in told(missing)


ACTS: dict[str, Callable[[ObjectStore], object]] = {
    "get": lambda store: store.get("a"),
    "put": lambda store: put(store, "a", b"1"),
    "list": lambda store: list(store.keys()),
    "look": lambda store: store.look("a"),
    "create": lambda store: store.create("a", b"1"),
}


@pytest.mark.parametrize("act", ACTS)
def test_a_wrong_secret(checking: Bucket, act: str) -> None:
    name = "account_key" if checking.kind == "az" else "secret_access_key"
    store = store_of(checking, **{name: "d3Jvbmc="})
    began = time.monotonic()
    with pytest.raises(errors.StoreError, match="access is refused") as failed:
        ACTS[act](store)
    assert time.monotonic() - began < 5
    assert "d3Jvbmc" not in told(failed)
    store.rollback()


def test_a_port_that_nothing_listens_on(s3: Server, azure: Server) -> None:
    class Closed:
        port = free_port()

    for server in (s3, azure):
        store = store_of(server.bucket().through(Closed()), patience=0.4)
        began = time.monotonic()
        with pytest.raises(errors.StoreError, match="refuses connections") as failed:
            store.get("a")
        assert f"127.0.0.1:{Closed.port}" in told(failed)
        with pytest.raises(errors.StoreError, match="refuses connections"):
            put(store, "a", b"1")
        with pytest.raises(errors.StoreError, match="refuses connections"):
            list(store.keys())
        store.rollback()
        assert time.monotonic() - began < 12


def test_a_host_that_is_not_known(s3: Server) -> None:
    store = store_of(s3.bucket(), endpoint="http://no-such-host.invalid:9", patience=1)
    began = time.monotonic()
    with pytest.raises(errors.StoreError, match=r"no-such-host\.invalid:9") as failed:
        store.get("a")
    told(failed)
    assert time.monotonic() - began < 12


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    began = time.monotonic()
    with pytest.raises(errors.StoreError, match="no credentials were found") as failed:
        ObjectStore("s3://bucket/run").get("a")
    assert "AWS_ACCESS_KEY_ID" in told(failed)
    assert time.monotonic() - began < 3


def test_a_server_without_parts_is_told(rclone_s3: Server, http: FileServer) -> None:
    bucket = rclone_s3.bucket()
    put(store_of(bucket), "a.npz", b"0123456789" * 100_000)
    http.files["a.npz"] = b"0123456789" * 100_000
    http.ranges = False
    for address, options in (
        (bucket.url("a.npz"), bucket.options),
        (http.url("a.npz"), {}),
    ):
        location = tk.remote(address, **options)
        with pytest.raises(errors.StoreError, match="sends the whole object") as failed:
            _ = location.source
        assert "whole=True" in told(failed)
        whole = tk.remote(address, **options, whole=True).source
        assert bytes(whole.read(5, 15)) == b"5678901234"
        whole.close()


def test_saving_over_http_is_refused(http: FileServer) -> None:
    with pytest.raises(errors.ArgumentError, match="cannot be written to") as failed:
        tk.save({"a": 1}, http.url("a.npz"))
    told(failed)
    http.files["there.npz"] = b"1"
    with pytest.raises(errors.TensorKeepError):
        tk.save({"a": 1}, http.url("there.npz"))
    assert http.files == {"there.npz": b"1"}


def test_a_login_in_an_url_is_not_shown(http: FileServer) -> None:
    url = f"http://ada:hunter2@127.0.0.1:{http.port}/none.npz?signature=hunter3"
    with pytest.raises(errors.MissingError) as failed:
        tk.open(url)
    assert "hunter" not in told(failed)


def test_what_an_upload_broke_is_said_once(s3: Server) -> None:
    bucket = s3.bucket()
    with Proxy(s3.port) as proxy:
        proxy.fail(Answer(507, b"<Error><Code>InsufficientStorage</Code></Error>"), on="PUT")
        where = tk.remote(bucket.url("a.npz"), **bucket.through(proxy).options, patience=1)
        with pytest.raises(errors.StoreError, match="507") as failed:
            tk.save({"a": 1}, where)
        told(failed)
    assert read(store_of(bucket), "a.npz") is None


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3:///a", "s4://bucket/a", "s3://key:secret@bucket/a", "http://", "s3://b/../a"],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises((errors.ArgumentError, errors.UnsafeError)) as failed:
        tk.open(url)
    assert "secret" not in told(failed)


def test_options_that_there_are_none_of(s3: Server) -> None:
    bucket = s3.bucket()
    with pytest.raises(errors.ArgumentError, match="regoin"):
        tk.open(tk.remote(bucket.url("a.npz"), **bucket.options, regoin="x"))
    with pytest.raises(errors.ArgumentError, match="patience"):
        tk.open(tk.remote(bucket.url("a.npz"), **bucket.options, patience=-1))
