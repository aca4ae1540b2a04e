"""What differs between two models besides their tensors' values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

import tensorkeep as tk
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore


def model(**changes: Any) -> ModelProto:
    """Make a model with a subgraph, a function, a constant and an initializer."""
    axis = changes.get("axis", 1)
    inner = helper.make_graph(
        [helper.make_node(changes.get("inner", "Relu"), ["h"], ["i"])],
        "then",
        [],
        [helper.make_tensor_value_info("i", 1, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["h"], ["j"])],
        "else",
        [],
        [helper.make_tensor_value_info("j", 1, None)],
    )
    constant = numpy_helper.from_array(np.arange(3, dtype="f4"), "held")
    nodes = [
        helper.make_node("Constant", [], ["c"], value=constant),
        helper.make_node("Add", ["x", "w"], ["a"]),
        helper.make_node("Softmax", ["a"], ["h"], name="soft", axis=axis),
        helper.make_node(
            "If", ["flag"], ["y"], name="choice", then_branch=inner, else_branch=other
        ),
    ]
    graph = helper.make_graph(
        nodes[: changes.get("nodes", 4)],
        "g",
        [
            helper.make_tensor_value_info("x", 1, ["N", 3]),
            helper.make_tensor_value_info("flag", 9, []),
        ],
        [helper.make_tensor_value_info("y", 1, changes.get("shape", ["N", 3]))],
        [numpy_helper.from_array(np.full(3, changes.get("weight", 1.0), "f4"), "w")],
    )
    function = helper.make_function(
        "ours",
        "f",
        ["a"],
        ["b"],
        [helper.make_node(changes.get("body", "Relu"), ["a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", changes.get("opset", 17))],
        functions=[function],
        ir_version=changes.get("ir", 8),
    )
    if "note" in changes:
        helper.set_model_props(made, {"note": changes["note"]})
    return made


def at(made: ModelProto) -> Location:
    return Location(MemoryStore({"m.onnx": made.SerializeToString()}), "m.onnx")


def differences(**changes: Any) -> dict[str, tuple[str, str]]:
    found = tk.diff(at(model()), at(model(**changes)))
    assert not found.equal
    return {change.place: (change.a, change.b) for change in found.values}


def test_a_model_is_equal_to_itself() -> None:
    assert tk.diff(at(model()), at(model())).equal


@pytest.mark.parametrize(
    ("changes", "place", "sides"),
    [
        (
            {"axis": 0},
            "model: node soft",
            ("Softmax(a) -> h {axis=1}", "Softmax(a) -> h {axis=0}"),
        ),
        (
            {"inner": "Sigmoid"},
            "model: node choice.then_branch/i",
            ("Relu(h) -> i", "Sigmoid(h) -> i"),
        ),
        ({"body": "Tanh"}, "model: node ours::f/b", ("Relu(a) -> b", "Tanh(a) -> b")),
        ({"opset": 18}, "model: opset ai.onnx", ("17", "18")),
        ({"ir": 9}, "model: ir_version", ("8", "9")),
        ({"shape": [1, 3]}, "model: output y", ("float32[N, 3]", "float32[1, 3]")),
        ({"note": "new"}, "metadata.note", ("absent", "'new'")),
    ],
)
def test_one_change_is_one_difference(
    changes: dict[str, Any], place: str, sides: tuple[str, str]
) -> None:
    assert differences(**changes) == {place: sides}


def test_a_node_that_is_gone_is_told_with_what_was_in_it() -> None:
    found = differences(nodes=3)
    assert found["model: node choice"][1] == "absent"
    assert found["model: node choice.then_branch/i"] == ("Relu(h) -> i", "absent")


def test_values_of_tensors_are_compared_as_tensors() -> None:
    found = tk.diff(at(model()), at(model(weight=2.0)))
    assert not found.equal
    assert not found.values
    assert [row.name for row in found.tensors if not row.equal] == ["w"]


def test_a_file_of_tensors_alone_differs_by_the_graph() -> None:
    location = at(model())
    target = Location(location.store, "m.safetensors")
    lost = tk.convert(location, target, lossy=True)
    assert lost == ["the graph of the model, 4 nodes, is left out"]
    found = tk.diff(location, target)
    assert [change.place for change in found.values] == ["model: graph"]
    assert all(row.equal for row in found.tensors)
    assert tk.diff(location, target, names="*").equal
