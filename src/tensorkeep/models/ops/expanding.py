"""Names that ONNX lacks, made to run: functions of standard operators are added to the model.

A node of ONNX's own domain whose op_type ONNX lacks moves to the domain tensorkeep.ops, since
neither ONNX Runtime nor the checker lets a model define what is in ONNX's own. A node of a vendor's
domain stays in it. ONNX Runtime puts the body of a function in the place of its node and reads it
by the opset that the model imports, so a function imports that opset too, whatever its text says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tensorkeep.errors import TensorKeepError, UnsupportedError
from tensorkeep.graph.graph import Graph
from tensorkeep.graph.schema import FUNCTION
from tensorkeep.graph.walking import TRAINING_PARTS, graphs_within, subgraphs
from tensorkeep.message import Message
from tensorkeep.models.opening import Model, graph_of, open_model
from tensorkeep.models.ops.catalogue import names, newest_opset, operator
from tensorkeep.models.ops.functions import Function, functions, variants
from tensorkeep.models.ops.operators import ONNX, OURS
from tensorkeep.optional import require
from tensorkeep.state import State

# The format of a model that says what functions, defaults of theirs, and overloads are.
_IR_FUNCTION, _IR_DEFAULT, _IR_OVERLOAD = 8, 9, 10
_REPLACED = ("Upsample", "Scatter")  # deprecated, and the same as another operator


def expand(model: Model, *, kernels: bool = True) -> State:
    """Give a model with functions for the operators that ONNX lacks, so that any runtime runs it.

    What it does not change stays as it was, in subgraphs and in functions of its own too. A model
    without such operators comes back as it is.

    Args:
        model: a path, or a state with a graph; it is not changed.
        kernels: leave the nodes for which ONNX Runtime has a kernel, such as QLinearAdd of
            com.microsoft; without, they get a function as well, which others run.

    Raises:
        UnsupportedError: the model's opset is too low for a function, or a node has attributes,
            inputs or outputs that the function does not know.
        ArgumentError: it has no graph.
        MissingDependencyError: the onnx package is not installed.
    """
    state = open_model(model)
    try:
        graph = graph_of(state).copy()
        expand_graph(graph, kernels=kernels)
        return State.of_graph(graph, state)
    except TensorKeepError:
        if state is not model:
            state.close()
        raise


def expand_graph(graph: Graph, *, kernels: bool = True) -> list[str]:
    """Add the functions to a graph's own message; give the names of the operators that got one.

    Raises:
        UnsupportedError: as expand() does; the message is then changed in part.
    """
    model = graph.model
    opset = graph.opsets.get(ONNX)
    defined = {(each.domain, each.name) for each in model.functions}
    wanted: dict[tuple[str, str, str], Function] = {}
    for scope, nodes in _scopes(model):
        for node in nodes:
            function = _choose(node, opset, defined, kernels)
            if function is None:
                continue
            _check(node, function, opset, graph.where)
            domain = OURS if node.domain in (ONNX, "ai.onnx") else str(node.domain)
            _rewrite(node, function, domain)
            wanted[domain, function.name, function.overload] = function
            _import(scope, domain)
            _import(model, domain)  # where ONNX Runtime looks for it, once a function is inlined
    if not wanted:
        return []
    if opset is None:
        opset = max(_LEAST_NEW, *(function.lowest_opset for function in wanted.values()))
        model.add("opset_import", domain=ONNX, version=opset)
    present = {(each.domain, each.name, each.overload) for each in model.functions}
    for key, function in wanted.items():
        if key not in present:
            model["functions"] = [*model.functions, _make(function, key[0], opset)]
    _raise_version(model, wanted)
    return sorted({name for _, name, _ in wanted})


_LEAST_NEW = 17  # the opset for a model that imports none, where no function needs a later one


def _scopes(model: Message) -> Iterator[tuple[Message, Iterator[Message]]]:
    """Give the nodes of the model and of each function, with what imports opsets for them."""
    yield model, _model_nodes(model)
    for function in model.functions:
        yield function, _nodes(function.node)


def _model_nodes(model: Message) -> Iterator[Message]:
    if "graph" in model:
        yield from _nodes(model.graph.node)
    for training in model.training_info:
        for part in TRAINING_PARTS:
            if part in training:
                yield from _nodes(training[part].node)


def _nodes(nodes: list[Message]) -> Iterator[Message]:
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            for within in graphs_within(graph):
                yield from within.node


def _choose(
    node: Message, opset: int | None, defined: set[tuple[str, str]], kernels: bool
) -> Function | None:
    """Give the function for a node; None where it needs none."""
    name = str(node.op_type)
    notes = names().get(name)
    if notes is None or ("kind" not in notes and name not in _REPLACED):
        return None
    domain = ONNX if node.domain == "ai.onnx" else str(node.domain)
    if (domain, name) in defined and domain != OURS:
        return None
    if name in _REPLACED:
        deprecated = operator(name).deprecated_at
        if domain != ONNX or opset is None or deprecated is None or opset < deprecated:
            return None
    elif domain not in (ONNX, OURS, *notes.get("domains", ())):
        return None
    if kernels and domain in notes.get("kernels", {}):
        last = notes["kernels"][domain]
        if last is None or (opset is not None and opset <= last):
            return None
    own = domain if variants(name, domain) else OURS
    return functions()[own, name, _overload(node, name, own)]


def _overload(node: Message, name: str, domain: str) -> str:
    listed = variants(name, domain)
    if "like" in listed:
        return "like" if any(node.input) else ""
    reduction = next((a for a in node.attribute if a.name == "reduction"), None)
    if reduction is None or len(listed) == 1:
        return str(node.overload) if node.overload in listed else ""
    text: str = reduction.s.decode("utf-8", "replace").lower()
    wanted = _SPELT.get(text, text)
    if not text or wanted not in listed:  # one that refers to an attribute of the function is empty
        choices = ", ".join(sorted({"mean", *filter(None, listed)}))
        raise UnsupportedError(f"{_named(node)} has a reduction that is none of {choices}")
    return wanted


_SPELT = {"mean": "", "noreduction": "none"}


def _check(node: Message, function: Function, opset: int | None, where: str) -> None:
    """Refuse what the function would not do, or would leave out unnoticed.

    Raises:
        UnsupportedError: says what.
    """
    lowest, named = function.lowest_opset, _named(node)
    if opset is not None and not lowest <= opset:
        raise UnsupportedError(
            f"{named} needs opset {lowest}, and the model imports {opset}",
            where=where,
            cure=f"Convert it to opset {lowest} to {newest_opset()} before.",
        )
    for what in ("input", "output"):
        known: Any = getattr(function, f"{what}s")
        if len(node[what]) > len(known):
            text = ", ".join(each.name for each in known)
            problem = f"{named} has {len(node[what])} {what}s, and the function knows {text}"
            raise UnsupportedError(problem, where=where)
    for place, parameter in enumerate(function.inputs):
        if parameter.kind == "single" and not (place < len(node.input) and node.input[place]):
            raise UnsupportedError(f"{named} lacks the input {parameter.name}", where=where)
    given = {attribute.name for attribute in node.attribute}
    known = {attribute.name for attribute in function.attributes}
    if odd := sorted(given - known):
        text = ", ".join(sorted(known)) or "none"
        problem = f"{named} has the attribute {', '.join(odd)}; the function knows {text}"
        raise UnsupportedError(problem, where=where)
    lacking = [a.name for a in function.attributes if a.required and a.name not in given]
    if lacking:
        raise UnsupportedError(f"{named} lacks the attribute {', '.join(lacking)}", where=where)


def _named(node: Message) -> str:
    name = node.name or next(filter(None, node.output), "")
    return f"the node {name!r} ({node.op_type})" if name else f"a node {node.op_type}"


def _rewrite(node: Message, function: Function, domain: str) -> None:
    """Let a node call a function; the outputs that nobody wants are named "" for that."""
    if node.domain != domain:
        node["domain"] = domain
    if node.overload != function.overload:
        node["overload"] = function.overload
    lacking = len(function.outputs) - len(node.output)
    if lacking:
        node["output"] = [*node.output, *[""] * lacking]


def _import(scope: Message, domain: str) -> None:
    if all(each.domain != domain for each in scope.opset_import):
        scope.add("opset_import", domain=domain, version=1)


def _make(function: Function, domain: str, opset: int) -> Message:
    need = "the functions for operators that ONNX lacks are read by the onnx package"
    parser = require("onnx.parser", need, "Install tensorkeep[onnx].")
    data: bytes = parser.parse_function(function.text).SerializeToString()
    made = Message.parse(FUNCTION, data)
    made["domain"] = domain
    for each in made.opset_import:
        each["version"] = opset
    return made


def _raise_version(model: Message, wanted: dict[tuple[str, str, str], Function]) -> None:
    needed = _IR_FUNCTION
    if any(a.default is not None for each in wanted.values() for a in each.attributes):
        needed = _IR_DEFAULT
    if any(overload for _, _, overload in wanted):
        needed = _IR_OVERLOAD
    if model.ir_version < needed:
        model["ir_version"] = needed
