"""Functions are added where they are needed, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from tests.models.ops.running import expanded, graph_of, parse, run, run_text

import tensorkeep as tk
from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.graph.graph import Graph
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.models import ops
from tensorkeep.state import State

HEAD = '<ir_version: 7, opset_import: ["" : 17]>\n'
X = np.array([0.5, -1], np.float32)


def test_state_is_not_changed() -> None:
    text = f"{HEAD}g (float[2] X) => (float[2] Y) <float[2] W = {{1, 2}}> {{\n"
    text += "a = Erfc (X)\nY = Mul (a, W)\n}"
    state = State.of_graph(graph_of(text))
    assert state.graph is not None
    before = state.graph.model.encode()
    made = ops.expand(state)
    assert state.graph.model.encode() == before
    assert made.graph is not None
    assert list(made) == ["W", "tensorkeep.ops::Erfc/one_float.value"]
    model = onnx.load_from_string(made.graph.model.encode())
    assert run(model, {"X": X})[0] == pytest.approx([0.4795001, 2 * 1.8427008])
    was = parse(text)
    assert model.graph.initializer == was.graph.initializer
    assert model.graph.node[1] == was.graph.node[1]
    assert [(each.domain, each.version) for each in model.opset_import] == [
        ("", 17),
        ("tensorkeep.ops", 1),
    ]
    assert model.ir_version == 8
    assert [each.version for each in model.functions[0].opset_import] == [17]


def test_path(tmp_path: Path) -> None:
    path, out = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save(parse(f"{HEAD}g (float[2] X) => (float[2] Y) {{ Y = Erfc (X) }}"), path)
    with ops.expand(path) as state:
        tk.save(state, out)
    assert run(onnx.load(out), {"X": X})[0] == pytest.approx([0.4795001, 1.8427008])


def test_model_without_such_operators_is_what_it_was() -> None:
    graph = graph_of(f"{HEAD}g (float[2] X) => (float[2] Y) {{ Y = Relu (X) }}")
    before = graph.model.encode()
    assert ops.expand_graph(graph) == []
    assert graph.model.encode() == before


def test_twice_is_as_once() -> None:
    graph = graph_of(f"{HEAD}g (float[2] X) => (float[2] Y) {{ Y = Erfc (X) }}")
    assert ops.expand_graph(graph) == ["Erfc"]
    once = graph.model.encode()
    ops.expand_graph(graph)
    assert graph.model.encode() == once


def test_in_subgraphs_and_functions() -> None:
    text = f"""{HEAD.replace("7", "8", 1).replace("]", ', "own" : 1]')}
    g (bool c, float[2] X) => (float[2] Y) {{
        Z = If (c) <then_branch = one () => (float[2] a) {{ a = Erfc (X) }},
                    else_branch = other () => (float[2] b) {{ b = own.Twice (X) }}>
        Y = Identity (Z)
    }}
    <domain: "own", opset_import: ["" : 17]>
    Twice (x) => (y) {{
        going = Constant <value = int32 {{1}}> ()
        more = Cast <to = 9> (going)
        y = If (more) <then_branch = t () => (p) {{ p = DynamicAdd (x, x) }},
                      else_branch = e () => (q) {{ q = Affine <alpha = 3.0> (x) }}>
    }}"""
    model = expanded(text)
    names = {(each.domain, each.name) for each in model.functions}
    assert {name for domain, name in names if domain == ops.OURS} == {
        "Erfc",
        "DynamicAdd",
        "Affine",
    }
    assert {each.domain for each in model.functions[0].opset_import} == {"", ops.OURS}
    assert run(model, {"X": X, "c": np.array(True)})[0] == pytest.approx([0.4795001, 1.8427008])
    assert run(model, {"X": X, "c": np.array(False)})[0] == pytest.approx(2 * X)


def test_in_functions_alone() -> None:
    text = f"""{HEAD.replace("7", "8", 1).replace("]", ', "own" : 1]')}
    g (float[2] X) => (float[2] Y) {{ Y = own.Twice (X) }}
    <domain: "own", opset_import: ["" : 17]>
    Twice (x) => (y) {{ y = Erfc (x) }}"""
    assert run(expanded(text), {"X": X})[0] == pytest.approx([0.4795001, 1.8427008])


def test_in_training_graphs() -> None:
    model = parse(f"{HEAD}g (float[2] X) => (float[2] Y) {{ Y = Relu (X) }}")
    training = model.training_info.add()
    training.algorithm.CopyFrom(parse(f"{HEAD}t () => (float[2] w) {{ w = Erfc (w0) }}").graph)
    graph = Graph(Message.parse(MODEL, model.SerializeToString()))
    assert ops.expand_graph(graph) == ["Erfc"]
    made = onnx.load_from_string(graph.model.encode())
    assert made.training_info[0].algorithm.node[0].domain == ops.OURS
    assert [each.name for each in made.functions] == ["Erfc"]


def test_refusal_closes_what_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    onnx.save(parse(f"{HEAD}g (float[2] X) => (float[2] Y) {{ Y = Erfc (X, X) }}"), path)
    with pytest.raises(UnsupportedError, match=r"a\.onnx: the node 'Y' \(Erfc\) has 2 inputs"):
        ops.expand(path)


def test_outputs_that_nobody_wants() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[3,2,4] X, float[1,5,4] W, float[1,5,5] R) => (float[1,2,5] last) {
        all, last = DynamicRNN <hidden_size=5> (X, W, R)
    }"""
    random = np.random.default_rng(0)
    given = {
        "X": random.normal(size=(3, 2, 4)).astype(np.float32),
        "W": random.normal(size=(1, 5, 4)).astype(np.float32),
        "R": random.normal(size=(1, 5, 5)).astype(np.float32),
    }
    both = run_text(text, given)[0]
    plain = text.replace("DynamicRNN", "RNN")
    np.testing.assert_array_equal(both, run_text(plain, given)[0])
    first = text.replace("float[1,2,5] last", "float[3,1,2,5] all").replace("all, last =", "all =")
    model = expanded(first)
    assert list(model.graph.node[0].output) == ["all", ""]
    np.testing.assert_array_equal(run(model, given)[0][-1], both)


