from __future__ import annotations

import json
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from tests.viewer.graph_checks import (
    BOOL,
    FLOAT,
    INT,
    check,
    digits_classifier,
    loose,
    save,
    sources,
)
from tests.viewer.large_graph import large_model

import tensorkeep as tk
from tensorkeep.errors import ArgumentError, TensorKeepError
from tensorkeep.graph import Graph as Model
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.viewer.answering import Answering
from tensorkeep.viewer.answers import Graph, Node, Part
from tensorkeep.viewer.graphs import graph
from tensorkeep.viewer.graphs.bounds import Budget

DATA = Path(__file__).parents[1] / "data"


def drawn(model: ModelProto, *, infer: bool = False) -> Graph:
    """Draw a model, and check what holds of every graph."""
    message = Message.parse(MODEL, model.SerializeToString())
    state = tk.State.of_graph(Model(message))
    found = graph(state, infer=infer)
    check(found, state)
    return found


def made(nodes: list[NodeProto], **more: Any) -> ModelProto:
    """Make a model of x -> y."""
    inputs = [helper.make_tensor_value_info("x", FLOAT, ["batch", 4])]
    outputs = [helper.make_tensor_value_info("y", FLOAT, None)]
    functions = more.pop("functions", [])
    return helper.make_model(
        helper.make_graph(nodes, "made", inputs, outputs, **more),
        functions=functions,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("own", 1)],
    )


def body(name: str, nodes: list[NodeProto], outputs: list[str], inputs: Any = ()) -> GraphProto:
    """Make a subgraph."""
    rows = [helper.make_tensor_value_info(each, FLOAT, None) for each in outputs]
    return helper.make_graph(nodes, name, list(inputs), rows)


def agree(part: Part, nodes: list[NodeProto]) -> None:
    """Check a part against onnx's own parse, node by node and edge by edge."""
    assert [(n.op, n.name, n.inputs, n.outputs) for n in part.nodes] == [
        (n.op_type, n.name, list(n.input), list(n.output)) for n in nodes
    ]
    makers = {name: f"node {i}" for i, n in enumerate(nodes) for name in n.output if name}
    known = sources(part)
    for node in nodes:
        for name in node.input:
            if name in makers:
                assert known[name] == makers[name]


def test_the_digits_classifier(tmp_path: Path) -> None:
    path = save(digits_classifier(), tmp_path / "digits.onnx")
    with tk.open(path) as state:
        found = graph(state)
        check(found, state)
        (part,) = found.parts
        agree(part, list(onnx.load(path).graph.node))
        assert loose(part) == set()
        names = list(state)
        assert {name: names[place] for name, place in part.tensors.items()} == {
            name: name for name in names
        }
    assert [str(value.type) for value in part.inputs] == ["float32[count, 1, 8, 8]"]
    assert [(v.name, v.type) for v in part.outputs] == [("scores", "float32[count, 10]")]
    assert part.values["conv.weight"] == "float32[16, 1, 3, 3]"
    assert part.nodes[0].attributes[0].text == "[1, 1, 1, 1]"
    assert found.about == {"IR version": "8", "operator sets": "ai.onnx 13", "graph": "digits"}


def test_a_model_with_faults_is_drawn_all_the_same() -> None:
    with tk.open(DATA / "onnx" / "five_faults.pbtxt") as state:
        found = graph(state)
        check(found, state)
    (node,) = found.parts[0].nodes
    assert [(a.name, a.kind, a.text) for a in node.attributes] == [
        ("kernel_shape", "ints", "[3, 3]"),
        ("pads", "ints", "[1, 1, 1, 1]"),
        ("strides", "ints", "[1, 1]"),
    ]


def test_subgraphs_are_parts_that_their_nodes_and_attributes_name() -> None:
    inner = body("inner", [helper.make_node("Neg", ["x"], ["n"])], ["n"])
    deeper = body("deeper", [helper.make_node("Abs", ["a"], ["m"])], ["m"])
    nested = helper.make_node("If", ["c"], ["t"], then_branch=inner, else_branch=deeper)
    then = body("then", [nested], ["t"])
    other = body("", [helper.make_node("Relu", ["a"], ["e"])], ["e"])
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("If", ["c"], ["y"], name="choice", then_branch=then, else_branch=other),
    ]
    found = drawn(made(nodes))
    assert [part.name for part in found.parts] == ["made", "else_branch", "then", "deeper", "inner"]
    choice = found.parts[0].nodes[1]
    assert {(a.name, a.part) for a in choice.attributes} == {("else_branch", 1), ("then_branch", 2)}
    assert sorted(choice.parts) == [1, 2]
    assert loose(found.parts[1]) == {"a"}  # of the graph around it
    assert loose(found.parts[4]) == {"x"}
    assert [part.kind for part in found.parts] == ["graph"] + ["subgraph"] * 4


