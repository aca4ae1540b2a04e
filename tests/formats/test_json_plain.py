from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorkeep import api, dtypes
from tensorkeep.errors import UnknownFormatError, UnsupportedError
from tensorkeep.formats import detect
from tensorkeep.formats import json as json_format
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore


def at(data: bytes | str, name: str = "state.json") -> Location:
    return Location(MemoryStore({name: data.encode() if isinstance(data, str) else data}), name)


def loads(text: bytes | str) -> Any:
    return api.load(at(text))


def saved(value: Any) -> bytes:
    target = at(b"")
    api.save(value, target)
    return bytes(target.source.read(0, target.source.size))


def test_plain_documents() -> None:
    value = loads('{"lr": 0.1, "w": [[1, 2], [3, 4]], "names": ["a", "b"], "mixed": [1, "x"]}')
    assert list(value) == ["lr", "w", "names", "mixed"]
    assert value["lr"] == 0.1
    assert value["w"].dtype == np.int64
    assert value["w"].tolist() == [[1, 2], [3, 4]]
    assert value["names"] == ["a", "b"]
    assert value["mixed"] == [1, "x"]


def test_a_bare_list_is_an_array() -> None:
    with api.open(at("[[1, 2], [3, 4.5]]")) as state:
        assert list(state) == ["array"]
        assert state["array"].dtype is dtypes.FLOAT64
        assert state.format == "json"
    assert loads("[[1, 2], [3, 4.5]]").tolist() == [[1.0, 2.0], [3.0, 4.5]]


def test_a_flat_document_of_arrays_is_a_flat_state() -> None:
    with api.open(at('{"b": [1], "a": [true, false]}')) as state:
        assert state.skeleton is None
        assert list(state) == ["b", "a"]
        assert state["a"].dtype is dtypes.BOOL


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "null",
        "-1.5",
        '"$text"',
        '{"$tuple": [1, "a"]}',
        '{"$tensor": "int8", "shape": [1], "values": ["a"]}',
        '{"a": {"$dict": 1, "$": "$:a", "b": "$$"}}',
        '[{"a": []}, [[], ["$"]], 123456789012345678901234567890]',
        '{"tensorkeep": "a package", "xxh3_128": 3}',
        '{"a\\u0000b": {"..": "/"}, "": ""}',
    ],
)
def test_plain_values_that_look_special_stay_as_they_are(text: str) -> None:
    found = loads(text)
    assert found == json.loads(text)
    assert type(found) is type(json.loads(text))
    assert loads(saved(found)) == found


def test_arrays_of_one_dotted_name_are_told_apart() -> None:
    value = loads('{"a.b": [1], "a": {"b": [2], "\\u0000": [3]}, "../x": [4], "$y": [5]}')
    assert value["a.b"].tolist() == [1]
    assert value["a"]["b"].tolist() == [2]
    assert value["a"]["\0"].tolist() == [3]
    assert value["../x"].tolist() == [4]
    assert value["$y"].tolist() == [5]


def test_text_that_is_not_text_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"state\.json: a: .*lone surrogate"):
        loads('{"a": "\\ud800"}')


def test_a_byte_order_mark_is_skipped() -> None:
    assert loads(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    ("name", "data", "accepted"),
    [
        ("a.json", b'{"a": 1}', True),
        ("a.JSON", b" \n\t[1]", True),
        ("a.json", b"3.5", True),
        ("a.json", b'"text"', True),
        ("a.json", b"null", True),
        ("a.npz", b'{"a": 1}', True),
        ("a", b"[1]", True),
        ("a", b"3.5", False),
        ("a.txt", b'"text"', False),
        ("a.json", b"", False),
        ("a.json", b"   ", False),
        ("a.json", b"plain words", False),
        ("a.json", b"<!doctype html><html>{}", False),
        ("a.json", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", False),
        ("a.json", (123).to_bytes(8, "little") + b'{"w": {}}' + b" " * 200, False),
        ("a.json", b'{"a": "\x01"}', False),
        ("a.json", b'{"a": "\xff"}', False),
        ("model.safetensors.index.json", b'{"weight_map": {}}', False),
        ("Model.Safetensors.Index.JSON", b'{"weight_map": {}}', False),
        ("long.json", b'["' + "é".encode() * 3000 + b'"]', True),
        ("long.json", b'["a' + "é".encode() * 3000 + b'"]', True),  # the head ends within an é
    ],
)
def test_acceptance(name: str, data: bytes, accepted: bool) -> None:
    assert json_format.accepts(at(data, name)) is accepted


def test_a_renamed_document_opens() -> None:
    for data in (b'{"lr": 0.1}', saved({"lr": 0.1})):
        assert detect(at(data, "state.npz")).name == "json"
        assert api.load(at(data, "state.npz")) == {"lr": 0.1}


def test_safetensors_named_json_opens_as_safetensors() -> None:
    for length in range(40):  # header lengths whose first byte is text that JSON could start with
        store = MemoryStore()
        api.save({"w" * (length + 1): np.ones(1)}, Location(store, "w.safetensors"), align=8)
        assert detect(at(store.data["w.safetensors"], "w.json")).name == "safetensors"


def test_a_folder_is_not_accepted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnknownFormatError):
        api.open(tmp_path)
