"""Texts that contradict NNEF: what is said of them, and where."""

from __future__ import annotations

import nnef
import pytest
from tests.wire.nnef.flat import EXTENDED, graph

from tensorkeep.errors import CorruptError, UnsupportedError
from tensorkeep.wire.nnef.document import Document

_FLAT = "version 1.0;\ngraph net( x ) -> ( y ) {{ x = external(shape = [2, 3]); {} }}"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("y = relu(z);", "2:66: 'z' is used, but not assigned before"),
        ("y = rely(x);", "2:61: there is no operation 'rely'. .*Did you mean relu"),
        ("y = relu(x); y = exp(x);", "2:70: 'y' is assigned again"),
        ("y = relu(a = x);", "'relu' has no parameter 'a', but x"),
        ("y = relu(x, x);", "'relu' has only 1 parameters"),
        ("y = relu(x, x = x);", "'x' of 'relu' is given twice"),
        ("y = add(x);", "'add' wants 'y'"),
        ("y = relu();", "'relu' wants 'x'"),
        ("y = softmax(x, [1]);", r"without its name. Write: axes = \.\.\."),
        ("y = add(y = x, x);", "found an argument of 'add' without its name"),
        ("y = softmax(x, axes = [1.0]);", r"'softmax': 'axes' wants integer\[\], found scalar\[\]"),
        ("y = softmax(x, axes = 1);", r"'axes' wants integer\[\], found integer"),
        ("y = leaky_relu(x, alpha = 1);", "'alpha' wants scalar, found integer"),
        ("y = not(x);", "'x' wants tensor<logical>, found tensor<scalar> 'x'"),
        ("y = relu([x]);", r"'x' wants tensor<scalar>, found tensor\[\]"),
        ("y = relu<scalar>(x);", "'relu' is not generic, found <scalar>"),
        ("y = cast(x);", r"nothing tells its type; write cast<scalar>\(...\)"),
        ("y = concat([], axis = 0);", "nothing tells its type"),
        ("b = lt(x, x); y = select(b, x, b);", "are logical and scalar, expected all of one type"),
        ("[y, z] = relu(x);", "'relu' gives a tensor, found 2 identifiers"),
        ("y, z = relu(x);", "'relu' gives a tensor, found 2 identifiers"),
        ("y, z, w = moments(x, axes = [1]);", "'moments' gives 2 results, found 3"),
        ("[y] = split(x, axis = 0, ratios = [1, 1]);", "'split' gives 2 tensors, found 1"),
        ("y = external(shape = [1]);", "'y' is external and no input of the graph"),
        ("z = relu(x);", "2:1: 'y' of the graph is never assigned"),
        ("y = 1.0;", "an expression is used, .* Add the line: extension KHR_enable_operator"),
        (
            "y = add(x, -x);",
            "an expression is used, .* Add the line: extension KHR_enable_operator",
        ),
        ("y = update(x, x);", "what 'update' updates has to be a variable"),
        ("y = copy<?>(x);", "found <[?]> where there is nothing generic"),
        (
            "y = split(x, axis = 0, ratios = [1]);",
            r"the output 'y' is tensor\[\], expected a tensor",
        ),
        ("y = relu(x;", "2:67: found ';', expected '\\)'"),
        ("y = relu(x)", "found '}', expected ';'"),
        ("y = (relu(x);", "expected '\\)'"),
        ("1 = relu(x);", "found '1', expected an identifier to assign to"),
        ("graph = relu(x);", "found 'graph', expected an identifier to assign to"),
        ("y = 'abc;", "a string that begins with ' and never ends"),
        ("y = relu(x) $;", r"found '\$', which begins nothing in NNEF"),
        ("y = tile(x, repeats = [18446744073709551616]);", "takes more than 64 bits"),
        ("y = leaky_relu(x, alpha = 1e999);", "is more than a float64 can be"),
        ("y = ;", "found ';', expected an expression"),
    ],
)
def test_bodies(body: str, message: str) -> None:
    with pytest.raises(CorruptError, match=message):
        Document.parse(_FLAT.format(body))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1:1: found the end, expected 'version'"),
        ("version 1;", "expected|version 1 of NNEF"),
        ("version one;", "found 'one', expected a version: 1.0"),
        ("version 1.0; extension ;", "expected the name of an extension"),
        ("version 1.0; extension a", "found the end, expected ';'"),
        ("version 1.0; graph g", "found the end, expected '\\('"),
        (f"{graph('y = x;')} more", "expected nothing after the graph"),
        (graph("y = x;", "x, x"), "is assigned again|has 'x' twice"),
        (graph("y = x;", outputs="y, y"), "'net' has 'y' twice"),
        (f"{EXTENDED}graph g( x ) -> ( y ) {{ y = 1.0; }}", "'x' of the graph is never assigned"),
        (f"{EXTENDED}graph g( x ) -> ( x ) {{ x = relu(1.0); }}", "'x' is an input and not extern"),
        ("version 1.0; fragment f( x: tensor<scalar> ) -> ( y: tensor<scalar> );",
         "a fragment is defined, .* Add the line: extension KHR_enable_fragment|expected 'graph'"),
    ],
)  # fmt: skip
def test_texts(text: str, message: str) -> None:
    with pytest.raises((CorruptError, UnsupportedError), match=message):
        Document.parse(text)


