"""ONNX models that contradict themselves, nest without end, or are made to fill the memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tests.formats.onnx import models

import tensorkeep as tk
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    MissingError,
    TensorKeepError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.message.schema import encode_varint
from tensorkeep.testing.equality import assert_equal_states

VERSION = b"\x08\x0a"


def sized(number: int, data: bytes) -> bytes:
    return encode_varint(number << 3 | 2) + encode_varint(len(data)) + data


def number(field: int, value: int) -> bytes:
    return encode_varint(field << 3) + encode_varint(value % (1 << 64))


def tensor(name: bytes = b"w", *parts: bytes, kind: int = 1, dims: tuple[int, ...] = (2,)) -> bytes:
    shape = b"".join(number(1, axis) for axis in dims)
    data = b"".join(parts) or sized(9, bytes(8))
    return shape + number(2, kind) + sized(8, name) + data


def model(*graph: bytes, more: bytes = b"") -> bytes:
    return VERSION + sized(7, b"".join(graph)) + sized(8, number(2, 18)) + more


def holding(*args: Any, **kwargs: Any) -> bytes:
    return model(sized(5, tensor(*args, **kwargs)))


def nested(depth: int) -> bytes:
    """Give a graph in a node in a graph, and so on."""
    graph = sized(5, tensor())
    for _ in range(depth):
        graph = sized(1, sized(5, sized(1, b"body") + sized(6, graph)))
    return graph


ATTACKS: dict[str, tuple[bytes, type[TensorKeepError], str]] = {
    "no type": (holding(kind=0), CorruptError, "w: has element type 0"),
    "a type of 99": (holding(kind=99), CorruptError, "w: has element type 99, which ONNX"),
    "a negative type": (holding(kind=-1), CorruptError, "has element type -1"),
    "a negative axis": (holding(dims=(-1,)), CorruptError, "has shape .-1,., which no array"),
    "the least axis": (holding(dims=(-(2**63),)), CorruptError, "which no array can have"),
    "the largest axis": (holding(dims=(2**63 - 1,)), CorruptError, "no array can have shape"),
    "axes of 2**80": (holding(dims=(2**40, 2**40)), CorruptError, "no array can have shape"),
    "axes that overflow to 0": (holding(dims=(2**32, 2**32)), CorruptError, "no array can have"),
    "65 axes": (holding(dims=(1,) * 65), CorruptError, "which no array can have"),
    "a million axes": (holding(dims=(1,) * 10**6), CorruptError, "which no array can have"),
    "more elements than bytes": (holding(dims=(3,)), CorruptError, "w: float32 .* takes 12 bytes"),
    "fewer elements than bytes": (holding(dims=(1,)), CorruptError, "w: float32 .* takes 4 bytes"),
    "a terabyte in raw_data": (holding(dims=(2**38,)), CorruptError, "bytes"),
    "a terabyte in a list": (
        holding(b"w", sized(4, bytes(8)), dims=(2**38,)),
        CorruptError,
        "take 274,877,906,944 values, but float_data has 2",
    ),
    "a terabyte of small numbers": (
        holding(b"w", sized(5, b"\1"), kind=3, dims=(2**40,)),
        CorruptError,
        "take 1,099,511,627,776 values, but int32_data has 1",
    ),
    "a terabyte of nothing": (
        holding(b"w", number(14, 0), dims=(2**38,)),
        MissingError,
        "holds no data",
    ),
    "a terabyte elsewhere": (
        holding(
            b"w",
            sized(13, sized(1, b"location") + sized(2, b"none.bin")),
            number(14, 1),
            dims=(2**38,),
        ),
        MissingError,
        "there is no key 'none.bin'",
    ),
    "values in another list": (
        holding(b"w", sized(7, b"\1\2")),
        MissingError,
        "w: has no float_data, but int64_data",
    ),
    "half a float": (holding(b"w", sized(4, bytes(6))), CorruptError, "float"),
    "text that is short": (holding(b"w", sized(6, b"a"), kind=8), CorruptError, "not 1"),
    "text in a file": (holding(b"w", number(14, 1), kind=8), CorruptError, "is text"),
    "a segment": (holding(b"w", sized(3, b"\x08\0"), sized(9, bytes(8))), UnsupportedError, "segm"),
    "a name with NUL": (holding(b"a\0b"), UnsafeError, "holds a NUL"),
    "a name that leads out": (holding(b"../../w"), UnsafeError, "has .. as a folder"),
    "a name without end": (holding(b"x" * 5000), UnsafeError, "is longer than 4096 bytes"),
    "subgraphs 40 deep": (model(nested(40)), CorruptError, "nest more than 100 levels deep"),
    "subgraphs 3,000 deep": (model(nested(3000)), CorruptError, "nest more than 100 levels"),
    "no graph": (VERSION + sized(7, b"")[:0] + sized(8, b""), CorruptError, "holds no graph"),
    "a graph of one byte": (VERSION + b"\x3a\x01\x0a", CorruptError, "is cut short"),
    "a graph that is too long": (VERSION + b"\x3a\xff\xff\xff\x7f", CorruptError, "a field of"),
    "notes that are no JSON": (
        model(sized(5, tensor()), more=sized(14, sized(1, b"tensorkeep") + sized(2, b"{"))),
        CorruptError,
        "tensorkeep metadata",
    ),
    "notes twice": (
        model(
            sized(5, tensor()),
            more=2 * sized(14, sized(1, b"tensorkeep") + sized(2, b'{"version":1}')),
        ),
        CorruptError,
        "has two notes of tensorkeep",
    ),
    "digests without a seal": (
        model(
            sized(5, tensor()),
            more=sized(
                14,
                sized(1, b"tensorkeep") + sized(2, b'{"version":1,"xxh3_128":"%s"}' % (b"0" * 32)),
            ),
        ),
        CorruptError,
        "the model's own digest is gone",
    ),
    "a state without its notes": (
        model(sized(2, b"tensorkeep.state"), sized(5, tensor())),
        CorruptError,
        "the notes at its end are gone",
    ),
    "empty tensors without end": (
        model(b"\x2a\x00" * 300_000),
        UnsafeError,
        "fields with almost nothing in them",
    ),
}


@pytest.mark.parametrize(("data", "error", "text"), ATTACKS.values(), ids=ATTACKS)
def test_attacks(data: bytes, error: type[TensorKeepError], text: str) -> None:
    for copy in (False, True):
        with pytest.raises(error, match=text):
            tk.load(models.at(data), format="onnx", copy=copy)


def test_a_sound_one_is_read() -> None:
    """So that the attacks above fail for the reason that they name."""
    assert tk.load(models.at(holding()))["w"].tolist() == [0, 0]
    assert len(tk.load(models.at(model(nested(30))))) == 1


def test_names_that_come_many_times() -> None:
    """As initializers of one name do, which `onnx` refuses and others merge."""
    data = model(*[sized(5, tensor(b"w"))] * 20_000, sized(5, tensor(b"w~2")))
    with tk.open(models.at(data)) as state:
        assert len(state) == 20_001
        assert list(state)[:3] == ["w", "w~2", "w~3"]
        assert list(state)[-1] == "w~2~2"
        assert models.saved(state) == data


@pytest.mark.parametrize("name", [b"\xff", b"\xed\xa0\x80", b"a\xc3"])
def test_names_that_are_not_utf_8(name: bytes) -> None:
    """They are shown with their bytes escaped, and kept."""
    data = holding(name)
    with tk.open(models.at(data)) as state:
        assert list(state) == [name.decode("utf-8", "backslashreplace")]
        assert models.saved(state) == data


def test_functions_that_call_one_another() -> None:
    """Nothing is expanded, so a circle of calls is only what it is."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    functions = [
        helper.make_function(
            "own", name, ["x"], ["y"], [helper.make_node(other, ["x"], ["y"], domain="own")], opsets
        )
        for name, other in (("F", "G"), ("G", "F"), ("H", "H"))
    ]
    graph = helper.make_graph([helper.make_node("F", ["x"], ["y"], domain="own")], "g", [], [])
    data = models.encode(helper.make_model(graph, functions=functions, opset_imports=opsets))
    with tk.open(models.at(data)) as state:
        assert state.graph is not None
        assert models.saved(state) == data


