"""An NNEF document as an ONNX graph: names, inputs, variables, outputs, types, refusals."""

import time

import nnef
import numpy as np
import pytest
from tests.models.exchange.nnef_texts import left, read, to_onnx

import tensorkeep as tk
from tensorkeep import State
from tensorkeep.errors import ArgumentError, TranslationError
from tensorkeep.graph import Graph
from tensorkeep.models.exchange.nnef_to_onnx import TABLE, translate
from tensorkeep.models.exchange.report import Report
from tensorkeep.tensor import Tensor
from tensorkeep.wire.nnef import fragments
from tensorkeep.wire.nnef.document import Document
from tensorkeep.wire.nnef.operations import Quantization, Value

FRAGMENTS = (
    "version 1.0;\nextension KHR_enable_fragment_definitions, KHR_enable_operator_expressions;\n"
)
HEAD = "version 1.0;\nextension KHR_enable_operator_expressions;\n\n"
X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 3, 2)


def graph(body: str, results: str = "y", parameters: str = "x") -> str:
    given = "x = external(shape = [2, 3, 2]);" if parameters == "x" else ""
    return f"{HEAD}graph net({parameters}) -> ({results})\n{{\n    {given}\n    {body}\n}}\n"


def translated(state: State) -> tuple[State, list[str]]:
    report = Report("nnef", "onnx")
    return translate(state, report), [str(remark) for remark in report.remarks]


def document_of(state: State) -> Document:
    """Give a state's NNEF document, which must be there."""
    assert isinstance(state.document, Document)
    return state.document


def graph_of(state: State) -> Graph:
    """Give a model's graph, which must be there."""
    assert state.graph is not None
    return state.graph


def test_every_standard_operation_is_translated_or_taken_apart() -> None:
    assert len(nnef.StandardOperations) > 100
    for name in nnef.StandardOperations:
        assert name in TABLE or fragments.has_body(name), name
    for row in TABLE:
        assert row.operator in nnef.StandardOperations or fragments.has_body(row.operator)
        assert row.becomes


def test_variables_stay_where_they_lie() -> None:
    weights = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    tensor = Tensor.of(weights)
    text = graph("w = variable(shape = [2, 3, 1], label = 'net/w'); y = mul(x, w);")
    state = State({"net/w": tensor}, document=read(text).document, metadata={"epoch": 3})
    model, remarks = translated(state)
    assert np.shares_memory(model["net/w"].numpy(), weights)
    assert model.metadata == {"epoch": 3}
    assert model.document is None
    assert not remarks
    np.testing.assert_array_equal(tk.run(model, {"x": X})["y"], X * weights)


def test_a_variable_of_lower_rank_becomes_an_initializer_with_more_axes() -> None:
    bias, slope = np.array([[1, 2, 3]], np.float32), np.array([[4, 5, 6]], np.float32)
    text = graph(
        "b = variable(shape = [1, 3], label = 'b'); s = variable(shape = [1, 3], label = 's');"
        "y = add(mul(x, s), b); z = add(b, 1.0); u = mul(s, s);",
        "y, z, u",
    )
    model = to_onnx(text, {"b": bias, "s": slope})
    assert (model["b"].shape, model["s"].shape) == ((1, 3, 1), (1, 3, 1))
    given = tk.run(model, {"x": X})
    np.testing.assert_allclose(given["y"], X * left(slope, 3) + left(bias, 3))
    np.testing.assert_array_equal(given["z"], bias + 1)
    np.testing.assert_array_equal(given["u"], slope * slope)
    assert [node.op_type for node in graph_of(model).model.graph.node].count("Reshape") == 2


def test_a_label_twice_is_one_variable() -> None:
    text = graph(
        "a = variable(shape = [3], label = 'w'); b = variable(shape = [3], label = 'w');"
        "y = add(a, b); z = mul(a, 2.0);",
        "y, z",
    )
    model = to_onnx(text, {"w": np.array([1, 2, 3], np.float32)})
    assert [name for name in model if name.startswith("w")] == ["w"]
    assert tk.run(model, {"x": X})["y"].tolist() == [2, 4, 6]


