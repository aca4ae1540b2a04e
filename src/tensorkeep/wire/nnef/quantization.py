"""graph.quant: how tensors are quantized, a line each.

    "conv1": linear_quantize(min = 0.0, max = 1.0, bits = 8);

The operation of a line takes the tensor itself as its first argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tensorkeep.wire.nnef.checking import Vocabulary
from tensorkeep.wire.nnef.computing import type_of
from tensorkeep.wire.nnef.lexing import fail, quote
from tensorkeep.wire.nnef.matching import Dtypes
from tensorkeep.wire.nnef.operations import Quantization, Value
from tensorkeep.wire.nnef.parsing import Parser
from tensorkeep.wire.nnef.printing import literal
from tensorkeep.wire.nnef.syntax import ArrayOf, Fragment, Parameter, Primitive, TensorOf

_SHOWN = 100


def parse_quantization(text: str, words: Vocabulary) -> dict[str, Quantization]:
    """Parse a graph.quant; arguments that are not given have their defaults.

    Raises:
        CorruptError: the text is not what a graph.quant is.
    """
    parser = Parser(text, f"{words.where} (graph.quant)".strip())
    found: dict[str, Quantization] = {}
    while parser.now.kind:
        name, at = parser.string("the name of a tensor, in quotes")
        if name in found:
            fail(at, f"the tensor '{name[:_SHOWN]}' is quantized twice", parser.where)
        parser.expect(":")
        found[name] = _quantization(parser, words)
    return found


def _quantization(parser: Parser, words: Vocabulary) -> Quantization:
    token = parser.identifier("a quantization")
    fragment = words.fragments.get(token.text)
    if fragment is None and not words.open:
        known = ", ".join(name for name in words.fragments if name.endswith("_quantize"))
        problem = f"there is no quantization '{token.text}', but {known}"
        fail(token.at, problem, parser.where)
    if fragment is not None and not isinstance(fragment.parameters[0].type, TensorOf):
        fail(token.at, f"'{token.text}' quantizes no tensor", parser.where)
    given: dict[str, Value] = {}
    parser.expect("(")
    if not parser.take(")"):
        for name, value, at in parser.listed(lambda: _argument(parser), ")"):
            parameter = None if fragment is None else fragment.parameter(name)
            if name in given:
                fail(at, f"'{name}' is given twice", parser.where)
            if fragment is not None and (parameter is None or parameter is fragment.parameters[0]):
                fail(at, f"'{token.text}' has no parameter '{name}'", parser.where)
            if parameter is not None and not _fits(value, parameter):
                problem = f"'{name}' wants {parameter.type}, found {type_of(value)}"
                fail(at, problem, parser.where)
            given[name] = value
    parser.expect(";")
    if fragment is None:
        return Quantization(token.text, given)
    return Quantization(token.text, dict(_filled(fragment, given, token.at, parser.where)))


def _argument(parser: Parser) -> tuple[str, Value, tuple[int, int]]:
    token = parser.identifier("the name of a parameter")
    parser.expect("=")
    return token.text, parser.constant(), token.at


def _fits(value: Value, parameter: Parameter) -> bool:
    """Tell whether a value will do: a tensor may be a number, or an array of one per channel."""
    kind = parameter.type
    if isinstance(kind, TensorOf) and isinstance(value, list):
        return Dtypes().fits(value, ArrayOf(Primitive(kind.item)), "")
    return Dtypes().fits(value, kind, "")


def _filled(
    fragment: Fragment, given: Mapping[str, Value], at: tuple[int, int], where: str
) -> Iterator[tuple[str, Value]]:
    for parameter in fragment.parameters[1:]:
        if parameter.required and parameter.name not in given:
            fail(at, f"'{fragment.name}' wants '{parameter.name}'", where)
        yield parameter.name, given.get(parameter.name, parameter.default)


def quantization_lines(found: Mapping[str, Quantization], words: Vocabulary) -> Iterator[str]:
    """Write a graph.quant."""
    for name, each in found.items():
        fragment = words.fragments.get(each.name)
        defaults = {} if fragment is None else {
            parameter.name: parameter.default
            for parameter in fragment.parameters
            if not parameter.required
        }  # fmt: skip
        arguments = ", ".join(
            f"{key} = {literal(value)}"
            for key, value in each.arguments.items()
            if value is not None and (key not in defaults or defaults[key] != value)
        )
        mark = quote(name) if '"' in name or "\\" in name else f'"{name}"'
        yield f"{mark}: {each.name}({arguments});\n"