def test_keys_that_come_twice() -> None:
    """They stay as they are; the last one counts."""
    proto = helper.make_model(helper.make_graph([], "g", [], []))
    for value in ("one", "two"):
        proto.metadata_props.add(key="k", value=value)
    data = models.encode(proto)
    with tk.open(models.at(data)) as state:
        assert state.metadata == {"k": "two"}
        assert models.saved(state) == data


def test_a_field_that_comes_twice_is_merged() -> None:
    """As protobuf merges it: the graph goes on."""
    one, two = sized(7, sized(5, tensor(b"a"))), sized(7, sized(5, tensor(b"b")))
    data = VERSION + one + two + sized(8, number(2, 18))
    with tk.open(models.at(data)) as state:
        assert list(state) == ["a", "b"]
        assert onnx.ModelProto.FromString(models.saved(state)) == onnx.ModelProto.FromString(data)


@pytest.fixture(scope="module")
def small() -> bytes:
    inner = helper.make_graph([], "then", [], [], [numpy_helper.from_array(np.arange(3), "s")])
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["c"], value=helper.make_tensor("", 10, [2], [1, 2])),
            helper.make_node("If", ["b"], ["i"], then_branch=inner),
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, "n"])],
        [],
        [
            numpy_helper.from_array(np.arange(4, dtype=np.float32), "w"),
            helper.make_tensor("texts", 8, [2], [b"a", b"\xff"]),
        ],
    )
    return models.encode(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))


