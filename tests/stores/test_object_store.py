"""What only an object store has: versions, conditions, folders, copies, and every kind of key."""

from __future__ import annotations

import functools
import operator
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.servers import Bucket, Proxy, Reset, Server
from tests.stores.objects import ask, output, put, python, raw, read, store_of

from tensorkeep import errors
from tensorkeep.store import Location
from tensorkeep.stores import locate
from tensorkeep.stores.object import ObjectStore

KEYS = (
    "plain.bin",
    "with space.bin",
    "a+b.bin",
    "100%.bin",
    "%41.bin",
    "sharp#.bin",
    "what?.bin",
    "quer?y=1&b=2.bin",
    "ünï/模型/\U0001d11e.bin",
    "back\\slash.bin",
    "of private use/\ue000",
    "quote'\".bin",
    "(a)[b]{c}<d>|^`~!$@=,;:*.bin",
    "..dots../.hidden/...bin",
    "k" * 200,
    "/".join(["deep"] * 30),
)


@pytest.fixture(params=["s3", "rclone_s3", "azure"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["s3", "azure"])
def careful(request: pytest.FixtureRequest) -> Server:
    """A server that knows conditions."""
    found: Server = request.getfixturevalue(request.param)
    return found


def test_keys_of_every_kind(server: Server) -> None:
    store = store_of(server.bucket(), "a b/c%20d", whole=not server.ranges)
    keys = list(KEYS)
    if server.kind == "az" or not server.ranges:  # Azure's and rclone's take it for a slash
        keys.remove("back\\slash.bin")
    for key in keys:
        store.put(key, [key.encode()], size=len(key.encode()))
    store.commit()
    assert sorted(store.keys()) == sorted(keys)
    for key in keys:
        assert read(store, key) == key.encode(), key
        assert sorted(store.keys(key)) == [key]
    for key in keys:
        store.delete(key)
    store.commit()
    assert list(store.keys()) == []


@pytest.mark.parametrize("key", ["", "/a", "a//b", "../a", "a/../b", "a/./b", "a\nb", "k" * 1025])
def test_keys_that_lead_elsewhere_are_refused(s3: Server, key: str) -> None:
    store = store_of(s3.bucket(), "run")
    for refused in (store.get, store.look, store.delete, lambda k: store.create(k, b"")):
        with pytest.raises((errors.UnsafeError, errors.ArgumentError)):
            refused(key)
    with pytest.raises((errors.UnsafeError, errors.ArgumentError)):
        store.put(key, [b"1"])
    store.rollback()


def test_a_store_sees_only_what_is_below_it(careful: Server) -> None:
    bucket = careful.bucket()
    whole = store_of(bucket)
    for key in ("run/a", "run/b/c", "run2/a", "runs", "other"):
        put(whole, key, key.encode())
    run = store_of(bucket, "run")
    assert sorted(run.keys()) == ["a", "b/c"]
    assert read(run, "a") == b"run/a"
    assert list(run.keys("b/")) == ["b/c"] == list(run.keys("b"))
    assert list(run.keys("x")) == []
    assert list(run.below("b").keys()) == ["c"]
    assert read(run.below("b"), "c") == b"run/b/c"
    assert sorted(whole.keys("run")) == ["run/a", "run/b/c", "run2/a", "runs"]
    assert run.folders() == ["b"]
    assert sorted(whole.folders()) == ["run", "run2"]
    assert whole.folders("run/") == ["b"]
    assert whole.folders("none/") == []


def test_entries_tell_versions_apart(careful: Server) -> None:
    store = store_of(careful.bucket(), "run")
    assert store.look("a") is None
    before = time.time()
    put(store, "a", b"first")
    first = store.look("a")
    assert first is not None
    assert (first.key, first.size) == ("a", 5)
    assert abs(first.modified - before) < 5
    put(store, "a", b"later")
    put(store, "b", b"")
    later, empty = store.entries()
    assert (later.key, later.size, empty.key, empty.size) == ("a", 5, "b", 0)
    assert later == store.look("a")
    assert later.etag != first.etag
    assert [entry.key for entry in store.entries("b")] == ["b"]


def test_an_object_is_replaced_only_as_it_was_seen(careful: Server) -> None:
    store = store_of(careful.bucket())
    assert not store.replace("a", b"x", etag='"0123"')  # there is none
    assert store.replace("a", b"first")
    seen = store.look("a")
    assert seen is not None
    assert store.replace("a", b"second", seen.etag)
    assert not store.replace("a", b"third", seen.etag)
    assert read(store, "a") == b"second"


def test_an_object_that_was_replaced_is_not_mixed_up(careful: Server) -> None:
    store = store_of(careful.bucket())
    old, new = b"old" * 300_000, b"new" * 300_000
    put(store, "a", old)
    source = store.get("a")
    assert source.remote
    assert bytes(source.read(0, 3)) == b"old"
    put(store, "a", new)
    with pytest.raises(errors.StoreError, match="was replaced"):
        source.read(600_000, 900_000)
    assert read(store, "a") == new


def test_a_copy_does_not_pass_through_here(careful: Server) -> None:
    bucket, data = careful.bucket(), bytes(range(256)) * 4000
    with Proxy(careful.port) as proxy:
        store = store_of(bucket.through(proxy), "run")
        put(store, "step 1/w.bin", data)
        proxy.forget()
        other = store_of(bucket.through(proxy), "elsewhere/ü")
        assert other.copy(store, "step 1/w.bin", "copied w.bin")
        assert proxy.sent() < 1000
        assert proxy.received() < 10_000
        assert read(other, "copied w.bin") == data == read(store, "step 1/w.bin")
        with pytest.raises(errors.MissingError):
            other.copy(store, "none", "b")


def test_between_buckets_nothing_is_copied(s3: Server, azure: Server) -> None:
    one = store_of(s3.bucket())
    put(one, "a", b"1")
    assert not store_of(azure.bucket()).copy(one, "a", "a")


def test_many_are_removed_at_once(careful: Server) -> None:
    store = store_of(careful.bucket(), "run")
    for number in range(12):
        store.put(f"a {number}%", [b"1"])
    store.commit()
    store.remove([*(f"a {number}%" for number in range(10)), "never was"])
    assert sorted(store.keys()) == ["a 10%", "a 11%"]
    store.remove([])


def test_listing_goes_on_past_a_thousand(rclone_s3: Server, tmp_path: Path) -> None:
    """Files that lie in the bucket's folder already: a server that answers a thousand at a time."""
    bucket = rclone_s3.bucket()
    folder = rclone_s3.folder(bucket)
    (folder / "many").mkdir()
    for number in range(2345):
        (folder / "many" / f"{number:05}.bin").write_bytes(b"1" * (number % 7))
    with Proxy(rclone_s3.port) as proxy:
        store = store_of(bucket.through(proxy), "many")
        keys = list(store.keys())
        assert sorted(keys) == [f"{number:05}.bin" for number in range(2345)]
        assert proxy.count() == 3
        entries = list(store.entries("01"))
        assert len(entries) == 1000
        assert [entry.size for entry in entries[:7]] == [(1000 + n) % 7 for n in range(7)]


def test_pages_follow_one_another(s3: Server) -> None:
    bucket = s3.bucket()
    for number in range(120):  # moto's is told to answer a hundred at a time
        ask(bucket, "PUT", f"/run/step-{number:03}/a", b"1")
    with Proxy(s3.port) as proxy:
        store = store_of(bucket.through(proxy), "run")
        assert len(list(store.keys())) == 120
        assert store.folders() == [f"step-{number:03}" for number in range(120)]
        assert 4 <= proxy.count("GET") <= 6
        proxy.forget()
        assert next(store.keys()) == "step-000/a"
        assert proxy.count("GET") <= 3  # of which the others are asked for ahead
        store.remove(store.keys())
        assert list(store.keys()) == []


def test_of_twenty_threads_one_creates(careful: Server) -> None:
    bucket = careful.bucket()
    stores = [store_of(bucket, "run") for _ in range(4)]
    for turn in range(5):
        with ThreadPoolExecutor(20) as pool:
            won = list(
                pool.map(lambda n, key=f"{turn}": stores[n % 4].create(key, b"%d" % n), range(20))
            )
        assert sum(won) == 1
        assert read(stores[0], f"{turn}") == b"%d" % won.index(True)


_CREATE = """
import sys, time
from tensorkeep.stores.object import ObjectStore
address, start, me = sys.argv[1], float(sys.argv[2]), sys.argv[3]
store = ObjectStore(address)
store.look("x")
time.sleep(max(0, start - time.time()))
print(*(key for key in range(25) if store.create(str(key), me.encode())))
"""


def test_of_two_processes_one_creates(s3: Server) -> None:
    bucket = s3.bucket()
    start = str(time.time() + 1.5)
    running = [python(_CREATE, bucket.url("r"), start, str(me), bucket=bucket) for me in range(2)]
    won = [output(process).split() for process in running]
    assert sorted(map(int, functools.reduce(operator.iadd, won, []))) == list(range(25))
    store = store_of(bucket, "r")
    for me, keys in enumerate(won):
        assert {read(store, key) for key in keys} <= {str(me).encode()}


@pytest.mark.parametrize("method", ["create", "replace"])
def test_who_did_it_knows_so_though_the_answer_is_lost(careful: Server, method: str) -> None:
    bucket = careful.bucket()
    with Proxy(careful.port) as proxy:
        store = store_of(bucket.through(proxy))
        rule = proxy.fail(Reset(after=True), on="PUT", most=1)
        if method == "create":
            assert store.create("a", b"mine")
        else:
            put(store_of(bucket), "a", b"old")
            seen = store.look("a")
            assert seen is not None
            assert store.replace("a", b"mine", seen.etag)
        assert rule.befell == 1
        assert read(store, "a") == b"mine"
        assert not store.create("a", b"another")


def test_a_server_that_takes_no_notice_of_conditions_is_found_out(rclone_s3: Server) -> None:
    """To go on would be to believe in a lock that is none."""
    store = store_of(rclone_s3.bucket(), whole=True)
    put(store, "there", b"old")
    assert not store.create("there", b"new")
    with pytest.raises(errors.StoreError, match="replaces an object where it was told not to"):
        store.create("a", b"1")
    there = store.look("there")
    assert there is not None
    with pytest.raises(errors.StoreError, match="replaces an object where it was told not to"):
        store.replace("there", b"new", there.etag)
    assert read(store, "there") == b"old"


def test_addresses_give_files_and_folders(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.bucket()
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    put(store_of(bucket), "run/a.npz", b"1")
    file = locate(bucket.url("run/a.npz"))
    assert (file.key, file.name, file.suffix) == ("a.npz", "a.npz", ".npz")
    assert isinstance(file.store, ObjectStore)
    assert file.where == bucket.url("run/a.npz")
    for url in (bucket.url("run"), bucket.url("run/")):
        folder = locate(url)
        assert folder.key == ""
        assert folder.where == bucket.url("run")
        assert list(folder.store.keys()) == ["a.npz"]
    new = locate(bucket.url("new"))
    assert new == Location(new.store, "new") or new.key == ""


def test_other_people_read_what_was_put(s3: Server) -> None:
    bucket = s3.bucket()
    put(store_of(bucket, "a b"), "ü+%.bin", b"bytes")
    assert raw(bucket, "a b/ü+%.bin") == b"bytes"


def test_a_store_can_be_pickled_and_forked(s3: Server) -> None:
    import pickle

    bucket: Bucket = s3.bucket()
    store = store_of(bucket, "run")
    put(store, "a", b"1")
    assert read(pickle.loads(pickle.dumps(store)), "a") == b"1"
