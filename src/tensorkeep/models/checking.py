"""Explain what is wrong with a model: all of it at once, each with its place and its cure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple

from tensorkeep import formats
from tensorkeep.errors import CorruptError, TensorKeepError, UnsafeError
from tensorkeep.formats.onnx.files import opener_of
from tensorkeep.graph import Graph
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.models.checks.contents import check_contents
from tensorkeep.models.checks.findings import Finding, Report
from tensorkeep.models.checks.model import (
    LARGEST,
    Calls,
    check_annotations,
    check_functions,
    check_graphs,
    check_metadata,
    check_opsets,
    check_version,
)
from tensorkeep.models.checks.names import Names, check_names, check_node_names, values_of
from tensorkeep.models.checks.official import ask_onnx, refusal
from tensorkeep.models.checks.operators import Operators
from tensorkeep.models.checks.scopes import Scope, roots
from tensorkeep.models.checks.tensors import Held, check_file_sums, check_tensor, held_by
from tensorkeep.models.checks.values import UNTYPED, check_values
from tensorkeep.models.checks.windows import Contradiction, check_windows
from tensorkeep.models.opening import Model, graph_of, opened
from tensorkeep.state import State
from tensorkeep.store import Location
from tensorkeep.stores import locate

_MOST_TEXT = 2 << 30
_LATE = 1 << 62  # behind all nodes


class Examined(NamedTuple):
    """What was found in a model: the findings, and the declarations that contradict."""

    findings: list[Finding]
    contradictions: list[Contradiction]
    report: Report


def check(model: Model, *, contents: bool = True, official: bool = True) -> list[Finding]:
    """Find all that is wrong with a model, also one that cannot be opened for its faults.

    ONNX's own checker and strict shape inference are asked as well, where onnx is installed and the
    model has no fault that it is known to fail on.

    Args:
        model: a path, or a state with a graph.
        contents: also read the tensors, and the files that have checksums, to compare them with
            their digests and with one another.
        official: also ask the onnx package, which takes about half a second.

    Returns:
        errors first, then warnings, each in the order of the model.

    Raises:
        MissingError: there is no such file.
        UnknownFormatError: it is no model.
        CorruptError: the bytes are no message.

    >>> from tensorkeep.graph import Graph
    >>> from tensorkeep.message import Message
    >>> model = Message(MODEL, ir_version=10)
    >>> _ = model.make("graph", name="g").add("node", op_type="Relu", input=["x"], output=["y"])
    >>> found = check(State.of_graph(Graph(model)))
    >>> [finding.code for finding in found if finding.severity == "error"]
    ['no-opset-import', 'unknown-input']
    """
    if isinstance(model, State):
        with opened(model) as state:
            graph = graph_of(state)
        return examine(graph, digests=model.digests, contents=contents, official=official).findings
    with _parsed(locate(model)) as (graph, size):
        return examine(
            graph, digests=None, contents=contents, official=official, size=size
        ).findings


@contextmanager
def _parsed(location: Location) -> Iterator[tuple[Graph, int]]:
    """Give the graph of a file, none of whose tensors was looked at, and the bytes it has."""
    location = formats.find(location)
    try:
        known = formats.detect(location).name if location.key else ""  # of a folder others tell
        if known == "onnx":
            size = location.source.size
            message = Message.parse(MODEL, location.source, where=location.where)
        elif known in ("onnx-text", "onnx-json"):
            size = 0
            message = _read_text(location, known)
        else:
            with opened(location) as state:
                yield graph_of(state), 0
                return
        opener, close = opener_of(location)
        try:
            yield Graph(message, opener=opener, where=location.where), size
        finally:
            close()
    finally:
        location.close()


def _read_text(location: Location, name: str) -> Message:
    size = location.source.size
    if size > _MOST_TEXT:
        problem = f"its text of {size:,} bytes is over the limit of {_MOST_TEXT:,}"
        raise UnsafeError(problem, where=location.where)
    text = bytes(location.source.read(0, size))
    read = Message.from_text if name == "onnx-text" else Message.from_json
    return read(MODEL, text, location.where)


def examine(
    graph: Graph,
    *,
    digests: Mapping[str, str] | None = MappingProxyType({}),
    contents: bool = False,
    official: bool = True,
    size: int = 0,
) -> Examined:
    """Look at a model in every way.

    Args:
        graph: the model.
        digests: those that its tensors have to have; None reads them from the model.
        contents: read the tensors, too.
        official: ask the onnx package, too.
        size: the bytes of the file it was read from, if it is one message.
    """
    report = Report()
    found: list[Contradiction] = []
    try:
        calls, tensors = _examine_structure(graph, report, found)
        if size > LARGEST:
            problem = (
                f"the file has {size:,} bytes, and no reader of protobuf takes {LARGEST + 1:,}"
            )
            cure = "Save it with external=True."
            report.error("too-large", "model", problem, cure)
        if contents:
            check_file_sums(tensors, graph.opener, report)
            check_contents(graph, digests, report)
        known = {(each.declared.where) for each in found}
        asked = ask_onnx(graph, calls, report) if official else []
        found += [each for each in asked if each.declared.where not in known]
        for each in found:
            fixable = not report.errors_at(each.node) and each.right.kind == "tensor"
            if not each.problem:
                if fixable:
                    report.mark_fixable(UNTYPED, each.declared.where)
                continue
            report.error(
                "declared-shape", each.declared.where, each.problem, each.cure, fixable=fixable
            )
    except (CorruptError, UnsafeError) as error:
        cure = error.cure or "Use another copy of the model."
        report.error("damaged", error.where or "model", error.problem, cure)
    return Examined(report.listed(), found, report)


def _examine_structure(
    graph: Graph, report: Report, found: list[Contradiction]
) -> tuple[Calls, list[Held]]:
    """Look at all that needs no reading of weights, and not the onnx package; gives its tensors."""
    model = graph.model
    tops = roots(model)
    scopes = _every(tops)
    tensors: list[Held] = []
    for scope in scopes:
        tensors += held_by(scope)
    check_graphs(model, scopes, report)
    check_version(model, scopes, tensors, report)
    assumed = check_opsets(model, tops, report)
    check_metadata(model, scopes, report)
    calls = check_functions(model, tops, report)
    operators = Operators(model, assumed, report)
    main = next((scope for scope in tops if scope.where == "graph"), None)
    outside: Names | None = None
    for top in tops:
        if top.where.startswith("training_info") and main is not None:
            outside = outside or values_of(main)
            top.at = _LATE
        check_names(top, report, outside if top.where.startswith("training_info") else None)
        operators.check(top)
    for scope in scopes:
        check_node_names(scope, report)
        made = {*scope.inputs, *scope.initializers}
        for node in scope.nodes:
            made.update(node.output)
        check_values(scope, made, report)
        check_annotations(scope, made, report)
        found += check_windows(scope)
    for held in tensors:
        check_tensor(held, graph.opener, report)
    return calls, tensors


def refusal_of(graph: Graph) -> str:
    """Say why a model is not given to the onnx package; empty where it may be."""
    report = Report()
    try:
        return refusal(_examine_structure(graph, report, [])[0], report)
    except TensorKeepError as error:
        return error.problem


def _every(tops: list[Scope]) -> list[Scope]:
    return [scope for top in tops for scope in top.within()]


__all__ = ["Examined", "Finding", "check", "examine", "refusal_of"]
