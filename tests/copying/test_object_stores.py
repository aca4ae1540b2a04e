"""Copies to, from and between object stores, against real servers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.copying.runs import (
    CutShort,
    cut_after,
    files_of,
    leftovers,
    make_run,
    objects_of,
    small_pieces,
)
from tests.servers.buckets import Bucket, Server
from tests.servers.faults import Answer, Cut
from tests.servers.files import FileServer
from tests.servers.proxy import Proxy

import tensorkeep as tk
from tensorkeep.copying import objects
from tensorkeep.errors import ArgumentError, CorruptError, MissingError, StoreError
from tensorkeep.stores import locate
from tensorkeep.stores.object import ObjectStore


@pytest.fixture
def bucket(s3: Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    return _enter(s3.bucket(), monkeypatch)


def _enter(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    return bucket


@pytest.fixture
def proxy(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """What stands in front of the bucket, as the environment says from now on."""
    with Proxy(bucket.port) as proxy:
        _enter(bucket.through(proxy), monkeypatch)
        yield proxy


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "run"
    make_run(path)
    return path


def _store(url: str) -> ObjectStore:
    store = locate(url.rstrip("/") + "/").store
    assert isinstance(store, ObjectStore)
    return store


def _damage(url: str, key: str) -> None:
    store = _store(url)
    source = store.get(key)
    data = bytearray(source.read(0, source.size))
    data[-1] ^= 1
    store.put(key, [bytes(data)])
    store.commit()


def test_a_run_there_and_back(bucket: Bucket, run: Path, tmp_path: Path) -> None:
    there = tk.copy(run, bucket.url("backup"))
    assert objects_of(bucket.url("backup")) == files_of(run)
    assert there.shared > 2 * 400_000  # the frozen shard goes up once
    again = tk.copy(run, bucket.url("backup"))
    assert (again.transferred, again.skipped) == (0, there.size)
    back = tk.copy(bucket.url("backup"), tmp_path / "back")
    assert files_of(tmp_path / "back") == files_of(run)
    assert back.shared == there.shared
    assert tk.copy(bucket.url("backup"), tmp_path / "back").transferred == 0
    for step in (1, 3):
        assert tk.verify(bucket.url(f"backup/step-{step:08}")).unchecked == []
        assert tk.verify(tmp_path / f"back/step-{step:08}").ok


def test_what_a_checkpointer_saved_there(bucket: Bucket, tmp_path: Path) -> None:
    make_run(bucket.url("saved"), (1, 2))
    tk.copy(bucket.url("saved"), tmp_path / "back")
    assert files_of(tmp_path / "back") == objects_of(bucket.url("saved"))
    assert tk.verify(tmp_path / "back/step-2").ok
    found: dict[str, Any] = {"model": {"w": np.zeros(100_000, np.float32), "frozen": None}}
    with tk.Checkpointer(tmp_path / "back") as ck:
        ck.restore(found, partial=True)
        ck.save(3, found)
    assert found["model"]["w"].any()
    tk.copy(tmp_path / "back", bucket.url("saved"))
    assert tk.verify(bucket.url("saved/step-00000003")).ok


def test_files(bucket: Bucket, tmp_path: Path, http: FileServer) -> None:
    path = tmp_path / "m.safetensors"
    tk.save({"w": np.arange(50_000), "b": np.arange(50_000) + 1}, path, max_shard_size="400kB")
    copied = tk.copy(path, bucket.url("models/"))
    assert [file.name for file in copied.files][-1] == "m.safetensors.index.json"
    assert objects_of(bucket.url("models")) == files_of(tmp_path)
    assert tk.copy(path, bucket.url("models/")).transferred == 0
    tk.copy(bucket.url("models/m.safetensors"), f"{tmp_path}/back/")
    assert tk.verify(tmp_path / "back/m.safetensors").checked == 2
    plain = tmp_path / "plain.bin"
    plain.write_bytes(b"no digests at all")
    tk.copy(plain, bucket.url("plain.bin"))
    assert tk.copy(plain, bucket.url("plain.bin")).transferred == 0
    plain.write_bytes(b"and not the same!")
    with pytest.raises(ArgumentError, match=r"plain.bin: is there already, with other content"):
        tk.copy(plain, bucket.url("plain.bin"))
    tk.copy(plain, bucket.url("plain.bin"), overwrite=True)
    tk.copy(bucket.url("plain.bin"), tmp_path / "plain2.bin")
    assert (tmp_path / "plain2.bin").read_bytes() == plain.read_bytes()
    http.files = {f"a/{name}": data for name, data in files_of(tmp_path / "back").items()}
    tk.copy(http.url("a/m.safetensors"), bucket.url("web/"))
    assert objects_of(bucket.url("web")) == files_of(tmp_path / "back")
    with pytest.raises(ArgumentError, match="cannot be written to"):
        tk.copy(plain, http.url("a/plain.bin"))


def test_a_checkpoint_from_the_web(http: FileServer, run: Path, tmp_path: Path) -> None:
    http.files = {f"run/{name}": data for name, data in files_of(run).items()}
    tk.copy(http.url("run/step-00000002/"), tmp_path / "new")
    assert files_of(tmp_path / "new") == files_of(run / "step-00000002")


def test_between_servers(
    bucket: Bucket, azure: Server, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = _enter(azure.bucket(), monkeypatch)
    tk.copy(run, bucket.url("run"))
    copied = tk.copy(bucket.url("run"), container.url("run"))
    assert copied.shared > 2 * 400_000
    assert objects_of(container.url("run")) == files_of(run)
    assert tk.copy(bucket.url("run"), container.url("run")).transferred == 0
    assert tk.copy(container.url("run"), container.url("twin")).transferred == 0
    assert tk.verify(container.url("twin/step-00000003")).ok


def test_inside_a_bucket_no_bytes_come_here(bucket: Bucket, proxy: Proxy, run: Path) -> None:
    tk.copy(run, bucket.url("run"))
    proxy.forget()
    copied = tk.copy(bucket.url("run"), bucket.url("twin"))
    assert (copied.transferred, copied.shared) == (0, copied.size)
    assert proxy.received() + proxy.sent() < copied.size / 10
    assert objects_of(bucket.url("twin")) == files_of(run)
    with pytest.raises(ArgumentError, match="one is in the other"):
        tk.copy(bucket.url("run"), bucket.url("run/sub/"))


def test_damage_at_the_source(bucket: Bucket, run: Path, tmp_path: Path) -> None:
    tk.copy(run, bucket.url("run"))
    (shard,) = [
        key
        for key in objects_of(bucket.url("run"))
        if key.endswith("2-of-00002.safetensors") and "step-00000002" in key
    ]
    _damage(bucket.url("run"), shard)
    with pytest.raises(CorruptError, match=f"{shard}: the tensor 'model.* is damaged"):
        tk.copy(bucket.url("run/step-00000002"), tmp_path / "one")
    assert list(tmp_path.iterdir()) == []
    local = tmp_path / "run"
    tk.copy(bucket.url("run"), local, verify=False)
    with pytest.raises(CorruptError, match="the tensor 'model"):
        tk.copy(local / "step-2", bucket.url("one"))
    assert "MANIFEST.json" not in objects_of(bucket.url("one"))
    assert shard.rpartition("/")[2] not in objects_of(bucket.url("one"))
    local.rename(tmp_path / "damaged")
    tk.copy(run / "step-2", bucket.url("one"), overwrite=True)
    assert tk.verify(bucket.url("one")).ok


@pytest.mark.parametrize("number", [0, 5, 9])
def test_an_upload_that_fails_is_gone_on_with(
    bucket: Bucket, proxy: Proxy, run: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "OFTEN", 0.0)
    with Proxy(bucket.port) as whole:
        tk.copy(run / "step-2", tk.remote(bucket.url("fresh/"), **bucket.through(whole).options))
        fresh = whole.sent("PUT")
    target = tk.remote(bucket.url("run/"), patience=0.5, **bucket.through(proxy).options)
    proxy.fail(Answer(403), on="PUT", only=range(number, 1000))
    with pytest.raises(StoreError):
        tk.copy(run / "step-2", target, jobs=1)
    assert "MANIFEST.json" not in objects_of(bucket.url("run"))
    proxy.heal()
    proxy.forget()
    copied = tk.copy(run / "step-2", target, jobs=1)
    assert objects_of(bucket.url("run")) == files_of(run / "step-00000002")
    assert ".tensorkeep.copying" not in list(_store(bucket.url("run")).keys())
    if number > 4:
        assert copied.skipped > 0
        assert proxy.sent("PUT") < fresh - copied.skipped / 2


def test_a_download_that_fails_is_gone_on_with(
    bucket: Bucket, proxy: Proxy, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch)
    tk.copy(run, bucket.url("run"))
    source = tk.remote(bucket.url("run/"), patience=0.5, **bucket.through(proxy).options)
    fewer = 0
    for number in (5, 20):
        proxy.heal()
        proxy.fail(Cut(after=20_000, reset=True), on="GET", only=range(number, 10_000))
        with contextlib.suppress(StoreError):
            tk.copy(source, tmp_path / "back", jobs=1)
        steps = tmp_path.glob("back/step-*")
        assert all(tk.verify(step).ok for step in steps)
    proxy.heal()
    proxy.forget()
    copied = tk.copy(source, tmp_path / "back")
    fewer = proxy.received("GET")
    assert copied.skipped > 0
    assert fewer < copied.size
    assert files_of(tmp_path / "back") == files_of(run)
    assert leftovers(tmp_path) == []


def test_what_was_put_by_others_counts_only_as_it_was(
    bucket: Bucket, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right names and sizes prove nothing: neither before the copy nor while it waits to go on."""
    shard = next(key for key in files_of(run / "step-00000002") if key.endswith(".safetensors"))
    size = (run / "step-00000002" / shard).stat().st_size
    store = _store(bucket.url("run"))
    store.put(shard, [bytes(size)])
    store.commit()
    with pytest.raises(CutShort):
        tk.copy(run / "step-2", tk.Location(store), jobs=1, progress=cut_after(801_000))
    store.put(shard, [bytes(size)])
    store.commit()
    copied = tk.copy(run / "step-2", tk.Location(store))
    assert objects_of(bucket.url("run")) == files_of(run / "step-00000002")
    assert copied.size > copied.transferred >= size


