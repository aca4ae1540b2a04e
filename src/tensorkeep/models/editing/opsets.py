"""A model in another version of ONNX's operator set, by onnx's converter, without what that loses.

The converter is given the nodes whose operators differ between the versions, and stand-ins for all
others; what it did to them is then done to the model's own nodes. So all else stays as it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from tensorkeep.errors import ArgumentError, TensorKeepError, UnsupportedError
from tensorkeep.graph import Graph
from tensorkeep.graph.schema import GRAPH, MODEL, OPSET, VALUE_INFO
from tensorkeep.graph.walking import function_name, subgraphs
from tensorkeep.message import Message
from tensorkeep.models.apart import INSTALL, ask
from tensorkeep.models.checking import refusal_of
from tensorkeep.models.editing.draft import Draft, counted, edited
from tensorkeep.models.editing.opset_merging import Merger
from tensorkeep.models.editing.opset_standins import DEFAULT, KEPT, StandIns
from tensorkeep.models.editing.scopes import captured, names_anywhere
from tensorkeep.models.editing.value_types import declared, element_of, inferred
from tensorkeep.models.lean import lean
from tensorkeep.models.opening import Model
from tensorkeep.models.scratch import scratch_folder
from tensorkeep.models.shapes import write
from tensorkeep.optional import require
from tensorkeep.state import State

_IR = 10  # of what the converter is given: initializers need not be inputs


def convert_opset(model: Model, version: int) -> State:
    """Convert a model to another version of ONNX's own operator set, upwards or downwards.

    Nodes whose operators are the same in both versions stay byte for byte, and so does all that is
    no node. Other operator sets keep their versions. Functions are converted as well.

    Args:
        model: a path or a state, of any size; it is not changed.
        version: the version, from 1 to the latest that the onnx package has.

    Raises:
        UnsupportedError: there is no conversion of some operator; says which.
        ArgumentError: there is no such version, or the model uses no operators of ONNX.
        MissingDependencyError: the onnx package is not installed.
    """
    return edited(model, lambda draft: apply(draft, version))


def apply(draft: Draft, version: int) -> None:
    """Convert a draft."""
    defs = require("onnx.defs", "operator sets are converted by onnx", INSTALL)
    latest = defs.onnx_opset_version()
    if type(version) is not int or not 1 <= version <= latest:
        raise ArgumentError(
            f"there is no operator set {version!r} of ONNX", cure=f"There are 1 to {latest}."
        )
    row = _own_row(draft.model.opset_import)
    if row is None:
        raise ArgumentError("uses no operators of ONNX itself", where=draft.where)
    source = int(row.version)
    if not 1 <= source <= latest:
        raise UnsupportedError(
            f"uses operator set {source} of ONNX, the onnx package knows 1 to {latest}",
            where=draft.where,
            cure="Update the onnx package.",
        )
    if source == version:
        draft.said.append(f"uses operator set {version} already")
        return
    if why := refusal_of(draft.graph):
        raise UnsupportedError(f"is not given to the converter, since {why}", where=draft.where)
    thin = _thin(draft)
    changed: list[Message] = []
    outer = declared(thin.graph)
    converter = _Converter(draft, defs, names_anywhere(draft.model))
    changed += converter.convert(draft.main, thin.graph, source, version, {}, "the graph")
    for place, training in enumerate(draft.model.training_info):
        for part in ("initialization", "algorithm"):
            if part in training:
                own = thin.training_info[place][part]
                called = f"training_info {place}"
                converter.convert(training[part], own, source, version, outer, called)
    functions = _convert_functions(draft, thin, converter, version)
    row.version = version
    _retype(draft, changed)
    draft.said.append(
        f"converted from operator set {source} to {version}: "
        f"{counted(len(changed), 'node')} changed"
        + (f", and in {counted(functions, 'function')}" if functions else "")
    )


def _own_row(rows: Iterable[Message]) -> Message | None:
    return next((row for row in rows if row.domain in DEFAULT), None)


def _thin(draft: Draft) -> Message:
    """Give the model without large tensors, with types where ONNX can infer them."""
    graph = Graph(draft.model, opener=draft.graph.opener, where=draft.where)
    try:
        return inferred(graph)
    except TensorKeepError:  # the adapters of the converter do without, or say what they lack
        return lean(graph)


def _convert_functions(draft: Draft, thin: Message, converter: _Converter, version: int) -> int:
    """Convert the bodies of functions; says of how many nodes changed."""
    count = 0
    for function, own in zip(draft.model.functions, thin.functions, strict=True):
        row = _own_row(function.opset_import)
        if row is None or row.version == version:
            continue
        body = Message(GRAPH, name=function.name, node=own.node)
        body.input = [Message(VALUE_INFO, name=name) for name in function.input]
        body.output = [Message(VALUE_INFO, name=name) for name in function.output]
        called = f"the function {function_name(function)}"
        taken = {name for node in function.node for name in (*node.input, *node.output)}
        inner = _Converter(draft, converter.defs, taken | set(function.input))
        count += bool(inner.convert(function, body, int(row.version), version, {}, called))
        row.version = version  # runtimes read it by that of the model, which the checker demands
    return count


class _Converter:
    """Converts graphs of one model; new values get names that are not taken."""

    def __init__(self, draft: Draft, defs: Any, taken: set[str]) -> None:
        self.draft = draft
        self.defs = defs
        self.taken = taken

    def convert(
        self,
        graph: Message,
        thin: Message,
        source: int,
        target: int,
        outer: dict[str, Message],
        called: str,
    ) -> list[Message]:
        """Convert a GraphProto or FunctionProto in place; gives the nodes that changed.

        Args:
            graph: what to change.
            thin: a GraphProto of the same nodes, without large tensors; it is used up.
            source: its version.
            target: the version to get.
            outer: types of the values around it, by name.
            called: names it in messages.
        """
        stand_ins = StandIns(self.defs, source, target, self.draft.where, called)
        apart = self._convert_apart(graph, thin, source, target, outer, called)
        if all(node.domain not in DEFAULT or stand_ins.stays(node) for node in thin.node):
            return apart
        rows = [outer.get(name) or Message(VALUE_INFO, name=name) for name in captured(thin)]
        given = stand_ins.graph(thin)
        given.input = [*given.input, *(row.copy() for row in rows)]
        model = Message(MODEL, ir_version=_IR, graph=given)
        model.opset_import = [
            Message(OPSET, domain="", version=source),
            Message(OPSET, domain=KEPT, version=1),
        ]
        result = self._run(model, target)
        merger = Merger(self.taken)
        merger.merge(graph, given, result.graph)
        return [*apart, *merger.changed]

    def _convert_apart(
        self,
        graph: Message,
        thin: Message,
        source: int,
        target: int,
        outer: dict[str, Message],
        called: str,
    ) -> list[Message]:
        """Convert the graphs in nodes of other operator sets, for which one stands in."""
        changed: list[Message] = []
        seen = {**outer, **declared(thin)} if thin.schema is GRAPH else outer
        for node, own in zip(graph.node, thin.node, strict=True):
            foreign = node.domain not in DEFAULT
            for inner, lean_inner in zip(subgraphs(node), subgraphs(own), strict=True):
                convert = self.convert if foreign else self._convert_apart
                changed += convert(inner, lean_inner.copy(), source, target, seen, called)
        return changed

    def _run(self, model: Message, target: int) -> Message:
        source = model.opset_import[0].version
        with scratch_folder() as folder:
            write(model, folder, "given")
            (said,) = ask(folder, [f"convert:{target} given"]).values()
            if not said.problem:
                with open(os.path.join(folder, "given.converted"), "rb") as file:
                    return Message.parse(MODEL, file.read(), where=self.draft.where)
        raise UnsupportedError(
            f"the converter of ONNX cannot bring it from operator set {source} to {target}: "
            f"{_reason(said.problem)}",
            where=self.draft.where,
            cure="Choose a version nearer to its own.",
        )


def _reason(said: str) -> str:
    """Give what the converter says, without the place in its own source."""
    text = " ".join(said.split())
    return text.rsplit("failed: ", 1)[-1][:300].rstrip(".")


def _retype(draft: Draft, changed: list[Message]) -> None:
    """Have value_info say the types that changed nodes give now."""
    made = {name for node in changed for name in node.output if name}
    stale = [row for row in draft.main.value_info if row.name in made]
    if not stale:
        return
    trial = Graph(draft.model, opener=draft.graph.opener, where=draft.where).copy()
    trial.model.graph.value_info = [
        row for row in trial.model.graph.value_info if row.name not in made
    ]
    try:
        found = declared(inferred(trial).graph)
    except TensorKeepError:
        return
    for row in stale:
        now = found.get(row.name)
        if now is not None and element_of(now.type) not in (0, element_of(row.type)):
            row.type = now.type.copy()