def test_weights_and_types_from_around_a_subgraph_are_told_in_it() -> None:
    inner = body("inner", [helper.make_node("Add", ["w", "x"], ["s"])], ["s"])
    nested = helper.make_node("If", ["c"], ["v"], then_branch=inner, else_branch=inner)
    shadow = helper.make_node("Abs", ["v"], ["u"])
    then = body("then", [nested, shadow, helper.make_node("Mul", ["u", "v"], ["m"])], ["m"])
    other = body("other", [helper.make_node("Identity", ["a"], ["w"])], ["w"])
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    weights = [numpy_helper.from_array(np.zeros((4, 4), np.float32), name) for name in ("w", "u")]
    rows = [helper.make_tensor_value_info("a", FLOAT, ["batch", 4])]
    found = drawn(made(nodes, initializer=weights, value_info=rows))
    parts = {part.name: part for part in found.parts}
    assert parts["inner"].tensors == {"w": 0}
    assert parts["inner"].values["w"] == "float32[4, 4]"
    assert parts["inner"].values["x"] == "float32[batch, 4]"
    assert parts["then"].tensors == {}  # its own u stands before the weight
    assert parts["other"].tensors == {}
    assert parts["other"].values["a"] == "float32[batch, 4]"


def test_loops_and_scans_have_inputs_of_their_own() -> None:
    inputs = [
        helper.make_tensor_value_info("i", INT, []),
        helper.make_tensor_value_info("go", BOOL, []),
        helper.make_tensor_value_info("was", FLOAT, ["batch", 4]),
    ]
    steps = [
        helper.make_node("Identity", ["go"], ["on"]),
        helper.make_node("Add", ["was", "x"], ["now"]),
    ]
    loop = helper.make_node(
        "Loop", ["", "", "x"], ["y"], body=body("b", steps, ["on", "now"], inputs)
    )
    found = drawn(made([loop]))
    assert found.parts[0].nodes[0].inputs == ["", "", "x"]
    assert [(v.name, v.type) for v in found.parts[1].inputs] == [
        ("i", "int64[]"),
        ("go", "bool[]"),
        ("was", "float32[batch, 4]"),
    ]
    assert loose(found.parts[1]) == {"x"}


def test_functions_are_parts_of_the_nodes_that_call_them() -> None:
    inside = [
        helper.make_node("Mul", ["a", "a"], ["m"]),
        helper.make_node("LeakyRelu", ["m"], ["b"]),
        helper.make_node("outer", ["b"], ["c"], domain="own"),
    ]
    reference = inside[1].attribute.add(
        name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT
    )
    assert reference.ref_attr_name
    opsets = [helper.make_opsetid("", 17)]
    squared = helper.make_function("own", "squared", ["a"], ["c"], inside, opsets, ["slope"])
    outer = helper.make_function(
        "own",
        "outer",
        ["a"],
        ["b"],
        [helper.make_node("squared", ["a"], ["b"], domain="own")],
        opsets,
    )  # each calls the other
    nodes = [helper.make_node("squared", ["x"], ["y"], domain="own", slope=0.5)]
    found = drawn(made(nodes, functions=[squared, outer]))
    assert [(p.kind, p.name) for p in found.parts] == [
        ("graph", "made"),
        ("function", "own::squared"),
        ("function", "own::outer"),
    ]
    assert found.parts[0].nodes[0].parts == [1]
    assert found.parts[1].nodes[2].parts == [2]
    assert found.parts[2].nodes[0].parts == [1]
    assert found.parts[1].nodes[1].attributes[0].text == "@slope of the function"
    assert found.parts[1].doc == "Attributes: slope.\nOperator sets: ai.onnx 17."


