from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.models.editing.networks import (
    GIVEN,
    attention,
    convolutional,
    encoded,
    floats,
    info,
    model,
    proto_of,
    run,
    state_of,
)
from tests.models.editing.probe import probe

import tensorkeep as tk
from tensorkeep.errors import ArgumentError, MissingError
from tensorkeep.models.editing import rename
from tensorkeep.models.opening import graph_of


def test_all_that_names_a_value_follows() -> None:
    renamed = rename(state_of(probe()), {"w": "weight", "m": "product", "scale": "s", "y": "out"})
    proto = onnx.load_from_string(encoded(renamed))
    shown = proto.graph.node[0]
    assert list(shown.input) == ["x", "weight"]
    assert shown.device_configurations[0].sharding_spec[0].tensor_name == "weight"
    annotation = proto.graph.quantization_annotation[0]
    assert annotation.tensor_name == "product"
    assert annotation.quant_parameter_tensor_names[0].value == "s"
    training = proto.training_info[0]
    assert list(training.algorithm.node[0].input) == ["weight", "weight"]
    assert training.initialization_binding[0].key == training.update_binding[0].key == "weight"
    assert [row.name for row in proto.graph.output] == ["out", "z"]
    assert "weight" in renamed
    assert "w" not in renamed


def test_subgraphs_follow_but_for_their_own_names() -> None:
    renamed = rename(state_of(attention()), {"a": "mixed", "bias": "b"})
    branches = [row.g for row in graph_of(renamed).model.graph.node[7].attribute]
    assert [list(graph.node[0].input) for graph in branches] == [["mixed", "b"]] * 2
    np.testing.assert_array_equal(
        run(renamed, GIVEN["attention"])[0], run(attention(), GIVEN["attention"])[0]
    )


def test_shadowed_name_is_another_one() -> None:
    inner = helper.make_node("Neg", ["x"], ["a"])
    last = helper.make_node("Identity", ["a"], ["t"])
    branch = helper.make_graph([inner, last], "g", [], [info("t", 2)])
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
    ]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", [info("x", 2), info("c", kind=9)], [info("y", 2)])
    )
    renamed = graph_of(rename(state_of(proto), {"a": "b"})).model.graph
    assert renamed.node[0].output == ["b"]
    assert renamed.node[1].attribute[0].g.node[1].input == ["a"]


def test_capture_by_a_new_name_is_refused() -> None:
    with pytest.raises(ArgumentError, match="is taken by a value of the graph"):
        rename(state_of(attention()), {"a": "Add.out"})


def test_patterns_and_swaps() -> None:
    renamed = rename(state_of(convolutional()), {"bn.*": "norm.*", "fc.w": "fc.b", "fc.b": "fc.w"})
    assert {"norm.s", "norm.v", "fc.w"} <= set(renamed)
    assert renamed["fc.w"].shape == (10,)
    proto_of(renamed)


def test_nodes() -> None:
    renamed = rename(state_of(convolutional()), {"node:conv": "first"}, nodes={"f*": "last.*"})
    names = [node.name for node in graph_of(renamed).model.graph.node]
    assert names[0] == "first"
    assert names[5:7] == ["last.latten", "last.c"]


@pytest.mark.parametrize(
    ("names", "error", "text"),
    [
        ({"conv.weight": "w"}, MissingError, "Did you mean conv.w"),
        ({"nothing.*": "w.*"}, MissingError, "has no value called 'nothing"),
        ({"node:convv": "w"}, MissingError, "has no node called 'convv'. Did you mean conv"),
        ({"conv.w": "x"}, ArgumentError, "it is taken"),
        ({"conv.w": "same", "conv.b": "same"}, ArgumentError, "is to be called so too"),
        ({"conv.w": ""}, ArgumentError, "cannot be called nothing"),
        ({"conv.*": "*.*"}, ArgumentError, "asks for 2 parts"),
    ],
)
def test_refusals(names: dict[str, str], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text.replace("*", r"\*")):
        rename(state_of(convolutional()), names)


def test_training_algorithm_keeps_its_own_names() -> None:
    with pytest.raises(ArgumentError, match=r"training algorithm has a value called 'w.next'"):
        rename(state_of(probe()), {"z": "w.next"})


def test_data_file_is_left_alone_in_place(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    proto = model(nodes, [info("x", 1, 64)], [info("y", 1, 64)], {"w": floats(64, 64)})
    path = tmp_path / "m.onnx"
    tk.save(state_of(proto), path, external=True)
    (data,) = tmp_path.glob("*.data")
    before = (data.stat().st_ino, data.stat().st_mtime_ns)
    with tk.open(path) as state:
        tk.save(rename(state, {"w": "weight", "y": "out"}), path)
    assert (data.stat().st_ino, data.stat().st_mtime_ns) == before
    assert list(tmp_path.glob("*.data")) == [data]
    again = onnx.load(path)
    assert again.graph.initializer[0].name == "weight"
    assert again.graph.initializer[0].raw_data == proto.graph.initializer[0].raw_data


def test_path_is_opened_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(convolutional().SerializeToString())
    with rename(path, {"conv.w": "w"}) as renamed:
        assert renamed["w"].numpy().shape == (8, 3, 3, 3)
    with pytest.raises(MissingError):
        rename(path, {"nothing": "w"})


def test_no_names() -> None:
    for names in (["x"], {"x": 3}, {3: "x"}):
        with pytest.raises(ArgumentError, match="names are a dict of new ones by old ones"):
            rename(state_of(convolutional()), names)  # type: ignore[arg-type]
