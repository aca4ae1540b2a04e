"""Nothing of an upload is seen before it is complete, and nothing of it stays if it never is."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tests.servers import Bucket, Cut, CutUpload, Hang, Proxy, Server, Slow
from tests.stores.objects import MB, ask, output, put, python, raw, read, store_of, unfinished

import tensorkeep as tk
from tensorkeep import errors
from tensorkeep.store import Late
from tensorkeep.stores.object import ObjectStore

KEY = "run/model.safetensors"


class Watcher:
    """Reads a key again and again, in a thread, and keeps what it saw: whole objects only."""

    def __init__(self, bucket: Bucket, key: str) -> None:
        self.seen: set[bytes] = set()
        self.looks = 0
        self._bucket, self._key = bucket, key
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._end.is_set():
            self.seen.add(raw(self._bucket, self._key))
            self.looks += 1
            time.sleep(0.005)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def test_a_reader_sees_the_old_object_until_the_commit(s3: Server) -> None:
    bucket = s3.bucket()
    store = store_of(bucket, "run")
    old, new = b"old" * 1000, bytes(range(256)) * (20 * MB // 256)
    put(store, "a", old)
    with Watcher(bucket, "run/a") as watcher:
        store.put("a", [new[: 9 * MB], new[9 * MB :]], size=len(new))
        assert watcher.seen <= {old}
        assert next(iter(store.entries())).size == len(old)
        store.commit()
        looks = watcher.looks
        while watcher.looks < looks + 3:
            time.sleep(0.01)
    assert watcher.seen == {old, new}
    assert unfinished(bucket) == []


_SAVE = """
import sys, numpy as np, tensorkeep as tk
value = {"w": np.full(5 << 20, int(sys.argv[2]), np.float32), "step": int(sys.argv[2])}
print("saving", flush=True)
tk.save(value, sys.argv[1])
"""

# When the process is killed: once the server has seen so much of the 20 MB, or these requests.
INSTANTS: dict[str, Callable[[Proxy], bool]] = {
    "at the first request": lambda proxy: proxy.count("POST") + proxy.count("PUT") >= 1,
    "after 12 MB": lambda proxy: proxy.sent("PUT") >= 12 * MB,
    "before it is completed": lambda proxy: len(_completions(proxy)) >= 1,
}


def _completions(proxy: Proxy) -> list[Any]:
    return [seen for seen in proxy.requests("POST") if "uploadId=" in seen.target]


@pytest.mark.parametrize("instant", INSTANTS)
def test_a_killed_save_leaves_the_old_object(s3: Server, instant: str) -> None:
    bucket = s3.bucket()
    old = {"w": np.zeros(1000, np.float32), "step": 1}
    tk.save(old, tk.remote(bucket.url(KEY), **bucket.options))
    before = raw(bucket, KEY)
    with Proxy(s3.port) as proxy, Watcher(bucket, KEY) as watcher:
        proxy.fail(Slow(40 * MB), on="PUT")
        proxy.fail(Hang(60), on="POST", target="uploadId=")
        process = python(_SAVE, bucket.url(KEY), "2", bucket=bucket.through(proxy))
        while not INSTANTS[instant](proxy):
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        looks = watcher.looks
        while watcher.looks < looks + 3:
            time.sleep(0.01)
    assert watcher.seen == {before}
    found = tk.load(tk.remote(bucket.url(KEY), **bucket.options))
    assert found["step"] == 1
    tk.save({"step": 3}, tk.remote(bucket.url(KEY), **bucket.options))  # nothing is in the way
    assert tk.load(tk.remote(bucket.url(KEY), **bucket.options)) == {"step": 3}


def test_a_save_killed_after_its_completion_is_whole(s3: Server) -> None:
    bucket = s3.bucket()
    with Proxy(s3.port) as proxy:
        proxy.fail(Cut(0), on="POST", target="uploadId=")
        process = python(_SAVE, bucket.url(KEY), "2", bucket=bucket.through(proxy))
        while not any(seen.status == 200 for seen in _completions(proxy)):
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    found = tk.load(tk.remote(bucket.url(KEY), **bucket.options))
    assert found["step"] == 2
    assert np.array_equal(found["w"], np.full(5 << 20, 2, np.float32))


class _PlannedError(Exception):
    pass


def _large(fail_after: int) -> Iterator[bytes | Late]:
    for number in range(20):
        if number == fail_after:
            raise _PlannedError
        yield bytes([number]) * MB


def _put_large(store: ObjectStore) -> None:
    store.put("a", _large(99), size=20 * MB)
    store.commit()


@pytest.mark.parametrize("fail_after", [0, 9, 18])
def test_chunks_that_fail_leave_nothing(s3: Server, fail_after: int) -> None:
    bucket = s3.bucket()
    store = store_of(bucket)
    with pytest.raises(_PlannedError):
        store.put("a", _large(fail_after), size=20 * MB)
    assert unfinished(bucket) == []
    store.commit()
    assert list(store.keys()) == []


@pytest.mark.parametrize("end", ["rollback", "close", "again", "delete"])
def test_what_is_not_committed_leaves_nothing(s3: Server, end: str) -> None:
    bucket = s3.bucket()
    store = store_of(bucket)
    store.put("a", _large(99), size=20 * MB)
    while unfinished(bucket) != ["a"]:  # it begins in a thread
        time.sleep(0.01)
    if end == "again":
        store.put("a", [b"small"])
        store.commit()
        assert read(store, "a") == b"small"
    elif end == "delete":
        store.delete("a")
        store.commit()
        assert read(store, "a") is None
    else:
        getattr(store, end)()
        assert list(store.keys()) == []
    assert unfinished(bucket) == []


def test_a_wrong_size_is_refused(s3: Server) -> None:
    bucket = s3.bucket()
    store = store_of(bucket)
    for size in (19 * MB, 21 * MB):
        with pytest.raises(errors.StoreError, match="bytes came, not"):
            store.put("a", _large(99), size=size)
    assert unfinished(bucket) == []
    assert list(store.keys()) == []


def test_an_upload_that_fails_for_good_leaves_nothing(s3: Server) -> None:
    """The server takes no part any more, but the abort still gets through."""
    bucket = s3.bucket()
    with Proxy(s3.port) as proxy:
        proxy.fail(CutUpload(MB), on="PUT", target="partNumber=[23]&")
        store = store_of(bucket.through(proxy), patience=1)
        with pytest.raises(errors.StoreError):
            _put_large(store)
        proxy.heal()
        store.rollback()
        assert unfinished(bucket) == []
        assert list(store.keys()) == []


def test_a_save_that_fails_leaves_the_old_state(s3: Server) -> None:
    bucket = s3.bucket()
    tk.save({"w": np.zeros(9)}, tk.remote(bucket.url("a.npz"), **bucket.options))
    before = raw(bucket, "a.npz")

    lazy = tk.State({"w": _failing_tensor()})
    with pytest.raises(errors.CorruptError):
        tk.save(lazy, tk.remote(bucket.url("a.npz"), **bucket.options))
    assert raw(bucket, "a.npz") == before
    assert unfinished(bucket) == []


def _failing_tensor() -> Any:
    """A tensor of 16 MB whose bytes turn out to be damaged in the middle of a save."""
    from tensorkeep import dtypes
    from tensorkeep.source import Source
    from tensorkeep.tensor import Tensor

    class Damaged(Source):
        def __init__(self) -> None:
            super().__init__(32 * MB, "damaged")

        def _read(self, start: int, stop: int) -> memoryview:
            if stop > 16 * MB:
                raise errors.CorruptError("is damaged here", where=self.where)
            return memoryview(bytes(stop - start))

    return Tensor(dtypes.dtype("float32"), (8 * MB,), Damaged(), 0, 32 * MB)


_MEASURE = """
import resource, sys, numpy as np, tensorkeep as tk
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
value = {f"w{n}": np.full(4 << 20, n, np.float32) for n in range(8)}
where = tk.remote(sys.argv[1], concurrency=2)
tk.save({"w": value["w0"][:9]}, where)
before = peak()
tk.save(value, where)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts kilobytes as Linux does")
def test_saving_128_mb_takes_little_memory(s3: Server) -> None:
    bucket = s3.bucket()
    grown = int(output(python(_MEASURE, bucket.url(KEY), bucket=bucket)))
    assert grown < 90_000  # kB: some parts of 8 MB on their way
    entry = store_of(bucket).look(KEY)
    assert entry is not None
    assert entry.size > 128 * MB
    ask(bucket, "DELETE", f"/{KEY}")
