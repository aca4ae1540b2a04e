"""What every version of ONNX's operators takes and gives, without the onnx package.

history.json is what ONNX publishes, which scripts/ops_table.py makes from onnx.defs:

    {"onnx": VERSION, "newest": {DOMAIN: OPSET}, "types": [[TYPE, ...], ...], "operators":
     [[DOMAIN, NAME, {"since": OPSET, ...}, ...], ...]}

An operator has an object for each version, which leaves out what is as it was in the one before,
and the first what is as in UNSAID. `inputs` and `outputs` list NAME:TYPE, with one of MARKS behind
the name where it is not there just once; a type is the label of a set of types or a type itself,
that of a tensor being named by its elements alone. `types` gives the place of each label's set,
`counts` the fewest and most inputs and outputs, `attributes` KIND, KIND! or [KIND, DEFAULT].
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from tensorkeep.models.ops.operators import Attribute, Parameter

# What the first version of an operator has where it says nothing else.
UNSAID: Mapping[str, Any] = {
    "deprecated": False,
    "function": False,
    "inputs": "",
    "outputs": "",
    "counts": [1, 1, 1, 1],
    "attributes": {},
    "types": {},
}
# How often a parameter is there, and whether those that are many are of one type.
MARKS = {"?": ("optional", True), "*": ("variadic", True), "+": ("variadic", False)}


@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """What an operator takes and gives from an opset on, up to its next version.

    Attributes:
        since: the opset.
        until: the last opset that has it; None where it is the newest.
        deprecated: whether it says not to use the operator any more.
        has_function: whether it is defined by other operators.
        inputs, outputs: in their order.
        least_inputs, most_inputs, least_outputs, most_outputs: how many there may be; most is None
            where there may be any number.
        attributes: by their names, in the order of these.
        required: the names of those that have to be given.
        types: what the labels of types stand for.
    """

    since: int
    until: int | None
    deprecated: bool
    has_function: bool
    inputs: tuple[Parameter, ...]
    outputs: tuple[Parameter, ...]
    least_inputs: int
    most_inputs: int | None
    least_outputs: int
    most_outputs: int | None
    attributes: Mapping[str, Attribute]
    required: tuple[str, ...]
    types: Mapping[str, tuple[str, ...]]

    def has(self, opset: int) -> bool:
        """Whether an opset has this version."""
        return self.since <= opset and (self.until is None or opset <= self.until)

    def allowed(self, parameter: Parameter) -> tuple[str, ...]:
        """Give the types that an input or output may be of.

        >>> conv = version_at("", "Conv", 13)
        >>> conv.allowed(conv.inputs[0])
        ('double', 'float', 'float16')
        """
        return self.types.get(parameter.type, (parameter.type,))


def operators_of(domain: str) -> list[str]:
    """List the operators of a domain; none of domains that ONNX does not publish."""
    return [name for place, name in _rows() if place == domain]


def domains() -> tuple[str, ...]:
    """Give the domains of ONNX; its own comes first.

    >>> domains()
    ('', 'ai.onnx.ml', 'ai.onnx.preview', 'ai.onnx.preview.training')
    """
    return tuple(_table()["newest"])


def newest_opset(domain: str) -> int | None:
    """Give the newest opset of a domain that the table knows; None where it knows no such domain.

    >>> newest_opset("ai.onnx.ml"), newest_opset("com.example")
    (5, None)
    """
    found: dict[str, int] = _table()["newest"]
    return found.get(domain)


@cache
def versions_of(domain: str, op_type: str) -> tuple[Version, ...]:
    """Give all versions of an operator, oldest first; none where ONNX has no such operator.

    >>> [version.since for version in versions_of("", "Conv")]
    [1, 11, 22]
    """
    rows = _rows().get((domain, op_type), ())
    found = []
    whole: Mapping[str, Any] = UNSAID
    for place, row in enumerate(rows):
        whole = {**whole, **row}
        until = rows[place + 1]["since"] - 1 if place + 1 < len(rows) else None
        found.append(_version(whole, until))
    return tuple(found)


def version_at(domain: str, op_type: str, opset: int) -> Version | None:
    """Give the version of an operator that an opset has; None where it has none.

    >>> list(version_at("", "Squeeze", 12).attributes), version_at("", "Gelu", 12)
    (['axes'], None)
    """
    versions = versions_of(domain, op_type)
    place = bisect_right([version.since for version in versions], opset)
    return versions[place - 1] if place else None


@cache
def _table() -> Any:
    text = (files("tensorkeep.models.ops") / "history.json").read_text(encoding="utf-8")
    return json.loads(text)


@cache
def _rows() -> dict[tuple[str, str], list[dict[str, Any]]]:
    return {(domain, name): rows for domain, name, *rows in _table()["operators"]}


@cache
def _types(place: int) -> tuple[str, ...]:
    return tuple(_table()["types"][place])


def _version(row: Mapping[str, Any], until: int | None) -> Version:
    least_inputs, most_inputs, least_outputs, most_outputs = row["counts"]
    attributes = {name: _attribute(name, said) for name, said in row["attributes"].items()}
    return Version(
        since=row["since"],
        until=until,
        deprecated=row["deprecated"],
        has_function=row["function"],
        inputs=_parameters(row["inputs"]),
        outputs=_parameters(row["outputs"]),
        least_inputs=least_inputs,
        most_inputs=most_inputs,
        least_outputs=least_outputs,
        most_outputs=most_outputs,
        attributes=attributes,
        required=tuple(name for name, each in attributes.items() if each.required),
        types={label: _types(place) for label, place in row["types"].items()},
    )


@cache
def _parameters(listed: str) -> tuple[Parameter, ...]:
    return tuple(map(_parameter, listed.split()))


def _parameter(text: str) -> Parameter:
    name, _, label = text.partition(":")
    kind, uniform = MARKS.get(name[-1:], ("single", True))
    return Parameter(name if kind == "single" else name[:-1], label, kind, uniform)


def _attribute(name: str, said: Any) -> Attribute:
    if isinstance(said, str):
        return Attribute(name, said.rstrip("!"), said.endswith("!"))
    kind, default = said
    return Attribute(name, kind, False, tuple(default) if isinstance(default, list) else default)
