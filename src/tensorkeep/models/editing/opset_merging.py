"""Doing to a model's own nodes what the converter did to its copies of them."""

from __future__ import annotations

from collections.abc import Mapping

from tensorkeep.graph.codec import read_tensor
from tensorkeep.graph.schema import ATTRIBUTE_TYPES, GRAPH
from tensorkeep.graph.walking import subgraphs
from tensorkeep.message import Message
from tensorkeep.models.editing.opset_standins import KEPT, TAG
from tensorkeep.models.editing.scopes import fresh, rename_in_list, used_by
from tensorkeep.models.editing.value_types import tensor_info

_NONE: Mapping[str, str] = {}
_GRAPH_KINDS = (ATTRIBUTE_TYPES["GRAPH"], ATTRIBUTE_TYPES["GRAPHS"])
_SINGLE = ("f", "i", "s", "tp")
_MANY = ("floats", "ints", "strings", "type_protos")


class Merger:
    """Brings converted graphs into a model; `changed` are the nodes that are not as they were."""

    def __init__(self, taken: set[str]) -> None:
        self.taken = taken
        self.changed: list[Message] = []

    def merge(
        self, graph: Message, given: Message, result: Message, outer: Mapping[str, str] = _NONE
    ) -> None:
        """Bring a converted graph into the one that it was made of.

        Args:
            graph: a GraphProto or FunctionProto to change.
            given: what the converter was given of it.
            result: what it made of that.
            outer: other names for values around it.
        """
        names = {**outer, **self._new_names(given, result)}
        originals = {f"{TAG}{place}": node for place, node in enumerate(graph.node)}
        was = {node.name: node for node in given.node}
        left = dict(originals)
        for node in result.node:
            left.pop(node.name, None)
        by_outputs = {tuple(filter(None, node.output)): tag for tag, node in left.items()}
        nodes = []
        for node in result.node:
            rename_in_list(node.input, names)
            rename_in_list(node.output, names)
            tag = node.name
            if tag not in originals:
                tag = by_outputs.get(tuple(filter(None, node.output)), "")
            original = originals.get(tag)
            if original is None:
                self.changed.append(node)
                nodes.append(node)
                continue
            left.pop(tag, None)
            if node.domain != KEPT:
                self._merge_node(original, was[tag], node, names)
            nodes.append(original)
        graph.node = _with_needed(left, nodes, graph)
        if graph.schema is GRAPH:
            _merge_tensors(graph, given, result, names)

    def _new_names(self, given: Message, result: Message) -> dict[str, str]:
        """Name what the converter added: as it was, where it took its place, or newly."""
        known = {name for node in given.node for name in node.output}
        made = [name for node in result.node for name in node.output if name]
        filled = {row.name for row in given.initializer}
        made += [row.name for row in result.initializer if row.name not in filled]
        new = [name for name in dict.fromkeys(made) if name not in known]
        names = _replaced(given, result, set(new), known - set(made))
        return {name: names.get(name) or fresh(name, self.taken) for name in new}

    def _merge_node(
        self, original: Message, given: Message, node: Message, names: Mapping[str, str]
    ) -> None:
        before = {row.name: row for row in original.attribute}
        was = {row.name: row for row in given.attribute}
        attributes: dict[str, Message] = {}
        same = True
        for row in node.attribute:
            own = was.get(row.name)
            if own is not None and row.type in _GRAPH_KINDS and row.type == own.type:
                self._merge_graphs(before[row.name], own, row, names)
            elif own is None or not _same_attribute(own, row):
                attributes[row.name] = row
                same = False
                continue
            attributes[row.name] = before[row.name]
        same = same and len(attributes) == len(before)
        inputs, outputs = _trimmed(node.input), _trimmed(node.output)
        if (original.op_type, _trimmed(original.input), _trimmed(original.output)) != (
            node.op_type,
            inputs,
            outputs,
        ):
            same = False
        if same:
            return
        self.changed.append(original)
        original.op_type = node.op_type
        if _trimmed(original.input) != inputs:
            original.input = inputs
        if _trimmed(original.output) != outputs:
            original.output = outputs
        order = [name for name in before if name in attributes]
        order += [name for name in attributes if name not in before]
        original.attribute = [attributes[name] for name in order]

    def _merge_graphs(
        self, original: Message, given: Message, row: Message, names: Mapping[str, str]
    ) -> None:
        if "g" in row:
            self.merge(original.g, given.g, row.g, names)
        for own, was, now in zip(original.graphs, given.graphs, row.graphs, strict=True):
            self.merge(own, was, now, names)


