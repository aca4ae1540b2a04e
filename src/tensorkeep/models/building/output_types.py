"""What the outputs of a node are, as far as operator and inputs tell; axes are left open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensorkeep.graph import KINDS
from tensorkeep.models.building.attributes import AttributeValue, Body
from tensorkeep.models.building.symbols import Symbol
from tensorkeep.models.building.types import Type, named, optional, sequence
from tensorkeep.models.ops import Parameter
from tensorkeep.models.ops.history import Version
from tensorkeep.tensor import Tensor


def output_types(
    op_type: str,
    version: Version,
    symbols: tuple[Symbol | None, ...],
    given: tuple[AttributeValue, ...],
) -> list[Type | None]:
    """Give what is known of the types of outputs; their axes are not."""
    values = {each.name: each.value for each in given}
    if isinstance(inner := values.get("then_branch", values.get("body")), Body):
        inside = inner.outputs[1:] if op_type == "Loop" else inner.outputs
        return [_without_axes(each.type) for each in inside] if op_type in _INSIDE else []
    bound: dict[str, Type] = {}
    for place, symbol in enumerate(symbols):
        parameter = parameter_at(version.inputs, place)
        if symbol is not None and symbol.type and parameter and parameter.uniform:
            bound.setdefault(parameter.type, symbol.type)
    if op_type in _SEQUENCES:
        return [_of_sequence(op_type, symbols, values)]
    types: list[Type | None] = []
    for parameter in version.outputs:
        allowed = version.types.get(parameter.type, ())
        found = bound.get(parameter.type) or named(parameter.type)
        if found is None and len(allowed) == 1:
            found = named(allowed[0])
        types.append(_without_axes(found) or (_said(op_type, values) if not types else None))
    last = version.outputs[-1] if version.outputs else None
    if last and last.kind == "variadic" and last.uniform:
        types.extend([types[-1]] * (_MANY - len(types)))
    return types


_INSIDE = ("If", "Loop", "Scan")
_MANY = 64
_NAMING = ("to", "dtype", "output_dtype", "output_datatype")  # attributes that name the result's


def _said(op_type: str, values: dict[str, Any]) -> Type | None:
    """Give the element type that attributes say the first output has."""
    for name in _NAMING:
        if values.get(name) in KINDS:
            return Type("tensor", KINDS[values[name]])
    held = values.get("value")
    if op_type in ("Constant", "ConstantOfShape") and isinstance(held, Tensor):
        axes = held.shape if op_type == "Constant" else None
        return Type("tensor", held.dtype, axes)
    usual = {"ConstantOfShape": "float", "RandomNormal": "float", "RandomUniform": "float"}
    usual |= {"QuantizeLinear": "uint8", "Multinomial": "int32"}
    return named(usual.get(op_type, ""))


_SEQUENCES = (
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SplitToSequence",
    "ConcatFromSequence",
    "Optional",
    "OptionalGetElement",
)


def _of_sequence(
    op_type: str, symbols: tuple[Symbol | None, ...], values: dict[str, Any]
) -> Type | None:
    """Give the type that wraps what goes in, or that it wraps."""
    first = symbols[0].type if symbols and symbols[0] is not None else None
    if op_type == "SequenceEmpty":
        return sequence(Type("tensor", KINDS[values.get("dtype", 1)]))
    if op_type == "Optional":
        held = values.get("type", first)
        return optional(held) if isinstance(held, Type) else None
    if first is None:
        return None
    if op_type in ("SequenceConstruct", "SplitToSequence"):
        return sequence(_plain(first))
    if op_type == "OptionalGetElement" and first.kind != "optional":
        return _plain(first)
    return _plain(first.of) if first.of else None


def is_whole(found: Type) -> bool:
    """Whether all of a type is known but its axes."""
    return is_whole(found.of) if found.of else found.dtype is not None


def _plain(found: Type) -> Type:
    return Type(found.kind, found.dtype, None, found.of)


def _without_axes(found: Type | None) -> Type | None:
    return _plain(found) if found else None


def parameter_at(parameters: Sequence[Parameter], place: int) -> Parameter | None:
    """Give the parameter that an input is; None where there are not so many."""
    if place < len(parameters):
        return parameters[place]
    last = parameters[-1] if parameters else None
    return last if last and last.kind == "variadic" else None
