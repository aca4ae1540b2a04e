from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import nnef as reference
import numpy as np
import pytest
from tests.viewer.graph_checks import check, digits_classifier, loose, save, sources

import tensorkeep as tk
from tensorkeep.errors import TensorKeepError
from tensorkeep.viewer.answers import Graph
from tensorkeep.viewer.graphs import graph
from tensorkeep.viewer.graphs.bounds import Budget
from tensorkeep.wire.nnef.document import Document

FRAGMENTS = """version 1.0;
extension KHR_enable_fragment_definitions;
extension KHR_enable_operator_expressions;
"""


def drawn(text: str, quantization: str = "") -> Graph:
    """Draw a document, and check what holds of every graph."""
    state = tk.State({}, document=Document.parse(text, "graph.nnef", quantization))
    found = graph(state)
    check(found, state)
    for part in found.parts:
        assert loose(part) <= {"w"} or found.left_out
    return found


def net(body: str, fragments: str = "") -> str:
    return f"""{FRAGMENTS}{fragments}
graph net( x ) -> ( y ) {{ x = external(shape = [1, 4, 8, 8]); {body} }}"""


def test_the_digits_classifier_has_the_operations_that_nnefs_own_reader_finds(
    tmp_path: Path,
) -> None:
    path = save(digits_classifier(), tmp_path / "digits.onnx")
    tk.convert(path, tmp_path / "digits.nnef")
    with tk.open(tmp_path / "digits.nnef") as state:
        found = graph(state)
        check(found, state)
        (part,) = found.parts
        names = list(state)
        weights = {value: names[place] for value, place in part.tensors.items()}
        assert set(weights.values()) == set(names)
    assert loose(part) == set()
    theirs = reference.load_graph(str(tmp_path / "digits.nnef"))
    operations = [op for op in theirs.operations if op.name not in ("external", "variable")]
    assert [node.op for node in part.nodes] == [op.name for op in operations]
    for node, op in zip(part.nodes, operations, strict=True):
        taken = [str(v) for v in op.inputs.values() if isinstance(v, reference.Identifier)]
        assert node.inputs == taken
        assert node.outputs == [str(value) for value in op.outputs.values()]
    labels = {op.outputs["output"]: op.attribs["label"] for op in theirs.operations
              if op.name == "variable"}  # fmt: skip
    assert set(part.tensors) == {str(name) for name in labels}
    assert [value.name for value in part.inputs] == list(map(str, theirs.inputs))
    assert part.inputs[0].type.startswith("float32[")


def test_variables_are_weights_by_their_labels(tmp_path: Path) -> None:
    (tmp_path / "graph.nnef").write_text(
        "version 1.0;\ngraph net( x ) -> ( y ) { x = external(shape = [1, 4]);"
        " b = variable(shape = [1, 4], label = 'layers/b');"
        " a = variable(shape = [1, 4], label = 'layers/a'); z = add(x, a); y = mul(z, b); }"
    )
    for label in ("a", "b"):
        (tmp_path / "layers").mkdir(exist_ok=True)
        with (tmp_path / "layers" / f"{label}.dat").open("wb") as file:
            reference.write_tensor(file, np.zeros((1, 4), np.float32))
    with tk.open(tmp_path) as state:
        found = graph(state)
        names = list(state)
    (part,) = found.parts
    assert {name: names[place] for name, place in part.tensors.items()} == {
        "a": "layers/a",
        "b": "layers/b",
    }
    assert part.values["a"] == "float32[1, 4]"
    assert sources(part) == {"x": "input", "a": "weight", "b": "weight", "z": "node 0",
                             "y": "node 1"}  # fmt: skip


def test_attributes_are_text_as_nnef_writes_it() -> None:
    found = drawn(
        "version 1.0;\ngraph net( x ) -> ( y ) { x = external<integer>(shape = [1, 4, 8, 8]);"
        " z = cast<scalar>(x);"
        " y = max_pool(z, size = [1, 1, 2, 2], padding = [(0, 0), (0, 0), (0, 1), (0, 1)]); }"
    )
    cast, pool = found.parts[0].nodes
    assert [(a.name, a.text) for a in cast.attributes] == [("dtype", "scalar")]
    assert {a.name: (a.kind, a.text) for a in pool.attributes} == {
        "size": ("integer[]", "[1, 1, 2, 2]"),
        "border": ("string", "'constant'"),
        "padding": ("integer[][]", "[(0, 0), (0, 0), (0, 1), (0, 1)]"),
        "stride": ("array", "[]"),
        "dilation": ("array", "[]"),
    }
    assert found.parts[0].inputs[0].type == "int64[1, 4, 8, 8]"


