"""Each name that may stand in a PyTorch file, and each kind of value, from pickles made by hand."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections import OrderedDict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.state import State
from tensorkeep.testing import assert_equal_states
from tensorkeep.tree.pickled import nest_pickled
from tensorkeep.wire.pickle.machine import read_pickle
from tensorkeep.wire.pickle.plain import PLAIN
from tensorkeep.wire.pickle.writing import Call, Global, Persistent, dump

UTILS = "torch._utils"
FLOATS = np.arange(6, dtype="<f4")
STORAGE = Persistent(("storage", Global("torch", "FloatStorage"), "0", "cpu", 6))
NO_HOOKS = Call(Global("collections", "OrderedDict"), ())


def call(name: str, *arguments: Any) -> Call:
    return Call(Global(UTILS, name), arguments)


def tensor(*shape: int, offset: int = 0) -> Call:
    strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    return call("_rebuild_tensor_v2", STORAGE, offset, shape, strides, False, NO_HOOKS)


def opened(path: Path, value: Any) -> State:
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("a/data.pkl", dump(value))
        zipped.writestr("a/data/0", FLOATS.tobytes())
    return tk.open(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.pt"


ARRAY = Call(
    Global("numpy._core.numeric", "_frombuffer"),
    (
        Call(Global("_codecs", "encode"), ("\x01\0\0\0", "latin1")),
        Call(Global("numpy", "dtype"), ("i4", False, True)),
        (1,),
        "C",
    ),
)
TENSORS: dict[str, tuple[Any, dict[str, Any]]] = {
    "the oldest call": (call("_rebuild_tensor", STORAGE, 2, (2,), (2,)), {"x": [2, 4]}),
    "a parameter": (call("_rebuild_parameter", tensor(2), True, NO_HOOKS), {"x": [0, 1]}),
    "a parameter without attributes": (
        call("_rebuild_parameter_with_state", tensor(2), True, NO_HOOKS, {}),
        {"x": [0, 1]},
    ),
    "a parameter made by its class": (
        Call(Global("torch.nn.parameter", "Parameter"), (tensor(2), True)),
        {"x": [0, 1]},
    ),
    "a type of its own": (
        call(
            "_rebuild_tensor_v3",
            Persistent(("storage", Global("torch.storage", "UntypedStorage"), "0", "cpu", 24)),
            1, (2,), (2,), False, NO_HOOKS, Global("torch", "int32"),
        ),
        {"x": FLOATS.view("<i4")[1:5:2].tolist()},
    ),
    "a tensor by its class": (
        Call(
            Global("torch._tensor", "_rebuild_from_type_v2"),
            (
                Global(UTILS, "_rebuild_tensor_v2"),
                Global("torch", "Tensor"),
                (STORAGE, 0, (2,), (1,), False, NO_HOOKS),
                {},
            ),
        ),
        {"x": [0, 1]},
    ),
    "from another device": (
        call(
            "_rebuild_device_tensor_from_cpu_tensor",
            tensor(2), Global("torch", "float32"), "xla", False,
        ),
        {"x": [0, 1]},
    ),
    "from an array": (
        call("_rebuild_device_tensor_from_numpy", ARRAY, Global("torch", "int32"), "xla", False),
        {"x": [1]},
    ),
    "an array": (ARRAY, {"x": [1]}),
    "an old sparse tensor": (
        call("_rebuild_sparse_csr_tensor", tensor(3), tensor(2), tensor(2, offset=1), (2, 2)),
        {"x.crow_indices": [0, 1, 2], "x.col_indices": [0, 1], "x.values": [1, 2]},
    ),
    "a nested tensor": (
        call(
            "_rebuild_nested_tensor",
            tensor(6), tensor(2, 1), tensor(2, 1, offset=1), tensor(2, offset=2),
        ),
        {
            "x.values": [0, 1, 2, 3, 4, 5],
            "x.sizes": [[0], [1]],
            "x.strides": [[1], [2]],
            "x.offsets": [2, 3],
        },
    ),
    "a storage": (STORAGE, {"x": [0, 1, 2, 3, 4, 5]}),
    "a list of a program": (
        Call(Global("torch.jit._pickle", "build_tensorlist"), ([tensor(1)],)),
        {"x.0": [0]},
    ),
    "no elements": (tensor(0, 3), {"x": []}),
    "no axes": (tensor(), {"x": 0}),
}  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), TENSORS.values(), ids=TENSORS)
def test_tensors(value: Any, expected: dict[str, Any], path: Path) -> None:
    with opened(path, {"x": value}) as state:
        assert state.refused == ()
        assert {name: found.numpy().tolist() for name, found in state.items()} == expected


TOLD: dict[str, tuple[Any, str]] = {
    "attributes": (
        call("_rebuild_parameter_with_state", tensor(2), True, NO_HOOKS, {"a": 1}),
        "'x' is a tensor with attributes of its own, or of a class",
    ),
    "no values": (
        call("_rebuild_meta_tensor_no_storage", Global("torch", "float32"), (2,), (1,), False),
        "'x' is a tensor on the meta device, without values",
    ),
    "a layout": (
        Call(Global("torch.serialization", "_get_layout"), ("torch.strided",)),
        "'x' is a torch.layout",
    ),
    "a class": (Global("torch", "FloatTensor"), "'x' would need torch.FloatTensor"),
    "a stranger": (Global("evil", "thing"), "'x' would need evil.thing"),
    "a type of bits": (
        call(
            "_rebuild_tensor_v3", STORAGE, 0, (2,), (1,), False, NO_HOOKS, Global("torch", "bits8")
        ),
        "'x' is a tensor of torch.bits8, which is not kept",
    ),
}


@pytest.mark.parametrize(("value", "sentence"), TOLD.values(), ids=TOLD)
def test_what_is_told(value: Any, sentence: str, path: Path) -> None:
    with opened(path, {"x": value, "w": tensor(2, offset=1)}) as state:
        assert state.refused == (sentence,)
        assert state["w"].numpy().tolist() == [1, 2]


def test_values_of_torch(path: Path) -> None:
    value = {
        "size": Call(Global("torch", "Size"), ((2, 3),)),
        "device": Call(Global("torch", "device"), ("cuda", 1)),
        "cpu": Call(Global("torch", "device"), ("cpu",)),
        "ints": Call(Global("torch.jit._pickle", "build_intlist"), ([1, 2],)),
    }
    with opened(path, value) as state:
        assert state.skeleton == {
            "tree": {
                "size": {"$torch": ["size", [2, 3]]},
                "device": {"$torch": ["device", "cuda:1"]},
                "cpu": {"$torch": ["device", "cpu"]},
                "ints": [1, 2],
            }
        }


def test_a_flat_ordered_dict_is_a_flat_state(path: Path) -> None:
    with opened(path, OrderedDict(b=tensor(2), a=tensor(3))) as state:
        assert state.skeleton is None
        assert list(state) == ["b", "a"]
    with opened(path, OrderedDict(b=tensor(2), a=3)) as state:
        assert state.skeleton == {"tree": {"$ordereddict": [["b", "$"], ["a", 3]]}}


def test_what_a_state_dict_carries_besides(path: Path) -> None:
    """Versions of modules are metadata; anything else is told."""
    made = b"\x80\x02ccollections\nOrderedDict\n)R}X\x01\0\0\0aK\x01sb."
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("a/data.pkl", made)
    with tk.open(path) as state:
        assert state.refused == ("'the whole' carries attributes, which are not kept",)


def plain(data: bytes) -> Any:
    value = read_pickle(data, "a.pkl", allowed=PLAIN).value
    return nest_pickled(value, lambda value, place: value, "a.pkl")


def test_values_that_no_skeleton_holds() -> None:
    surrogate = plain(b"\x80\x02}X\x01\0\0\0aX\x03\0\0\0\xed\xa0\x80s.")
    assert surrogate.refused == ("'a' is text with a lone surrogate",)
    key = plain(b"\x80\x03}(C\x01aK\x01X\x01\0\0\0bK\x02u.")
    assert key.refused == ("the whole has a key or an item of type bytes that is not kept",)
    assert key.skeleton == {"tree": {"$dict": [["b", 2]]}}
    factory = plain(b"\x80\x02ccollections\ndefaultdict\ncm\nf\n\x85R.")
    assert factory.refused == ("the whole makes missing values by m.f",)
    count = plain(b"\x80\x02ccollections\nCounter\n}X\x01\0\0\0aG?\xf8\0\0\0\0\0\0s\x85R.")
    assert count.skeleton == {"tree": {"a": 1.5}}
    several = plain(b"\x80\x02](" + b"cm\nf\n" * 6 + b"e.")
    assert several.refused == ("'0', '1', '2' and 3 more would need m.f",)


def test_long_bytes_become_a_tensor() -> None:
    found = plain(b"\x80\x03}X\x01\0\0\0aB" + struct.pack("<I", 2000) + bytes(2000) + b"s.")
    assert found.tensors["a"].nbytes == 2000
    assert found.skeleton == {"tree": {"a": {"$bytes": "$"}}}


def test_numpy_values_keep_their_text(path: Path) -> None:
    value = {
        "text": np.array(["ab", "ü"]),
        "raw": np.array([b"a"]),
        "number": np.float64(1.5),
        "word": np.str_("x"),
        "queue": deque([1], 3),
        "range": range(1, 9, 2),
        "objects": None,
    }
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("a/data.pkl", pickle.dumps(value, 2))
    assert_equal_states(tk.load(path), value)
    objects = pickle.dumps({"o": np.array([{}]), "d": np.array("2020", "M8[D]")}, 2)
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("a/data.pkl", objects)
    with tk.open(path) as state:
        assert len(state.refused) == 2
        assert all("a NumPy array of" in sentence for sentence in state.refused)


def test_views_of_storages_in_older_files(tmp_path: Path) -> None:
    """Before 1.2 a storage could be a part of another; a class came with its source."""
    view = Persistent(("storage", Global("torch", "FloatStorage"), "0", "cpu", 6, ("v", 2, 3)))
    value = {"w": call("_rebuild_tensor", view, 1, (2,), (1,))}
    magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
    system = b"\x80\x02}X\x0d\0\0\0little_endian\x88s."
    path = tmp_path / "old.pt"
    data = magic + system + dump(value) + dump(["0"]) + struct.pack("<q", 6) + FLOATS.tobytes()
    path.write_bytes(data)
    assert tk.load(path)["w"].tolist() == [3, 4]
    kept = b"\x80\x02(X\x06\0\0\0modulecm\nNet\nX\x01\0\0\0fX\x01\0\0\0stQ)\x81."
    path.write_bytes(magic + system + kept + dump([]))
    with tk.open(path) as state:
        assert state.refused == ("the whole would need m.Net",)
