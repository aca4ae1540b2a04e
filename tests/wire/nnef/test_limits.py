"""Texts that ask for far more than they hold, and damaged ones: refused, and quickly."""

from __future__ import annotations

import random
import re
import time

import pytest
from tests.wire.nnef.flat import EXTENDED, graph
from tests.wire.nnef.test_document import FLAT, WRITTEN

from tensorkeep.errors import TensorKeepError
from tensorkeep.wire.nnef.document import Document

_BODY = "fragment {name}( x: tensor<scalar> ) -> ( y: tensor<scalar> ) {{ {body} }}\n"


def _doubling(levels: int) -> str:
    bodies = ["y = relu(x);", *(f"y = f{n}(f{n}(x));" for n in range(levels - 1))]
    fragments = [_BODY.format(name=f"f{n}", body=body) for n, body in enumerate(bodies)]
    return graph(f"y = f{levels - 1}(x);", before="".join(fragments))


def _arrays(levels: int, item: str) -> str:
    lines = [f"a{level} = {item.replace('a', f'a{level - 1}')};" for level in range(1, levels)]
    return graph(f"a0 = [1, 1]; {' '.join(lines)} y = relu(x);")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_doubling(40), "what is written comes to millions of values"),
        (_arrays(40, "a + a"), "what is written comes to millions of values"),
        (_arrays(40, "[a, a]"), "what is written comes to millions of values"),
        (_arrays(40, "[for i in a, j in a yield a]"), "comes to millions of values"),
        (graph("a = [1] * 4000000000; y = x;"), "4,000,000,000 items; at most 1,000,000"),
        (graph("a = 'ab' * 400000000; y = x;"), "800,000,000 items; at most 1,000,000"),
        (graph("a = copy_n(x, times = 100000000); y = a[0];"), "comes to millions|at most"),
        (graph("y = f(x);", before=_BODY.format(name="f", body="y = f(x);")),
         "3:64: fragments within fragments, over 64 levels deep. Does 'f' ever come to an end?"),
        (graph(f"y = {'relu(' * 100}x{')' * 100};"), "nested over 64 levels deep"),
        (graph(f"y = {'(' * 5000}x{')' * 5000};"), "nested over 64 levels deep"),
        (graph(f"a = {'[' * 5000}"), "nested over 64 levels deep"),
        (graph(f"y = {'-' * 5000}x;"), "nested over 64 levels deep"),
        (graph(f"{'[' * 5000}y = x;"), "nested over 64 levels deep"),
        (graph(f"y = {'x if true else ' * 5000}x;"), "nested over 64 levels deep"),
        (graph(f"y = {'x + ' * 5000}x;"), "over 200 operators in one expression"),
        (graph(f"y = x{'[0]' * 5000};"), "expected fewer subscripts"),
        (graph("y = x;", before=f"fragment f( x: scalar{'[]' * 5000} )"), "nested over 64 levels"),
        (graph("y = x;", before=f"fragment f( x: {'(' * 5000} )"), "nested over 64 levels"),
        (graph("y = x;", before=f"fragment f( {', '.join(f'x{n}: scalar' for n in range(300))} )"
               " -> ( y: tensor<scalar> );"), "3:1: over 256 parameters and results"),
        (graph(f"y = {'a' * 2000}(x);"), "3:61: an identifier of 2,000 characters; at most 1,024"),
        (f"{EXTENDED}{' ' * (16 << 20)}", "a text of 16,777,305 characters; at most 16,777,216"),
    ],
)  # fmt: skip
def test_bombs(text: str, message: str) -> None:
    start = time.process_time()
    with pytest.raises(TensorKeepError, match=message):
        Document.parse(text)
    assert time.process_time() - start < 20


def test_what_is_long_but_honest_is_read() -> None:
    sum_of_many = graph(f"y = {'x + ' * 150}x;")
    assert len(Document.parse(sum_of_many).operations()) == 151
    nested = graph(f"y = {'relu(' * 40}x{')' * 40};")
    assert len(Document.parse(nested).operations()) == 41
    assert Document.parse(Document.parse(nested).to_text()) == Document.parse(nested)
    numbers = ", ".join(["0.5"] * 30_000)
    values = Document.parse(graph(f"y = constant(shape = [30000], value = [{numbers}]);"))
    assert values.operations()[1].arguments["value"] == [0.5] * 30_000
    recursive = _BODY.format(name="f", body="y = x;").replace("x: tensor<scalar>", "n: integer")
    recursive = recursive.replace("y = x;", "y = f(n = n - 1) + 1.0 if n > 0 else 0.0;")
    assert len(Document.parse(graph("y = f(n = 50);", before=recursive)).operations()) > 1


def test_expansion_is_bounded_too() -> None:
    layers = "".join(f"y{n + 1} = softmax(y{n}); " for n in range(300))
    document = Document.parse(graph(f"y0 = copy(x); {layers} y = copy(y300);"))
    assert len(document.operations(["softmax"])) == 3 + 300 * 5


@pytest.mark.parametrize("text", [WRITTEN, FLAT])
def test_cut_texts(text: str) -> None:
    for end in range(0, len(text.rstrip()), 3):
        with pytest.raises(TensorKeepError):
            Document.parse(text[:end])


@pytest.mark.parametrize("seed", range(4))
def test_damaged_texts_give_a_document_or_an_error_of_ours(seed: int) -> None:
    chance = random.Random(seed)
    pieces = re.findall(r"\w+|\s+|.", WRITTEN)
    for _ in range(150):
        damaged = list(pieces)
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(damaged))
            kind = chance.randrange(4)
            if kind == 0:
                del damaged[place]
            elif kind == 1:
                damaged[place] = chance.choice(pieces)
            elif kind == 2:
                damaged.insert(place, chance.choice(pieces))
            else:
                damaged[place] = chr(chance.randrange(1, 0x2FF))
        _accepted_or_refused("".join(damaged))


def _accepted_or_refused(text: str) -> None:
    try:
        document = Document.parse(text)
    except TensorKeepError:
        return
    assert Document.parse(document.to_text()) == document
    document.operations(["moments", "relu", "softmax"])