def test_two_copies_to_one_target(bucket: Bucket, run: Path) -> None:
    ready = threading.Barrier(2)
    failures: list[Exception] = []

    def work() -> None:
        ready.wait(10)
        try:
            tk.copy(run, bucket.url("run"))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert objects_of(bucket.url("run")) == files_of(run)


def test_other_content_on_its_way(bucket: Bucket, run: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "other", (2,))
    store = _store(bucket.url("one"))
    with pytest.raises(CutShort):
        tk.copy(run / "step-2", tk.Location(store), progress=cut_after(1))
    with pytest.raises(ArgumentError, match="something else is being copied there"):
        tk.copy(tmp_path / "other/step-2", tk.Location(store))
    tk.copy(tmp_path / "other/step-2", tk.Location(store), overwrite=True)
    assert objects_of(bucket.url("one")) == files_of(tmp_path / "other/step-00000002")
    with pytest.raises(ArgumentError, match="one: is there already, with other content"):
        tk.copy(run / "step-2", tk.Location(store))


def test_a_checkpoint_counts_until_another_has_its_place(
    bucket: Bucket, run: Path, tmp_path: Path
) -> None:
    make_run(tmp_path / "other", (2,), 1000)
    target = tk.Location(_store(bucket.url("one")))
    tk.copy(tmp_path / "other/step-2", target)
    old = set(objects_of(bucket.url("one")))
    with pytest.raises(CutShort):
        tk.copy(run / "step-2", target, overwrite=True, jobs=1, progress=cut_after(801_000))
    assert tk.verify(bucket.url("one")).tensors == 2
    assert tk.load(bucket.url("one"))["model"]["w"].shape == (1000,)
    copied = tk.copy(run / "step-2", target, overwrite=True)
    assert copied.skipped > 400_000
    assert tk.load(bucket.url("one"))["model"]["w"].shape == (100_000,)
    assert old & set(objects_of(bucket.url("one"))) == {"MANIFEST.json"}
    assert tk.copy(run / "step-2", target).transferred == 0  # in another folder, but the same
    tk.copy(bucket.url("one/"), tmp_path / "back")
    assert tk.copy(run / "step-2", tmp_path / "back").transferred == 0
    target.store.put("other", [b"stays"])
    target.store.put("MANIFEST.json", [b"{}"])
    target.store.commit()
    tk.copy(run / "step-2", target, overwrite=True)
    assert tk.verify(bucket.url("one")).ok
    assert "other" in objects_of(bucket.url("one"))


