"""Objects as sources: what is asked for, what is given, and what happens when it goes wrong."""

from __future__ import annotations

import os
import random
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.servers import Cut, FileServer, Hang, Proxy, Slow

import tensorkeep as tk
from tensorkeep import checksum, errors
from tensorkeep.store import Location
from tensorkeep.stores.object import ObjectStore
from tensorkeep.stores.object.reading import RemoteSource

KIB, MIB = 1 << 10, 1 << 20
DATA = np.random.default_rng(1).integers(0, 256, 24 * MIB, np.uint8).tobytes()
FEW = {"patience": 4.0}


@pytest.fixture
def proxy(http: FileServer) -> Iterator[Proxy]:
    with Proxy(http.port) as proxy:
        yield proxy


def opened(proxy: Proxy, name: str = "data", **options: object) -> RemoteSource:
    source = ObjectStore(f"http://127.0.0.1:{proxy.port}", **{**FEW, **options}).get(name)
    assert isinstance(source, RemoteSource)
    return source


def fetching() -> list[str]:
    """List the threads that fetch ahead."""
    return [t.name for t in threading.enumerate() if t.name.startswith("tensorkeep-fetch")]


@pytest.mark.parametrize("size", [0, 1, 100, 256 * KIB - 1, 256 * KIB, 256 * KIB + 1, MIB])
def test_opening_is_one_request(http: FileServer, proxy: Proxy, size: int) -> None:
    http.files["data"] = DATA[:size]
    source = opened(proxy)
    assert source.size == size
    assert source.remote
    assert not source.mapped
    assert source.etag
    assert proxy.count() == (1 if size else 2)
    assert proxy.received("GET") <= 256 * KIB
    first = min(size, 256 * KIB)
    assert source.read(0, first) == DATA[:first]
    assert proxy.count() == (1 if size else 2)
    assert source.read(0, size) == DATA[:size]
    assert proxy.count() == (1 if 0 < size <= 256 * KIB else 2)