def test_a_variable_that_nothing_uses_is_kept() -> None:
    text = graph("w = variable(shape = [2], label = 'w'); y = copy(x);")
    model = to_onnx(text, {"w": np.array([1, 2], np.float32)})
    assert model["w"].numpy().tolist() == [1, 2]


def test_a_tensor_that_is_no_variable_is_dropped_and_told() -> None:
    model, remarks = translated(read(graph("y = neg(x);"), {"lost": np.array([1], np.float32)}))
    assert "lost" not in model
    assert remarks == ["dropped lost: no variable of the document has this label"]


def test_a_graph_of_many_operations_is_translated_quickly() -> None:
    lines = "".join(f"a{n} = round(a{n - 1});\n" for n in range(1, 2000))
    started = time.process_time()
    model, _ = translated(read(graph(f"a0 = neg(x);\n{lines}y = neg(a1999);")))
    assert len(graph_of(model).model.graph.node) == 8 * 1999 + 2
    assert time.process_time() - started < 20


def test_inputs_and_outputs_keep_their_order_and_names() -> None:
    text = graph(
        "b = external<integer>(shape = [1]); a = external<logical>(shape = []);"
        "c = external(shape = [2]);"
        "n = not(a); k = neg(c); m = copy(b);",
        "k, m, n",
        "c, a, b",
    )
    model = to_onnx(text)
    assert [str(value) for value in graph_of(model).inputs] == [
        "c: float32[2]",
        "a: bool[]",
        "b: int64[1]",
    ]
    assert [str(value) for value in graph_of(model).outputs] == [
        "k: float32[2]",
        "m: int64[1]",
        "n: bool[]",
    ]


def test_names_and_types_of_the_document_win() -> None:
    state = read(graph("y = relu(x);"))
    document_of(state).names.update(x="images:0", y="head/logits")
    document_of(state).types.update(x="float16")
    model, remarks = translated(state)
    assert [str(value) for value in (*graph_of(model).inputs, *graph_of(model).outputs)] == [
        "images:0: float16[2, 3, 2]",
        "head/logits: float16[2, 3, 2]",
    ]
    assert not remarks


def test_a_value_with_the_name_of_a_variable_is_renamed_and_told() -> None:
    text = graph("w = variable(shape = [1], label = 'y'); y = mul(x, w);")
    model, remarks = translated(read(text, {"y": np.array([2], np.float32)}))
    assert [value.name for value in graph_of(model).outputs] == ["y_2"]
    assert remarks == ["renamed y: is the output 'y_2'"]
    np.testing.assert_array_equal(tk.run(model, {"x": X})["y_2"], X * 2)


def test_variables_and_constants_as_outputs() -> None:
    text = graph(
        "w = variable(shape = [2], label = 'v'); c = constant(shape = [1], value = [7.0]);"
        "y = neg(x);",
        "w, c, y",
    )
    model, remarks = translated(read(text, {"v": np.array([1, 2], np.float32)}))
    assert not [finding for finding in tk.models.check(model) if finding.severity == "error"]
    given = tk.run(model, {"x": X})
    assert list(given) == ["v", "c", "y"]
    assert given["v"].tolist() == [1, 2]
    assert given["c"].tolist() == [7]
    assert remarks == ["renamed w: is the output 'v'"]


def test_half_precision_variables_are_computed_with_in_the_type_of_the_rest() -> None:
    text = graph("w = variable(shape = [1], label = 'w'); y = mul(x, w);")
    model, remarks = translated(read(text, {"w": np.array([0.1], np.float16)}))
    assert remarks == ["changed w: float16 is computed with as float32"]
    np.testing.assert_array_equal(tk.run(model, {"x": X})["y"], X * np.float32(np.float16(0.1)))


def test_stored_integers_mean_what_graph_quant_says() -> None:
    text = graph("w = variable(shape = [1, 3], label = 'w'); y = mul(x, w);")
    state = read(text, {"w": np.array([[0, 128, 255]], np.uint8)})
    arguments: dict[str, Value] = {
        "zero_point": 128,
        "scale": 0.5,
        "bits": 8,
        "signed": False,
        "symmetric": False,
    }
    document_of(state).quantization["w"] = Quantization("zero_point_linear_quantize", arguments)
    model, _ = translated(state)
    assert model["w"].dtype.name == "uint8"
    meant = np.array([[-64, 0, 63.5]], np.float32)
    np.testing.assert_array_equal(tk.run(model, {"x": X})["y"], X * left(meant, 3))


