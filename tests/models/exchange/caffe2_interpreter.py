"""A tiny interpreter of Caffe2's nets, which knows nothing of ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tests.models.exchange import caffe2_elements, caffe2_layers, caffe2_moves
from tests.models.exchange.caffe2_operators import OPERATORS, Array

from tensorkeep.message import Message
from tensorkeep.state import State
from tensorkeep.wire.caffe2.nets import Nets

KERNELS = (caffe2_elements, caffe2_layers, caffe2_moves)  # which fill OPERATORS


def run_net(state: State, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run the predict net of a state, whose tensors are its weights."""
    nets = state.document
    assert isinstance(nets, Nets)
    blobs = {name: _array(tensor.numpy()) for name, tensor in state.items()} | dict(feeds)
    for each in nets.predict.op:
        values = [blobs[name] for name in each.input]
        results = run_operator(each, values)
        blobs.update(zip(each.output, results, strict=True))
    return {name: blobs[name] for name in nets.predict.external_output}


def _array(values: Any) -> Array:
    return np.asarray(values)


def run_operator(each: Message, values: list[Array]) -> list[Array]:
    """Run one operator."""
    run, types, least, most, outputs = OPERATORS[each.type]
    assert least <= len(values) <= most, f"{each.type} takes {len(values)}"
    assert len(each.output) == outputs or each.type in ("Split", "TopK", "Concat"), each.type
    assert values[0].dtype.name in types, f"{each.type} of {values[0].dtype}"
    given = {row.name: _argument(row) for row in each.arg}
    assert len(given) == len(each.arg)
    with np.errstate(all="ignore"):
        made = run(*values, **given)
    results = list(made) if isinstance(made, tuple) else [made]
    return [np.asarray(result) for result in results]


def _argument(row: Message) -> Any:
    if "i" in row:
        return int(row.i)
    if "f" in row:
        return np.float32(row.f)
    if "s" in row:
        return bytes(row.s).decode()
    if "floats" in row and len(row.floats):
        return [float(value) for value in row.floats]
    return [int(value) for value in row.ints]