def test_any_range_by_threads(http: FileServer, proxy: Proxy) -> None:
    http.files["data"] = DATA
    source = opened(proxy)
    wrong: list[tuple[int, int]] = []

    def read(seed: int) -> None:
        dice = random.Random(seed)
        at = dice.randrange(len(DATA) // 2)
        for _ in range(40):
            size = dice.choice([0, 1, 100, 5000, 200_000, 700_000])
            if dice.random() < 0.5:
                at = dice.randrange(len(DATA))
            stop = min(at + size, len(DATA))
            buffer = bytearray(stop - at)
            source.readinto(at, memoryview(buffer))
            if not source.read(at, stop) == buffer == DATA[at:stop]:
                wrong.append((at, stop))
            at = stop

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    private = source.private(5, 300_000)
    private[:] = bytes(len(private))
    assert source.read(5, 300_000) == DATA[5:300_000]
    with pytest.raises(errors.CorruptError, match="were asked for"):
        source.read(0, len(DATA) + 1)


def test_small_reads_in_a_row_take_few_requests(http: FileServer, proxy: Proxy) -> None:
    http.files["data"] = DATA
    source = opened(proxy)
    for at in range(0, 2 * MIB, 1000):
        source.read(at, at + 1000)
    assert proxy.count() <= 5


def test_a_row_of_large_reads_is_fetched_ahead(http: FileServer, proxy: Proxy) -> None:
    http.files["data"] = DATA
    source = opened(proxy)
    for at in range(0, 16 * MIB, MIB):
        assert source.read(at, at + MIB) == DATA[at : at + MIB]
    assert fetching()
    assert proxy.received() <= len(DATA) + MIB
    source.close()  # with some of it under way
    deadline = time.monotonic() + 10
    while fetching() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not fetching()
    with pytest.raises(errors.ClosedError):
        source.read(0, 1)
    with pytest.raises(errors.ClosedError):
        source.readinto(9 * MIB, memoryview(bytearray(MIB)))


def test_a_long_header_is_no_beginning_of_a_row(http: FileServer, proxy: Proxy) -> None:
    http.files["data"] = DATA
    source = opened(proxy)
    source.read(0, 8)
    source.read(8, 3 * MIB)
    proxy.forget()
    assert source.read(3 * MIB + 100, 3 * MIB + 900) == DATA[3 * MIB + 100 : 3 * MIB + 900]
    time.sleep(0.05)  # what would be fetched ahead has begun
    first, last = 3 * MIB, 3 * MIB + 256 * KIB - 1
    assert [seen.headers["range"] for seen in proxy.seen] == [f"bytes={first}-{last}"]
    assert proxy.seen[0].headers["if-match"] == source.etag


def test_a_large_read_goes_by_several_requests(http: FileServer, proxy: Proxy) -> None:
    http.files["data"] = DATA
    source = opened(proxy)
    assert source.read(0, len(DATA)) == DATA
    assert 3 <= proxy.count() <= 5
    assert proxy.received() == len(DATA)


# --- states -----------------------------------------------------------------------------------


def saved(http: FileServer, folder: Path, state: object, name: str = "state.safetensors") -> bytes:
    path = folder / name
    tk.save(state, path)
    http.files[name] = path.read_bytes()
    return http.files[name]


def place(proxy: Proxy, name: str = "state.safetensors", **options: object) -> Location:
    return Location(ObjectStore(f"http://127.0.0.1:{proxy.port}", **{**FEW, **options}), name)


def test_the_bar_of_requests(http: FileServer, proxy: Proxy, tmp_path: Path) -> None:
    """A header longer than the first request is one more; so is each tensor and each slice."""
    few = {f"layer.{i}.weight": np.full((256, 1024), i, np.float32) for i in range(16)}
    many = {f"layer.{i}.weight": np.full(40, i, np.float32) for i in range(6000)}
    for state, requests in ((few, 1), (many, 2)):
        saved(http, tmp_path, state)
        proxy.forget()
        with tk.open(place(proxy)) as opened:
            assert proxy.count() == requests
            assert proxy.received() < MIB
            name = f"layer.{len(state) - 1}.weight"
            assert np.array_equal(opened[name].numpy(), state[name])
            assert proxy.count() <= requests + 1
            assert proxy.received() < requests * MIB + 2 * few["layer.0.weight"].nbytes


def test_load_merges_neighbours(http: FileServer, proxy: Proxy, tmp_path: Path) -> None:
    state = {f"w{i:03}": np.arange(i * 50, dtype=np.float32) for i in range(300)}
    state["large"] = np.arange(5_000_000, dtype=np.float32)
    size = len(saved(http, tmp_path, state))
    done: list[tuple[int, int]] = []
    proxy.forget()
    for verify in (False, True):
        loaded = tk.load(
            place(proxy), verify=verify, progress=lambda now, total: done.append((now, total))
        )
        assert loaded.keys() == state.keys()
        assert all(np.array_equal(loaded[name], state[name]) for name in state)
        assert all(array.flags.writeable and array.flags.aligned for array in loaded.values())
        assert done[-1][0] == done[-1][1] == sum(array.nbytes for array in state.values())
        assert [row[0] for row in done] == sorted(row[0] for row in done)
        done.clear()
    assert proxy.count() <= 2 * (size // (8 * MIB) + 3)
    assert proxy.received() < 2 * (size + MIB)


def test_damage_is_found(http: FileServer, proxy: Proxy, tmp_path: Path) -> None:
    data = bytearray(saved(http, tmp_path, {"a": np.zeros(9 * MIB, np.uint8), "b": np.ones(9)}))
    data[5 * MIB] ^= 1
    http.files["state.safetensors"] = bytes(data)
    with pytest.raises(errors.CorruptError, match="'a' is damaged"):
        tk.load(place(proxy), verify=True)
    found = tk.verify(place(proxy))
    assert [name for name, _ in found.damaged] == ["a"]
    assert found.checked == 2


def test_names_do_not_fetch_what_lies_between(
    http: FileServer, proxy: Proxy, tmp_path: Path
) -> None:
    state = {
        f"{i}.{kind}": np.full(n, i) for i in range(8) for kind, n in (("b", 9), ("w", 90_000))
    }
    saved(http, tmp_path, state)
    proxy.forget()
    loaded = tk.load(place(proxy), names="*.b")
    assert all(np.array_equal(array, state[name]) for name, array in loaded.items())
    assert proxy.received() < MIB


INDICES = [
    np.s_[3],
    np.s_[-1, 5],
    np.s_[2:4],
    np.s_[:, 7],
    np.s_[::3, 100:130],
    np.s_[::-2, 5:2],
    np.s_[5, ::-7],
    np.s_[:, 11:900:13],
]


@pytest.mark.parametrize("index", INDICES, ids=str)
@pytest.mark.parametrize("rows", [8, 300])
def test_slices(http: FileServer, proxy: Proxy, tmp_path: Path, index: Any, rows: int) -> None:
    values = np.arange(rows * 20_000, dtype=np.uint16).reshape(rows, 20_000)
    saved(http, tmp_path, {"w": values, "v": np.zeros(300_000)})
    with tk.open(place(proxy)) as state:
        proxy.forget()
        assert np.array_equal(state["w"][index], values[index])
        assert proxy.count() <= 4
        rows_wanted = 1 if isinstance(index, int) else rows
        assert proxy.received() <= rows_wanted * 40_000 + 600 * KIB


def test_hashing_streams(http: FileServer, proxy: Proxy, tmp_path: Path) -> None:
    state = {f"w{i}": np.full(MIB, i, np.uint8) for i in range(12)}
    saved(http, tmp_path, state)
    with tk.open(place(proxy)) as opened:
        found = checksum.digests(dict(list(opened.items())[::-1]))
        assert list(found) == list(opened)[::-1]
        assert found == {name: opened.digests[name] for name in opened}
    assert tk.diff(place(proxy), tmp_path / "state.safetensors").equal


def test_memory_stays_bounded(http: FileServer) -> None:
    http.files["data"] = bytes(160 * MIB)
    source = ObjectStore(http.url()).get("data")
    tracemalloc.start()
    try:
        for at in range(0, source.size, 4 * MIB):
            source.read(at, at + 4 * MIB)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        source.close()
    assert peak < 120 * MIB, peak


# --- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [Cut(0), Cut(1), Cut(100_000), Cut(900_000), Cut(700_000, reset=True)]
)
def test_a_body_that_breaks_off_is_gone_on_with(http: FileServer, proxy: Proxy, fault: Cut) -> None:
    http.files["data"] = DATA
    for etag in (True, False):
        http.etags = etag
        proxy.heal()
        proxy.fail(fault, on="GET", only={0, 1, 2, 4})
        source = opened(proxy)
        assert source.read(0, 5 * MIB) == DATA[: 5 * MIB]
        assert source.read(9 * MIB, 14 * MIB) == DATA[9 * MIB : 14 * MIB]


def test_one_that_always_breaks_off_is_an_error(http: FileServer, proxy: Proxy) -> None:
    http.files["data"] = DATA
    source = opened(proxy, patience=1.0)
    proxy.fail(Cut(1000), on="GET")
    started = time.monotonic()
    with pytest.raises(
        errors.StoreError, match=r"data: broke off after .* again and again"
    ) as info:
        source.read(4 * MIB, 6 * MIB)
    assert "\n" not in str(info.value)
    assert time.monotonic() - started < 20
    proxy.heal()
    proxy.fail(Hang(3.0), on="GET")
    with pytest.raises(errors.StoreError):
        source.read(4 * MIB, 6 * MIB)
    proxy.heal()
    assert source.read(4 * MIB, 6 * MIB) == DATA[4 * MIB : 6 * MIB]


@pytest.mark.parametrize("etags", [True, False])
def test_replaced_while_it_is_read(http: FileServer, proxy: Proxy, etags: bool) -> None:
    http.etags = etags
    http.files["data"] = DATA
    source = opened(proxy)
    assert source.read(3 * MIB, 4 * MIB) == DATA[3 * MIB : 4 * MIB]
    time.sleep(0 if etags else 1.1)  # what Last-Modified tells apart
    http.files["data"] = DATA[::-1][: len(DATA) - (0 if etags else 1)]
    for start, stop in ((5 * MIB, 5 * MIB + 9), (5 * MIB, 7 * MIB), (0, 20 * MIB)):
        with pytest.raises(errors.StoreError, match="was replaced"):
            source.read(start, stop)
    assert source.read(0, 1000) == DATA[:1000]
    del http.files["data"]
    with pytest.raises(errors.StoreError, match="was deleted since it was opened"):
        source.read(9 * MIB, 10 * MIB)


def test_a_name_that_looks_like_a_status(http: FileServer, proxy: Proxy) -> None:
    http.ranges = False
    http.files["model-416.npz"] = DATA[:MIB]
    with pytest.raises(errors.StoreError, match="sends the whole object"):
        opened(proxy, "model-416.npz")


def test_closed_while_another_thread_reads(http: FileServer, proxy: Proxy) -> None:
    http.files["data"] = DATA
    source = opened(proxy)
    proxy.fail(Slow(16 * MIB), on="GET")
    told: list[BaseException] = []

    def read() -> None:
        try:
            while True:
                source.read(0, len(DATA))
        except BaseException as error:
            told.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.1)
    source.close()
    thread.join(20)
    assert [type(error) for error in told] == [errors.ClosedError]