def test_results_are_quantized_as_graph_quant_says() -> None:
    state = read(graph("h = mul(x, 1.0); y = add(h, 0.0);"))
    arguments: dict[str, Value] = {
        "zero_point": 0,
        "scale": 0.25,
        "bits": 8,
        "signed": True,
        "symmetric": False,
    }
    for name in "xhy":
        document_of(state).quantization[name] = Quantization(
            "zero_point_linear_quantize", arguments
        )
    model, _ = translated(state)
    found = graph_of(model)
    assert [value.name for value in (*found.inputs, *found.outputs)] == ["x", "y"]
    given = tk.run(model, {"x": X})["y"]
    np.testing.assert_array_equal(given, np.round(X * 4) / 4)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("w = variable(shape = [1], label = 'w'); y = update(w, w);", "for the next run"),
        ("w = variable(shape = [2], label = 'w'); y = mul(x, w);", "its data has [1]"),
        ("w = variable(shape = [1], label = 'v'); y = mul(x, w);", "there is no tensor 'v'"),
        (
            "w = variable<integer>(shape = [1], label = 'w'); y = gather(x, w);",
            "is integer, but its data is float32",
        ),
        (
            "w = variable(shape = [3], label = 'i'); y = mul(x, w);",
            "its data is int64. Say in graph.quant how it is quantized.",
        ),
    ],
)
def test_what_a_variable_cannot_be_is_refused(body: str, told: str) -> None:
    with pytest.raises(TranslationError) as caught:
        to_onnx(graph(body), {"w": np.array([1], np.float32), "i": np.array([1, 2, 3])})
    assert told in str(caught.value)


def test_all_refusals_are_told_at_once_and_what_follows_from_them_is_not() -> None:
    text = (
        f"{FRAGMENTS}fragment tract_core_gru(input: tensor<scalar>) -> (output: tensor<scalar>);\n"
        "graph net(x) -> (y, z)\n{\n"
        "x = external(shape = [2, 3]);\n"
        "a = tract_core_gru(x);\nb = relu(a);\nc = tract_core_gru(b);\ny = relu(c);\n"
        "d = tract_core_gru(x);\nz = reshape(x, shape = [5]);\n}\n"
    )
    with pytest.raises(TranslationError) as caught:
        to_onnx(text)
    rows = {(each.operator, each.node) for each in caught.value.refusals}
    assert rows == {("tract_core_gru", "a"), ("tract_core_gru", "d"), ("reshape", "z")}
    assert str(caught.value).startswith("net: 3 nodes cannot be said in ONNX:")
    assert "tract_core_gru (2 times, at a, d): is no operation of NNEF's own" in str(caught.value)


def test_fragments_are_taken_apart() -> None:
    text = (
        FRAGMENTS + "fragment mish(x: tensor<scalar>) -> (y: tensor<scalar>)\n"
        "{ y = x * tanh(softplus(x)); }\n"
        "graph net(x) -> (y)\n{ x = external(shape = [2, 3, 2]); y = mish(x) + 1.0; }\n"
    )
    given = tk.run(to_onnx(text), {"x": X})["y"]
    np.testing.assert_allclose(given, X * np.tanh(np.log1p(np.exp(X))) + 1, rtol=1e-6)


def test_a_state_without_an_nnef_document_is_refused() -> None:
    with pytest.raises(ArgumentError, match="has no NNEF document"):
        translate(State({}), Report("nnef", "onnx"))


def test_a_variable_far_larger_than_memory_is_not_read() -> None:
    class Far(tk.source.Source):
        def _read(self, start: int, stop: int) -> memoryview:
            raise AssertionError("it was read")

    shape = (1, 1 << 20, 1 << 20)
    tensor = Tensor(tk.dtypes.FLOAT32, shape, Far(4 << 40, "far"))
    text = graph(
        f"w = variable(shape = {list(shape)}, label = 'w'); y = sum_reduce(w, axes = [1]);"
    )
    model, _ = translated(State({"w": tensor}, document=read(text).document))
    assert model["w"].shape == shape
