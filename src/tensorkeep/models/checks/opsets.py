"""Which opsets a model needs, and which versions of the format its features came with.

From onnx's docs/Versioning.md and its releases: what was the newest opset for each IR version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tensorkeep.graph.elements import KINDS, SINCE_IR
from tensorkeep.graph.schema import TENSOR
from tensorkeep.message import Message
from tensorkeep.models.checks.scopes import Scope, plain
from tensorkeep.models.ops.history import newest_opset, version_at

NEWEST_IR = 14
_OPSETS = {3: 8, 4: 9, 5: 10, 6: 11, 7: 14, 8: 18, 9: 20, 10: 22, 11: 23, 12: 24, 13: 27, 14: 28}
_ML_OPSETS = {3: 1, 4: 1, 5: 1, 6: 2, 7: 2, 8: 3, 9: 4, 10: 5}
_SINCE = {"functions": 8, "training_info": 7, "configuration": 11}


def newest_for(domain: str, ir_version: int) -> int:
    """Give the newest opset of a domain when an IR version was the newest.

    >>> newest_for("", 8), newest_for("ai.onnx.ml", 12)
    (18, 5)
    """
    table = _OPSETS if domain == "" else _ML_OPSETS if domain == "ai.onnx.ml" else {}
    return int(table.get(min(max(ir_version, 3), max(table)), 1)) if table else 1


def version_for(opset: int) -> int:
    """Give the IR version that was the newest when an opset came.

    >>> version_for(17), version_for(99)
    (8, 14)
    """
    return next((version for version, newest in _OPSETS.items() if newest >= opset), NEWEST_IR)


def choose_opset(domain: str, scopes: Iterable[Scope], ir_version: int) -> int:
    """Choose an opset for a domain that is not imported.

    The one with which the fewest nodes are at fault; of several the newest that was there when the
    model's IR version was, else the oldest that came later.
    """
    known = newest_opset(domain)
    if known is None:
        return 1
    kinds = {
        (
            str(node.op_type),
            len(node.input),
            len(node.output),
            tuple(str(attribute.name) for attribute in node.attribute),
        )
        for scope in scopes
        for node in scope.nodes
        if plain(node.domain) == domain
    }
    newest = newest_for(domain, ir_version)
    candidates: tuple[int, ...] = (*range(newest, 0, -1), *range(newest + 1, known + 1))
    faults = [sum(_faults(domain, opset, *kind) for kind in kinds) for opset in candidates]
    return candidates[faults.index(min(faults))]


def _faults(
    domain: str, opset: int, op_type: str, inputs: int, outputs: int, names: tuple[str, ...]
) -> int:
    found = version_at(domain, op_type, opset)
    if found is None or found.deprecated:
        return 100
    return (
        (inputs < found.least_inputs)
        + (found.most_inputs is not None and inputs > found.most_inputs)
        + (found.most_outputs is not None and outputs > found.most_outputs)
        + sum(name not in found.attributes for name in names)
        + sum(name not in names for name in found.required)
    )


def features(model: Message, scopes: list[Scope]) -> Iterator[tuple[int, str, str]]:
    """Give the IR version that each feature of a model needs, where it is, and what it is."""
    for name, version in _SINCE.items():
        if name in model:
            yield version, name, f"has {name}"
    for scope in scopes:
        if scope.is_function:
            yield from _function_features(scope)
        else:
            yield from _graph_features(scope)
        for index, node in enumerate(scope.nodes):
            if "overload" in node:
                yield 10, scope.label(index), "calls an overload of a function"
            if "metadata_props" in node:
                yield 10, scope.label(index), "has metadata"
            if "device_configurations" in node:
                yield 11, scope.label(index), "has a configuration of devices"


def _function_features(scope: Scope) -> Iterator[tuple[int, str, str]]:
    said = {
        "attribute_proto": (9, "gives defaults for attributes"),
        "overload": (10, "has an overload"),
        "value_info": (10, "describes values"),
        "metadata_props": (10, "has metadata"),
    }
    for name, (version, what) in said.items():
        if name in scope.message:
            yield version, scope.where, what


def _graph_features(scope: Scope) -> Iterator[tuple[int, str, str]]:
    graph = scope.message
    if "metadata_props" in graph:
        yield 10, scope.where, "has metadata"
    if "sparse_initializer" in graph:
        yield 6, scope.where, "has sparse initializers"
    named = set(scope.inputs)
    for place, tensor in enumerate(graph.initializer):
        if tensor.name not in named and scope.outer is None:
            where = f"{scope.where}.initializer[{place}]"
            yield 4, where, "is an initializer that is no input of the graph"
            break
    for name in ("input", "output", "value_info"):
        for place, value in enumerate(graph[name]):
            where = f"{scope.where}.{name}[{place}]"
            if "metadata_props" in value:
                yield 10, where, "has metadata"
            if "type" in value:
                yield from _type_features(value.type, where)


def _type_features(kind: Message, where: str) -> Iterator[tuple[int, str, str]]:
    for name in ("optional_type", "sparse_tensor_type"):
        if name in kind:
            yield 8, where, f"is of an {name.removesuffix('_type').replace('_', ' ')} type"
    for name in ("tensor_type", "sparse_tensor_type"):
        if name in kind:
            yield from element_feature(kind[name].elem_type, where)


def element_feature(number: int, where: str) -> Iterator[tuple[int, str, str]]:
    """Give the IR version that an element type needs, where that is not the first."""
    kind = KINDS.get(number)
    if kind in SINCE_IR:
        yield SINCE_IR[kind], where, f"has elements of {kind}"


def tensor_features(tensor: Message, where: str) -> Iterator[tuple[int, str, str]]:
    """Give the IR versions that a tensor needs."""
    assert tensor.schema is TENSOR
    yield from element_feature(tensor.data_type, where)
    if "metadata_props" in tensor:
        yield 10, where, "has metadata"