def test_missing(proxy: Proxy) -> None:
    with pytest.raises(errors.MissingError):
        opened(proxy, "nothing")


def test_a_fork_reads_on(http: FileServer, proxy: Proxy) -> None:
    http.files["data"] = DATA
    source = opened(proxy)
    source.read(0, 20 * MIB)
    child = os.fork()
    if not child:  # pragma: no cover
        try:
            good = source.read(MIB, 20 * MIB) == DATA[MIB : 20 * MIB]
            source.close()
            os._exit(0 if good else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert source.read(8 * MIB, 9 * MIB) == DATA[8 * MIB : 9 * MIB]


# --- whole ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 10, 3 * MIB])
def test_whole(http: FileServer, proxy: Proxy, size: int) -> None:
    http.ranges = False
    http.files["data"] = DATA[:size]
    if size:
        with pytest.raises(errors.StoreError, match="whole=True"):
            opened(proxy)
    proxy.forget()
    source = opened(proxy, whole=True)
    assert proxy.count() == 1
    assert source.mapped == (size > MIB)
    assert not source.remote
    assert source.read(0, size) == DATA[:size]
    private = source.private(0, size)
    private[:] = bytes(size)
    assert source.read(0, size) == DATA[:size]
    assert proxy.count() == 1
    source.close()
    with pytest.raises(errors.ClosedError):
        source.read(0, 0)


def test_whole_goes_on_after_a_break(http: FileServer, proxy: Proxy) -> None:
    http.ranges = False
    http.files["data"] = DATA
    proxy.fail(Cut(2 * MIB), on="GET", only={0})
    assert opened(proxy, whole=True).read(0, len(DATA)) == DATA
    proxy.fail(Cut(2 * MIB), on="GET")
    with pytest.raises(errors.StoreError, match="broke off"):
        opened(proxy, whole=True, patience=1.0)
