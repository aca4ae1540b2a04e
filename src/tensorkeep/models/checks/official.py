"""What onnx's own checker and inference find, in words that say where and what to do.

The checker stops at the first fault, so it is given a copy in which those that can be mended are,
and inference one in which the nodes at fault are taken for ones that it does not know.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Iterator

from tensorkeep.errors import MissingDependencyError, TensorKeepError
from tensorkeep.graph import Graph, Value, value_of
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.models.apart import INSTALL, ask
from tensorkeep.models.checks.findings import Report, quoted
from tensorkeep.models.checks.mending import mend
from tensorkeep.models.checks.model import DEEPEST_CALLS, MOST_INLINED, Calls
from tensorkeep.models.checks.opsets import NEWEST_IR
from tensorkeep.models.checks.scopes import Scope, plain, roots
from tensorkeep.models.checks.values import declared_in, differs, shown
from tensorkeep.models.checks.windows import Contradiction
from tensorkeep.models.lean import lean_file
from tensorkeep.models.ops.history import versions_of
from tensorkeep.models.shapes import read_inferred, write

# With these faults a model is not given to onnx, whose C++ has failed on the like before.
_DANGEROUS = frozenset(
    (
        "absurd-size",
        "data-length",
        "data-range",
        "element-type",
        "external-data",
        "impossible-shape",
        "no-data",
        "recursive-function",
        "segmented-tensor",
        "several-data-fields",
        "unsafe-file",
        "wrong-data-field",
    )
)
_FEW = 100
_FIRST_WITH_OPSETS = 3  # an older model means opset 1
_CHECKER = "official-checker"  # the code of what the checker finds
_CHECK, _INFER, _STRICT = "check model", "infer bare", "strict sound"
_FAULTY = "tensorkeep.faulty"  # the domain of nodes that inference is not to look at

_DECLARED_OTHERWISE = "existing elem type|existing shape"

# What the checker says, and the finding that says the same.
_SAME = (
    ("opset_import", ("no-opset-import", "ir-version-too-low", "duplicate-opset")),
    ("No opset import for domain", ("domain-not-imported", "no-opset-import")),
    ("Field 'name' of 'graph'", ("no-graph-name",)),
    ("Field 'name' of 'value_info'", ("input-without-name", "output-without-name")),
    ("Field 'type' of 'value_info'", ("value-without-type",)),
    ("Field 'shape' of 'type'", ("value-without-shape", "value-type")),
    ("'elem_type'", ("value-type", "value-without-type")),
    ("has input size", ("input-count",)),
    ("has output size", ("output-count",)),
    ("marked single but has an empty string", ("missing-input",)),
    ("Unrecognized attribute", ("unknown-attribute",)),
    ("Required attribute", ("missing-attribute",)),
    ("Mismatched attribute type", ("attribute-kind", "attribute-type")),
    (
        "No Op registered",
        ("unknown-operator", "operator-newer-than-opset", "unknown-overload", "duplicate-opset"),
    ),
    ("deprecated", ("deprecated-operator",)),
    ("topologically sorted", ("unsorted-node", "unknown-input", "cyclic-graph")),
    ("static single assignment|SSA", ("duplicate-value", "duplicate-initializer")),
    ("initializer but not in graph input", ("ir-version-too-low",)),
    ("initializer name is not unique", ("duplicate-initializer",)),
    ("tensor in initializer", ("initializer-without-name",)),
    ("ir_version|IR version", ("no-ir-version", "ir-version-newer", "ir-version-too-low")),
    ("metadata_props", ("duplicate-metadata",)),
    ("type field and data field mismatch", ("attribute-type", "several-values")),
    ("more than one value field", ("several-values", "value-and-reference")),
    ("external|[Ff]ile|path", ("missing-file", "external-data", "unsafe-file")),
    ("cyclic|recursi", ("recursive-function",)),
    ("ref_attr|refers", ("stray-reference", "unknown-reference", "value-and-reference")),
    (_DECLARED_OTHERWISE, ("declared-shape", "declared-initializer", "declared-twice")),
    ("attribute", ("attribute-without-type", "attribute-type", "attribute-without-name")),
    ("graph", ("no-graph", "unknown-output")),
    ("[Ff]unction", ("duplicate-function", "function-without-name", "function-without-domain")),
)
_NODE = re.compile(r"\(op_type:(\S*?)(?:, node name: (.*?))?\): (?:\[\w+\] )?(.*)")
_CONTEXT = re.compile(r"Name: (.*?) OpType: (\S+)")
_NOT_OURS = ("parse data from external", "Cannot parse", "external tensor", "instead is null")


def ask_onnx(graph: Graph, calls: Calls, report: Report) -> list[Contradiction]:
    """Add what onnx's checker and strict inference find; gives what is declared wrongly."""
    why = refusal(calls, report)
    if why:
        problem = f"onnx's own checker was not asked, since {why}"
        cure = "Mend the errors, and check again."
        report.warning("official-not-asked", "model", problem, cure)
        return []
    prepared = prepare(graph, report)
    try:
        with lean_file(prepared) as path:
            folder = os.path.dirname(path)
            with open(path, "rb") as file:
                thin = file.read()
            write(_bare(thin, report), folder, "bare")
            write(_sound(thin, report), folder, "sound")
            said = ask(folder, (_CHECK, _INFER, _STRICT))
            found = []
            if not said[_INFER].problem:
                found = list(_contradictions(graph, read_inferred(folder, "bare"), report))
    except MissingDependencyError as error:
        problem = f"only tensorkeep's own checks were made: {error.problem}"
        report.warning("official-not-asked", "model", problem, INSTALL)
        return []
    except (TensorKeepError, OSError) as error:
        problem = f"onnx's own checker was not asked: {error}"
        report.warning("official-not-asked", "model", problem, "See the errors.")
        return []
    for task, what in said.items():
        if what.crashed:
            problem = (
                f"onnx died of the model when asked to {task.partition(' ')[0]}: {what.problem}"
            )
            cure = "Do not give it to programs that use onnx."
            report.warning("official-crashed", "model", problem, cure)
    if not said[_CHECK].crashed:
        _take(said[_CHECK].problem, graph.model, report, _CHECKER)
    if not said[_STRICT].crashed:
        told = frozenset(each.node for each in found)
        _take_inferred(said[_STRICT].problem, graph.model, report, told)
    return found


