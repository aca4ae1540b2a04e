"""Settling: what a model becomes, and that it gives what it gave before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from tests.models.exchange.rebuilding import rebuild
from tests.models.exchange.settling_here import settling_here

import tensorkeep as tk
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    MissingDependencyError,
    MissingError,
    UnsupportedError,
)
from tensorkeep.graph import Graph
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.models.exchange.report import Report
from tensorkeep.models.exchange.settled import Settled
from tensorkeep.models.exchange.settling import settle
from tensorkeep.models.ops.history import operators_of
from tensorkeep.state import State

ALL = frozenset(operators_of(""))


@pytest.fixture
def here() -> Iterator[None]:
    with settling_here():
        yield


def _state(model: onnx.ModelProto | str, where: str = "m.onnx") -> State:
    if isinstance(model, str):
        head = "" if model.startswith("<ir") else '<ir_version: 10, opset_import: ["": 20]>\n'
        model = parser.parse_model(head + model)
    return State.of_graph(Graph(Message.parse(MODEL, model.SerializeToString()), where=where))


def _settle(model: onnx.ModelProto | str, **options: Any) -> tuple[Settled, list[str]]:
    report = Report("onnx", "nnef")
    settled = settle(_state(model), report, **{"keeps": ALL, **options})
    return settled, [str(remark) for remark in report.ordered()]


def _operators(settled: Settled) -> list[str]:
    return [node.operator for node in settled.nodes]


def _same(model: str, settled: Settled, given: Mapping[str, Any], opset: int = 20) -> None:
    rebuilt = rebuild(settled, opset)
    assert rebuilt is not None
    after = tk.run(_state(rebuilt), given)
    for name, value in tk.run(_state(model), given).items():
        np.testing.assert_allclose(after[name], value, rtol=1e-5, atol=1e-6)


WHOLE = """
g (float[N, 3, 4, 4] x) => (float[N, M] y) <float[2, 3, 1, 1] w = {1, 2, 3, 4, 5, 6}> {
  size = Shape<start = 0, end = 1>(x)
  rest = Constant<value_ints = [-1]>()
  shape = Concat<axis = 0>(size, rest)
  conv = Conv(x, w)
  called = local.act(conv)
  unused = Relu(x)
  condition = Constant<value = bool {1}>()
  chosen = If(condition) <
    then_branch = a () => (p) { p = HardSwish(called) },
    else_branch = b () => (q) { q = Neg(called) }>
  y = Reshape(chosen, shape)
}
<domain: "local", opset_import: ["": 20]>
act (a) => (b) { t = Mish(a) b = Softmax<axis = 1>(t) }
"""
IMPORTS = '<ir_version: 10, opset_import: ["": 20, "local": 1]>\n'


def test_a_model_in_a_process_of_its_own() -> None:
    keeps = {"Conv", "Softmax", "Reshape", "Mul", "HardSigmoid", "Tanh", "Softplus"}
    settled, remarks = _settle(IMPORTS + WHOLE, keeps=keeps, shapes={"x": (2, 3, 4, 4)})
    assert _operators(settled) == [
        *("Conv", "Softplus", "Tanh", "Mul", "Softmax", "HardSigmoid", "Mul", "Reshape")
    ]
    assert settled.constants["shape"].numpy().tolist() == [2, -1]
    assert settled.shapes["y"] == (2, 32)
    assert settled.types["y"] == "float32"
    assert [node.since for node in settled.nodes] == [11, 1, 13, 14, 13, 6, 14, 19]
    assert remarks == [
        "fixed x: its shape is [2, 3, 4, 4]",
        "folded 2 nodes: computed, for what it takes is constant",
        "expanded local::act: its definition takes its place",
        "expanded Mish: its definition takes its place",
        "expanded If: the branch that its condition chooses takes its place",
        "expanded HardSwish: its definition takes its place",
        "dropped 1 node: nothing that the model gives depends on it",
    ]
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype("float32")
    _same(IMPORTS + WHOLE, settled, {"x": x})


@pytest.mark.usefixtures("here")
class TestInputs:
    TWO = "g (float[N, 3] x, float[2, N] z) => (float[A, B] y) { y = MatMul(z, x) }"

    def test_the_batch_becomes_one_and_goes_by_its_name(self) -> None:
        settled, remarks = _settle(self.TWO)
        assert (settled.shapes["x"], settled.shapes["z"]) == ((1, 3), (2, 1))
        assert remarks[0] == "fixed x: its batch is 1; give --shape x=8,3 for another"

    def test_a_given_size_goes_by_its_name_too(self) -> None:
        settled, _ = _settle(self.TWO, shapes={"z": (2, 5)})
        assert (settled.shapes["x"], settled.shapes["y"]) == ((5, 3), (2, 3))

    @pytest.mark.parametrize(
        ("shapes", "error", "said"),
        [
            ({"x": (4, 9)}, ArgumentError, r"\[N, 3\] cannot have the shape \[4, 9\]"),
            ({"x": (4,)}, ArgumentError, r"cannot have the shape \[4\]"),
            ({"x": (4, 3), "z": (2, 5)}, ArgumentError, r"\[2, N\] cannot have the shape"),
            ({"x": (-1, 3)}, ArgumentError, r"no input can have the shape \(-1, 3\)"),
            ({"x": 7}, ArgumentError, "no input can have the shape 7"),
            ({"x": ("N", 3)}, ArgumentError, "no input can have the shape"),
            ({"w": (4, 3)}, MissingError, "no input called 'w'"),
        ],
    )
    def test_shapes_that_do_not_fit(
        self, shapes: dict[str, Any], error: type[Exception], said: str
    ) -> None:
        with pytest.raises(error, match=said):
            _settle(self.TWO, shapes=shapes)

    def test_axes_that_have_to_be_given_are_all_named(self) -> None:
        model = "g (float[N, C] x, float[N, T] z, float[N, 2] v) => (float[N, C] y) { y = Relu(x) }"
        with pytest.raises(ArgumentError) as raised:
            _settle(model)
        assert str(raised.value) == (
            "m.onnx: the sizes of its inputs have to be known: x: float32[N, C]; "
            "z: float32[N, T]. Give shapes={'x': (...)} (--shape x=1,...)."
        )

    def test_an_input_without_a_rank(self) -> None:
        model = onnx.ModelProto()
        model.CopyFrom(
            parser.parse_model(
                f"<ir_version: 8, opset_import: ['': 17]> {self.TWO}".replace("'", '"')
            )
        )
        model.graph.input[0].type.tensor_type.ClearField("shape")
        with pytest.raises(ArgumentError, match="x: the number of its axes is not known"):
            _settle(model)
        assert _settle(model, shapes={"x": (4, 3), "z": (2, 4)})[0].shapes["y"] == (2, 3)

    def test_what_is_no_tensor(self) -> None:
        model = "g (seq(float[N]) x) => (float[M] y) { y = ConcatFromSequence<axis = 0>(x) }"
        with pytest.raises(UnsupportedError, match="the input 'x' is a sequence"):
            _settle(model)

    def test_inputs_become_constants(self) -> None:
        model = "g (float[2, 3] x, int64[K] to) => (float[A, B] y) { y = Reshape(x, to) }"
        settled, remarks = _settle(model, constants={"to": np.array([3, -1])})
        assert settled.inputs == ["x"]
        assert settled.shapes["y"] == (3, 2)
        assert remarks == ["fixed to: it is a constant now"]
        for value in (np.array([3, -1], "int32"), np.zeros((1, 2), "int64")):
            with pytest.raises(ArgumentError, match=r"the input to: int64\[K\] cannot be"):
                _settle(model, constants={"to": value})
        assert _settle(model, constants={"to": [6, 1]})[0].shapes["y"] == (6, 1)
        for listed in ([1.5, 4], "text", [[1], [2, 3]], None):
            with pytest.raises(ArgumentError, match=r"the input to: int64\[K\] cannot be"):
                _settle(model, constants={"to": listed})
        with pytest.raises(MissingError, match="no input called 'tu'"):
            _settle(model, constants={"tu": 1})

    def test_initializers_that_are_inputs_too_are_constants(self) -> None:
        model = "g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }"
        settled, _ = _settle(model)
        assert (settled.inputs, list(settled.constants)) == (["x"], ["w"])


@pytest.mark.usefixtures("here")
class TestFunctions:
    def test_defaults_and_what_is_passed_on(self) -> None:
        model = (
            IMPORTS
            + """
        g (float[4] x) => (float[4] y, float[4] z) {
          y, same = local.f<a = 0.5>(x)
          z, other = local.f(same)
        }
        <domain: "local", opset_import: ["": 20]>
        f <a: float = 0.25> (i) => (o, p) { o = LeakyRelu<alpha: float = @a>(i) p = Neg(i) }
        """
        )
        settled, _ = _settle(model)
        leaks = [n.attributes["alpha"] for n in settled.nodes if n.operator == "LeakyRelu"]
        assert leaks == [0.5, 0.25]
        _same(model, settled, {"x": np.array([-1, 2, -3, 4], "float32")})

    def test_an_input_that_is_given_back(self) -> None:
        model = (
            IMPORTS
            + """
        g (float[4] x) => (float[4] y) { y = local.f(x) }
        <domain: "local", opset_import: ["": 20]>
        f (i) => (i) { o = Neg(i) }
        """
        )
        settled, _ = _settle(model)
        assert [(node.operator, node.inputs, node.outputs) for node in settled.nodes] == [
            ("Identity", ["x"], ["y"])
        ]

    def test_names_within_do_not_meet_those_outside(self) -> None:
        model = (
            IMPORTS
            + """
        g (float[4] x) => (float[4] y) {
          t = local.f(x)
          condition = Constant<value = bool {0}>()
          u = If(condition) <
            then_branch = a () => (t1) { t1 = Neg(t) },
            else_branch = b () => (z) { x1 = Abs(t) z = Add(x1, x) }>
          y = local.f(u)
        }
        <domain: "local", opset_import: ["": 20]>
        f (x) => (y) { t = Exp(x) u = Neg(t) y = Add(u, x) }
        """
        )
        settled, _ = _settle(model)
        _same(model, settled, {"x": np.array([-1, 2, -3, 4], "float32")})

    def test_a_branch_that_gives_what_is_around_it(self) -> None:
        model = """
        g (float[2] x) => (float[2] y) {
          condition = Constant<value = bool {1}>()
          y = If(condition) <
            then_branch = a () => (x) { },
            else_branch = b () => (q) { q = Neg(x) }>
        }
        """
        settled, _ = _settle(model)
        assert _operators(settled) == ["Identity"]
        assert settled.nodes[0].inputs == ["x"]

    def test_the_rounds_of_a_loop(self) -> None:
        model = """
        g (float[2] x) => (float[2] y, float[3, 2] all) {
          rounds = Constant<value = int64 {3}>()
          y, all = Loop(rounds, , x) <body = b (int64 n, bool go, float[2] v) =>
            (bool on, float[2] w, float[2] each) {
              on = Identity(go) f = Cast<to = 1>(n) w = Add(v, f) each = Mul(w, x) }>
        }
        """
        settled, remarks = _settle(model, keeps=ALL - {"Loop"})
        assert "expanded Loop: its rounds take its place" in remarks
        assert _operators(settled).count("Mul") == 3
        _same(model, settled, {"x": np.array([1, -2], "float32")})

    def test_a_loop_whose_end_is_not_known_stays(self) -> None:
        model = """
        g (float[2] x, int64 n) => (float[2] y, float[2] z) {
          many = Constant<value = int64 {99999999999}>()
          y = Loop(n, , x) <body = b (int64 i, bool go, float[2] v) => (bool go, float[2] w)
            { w = Neg(v) }>
          z = Loop(many, , x) <body = c (int64 i, bool go, float[2] v) => (bool go, float[2] v) { }>
        }
        """
        assert _operators(_settle(model)[0]) == ["Loop", "Loop"]

    def test_the_rounds_of_a_scan(self) -> None:
        model = """
        g (float[2] s, float[2, 3] x) => (float[2] t, float[2, 3] y) {
          t, y = Scan<num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1],
            scan_output_axes = [-1], body = b (float[2] a, float[2] e) => (float[2] c, float[2] d)
            { c = Add(a, e) d = Mul(c, c) }>(s, x)
        }
        """
        settled, _ = _settle(model)
        assert "Scan" not in _operators(settled)
        x = np.arange(6, dtype="float32").reshape(2, 3)
        _same(model, settled, {"s": np.array([1, 2], "float32"), "x": x})

    def test_names_that_onnx_lacks(self) -> None:
        model = "g (float[2] x) => (float[2] y) { y = Erfc(x) }"
        settled, remarks = _settle(model)
        assert "expanded tensorkeep.ops::Erfc: its definition takes its place" in remarks
        assert "Erf" in _operators(settled)

    @pytest.mark.parametrize("keeps", [ALL, frozenset[str]()])
    def test_what_is_defined_by_others(self, keeps: frozenset[str]) -> None:
        model = "g (float[2, 3] x) => (float[2, 3] y) { y = Gelu(x) }"
        settled, _ = _settle(model, keeps=keeps)
        assert (_operators(settled) == ["Gelu"]) == bool(keeps)
        x = np.linspace(-2, 2, 6, dtype="float32").reshape(2, 3)
        _same(model, settled, {"x": x})


@pytest.mark.usefixtures("here")
class TestConstants:
    def test_all_forms_of_a_constant(self) -> None:
        sparse = helper.make_sparse_tensor(
            numpy_helper.from_array(np.array([5], "float32")),
            numpy_helper.from_array(np.array([2])),
            [3],
        )
        forms: dict[str, Any] = {
            "value": numpy_helper.from_array(np.ones((2, 2), "int8")),
            "sparse_value": sparse,
            "value_float": 1.5,
            "value_floats": [1.0, 2.0],
            "value_int": 3,
            "value_ints": [4, 5],
            "value_string": b"text",
            "value_strings": [b"a", b"b"],
        }
        nodes = [helper.make_node("Constant", [], [form], **{form: v}) for form, v in forms.items()]
        outputs = [helper.make_tensor_value_info(form, 1, None) for form in forms]
        graph = helper.make_graph(nodes, "g", [], outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        settled, _ = _settle(model)
        assert settled.nodes == []
        found = {name: tensor.numpy().tolist() for name, tensor in settled.constants.items()}
        assert found == {
            "value": [[1, 1], [1, 1]],
            "sparse_value": [0, 0, 5],
            "value_float": 1.5,
            "value_floats": [1, 2],
            "value_int": 3,
            "value_ints": [4, 5],
            "value_string": "text",
            "value_strings": ["a", "b"],
        }

    def test_large_weights_stay_where_they_are(self, tmp_path: Any) -> None:
        weight = np.random.default_rng(0).normal(size=(64, 64)).astype("float32")
        model = parser.parse_model(
            '<ir_version: 10, opset_import: ["": 20]> g (float[2, 64] x) => (float[2, 64] y) { '
            "shape = Constant<value_ints = [64, 64]>() flat = Reshape(w, shape) "
            "turned = Transpose<perm = [1, 0]>(flat) y = MatMul(x, turned) }"
        )
        model.graph.initializer.append(numpy_helper.from_array(weight.reshape(-1), "w"))
        settled, _ = _settle(model)
        assert _operators(settled) == ["MatMul"]
        np.testing.assert_array_equal(settled.constants["turned"].numpy(), weight.T)
        del model.graph.node[2]
        model.graph.node[-1].input[1] = "flat"
        path = tmp_path / "m.onnx"
        onnx.save(model, path)
        with tk.open(path) as state:
            settled = settle(state, Report("onnx", "nnef"), keeps=ALL)
            assert settled.constants["flat"].source is state["w"].source

    def test_large_tensors_of_equal_elements_take_no_room(self) -> None:
        model = """
        g (float[1, 9999] x) => (float[1, 9999] y) {
          shape = Constant<value_ints = [9999, 9999]>()
          w = ConstantOfShape<value = float[1] {0.5}>(shape)
          y = MatMul(x, w)
        }
        """
        settled, _ = _settle(model)
        weight = settled.constants["w"]
        assert (weight.shape, weight[17, 9990:].tolist()) == ((9999, 9999), [0.5] * 9)
        assert bytes(weight.source.read(6, 14)) == np.full(4, 0.5, "float32").tobytes()[2:10]

    def test_sparse_weights_are_written_out(self) -> None:
        model = parser.parse_model(
            '<ir_version: 10, opset_import: ["": 20]> '
            "g (float[2, 3] x) => (float[2, 3] y) { y = Add(x, w) }"
        )
        values = numpy_helper.from_array(np.array([1, 2], "float32"), "w")
        places = numpy_helper.from_array(np.array([[0, 1], [1, 2]]))
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [2, 3]))
        settled, remarks = _settle(model)
        assert settled.constants["w"].numpy().tolist() == [[0, 1, 0], [0, 0, 2]]
        assert remarks == ["changed w: it is sparse, and written out"]
        model.graph.sparse_initializer[0].indices.CopyFrom(
            numpy_helper.from_array(np.array([1, 6]))
        )
        with pytest.raises(CorruptError, match="w: has a value at a place that is not in it"):
            _settle(model)

    def test_random_numbers_are_no_constants(self) -> None:
        model = "g (float[2] x) => (float[2] y) { r = RandomNormal<shape = [2]>() y = Add(x, r) }"
        assert _operators(_settle(model)[0]) == ["RandomNormal", "Add"]

    def test_dequantized_weights_keep_their_integers(self) -> None:
        model = """
        g (float[2] x) => (float[2] y) <int8[2] w = {1, 2}, float s = {0.5}> {
          d = DequantizeLinear(w, s) y = Add(x, d)
        }
        """
        assert _operators(_settle(model)[0]) == ["DequantizeLinear", "Add"]
        assert _operators(_settle(model, keeps=())[0]) == ["Add"]


@pytest.mark.usefixtures("here")
def test_outputs_that_nothing_takes_are_left_out() -> None:
    model = """
    g (float[1, 1, 4, 4] x) => (float[A, B, C, D] y, float[E, F] h) {
      d, mask = Dropout(x)
      y, places = MaxPool<kernel_shape = [2, 2]>(d)
      h, rest = Split<axis = 0, num_outputs = 2>(s)
    }
    """.replace("g (", "g (float[2, 3] s, ")
    settled, _ = _settle(model)
    assert [node.outputs for node in settled.nodes] == [["d"], ["y"], ["h", "rest"]]


@pytest.mark.usefixtures("here")
def test_operators_as_they_were_first() -> None:
    model = """<ir_version: 3, opset_import: ["": 1]>
    g (float[1, 2, 3, 3] x) => (float[A, B] y) <float[2] w = {1, 2}> {
      a = Add<broadcast = 1, axis = 1>(x, w)
      p = Pad<paddings = [0, 0, 1, 1, 0, 0, 1, 1]>(a)
      u = Upsample<height_scale = 2.0, width_scale = 2.0>(p)
      c = Concat(u, u)
      r = Reshape<shape = [0, -1]>(c)
      i = Cast<to = "INT32">(r)
      y = Cast<to = "FLOAT">(i)
    }
    """
    settled, _ = _settle(model)
    shapes = [settled.shapes.get(node.output()) for node in settled.nodes]
    assert shapes[:4] == [(1, 2, 3, 3), (1, 2, 5, 5), (1, 2, 10, 10), (1, 4, 10, 10)]
    assert settled.types["i"] == "int32"


@pytest.mark.usefixtures("here")
def test_unsorted_nodes_are_sorted_and_training_is_left_out() -> None:
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> '
        "g (float[2] x) => (float[2] y) { t = Neg(x) y = Relu(t) }"
    )
    first = onnx.NodeProto()
    first.CopyFrom(model.graph.node[0])
    del model.graph.node[0]
    model.graph.node.append(first)
    model.training_info.add().initialization.name = "init"
    settled, remarks = _settle(model)
    assert _operators(settled) == ["Neg", "Relu"]
    assert remarks == ["dropped training_info: how the model is trained"]


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = "g (float[2] x) => (float[2] y) { y = Relu(x) }"
    asked = "tensorkeep.models.exchange.settling.asking.is_installed"
    monkeypatch.setattr(asked, lambda package="onnx": package == "onnx")
    with pytest.raises(MissingDependencyError, match=r"tensorkeep\[run\]"):
        _settle(model)
    monkeypatch.setattr(asked, lambda package="onnx": False)
    with pytest.raises(MissingDependencyError, match=r"tensorkeep\[onnx\]"):
        _settle(model)


def test_external_weights_that_are_missing_are_not_read() -> None:
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> '
        "g (float[2, 4] x) => (float[2, 4] y) { y = MatMul(x, w) }"
    )
    tensor = TensorProto(name="w", data_type=1, dims=[4, 4], data_location=1)
    tensor.external_data.add(key="location", value="gone.bin")
    model.graph.initializer.append(tensor)
    with settling_here():
        settled, _ = _settle(model)
    assert settled.constants["w"].shape == (4, 4)
    with pytest.raises(MissingError, match=r"gone\.bin"):
        settled.constants["w"].numpy()
