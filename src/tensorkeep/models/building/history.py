"""What every version of ONNX's operators takes, and the opset that fits all nodes of a model.

history.json is what ONNX publishes, made by scripts/op_history.py from onnx.defs; the names that
ONNX lacks are those of the catalogue.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from tensorkeep.errors import ArgumentError
from tensorkeep.models.building.symbols import Node
from tensorkeep.models.ops import ONNX, OURS, catalogue, newest_opset

# Below it Softmax means something else, and Squeeze, Split and ReduceSum take attributes for
# inputs; every runtime of these years reads it, and none older than 2020 is in use.
LOWEST_OPSET = 13


class Parameter(NamedTuple):
    """An input or output: its name, its type or the label of one, and how often it is there.

    The kind is "s"ingle, "o"ptional, "v"ariadic, or variadic of types that differ ("h").
    """

    name: str
    type: str
    kind: str


@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """What an operator takes from an opset on, up to its next version.

    Attributes:
        since: the opset.
        until: the last opset that has it; None where it is the newest.
        inputs, outputs: in their order.
        least: the fewest inputs and outputs.
        attributes: the kinds of their values, by name.
        required: the attributes that have to be given.
        types: what the labels of types stand for.
        ours: whether it stands for what ONNX lacks, so that a function has to be added.
    """

    since: int
    until: int | None
    inputs: tuple[Parameter, ...]
    outputs: tuple[Parameter, ...]
    least: tuple[int, int]
    attributes: Mapping[str, str]
    required: tuple[str, ...]
    types: Mapping[str, frozenset[str]]
    ours: bool = False

    @property
    def is_recent(self) -> bool:
        """Whether an opset of those that models are built with has it."""
        return self.until is None or self.until >= LOWEST_OPSET

    def has(self, opset: int) -> bool:
        """Whether an opset has this version."""
        return self.since <= opset and (self.until is None or opset <= self.until)


def versions(domain: str, op_type: str) -> tuple[Version, ...]:
    """Give the versions of an operator that may be used, oldest first; none of unknown domains.

    Raises:
        ArgumentError: the domain is known and has no such operator.
    """
    found = _history().get((domain, op_type))
    if found is None and domain in (ONNX, OURS):
        found = _ours(op_type)
    if found is not None:
        return found()
    known = {place for place, _ in _history()}
    if domain not in known:
        return ()
    listed = [name for place, name in _names() if place == domain]
    folded = {name.casefold(): name for name in listed}
    near = difflib.get_close_matches(op_type.casefold(), list(folded), n=3)
    where = f" in the domain {domain}" if domain else ""
    raise ArgumentError(
        f"there is no operator called {op_type!r}{where}",
        cure=f"Did you mean {' or '.join(folded[name] for name in near)}?"
        if near
        else "Give a domain=... for one of your own.",
    )


def choose_opset(domain: str, nodes: Iterable[Node], given: int | None) -> int:
    """Give the lowest opset in which all nodes of a domain are what they were checked against.

    Raises:
        ArgumentError: no opset, or not the one that was given, fits them all.
    """
    nodes = [node for node in nodes if node.versions]
    if given is not None:
        for node in nodes:
            if not any(version.has(given) for version in node.versions):
                raise ArgumentError(
                    f"{node} as it is used here is not in opset {given}, but in {_ranges(node)}"
                )
        return given
    newest = newest_opset() if domain == ONNX else _newest(domain)
    lowest = LOWEST_OPSET if domain == ONNX else 1
    fitting = set(range(lowest, newest + 1))
    for node in nodes:
        left = {opset for opset in fitting if any(v.has(opset) for v in node.versions)}
        if not left:
            raise _conflict(node, nodes, lowest, fitting)
        fitting = left
    return min(fitting)


def _conflict(node: Node, nodes: list[Node], lowest: int, fitting: set[int]) -> ArgumentError:
    if not any(version.until is None or version.until >= lowest for version in node.versions):
        return ArgumentError(
            f"{node} as it is used here is in {_ranges(node)} alone",
            cure=f"Use it as opset {lowest} and later have it, or say opset=....",
        )
    other = next(
        (each for each in nodes if not any(v.has(o) for o in _opsets(node) for v in each.versions)),
        None,
    )
    needs = f"{other} is in {_ranges(other)}" if other else f"others need opset {min(fitting)}"
    return ArgumentError(
        f"no opset has both: {node} as it is used here is in {_ranges(node)}, {needs}",
        cure="Use one of them as the other's opset has it.",
    )


def _opsets(node: Node) -> list[int]:
    return [o for o in range(1, newest_opset() + 1) if any(v.has(o) for v in node.versions)]


def _ranges(node: Node) -> str:
    """Say in which opsets a node is what it is.

    Versions that follow one another are told as one range.
    """
    first, last = node.versions[0].since, node.versions[0].until
    said = []
    for version in node.versions[1:]:
        if last is not None and version.since == last + 1:
            last = version.until
        else:
            said.append((first, last))
            first, last = version.since, version.until
    said.append((first, last))
    texts = (
        f"{start} and later" if stop is None else f"{start}" if start == stop else f"{start}-{stop}"
        for start, stop in said
    )
    return f"opset {', '.join(texts)}"


def _newest(domain: str) -> int:
    return max(
        (v.since for (place, _), row in _history().items() if place == domain for v in row()),
        default=1,
    )


_Rows = Callable[[], tuple[Version, ...]]


@cache
def _history() -> dict[tuple[str, str], _Rows]:
    text = (files("tensorkeep.models.building") / "history.json").read_text(encoding="utf-8")
    loaded = json.loads(text)
    types = [frozenset(row) for row in loaded["types"]]
    return {
        (domain, name): cache(lambda r=rows: _read(r, types))
        for domain, name, rows in loaded["operators"]
    }


def _names() -> list[tuple[str, str]]:
    return [*_history(), *((ONNX, each.name) for each in catalogue().values() if not each.standard)]


def _read(rows: list[dict[str, Any]], types: list[frozenset[str]]) -> tuple[Version, ...]:
    found = []
    row: dict[str, Any] = {}
    for place, change in enumerate(rows):
        row = row | change
        until = rows[place + 1]["since"] - 1 if place + 1 < len(rows) else None
        if not row["deprecated"]:
            found.append(
                Version(
                    since=row["since"],
                    until=until,
                    inputs=tuple(Parameter(*each) for each in row["inputs"]),
                    outputs=tuple(Parameter(*each) for each in row["outputs"]),
                    least=(row["least"][0], row["least"][1]),
                    attributes=row["attributes"],
                    required=tuple(row["required"]),
                    types={label: types[at] for label, at in row["types"].items()},
                )
            )
    return tuple(found)


def _ours(op_type: str) -> _Rows | None:
    """Give the version of a name that ONNX lacks, as the function standing for it takes it."""
    found = catalogue().get((OURS, op_type))
    if found is None or found.standard:
        return None
    inputs = tuple(Parameter(p.name, p.type, p.kind[0]) for p in found.inputs)
    outputs = tuple(Parameter(p.name, p.type, p.kind[0]) for p in found.outputs)
    version = Version(
        since=found.lowest_opset or LOWEST_OPSET,
        until=None,
        inputs=inputs,
        outputs=outputs,
        least=(sum(p.kind == "s" for p in inputs), 0),
        attributes={a.name: a.type for a in found.attributes},
        required=tuple(a.name for a in found.attributes if a.required),
        types={},
        ours=True,
    )
    return lambda: (version,)


__all__ = ["LOWEST_OPSET", "Parameter", "Version", "choose_opset", "versions"]
