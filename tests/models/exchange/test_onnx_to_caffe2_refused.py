"""What Caffe2's nets cannot say is refused, with the reason; all else is translated right."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models.exchange.caffe2_interpreter import run_net
from tests.models.exchange.caffe2_trips import predict_of, to_caffe2, to_onnx, written
from tests.models.exchange.onnx_nodes import array, floats
from tests.models.exchange.roundtrip import Case, cases, differs

import tensorkeep as tk
from tensorkeep import models
from tensorkeep.errors import TranslationError
from tensorkeep.graph import Graph
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.models.exchange.caffe2_to_onnx import open_caffe2, translate
from tensorkeep.models.exchange.emitting import Emitter
from tensorkeep.models.exchange.report import Refused, Report
from tensorkeep.state import State

DATA = Path(__file__).parents[2] / "data" / "caffe2"
ENTRIES = {row["file"]: row for row in json.loads((DATA / "MANIFEST.json").read_text())["entries"]}
NETS = sorted(name for name in ENTRIES if name.startswith("net_"))
IMAGE = (1, 4, 7, 6)
LONG, BOOL = ("int64", (2, 3)), ("bool", (2, 3))
FLOOR = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
NONE = array([])
Row = tuple[str, list[Any], tuple[int, ...], dict[str, Any], str]
REFUSED: list[Row] = [
    ("Relu", [("float64", (2,))], (2,), {}, "'a' is float64, where Caffe2 takes float32"),
    ("Add", [("float16", (2,)), (2,)], (2,), {}, "'a' is float16, where Caffe2 takes float32"),
    ("Div", [LONG, LONG], (2, 3), {}, "divides integers"),
    ("Max", [LONG, LONG], (2, 3), {}, "'a' is int64, where Caffe2 takes float32"),
    ("Max", [(2, 3), (3,)], (2, 3), {}, r"shapes \[\(2, 3\), \(3,\)\], and Caffe2 takes one"),
    ("Where", [BOOL, (2, 3), (3,)], (2, 3), {}, "Caffe2 takes one"),
    ("Gelu", [(2,)], (2,), {"approximate": "tanh"}, "fast Gelu"),
    ("PRelu", [(2, 3), floats(2, 3)], (2, 3), {}, "neither one nor one of a channel"),
    ("PRelu", [(3,), array([0.1])], (3,), {}, "an axis of channels"),
    ("PRelu", [(2, 3), (3,)], (2, 3), {}, "computed when it runs"),
    ("Clip", [(2,), ()], (2,), {}, "computed when it runs"),
    ("Pow", [(2, 3), (3,)], (2, 3), {}, "exponents are of another shape"),
    ("Pow", [(2, 3), np.array([2**24 + 1])], (2, 3), {}, "16777217.0 is no float32"),
    ("Dropout", [(2,), array(0.5), np.array(True)], (2,), {}, "training mode"),
    ("ConvTranspose", [(1, 4, 5), floats(4, 2, 3)], (1, 2, 7), {}, "1 spatial axes"),
    *(
        ("ConvTranspose", [IMAGE, floats(4, 2, 3, 3)], (1, 2, *out), given, reason)
        for out, given, reason in (
            ((11, 10), {"dilations": [2, 2]}, "dilations"),
            ((11, 10), {"output_padding": [2, 2]}, "is more than its strides"),
            ((20, 20), {"output_shape": [20, 20]}, "larger than what it makes"),
        )
    ),
    ("MatMul", [(2, 3, 4), (3, 4, 5)], (2, 3, 5), {}, r"lie in axes \(2,\) and \(3,\)"),
    ("MatMul", [(2, 3, 4), (1, 4, 5)], (2, 3, 5), {}, r"lie in axes \(2,\) and \(1,\)"),
    *(
        ("BatchNormalization", [IMAGE, *[floats(4)] * 4], IMAGE, given, reason)
        for given, reason in (
            ({"training_mode": 1}, "training mode"),
            ({"since": 6}, "training mode"),
            ({"since": 7, "spatial": 0}, "a mean for each place"),
            ({"epsilon": 0.0}, "has to be more than 0"),
        )
    ),
    ("InstanceNormalization", [(1, 4, 7), *[floats(4)] * 2], (1, 4, 7), {}, "has 3 axes"),
    ("GroupNormalization", [IMAGE, *[floats(2)] * 2], IMAGE, {"since": 18}, "scales groups"),
    ("LRN", [IMAGE], IMAGE, {"size": 4}, "takes odd ones"),
    ("Softmax", [()], (), {}, "of a number"),
    *(
        (operator, [IMAGE], (1, 4, *out), {"kernel_shape": [2, 2], **given}, reason)
        for operator, out, given, reason in (
            ("MaxPool", (5, 4), {"dilations": [2, 2]}, "dilations"),
            ("MaxPool", (11, 10), {"pads": [2, 2, 3, 3]}, "not smaller than its kernel"),
            (
                "AveragePool",
                (5, 4),
                {"strides": [2, 2], "ceil_mode": 1, "pads": [1] * 4, "count_include_pad": 1},
                "both ceil_mode and padding",
            ),
        )
    ),
    ("GlobalMaxPool", [(2, 3)], (2, 3), {}, "one to three spatial axes"),
    ("Pad", [(2, 3), np.ones(4, int)], (4, 5), {}, "Caffe2 pads images"),
    ("Pad", [IMAGE, np.ones(8, int)], (3, 6, 9, 8), {}, "the batch or the channels"),
    ("Pad", [IMAGE, -np.eye(8, dtype=int)[3]], (1, 4, 7, 5), {}, "takes away"),
    ("Pad", [IMAGE, np.eye(8, dtype=int)[2]], (1, 4, 8, 6), {"mode": "wrap"}, "by wrap"),
    ("Pad", [IMAGE, 9 * np.eye(8, dtype=int)[2]], (1, 4, 16, 6), {"mode": "reflect"}, "more than"),
    *(
        ("Resize", [IMAGE, NONE, array([1, 1, *scales])], (1, 4, *out), given, reason)
        for scales, out, given, reason in (
            ((2, 2), (14, 12), {"mode": "linear"}, "'linear'"),
            (
                (2, 2),
                (14, 12),
                {"coordinate_transformation_mode": "align_corners"},
                "align_corners",
            ),
            ((2, 2), (14, 12), {**FLOOR, "nearest_mode": "ceil"}, "other pixels"),
            ((2, 2), (14, 12), {**FLOOR, "keep_aspect_ratio_policy": "not_larger"}, "not_larger"),
            ((1 << 30, 1), (7 << 30, 6), FLOOR, "pixels along an axis"),
        )
    ),
    ("ArgMax", [(2, 3)], (1, 3), {"select_last_index": 1}, "the last of equal ones"),
    ("TopK", [(2, 3), np.array([1])], (2, 1), {"largest": 0}, "the smallest"),
    ("ReduceSum", [()], (), {}, "reduces a number"),
    ("ReduceSum", [(2, 3), ("int64", (1,))], (1, 3), {}, "computed when it runs"),
    ("Transpose", [BOOL], (3, 2), {}, "'a' is bool, where Caffe2 takes"),
    ("DepthToSpace", [("uint8", IMAGE)], (1, 1, 14, 12), {"blocksize": 2}, "'a' is uint8"),
    (
        "Slice",
        [(9,), np.array([0]), np.array([9]), np.array([0]), np.array([2])],
        (5,),
        {},
        "steps",
    ),
    ("Slice", [(9,), ("int64", (1,)), np.array([9])], (5,), {}, "computed when it runs"),
    ("Gather", [(2, 3), np.array([5])], (1, 3), {}, "not all within 2"),
    ("Tile", [(2,), np.array([2])], (4,), {"since": 1}, "another operator"),
    ("Tile", [BOOL, np.array([2, 1])], (4, 3), {}, "'a' is bool"),
    ("Cast", [(2,)], (2,), {"types": ["uint8"], "to": 2}, "out of range differs"),
    ("Cast", [(2,)], (2,), {"types": ["float16"], "to": 10}, "'y' is float16"),
    ("Add", [(2,), np.ones(2, "float64")], (2,), {}, "'b' is float64"),
    ("Reshape", [np.ones(2, "float16"), np.array([2])], (2,), {}, "which no init net holds"),
]


@pytest.mark.parametrize(
    ("operator", "inputs", "output", "attributes", "reason"),
    REFUSED,
    ids=[f"{place}_{row[0]}" for place, row in enumerate(REFUSED)],
)
def test_it_says_why(
    operator: str, inputs: list[Any], output: tuple[int, ...], attributes: Any, reason: str
) -> None:
    several = (output,) * (2 if operator == "TopK" else 1)
    with pytest.raises(Refused, match=reason):
        written(operator, inputs, *several, **attributes)


def test_outputs_that_caffe2_does_not_write() -> None:
    window: dict[str, Any] = {"kernel_shape": [2, 2]}
    with pytest.raises(Refused, match="indices are used"):
        written(
            "MaxPool", [IMAGE], (1, 4, 6, 5), (1, 4, 6, 5), types=("float32", "int64"), **window
        )
    with pytest.raises(Refused, match="its mask is used"):
        written("Dropout", [(2,)], (2,), (2,), types=("float32", "bool"))


def test_all_of_a_model_are_told_at_once_and_nothing_without_elements() -> None:
    to = Emitter("several", where="several")
    x = to.input("x", "float32", (2, 2))
    none = to.input("none", "float32", (0, 3))
    to.output(to.node("Det", [to.node("Round", [x])], "y"), "float32", None)
    to.output(to.node("Abs", [none], "z"), "float32", None)
    to.output(x, "float32", (2, 2))
    with pytest.raises(TranslationError) as caught:
        to_caffe2(to.state())
    found = [each.operator for each in caught.value.refusals]
    assert found == ["Round", "Det", "Abs", "output"]
    assert "'none' has no elements, which Caffe2 does not compute with" in str(caught.value)


def test_an_output_that_is_an_input_or_of_a_type_that_no_init_net_holds() -> None:
    to = Emitter("copies", where="copies")
    x = to.input("x", "float32", (2,))
    to.output(x, "float32", (2,))
    to.output(to.constant(np.ones(2), "float64", hint="held"), "float64", (2,))
    with pytest.raises(TranslationError) as caught:
        to_caffe2(to.state())
    assert "it is an input and an output, and one blob cannot be both" in str(caught.value)
    assert "'held' is float64, which no init net holds" in str(caught.value)


def test_the_cure_for_halves_is_one() -> None:
    to = Emitter("halves", where="halves")
    x = to.input("x", "float16", (2, 3))
    to.output(to.node("Add", [x, to.constant([1, 2, 3], "float16")], "y"), "float16", (2, 3))
    with pytest.raises(TranslationError, match=r"models\.cast"):
        to_caffe2(to.state())
    net = to_caffe2(models.cast(to.state(), "float32", compute=True, keep_io=False))
    np.testing.assert_array_equal(
        run_net(net, {"x": np.zeros((2, 3), np.float32)})["y"], [[1, 2, 3]] * 2
    )
    assert [each.type for each in predict_of(net).op] == ["Add"]


def test_a_sample_of_the_official_cases() -> None:
    """All of them are right or refused; of each operator, one is taken here."""
    chosen = random.Random(3)
    named: dict[str, list[Case]] = {}
    for case in cases("node"):
        if len(case.operators) == 1:
            named.setdefault(case.operators[0], []).append(case)
    done = 0
    for operator in sorted(named):
        case = chosen.choice(named[operator])
        message = Message.parse(MODEL, case.model.SerializeToString())
        state = State.of_graph(Graph(message, where=case.name))
        try:
            net = to_caffe2(state)
        except tk.errors.TensorKeepError:
            continue
        given = {name: np.asarray(value) for name, value in case.given.items()}
        try:
            before = list(tk.run(state, given, check=False).values())
        except tk.errors.UnsupportedError:
            before = case.expected or []
        assert not differs(before, list(run_net(net, given).values())), case.name
        back = to_onnx(net)  # whose inputs are those that are read
        assert back.graph is not None
        left = {value.name: given[value.name] for value in back.graph.inputs}
        assert not differs(before, list(tk.run(back, left).values())), case.name
        done += 1
    assert done >= 40


@pytest.mark.parametrize("name", NETS)
def test_nets_of_caffe2_itself_come_back(tmp_path: Path, name: str) -> None:
    """From Caffe2 to ONNX, to Caffe2, into files and to ONNX again: they give what Caffe2 gave."""
    entry = ENTRIES[name]
    given = np.load(DATA / name / "input.npy")
    shapes = {entry["inputs"][0]: given.shape}
    with open_caffe2(DATA / name / "predict_net.pb") as opened:
        net = to_caffe2(translate(opened, Report("caffe2", "onnx"), shapes=shapes))
        tk.save(net, tmp_path / "predict_net.pb")
        feeds = {entry["inputs"][0]: given}
        there, back = run_net(net, feeds), tk.run(tmp_path / "predict_net.pb", feeds)
    assert list(there) == list(back)
    for output in entry["outputs"]:
        file = f"output_{output}.npy" if len(entry["outputs"]) > 1 else "output.npy"
        wanted = np.load(DATA / name / file)
        limit = 1e-6 * max(1.0, float(np.abs(wanted).max()))
        np.testing.assert_allclose(there[output], wanted, rtol=1e-4, atol=10 * limit)
        np.testing.assert_allclose(back[output], wanted, rtol=1e-4, atol=10 * limit)
