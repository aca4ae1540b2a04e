"""Models made to harm what works them out: told in our words, soon, and in little memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, parser
from tests.models.exchange.settling_here import settling_here

from tensorkeep.errors import ArgumentError, TensorKeepError
from tensorkeep.graph import Graph
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.models.exchange.report import Report
from tensorkeep.models.exchange.settled import Settled
from tensorkeep.models.exchange.settling import settle
from tensorkeep.models.ops.history import operators_of
from tensorkeep.state import State

ALL = frozenset(operators_of(""))
HEAD = '<ir_version: 10, opset_import: ["": 20, "local": 1]>\n'


@pytest.fixture
def here() -> Iterator[None]:
    with settling_here():
        yield


def _settle(model: onnx.ModelProto | str) -> Settled:
    if isinstance(model, str):
        model = parser.parse_model(HEAD + model)
    message = Message.parse(MODEL, model.SerializeToString())
    return settle(State.of_graph(Graph(message, where="m")), Report("a", "b"), keeps=ALL)


def test_a_process_that_dies_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "settling_process"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("import os\nos.abort()\n")
    monkeypatch.setattr("tensorkeep.models.exchange.__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(ArgumentError, match="onnx's process died of it: signal 6"):
        _settle("g (float[2] x) => (float[2] y) { y = Relu(x) }")


@pytest.mark.usefixtures("here")
class TestStructure:
    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ("{ y = Add(x, gone) }", r"'y' \(Add\) takes 'gone', which nothing gives"),
            ("{ t = Relu(u) u = Relu(t) y = Add(x, u) }", r"takes 'u', which nothing gives"),
            ("{ y = Relu(x) y = Neg(x) }", "the value 'y' is there twice"),
            ("{ x = Neg(x) y = Relu(x) }", "the value 'x' is there twice"),
            ("{ z = Relu(x) }", "nothing gives the output 'y'"),
        ],
    )
    def test_values_that_are_not_there_or_twice(self, body: str, said: str) -> None:
        with pytest.raises(ArgumentError, match=said):
            _settle(f"g (float[2] x) => (float[2] y) {body}")

    def test_functions_that_call_themselves(self) -> None:
        model = """
        g (float[2] x) => (float[2] y) { y = local.f(x) }
        <domain: "local", opset_import: ["": 20, "local": 1]> f (i) => (o) { o = local.f(i) }
        """
        with pytest.raises(ArgumentError, match="functions call one another more than 64 deep"):
            _settle(model)

    def test_functions_that_double_what_they_call(self, monkeypatch: pytest.MonkeyPatch) -> None:
        walk = "tensorkeep.models.exchange.settling_process.walk"
        monkeypatch.setattr(f"{walk}.MOST_NODES", 1000)
        functions = "\n".join(
            f'<domain: "local", opset_import: ["": 20, "local": 1]> f{n} (i) => (o) '
            f"{{ t = local.f{n + 1}(i) o = local.f{n + 1}(t) }}"
            for n in range(40)
        )
        last = '<domain: "local", opset_import: ["": 20]> f40 (i) => (o) { o = Neg(i) }'
        with pytest.raises(ArgumentError, match="with its functions it has more than 1,000 nodes"):
            _settle(f"g (float[2] x) => (float[2] y) {{ y = local.f0(x) }}\n{functions}\n{last}")

    def test_a_model_that_contradicts_itself(self) -> None:
        with pytest.raises(ArgumentError, match=r"'y' \(MatMul\).*[Ii]ncompatible dimensions"):
            _settle("g (float[2, 3] x) => (float[2, 2] y) { y = MatMul(x, x) }")

    def test_many_unsorted_nodes(self) -> None:
        names = [f"v{n}" for n in range(2000)]
        nodes = [
            helper.make_node("Relu", [a], [b])
            for a, b in zip(["x", *names[:-1]], names, strict=True)
        ]
        kind = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
        values = [helper.make_value_info(name, kind) for name in ("x", names[-1])]
        graph = helper.make_graph(nodes[::-1], "g", values[:1], values[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        started = time.monotonic()
        assert len(_settle(model).nodes) == 2000
        assert time.monotonic() - started < 20


@pytest.mark.usefixtures("here")
class TestSizes:
    @pytest.mark.parametrize(
        "body",
        [
            "{ s = Constant<value_ints = [99999999, 99999999]>() w = ConstantOfShape(s) ",
            "{ s = Constant<value_ints = [9999999999]>() z = ConstantOfShape(s) w = Neg(z) ",
            "{ s = Constant<value_ints = [9999999999]>() z = ConstantOfShape(s) w = NonZero(z) ",
            "{ b = Constant<value_float = 1e12>() a, d = local.two() w = Range(a, b, d) ",
            "{ a, n = local.two() m = Constant<value_ints = [99999999999]>() w = Tile(c, m) ",
            "{ n = Constant<value_ints = [99999, 99999]>() w = Expand(c, n) ",
            "{ n = Constant<value_ints = [0, 9999999999]>() w = Pad(c, n) ",
        ],
    )
    def test_large_constants_are_not_computed(self, body: str) -> None:
        started = time.monotonic()
        settled = _settle(
            f"g (float[1] x) => (float[N] y) <float[1] c = {{1}}> {body} "
            'f = Cast<to = 1>(w) y = Add(x, f) } <domain: "local", opset_import: ["": 20]> '
            "two () => (a, b) { a = Constant<value_float = 0.0>() b = Exp(a) }"
        )
        assert time.monotonic() - started < 20
        assert sum(tensor.nbytes for tensor in settled.constants.values()) < 1 << 10
        assert settled.nodes[-1].operator == "Add"

    def test_a_sparse_weight_that_would_be_large(self) -> None:
        model = parser.parse_model(
            HEAD + "g (float[2] x) => (float[2] y) <float[1] v = {1}, int64[1] i = {1}> "
            "{ y = Add(x, w) }"
        )
        sparse = helper.make_sparse_tensor(
            model.graph.initializer[0], model.graph.initializer[1], [1 << 40]
        )
        sparse.values.name = "w"
        del model.graph.initializer[:]
        model.graph.sparse_initializer.append(sparse)
        with pytest.raises(TensorKeepError, match="w: is sparse, and too large to be written out"):
            _settle(model)


SMALL = """
g (float[2, 3] x) => (float[2, 3] y) <float[3] w = {1, 2, 3}> {
  s = Shape(x) c = Constant<value_ints = [2, 3]>() r = Reshape(x, c)
  t = local.f(r, w) y = Reshape(t, s)
}
<domain: "local", opset_import: ["": 20]> f (a, b) => (o) { t = Gelu(a) o = Add(t, b) }
"""


@pytest.mark.usefixtures("here")
class TestDamage:
    @given(data=st.data())
    def test_bit_flips(self, data: st.DataObject) -> None:
        raw = bytearray(parser.parse_model(HEAD + SMALL).SerializeToString())
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, 8 * len(raw) - 1))
            raw[at // 8] ^= 1 << at % 8
        _try(bytes(raw))

    def test_every_bit_of_the_nodes(self) -> None:
        raw = parser.parse_model(HEAD + SMALL).SerializeToString()
        for at in range(0, 8 * len(raw), 5):
            flipped = bytearray(raw)
            flipped[at // 8] ^= 1 << at % 8
            _try(bytes(flipped))


def _try(raw: bytes) -> None:
    with settling_here():
        try:
            message = Message.parse(MODEL, raw)
            settled: Any = settle(State.of_graph(Graph(message)), Report("a", "b"), keeps=())
        except TensorKeepError:
            return
    assert isinstance(settled, Settled)
