"""A draft that several processes write: in a folder on a disk, and in a bucket."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from tests.servers import Server

from tensorkeep.checkpoint.folder import Folder, SharedDraft, open_folder
from tensorkeep.errors import StoreError
from tensorkeep.formats.safetensors.manifest import STATE, File, Manifest
from tensorkeep.stores.object import ObjectStore

TOKEN = "0a1b2c3d"
DATA = "model-rank00001.safetensors"


@pytest.fixture(params=["disk", "bucket"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str | ObjectStore:
    if request.param == "disk":
        return str(tmp_path)
    s3: Server = request.getfixturevalue("s3")
    bucket = s3.bucket()
    return ObjectStore(bucket.url("run"), **bucket.options)


@pytest.fixture
def folder(target: str | ObjectStore) -> Folder:
    """Give the coordinator's."""
    folder = open_folder(target)
    folder.create()
    folder.lock()
    return folder


def _finish(draft: SharedDraft, step: int, **sizes: int) -> None:
    files = {STATE: File(2, "0" * 32)} | {n: File(size, "0" * 32) for n, size in sizes.items()}
    draft.finish(Manifest(step, 1.0, files=files, data=draft.data))


def _read(folder: Folder, step: int, draft: SharedDraft, name: str) -> bytes:
    source = folder.source(step, f"{draft.data}/{name}" if draft.data else name)
    return bytes(source.read(0, source.size))


def test_several_write_and_one_commits(folder: Folder, target: str | ObjectStore) -> None:
    mine = folder.share(7, TOKEN, durable=True)
    other = open_folder(target).share(7, TOKEN, durable=True)
    other.put(DATA, [b"12", b"34"], 4)
    other.report("part-00001.json", b"{}")
    other.close()
    assert mine.names() == [DATA, "part-00001.json"]
    assert (mine.read("part-00001.json"), mine.read("part-00002.json")) == (b"{}", None)
    assert folder.steps() == []
    mine.remove("part-00001.json")
    mine.remove("part-00009.json")
    mine.put(STATE, [b"{}"], 2)
    _finish(mine, 7, **{DATA: 4})
    folder.commit(mine, 7, replace=False)
    folder.discard(mine)  # too late
    assert folder.steps() == [7]
    assert _read(folder, 7, mine, DATA) == b"1234"
    assert folder.leftovers() == []


def test_one_replaces_what_was_there(folder: Folder) -> None:
    for token, text in ((TOKEN, b"{}"), ("0a1b2c3e", b"[]")):
        draft = folder.share(7, token, durable=True)
        draft.put(STATE, [text], 2)
        _finish(draft, 7)
        folder.commit(draft, 7, replace=True)
        assert _read(folder, 7, draft, STATE) == text
    assert folder.leftovers() == []
    assert len([key for key in folder.keys(7) if key.endswith(STATE)]) == 1


def test_one_that_is_given_up_leaves_nothing(folder: Folder) -> None:
    draft = folder.share(8, TOKEN, durable=False)
    draft.put(STATE, [b"{}"], 2)
    folder.discard(draft)
    assert folder.steps() == []
    assert folder.leftovers() == []
    assert folder.keys(8) == []


def test_one_that_lacks_a_file_is_not_finished(folder: Folder) -> None:
    draft = folder.share(7, TOKEN, durable=True)
    draft.put(STATE, [b"{}"], 2)
    with pytest.raises((StoreError, FileNotFoundError), match=r"model-rank00001|is gone"):
        _finish(draft, 7, **{DATA: 4})
    draft.put(DATA, [b"123"], 3)
    with pytest.raises(StoreError, match=rf"{DATA} has 3 bytes, not 4"):
        _finish(draft, 7, **{DATA: 4})
    folder.discard(draft)


def test_a_file_appears_whole(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    draft = folder.share(7, TOKEN, durable=False)
    seen = []

    def chunks() -> object:
        yield b"12"
        seen.append(draft.names())
        yield b"34"

    draft.put(DATA, chunks(), 4)  # type: ignore[arg-type]
    assert (seen, draft.names()) == ([[]], [DATA])
    with pytest.raises(StoreError):
        draft.put("more", [b"1"], 2)
    assert os.listdir(tmp_path) == [f".step-00000007.{TOKEN}.tensorkeep.tmp"]
    assert draft.names() == [DATA]
    folder.discard(draft)
    assert os.listdir(tmp_path) == []


def test_nobody_sweeps_one_that_is_joined(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    folder.create()
    draft = folder.share(7, TOKEN, durable=False)
    draft.put(DATA, [b"1234"], 4)
    with open_folder(tmp_path).draft(8, durable=False):
        pass
    assert draft.names() == [DATA]
    draft.close()
    later = open_folder(tmp_path)
    later.lock()  # the coordinator is dead
    assert later.leftovers() == []
    later.unlock()


def test_a_report_follows_what_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = open_folder(str(tmp_path)).share(7, TOKEN, durable=True)
    draft.put(DATA, [b"1234"], 4)
    synced: list[tuple[bool, list[str]]] = []

    def fsync(fd: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(fd).st_mode), draft.names()))

    monkeypatch.setattr(os, "fsync", fsync)
    draft.report("part-00001.json", b"{}")
    assert synced == [(True, [DATA])]  # the folder, while the report was not in it
    assert draft.names() == [DATA, "part-00001.json"]
    draft.close()
