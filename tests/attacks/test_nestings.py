"""Files whose stored nesting or metadata is not what tensorkeep would write."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import errors

W = np.arange(6, dtype=np.float32)
NAMES = np.array(["a", "bc"], object)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def write(path: Path, notes: Any, **arrays: Any) -> Path:
    """Write a file with these notes; a text is taken as it is."""
    tensors = arrays or {"w": W, "s": np.zeros(1, np.uint8)}
    rows, end = {}, 0
    for name, array in tensors.items():
        code = {"float32": "F32", "uint8": "U8"}[str(array.dtype)]
        span = [end, end + array.nbytes]
        rows[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": span}
        end += array.nbytes
    text = notes if isinstance(notes, str) else json.dumps({"version": 1, **notes})
    header = json.dumps({"__metadata__": {"tensorkeep": text}, **rows}).encode()
    data = b"".join(array.tobytes() for array in tensors.values())
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def refuse(path: Path, *kinds: type[tk.TensorKeepError]) -> None:
    for copy in (False, True):
        with pytest.raises(kinds or (errors.CorruptError,)) as caught:
            tk.load(path, copy=copy)
        assert str(path) in str(caught.value)


def test_the_helper_makes_a_good_file(path: Path) -> None:
    write(path, {"tree": {"$tuple": [{"w": "$:w"}, 3, "$$x"]}})
    found = tk.load(path)
    assert found[1:] == (3, "$x")
    assert found[0]["w"].tolist() == W.tolist()


NO_ITEMS: dict[str, Any] = {
    "number": 3,
    "null": None,
    "text": "ab",
    "dict": {"a": 1},
    "lists": [[1]],
    "dicts": [{}],
    "arrays": ["$:w"],
    "scalars": [{"$scalar": "$:w"}],
    "bytes": [{"$bytes": "YQ=="}],
    "tuples of lists": [{"$tuple": [[1]]}],
    "tuples of bytes": [{"$tuple": [{"$bytes": ""}]}],
    "named tuples": [{"$namedtuple": ["m", "P", {"a": 1}]}],
    "ranges": [{"$range": [1, 2, 3]}],
    "sets": [{"$frozenset": []}],
    "an item twice": [1, 2, 1],
    "equal items": [1, True],
}
NO_PAIRS: dict[str, Any] = {
    "number": 3,
    "null": None,
    "text": "ab",
    "dict": {"ab": 1},
    "singles": [["a"]],
    "triples": [["a", 1, 2]],
    "list as key": [[["a"], 1]],
    "array as key": [["$:w", 1]],
    "bytes as key": [[{"$bytes": ""}, 1]],
    "a key twice": [["a", 1], ["a", 2]],
}
BROKEN: dict[str, Any] = {
    "unknown tag": {"$exec": "import os"},
    "missing tensor": {"a": "$"},
    "missing tied tensor": "$:nothing",
    "half a tag": "$w",
    "array of nothing": {"$array": None},
    "array of number": {"$array": 3},
    "array of list": {"$array": ["$:w"]},
    "scalar of nothing": {"$scalar": "nothing"},
    "tuple of number": {"$tuple": 3},
    "tuple of null": {"$tuple": None},
    "dict of text": {"$dict": "ab"},
    "dict of singles": {"$dict": [["a"]]},
    "dict of triples": {"$dict": [["a", 1, 2]]},
    "dict of number": {"$dict": 1},
    "list as key": {"$dict": [[["a"], 1]]},
    "dict as key": {"$dict": [[{"a": 1}, 1]]},
    "array as key": {"$dict": [["$:w", 1]]},
    "ordered dict of null": {"$ordereddict": None},
    "named tuple of one": {"$namedtuple": ["m"]},
    "named tuple of null": {"$namedtuple": None},
    "named tuple without text": {"$namedtuple": [1, 2, {"a": 1}]},
    "named tuple of list": {"$namedtuple": ["m", "P", ["a"]]},
    "named tuple called badly": {"$namedtuple": ["m", "P; import os", {"a": 1}]},
    "int of number": {"$int": 3},
    "int of text": {"$int": "abcx"},
    "int of null": {"$int": None},
    "float of text": {"$float": "much"},
    "float of list": {"$float": [1]},
    "complex of three": {"$complex": [1, 2, 3]},
    "complex of text": {"$complex": ["a", "b"]},
    "complex of null": {"$complex": None},
    "bytes of number": {"$bytes": 3},
    "bytes not base64": {"$bytes": "*"},
    "bytes cut": {"$bytes": "abc"},
    "bytes of nothing": {"$bytes": "$:nothing"},
    "bytes of null": {"$bytes": None},
    "bytes of numbers": {"$bytes": "$:w"},
    "complex beyond a float": {"$complex": [{"$int": "0x1" + "0" * 400}, 0]},
    "bytearray of number": {"$bytearray": 3},
    "bytearray not base64": {"$bytearray": "*"},
    "bytearray of nothing": {"$bytearray": "$:nothing"},
    "bytearray of numbers": {"$bytearray": "$:w"},
    **{
        f"{kind} of {name}": {f"${kind}": items}
        for kind in ("set", "frozenset")
        for name, items in NO_ITEMS.items()
    },
    "deque of number": {"$deque": 3},
    "deque of text": {"$deque": "ab"},
    "deque of null": {"$deque": None},
    "deque of an array": {"$deque": "$:w"},
    "deque below nothing": {"$deque": [], "maxlen": -1},
    "deque over its room": {"$deque": [1, 2], "maxlen": 1},
    "deque of huge room": {"$deque": [], "maxlen": {"$int": "0x1" + "0" * 16}},
    "deque of vast room": {"$deque": [], "maxlen": {"$int": "0x1" + "0" * 6000}},
    "deque of half a room": {"$deque": [], "maxlen": 1.5},
    "deque of true room": {"$deque": [1], "maxlen": True},
    "deque of rooms": {"$deque": [], "maxlen": [3]},
    "deque of a room of text": {"$deque": [], "maxlen": "3"},
    **{
        f"{kind} of {name}": {f"${kind}": pairs}
        for kind in ("defaultdict", "counter")
        for name, pairs in NO_PAIRS.items()
    },
    "defaultdict of a function": {"$defaultdict": [], "factory": "eval"},
    "defaultdict of a dotted name": {"$defaultdict": [], "factory": "os.system"},
    "defaultdict of a dunder": {"$defaultdict": [], "factory": "__import__"},
    "defaultdict of no name": {"$defaultdict": [], "factory": ""},
    "defaultdict of False": {"$defaultdict": [], "factory": False},
    "defaultdict of a list": {"$defaultdict": [], "factory": ["int"]},
    "defaultdict of a tag": {"$defaultdict": [], "factory": {"$tuple": []}},
    "counter of floats": {"$counter": [["a", 1.5]]},
    "counter of bools": {"$counter": [["a", True]]},
    "counter of text": {"$counter": [["a", "b"]]},
    "counter of null": {"$counter": [["a", None]]},
    "counter of arrays": {"$counter": [["a", "$:w"]]},
    "range of number": {"$range": 3},
    "range of text": {"$range": "abc"},
    "range of null": {"$range": None},
    "range of nothing": {"$range": []},
    "range of two": {"$range": [1, 2]},
    "range of four": {"$range": [1, 2, 3, 4]},
    "range of floats": {"$range": [0, 1.5, 1]},
    "range of bools": {"$range": [False, True, True]},
    "range of texts": {"$range": ["0", "1", "1"]},
    "range of no step": {"$range": [0, 3, 0]},
    "torch's number": {"$torch": 3},
    "torch's null": {"$torch": None},
    "torch's text": {"$torch": "device"},
    "torch's nothing": {"$torch": []},
    "torch's single": {"$torch": ["dtype"]},
    "torch's function": {"$torch": ["load", "x"]},
    "torch's list": {"$torch": [["dtype"], "float32"]},
    "torch's false": {"$torch": [False, "float32"]},
    "dtype of number": {"$torch": ["dtype", 3]},
    "dtype of list": {"$torch": ["dtype", ["float32"]]},
    "dtype of array": {"$torch": ["dtype", "$:w"]},
    "dtype of no name": {"$torch": ["dtype", ""]},
    "dtype with a module": {"$torch": ["dtype", "torch.float32"]},
    "dtype with a dunder": {"$torch": ["dtype", "__name__"]},
    "dtype with a line": {"$torch": ["dtype", "float32\n"]},
    "dtype far too long": {"$torch": ["dtype", "f" * 100_000]},
    "device of number": {"$torch": ["device", 0]},
    "device below nothing": {"$torch": ["device", "cuda:-1"]},
    "device beyond a byte": {"$torch": ["device", "cuda:128"]},
    "device in Arabic": {"$torch": ["device", "cuda:\u0661"]},
    "device of two": {"$torch": ["device", "cuda:0:1"]},
    "size of number": {"$torch": ["size", 3]},
    "size of text": {"$torch": ["size", "23"]},
    "size of null": {"$torch": ["size", None]},
    "size of floats": {"$torch": ["size", [1.5]]},
    "size of bools": {"$torch": ["size", [True]]},
    "size of arrays": {"$torch": ["size", ["$:w"]]},
    "size beyond 64 bits": {"$torch": ["size", [{"$int": "0x1" + "0" * 16}]]},
}


@pytest.mark.parametrize("tree", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("wrap", [False, True], ids=["alone", "inside"])
def test_broken_nestings(tree: Any, wrap: bool, path: Path) -> None:
    refuse(write(path, {"tree": {"x": [tree]} if wrap else tree}))


NOTES = {
    "empty": "",
    "text": "hello",
    "list": "[]",
    "null": "null",
    "no version": "{}",
    "deep": "[" * 100_000,
    "twice": '{"version":1,"version":1}',
    "metadata list": '{"version":1,"metadata":[]}',
    "stored list": '{"version":1,"stored":[]}',
    "stored unknown type": '{"version":1,"stored":{"w":["float7",[6]]}}',
    "stored short": '{"version":1,"stored":{"w":["float32"]}}',
    "stored negative": '{"version":1,"stored":{"w":["float32",[-6]]}}',
    "stored text": '{"version":1,"stored":{"w":"float32"}}',
    "stored larger": '{"version":1,"stored":{"w":["float32",[7]]}}',
    "stored far larger": '{"version":1,"stored":{"w":["float32",[4611686018427387904]]}}',
    "stored smaller": '{"version":1,"stored":{"w":["int4",[6]]}}',
    "stored as text": '{"version":1,"stored":{"w":["string",[2]]}}',
    "stored as too much text": '{"version":1,"stored":{"w":["string",[4611686018427387904]]}}',
    "stored as little text": '{"version":1,"stored":{"s":["string",[0]]}}',
    "stored as no text": '{"version":1,"stored":{"w":["string",[0,4611686018427387904,8]]}}',
    "digests list": '{"version":1,"xxh3_128":[]}',
    "digests object": '{"version":1,"xxh3_128":{"w":"' + "0" * 32 + '"}}',
    "digest short": '{"version":1,"xxh3_128":"ab"}',
    "digest number": '{"version":1,"xxh3_128":3}',
    "digest too many": '{"version":1,"xxh3_128":"' + "0" * 96 + '"}',
    "digest of other letters": '{"version":1,"xxh3_128":"' + "g" * 64 + '"}',
    "digest without a seal": '{"version":1,"xxh3_128":"' + "0" * 64 + '"}',
    "order list": '{"version":1,"xxh3_128":"' + "0" * 64 + '","order":{}}',
    "order short": '{"version":1,"xxh3_128":"' + "0" * 64 + '","order":[0]}',
    "order twice": '{"version":1,"xxh3_128":"' + "0" * 64 + '","order":[1,1]}',
    "order outside": '{"version":1,"xxh3_128":"' + "0" * 64 + '","order":[0,2]}',
    "order of text": '{"version":1,"xxh3_128":"' + "0" * 64 + '","order":["0",1]}',
}


@pytest.mark.parametrize("text", NOTES.values(), ids=NOTES)
def test_broken_notes(text: str, path: Path) -> None:
    refuse(write(path, text), errors.CorruptError, errors.UnsupportedError)


def test_later_versions_are_told(path: Path) -> None:
    write(path, '{"version":2,"tree":"$:w"}')
    with pytest.raises(errors.UnsupportedError, match=r"version 2.*Update tensorkeep"):
        tk.load(path)


def test_unknown_frameworks(path: Path) -> None:
    for notes in ({"framework": "abacus"}, {"tree": {"$array": "$:w", "framework": "abacus"}}):
        refuse(write(path, notes), errors.CorruptError, errors.UnsupportedError)
        assert list(tk.open(path)) == ["w", "s"]


TYPES = ["O", "V8", "M8[s]", "m8", "f8", "<U", "U-1", "x", "i4,i4", "<U" + "9" * 30, "(2,", "Z"]


@pytest.mark.parametrize("text", TYPES)
def test_text_types_that_are_none(text: str, path: Path) -> None:
    """A file may say which NumPy text type strings had, and nothing else."""
    tk.save([NAMES], path, checksums=False)
    data = path.read_bytes()
    for leaf in ({"$array": "$:0", "numpy": text}, {"$array": "$:w", "numpy": text}):
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        notes = json.loads(header["__metadata__"]["tensorkeep"])
        notes["tree"] = [leaf]
        if leaf["$array"] == "$:w":
            refuse(write(path, {"tree": [leaf]}))
            continue
        header["__metadata__"]["tensorkeep"] = json.dumps(notes)
        raw = json.dumps(header).encode()
        tail = data[8 + int.from_bytes(data[:8], "little") :]
        path.write_bytes(len(raw).to_bytes(8, "little") + raw + tail)
        refuse(path)


def test_a_text_type_that_is_far_too_wide(path: Path) -> None:
    """Two short strings, said to be of 200,000,000 characters each."""
    tk.save([np.array(["a", "bc"])], path, checksums=False)
    data = path.read_bytes()
    assert data.count(b"<U2") == 1
    wide = data.replace(b"<U2", b"<U200000000").replace(b"        ", b"", 1)
    path.write_bytes(wide)
    refuse(path, errors.CorruptError, errors.UnsafeError)


def test_many_copies_of_one_tensor(path: Path) -> None:
    """A few bytes of nesting may not ask for a fresh copy of a tensor each."""
    large = np.zeros(10 << 20, np.uint8)
    for leaf in (
        {"$bytes": "$:w"},
        {"$bytearray": "$:w"},
        {"$array": "$:w"},
        "$:w",
        {"$scalar": "$:w"},
    ):
        write(path, {"tree": [leaf] * 1000}, w=large)
        try:
            found = tk.load(path)
        except tk.TensorKeepError:
            continue
        assert len(found) == 1000


def test_a_deep_nesting(path: Path) -> None:
    for text in ("[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900):
        write(path, '{"version":1,"tree":' + text + "}")
        try:
            tk.load(path)
        except tk.TensorKeepError:
            continue


@pytest.mark.parametrize("tag", ["tuple", "set", "frozenset", "deque"])
def test_a_deep_nesting_of(tag: str, path: Path) -> None:
    for levels in (150, 900):
        text = f'{{"${tag}":[' * levels + "]}" * levels
        write(path, '{"version":1,"tree":' + text + "}")
        try:
            tk.load(path)
        except errors.CorruptError:
            continue
        assert tag in ("tuple", "deque")


@pytest.mark.parametrize("name", ["eval", "exec", "open", "system", "type", "object", "Counter"])
def test_a_factory_is_never_looked_up(name: str, path: Path) -> None:
    refuse(write(path, {"tree": {"$defaultdict": [["a", 1]], "factory": name}}))


def test_a_range_far_too_long_is_not_counted(path: Path) -> None:
    write(path, {"tree": {"$range": [0, {"$int": "0x1" + "0" * 100}, 1]}})
    assert tk.load(path) == range(16**100)


@pytest.mark.parametrize("loaded", [None, types.ModuleType("torch")], ids=["none", "empty"])
@pytest.mark.parametrize(
    ("kind", "told"), [("dtype", "float32"), ("dtype", "load"), ("device", "cuda:0"), ("size", [2])]
)
def test_a_torch_that_is_not_there(
    kind: str, told: Any, loaded: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", loaded)
    write(path, {"tree": {"$torch": [kind, told]}})
    assert tk.load(path) == (tuple(told) if kind == "size" else told)


def test_a_dtype_that_torch_calls_so_and_is_none(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may name an element type, not anything else that torch has."""
    ran: list[str] = []
    torch = types.ModuleType("torch")
    vars(torch)["dtype"] = type("dtype", (), {})
    vars(torch)["load"] = ran.append
    vars(torch)["__getattr__"] = ran.append
    monkeypatch.setitem(sys.modules, "torch", torch)
    for name in ("load", "hub", "dtype"):
        write(path, {"tree": {"$torch": ["dtype", name]}})
        assert tk.load(path) == name
    assert ran == []


