"""Models that Caffe2 made itself, as ONNX models that give what it gave; and how nets are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models.building_checks import graph_of
from tests.models.exchange.caffe2_nets import check, model, net, op, outputs_of, translated

import tensorkeep as tk
from tensorkeep import models
from tensorkeep.errors import ArgumentError, ClosedError, MissingError, TranslationError
from tensorkeep.message import Message
from tensorkeep.models.exchange.caffe2_to_onnx import TABLE, open_caffe2
from tensorkeep.state import State
from tensorkeep.wire.caffe2.nets import Nets

DATA = Path(__file__).parents[2] / "data" / "caffe2"
ENTRIES = {row["file"]: row for row in json.loads((DATA / "MANIFEST.json").read_text())["entries"]}
NETS = sorted(name for name in ENTRIES if name.startswith("net_"))
SHAPES = {"net_misc_ops": {"x": ("N", 4, 6, 5)}}  # of which some operators need the sizes


def close(found: Any, wanted: Any, name: str) -> None:
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape), name
    largest = float(np.abs(wanted).max(initial=1.0))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6 * largest, err_msg=name)


@pytest.mark.parametrize("name", NETS)
def test_a_model_gives_what_caffe2_gave(name: str) -> None:
    entry = ENTRIES[name]
    state = open_caffe2(DATA / name / "predict_net.pb")
    made, _ = translated(state, SHAPES.get(name))
    assert models.check(made, official=False) == []
    given = tk.run(made, {entry["inputs"][0]: np.load(DATA / name / "input.npy")})
    for output in entry["outputs"]:
        several = len(entry["outputs"]) > 1
        file = f"output_{output}.npy" if several else "output.npy"
        close(given[output], np.load(DATA / name / file), output)


@pytest.mark.parametrize("name", NETS)
def test_what_a_model_computes_on_the_way_is_the_same(name: str) -> None:
    entry = ENTRIES[name]
    state = open_caffe2(DATA / name / "predict_net.pb")
    wanted = {row["name"]: row["npz"] for row in entry["mid_blobs"] if row["kind"] == "tensor"}
    assert isinstance(state.document, Nets)
    predict = state.document.predict.copy()
    predict["external_output"] = list(wanted)
    made, _ = translated(state.replace(document=Nets(predict)), SHAPES.get(name))
    given = tk.run(made, {entry["inputs"][0]: np.load(DATA / name / "input.npy")})
    blobs = np.load(DATA / name / "blobs.npz")
    for blob, key in wanted.items():
        close(given[blob], blobs[key], blob)


def test_a_model_that_was_translated_passes_the_official_checks() -> None:
    made, _ = translated(open_caffe2(DATA / "net_brew_mix"))
    assert models.check(made) == []


def test_sizes_that_vary_keep_their_names() -> None:
    made, report = translated(open_caffe2(DATA / "net_brew_mix"))
    assert str(made.graph) == (
        "Graph(22 nodes: data: float32[N, 3, H, W] -> _l1_scale: float32[N, 4, ?, ?], "
        "_cat_concat_dims: int32[2], sm: float32[N, 5], gap: float32[N, 8, 1, 1])"
    )
    assert [str(remark) for remark in report.ordered()] == [
        "dropped _d_mask: nothing writes this external output, as nets are tested",
        "changed data: it is an input; its values [[0]] in the init net stand for it",
    ]


def test_weights_stay_where_they_are_until_they_are_read() -> None:
    state = open_caffe2(DATA / "net_resnet_mini")
    made, _ = translated(state)
    state.close()
    with pytest.raises(ClosedError):
        made["gpu_0/conv1_w"].numpy()


def test_a_predictors_export() -> None:
    state = open_caffe2(DATA / "predictor.minidb")
    made, _ = translated(state)
    assert str(made.graph) == (
        "Graph(4 nodes: data: float32[2, 5] -> y: float32[2, 3], prob: float32[2, 3])"
    )
    x = np.linspace(-1, 1, 10, dtype=np.float32).reshape(2, 5)
    names = ("h_w", "h_b", "y_w", "y_b")
    weights = {name: state[name].numpy().astype(np.float64) for name in names}
    hidden = np.maximum(x @ weights["h_w"].T + weights["h_b"], 0)
    y = hidden @ weights["y_w"].T + weights["y_b"]
    powers = np.exp(y - y.max(1, keepdims=True))
    given = tk.run(made, {"data": x})
    close(given["y"], y.astype(np.float32), "y")
    close(given["prob"], (powers / powers.sum(1, keepdims=True)).astype(np.float32), "prob")


def test_blobs_that_are_written_in_place() -> None:
    x = np.array([[-2.0, 3.0]], np.float32)
    ops = [
        op("Relu", "x", "x"),
        op("Negative", "x", "a"),
        op("Exp", "a", "a"),
        op("Copy", "a", "b"),
        op("Scale", "a", "a", scale=2.0),
        op("Add", "a w", "w"),
    ]
    weights = {"w": np.array([[1, 1]], np.float32)}
    state = model(*ops, weights=weights, outputs="x b w")
    relu = np.maximum(x, 0)
    made, report = translated(state, {"x": (1, 2)})
    assert [value.name for value in graph_of(made).outputs] == ["x_2", "b", "w_2"]
    assert [value.name for value in graph_of(made).inputs] == ["x"]
    assert "renamed x: what comes out of it is x_2" in map(str, report.ordered())
    given = tk.run(made, {"x": x})
    np.testing.assert_array_equal(given["x_2"], relu)
    np.testing.assert_allclose(given["b"], np.exp(-relu), rtol=1e-6)
    np.testing.assert_allclose(given["w_2"], 2 * np.exp(-relu) + 1, rtol=1e-6)


def test_the_first_value_of_a_blob_has_its_name_unless_the_last_comes_out() -> None:
    ops = [op("Sqr", "x", "a"), op("Relu", "a", "a"), op("Negative", "a", "y")]
    inner, _ = translated(model(*ops, outputs="y"))
    outer, _ = translated(model(*ops, outputs="y a"))
    assert [list(node.output) for node in graph_of(inner).model.graph.node] == [
        ["a"],
        ["a_2"],
        ["y"],
    ]
    assert [list(node.output) for node in graph_of(outer).model.graph.node] == [
        ["a_2"],
        ["a"],
        ["y"],
    ]


def test_what_nothing_depends_on_is_left_out() -> None:
    ops = [op("Fantasy", "x", "z"), op("Relu", "x", "y"), op("Print", "y", "")]
    made, report = translated(model(*ops, outputs="y"))
    assert len(graph_of(made)) == 1
    assert [str(remark) for remark in report.ordered()] == [
        "dropped Fantasy: 1 operator on which nothing that comes out depends",
        "dropped Print: 1 operator on which nothing that comes out depends",
    ]


def test_arguments_that_an_operator_does_not_know_are_told() -> None:
    _, report = translated(
        model(op("Relu", "x", "y", "relu", slope=0.5, order="NCHW"), outputs="y")
    )
    (remark,) = map(str, report.remarks)
    assert remark == (
        "dropped Relu: 1 operator has the argument slope, which Relu does not know and Caffe2 "
        "ignores"
    )


def test_all_that_is_refused_is_told_at_once() -> None:
    ops = [
        op("Fantasy", "x", "a", "f1", order="NCHW"),
        op("Relu", "a", "b"),
        op("Fantasy", "x", "c", "f2"),
        op("Dropout", "x", "d mask", "drop"),
        op("Magic", "x", "e", "m", size=3, how="deep", at=[1, 2], by=0.5),
        op("Sum", "b c d e", "y"),
    ]
    with pytest.raises(TranslationError) as caught:
        translated(model(*ops, outputs="y"))
    assert str(caught.value) == (
        "tiny: 4 nodes cannot be said in ONNX:\n"
        "  Fantasy (2 times, at f1, f2): there is no translation of this operator\n"
        "  Dropout at drop: it is in training mode (is_test is not 1), and drops elements at "
        "random. Set its argument is_test to 1.\n"
        "  Magic at m: there is no translation of this operator (size=3, how=deep, at=[1, 2], "
        "by=0.5)"
    )
    assert [refusal.node for refusal in caught.value.refusals] == ["f1", "f2", "drop", "m"]


def test_a_mask_that_is_read_is_refused() -> None:
    ops = [op("Dropout", "x", "d mask", is_test=1), op("Cast", "mask", "y", "c", to=1)]
    with pytest.raises(TranslationError, match="Cast at c: nothing writes its input 'mask'"):
        translated(model(*ops, outputs="y"))


def test_inputs_and_their_types() -> None:
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    made, _ = translated(model(op("Gather", "table i", "y"), weights={"table": table}))
    assert str(made.graph) == "Graph(1 node: i: int64 -> y: float32)"
    y = tk.run(made, {"i": np.array([2, 0])})["y"]
    np.testing.assert_array_equal(y, table[[2, 0]])


def test_without_outputs_what_nothing_reads_comes_out() -> None:
    x = np.ones((1, 2), np.float32)
    given = outputs_of(
        model(op("Relu", "x", "a"), op("Exp", "a", "b"), op("Sqr", "a", "c")), {"x": x}
    )
    assert sorted(given) == ["b", "c"]


def test_shapes_are_checked() -> None:
    state = model(op("Relu", "data", "y"))
    with pytest.raises(ArgumentError, match=r"'dat', which is no input\. Did you mean data"):
        translated(state, {"dat": (1,)})
    for wrong in ((-1, 2), "12", (1.5,), 3):
        with pytest.raises(ArgumentError, match="of 'data' is none"):
            translated(state, {"data": wrong})  # type: ignore[dict-item]


def test_missing_weights_are_named() -> None:
    conv = op("Conv", "x conv1_w conv1_b", "y", kernel=1)
    with pytest.raises(MissingError, match="the weights 'conv1_w', 'conv1_b' are not in the net"):
        translated(model(conv))
    weights = {"conv1_b": np.zeros(1, np.float32), "conv1_W": np.zeros(1, np.float32)}
    with pytest.raises(MissingError, match=r"the weight 'conv1_w' is not in the net\. Did you"):
        translated(model(conv, weights=weights))
    state = model(conv).replace(metadata={"caffe2": {"not_made": {"conv1_w": "XavierFill"}}})
    with pytest.raises(MissingError, match=r"the weights 'conv1_w' are drawn at random \(Xavier"):
        translated(state)


def test_what_is_no_net_is_refused() -> None:
    with pytest.raises(ArgumentError, match="holds no net of Caffe2's"):
        translated(State({}, where="here"))
    with pytest.raises(ArgumentError, match="nothing comes out of the net"):
        translated(model(op("Print", "x", "")))


def test_a_net_of_text_says_the_same(tmp_path: Path) -> None:
    for name in ("net_brew_mix", "net_squeezenet_mini"):
        binary, _ = translated(open_caffe2(DATA / name / "predict_net.pb"))
        text, _ = translated(open_caffe2(DATA / name / "predict_net.pbtxt"))
        a, b = graph_of(binary).model.graph, graph_of(text).model.graph
        assert [node.encode() for node in a.node] == [node.encode() for node in b.node]


def test_the_table_tells_what_operators_become() -> None:
    rows = {row.operator: row for row in TABLE}
    assert rows["SpatialBN"].becomes == "BatchNormalization"
    assert len(rows) > 150
    assert all(row.becomes for row in rows.values())


def test_a_mean_of_negative_infinity_and_large_numbers() -> None:
    x = np.array([[1e30, -1e30, 0.0]], np.float32)
    check(model(op("Softmax", "x", "y")), {"x": x}, {"y": np.array([[1, 0, 0]], np.float32)})


def test_a_model_is_saved_and_run_from_its_file(tmp_path: Path) -> None:
    made, _ = translated(open_caffe2(DATA / "net_alexnet_mini"))
    tk.save(made, tmp_path / "alexnet.onnx")
    x = np.load(DATA / "net_alexnet_mini" / "input.npy")
    given = tk.run(tmp_path / "alexnet.onnx", {"data": x})["prob"]
    close(given, np.load(DATA / "net_alexnet_mini" / "output.npy"), "prob")


def test_an_empty_net() -> None:
    with pytest.raises(ArgumentError, match="nothing comes out of the net"):
        translated(State({}, document=Nets(net())))
    assert isinstance(net(), Message)
