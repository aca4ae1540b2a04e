"""Requests that fail: tried again with patience, and a clear error in good time if that is vain."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from tests.servers import (
    Answer,
    Bucket,
    Cut,
    CutUpload,
    Fault,
    FileServer,
    Hang,
    Proxy,
    Reset,
    Server,
    Slow,
)
from tests.stores.objects import MB, put, read, store_of, unfinished

import tensorkeep as tk
from tensorkeep import errors
from tensorkeep.stores.object import ObjectStore

LARGE = np.random.default_rng(0).bytes(9 * MB)  # which go in two parts

# What is asked of the store, by the request that it takes: a method, and what its target has.
Act = Callable[[ObjectStore], None]


def _put_small(store: ObjectStore) -> None:
    put(store, "new", b"new")
    assert read(store, "new") == b"new"


def _put_large(store: ObjectStore) -> None:
    store.put("new", [LARGE], size=len(LARGE))
    store.commit()
    entry = store.look("new")
    assert entry is not None
    assert entry.size == len(LARGE)


def _get(store: ObjectStore) -> None:
    source = store.get("large")
    assert source.read(0, source.size) == LARGE
    assert source.read(7 * MB, 7 * MB + 99) == LARGE[7 * MB : 7 * MB + 99]
    source.close()


def _list(store: ObjectStore) -> None:
    assert list(store.keys()) == ["large"]


def _look(store: ObjectStore) -> None:
    assert store.look("large") is not None


def _delete(store: ObjectStore) -> None:
    store.remove(["large"])
    assert store.look("large") is None


def _create(store: ObjectStore) -> None:
    assert store.create("mine", b"1")


def _copy(store: ObjectStore) -> None:
    assert store.copy(store, "large", "copied")
    entry = store.look("copied")
    assert entry is not None
    assert entry.size == len(LARGE)


ACTS: dict[str, tuple[Act, str, str]] = {
    "get": (_get, "GET", r"large$"),
    "put": (_put_small, "PUT", r"/new$"),
    "begin": (_put_large, "POST", r"\?uploads"),
    "part": (_put_large, "PUT", r"partNumber="),
    "complete": (_put_large, "POST", r"uploadId="),
    "list": (_list, "GET", r"list-type="),
    "look": (_look, "HEAD", r"large$"),
    "delete": (_delete, "POST", r"\?delete"),
    "create": (_create, "PUT", r"/mine$"),
    "copy": (_copy, "PUT", r"/copied$"),
}
FAULTS: dict[str, Fault] = {
    "500": Answer(500),
    "503": Answer(503, b"<Error><Code>SlowDown</Code></Error>"),
    "429": Answer(429),
    "reset": Reset(),
    "reset after": Reset(after=True),
    "cut": Cut(100),
    "cut at once": Cut(0, reset=True),
}
BODILESS = ("look", "put", "part", "create")  # what is answered to these has no body to cut
CASES = [
    (act, fault)
    for act in ACTS
    for fault in FAULTS
    if not (act in BODILESS and isinstance(FAULTS[fault], Cut))
    and (act in ("get", "put") or fault not in ("500", "429", "cut at once"))
]


@pytest.fixture(scope="module")
def stored(s3: Server) -> Bucket:
    bucket = s3.bucket()
    put(store_of(bucket), "large", LARGE)
    return bucket


@pytest.mark.parametrize(("act", "fault"), CASES)
def test_what_fails_once_is_tried_again(s3: Server, stored: Bucket, act: str, fault: str) -> None:
    do, method, target = ACTS[act]
    with Proxy(s3.port) as proxy:
        store = store_of(stored.through(proxy), patience=20)
        rule = proxy.fail(FAULTS[fault], on=method, target=target, only={0, 1})
        try:
            do(store)
            # A completion that was done is seen to be so, rather than asked for again.
            done = act == "complete" and isinstance(FAULTS[fault], Cut)
            assert rule.befell == (1 if done else 2)
        finally:
            proxy.heal()
            store.remove(["new", "mine", "copied"])
            if store.look("large") is None:
                put(store, "large", LARGE)


@pytest.mark.parametrize("after", [1, 7 * MB])
def test_a_part_that_breaks_off_is_sent_again(s3: Server, after: int) -> None:
    bucket = s3.bucket()
    with Proxy(s3.port) as proxy:
        rule = proxy.fail(CutUpload(after), on="PUT", target="partNumber=", only={0, 1})
        store = store_of(bucket.through(proxy))
        store.put("a", [LARGE], size=len(LARGE))
        store.commit()
        assert rule.befell == 2
    assert read(store_of(bucket), "a") == LARGE
    assert unfinished(bucket) == []


def test_a_body_that_breaks_off_goes_on_where_it_ended(s3: Server) -> None:
    bucket = s3.bucket()
    put(store_of(bucket), "large", LARGE)
    with Proxy(s3.port) as proxy:
        source = store_of(bucket.through(proxy)).get("large")
        proxy.forget()
        proxy.fail(Cut(4 * MB), on="GET", only={0})
        assert source.read(MB, 8 * MB) == LARGE[MB : 8 * MB]
        assert proxy.received("GET") < 8 * MB


def test_a_slow_server_is_waited_for(s3: Server) -> None:
    bucket = s3.bucket()
    data = LARGE[: 2 * MB]
    with Proxy(s3.port) as proxy:
        proxy.fail(Slow(4 * MB))
        store = store_of(bucket.through(proxy), patience=2)
        put(store, "a", data)
        assert read(store, "a") == data


def test_a_server_that_hangs_once_is_asked_again(s3: Server) -> None:
    bucket = s3.bucket()
    put(store_of(bucket), "a", b"1")
    with Proxy(s3.port) as proxy:
        proxy.fail(Hang(30), on="GET", only={0})
        began = time.monotonic()
        assert read(store_of(bucket.through(proxy), patience=2), "a") == b"1"
        assert time.monotonic() - began < 5


def test_random_faults_lose_nothing(s3: Server) -> None:
    bucket = s3.bucket()
    state = {f"w{n}": np.full((300, 1000), n, np.float32) for n in range(10)}  # 12 MB
    with Proxy(s3.port) as proxy:
        proxy.fail(Answer(503), on="GET PUT POST", chance=0.12, seed=1)
        proxy.fail(Reset(), on="GET PUT POST", chance=0.12, seed=2)
        proxy.fail(Reset(after=True), on="GET PUT", chance=0.12, seed=3)
        proxy.fail(Reset(after=True), on="POST", target="uploadId=", chance=0.3, seed=6)
        proxy.fail(Cut(1000), on="GET", chance=0.2, seed=4)
        proxy.fail(CutUpload(MB), on="PUT", chance=0.12, seed=5)
        behind = bucket.through(proxy)
        for step in range(3):
            where = tk.remote(bucket.url(f"step-{step}.safetensors"), **behind.options)
            tk.save(state, where)
            found = tk.load(where, verify=True)
            assert all(np.array_equal(found[name], state[name]) for name in state)
        assert sum(rule.befell for rule in proxy.rules) >= 8
    assert unfinished(bucket) == []


# --- what is vain ends -----------------------------------------------------------------------

VAIN: dict[str, tuple[Fault, str]] = {
    "503": (Answer(503, b"<Error><Code>SlowDown</Code></Error>"), "503"),
    "500": (Answer(500), "500"),
    "429": (Answer(429), "429"),
    "reset": (Reset(), "broke|cannot be reached|refuses"),
    "hang": (Hang(60), "did not answer in time"),
    "cut": (Cut(1), "broke"),
}
ENDLESS = [
    *((act, fault) for act in ("get", "put", "part", "list") for fault in ("503", "reset", "hang")),
    *(("get", fault) for fault in ("500", "429", "cut")),
    ("list", "cut"),
    ("create", "503"),
]


@pytest.mark.parametrize(("act", "fault"), ENDLESS)
def test_what_fails_for_ever_ends_in_an_error(
    s3: Server, stored: Bucket, act: str, fault: str
) -> None:
    do, method, target = ACTS[act]
    what, text = VAIN[fault]
    with Proxy(s3.port) as proxy:
        store = store_of(stored.through(proxy), patience=0.6)
        proxy.fail(what, on=method, target=target)
        began = time.monotonic()
        with pytest.raises(errors.StoreError, match=text) as failed:
            do(store)
        assert time.monotonic() - began < 8
        assert "\n" not in str(failed.value)
        assert failed.value.where.startswith("s3://bucket")
        proxy.heal()
        store.rollback()
        assert list(store.keys()) == ["large"]


def test_http_is_tried_again_too(http: FileServer) -> None:
    http.files["a.bin"] = LARGE
    with Proxy(http.port) as proxy:
        for fault in (Answer(503), Reset(), Cut(1000), Cut(1000, reset=True)):
            proxy.heal()
            rule = proxy.fail(fault, only={0, 1})
            store = ObjectStore(f"http://127.0.0.1:{proxy.port}")
            assert read(store, "a.bin") == LARGE
            assert rule.befell == 2
