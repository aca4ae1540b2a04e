"""Uploads: in parts and at once, held back and in order, with flat memory, visible at commit."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from tests.servers.buckets import Bucket, Server
from tests.servers.faults import Answer, Slow
from tests.servers.proxy import Proxy

import tensorkeep as tk
from tensorkeep import errors
from tensorkeep.store import Chunk, Late
from tensorkeep.stores.object import ObjectStore, uploading
from tensorkeep.stores.object.uploading import PART, Spool, part_size

MB = 1 << 20


def store_of(bucket: Bucket, **options: object) -> ObjectStore:
    return ObjectStore(bucket.url("run"), **{**bucket.options, "patience": 3, **options})


def put_and_commit(store: ObjectStore, key: str, chunks: Iterator[Chunk]) -> None:
    store.put(key, chunks)
    store.commit()


def contents(store: ObjectStore, key: str) -> bytes:
    source = store.get(key)
    return bytes(source.read(0, source.size))


def pattern(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


@pytest.mark.parametrize(
    ("size", "known"),
    [*((size, True) for size in (0, 1, PART, PART + 1, 2 * PART)), (0, False), (9, False)],
)
def test_every_size(s3: Server, size: int, known: bool) -> None:
    data, bucket = pattern(size), s3.bucket()
    store = store_of(bucket)
    pieces = (data[at : at + 3_000_001] for at in range(0, size, 3_000_001))
    store.put("a", pieces, size=size if known else None)
    assert store.look("a") is None
    store.commit()
    assert contents(store, "a") == data


def test_small_ones_are_one_request_and_large_ones_leave_at_once(s3: Server) -> None:
    bucket = s3.bucket()
    with Proxy(s3.port) as proxy:
        store = store_of(bucket.through(proxy))
        store.put("small", [bytes(PART)])
        assert proxy.count() == 0
        store.put("large", (bytes(MB) for _ in range(40)), size=40 * MB)
        assert "uploads" in proxy.requests("POST")[0].target
        assert list(store.keys()) == []
        store.commit()
        assert [r.target for r in proxy.requests("PUT")].count(f"/{bucket.name}/run/small") == 1
        assert proxy.count("PUT") == 1 + 5
    assert list(store_of(bucket).keys()) == ["large", "small"]


def test_memory_of_a_producer_may_be_used_again(s3: Server) -> None:
    store = store_of(s3.bucket())
    buffer = bytearray(MB)

    def chunks() -> Iterator[Chunk]:
        for number in range(30):
            buffer[:] = bytes([number]) * MB
            yield memoryview(buffer)

    store.put("a", chunks())
    store.commit()
    data = contents(store, "a")
    assert [data[at] for at in range(0, 30 * MB, MB)] == list(range(30))


def test_late_chunks_keep_back_the_rest(s3: Server) -> None:
    store = store_of(s3.bucket())
    seen: list[int] = []

    def chunks(count: int) -> Iterator[Chunk | Late]:
        yield b"first "
        yield Late(4, lambda: b"%04d" % len(seen))
        for number in range(count):
            seen.append(number)
            yield bytes([number]) * MB
        yield Late(3, lambda: b"end")

    for count in (1, 30):  # held in memory, and in a file
        seen.clear()
        store.put("a", chunks(count), size=13 + count * MB)
        store.commit()
        data = contents(store, "a")
        assert (data[:10], data[-3:]) == (b"first %04d" % count, b"end")
        assert [data[10 + at] for at in range(0, count * MB, MB)] == list(range(count))
    with pytest.raises(errors.StoreError, match="a part of 3 bytes has 1"):
        store.put("b", [Late(3, lambda: b"1")])
    with pytest.raises(errors.StoreError, match="run/b: 3 bytes came, not 4"):
        store.put("b", [b"123"], size=4)


def test_memory_is_flat(s3: Server) -> None:
    store = store_of(s3.bucket(), concurrency=2)
    piece = bytes(MB)
    tracemalloc.start()
    try:
        store.put("a", (piece for _ in range(80)), size=80 * MB)
        store.commit()
        assert tracemalloc.get_traced_memory()[1] < 64 * MB
    finally:
        tracemalloc.stop()


def test_many_held_objects_go_to_a_file(s3: Server) -> None:
    store = store_of(s3.bucket())
    piece = bytes(MB)
    tracemalloc.start()
    try:
        for number in range(60):
            store.put(f"{number:02}", [piece])
        assert tracemalloc.get_traced_memory()[1] < 40 * MB
    finally:
        tracemalloc.stop()
    store.rollback()
    assert list(store.keys()) == []


def test_a_store_that_is_dropped_gives_up_its_uploads(s3: Server) -> None:
    bucket = s3.bucket()
    with Proxy(s3.port) as proxy:
        store = store_of(bucket.through(proxy))
        store.put("dropped", [bytes(20 * MB)])
        del store
        for thread in threading.enumerate():
            if thread.name == "upload of run/dropped":
                thread.join(20)
        assert proxy.count("DELETE") == 1


def test_what_fails_for_good_is_told_and_leaves_nothing(s3: Server) -> None:
    bucket = s3.bucket()
    with Proxy(s3.port) as proxy:
        rule = proxy.fail(Answer(500), on="PUT", target="partNumber=1")
        store = store_of(bucket.through(proxy), patience=0.5)
        with pytest.raises(errors.StoreError, match=r"run/a: the server fails \(500 .*tried \d+ t"):
            put_and_commit(store, "a", (bytes(MB) for _ in range(40)))
        assert rule.befell
        assert proxy.count("DELETE") == 1
        proxy.heal()
        store.put("a", [b"1"])
        proxy.fail(Answer(500), on="PUT", target="/b$")
        store.put("b", [b"1"])
        with pytest.raises(errors.StoreError, match="Some of it may have been replaced already"):
            store.commit()
    assert list(store_of(bucket).keys()) == ["a"]


@pytest.mark.parametrize("status", [500, 403, 404])
def test_one_that_cannot_be_looked_at_afterwards_is_told(s3: Server, status: int) -> None:
    with Proxy(s3.port) as proxy:
        store = store_of(s3.bucket().through(proxy), patience=0.5)
        proxy.fail(Answer(status), on="HEAD")
        store.put("a", [bytes(9 * MB)], size=9 * MB)
        with pytest.raises(errors.TensorKeepError, match=r"s3://bucket.*/run/a: ") as failed:
            store.commit()
        assert "\n" not in str(failed.value)


def test_a_slow_line_is_given_time(s3: Server) -> None:
    """Eight parts at a time take longer than a small request may."""
    data, bucket = pattern(10 * MB), s3.bucket()
    with Proxy(s3.port) as proxy:
        proxy.fail(Slow(8 * MB), on="PUT")
        store = store_of(bucket.through(proxy), patience=1.5)
        store.put("in parts", [data], size=len(data))
        store.put("at once", [data[: 7 * MB]])
        store.commit()
    assert contents(store_of(bucket), "in parts") == data
    assert contents(store_of(bucket), "at once") == data[: 7 * MB]


def test_a_draft_replaces_all_that_lies_below(s3: Server) -> None:
    bucket = s3.bucket()

    def location(key: str) -> tk.Location:
        return tk.remote(bucket.url(key), **bucket.options)

    tk.save({"a": np.ones(3), "b": np.arange(5)}, location("m.zarr"))
    tk.save({"a": np.zeros(3)}, location("m.zarr"))
    tk.save({"z": np.zeros(3)}, location("m.zarrs.npz"))
    keys = list(ObjectStore(bucket.url(), **bucket.options).keys())
    assert keys == ["m.zarr/a/c/0", "m.zarr/a/zarr.json", "m.zarr/zarr.json", "m.zarrs.npz"]
    assert tk.load(location("m.zarr"))["a"].sum() == 0
    draft = ObjectStore(bucket.url(), **bucket.options).draft("m.zarr")
    with pytest.raises(errors.UnsafeError, match="leads out of the folder"):
        draft.put("other", [b""])


def test_a_safetensors_file_leaves_in_order(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.bucket()
    location = tk.remote(bucket.url("w.safetensors"), **bucket.options)
    state = {"w": np.arange(5 * MB, dtype="f4"), "v": np.ones(3)}
    with monkeypatch.context() as nothing_waits:
        nothing_waits.setattr(Spool, "append", _only_small)
        tk.save(state, location)
    assert tk.load(location, verify=True)["w"][-1] == 5 * MB - 1
    tk.convert(location, tk.remote(bucket.url("again.safetensors"), **bucket.options))
    assert tk.verify(tk.remote(bucket.url("again.safetensors"), **bucket.options)).checked == 2


_append = Spool.append


def _only_small(spool: Spool, data: object) -> tuple[int, int]:
    assert memoryview(data).nbytes <= PART  # type: ignore[arg-type]
    return _append(spool, data)


def test_what_changes_while_it_is_saved_is_told(
    s3: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3.bucket()
    weights = np.zeros(20 * MB, "u1")
    write = uploading.Upload._write

    def change(upload: uploading.Upload, view: memoryview) -> None:
        weights[-1] += 1
        write(upload, view)

    monkeypatch.setattr(uploading.Upload, "_write", change)
    location = tk.remote(bucket.url("w.safetensors"), **bucket.options)
    with pytest.raises(errors.CorruptError, match="the tensor 'w' changed while it was saved"):
        tk.save({"w": weights}, location)
    assert list(location.store.keys()) == []


def test_parts_are_few_enough() -> None:
    for size in (1, 10**9, 10**11, 5 * 10**12):
        part = part_size(size, "")
        assert part >= PART
        assert size / part <= 10_000
    with pytest.raises(errors.UnsupportedError, match="Save it in shards, by max_shard_size"):
        part_size(6 * 10**12, "a")