def test_what_is_damaged_there_is_not_shared(bucket: Bucket, run: Path) -> None:
    target = bucket.url("run/")
    tk.copy(run / "step-1", target)
    shards = [key for key in objects_of(target) if key.endswith(".safetensors")]
    for shard in shards:
        _damage(target, shard)
    assert tk.copy(run / "step-2", bucket.url("run/step-00000002")).shared == 0
    assert tk.verify(bucket.url("run/step-00000002")).ok


def test_what_was_not_checked_comes_again(bucket: Bucket, run: Path) -> None:
    store = _store(bucket.url("one"))
    with pytest.raises(CutShort):
        tk.copy(run / "step-2", tk.Location(store), verify=False, progress=cut_after(801_000))
    assert tk.copy(run / "step-2", tk.Location(store)).skipped == 0


def test_what_others_put_before_the_commit(bucket: Bucket, run: Path) -> None:
    store = _store(bucket.url("one"))
    shard = next(key for key in files_of(run / "step-00000002") if key.endswith(".safetensors"))
    size = (run / "step-00000002" / shard).stat().st_size

    def interfere(done: int, total: int) -> None:
        if done > 801_000:
            store.put(shard, [bytes(size)])
            store.commit()

    with pytest.raises(StoreError, match="was removed or replaced while the checkpoint was copied"):
        tk.copy(run / "step-2", tk.Location(store), jobs=1, progress=interfere)
    assert store.look("MANIFEST.json") is None


