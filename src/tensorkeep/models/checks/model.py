"""Faults of the model as a whole: its version, opsets, metadata, size, and how functions call."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from tensorkeep.message import Message
from tensorkeep.models.checks.findings import Report, quoted, several
from tensorkeep.models.checks.names import in_cycle, sorted_nodes
from tensorkeep.models.checks.opsets import (
    NEWEST_IR,
    choose_opset,
    features,
    tensor_features,
    version_for,
)
from tensorkeep.models.checks.scopes import Scope, function_key, opsets_of, plain
from tensorkeep.models.checks.tensors import Held
from tensorkeep.models.ops.history import newest_opset

LARGEST = (2 << 30) - 1  # bytes: no reader of protobuf takes a message of more
_USUAL = 8  # the IR version of a model that says none: it has functions, and most runtimes read it
_OPSETS_SINCE = 3  # the IR version that import opsets
DEEPEST_CALLS = 50
MOST_INLINED = 1_000_000  # nodes, where all functions are put in the place of their calls
_ENFORCED = (4, 8)  # initializers that are no inputs, and functions; other versions only tell
_NOWHERE = 1 << 62


def check_version(model: Message, scopes: list[Scope], tensors: list[Held], report: Report) -> None:
    """Compare the version of the format with what the model uses."""
    version = model.ir_version
    if version <= 0:
        problem = "the model does not say of which version of the format it is"
        cure = f"Set ir_version, such as {fitting_version(model, scopes, tensors)}."
        report.error("no-ir-version", "ir_version", problem, cure, fixable=True)
        return
    if version > NEWEST_IR:
        problem = f"the version of the format is {version}; {NEWEST_IR} is the newest known"
        cure = "Newer features are kept as they are, but are not checked."
        report.error("ir-version-newer", "ir_version", problem, cure)
        return
    told: set[tuple[int, str]] = set()
    for needed, where, what in _all_features(model, scopes, tensors):
        if needed > version and (needed, what) not in told:
            told.add((needed, what))
            problem = f"{what}, which came with IR version {needed}; the model says {version}"
            cure = f"Set ir_version to {needed} or more."
            tell = report.error if needed in _ENFORCED else report.warning
            tell("ir-version-too-low", where, problem, cure, fixable=True)


def lowest_version(model: Message, scopes: list[Scope], tensors: list[Held]) -> int:
    """Give the lowest version of the format that has all that the model uses."""
    return max(
        (needed for needed, _, _ in _all_features(model, scopes, tensors)), default=_OPSETS_SINCE
    )


def fitting_version(model: Message, scopes: list[Scope], tensors: list[Held]) -> int:
    """Give the version for a model that says none: what it needs, or what came with its opset."""
    opset = opsets_of(model).get("", 0)
    usual = version_for(opset) if opset > 0 else _USUAL
    return max(usual, lowest_version(model, scopes, tensors))


def _all_features(
    model: Message, scopes: list[Scope], tensors: list[Held]
) -> list[tuple[int, str, str]]:
    found = list(features(model, scopes))
    for held in tensors:
        found += tensor_features(held.message, held.where)
    return found


def check_opsets(model: Message, roots: list[Scope], report: Report) -> dict[str, int]:
    """Look at what is imported; gives the opsets to assume where an import is missing."""
    version = int(model.ir_version)
    assumed: dict[str, int] = {}
    if 0 < version < _OPSETS_SINCE:
        if "opset_import" in model:
            problem = f"imports opsets, which came with IR version 3; the model says {version}"
            cure = "Set ir_version to 3 or more."
            report.error("ir-version-too-low", "opset_import", problem, cure, fixable=True)
        return {"": 1}
    _check_imports(model, "", report)
    own = [root for root in roots if not root.is_function]
    for scope in (*own, *(root for root in roots if root.is_function)):
        prefix = f"{scope.where}." if scope.is_function else ""
        holder = scope.message if scope.is_function else model
        used = {plain(node.domain) for part in scope.within() for node in part.nodes}
        if holder is model and "opset_import" not in model:
            used.add("")  # it has to import some
        for domain in sorted(used - scope.opsets.keys()):
            within = [
                part for root in (own if holder is model else [scope]) for part in root.within()
            ]
            assumed[domain] = chosen = choose_opset(
                domain, within, version if version > 0 else _USUAL
            )
            where = f"{prefix}opset_import"
            shown = quoted(domain or "ai.onnx")
            if "opset_import" not in holder and domain == "":
                what = "function" if scope.is_function else "model"
                problem = f"the {what} imports no opset, so no version of an operator is meant"
                code = "no-opset-import"
            else:
                problem = f"the nodes use the domain {shown}, which is not imported"
                code = "domain-not-imported"
            cure = f'Add opset_import {{ domain: "{domain}" version: {chosen} }}.'
            report.error(code, where, problem, cure, fixable=True)
    return assumed


def _check_imports(model: Message, prefix: str, report: Report) -> None:
    for message, where in (
        (model, "opset_import"),
        *((f, f"functions[{i}].opset_import") for i, f in enumerate(model.functions)),
    ):
        seen: dict[str, int] = {}
        for place, row in enumerate(message.opset_import):
            domain, version = plain(row.domain), int(row.version)
            shown, here = quoted(domain or "ai.onnx"), f"{where}[{place}]"
            newest = newest_opset(domain)
            if version <= 0:
                problem = f"the opset of {shown} is {version}; they start at 1"
                report.error("impossible-opset", here, problem, "Set version to the one it uses.")
            elif newest is not None and version > newest:
                problem = f"the opset {version} of {shown} is newer than {newest}, the newest known"
                cure = "What changed since then is not checked."
                report.warning("opset-newer", here, problem, cure)
            if domain in seen:
                same = seen[domain] == version
                problem = f"{shown} is imported twice"
                problem += "" if same else f", as opset {seen[domain]} and {version}"
                cure = "Keep one of both." if same else "Keep the right one."
                tell = report.warning if same else report.error
                tell("duplicate-opset", here, problem, cure, fixable=same)
            seen.setdefault(domain, version)


def check_metadata(model: Message, scopes: list[Scope], report: Report) -> None:
    """Look for keys of metadata that are there twice."""
    holders: list[tuple[Message, str]] = [(model, "metadata_props")]
    holders += [(scope.message, f"{scope.where}.metadata_props") for scope in scopes]
    for message, where in holders:
        values: dict[str, str] = {}
        for entry in message.metadata_props:
            key, value = str(entry.key), str(entry.value)
            if key in values:
                same = values[key] == value
                problem = f"the key {quoted(key)} is there twice"
                problem += "" if same else ", with different values"
                cure = "Keep one of both." if same else "Keep the right one."
                report.error("duplicate-metadata", where, problem, cure, fixable=same)
            values.setdefault(key, value)


def check_graphs(model: Message, scopes: list[Scope], report: Report) -> None:
    """Look for graphs without a name, or without anything in them."""
    if "graph" not in model:
        if "functions" not in model:
            cure = "Use a whole model."
            report.error("no-graph", "model", "the model has no graph", cure)
        else:
            problem = "the model has functions, but no graph, so there is nothing to run"
            report.warning("no-graph", "model", problem, "Use it as a library of functions.")
    for scope in scopes:
        if scope.is_function:
            for name in ("name", "domain"):
                if not scope.message[name]:
                    problem = f"the function has no {name}"
                    report.error(f"function-without-{name}", scope.where, problem, "Give it one.")
        elif not scope.message.name:
            cure = 'Set its name, such as name: "graph".'
            report.error("no-graph-name", scope.where, "the graph has no name", cure, fixable=True)


def check_annotations(scope: Scope, names: set[str], report: Report) -> None:
    """Look for annotations of tensors that are not there."""
    if scope.is_function:
        return
    for place, annotation in enumerate(scope.message.quantization_annotation):
        named = [str(annotation.tensor_name)]
        named += [str(entry.value) for entry in annotation.quant_parameter_tensor_names]
        lacking = [name for name in named if name not in names]
        if lacking:
            where = f"{scope.where}.quantization_annotation[{place}]"
            problem = f"names {several(lacking)}, which the graph does not have"
            report.error("stray-annotation", where, problem, "Correct the name, or remove it.")


class Calls(NamedTuple):
    """How functions call one another: the levels, and the nodes that a model has when inlined."""

    deepest: int
    inlined: int


def check_functions(model: Message, roots: list[Scope], report: Report) -> Calls:
    """Look for functions that are there twice, or that call themselves."""
    functions = [root for root in roots if root.is_function]
    keys = [function_key(root.message) for root in functions]
    for key, times in Counter(keys).items():
        if times > 1:
            problem = f"the function {quoted('::'.join(key[:2]))} is defined {times} times"
            cure = "Keep one of them, or give each an overload."
            report.error("duplicate-function", "functions", problem, cure)
    made = {key: place for place, key in enumerate(keys)}
    calls = [_calls(root) for root in functions]
    names = {key: str(place) for key, place in made.items()}
    taken = [{names[key] for key in each if key in names} for each in calls]
    places = {names[key]: place for key, place in made.items()}
    order = sorted_nodes(taken, places)
    if order is None:
        stuck = [functions[place].where for place in in_cycle(taken, places)]
        problem = f"functions call themselves: {', '.join(stuck[:5])}"
        if len(stuck) > 5:
            problem += f" and {len(stuck) - 5:,} more"
        cure = "Take the circle apart; ONNX has Loop and Scan for what repeats."
        report.error("recursive-function", "functions", problem, cure)
        return Calls(_NOWHERE, _NOWHERE)
    depth, size = [1] * len(functions), [0] * len(functions)
    for place in order:
        called = [(made[key], times) for key, times in calls[place].items() if key in made]
        depth[place] += max((depth[each] for each, _ in called), default=0)
        size[place] = min(
            _NOWHERE, sum(calls[place].values()) + sum(size[each] * times for each, times in called)
        )
    main = Counter[tuple[str, str, str]]()
    for root in roots:
        if not root.is_function:
            main += _calls(root)
    inlined = sum(
        times * (1 + size[made[key]]) if key in made else times for key, times in main.items()
    )
    calls_seen = Calls(max(depth, default=0), inlined)
    if calls_seen.deepest > DEEPEST_CALLS or calls_seen.inlined > MOST_INLINED:
        problem = f"functions call one another {calls_seen.deepest:,} levels deep, which makes "
        problem += f"{min(calls_seen.inlined, 10**15):,} nodes where they are put in place"
        cure = "Runtimes put functions in place; they may run out of memory."
        report.warning("exploding-functions", "functions", problem, cure)
    return calls_seen


def _calls(root: Scope) -> Counter[tuple[str, str, str]]:
    found: Counter[tuple[str, str, str]] = Counter()
    for scope in root.within():
        for node in scope.nodes:
            found[plain(node.domain), str(node.op_type), str(node.overload)] += 1
    return found