def _take_inferred(problem: str, model: Message, report: Report, told: frozenset[str]) -> None:
    for line in problem.removeprefix("[ShapeInferenceError] ").split("\n"):
        _take(line.removeprefix("Inference error(s): "), model, report, "shape-inference", told)


def refusal(calls: Calls, report: Report) -> str:
    """Say why a model is not given to onnx; empty where it may be."""
    if dangerous := sorted(report.codes & _DANGEROUS):
        return f"its C++ is not to be given what has faults such as {', '.join(dangerous)}"
    if calls.deepest > DEEPEST_CALLS or calls.inlined > MOST_INLINED:
        return "it would put too many functions in the place of their calls"
    return ""


def prepare(graph: Graph, report: Report) -> Graph:
    """Give a copy in which mendable faults are mended."""
    fresh = graph.copy()
    mend(fresh.model, report)
    model = fresh.model
    if model.ir_version > NEWEST_IR:
        model["ir_version"] = NEWEST_IR
    if 0 < model.ir_version < _FIRST_WITH_OPSETS:
        model["ir_version"] = _FIRST_WITH_OPSETS
        model.add("opset_import", domain="", version=1)
    return fresh


def _bare(thin: bytes, report: Report) -> Message:
    """Give a model that declares nothing that inference works out."""
    bare = _sound(thin, report)
    for scope in _graphs(bare):
        _undeclare(scope)
    return bare


def _sound(thin: bytes, report: Report) -> Message:
    """Give a model in which inference looks only at nodes with which nothing is wrong so far."""
    sound = Message.parse(MODEL, thin)
    faulty = _faulty(report)
    for scope in _graphs(sound) if faulty else ():
        _hide_faulty(scope, faulty)
    sound.add("opset_import", domain=_FAULTY, version=1)
    return sound


