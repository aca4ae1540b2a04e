"""Expressions: what they come to, against the nnef package where it reads them alike."""

from __future__ import annotations

from typing import Any

import pytest
from tests.wire.nnef.flat import graph, ours, theirs

from tensorkeep.errors import CorruptError, UnsupportedError
from tensorkeep.wire.nnef.document import Document

_PLACES = {
    int: "reshape(x, shape = [1], axis_start = {})",
    float: "leaky_relu(x, alpha = {})",
    bool: "matmul(x, x, transposeA = {})",
    str: "pad(x, padding = [(0, 0)], border = {})",
    list: "tile(x, repeats = {})",
}
_NAMES = {int: "axis_start", float: "alpha", bool: "transposeA", str: "border", list: "repeats"}


def _said(expression: str, value: Any) -> str:
    call = _PLACES[type(value)].format(expression)
    return graph(f"a = [3, 1, 2]; t = (4, 'q'); y = {call};")


def _value(expression: str, value: Any) -> Any:
    operations = Document.parse(_said(expression, value)).operations()
    return operations[-1].arguments[_NAMES[type(value)]]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", 7), ("(1 + 2) * 3", 9), ("7 / 2", 3), ("2 ^ 3 ^ 2", 64), ("10 - 3 - 2", 5),
        ("2 ^ 10 - 1", 1023), ("length_of(a) * 2", 6), ("a[0] + a[-1]", 5),
        ("1 if 2 > 1 else 5", 1), ("1 if false else 2 if false else 3", 3),
        ("integer(2.7)", 2), ("integer(true)", 1), ("integer('12')", 12), ("length_of('abc')", 3),
        ("1.5 * 2.0", 3.0), ("0.5 ^ 2.0", 0.25), ("1.0 / 4.0", 0.25), ("scalar(3)", 3.0),
        ("scalar('1e2')", 100.0), ("2.0 if 1.0 <= 0.5 else 3.0", 3.0), ("1.e2", 100.0),
        ("1e-05", 1e-05), ("2E+3", 2000.0), ("-1.5", -1.5),
        ("1 < 2", True), ("1.0 >= 2.0", False),
        ("2 in a", True), ("5 in a", False), ("logical(0)", False), ("logical('x')", True),
        ("false || 1 < 2", True), ("true && 1 > 2", False), ("!true", False),
        ("'con' + 'stant'", "constant"), ('"ignore"', "ignore"),
        ("a + [4]", [3, 1, 2, 4]), ("[1, 2] * 2", [1, 2, 1, 2]), ("a[1:]", [1, 2]),
        ("a[:-1]", [3, 1]), ("a[1:2]", [1]), ("a[:]", [3, 1, 2]), ("range_of(a)", [0, 1, 2]),
        ("[for i in a yield i * 2]", [6, 2, 4]), ("[for i in a if i > 1 yield i]", [3, 2]),
        ("[for i in a, j in range_of(a) yield i - j]", [3, 0, 0]),
        ("[for i in [for j in a yield j + 1] yield i + 1]", [5, 3, 4]),
        ("[for (i, j) in [(1, 2), (3, 4)] yield i * j]", [2, 12]),
        ("[1, 1] if true else a", [1, 1]),
    ],
)  # fmt: skip
def test_values_are_those_of_the_nnef_package(expression: str, value: Any) -> None:
    found = _value(expression, value)
    assert found == value
    assert type(found) is type(value)
    text = _said(expression, value)
    assert ours(text) == theirs(text)
    assert ours(Document.parse(text).to_text()) == theirs(text)


@pytest.mark.parametrize(
    ("expression", "value"),
    [  # which the nnef package refuses, gives nothing for, has 32 bits for, or reads otherwise
        ("t[0]", 4), ("t[1]", "q"), ("'a' == 'b'", False), ("'a' != 'b'", True),
        ("'reflect-even'[0:7]", "reflect"), ("'ab' * 2", "abab"),
        ("-7 / 2", -3), ("-2 + 3", 1), ("+2 - -3", 5), ("(-2) ^ 2", 4), ("-(2 ^ 2)", -4),
        ("-a[0] * 2 + 1", -5), ("2 ^ -1", 0), ("1 ^ -5", 1), ("(-1) ^ 99", -1), ("2 * [1]", [1, 1]),
        ("4294967296 * 2", 8589934592), ("0 ^ 0", 1), ("lengthof(a)", 3), ("1 if !false else 2", 1),
        ("0.1", 0.1), ("-2.5 + 3.0", 0.5), ("'it\\'s'", "it's"),
        ("string(1.5) + string(2)", "1.52"),
        ("string(true)", "true"), ("[1, 2] == [1, 2]", True), ("(1, 'a') != (1, 'b')", True),
        ("1.0 in [1.0]", True), ("(a[0] in a) && true", True), ("'b' < 'a'", False),
        ("2 * [3, 1]", [3, 1, 3, 1]), ("shape_of(x)", [2, 3]), ("shape_of(1.0)", []),
    ],
)  # fmt: skip
def test_values_of_what_others_read_otherwise(expression: str, value: Any) -> None:
    found = _value(expression, value)
    assert found == value
    assert type(found) is type(value)
    text = Document.parse(_said(expression, value)).to_text()
    assert Document.parse(text).operations()[-1].arguments[_NAMES[type(value)]] == value