def test_attributes_are_text() -> None:
    small = numpy_helper.from_array(np.array([1, -1, 8], np.int64))
    large = numpy_helper.from_array(np.zeros((40, 2), np.float32))
    node = helper.make_node(
        "Anything", ["x"], ["y"], domain="own", doc_string="does\nanything",
        f=0.1, i=-3, s="text", floats=[0.5, 1e-5], ints=list(range(100)), strings=["a", "b"],
        t=small, u=large, to=9,
    )  # fmt: skip
    node.metadata_props.add(key="pkg.torch", value="aten.add")
    found = drawn(made([node]))
    (node_,) = found.parts[0].nodes
    shown = {a.name: (a.kind, a.text, a.tensor) for a in node_.attributes}
    assert shown["f"] == ("float", "0.1", None)
    assert shown["i"] == ("int", "-3", None)
    assert shown["to"] == ("int", "9 (bool)", None)
    assert shown["s"] == ("string", "text", None)
    assert shown["floats"] == ("floats", "[0.5, 1e-05]", None)
    assert shown["ints"][1].endswith(", 63, ... 100 in all]")
    assert shown["strings"] == ("strings", "[a, b]", None)
    assert shown["t"] == ("tensor", "int64[3] = 1, -1, 8", 0)
    assert shown["u"] == ("tensor", "float32[40, 2]", 1)
    assert shown["pkg.torch"] == ("metadata", "aten.add", None)
    assert (node_.domain, node_.doc) == ("own", "does\nanything")


def test_of_long_bytes_only_the_beginning_is_read(tmp_path: Path) -> None:
    node = helper.make_node("EPContext", ["x"], ["y"], domain="own", text="é" * 9_000)
    node.attribute.add(name="cache", type=onnx.AttributeProto.STRING, s=b"\xff" * (4 << 20))
    path = save(made([node]), tmp_path / "cached.onnx")
    with tk.open(path) as state:
        found = graph(state)
        check(found, state)
    shown = {a.name: a.text for a in found.parts[0].nodes[0].attributes}
    assert shown["cache"] == f"4,194,304 bytes: {'ff ' * 63}ff"
    assert shown["text"].endswith("é... 18,000 bytes in all")


def test_the_type_of_a_constant_is_its_tensor() -> None:
    value = numpy_helper.from_array(np.zeros((2, 3), np.float32))
    found = drawn(made([helper.make_node("Constant", [], ["y"], value=value)]))
    assert found.parts[0].values["y"] == "float32[2, 3]"


def test_types_are_text() -> None:
    tensor = helper.make_tensor_type_proto(FLOAT, [1, None, "n"])
    types = {
        "float32[1, ?, n]": tensor,
        "sequence(float32[1, ?, n])": helper.make_sequence_type_proto(tensor),
        "optional(sequence(float32[1, ?, n]))": helper.make_optional_type_proto(
            helper.make_sequence_type_proto(tensor)
        ),
        "map(string, float32[1, ?, n])": helper.make_map_type_proto(TensorProto.STRING, tensor),
        "sparse int64[3]": helper.make_sparse_tensor_type_proto(INT, [3]),
    }
    rows = [helper.make_value_info(text, kind) for text, kind in types.items()]
    found = drawn(made([helper.make_node("Relu", ["x"], ["y"])], value_info=rows))
    assert {name: text for name, text in found.parts[0].values.items() if name in types} == {
        text: text for text in types
    }


def test_sparse_initializers_and_inputs_that_initializers_fill() -> None:
    values = helper.make_tensor("s", FLOAT, [2], [1.0, 2.0])
    indices = helper.make_tensor("", INT, [2], [0, 3])
    sparse = helper.make_sparse_tensor(values, indices, [2, 2])
    model = made([helper.make_node("Add", ["x", "s"], ["y"])], sparse_initializer=[sparse])
    model.graph.input.append(helper.make_tensor_value_info("s", FLOAT, [2, 2]))
    (part,) = drawn(model).parts
    assert part.tensors == {"s": 0}
    assert part.values["s"] == "sparse float32[2, 2]"
    assert [value.name for value in part.inputs] == ["x"]