def test_ir_version_rises_no_further_than_needed() -> None:
    versions = {
        'IdentityLoss <reduction="mean">': 8,
        "Affine": 9,
        'IdentityLoss <reduction="sum">': 10,
    }
    for call, wanted in versions.items():
        text = f"{HEAD}g (float[2] X) => (float[n] Y) {{ Y = {call} (X) }}"
        assert expanded(text).ir_version == wanted
        assert expanded(text.replace("ir_version: 7", "ir_version: 11")).ir_version == 11


def test_opset_is_added_where_a_model_imports_none() -> None:
    text = """<ir_version: 10, opset_import: ["ai.graphcore" : 1]>
    g (float[2] X) => (float Y) { Y = ai.graphcore.IdentityLoss (X) }"""
    model = expanded(text)
    assert {each.domain: each.version for each in model.opset_import} == {"ai.graphcore": 1, "": 17}
    assert run(model, {"X": X})[0] == pytest.approx(-0.25)


def test_functions_of_the_model_itself_and_other_vendors_are_left_alone() -> None:
    own = """<ir_version: 8, opset_import: ["" : 17, "ai.graphcore" : 1, "other" : 1]>
    g (float[2] X) => (float[2] Y) {
        a = ai.graphcore.IdentityLoss (X)
        Y = other.Erfc (a)
    }
    <domain: "ai.graphcore", opset_import: ["" : 17]>
    IdentityLoss (x) => (y) { y = Neg (x) }"""
    assert expanded(own) == parse(own)


def test_what_a_function_does_not_know_is_refused() -> None:
    def refusal(call: str) -> str:
        with pytest.raises(UnsupportedError) as found:
            expanded(f"{HEAD}g (float[2] X) => (float[2] Y) {{ {call} }}")
        return str(found.value)

    assert refusal("Y = Erfc <axis = 1> (X)") == (
        "the node 'Y' (Erfc) has the attribute axis; the function knows none"
    )
    assert refusal("Y = Erfc (X, X)") == (
        "the node 'Y' (Erfc) has 2 inputs, and the function knows X"
    )
    assert refusal("Y = DynamicAdd (X)") == "the node 'Y' (DynamicAdd) lacks the input B"
    assert refusal("Y, Z = Erfc (X)") == (
        "the node 'Y' (Erfc) has 2 outputs, and the function knows Y"
    )
    assert (
        refusal("Y = MaxPool2D (X)") == "the node 'Y' (MaxPool2D) lacks the attribute kernel_shape"
    )
    assert "needs opset 15, and the model imports 13. Convert it to opset 15 to 28" in _too_old()


def _too_old() -> str:
    text = (
        '<ir_version: 7, opset_import: ["" : 13]>\ng (float[2] X) => (float[2] Y) { Y = Erfc (X) }'
    )
    with pytest.raises(UnsupportedError) as found:
        expanded(text)
    return str(found.value)


def test_reduction_that_is_known_only_when_it_runs_is_refused() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    g (float[2] X) => (float Y) { Y = own.Loss <how = "sum"> (X) }
    <domain: "own", opset_import: ["" : 17]>
    Loss <how> (x) => (y) { y = IdentityLoss <reduction: string = @how> (x) }"""
    with pytest.raises(UnsupportedError, match="none of mean, none, sum"):
        expanded(text)


def test_state_without_a_graph() -> None:
    with pytest.raises(ArgumentError, match="holds tensors, but no graph"):
        ops.expand(State({}))
