"""The manifest of a dataset in several files, also one that nobody vouches for."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from tests.batches.writing.samples import samples

from tensorkeep import errors
from tensorkeep.data.dataset import Field
from tensorkeep.data.writing import write
from tensorkeep.data.writing.manifest import (
    MARK,
    Manifest,
    Shard,
    is_manifest,
    parse_manifest,
    read_manifest,
)
from tensorkeep.wire.seal import NO_DIGEST, SEAL, seal

WHOLE = Manifest(
    format="tar",
    fields={"é": Field("uint8", (3, 4)), "any": Field(), "n": Field("int64", ())},
    shards=(Shard("a-00000.tar", 3, 10240, "0" * 32), Shard("a-00001.tar", 1, 10240)),
    shard_samples=3,
    shard_size=1 << 40,
    options={"endings": {"é": "jpg"}},
    run="0123abcd",
    replaces=("a-00000.lmdb",),
)


def sealed(document: dict[str, Any]) -> bytes:
    return seal(json.dumps({**document, SEAL: NO_DIGEST}, separators=(",", ":")).encode())


def test_it_comes_back(tmp_path: Path) -> None:
    assert parse_manifest(WHOLE.dump(), "a") == WHOLE
    assert parse_manifest(Manifest("npz").dump(), "a") == Manifest("npz")
    path = tmp_path / "a.json"
    WHOLE.write(str(path))
    assert is_manifest(str(path))
    assert read_manifest(str(path)) == WHOLE
    for other in (b"", b"{}", b"{" * 1000):
        path.write_bytes(other)
        assert not is_manifest(str(path))
    assert not is_manifest(str(tmp_path))
    assert not is_manifest(str(tmp_path / "none"))


def test_every_bit_and_every_end() -> None:
    data = WHOLE.dump()
    for end in range(len(data) - 1):
        with pytest.raises(errors.TensorKeepError):
            parse_manifest(data[:end], "a")
    for at in range(len(data) - 1):
        for bit in (0, 5):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            with pytest.raises(errors.TensorKeepError):
                parse_manifest(bytes(changed), "a")


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({MARK: 2}, errors.UnsupportedError, "version 2, not 1"),
        ({MARK: True}, errors.UnsupportedError, "version True"),
        ({"samples": 5}, errors.CorruptError, "is not what the manifest"),
        ({"format": 3}, errors.CorruptError, "document is not what"),
        ({"run": "../../x"}, errors.CorruptError, "document is not what"),
        ({"fields": {"a": {"dtype": "object", "shape": []}}}, errors.CorruptError, "field 'a'"),
        ({"fields": {"a": {"dtype": "int8", "shape": [-1]}}}, errors.CorruptError, "field 'a'"),
        ({"fields": {"a": 3}}, errors.CorruptError, "field 'a'"),
        ({"replaces": ["../x"]}, errors.UnsafeError, "names the file '../x'"),
        ({"replaces": [3]}, errors.CorruptError, "file name 3"),
        ({"shards": [3]}, errors.CorruptError, "shard 3"),
        ({"shards": [{}]}, errors.CorruptError, "shard an object"),
    ],
)
def test_what_is_no_manifest(changes: dict[str, Any], kind: type[Exception], text: str) -> None:
    document = {**json.loads(WHOLE.dump()), **changes}
    with pytest.raises(kind, match=text):
        parse_manifest(sealed(document), "a")


@pytest.mark.parametrize(
    "name",
    ["../a.tar", "/etc/passwd", "a/b.tar", "..", ".", "", "a\\b", "a\0b", "\ud800", "é" * 200],
)
def test_shards_outside_the_folder(name: str) -> None:
    row = {"file": name, "samples": 4, "bytes": 1, "xxh3_128": ""}
    document = {**json.loads(WHOLE.dump()), "shards": [row]}
    with pytest.raises(errors.UnsafeError, match="not in its folder"):
        parse_manifest(sealed(document), "a")


@pytest.mark.parametrize(
    "change",
    [
        {"samples": 0},
        {"samples": -4},
        {"samples": 1 << 60},
        {"bytes": -1},
        {"bytes": 1 << 70},
        {"xxh3_128": "zz"},
        {"file": 3},
    ],
)
def test_shards_that_cannot_be(change: dict[str, Any]) -> None:
    row = {"file": "a", "samples": 4, "bytes": 1, "xxh3_128": "", **change}
    with pytest.raises(errors.CorruptError):
        parse_manifest(sealed({**json.loads(WHOLE.dump()), "shards": [row]}), "a")


def test_a_shard_twice() -> None:
    row = {"file": "a", "samples": 2, "bytes": 1, "xxh3_128": ""}
    with pytest.raises(errors.CorruptError):
        parse_manifest(sealed({**json.loads(WHOLE.dump()), "shards": [row, row]}), "a")


def test_bombs(tmp_path: Path) -> None:
    start = time.process_time()
    for data in (
        b'{"tensorkeep.dataset": ' + b"[" * 1_000_000,
        b'{"tensorkeep.dataset": 1, "shards": [' + b"{}," * 2_000_000,
        b'{"tensorkeep.dataset": ' + b"9" * 1_000_000 + b"}",
    ):
        with pytest.raises(errors.TensorKeepError):
            parse_manifest(data, "a")
    assert time.process_time() - start < 5
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(errors.UnsafeError, match="over the limit"):
        read_manifest(str(path))


def test_only_shards_of_the_dataset_are_ever_removed(tmp_path: Path) -> None:
    """Whatever a manifest says that the dataset replaces."""
    target = tmp_path / "a.tar"
    keep = ["mine", "b-00000.tar", "a-00000.zip", "a-x.tar", "a.tar.bak", "a-123456.tar"]
    for name in keep:
        (tmp_path / name).write_text(name)
    (tmp_path / "a-00077.tar").write_text("of before")
    write(samples(), target, shard_samples=9)
    index = tmp_path / "a.tar.index.json"
    document = json.loads(index.read_bytes())
    document["replaces"] = [*keep, "a-00077.tar", document["shards"][0]["file"]]
    document.pop(SEAL)
    index.write_bytes(sealed(document))
    assert write(samples(), target, shard_samples=9, resume=True).skipped == 7
    for name in keep:
        assert (tmp_path / name).read_text() == name
    assert not (tmp_path / "a-00077.tar").exists()