@pytest.mark.parametrize("field", ["a b", "_a", "def", "", "a=print(1)", "__class__", "\n"])
def test_fields_that_are_no_names_are_harmless(field: str, path: Path) -> None:
    write(path, {"tree": {"$namedtuple": ["m", "P", {field: 1}]}})
    try:
        found = tk.load(path)
    except errors.CorruptError:
        return
    assert found == (1,)
    assert all(name.isidentifier() for name in found._fields)


def test_names_import_nothing(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "booby.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    write(path, {"tree": {"$namedtuple": ["booby", "Trap", {"a": 1}]}})
    found = tk.load(path)
    assert (type(found).__name__, found.a) == ("Trap", 1)
    assert "booby" not in set(sys.modules) - before


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("os", "stat_result"),
        ("builtins", "tuple"),
        ("sys", "modules"),
        ("os", ""),
    ],
)
def test_only_classes_of_the_same_fields_are_used(module: str, name: str, path: Path) -> None:
    write(path, {"tree": {"$namedtuple": [module, name, {"a": 1}]}})
    try:
        found = tk.load(path)
    except errors.CorruptError:
        return
    assert found._fields == ("a",)
    assert found == (1,)


def test_a_class_whose_lookup_runs_code(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    class Loud:
        def __getattr__(self, name: str) -> Any:
            ran.append(name)
            raise AttributeError(name)

    monkeypatch.setattr(sys.modules[__name__], "LOUD", Loud(), raising=False)
    write(path, {"tree": {"$namedtuple": [__name__, "LOUD.inner", {"a": 1}]}})
    assert tk.load(path) == (1,)
    assert ran == []