def test_training_graphs_and_facts() -> None:
    model = made([helper.make_node("Relu", ["x"], ["y"])])
    model.producer_name, model.producer_version, model.doc_string = "maker", "2", "for tests"
    model.metadata_props.add(key="author", value="someone")
    model.training_info.add(algorithm=body("step", [helper.make_node("Neg", ["x"], ["z"])], ["z"]))
    model.training_info[0].update_binding.add(key="w", value="z")
    found = drawn(model)
    assert [(p.kind, p.name) for p in found.parts] == [
        ("graph", "made"),
        ("graph", "training 0: algorithm"),
    ]
    assert found.about["producer"] == "maker 2"
    assert found.about["operator sets"] == "ai.onnx 17, own 1"
    assert found.about["metadata: author"] == "someone"
    assert found.about["training 0: update binding"] == "w = z"


def test_types_are_worked_out_where_that_is_asked_for() -> None:
    model = digits_classifier()
    assert "h" not in drawn(model).parts[0].values
    found = drawn(model, infer=True)
    assert found.parts[0].values["h"] == "float32[count, 512]"
    assert found.parts[0].values["p"] == "float32[count, 16, 4, 4]"
    assert "types not worked out" not in found.about


def test_why_types_were_not_worked_out_is_told() -> None:
    found = drawn(made([helper.make_node("Nothing", ["x"], ["y"])]), infer=True)
    assert found.parts[0].nodes[0].op == "Nothing"
    assert found.about.get("types not worked out", "onnx") != ""


def test_five_thousand_nodes_are_quick_and_read_no_weight(tmp_path: Path) -> None:
    model = large_model()
    path = save(model, tmp_path / "large.onnx")  # its weights are nowhere
    with tk.open(path) as state:
        start = time.process_time()
        found = graph(state)
        took = time.process_time() - start
        check(found, state)
    agree(found.parts[0], list(model.graph.node))
    assert len(found.parts[0].nodes) == 5_000
    assert loose(found.parts[0]) == set()
    assert took < 10  # 0.35 s where nothing else runs


def test_what_is_too_much_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tensorkeep.viewer.graphs.onnx.Budget", partial(Budget, nodes=200))
    names = ["x", *(f"v{i}" for i in range(250))]
    nodes = [helper.make_node("Relu", [a], [b]) for a, b in pairwise(names)]
    branch = body("", [helper.make_node("Abs", ["x"], ["t"])] * 3, ["t"])
    nodes.append(helper.make_node("If", ["c"], ["y"], then_branch=branch))
    found = drawn(made(nodes))
    assert len(found.parts[0].nodes) == 200
    assert found.left_out == 54


def test_graphs_within_graphs_are_no_danger() -> None:
    graph_ = body("deepest", [helper.make_node("Abs", ["x"], ["y"])], ["y"])
    for _ in range(28):
        node = helper.make_node("If", ["x"], ["y"], then_branch=graph_)
        graph_ = body("deep", [node], ["y"])
    found = drawn(made([helper.make_node("If", ["x"], ["y"], then_branch=graph_)]))
    assert len(found.parts) == 30
    assert found.parts[29].name == "deepest"


def test_levels_are_bounded_in_models_that_were_made_here() -> None:
    model = Message(MODEL, ir_version=8)
    at = model.make("graph")
    for _ in range(80):
        at = at.add("node", op_type="If").add("attribute", name="then", type=5).make("g")
    at.add("node", op_type="Abs")
    state = tk.State.of_graph(Model(model))
    found = graph(state)
    check(found, state)
    assert len(found.parts) == 65
    assert found.left_out == 16


def test_cycles_and_duplicates_are_given_as_they_are() -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="same"),
        helper.make_node("Relu", ["a"], ["b"], name="same"),
        helper.make_node("Relu", ["b"], ["b"], name="same"),
    ]
    found = drawn(made(nodes))
    assert [node.outputs for node in found.parts[0].nodes] == [["a"], ["b"], ["b"]]


@pytest.mark.parametrize(
    "name",
    [
        "<img src=x onerror=alert(1)>",
        "__proto__",
        "\u202egnol\u202c",
        "a\nb\x07",
        "constructor",
        "x" * 5_000,
        "é" * 3_000,
    ],
)
def test_hostile_names_are_text(name: str) -> None:
    nodes = [
        helper.make_node(name, ["x"], [name], name=name, domain=name, doc_string=name),
        helper.make_node("Relu", [name], ["y"]),
    ]
    found = drawn(made(nodes))
    first, second = found.parts[0].nodes
    assert first.outputs == second.inputs
    if len(name) < 2_000:
        assert first.outputs == [name]


