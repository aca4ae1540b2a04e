"""Repairs of a model's message that nothing else has to be known for, each for a kind of finding.

Each takes a message that may be changed and mends all faults of its kind; where there are none, it
changes nothing. Checks tell beforehand which faults can be mended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorkeep.message import Message
from tensorkeep.models.checks.attributes import mend_type
from tensorkeep.models.checks.findings import Report
from tensorkeep.models.checks.model import check_opsets, fitting_version, lowest_version
from tensorkeep.models.checks.names import check_names, sorted_nodes, values_of
from tensorkeep.models.checks.scopes import Scope, plain, roots
from tensorkeep.models.checks.tensors import held_by

GRAPH_NAME = "graph"  # of a graph that has none


def set_version(model: Message) -> None:
    """Raise the version of the format to the lowest that has all that the model uses."""
    scopes = _every(model)
    tensors = [held for scope in scopes for held in held_by(scope)]
    fitting = lowest_version if model.ir_version > 0 else fitting_version
    lowest = fitting(model, scopes, tensors)
    if model.ir_version < lowest:
        model["ir_version"] = lowest


def import_opsets(model: Message) -> None:
    """Import the opsets that the nodes of the model, and of its functions, lack.

    The newest with which the fewest nodes are at fault, no newer than the model's IR version.
    """
    tops = roots(model)
    own = [scope for scope in tops if not scope.is_function]
    assumed = check_opsets(model, own, Report())
    for domain, version in assumed.items():
        if domain not in {plain(row.domain) for row in model.opset_import}:
            model.add("opset_import", domain=domain, version=version)
    for scope in tops:
        if scope.is_function:
            for domain, version in check_opsets(model, [scope], Report()).items():
                if all(plain(row.domain) != domain for row in scope.message.opset_import):
                    here = {plain(row.domain): row.version for row in model.opset_import}
                    version = here.get(domain, version)
                    scope.message.add("opset_import", domain=domain, version=version)


def drop_repeats(model: Message) -> None:
    """Remove what is there a second time and says the same: opsets and metadata."""
    for message in (model, *(scope.message for scope in _every(model))):
        for name in ("opset_import", "metadata_props"):
            if name in message.schema.by_name:
                _drop_repeated(message, name)


def _drop_repeated(message: Message, name: str) -> None:
    key, value = ("domain", "version") if name == "opset_import" else ("key", "value")
    seen: dict[str, Any] = {}
    kept = []
    for row in message[name]:
        called = plain(row[key]) if key == "domain" else row[key]
        if called not in seen or seen[called] != row[value]:
            kept.append(row)
        seen.setdefault(called, row[value])
    if len(kept) != len(message[name]):
        message[name] = kept


def name_graphs(model: Message) -> None:
    """Name graphs that have no name."""
    for scope in _every(model):
        if not scope.is_function and not scope.message.name:
            scope.message["name"] = GRAPH_NAME


def set_types(model: Message) -> None:
    """Give attributes without a type that of their value."""
    for scope in _every(model):
        for node in scope.nodes:
            for attribute in node.attribute:
                mend_type(attribute)


def shorten_domains(model: Message) -> None:
    """Spell ONNX's own domain as nothing in the nodes."""
    for scope in _every(model):
        for node in scope.nodes:
            if node.domain == "ai.onnx":
                node.drop("domain")


def sort_nodes(model: Message) -> None:
    """Put nodes behind those whose outputs they take, else in the order that they had."""
    for scope in reversed(_every(model)):
        taken = [
            {*filter(None, node.input)}.union(
                *(check_names(inner, Report()) for inner in scope.inner.get(index, ()))
            )
            for index, node in enumerate(scope.nodes)
        ]
        made = values_of(scope).made
        order = sorted_nodes(taken, made)
        if order is not None and order != list(range(len(order))):
            scope.message["node"] = [scope.nodes[index] for index in order]


def drop_duplicates(model: Message) -> None:
    """Remove initializers that are there a second time, bit for bit the same."""
    for scope in _every(model):
        if scope.is_function:
            continue
        first: dict[str, Message] = {}
        kept = []
        for tensor in scope.message.initializer:
            name = str(tensor.name)
            if name not in first or first[name] != tensor:
                kept.append(tensor)
            first.setdefault(name, tensor)
        if len(kept) != len(scope.message.initializer):
            scope.message["initializer"] = kept


def drop_unused(model: Message) -> None:
    """Remove the initializers that nothing uses."""
    for scope in _every(model):
        if scope.is_function or scope.where.startswith("training_info"):
            continue
        used = {*scope.outputs, *scope.inputs, *scope.noted}
        for index, node in enumerate(scope.nodes):
            used.update(node.input)
            for inner in scope.inner.get(index, ()):
                used |= check_names(inner, Report())
        kept = [tensor for tensor in scope.message.initializer if tensor.name in used]
        if len(kept) != len(scope.message.initializer) and (scope.nodes or scope.outputs):
            scope.message["initializer"] = kept


def _every(model: Message) -> list[Scope]:
    return [scope for root in roots(model) for scope in root.within()]


# What each kind of finding is mended by, in the order in which they are to be mended.
REPAIRS: dict[str, Callable[[Message], None]] = {
    "duplicate-opset": drop_repeats,
    "duplicate-metadata": drop_repeats,
    "duplicate-initializer": drop_duplicates,
    "attribute-without-type": set_types,
    "attribute-type": set_types,
    "domain-spelling": shorten_domains,
    "no-graph-name": name_graphs,
    "no-ir-version": set_version,
    "ir-version-too-low": set_version,
    "no-opset-import": import_opsets,
    "domain-not-imported": import_opsets,
    "unsorted-node": sort_nodes,
}


def mend(model: Message, report: Report) -> None:
    """Mend all faults of a report that nothing else has to be known for."""
    fixable = {finding.code for finding in report.listed() if finding.fixable}
    done: set[Callable[[Message], None]] = set()
    for code, repair in REPAIRS.items():
        if code in fixable and repair not in done:
            done.add(repair)
            repair(model)
