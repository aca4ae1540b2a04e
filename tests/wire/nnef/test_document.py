"""Documents: what is parsed, flattened, composed and written; the nnef package reads the same."""

from __future__ import annotations

from typing import Any

import nnef
import numpy as np
import pytest
from tests.wire.nnef.flat import EXTENDED, graph, ours, theirs

from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.wire.nnef.document import Document
from tensorkeep.wire.nnef.operations import Operation, Quantization, Reference

_X, _Y = Reference("x"), Reference("y")
_EXTERNAL = Operation("external", {"shape": [1, 4]}, {"output": _X}, "scalar")

WRITTEN = """
# A network of all there is
version 1.0;
extension KHR_enable_fragment_definitions, KHR_enable_operator_expressions;

fragment act<? = scalar>(x:tensor<?>, slopes : scalar [] = [1.0, -2e-7],
    at:(integer , integer)[]=[])
-> ( y: tensor<?> ) { y = copy(x) ; }
fragment custom( x: tensor<scalar>, mode: string = "a" ) -> ( y: tensor<scalar> );
fragment block( x: tensor<scalar>, n: integer ) -> ( y: tensor<scalar> )
{ y = block(relu(x) * 2.0 + x, n = n - 1) if n > 0 else x; } # to an end
fragment sizes( n: integer ) -> ( s: integer[] ) { s = [for i in range_of([0] * n) yield i * -1]; }

graph net(x,z) -> (y, s, parts)
{
    x = external(shape = [1, 4, 8, 8]); z = external<scalar>(shape = [1, 4, 8, 8]);
    w = variable(shape = [8, 4, 3, 3], label = 'conv/w');
    b = block(x, n = 2);
    c = conv(b, w, stride = [2, 2], padding = [(1, 1)] * 2);
    (m, v) = moments(c, axes = [for i in range_of([1, 2]) if i >= 0 yield i + 2]);
    [p, q] = split(c, axis = 1, ratios = [1, 1]);
    k = [p, q];
    parts = concat(k + [p][0:1], axis = 1);
    h = act(c); n = sizes(n = 3);
    y = custom(h, mode = "it's") + ((m) if length_of(k) == 2 && !(1 in n) else v) ^ 2.0;
    s = select(-x - 1.0 < z, x, z);
}
"""
CANONICAL = """version 1.0;
extension KHR_enable_fragment_definitions;
extension KHR_enable_operator_expressions;

fragment act<? = scalar>( x: tensor<?>, slopes: scalar[] = [1.0, -2e-07], \
at: (integer,integer)[] = [] ) -> ( y: tensor<?> )
{
    y = copy(x);
}

fragment custom( x: tensor<scalar>, mode: string = 'a' ) -> ( y: tensor<scalar> );

fragment block( x: tensor<scalar>, n: integer ) -> ( y: tensor<scalar> )
{
    y = block((relu(x) * 2.0) + x, n = n - 1) if n > 0 else x;
}

fragment sizes( n: integer ) -> ( s: integer[] )
{
    s = [for i in range_of([0] * n) yield i * (-1)];
}

graph net( x, z ) -> ( y, s, parts )
{
    x = external(shape = [1, 4, 8, 8]);
    z = external<scalar>(shape = [1, 4, 8, 8]);
    w = variable(shape = [8, 4, 3, 3], label = 'conv/w');
    b = block(x, n = 2);
    c = conv(b, w, stride = [2, 2], padding = [(1, 1)] * 2);
    m, v = moments(c, axes = [for i in range_of([1, 2]) if i >= 0 yield i + 2]);
    [p, q] = split(c, axis = 1, ratios = [1, 1]);
    k = [p, q];
    parts = concat(k + [p][0:1], axis = 1);
    h = act(c);
    n = sizes(n = 3);
    y = custom(h, mode = "it's") + ((m if (length_of(k) == 2) && (!(1 in n)) else v) ^ 2.0);
    s = select(((-x) - 1.0) < z, x, z);
}
"""
FLAT = """version 1.0;

graph net( x ) -> ( y )
{
    x = external<integer>(shape = [1, 4]);
    f = variable(shape = [8, 4], label = 'fc.weight');
    c = cast<scalar>(x);
    g = linear(c, f);
    k = conv(g, f, padding = [(0, 1)], groups = 2);
    a, b = moments(k, axes = [1]);
    [p, q] = split(a, axis = 0, ratios = [1, 2]);
    m = max_pool_with_index_free(p);
    y = concat([p, q, b], axis = 0);
}
""".replace("    m = max_pool_with_index_free(p);\n", "")


def test_canonical_text_keeps_what_is_written() -> None:
    document = Document.parse(WRITTEN)
    assert document.to_text() == CANONICAL
    again = Document.parse(CANONICAL)
    assert again.to_text() == CANONICAL
    assert again == document