def test_fragments_are_parts_that_calls_open() -> None:
    fragments = """
    fragment unit( input: tensor<scalar>, filter: tensor<scalar>, stride: integer )
        -> ( output: tensor<scalar> ) {
        a = conv(input, filter, 0.0, stride = [stride, stride]);
        output = scaled(relu(a) + 1.0, factor = 2.0);
    }
    fragment scaled( x: tensor<scalar>, factor: scalar ) -> ( y: tensor<scalar> ) {
        y = x * factor;
    }"""
    found = drawn(
        net(
            "w = variable(shape = [4, 4, 3, 3], label = 'w'); a = unit(x, w, stride = 1);"
            "b = unit(a, w, stride = 1); y = unit(b, w, stride = 2);",
            fragments,
        )
    )
    assert [(part.kind, part.name) for part in found.parts] == [
        ("graph", "net"), ("function", "unit"), ("function", "unit"), ("function", "scaled"),
    ]  # fmt: skip
    assert [node.parts for node in found.parts[0].nodes] == [[1], [1], [2]]
    unit = found.parts[2]
    assert [value.name for value in unit.inputs] == ["input", "filter"]
    assert [value.name for value in unit.outputs] == ["output"]
    assert [node.op for node in unit.nodes] == ["conv", "relu", "add", "scaled"]
    assert unit.nodes[0].attributes[3].text == "[2, 2]"
    assert unit.nodes[3].parts == [3]
    assert found.about["fragments"] == "unit, scaled"


def test_arrays_of_tensors_and_defaults_in_fragments() -> None:
    fragments = """
    fragment joined<?>( xs: tensor<?>[], xs_0: scalar = 1.0 ) -> ( y: tensor<?> ) {
        y = concat(xs, axis = 1);
    }
    fragment biased( x: tensor<scalar>, bias: tensor<scalar> = 0.5 ) -> ( y: tensor<scalar> ) {
        y = x + bias;
    }"""
    found = drawn(net("a = biased(x); b = biased(a, a); y = joined([a, b]);", fragments))
    assert [part.name for part in found.parts] == ["net", "biased", "biased", "joined"]
    assert [value.name for value in found.parts[1].inputs] == ["x"]
    assert [value.name for value in found.parts[2].inputs] == ["x", "bias"]
    assert [value.name for value in found.parts[3].inputs] == ["xs_0_", "xs_1"]


@pytest.mark.parametrize(
    "fragment",
    [
        "f( x: tensor<scalar> ) -> ( y: tensor<scalar> ) { y = tile(x, repeats = shape_of(x)); }",
        "f<?>( x: tensor<?> ) -> ( y: tensor<?> ) { y = cast<?>(x); }",
    ],
)
def test_what_depends_on_the_caller_is_drawn_flat(fragment: str) -> None:
    found = drawn(net("y = f(x);", f"fragment {fragment}"))
    assert len(found.parts) == 1
    assert found.parts[0].nodes[0].op in ("tile", "cast")


def test_a_fragment_of_tensors_in_arrays_is_taken_apart() -> None:
    fragment = "fragment f( x: tensor<scalar> ) -> ( y: tensor<scalar>[] ) { y = [relu(x), x]; }"
    found = drawn(net("ys = f(x); y = concat(ys, axis = 0);", fragment))
    assert [node.op for node in found.parts[0].nodes] == ["relu", "concat"]


def test_quantization_is_told() -> None:
    found = drawn(net("y = relu(x);"), '"y": linear_quantize(min = 0.0, max = 1.0, bits = 8);\n')
    assert found.parts[0].values["y"] == "linear_quantize(min = 0.0, max = 1.0, bits = 8)"


def test_a_fragment_that_never_ends_is_refused() -> None:
    fragment = (
        "fragment f( x: tensor<scalar>, n: integer ) -> ( y: tensor<scalar> ) {"
        " y = f(x, n = n - 1) if n > 0 else relu(x); }"
    )
    found = drawn(net("y = f(x, n = 20);", fragment))
    assert len(found.parts) == 22
    with pytest.raises(TensorKeepError, match="levels deep"):
        drawn(net("y = f(x, n = 100);", fragment))


def test_five_thousand_operations_are_quick() -> None:
    lines = [f"v{i + 1} = add(v{i}, v{max(0, i - 3)});" for i in range(5_000)]
    text = net(f"v0 = relu(x); {' '.join(lines)} y = relu(v5000);")
    state = tk.State({}, document=Document.parse(text))
    start = time.process_time()
    found = graph(state)
    assert time.process_time() - start < 10  # 0.15 s where nothing else runs
    check(found, state)
    assert len(found.parts[0].nodes) == 5_002
    assert loose(found.parts[0]) == set()


def test_what_is_too_much_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tensorkeep.viewer.graphs.nnef.Budget", partial(Budget, nodes=200))
    lines = [f"v{i + 1} = relu(v{i});" for i in range(250)]
    found = drawn(net(f"v0 = relu(x); {' '.join(lines)} y = relu(v250);"))
    assert len(found.parts[0].nodes) == 200
    assert found.left_out == 52


def test_long_arrays_are_cut() -> None:
    values = ", ".join(["0.5"] * 3_000)
    found = drawn(net(f"c = constant(shape = [3000], value = [{values}]); y = add(x, c);"))
    text = {a.name: a.text for a in found.parts[0].nodes[0].attributes}["value"]
    assert text.endswith("... 3,000 in all]")
