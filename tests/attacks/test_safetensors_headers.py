"""safetensors files whose header lies, contradicts itself or asks for the impossible."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import errors

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """Write a file with any header: bytes as they are, anything else as JSON."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(raw) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + raw + data)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


READS: list[Callable[[Path], Any]] = [
    tk.open,
    tk.load,
    lambda path: tk.load(path, verify=True, copy=True),
]


def refuse(path: Path, match: str | None = None, reads: int = len(READS)) -> None:
    """Every way of reading, or the first few, says what is wrong and names the file."""
    for read in READS[:reads]:
        with pytest.raises((errors.CorruptError, errors.UnsafeError), match=match) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_the_helper_makes_a_good_file(path: Path) -> None:
    write(path, {"w": ENTRY}, np.array([1, 2], np.float32).tobytes())
    assert tk.load(path)["w"].tolist() == [1, 2]


@pytest.mark.parametrize("length", [17, 2**20, 2**31, 2**40, 2**63 - 1, 2**63, 2**64 - 1])
def test_header_longer_than_the_file(length: int, path: Path) -> None:
    refuse(write(path, {}, b"", length), "cut short|over the limit")


@pytest.mark.parametrize("length", [0, 1, 3])
def test_header_shorter_than_it_is(length: int, path: Path) -> None:
    refuse(write(path, {"w": ENTRY}, bytes(8), length))


def test_a_100_mb_header(path: Path) -> None:
    write(path, b'{"', b"", 100_000_000)
    os.truncate(path, 100_000_100)
    refuse(path, "over the limit")


def test_a_header_of_half_a_gigabyte(path: Path) -> None:
    write(path, b"{", b"", 1 << 29)
    os.truncate(path, (1 << 29) + 100)
    refuse(path, "over the limit")


def test_a_million_entries(path: Path) -> None:
    entry = b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    refuse(write(path, b"{" + b",".join(entry % i for i in range(10**6)) + b"}"), "more than")


FILLERS = {
    "objects": b"{}",
    "lists": b"[]",
    "numbers": b"0",
    "texts": b'""',
    "entries that are none": b'{"dtype":"U8"}',
}