def test_the_nnef_package_reads_the_canonical_text_the_same() -> None:
    text = CANONICAL.replace(" && (!(1 in n))", "")  # which it cannot parse
    assert ours(text) == theirs(text, ["block", "act", "sizes"])


def test_fresh_identifiers_take_no_others_place() -> None:
    text = graph("y_relu = exp(x); y = relu(x) + sqrt(relu(x)) + y_relu;")
    operations = Document.parse(text).operations()
    names = [name for operation in operations for name in operation.outputs()]
    assert len(set(names)) == len(names)
    assert {"x", "y", "y_relu", "y_relu_1", "y_relu_2"} <= set(names)


def test_a_flat_document_is_written_as_it_is() -> None:
    document = Document.parse(FLAT)
    assert document.to_text() == FLAT
    operations = document.operations()
    composed = Document.of(document.name, document.inputs, document.outputs, operations)
    assert composed.to_text() == FLAT
    assert composed == document
    assert ours(FLAT) == theirs(FLAT)


def test_what_the_nnef_package_writes_is_read() -> None:
    parsed = nnef.parse_string(
        CANONICAL.replace(" && (!(1 in n))", ""), lowered=["block", "act", "sizes"]
    )
    text = nnef.format_graph(
        parsed.name, parsed.inputs, parsed.outputs, parsed.operations, parsed.tensors
    )
    before = f"{EXTENDED}fragment custom( x: tensor<scalar>, mode: string ) -> "
    text = f"{before}( y: tensor<scalar> );\n{text}".replace("'it's'", '"it\'s"')
    assert [each[0] for each in ours(text)] == [each.name for each in parsed.operations]
    assert ours(text) == theirs(text)


def test_a_text_that_could_not_be_read_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    document = Document.parse(FLAT)
    monkeypatch.setattr("tensorkeep.wire.nnef.document.MAX_TEXT", 100)
    with pytest.raises(UnsupportedError, match=r"characters; at most 100 are read. Keep it in"):
        document.to_text()


def test_places_in_the_text_are_told() -> None:
    relu = Document.parse(graph("\n  y = relu(x);")).operations()[1]
    assert (relu.line, relu.column) == (4, 7)


def test_flat_operations_of_anything_can_be_composed() -> None:
    document = Document.parse(WRITTEN)
    declared = [each for each in document.fragments if each.body is None]
    operations = document.operations()
    composed = Document.of("net", document.inputs, document.outputs, operations, declared)
    assert ours(composed.to_text()) == ours(WRITTEN) == theirs(composed.to_text())


def test_compounds_are_expanded_where_that_is_wanted() -> None:
    text = graph("m, v = moments(x, axes = [1]); y = m * v;")
    assert [each[0] for each in ours(text)] == ["external", "moments", "mul"]
    once = [each[0] for each in ours(text, {"moments"})]
    assert once == ["external", "mean_reduce", "sub", "sqr", "mean_reduce", "mul"]
    assert ours(text, ["moments", "sqr"]) == theirs(text, ["moments", "sqr"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"x": _X, "alpha": 0.1}, "leaky_relu(x, alpha = 0.1)"),
        ({"x": _X, "alpha": 2}, "leaky_relu(x, alpha = 2.0)"),
        ({"x": _X, "alpha": np.float32(0.5)}, "leaky_relu(x, alpha = 0.5)"),
        ({"x": _X, "alpha": -1e-30}, "leaky_relu(x, alpha = -1e-30)"),
        ({"x": 1.0, "alpha": 1e22}, "leaky_relu(1.0, alpha = 1e+22)"),
    ],
)
def test_numbers_are_written_as_their_parameters_want_them(
    arguments: dict[str, Any], said: str
) -> None:
    leaky = Operation("leaky_relu", arguments, {"y": _Y})
    text = Document.of("net", ["x"], ["y"], [_EXTERNAL, leaky]).to_text()
    assert f"    y = {said};\n" in text
    assert ours(text) == theirs(text)


def test_defaults_and_what_is_none_are_left_out() -> None:
    arguments: dict[str, Any] = {
        "input": _X, "filter": _X, "bias": None, "border": "constant", "padding": [[1, 1]],
        "stride": np.array([2, 2]), "dilation": [], "groups": 1,
    }  # fmt: skip
    conv = Operation("conv", arguments, {"output": _Y})
    text = Document.of("net", ["x"], ["y"], [_EXTERNAL, conv]).to_text()
    assert "    y = conv(x, x, padding = [(1, 1)], stride = [2, 2]);\n" in text
    arguments["bias"], arguments["border"] = -0.0, "ignore"
    text = Document.of("net", ["x"], ["y"], [_EXTERNAL, conv]).to_text()
    assert "    y = conv(x, x, -0.0, border = 'ignore', padding" in text


