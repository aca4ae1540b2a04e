"""Every model that ONNX tests its operators with: read, written, and each tensor compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.formats.onnx import models

import tensorkeep as tk
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.state import State


def _all() -> Iterator[tuple[str, bytes]]:
    yield from models.generated().items()
    yield from models.shipped().items()
    yield "full", models.encode(models.full_model())


def _few_alike() -> Iterator[tuple[str, bytes]]:
    """Leave out large nets, and four of five expanded functions: long rows of the same nodes."""
    for place, (name, data) in enumerate(_all()):
        large = name.startswith("light/") and len(data) > 40_000
        if not large and ("_expanded" not in name or place % 5 == 0):
            yield name, data


def test_they_are_all_there() -> None:
    assert len(models.generated()) > 1500
    assert len(models.shipped()) > 140


def test_every_model_is_written_as_it_was_read() -> None:
    for name, data in _all():
        with tk.open(models.at(data)) as state:
            assert state.format == "onnx", name
            assert models.saved(state) == data, name


def test_every_model_is_the_same_when_all_of_it_is_written_anew() -> None:
    for name, data in _few_alike():
        message = Message.parse(MODEL, data)
        models.touch(message)
        fresh = message.encode()
        theirs = onnx.ModelProto.FromString(data)
        assert onnx.ModelProto.FromString(fresh) == theirs, name
        assert fresh == models.encode(theirs), name
        assert message.size() == len(fresh), name


def test_every_tensor_is_found_and_equal() -> None:
    count = 0
    for name, data in _all():
        theirs = list(models.tensors_of(onnx.ModelProto.FromString(data)))
        with tk.open(models.at(data)) as state:
            assert state.graph is not None
            places = state.graph.places()
            assert list(places) == list(state), name
            ours = Counter(place.message.encode() for place in places.values())
            assert ours == Counter(map(models.encode, theirs)), name
            for key, place in places.items():
                count += 1
                proto = onnx.TensorProto.FromString(place.message.encode())
                _expect_equal(state, key, proto)
    assert count > 3000


def _expect_equal(state: State, key: str, proto: Any) -> None:
    if proto.data_type == onnx.TensorProto.UNDEFINED:
        return
    expected, found = numpy_helper.to_array(proto), state[key].numpy()
    assert found.shape == expected.shape
    if found.dtype == object:
        assert found.tolist() == expected.astype(object).tolist()
    else:
        assert found.dtype == expected.dtype
        assert found.tobytes() == np.ascontiguousarray(expected).tobytes()


@pytest.mark.parametrize("ending", ["pbtxt", "onnx.json"])
def test_a_full_model_as_text(ending: str) -> None:
    model = models.full_model()
    with tk.open(models.at(models.encode(model))) as state:
        text = models.saved(state, f"m.{ending}")
    with tk.open(models.at(text, f"m.{ending}")) as again:
        assert onnx.ModelProto.FromString(models.saved(again)) == model
        assert list(again) == list(state)


def test_fields_that_are_not_known_stay() -> None:
    """A later version of ONNX has fields that this one does not know, at any level."""
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Relu", ["x"], ["y"], name="n")],
            "g",
            [],
            [],
            [numpy_helper.from_array(np.arange(3, dtype=np.float32), "w")],
        )
    )
    unknown = b"\xfa\x3e\x03new" + b"\xf0\x3e\x07"  # field 1007, bytes, and field 1006, a number
    for part in (model, model.graph, model.graph.node[0], model.graph.initializer[0]):
        part.MergeFromString(unknown)
    data = models.encode(model)
    assert data.count(unknown) == 4
    with tk.open(models.at(data)) as state:
        assert models.saved(state) == data
        changed = state.replace(tensors={"w": tk.open(models.at(data))["w"]})
        fresh = models.saved(changed)
    assert fresh.count(unknown) == 4
    assert onnx.ModelProto.FromString(fresh) == model