def damaged(data: bytes) -> Iterator[bytes]:
    """Give every truncation, three flips of each byte (all bits in turn), and some insertions."""
    for at in range(len(data)):
        yield data[:at]
        for bit in {at % 8, (at + 3) % 8, (at + 6) % 8}:
            yield data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
    for at, byte in itertools.product(range(0, len(data), 3), (b"\0", b"\xff", b"\x7f\x7f")):
        yield data[:at] + byte + data[at:]


def test_damage_gives_our_errors_alone(small: bytes) -> None:
    count = 0
    for data in damaged(small):
        count += 1
        try:
            with tk.open(models.at(data)) as state:
                for array in state.values():
                    array.numpy()
                models.saved(state)
        except TensorKeepError:
            continue
    assert count > 800


def test_damage_is_found_where_there_are_digests(small: bytes) -> None:
    with tk.open(models.at(small)) as state:
        sound = models.saved(state, checksums=True)
    expected = tk.load(models.at(sound), verify=True)
    accepted = 0
    for data in damaged(sound):
        try:
            found = tk.load(models.at(data), verify=True)
        except TensorKeepError:
            continue
        accepted += 1
        assert_equal_states(found, expected)
    assert accepted < 20


def test_what_lies_outside_is_verified_too(tmp_path: Path) -> None:
    values = {"w": np.arange(1000, dtype=np.float32)}
    tk.save(values, tmp_path / "m.onnx", external=True)
    tk.load(tmp_path / "m.onnx", verify=True)
    data = bytearray((tmp_path / "m.onnx.data").read_bytes())
    data[100] ^= 1
    (tmp_path / "m.onnx.data").write_bytes(data)
    with pytest.raises(CorruptError, match="w"):
        tk.load(tmp_path / "m.onnx", verify=True)
    with pytest.raises(CorruptError, match="w"):
        tk.convert(tmp_path / "m.onnx", tmp_path / "n.onnx")


def test_a_name_that_was_chosen_to_fill_the_disk(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="align cannot be"):
        tk.save({"w": np.zeros(1000)}, tmp_path / "m.onnx", external=True, align="1TiB")