@pytest.mark.parametrize("filler", FILLERS.values(), ids=FILLERS)
@pytest.mark.parametrize("template", [b'{"w":[%s]}', b'{"__metadata__":{"a":[%s]}}'])
def test_a_header_that_swells(template: bytes, filler: bytes, path: Path) -> None:
    """JSON of 50 MB that would be parsed into gigabytes of small objects."""
    many = (filler + b",") * (50_000_000 // (len(filler) + 1)) + filler
    refuse(write(path, template % many), reads=1)


@pytest.mark.parametrize("depth", [200, 5000, 3_000_000])
@pytest.mark.parametrize("pair", [(b"[", b"]"), (b'{"a":', b"}")], ids=["lists", "objects"])
def test_deep_nesting(depth: int, pair: tuple[bytes, bytes], path: Path) -> None:
    nested = pair[0] * depth + b"0" + pair[1] * depth
    refuse(write(path, b'{"w":%s}' % nested), reads=1)
    refuse(write(path, b'{"__metadata__":%s}' % nested), reads=1)
    refuse(write(path, b'{"w":' + pair[0] * depth), reads=1)


DUPLICATES = {
    "tensor": b'{"w":%s,"w":%s}',
    "metadata": b'{"__metadata__":{},"__metadata__":{},"w":%s}',
    "metadata key": b'{"__metadata__":{"a":"1","a":"2"},"w":%s}',
    "escaped": b'{"w":%s,"\\u0077":%s}',
    "field": b'{"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
}


@pytest.mark.parametrize("text", DUPLICATES.values(), ids=DUPLICATES)
def test_duplicate_keys(text: bytes, path: Path) -> None:
    for separators in ((",", ":"), (", ", ": ")):
        entry = json.dumps(ENTRY, separators=separators).encode()
        refuse(write(path, text.replace(b"%s", entry), bytes(8)))


def entry(**changes: Any) -> dict[str, Any]:
    return {**ENTRY, **changes}


BAD_ENTRIES: dict[str, Any] = {
    "null": None,
    "list": [],
    "text": "F32",
    "empty": {},
    "extra field": entry(extra=1),
    "no dtype": {k: v for k, v in ENTRY.items() if k != "dtype"},
    "unknown dtype": entry(dtype="F128"),
    "lower-case dtype": entry(dtype="f32"),
    "dtype number": entry(dtype=3),
    "dtype null": entry(dtype=None),
    "dtype list": entry(dtype=["F32"]),
    "shape text": entry(shape="2"),
    "shape null": entry(shape=None),
    "shape float": entry(shape=[2.0]),
    "shape bool": entry(shape=[True, 2]),
    "shape nested": entry(shape=[[2]]),
    "negative axis": entry(shape=[-2]),
    "two negative axes": entry(shape=[-1, -2]),
    "huge axis": entry(shape=[2**64 + 2]),
    "overflowing shape": entry(shape=[2**32, 2**32, 2]),
    "wrapping shape": entry(shape=[2**63, 2, 2]),
    "shape of other size": entry(shape=[3]),
    "too many axes": entry(shape=[1] * 65 + [2]),
    "very many axes": entry(shape=[1] * 100_000 + [2]),
    "one offset": entry(data_offsets=[8]),
    "three offsets": entry(data_offsets=[0, 8, 8]),
    "no offsets": entry(data_offsets=[]),
    "offsets null": entry(data_offsets=None),
    "offset float": entry(data_offsets=[0, 8.0]),
    "offset text": entry(data_offsets=["0", "8"]),
    "offset bool": entry(data_offsets=[False, 8]),
    "negative offset": entry(data_offsets=[-8, 0]),
    "reversed offsets": entry(data_offsets=[8, 0]),
    "late start": entry(data_offsets=[4, 12]),
    "beyond the end": entry(shape=[3], data_offsets=[0, 12]),
    "far beyond": entry(shape=[2**40], data_offsets=[0, 2**42]),
    "far away": entry(data_offsets=[2**50, 2**50 + 8]),
    "overflowing offset": entry(data_offsets=[0, 2**64 + 8]),
    "wrapping offsets": entry(data_offsets=[2**64 - 8, 2**64]),
    "less than there is": entry(shape=[1], data_offsets=[0, 4]),
    "half bytes": entry(dtype="F4", shape=[15], data_offsets=[0, 8]),
}


@pytest.mark.parametrize("bad", BAD_ENTRIES.values(), ids=BAD_ENTRIES)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")], ids=["compact", "spaced"])
def test_bad_entries(bad: Any, separators: tuple[str, str], path: Path) -> None:
    refuse(write(path, json.dumps({"w": bad}, separators=separators).encode(), bytes(8)))


@pytest.mark.parametrize("shape", [[2**40, 2**40, 0], [0, 2**62], [2**62, 4, 0]])
def test_empty_tensors_of_shapes_that_numpy_cannot_hold(shape: list[int], path: Path) -> None:
    for separators in ((",", ":"), (", ", ": ")):
        header = {"w": entry(shape=shape, data_offsets=[0, 0])}
        write(path, json.dumps(header, separators=separators).encode())
        for read in (tk.load, lambda p: tk.open(p)["w"].numpy(), lambda p: tk.open(p)["w"][:0]):
            with pytest.raises(tk.TensorKeepError):
                read(path)


def two(first: list[int], second: list[int], size: int) -> tuple[bytes, bytes]:
    rows = {
        name: {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop]}
        for name, (start, stop) in {"a": first, "b": second}.items()
    }
    return json.dumps(rows, separators=(",", ":")).encode(), bytes(size)


