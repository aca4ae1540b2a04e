"""The flat operations of a text as tensorkeep and as the nnef package read it, made comparable."""

from __future__ import annotations

from typing import Any

import nnef
import numpy as np

from tensorkeep.wire.nnef.document import Document
from tensorkeep.wire.nnef.operations import Operation, Reference

Flat = list[tuple[str, dict[str, Any], dict[str, Any], str]]
EXTENDED = (
    "version 1.0;\nextension KHR_enable_fragment_definitions, KHR_enable_operator_expressions;\n"
)


def graph(body: str, inputs: str = "x", outputs: str = "y", before: str = "") -> str:
    """Write a text with a graph whose inputs are of 2 x 3."""
    externals = "".join(
        f"{name.strip()} = external(shape = [2, 3]); " for name in inputs.split(",")
    )
    return f"{EXTENDED}{before}graph net( {inputs} ) -> ( {outputs} ) {{ {externals}{body} }}"


def ours(text: str, expand: Any = ()) -> Flat:
    return renamed([_plain(each) for each in Document.parse(text).operations(expand)])


def _plain(operation: Operation) -> Any:
    return operation.name, operation.arguments, operation.results, operation.dtype


def theirs(text: str, lowered: Any = ()) -> Flat:
    parsed = nnef.parse_string(text, lowered=list(lowered))
    return renamed(
        [
            (
                each.name,
                {**_tensors(each.inputs), **each.attribs},
                _tensors(each.outputs),
                each.dtype or "",
            )
            for each in parsed.operations
        ]
    )


def _tensors(values: Any) -> dict[str, Any]:
    return {name: _reference(value) for name, value in values.items()}


def _reference(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_reference, value))
    return Reference(str(value)) if isinstance(value, nnef.Identifier) else value


def renamed(operations: Flat) -> Flat:
    """Number all tensors by where they are made, and round scalars to the package's float32."""
    names: dict[str, str] = {}

    def replace(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(map(replace, value))
        if isinstance(value, Reference):
            return names.setdefault(value.name, f"t{len(names)}")
        return float(np.float32(value)) if type(value) is float else value

    flat = []
    for name, arguments, results, dtype in operations:
        given = {key: replace(value) for key, value in sorted(arguments.items())}
        flat.append((name, given, {key: replace(each) for key, each in results.items()}, dtype))
    return flat
