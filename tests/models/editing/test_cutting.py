from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.models.editing.networks import (
    GIVEN,
    attention,
    convolutional,
    encoded,
    info,
    proto_of,
    run,
    state_of,
)
from tests.models.editing.probe import features, probe

from tensorkeep.errors import ArgumentError, LossError, MissingError
from tensorkeep.models.editing import cut, expose
from tensorkeep.models.opening import graph_of


def test_parts_compute_what_the_whole_does() -> None:
    state, given = state_of(convolutional()), GIVEN["convolutional"]
    head, tail = cut(state, outputs=["r"]), cut(state, inputs=["r"])
    proto_of(head)
    proto_of(tail)
    assert list(head) == ["conv.w", "conv.b", "bn.s", "bn.b", "bn.m", "bn.v"]
    assert list(tail) == ["scales", "flat", "fc.w", "fc.b"]
    middle = run(head, given)[0]
    np.testing.assert_allclose(run(tail, {"r": middle})[0], run(state, given)[0], atol=1e-6)


def test_captures_of_subgraphs_are_uses() -> None:
    state, given = state_of(attention()), GIVEN["attention"]
    tail = cut(state, inputs=["a", "c"])
    assert list(tail) == ["bias", "axes"]
    middle = run(cut(state, outputs=["a"]), {"x": given["x"]})[0]
    found = run(tail, {"a": middle, "c": given["c"]})[0]
    np.testing.assert_allclose(found, run(state, given)[0], atol=1e-6)


def test_only_what_is_used_stays() -> None:
    part = cut(state_of(probe()), inputs=["e"], outputs=["f"], lossy=True)
    proto = onnx.load_from_string(encoded(part))
    assert [f.overload for f in proto.functions] == ["v2"]
    assert [node.name for node in proto.graph.node] == ["first call"]
    assert not proto.graph.initializer
    assert not proto.graph.sparse_initializer
    assert not proto.graph.quantization_annotation
    whole = onnx.load_from_string(probe())
    (was,) = [row for row in whole.graph.value_info if row.name == "e"]
    assert proto.graph.input[0].SerializeToString() == was.SerializeToString()
    assert features(probe())["graph"][0][1] == [
        row.SerializeToString() for row in proto.graph.metadata_props
    ]


def test_annotations_keep_what_they_name() -> None:
    part = cut(state_of(probe()), outputs=["m"])
    proto = onnx.load_from_string(encoded(part))
    assert [row.name for row in proto.graph.initializer] == ["w", "scale", "zero"]
    assert proto.graph.quantization_annotation[0].tensor_name == "m"
    assert len(proto.training_info) == 1


def test_output_that_lies_inside_keeps_its_type() -> None:
    state = expose(state_of(convolutional()), "r")
    part = cut(state, outputs=["y"])
    assert "r" in [row.name for row in graph_of(part).model.graph.value_info]


def test_node_that_gives_an_input_beside_what_is_needed() -> None:
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], axis=0),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [info("x", 4)], [info("y", 2)], value_info=[info("a", 2), info("b", 2)]
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    part = cut(state_of(proto), inputs=["a", "x"])
    proto_of(part)
    given = {"a": np.array([1, 1], "f4"), "x": np.arange(4, dtype="f4")}
    assert run(part, given)[0].tolist() == [3, 4]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"outputs": ["rr"]}, MissingError, "Did you mean"),
        ({"inputs": ["f"], "outputs": ["c"]}, ArgumentError, "need x too"),
        ({"inputs": ["r"], "outputs": ["r"]}, ArgumentError, "both an input and an output"),
        ({"outputs": []}, ArgumentError, "there has to be an output"),
        ({"outputs": ["r", "r"]}, ArgumentError, "named twice"),
    ],
)
def test_refusals(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        cut(state_of(convolutional()), **options)


def test_unknown_type_is_refused() -> None:
    node = helper.make_node("Strange", ["x"], ["h"], domain="my")
    last = helper.make_node("Strange", ["h"], ["y"], domain="my")
    graph = helper.make_graph([node, last], "g", [info("x", 1)], [info("y", 1)])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("my", 1)])
    with pytest.raises(ArgumentError, match="type of 'h' is not known"):
        cut(state_of(proto), outputs=["h"])
    with pytest.raises(ArgumentError, match="type of 'h' is not known"):
        expose(state_of(proto), ["h"])


def test_training_that_needs_more_is_no_silent_loss() -> None:
    state = state_of(probe())
    with pytest.raises(LossError, match="training_info 0 needs w"):
        cut(state, inputs=["e", "x", "c"])
    assert not graph_of(cut(state, inputs=["e", "x", "c"], lossy=True)).model.training_info


def test_expose_refusals() -> None:
    state = state_of(convolutional())
    for names, text in (("y", "an output already"), ("x", "not computed"), ("conv.w", "a tensor")):
        with pytest.raises(ArgumentError, match=text):
            expose(state, names)
    with pytest.raises(MissingError, match="has no value called 'nothing"):
        expose(state, "nothing*")
    exposed = expose(state, ["c", "n*", "r"])
    assert [v.name for v in graph_of(exposed).outputs] == ["y", "c", "n", "r"]


def test_no_names() -> None:
    for names, problem in ((3, "the inputs are a list of names"), ([3], "an input is text, not 3")):
        with pytest.raises(ArgumentError, match=problem):
            cut(state_of(convolutional()), inputs=names)  # type: ignore[arg-type]