def _contradictions(graph: Graph, inferred: Message, report: Report) -> Iterator[Contradiction]:
    """Compare what is declared of values with what inference gives where that is not known."""
    same_order = not report.has("unsorted-node")
    for scope, result in zip(_graphs(graph.model), _graphs(inferred), strict=False):
        if scope.outer is not None and not same_order:
            continue
        listed = declared_in(scope)
        wanted = {declared.value.name for declared in listed}
        rows = (*result.message.value_info, *result.message.output)
        right = {row.name: value_of(row) for row in rows if row.name in wanted and "type" in row}
        makers = {name: i for i, node in enumerate(scope.nodes) for name in node.output if name}
        for declared in listed:
            maker, value = makers.get(declared.value.name), right.get(declared.value.name)
            if maker is None or value is None:
                continue
            if what := differs(declared.value, value):
                problem = f"is declared as {shown(declared.value)}, but {scope.label(maker)} gives "
                problem += f"{shown(value)}: {what}"
                cure = f"Declare {shown(value)}, or correct the node."
                if value.kind != "tensor":
                    cure = "Correct it, or the node."
                yield Contradiction(declared, scope.label(maker), value, problem, cure)
            elif _tells_more(value, declared.value):
                yield Contradiction(declared, scope.label(maker), value, "", "")


def _tells_more(value: Value, declared: Value) -> bool:
    whole = value.kind == "tensor" and bool(value.dtype) and value.axes is not None
    return whole and (not declared.dtype or declared.axes is None)


def _graphs(model: Message) -> list[Scope]:
    if "graph" not in model:
        return []
    return list(next(iter(roots(model))).within())


def _faulty(report: Report) -> list[str]:
    return sorted(finding.where for finding in report.errors_at("") if not finding.fixable)


def _hide_faulty(scope: Scope, faulty: list[str]) -> None:
    for index, node in enumerate(scope.nodes):
        label = scope.label(index)
        place = bisect_left(faulty, label)
        if place < len(faulty) and faulty[place].startswith(label):
            node["domain"] = _FAULTY


def _undeclare(scope: Scope) -> None:
    """Take out what is declared of values that inference works out."""
    known = {
        name
        for node in scope.nodes
        if versions_of(plain(node.domain), str(node.op_type))
        for name in node.output
    }
    graph = scope.message
    kept = [row for row in graph.value_info if row.name not in known]
    if len(kept) != len(graph.value_info):
        graph["value_info"] = kept
    for row in graph.output:
        if row.name in known and "type" in row:
            row.drop("type")


def _take(
    text: str, model: Message, report: Report, code: str, told: frozenset[str] = frozenset()
) -> None:
    """Add what onnx says, unless a finding says the same already.

    Args:
        text: what it says.
        model: the model, to find the node in that it names.
        report: takes the finding.
        code: the kind of finding.
        told: the nodes of which it is known that something else is declared.
    """
    text = text.strip()
    if not text or any(part in text for part in _NOT_OURS):
        return
    op_type, name, problem = _named(text)
    places = _find(model, op_type, name) if op_type else []
    if any(map(report.errors_at, places[:_FEW])):
        return
    if re.search(_DECLARED_OTHERWISE, text) and told.intersection(places):
        return
    if not places or code == _CHECKER:  # which stops at its first fault, wherever it tells of it
        codes = report.codes
        if any(codes.intersection(same) and re.search(word, text) for word, same in _SAME):
            return
    where = places[0] if len(places) == 1 else "model"
    if op_type and where == "model":
        where = f"a node {op_type} {quoted(name) if name else 'without a name'}"
    problem = " ".join(problem.split())[:500].rstrip(".")
    report.error(code, where, f"onnx says: {problem}", "Correct the node, or what goes into it.")


def _named(text: str) -> tuple[str, str, str]:
    """Give the operator and name of the node that onnx names, and what it says of it."""
    if (named := _NODE.match(text)) is not None:
        return named[1], named[2] or "", named[3]
    if (context := _CONTEXT.search(text)) is not None:
        return context[2], context[1], text.partition("\n")[0]
    return "", "", text


def _find(model: Message, op_type: str, name: str) -> list[str]:
    """Give the places of the nodes that onnx may mean."""
    return [
        scope.label(index)
        for root in roots(model)
        for scope in root.within()
        for index, node in enumerate(scope.nodes)
        if node.op_type == op_type and node.name == name
    ]