def _fragment(signature: str, body: str = ";") -> str:
    return graph("y = relu(x);", before=f"fragment {signature} {body}\n")


_ONE = "( x: tensor<scalar> ) -> ( y: tensor<scalar> )"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_fragment(f"relu{_ONE}"), "3:1: the operation 'relu' is defined already"),
        (_fragment(f"f<?>{_ONE}"), "'f' has no type of [?]"),
        (_fragment("f( x: tensor<?> ) -> ( y: tensor<?> )"), "'f' has types of [?]"),
        (_fragment("f( x: scalar ) -> ( y: scalar )"), "'f' gives attributes and has no body"),
        (_fragment("f( x: scalar ) -> ( y: tensor<scalar>, z: scalar )"), "tensors and attributes"),
        (_fragment("f( x: scalar ) -> ( x: tensor<scalar> )"), "'f' has 'x' twice"),
        (_fragment("f( x: int ) -> ( y: tensor<scalar> )"), "found 'int', expected a type"),
        (_fragment("f( x: scalar = y ) -> ( y: tensor<scalar> )"), "expected a literal"),
        (_fragment(f"f{_ONE}", "{ z = x; }"), "the result 'y' of 'f' is never assigned"),
        (_fragment(f"f{_ONE}", "{ y = z; }"), "'z' is used, but not assigned before"),
        (_fragment(f"f{_ONE}", "{ x = 1.0; y = x; }"), "'x' is assigned again"),
        (_fragment(f"f{_ONE}", "{ y = external(shape = [1]); }"), "'external' belongs into a gr"),
        (_fragment(f"f{_ONE}", "{ y = variable(shape = [1], label = 'a'); }"), "belongs into a gr"),
        (_fragment(f"f{_ONE}", "{ z = [for i in [1] yield i]; y = relu(i); }"), "'i' is used, but"),
        (_fragment(f"f{_ONE}", "{ z = [for x in [1] yield x]; y = x; }"), "'x' is assigned again"),
        (graph("y = f(x);", before=f"fragment f{_ONE} {{ y = [x]; }}"),
         r"the result 'y' of 'f' is tensor<scalar>, found tensor\[\]"),
        (graph("y = f(x);", before=f"fragment f{_ONE} {{ y = x < x; }}"),
         "the result 'y' of 'f' is tensor<scalar>, found tensor"),
    ],
)  # fmt: skip
def test_fragments(text: str, message: str) -> None:
    with pytest.raises(CorruptError, match=message):
        Document.parse(text, "model/graph.nnef")


def test_another_version_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"1:9: version 2.0 of NNEF. Version 1.0 is read."):
        Document.parse("version 2.0; graph g( x ) -> ( x ) { x = external<real>(shape = [1]); }")


def test_how_many_tensors_there_are_has_to_be_told() -> None:
    with pytest.raises(UnsupportedError, match="nothing tells how many tensors 'unstack' gives"):
        Document.parse(graph("y = unstack(x, axis = 0)[0];"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: linear_quantize();", "found 'x', expected the name of a tensor, in quotes"),
        ('"x": relux();', "there is no quantization 'relux', but min_max_linear_quantize, "),
        ('"x": external(shape = [1]);', "'external' quantizes no tensor"),
        ('"x": linear_quantize(bits = 8);', "'linear_quantize' wants 'min'"),
        ('"x": linear_quantize(bits = 8.0);', "'bits' wants integer, found scalar"),
        ('"x": linear_quantize(x = 1.0);', "'linear_quantize' has no parameter 'x'"),
        ('"x": linear_quantize(max = 1.0, max = 1.0);', "'max' is given twice"),
        ('"x": linear_quantize(max = y);', "found an expression, expected a literal"),
        ('"x": relu();"x": relu();', "the tensor 'x' is quantized twice"),
        ('"x": relu()', "found the end, expected ';'"),
    ],
)
def test_quantization(text: str, message: str) -> None:
    with pytest.raises(CorruptError, match=r"a.nnef \(graph.quant\): 1:.*" + message):
        Document.parse(graph("y = relu(x);"), "a.nnef", text)


@pytest.mark.parametrize(
    "body",
    [
        "y = relu(z);", "y = rely(x);", "y = relu(a = x);", "y = relu(x, x);", "y = add(x);",
        "y = softmax(x, axes = [1.0]);", "y = leaky_relu(x, alpha = 1);", "y = not(x);",
        "y = external(shape = [1]);", "z = relu(x);", "y = 1.0;", "y = cast(x);",
        "y = softmax(x, [1]);", "y = relu(x); y = exp(x);",
    ],
)  # fmt: skip
def test_the_nnef_package_refuses_the_same(body: str) -> None:
    with pytest.raises(nnef.Error):
        nnef.parse_string(_FLAT.format(body))
