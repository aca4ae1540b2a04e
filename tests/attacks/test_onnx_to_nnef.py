"""Nodes that no exporter writes: each becomes NNEF, or is refused, soon and without much memory."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from tests.models.exchange.onnx_nodes import array, written

from tensorkeep.errors import TensorKeepError
from tensorkeep.models.exchange.onnx_to_nnef import TABLE
from tensorkeep.models.exchange.onnx_to_nnef.whole import write
from tensorkeep.models.exchange.report import Refused, Report
from tensorkeep.models.exchange.settled import Node, Settled
from tensorkeep.tensor import Tensor

OPERATORS = sorted(row.operator for row in TABLE)
NUMBERS = (0, 1, 2, 3, -1, 5, 1 << 20, 1 << 31, 1 << 40, 1 << 62)
WORDS = (
    *("SAME_UPPER", "VALID", "linear", "cubic", "nearest", "floor", "align_corners", "reverse"),
    *("bidirectional", "not_larger", "half_pixel_symmetric", "ij,jk", "ii", "...i->...", "->", "é"),
)
KEYS = (
    *("kernel_shape", "strides", "dilations", "pads", "auto_pad", "group", "output_padding"),
    *("output_shape", "ceil_mode", "p", "epsilon", "axis", "axes", "alpha", "transA", "equation"),
    *("num_groups", "size", "mode", "nearest_mode", "coordinate_transformation_mode", "scales"),
    *("direction", "layout", "clip", "hidden_size", "activations", "antialias", "block_size"),
    *("perm", "split", "starts", "ends", "to", "keepdims", "blocksize", "shape", "value", "k"),
)
TYPES = ("float32",) * 8 + ("uint8", "int8", "int32", "int64", "float16", "bool", "string")


def some_value(chance: random.Random) -> Any:
    """Give an attribute of any kind."""
    kind = chance.random()
    if kind < 0.3:
        return chance.choice(NUMBERS)
    if kind < 0.5:
        return chance.choice(WORDS)
    if kind < 0.6:
        return chance.choice((0.5, -1.0, float("nan"), float("inf"), 1e30))
    if kind < 0.95:
        few = [chance.choice(NUMBERS) if chance.random() < 0.3 else chance.randint(0, 3)] * 2
        return tuple(few[: chance.randint(0, 2)] + [chance.randint(0, 3)] * chance.randint(0, 3))
    return chance.choice((None, b"\xff", Tensor.of(np.zeros(2))))


def some_shape(chance: random.Random) -> tuple[int, ...]:
    """Give a shape, now and then a large one, or one of nothing."""
    odd = (1, 0, 1 << 33)
    sizes = [chance.choice(odd) if chance.random() < 0.05 else chance.randint(1, 4)]
    return tuple(sizes + [chance.randint(1, 4) for _ in range(chance.randint(0, 4))])[
        : chance.randint(0, 5)
    ]


def some_model(chance: random.Random) -> Settled:
    """Give a model of one node."""
    operator = chance.choice(OPERATORS)
    names = [f"i{index}" if chance.random() < 0.9 else "" for index in range(chance.randint(0, 9))]
    outputs = [f"o{index}" for index in range(chance.randint(0, 3))]
    common = some_shape(chance)
    shapes, types, constants = {}, {}, {}
    for name in [each for each in (*names, *outputs) if each]:
        shapes[name] = common if chance.random() < 0.4 else some_shape(chance)
        types[name] = chance.choice(TYPES)
        small = 0 < np.prod([float(size) for size in shapes[name]]) < 1e4
        if name in names and small and types[name] != "string" and chance.random() < 0.4:
            values = np.resize(np.arange(-2, 4), shapes[name]).astype(types[name])
            constants[name] = Tensor.of(values)
    chosen = chance.sample(KEYS, chance.randint(0, 8))
    attributes = {key: some_value(chance) for key in chosen}
    since = chance.choice((1, 6, 7, 9, 10, 11, 13, 18, 21, 28))
    node = Node(operator, "", "node", names, outputs, attributes, since)
    inputs = [name for name in dict.fromkeys(names) if name and name not in constants]
    return Settled([node], inputs, outputs, types, shapes, constants, "hostile")


def test_odd_nodes_are_written_or_refused() -> None:
    chance = random.Random(7)
    refused = 0
    for _ in range(3000):
        try:
            write(some_model(chance), Report("onnx", "nnef"))
        except TensorKeepError:
            refused += 1
    assert 1000 < refused < 3000


@pytest.mark.parametrize(
    ("operator", "inputs", "output", "attributes", "reason"),
    [
        (
            "MaxPool",
            [(1, 1, 4)],
            (1, 1, 1 << 40),
            {"kernel_shape": [2], "dilations": [1 << 40], "pads": [1 << 40, 1 << 40]},
            "nothing but padding",
        ),
        (
            "Resize",
            [(1, 1, 1 << 20), None, array([1, 1, 1 << 10])],
            (1, 1, 1 << 30),
            {},
            "too long to be written out",
        ),
        (
            "RNN",
            [(1 << 40, 1, 1), np.ones((1, 1, 1), "f"), np.ones((1, 1, 1), "f")],
            (1 << 40, 1, 1, 1),
            {},
            "too large a graph",
        ),
        (
            "Einsum",
            [(1, 1)],
            (1,),
            {"equation": "i" * 100_000 + "->i"},
            "names 100000 axes of 2",
        ),
    ],
)
def test_what_would_be_huge_is_refused(
    operator: str, inputs: list[Any], output: tuple[int, ...], attributes: Any, reason: str
) -> None:
    with pytest.raises(Refused) as refused:
        written(operator, inputs, output, **attributes)
    assert reason in refused.value.reason