def test_long_names_that_begin_alike_stay_apart() -> None:
    long, other = "n" * 9_000 + "a", "n" * 9_000 + "b"
    nodes = [helper.make_node("Relu", ["x"], [long]), helper.make_node("Abs", [other], ["y"])]
    found = drawn(made(nodes))
    assert found.parts[0].nodes[0].outputs != found.parts[0].nodes[1].inputs


def test_names_that_are_no_utf8() -> None:
    model = made(
        [helper.make_node("Relu", ["x"], ["zz~~"]), helper.make_node("Abs", ["zz~~"], ["y"])]
    )
    data = model.SerializeToString().replace(b"zz~~", b"zz\xff\xfe")
    state = tk.State.of_graph(Model(Message.parse(MODEL, data)))
    found = graph(state)
    check(found, state)
    assert found.parts[0].nodes[1].inputs == ["zz\\xff\\xfe"]


def test_a_node_of_very_many_ends_is_cut() -> None:
    node = helper.make_node("Sum", [f"v{i}" for i in range(5_000)], ["y"])
    for i in range(400):
        node.attribute.add(name=f"a{i}", i=i, type=2)
    (shown,) = drawn(made([node])).parts[0].nodes
    assert len(shown.inputs) == 1_000
    assert "1,000 of 5,000 are shown" in [a.text for a in shown.attributes if a.name == "inputs"]
    texts = [a.text for a in shown.attributes if a.name == "attributes"]
    assert texts == ["200 of 400 are shown"]


def test_what_has_no_graph_is_refused(tmp_path: Path) -> None:
    tk.save({"w": np.zeros(3)}, tmp_path / "w.npz")
    with tk.open(tmp_path / "w.npz") as state, pytest.raises(ArgumentError) as error:
        graph(state)
    assert "holds tensors, but no graph of a model" in str(error.value)
    assert "A model of ONNX's" in error.value.cure


def _everything() -> bytes:
    branch = body("then", [helper.make_node("Neg", ["x"], ["n"])], ["n"])
    value = numpy_helper.from_array(np.array([1, 2], np.int64))
    inside = helper.make_node("Mul", ["a", "a"], ["b"])
    squared = helper.make_function(
        "own", "squared", ["a"], ["b"], [inside], [helper.make_opsetid("", 17)]
    )
    nodes = [
        helper.make_node("Constant", [], ["k"], value=value),
        helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch),
        helper.make_node("squared", ["z"], ["y"], domain="own"),
    ]
    return bytes(made(nodes, functions=[squared]).SerializeToString())


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damage_gives_a_graph_or_one_of_our_errors(data: st.DataObject) -> None:
    whole = bytearray(_everything())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        state = tk.State.of_graph(Model(Message.parse(MODEL, cut)))
        found = graph(state)
    except TensorKeepError:
        return
    check(found, state)


_NAMES = st.sampled_from(["x", "y", "a", "b", "c", ""])


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.lists(_NAMES, max_size=3), st.lists(_NAMES, max_size=2)), max_size=8))
def test_any_graph_is_given_as_onnx_reads_it(ends: list[tuple[list[str], list[str]]]) -> None:
    nodes = [helper.make_node("Op", inputs, outputs) for inputs, outputs in ends]
    found = drawn(made(nodes))
    given_: list[Node] = found.parts[0].nodes
    assert [(node.inputs, node.outputs) for node in given_] == ends


def test_inferred_types_as_a_job() -> None:
    model = made([helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Neg", ["h"], ["y"])])
    message = Message.parse(MODEL, model.SerializeToString())
    answering = Answering([tk.State.of_graph(Model(message))])
    path = "things/0/graph"
    try:
        assert json.loads(answering.answer(path).body)["parts"][0]["values"].get("h") is None
        while not (job := json.loads(answering.answer(f"{path}/inferred").body))["finished"]:
            time.sleep(0.01)
    finally:
        answering.close()
    assert job["problem"] == ""
    assert job["result"]["parts"][0]["values"]["h"] == "float32[batch, 4]"