def test_a_writer_that_was_overtaken_does_not_commit(
    bucket: Bucket, run: Path, tmp_path: Path
) -> None:
    make_run(tmp_path / "other", (2,))
    store = _store(bucket.url("one"))
    done: list[Any] = []

    def overtake(count: int, total: int) -> None:
        if not done:
            done.append(1)
            tk.copy(tmp_path / "other/step-2", tk.Location(store), overwrite=True)

    with pytest.raises((StoreError, ArgumentError)):
        tk.copy(run / "step-2", tk.Location(store), jobs=1, progress=overtake)
    tk.copy(tmp_path / "other/step-2", tk.Location(store), overwrite=True)
    assert tk.verify(bucket.url("one")).ok


def test_a_step_that_vanishes(bucket: Bucket, run: Path, tmp_path: Path) -> None:
    tk.copy(run, bucket.url("run"))
    store = _store(bucket.url("run"))

    def remove(done: int, total: int) -> None:
        store.remove(list(store.keys("step-00000002/")))

    copied = tk.copy(bucket.url("run"), tmp_path / "new", progress=remove)
    assert copied.steps == ["step-00000001", "step-00000003"]
    assert "step-00000002 was removed" in copied.notes[0]
    with pytest.raises(MissingError):
        tk.copy(bucket.url("run/step-00000002/"), tmp_path / "one")