def _replaced(given: Message, result: Message, new: set[str], gone: set[str]) -> dict[str, str]:
    """Find which new value took the place of which old one, by the nodes that use them."""
    names: dict[str, str] = {}
    by_tag = {node.name: node for node in given.node}
    by_outputs = {tuple(filter(None, node.output)): node for node in given.node}
    for node in reversed(result.node):  # those that use a value come before what makes it
        outputs = tuple(names.get(name, name) for name in node.output if name)
        was = by_tag.get(node.name) or by_outputs.get(outputs)
        if was is None:
            continue
        pairs = zip(was.input, node.input, strict=False)
        names |= {now: old for old, now in pairs if now in new and old in gone}
        for before, after in zip(subgraphs(was), subgraphs(node), strict=False):
            names |= _replaced(before, after, new, gone)
    return names


def _with_needed(
    left: Mapping[str, Message], nodes: list[Message], graph: Message
) -> list[Message]:
    """Put those nodes back in their places that the converter has not, though others need them."""
    used = {name for node in nodes for name in used_by(node)}
    used |= {row if isinstance(row, str) else row.name for row in graph.output}
    made = {name for node in nodes for name in node.output}
    needed = [
        (int(tag.removeprefix(TAG)), node)
        for tag, node in left.items()
        if any(name in used and name not in made for name in node.output)
    ]
    places = {id(node): place for place, node in enumerate(graph.node)}
    merged: list[Message] = []
    for node in nodes:
        while needed and needed[0][0] < places.get(id(node), -1):
            merged.append(needed.pop(0)[1])
        merged.append(node)
    return [*merged, *(node for _, node in needed)]


def _merge_tensors(
    graph: Message, given: Message, result: Message, names: Mapping[str, str]
) -> None:
    before = {row.name for row in given.initializer}
    after = {row.name for row in result.initializer}
    used = {name for node in graph.node for name in used_by(node)}
    used |= {row.name for row in graph.output}
    gone = {name for name in before - after if name not in used}
    if gone:
        graph.initializer = [row for row in graph.initializer if row.name not in gone]
        graph.input = [row for row in graph.input if row.name not in gone]
    listed = {row.name for row in graph.input}
    all_listed = bool(graph.initializer) and all(r.name in listed for r in graph.initializer)
    for row in result.initializer:
        if row.name not in before:
            row.name = names.get(row.name, row.name)
            graph.initializer.append(row)
            if all_listed:  # as models before IR version 4 have it
                graph.input.append(tensor_info(row.name, row.data_type, row.dims))


def _trimmed(names: list[str]) -> list[str]:
    """Leave out the empty names at the end, which say nothing."""
    last = len(names)
    while last and not names[last - 1]:
        last -= 1
    return names[:last]


def _same_attribute(a: Message, b: Message) -> bool:
    for name in _SINGLE:
        if (name in a or name in b) and a[name] != b[name] and not _both_nan(a[name], b[name]):
            return False
    for name in _MANY:
        if list(a[name]) != list(b[name]):
            return False
    pairs = [(a.t, b.t)] if "t" in a or "t" in b else []
    if len(a.tensors) != len(b.tensors) or ("t" in a) != ("t" in b):
        return False
    pairs += zip(a.tensors, b.tensors, strict=True)
    return all(_same_tensor(x, y) for x, y in pairs)


def _both_nan(a: object, b: object) -> bool:
    return a != a and b != b


def _same_tensor(a: Message, b: Message) -> bool:
    if a.data_type != b.data_type or a.dims.tolist() != b.dims.tolist():
        return False
    if a == b:
        return True
    x, y = read_tensor(a, "attribute"), read_tensor(b, "attribute")
    return bytes(x.source.read(x.offset, x.offset + x.nbytes)) == bytes(
        y.source.read(y.offset, y.offset + y.nbytes)
    )