@pytest.mark.parametrize(
    ("expression", "value", "message"),
    [
        ("1 + 1.0", 1, "'.' has no meaning for integer and scalar"),
        ("true + true", 1, "'.' has no meaning for logical and logical"),
        ("-true", True, "'-' has no meaning for logical"),
        ("!1", True, "'!' has no meaning for integer"),
        ("1 / 0", 1, "1 / 0: "),
        ("1.0 / 0.0", 1.0, "1.0 / 0.0: "),
        ("0 ^ -1", 1, r"0 \^ -1: "),
        ("1e300 * 1e300", 1.0, "is no number"),
        ("(-8.0) ^ 0.5", 1.0, "is no number"),
        ("9999999999 * 9999999999", 1, "takes more than 64 bits"),
        ("2 ^ 999999999", 1, "takes more than 64 bits"),
        ("a[3]", 1, "there is no item 3 among 3"),
        ("a[-4]", 1, "there is no item -4 among 3"),
        ("a[2:1]", [1], "there is no range 2:1 among 3 items"),
        ("a[1.0]", 1, "an index is an integer, found scalar"),
        ("x[0]", 1, "tensor has no items"),
        ("t[0:1]", [1], "a range of a tuple"),
        ("1 in 2", True, "'in' wants an array behind it, found integer"),
        ("1 == 1.0", True, "'==' has no meaning for integer and scalar"),
        ("1 if 1 else 2", 1, "a condition is logical, found integer"),
        ("1 if x > x else 2", 1, "What depends on a tensor is chosen by select"),
        ("[for i in 3 yield i]", [1], "found integer, expected an array"),
        ("[for i in a, j in [1] yield i]", [1], "looped over together are arrays of 3 and 1 items"),
        ("[1, 1.0]", [1], "an array of integer and scalar, expected items of one type"),
        ("integer('a')", 1, "'a' cannot be made integer"),
        ("scalar('inf')", 1.0, "'inf' cannot be made scalar"),
        ("scalar(x)", 1.0, "scalar wants a number, string or logical, found tensor"),
        ("length_of(1)", 1, "length_of wants an array or a string, found integer"),
        ("-2 ^ 2", 1, r"-a \^ b can be read in two ways"),
        ("3 * -a[0] ^ 2", 1, r"-a \^ b can be read in two ways"),
    ],
)
def test_what_has_no_value_is_refused(expression: str, value: Any, message: str) -> None:
    with pytest.raises(CorruptError, match=message) as error:
        _value(expression, value)
    assert error.value.problem.startswith("3:")


def test_shapes_that_the_text_does_not_tell_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"does not tell the shape of 'z'. Write it out"):
        Document.parse(graph("z = relu(x); y = tile(x, repeats = shape_of(z));"))


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("y = x + 1.0;", ["add"]),
        ("y = 2.0 * x ^ 2.0 - x / x;", ["pow", "mul", "div", "sub"]),
        ("y = select(x < x, x, x);", ["lt", "select"]),
        ("z = x; y = relu(z);", ["copy", "relu"]),
        ("z = 2.0; y = x * z;", ["mul"]),
        ("y = 2.0;", ["copy"]),
        ("[z, y] = [x, exp(x)];", ["exp", "copy"]),
        ("[z, y] = [for v in [x, 2.0] yield v * x];", ["mul", "mul"]),
        ("z, y = (relu(x), x);", ["relu", "copy"]),
        ("z = [x, x]; y = add_n(z);", ["add_n"]),
        ("z = split(x, axis = 1, ratios = [1, 2]); y = concat(z, axis = 1);", ["split", "concat"]),
        ("z = copy_n(x, times = 2); y = z[0] + z[1];", ["copy_n", "add"]),
        ("m = moments(x, axes = [1]); y = m[0] - m[1];", ["moments", "sub"]),
        ("y = [for i in [1.0, 2.0] yield x * i][1];", ["mul", "mul", "copy"]),
        ("i = argmax_reduce(x, axes = [1]); y = gather(i, i, axis = 0);",
         ["argmax_reduce", "gather"]),
    ],
)  # fmt: skip
def test_tensors_in_expressions_become_operations(body: str, names: list[str]) -> None:
    operations = Document.parse(graph(body)).operations()
    assert [each.name for each in operations] == ["external", *names]
    assert operations[-1].outputs()[-1] in ("y", "z", "y_b", "y_mul")


def test_logical_tensors_are_combined() -> None:
    flat = ours(graph("b = x < x; y = select(!b && b || b, x, 0.0);"))
    assert [each[0] for each in flat] == ["external", "lt", "not", "and", "or", "select"]


def test_generic_fragments_pass_their_type_on() -> None:
    before = (
        "fragment twice<?>( x: tensor<?> ) -> ( y: tensor<?>[] ) { y = [copy<?>(x), copy(x)]; }"
        "fragment made<? = integer>( v: ?[] ) -> ( y: tensor<?> )"
        "{ y = constant<?>(shape = [1], value = v); }"
    )
    body = (
        "b = x < x; [c, d] = twice(b); e = select(d, x, x);"
        "i = made(v = [1]); y = gather(e, i) + made<scalar>(v = [0.5]);"
    )
    text = graph(body, before=before)
    assert ours(text) == theirs(text, ["twice", "made"])
    dtypes = [each[3] for each in ours(text)]
    assert dtypes == [
        "scalar",
        "",
        *["logical"] * 2,
        *["scalar"],
        "integer",
        "scalar",
        "scalar",
        "",
    ]
