from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorkeep import api
from tensorkeep.errors import CorruptError, UnsafeError, UnsupportedError
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


def ours(tensor: str) -> str:
    return f'{{"tensorkeep": 1, "tensors": {{"enc.w": {tensor}}}}}'


def nested(tree: str) -> str:
    return f'{{"tensorkeep": 1, "state": {tree}}}'


def described(kind: str, shape: str, values: str) -> str:
    return ours(f'{{"$tensor": "{kind}", "shape": {shape}, "values": {values}}}')


@pytest.mark.parametrize(
    "text",
    [
        described("uint8", "[2]", "[1, 300]"),
        described("int32", "[1]", "[1.5]"),
        described("float32", "[1]", '["one"]'),
        described("float32", "[1]", "[1e400]"),
        described("float16", "[1]", "[70000]"),
        described("bool", "[1]", "[1]"),
        described("string", "[1]", "[1]"),
        described("string", "[1]", '["\\ud800"]'),
        described("complex64", "[1]", "[1]"),
        described("int8", "[2]", "[1]"),
        described("int8", "[2]", "[1, 2, 3]"),
        described("int8", "[2]", "[[1, 2]]"),
        described("int8", "[]", "[1]"),
        described("int8", "[1000000000000]", "[1]"),
        described("int8", "[1000000000, 1000000000]", "[[1]]"),
        described("int8", "[0, 9000000000000000000]", "[]"),
        described("int8", "[-1]", "[]"),
        described("int8", "[1.0]", "[1]"),
        described("int8", "[true]", "[1]"),
        described("int8", f"[{', '.join(['1'] * 65)}]", f"{'[' * 65}1{']' * 65}"),
        described("int8", '"2"', "[1, 2]"),
        described("int128", "[1]", "[1]"),
        ours('{"$tensor": 5, "shape": [1], "values": [1]}'),
        ours('{"$tensor": "int8", "shape": [1]}'),
        ours('{"$tensor": "int8", "values": [1]}'),
        ours('{"$tensor": "int8", "shape": [1], "values": [1], "base64": "AA=="}'),
        ours('{"$tensor": "int8", "shape": [1], "values": [1], "extra": 1}'),
        ours('{"$tensor": "int8", "shape": [1], "base64": "AA"}'),
        ours('{"$tensor": "int8", "shape": [1], "base64": "A!=="}'),
        ours('{"$tensor": "int8", "shape": [1], "base64": "é"}'),
        ours('{"$tensor": "int8", "shape": [1], "base64": ""}'),
        ours('{"$tensor": "int8", "shape": [1], "base64": "AAA="}'),
        ours('{"$tensor": "int8", "shape": [1], "base64": 5}'),
        ours(f'{{"$tensor": "string", "shape": [1], "base64": "{"A" * 22}=="}}'),
        ours('{"name": "w", "$tensor": "int8", "shape": [1], "values": [1]}'),
        ours("[1, 2]"),
    ],
)
def test_tensors_that_contradict_themselves_are_named(text: str) -> None:
    with pytest.raises(CorruptError, match=r"^state\.json: .*'enc\.w'"):
        loads(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"tensorkeep": 1}',
        '{"tensorkeep": 1, "state": 1, "other": 2}',
        '{"tensorkeep": 1, "tensors": []}',
        '{"tensorkeep": 1, "tensors": {}, "metadata": []}',
        '{"tensorkeep": 1, "tensors": {}, "framework": 3}',
        '{"tensorkeep": 1, "tensors": {}, "order": ["a"]}',
        '{"tensorkeep": 1, "tensors": {}, "order": [[]]}',
        '{"tensorkeep": 1, "tensors": {}, "order": {}}',
        described("int8", "[1]", "[1]")[:-1] + ', "order": []}',
        described("int8", "[1]", "[1]").replace("enc.w", "1")[:-1] + ', "order": [1]}',
        described("int8", "[1]", "[1]")[:-1] + ', "order": ["enc.w", "enc.w"]}',
        nested('{"$tensor": "int8", "name": 5, "shape": [], "values": 1}'),
        nested('{"a": "$"}'),
        nested('{"a": "$:b"}'),
        nested('{"a": "$b"}'),
        nested('{"$tuple": 1}'),
        nested('{"$nothing": 1}'),
        nested('{"$array": 1}'),
        nested('{"$bytes": "AAA"}'),
        nested('{"$dict": [[{"$int": "zz"}, 1]]}'),
        nested('{"$dict": [[[1], 1]]}'),
        nested('{"$dict": [[{"$scalar": "$"}, 1]]}'),
        nested(f'{{"$dict": [[{{"$tuple": [{{"$int": "0x{"f" * 100_000}"}}]}}, 1]]}}'),
        nested(f"{'[' * 300}1{']' * 300}"),
        '{"a": 1, "a": 2}',
        '{"tensorkeep": 1, "tensorkeep": 1, "tensors": {}}',
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        "[" * 150 + "]" * 150,
        "1" + "0" * 1_000_000,
        "[NaN]",
        "{'a': 1}",
        '{"a": 1} trailing',
        '{"a": 1',
    ],
)
def test_documents_that_contradict_themselves(text: str) -> None:
    with pytest.raises(CorruptError):
        loads(text)


def test_a_tensor_written_twice() -> None:
    one = '{"$tensor": "int8", "name": "w", "shape": [], "values": 1}'
    with pytest.raises(CorruptError, match="the tensor 'w' twice"):
        loads(f'{{"tensorkeep": 1, "state": [{one}, {one}]}}')


def test_names_that_no_tool_could_have_meant() -> None:
    tensor = '{"$tensor": "int8", "shape": [], "values": 1}'
    for name in ("a\\u0000", "../x", "n" * 5000):
        with pytest.raises(UnsafeError):
            loads(f'{{"tensorkeep": 1, "tensors": {{"{name}": {tensor}}}}}')


def test_a_later_version_is_told() -> None:
    with pytest.raises(UnsupportedError, match=r"has version 2 .*Update tensorkeep"):
        loads('{"tensorkeep": 2, "tensors": {}}')


def test_numbers_beyond_float64_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="out of range for float64"):
        loads('{"a": [1.0, 1e400]}')


def test_too_large_a_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.write(b"[1")
        file.truncate((1 << 30) + 1)
    with pytest.raises(UnsafeError, match=r"JSON over 1,073,741,824 .*safetensors"):
        api.open(path, format="json")


def test_too_many_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_format, "MAX_TENSORS", 2)
    for text in ('{"a": [1], "b": [2], "c": [3]}', saved([np.ones(1) for _ in range(3)])):
        with pytest.raises(UnsafeError, match=r"more than 2 tensors|too many arrays"):
            loads(text)


def test_messages_stay_short() -> None:
    for text in (
        described("float32", "[1]", json.dumps(["x" * 10**6])),
        described("int8", "[1]", f"[{'9' * 4000}]"),
        f'{{"tensorkeep": 1, "{"m" * 10**6}": 1}}',
    ):
        with pytest.raises(CorruptError) as caught:
            loads(text)
        assert len(str(caught.value)) < 400