LAYOUTS = {
    "overlap": two([0, 8], [4, 12], 12),
    "same": two([0, 8], [0, 8], 8),
    "inside": two([0, 8], [2, 4], 8),
    "gap": two([0, 8], [9, 12], 12),
    "gap at the start": two([1, 8], [8, 12], 12),
    "rest": two([0, 8], [8, 12], 13),
    "short": two([0, 8], [8, 12], 11),
}


@pytest.mark.parametrize("parts", LAYOUTS.values(), ids=LAYOUTS)
def test_bytes_that_no_tensor_or_two_tensors_own(parts: tuple[bytes, bytes], path: Path) -> None:
    refuse(write(path, *parts))


def test_tensors_in_any_order_are_fine(path: Path) -> None:
    write(path, *two([4, 12], [0, 4], 12))
    assert {name: array.size for name, array in tk.load(path).items()} == {"a": 8, "b": 4}


BAD_TEXTS = {
    "not JSON": b"{not json at all}",
    "a list": b"[1, 2, 3]",
    "unfinished": b'{"w":{"dtype":"F32"',
    "nothing": b"   ",
    "behind it": b'{} "x"',
    "two documents": b"{}{}",
    "NaN": b'{"w":NaN}',
    "infinite": b'{"w":-Infinity}',
    "not UTF-8": b'{"\xff\xfe":{}}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "a number of a million digits": b'{"w":' + b"9" * 10**6 + b"}",
    "metadata list": b'{"__metadata__":[]}',
    "metadata text": b'{"__metadata__":"a"}',
    "metadata null": b'{"__metadata__":null}',
    "metadata number": b'{"__metadata__":{"a":1}}',
    "metadata nested": b'{"__metadata__":{"a":{}}}',
    "no comma between entries": (
        b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},,'
        b'"b":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
        b'"c":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    ),
    "no comma behind metadata": (
        b'{"__metadata__":{}"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    ),
    "a comma at the end": b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},}',
}


@pytest.mark.parametrize("text", BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_headers_that_are_not(text: bytes, path: Path) -> None:
    refuse(write(path, text))


BAD_NAMES = ["a\0b", "..", "../w", "a/../../b", "a\\..\\b", "/../etc", "n" * 10_000, "ü" * 3000]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("ascii", [True, False])
def test_bad_names(name: str, ascii: bool, path: Path) -> None:
    zero = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps({name: zero}, ensure_ascii=ascii, separators=(",", ":"))
    refuse(write(path, text.encode()), "tensor name")


@pytest.mark.parametrize("name", ["a/b", "/abs", "a..b", "...", "C:\\x", " ", "", "a\nb", "\x7f"])
def test_odd_names_are_only_names(name: str, path: Path, tmp_path: Path) -> None:
    zero = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    write(path, {name: zero})
    assert list(tk.load(path)) == [name]
    tk.convert(path, tmp_path / "again.safetensors")
    assert list(tk.open(tmp_path / "again.safetensors")) == [name]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.safetensors", "model.safetensors"]


def test_half_a_surrogate_in_a_name(path: Path, tmp_path: Path) -> None:
    """JSON can spell it and UTF-8 cannot: it is refused, or it can be saved again."""
    write(path, b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}')
    try:
        names = list(tk.load(path))
    except tk.TensorKeepError:
        return
    tk.convert(path, tmp_path / "again.safetensors")
    assert list(tk.open(tmp_path / "again.safetensors")) == names


def test_an_empty_file_is_fine(path: Path) -> None:
    write(path, b"{}")
    assert tk.load(path) == {}
    assert tk.open(path).nbytes == 0


def test_a_file_that_shrinks_while_open(path: Path) -> None:
    tk.save({"w": np.zeros(100_000)}, path)
    with tk.open(path) as state:
        os.truncate(path, 1000)
        with pytest.raises(errors.CorruptError, match="shorter now"):
            state["w"].numpy()
        with pytest.raises(errors.CorruptError):
            tk.save(state, path.with_name("copy.safetensors"))
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.safetensors"]