@pytest.mark.parametrize(
    "label", ["a/b.c", "it's", 'say "a"', "a\\b", "tail\\", "both ' and \"", "ü\n", "", "\\\\'\\"]
)
def test_labels_may_be_any_text(label: str) -> None:
    variable = Operation("variable", {"shape": [1], "label": label}, {"output": _Y}, "scalar")
    document = Document.of("net", ["x"], ["y"], [_EXTERNAL, variable])
    parsed = Document.parse(document.to_text())
    assert parsed == document
    assert parsed.operations()[1].arguments["label"] == label


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (Operation("relu6", {"x": _X}, {"y": _Y}), "no operation 'relu6'.*Did you mean relu"),
        (Operation("relu", {"x": _X, "n": 1}, {"y": _Y}), "relu has no parameter 'n'. It has x."),
        (Operation("relu", {}, {"y": _Y}), "relu wants an argument 'x'"),
        (Operation("relu", {"x": "a"}, {"y": _Y}), r"relu: x wants tensor<scalar>, not 'a'"),
        (Operation("relu", {"x": _X}, {}), "relu wants a result 'y'"),
        (Operation("relu", {"x": _X}, {"y": Reference("0.1")}), "'0.1' is no identifier"),
        (Operation("relu", {"x": _Y}, {"y": _Y}), "'y' is used, but not assigned before"),
        (Operation("relu", {"x": _X}, {"y": _X}), "'x' is an input and not external"),
        (Operation("not", {"x": _X}, {"y": _Y}), "'x' wants tensor<logical>, found tensor<scalar>"),
        (Operation("cast", {"input": _X}, {"output": _Y}), "cast wants a dtype"),
        (Operation("tile", {"input": _X, "repeats": 2}, {"output": _Y}), r"integer\[\], not 2"),
        (Operation("tile", {"input": _X, "repeats": [0.5]}, {"output": _Y}), "integer, not 0.5"),
        (Operation("tile", {"input": _X, "repeats": _X}, {"output": _Y}), "not the tensor x"),
        (Operation("pad", {"input": _X, "padding": [(1,)]}, {"output": _Y}), r"not \(1,\)"),
    ],
)
def test_what_cannot_be_said_is_refused(operation: Operation, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Document.of("net", ["x"], ["y"], [_EXTERNAL, operation])


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), np.float32("inf")])
def test_numbers_without_a_word_are_refused(value: float) -> None:
    clamp = Operation("clamp", {"x": _X, "a": 0.0, "b": value}, {"y": _Y})
    with pytest.raises(UnsupportedError, match=r"clamp: b is -?(inf|nan), .* Keep it as a variab"):
        Document.of("net", ["x"], ["y"], [_EXTERNAL, clamp])


def test_operations_of_other_extensions_stay_as_they_are() -> None:
    text = (
        "version 1.0;\nextension tract_registry tract_core;\n\ngraph net( x ) -> ( y, z )\n{\n"
        "    x = external(shape = [1]);\n    y = tract_gelu(x, 2, exact = true);\n"
        "    z, [a, b] = tract_both<integer>(y);\n    w = add(a, a);\n}\n"
    )
    document = Document.parse(text.replace("    w = add(a, a);\n", ""))
    _, gelu, both = document.operations()
    assert gelu.arguments == {"0": _X, "1": 2, "exact": True}
    assert both.results == {"0": Reference("z"), "1": [Reference("a"), Reference("b")]}
    assert both.dtype == "integer"
    assert document.to_text() == text.replace("    w = add(a, a);\n", "")


def test_quantization_is_read_and_written() -> None:
    quant = (
        '"x": linear_quantize(min = 0.0, max = 1.0, bits = 8);\n'
        '"y": zero_point_linear_quantize(zero_point = 3, scale = [0.5, 0.25], bits = 8,'
        " signed = true, symmetric = false);\n"
    )
    document = Document.parse(graph("y = relu(x);"), quantization=f"# how\n{quant}")
    assert document.quantization["x"] == Quantization(
        "linear_quantize", {"min": 0.0, "max": 1.0, "bits": 8}
    )
    assert document.quantization_text() == quant
    theirs = nnef.parse_string(graph("y = relu(x);"), quant).tensors["y"].quantization
    assert theirs.pop("op-name") == "zero_point_linear_quantize"
    assert {key: np.asarray(each).tolist() for key, each in theirs.items()} == (
        document.quantization["y"].arguments
    )
    assert Document.parse(graph("y = relu(x);")).quantization_text() == ""


def test_summary_counts_operations() -> None:
    assert Document.parse(graph("y = relu(x);")).summary() == "2 operations"
    text = f"{EXTENDED}graph net( x ) -> ( x ) {{ x = external(shape = []); }}"
    assert Document.parse(text).summary() == "1 operation"
    assert Document.parse(text).name_of("x") == "x"
