"""Nodes that no exporter writes: each becomes Caffe2's or is refused, soon and in little memory."""

from __future__ import annotations

import random

import numpy as np
import pytest
from tests.attacks.test_onnx_to_nnef import TYPES, some_shape, some_value
from tests.models.exchange.caffe2_trips import written
from tests.models.exchange.onnx_nodes import array

from tensorkeep.errors import CorruptError, TensorKeepError, UnsafeError
from tensorkeep.formats.caffe2.net import decode
from tensorkeep.message import Message
from tensorkeep.models.exchange.onnx_to_caffe2 import TABLE, write
from tensorkeep.models.exchange.report import Refused, Report
from tensorkeep.models.exchange.settled import Node, Settled
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.schema import NET

OPERATORS = sorted(row.operator for row in TABLE)
KEYS = (
    *("kernel_shape", "strides", "dilations", "pads", "auto_pad", "group", "output_padding"),
    *("output_shape", "ceil_mode", "epsilon", "axis", "axes", "alpha", "beta", "transA", "gamma"),
    *("num_groups", "size", "mode", "nearest_mode", "coordinate_transformation_mode", "scales"),
    *("perm", "split", "starts", "ends", "to", "keepdims", "blocksize", "shape", "value", "k"),
    *("min", "max", "ratio", "is_test", "spatial", "broadcast", "bias", "approximate", "paddings"),
)


def some_model(chance: random.Random) -> Settled:
    """Give a model of one node."""
    operator = chance.choice(OPERATORS)
    names = [f"i{index}" if chance.random() < 0.9 else "" for index in range(chance.randint(0, 6))]
    outputs = [f"o{index}" for index in range(chance.randint(0, 3))]
    common, kind = some_shape(chance), chance.choice(TYPES)
    shapes, types, constants = {}, {}, {}
    for name in [each for each in (*names, *outputs) if each]:
        shapes[name] = common if chance.random() < 0.4 else some_shape(chance)
        types[name] = kind if chance.random() < 0.5 else chance.choice(TYPES)
        small = 0 < np.prod([float(size) for size in shapes[name]]) < 1e4
        if name in names and small and types[name] != "string" and chance.random() < 0.4:
            values = np.resize(np.arange(-2, 4), shapes[name]).astype(types[name])
            constants[name] = Tensor.of(values)
    attributes = {key: some_value(chance) for key in chance.sample(KEYS, chance.randint(0, 8))}
    since = chance.choice((1, 6, 7, 9, 10, 11, 13, 18, 21, 28))
    node = Node(operator, "", "node", names, outputs, attributes, since)
    inputs = [name for name in dict.fromkeys(names) if name and name not in constants]
    return Settled([node], inputs, outputs, types, shapes, constants, "hostile")


def test_odd_nodes_are_written_or_refused() -> None:
    chance = random.Random(7)
    refused = 0
    for _ in range(3000):
        try:
            write(some_model(chance), Report("onnx", "caffe2"))
        except TensorKeepError:
            refused += 1
    assert 1000 < refused < 3000


def test_an_image_that_would_be_huge_is_refused() -> None:
    twice = array([1, 1, 1 << 20, 1])
    with pytest.raises(Refused, match="has 1,099,511,627,776 pixels along an axis"):
        written("Resize", [(1, 1, 1 << 20, 1), None, twice], (1, 1, 1 << 40, 1))


@pytest.mark.parametrize(
    ("text", "kind", "problem"),
    [
        (b"{", CorruptError, "tensorkeep.inputs is broken at character 1"),
        (b"\xff", CorruptError, "tensorkeep.inputs is not UTF-8"),
        (b"[" * 100_000, CorruptError, "tensorkeep.inputs is nested too deeply"),
        (b"[]", CorruptError, "tensorkeep.inputs says '[]', no element type and shape"),
        (b'{"x": 3}', CorruptError, "tensorkeep.inputs says '3', no element type"),
        (b'{"x": ["float32", [-1]]}', CorruptError, "no element type and shape"),
        (b'{"x": ["float32", [true]]}', CorruptError, "no element type and shape"),
        (b'{"x": ["float33", [1]]}', CorruptError, "no element type and shape"),
        (b'{"x": ["float32", [1], 2]}', CorruptError, "no element type and shape"),
        (b'{"x": [1' + b",1" * 200_000 + b"]}", UnsafeError, "holds more than 100,000 values"),
    ],
)
def test_a_note_of_inputs_that_is_something_else(
    text: bytes, kind: type[TensorKeepError], problem: str
) -> None:
    net = Message(NET, name="tiny")
    net.add("op", type="Relu", input=["x"], output=["y"])
    net.add("arg", name="tensorkeep.inputs", s=text)
    location = Location(MemoryStore({"predict_net.pb": net.encode()}), "predict_net.pb")
    with pytest.raises(kind) as caught:
        decode(location)
    assert problem in caught.value.problem
