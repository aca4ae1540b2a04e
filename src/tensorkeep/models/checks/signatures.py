"""What each version of ONNX's operators takes, from a table that onnx.defs was written to.

The table is signatures.json, which scripts/signatures_table.py makes; onnx is not needed to use it.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

Key = tuple[str, str]


class Signature(NamedTuple):
    """One version of an operator: how much it takes and gives, and its attributes.

    Of `inputs`, those that may be left out have a ? behind, those that may be many three dots.
    `most_inputs` and `most_outputs` are None where there may be any number; `attributes` gives the
    name of each one's type; `required` are those that have to be there.
    """

    version: int
    deprecated: bool
    least_inputs: int
    most_inputs: int | None
    least_outputs: int
    most_outputs: int | None
    inputs: tuple[str, ...]
    attributes: dict[str, str]
    required: tuple[str, ...]


@cache
def versions_of(domain: str, op_type: str) -> tuple[Signature, ...]:
    """Give all versions of an operator, oldest first; none where ONNX has no such operator.

    >>> [signature.version for signature in versions_of("", "Conv")]
    [1, 11, 22]
    """
    return tuple(map(_read, _rows().get((domain, op_type), ())))


def signature_at(domain: str, op_type: str, opset: int) -> Signature | None:
    """Give the version of an operator that an opset has; None where it has none.

    >>> signature_at("", "Squeeze", 12).attributes, signature_at("", "Gelu", 12)
    ({'axes': 'INTS'}, None)
    """
    versions = versions_of(domain, op_type)
    place = bisect_right([signature.version for signature in versions], opset)
    return versions[place - 1] if place else None


def newest_opset(domain: str) -> int | None:
    """Give the newest opset of a domain that the table knows; None where it knows no such domain.

    >>> newest_opset("ai.onnx.ml"), newest_opset("com.example")
    (5, None)
    """
    found: dict[str, int] = _table()["newest"]
    return found.get(domain)


def operators_of(domain: str) -> list[str]:
    """List the operators of a domain."""
    return [name for place, name in _rows() if place == domain]


@cache
def _table() -> Any:
    text = (files("tensorkeep.models.checks") / "signatures.json").read_text(encoding="utf-8")
    return json.loads(text)


@cache
def _rows() -> dict[Key, list[list[Any]]]:
    found: dict[Key, list[list[Any]]] = {}
    for domain, name, *row in _table()["versions"]:
        found.setdefault((domain, name), []).append(row)
    return found


def _read(row: list[Any]) -> Signature:
    version, deprecated, least_in, most_in, least_out, most_out, inputs, attributes = row
    pairs = [each.partition(":")[::2] for each in attributes.split()]
    return Signature(
        version,
        bool(deprecated),
        least_in,
        most_in,
        least_out,
        most_out,
        tuple(inputs.split()),
        {name: kind.rstrip("!") for name, kind in pairs},
        tuple(name for name, kind in pairs if kind.endswith("!")),
    )
