"""Which versions of an operator a node may be of, and the opset that fits all nodes of a model."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cache

from tensorkeep.errors import ArgumentError
from tensorkeep.models.building.symbols import Node
from tensorkeep.models.ops import ONNX, OURS, Operator, catalogue
from tensorkeep.models.ops.history import (
    Version,
    domains,
    newest_opset,
    operators_of,
    versions_of,
)

# Below it Softmax means something else, and Squeeze, Split and ReduceSum take attributes for
# inputs; every runtime of these years reads it, and none older than 2020 is in use.
LOWEST_OPSET = 13


@cache
def versions(domain: str, op_type: str) -> tuple[Version, ...]:
    """Give the versions of an operator that may be used, oldest first; none of unknown domains.

    Raises:
        ArgumentError: the domain is known and has no such operator.
    """
    found = versions_of(domain, op_type)
    if found:
        return tuple(version for version in found if not version.deprecated)
    lacking = catalogue().get((OURS, op_type)) if domain in (ONNX, OURS) else None
    if lacking is not None:
        return (_as_function(lacking),)
    if domain not in domains():
        return ()
    listed = operators_of(domain)
    if domain == ONNX:
        listed += [each.name for each in catalogue().values() if not each.standard]
    folded = {name.casefold(): name for name in listed}
    near = difflib.get_close_matches(op_type.casefold(), list(folded), n=3)
    where = f" in the domain {domain}" if domain else ""
    raise ArgumentError(
        f"there is no operator called {op_type!r}{where}",
        cure=f"Did you mean {' or '.join(folded[name] for name in near)}?"
        if near
        else "Give a domain=... for one of your own.",
    )


def is_recent(version: Version) -> bool:
    """Whether an opset of those that models are built with has a version."""
    return version.until is None or version.until >= LOWEST_OPSET


def is_lacking(node: Node) -> bool:
    """Whether a node is of what ONNX lacks, so that a function has to be added."""
    return bool(node.versions) and not versions_of(node.domain, node.op_type)


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
    newest = newest_opset(domain) or 1
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
    newest = newest_opset(ONNX) or 1
    return [o for o in range(1, newest + 1) if any(v.has(o) for v in node.versions)]


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


def _as_function(lacking: Operator) -> Version:
    """Give what ONNX lacks as the function standing for it takes it."""
    return Version(
        since=lacking.lowest_opset or LOWEST_OPSET,
        until=None,
        deprecated=False,
        has_function=True,
        inputs=lacking.inputs,
        outputs=lacking.outputs,
        least_inputs=sum(each.kind == "single" for each in lacking.inputs),
        most_inputs=len(lacking.inputs),
        least_outputs=0,
        most_outputs=len(lacking.outputs),
        attributes={each.name: each for each in lacking.attributes},
        required=tuple(each.name for each in lacking.attributes if each.required),
        types={},
    )


__all__ = ["LOWEST_OPSET", "choose_opset", "is_lacking", "is_recent", "versions"]
