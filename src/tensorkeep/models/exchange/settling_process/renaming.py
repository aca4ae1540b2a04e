"""Names of values where nodes are put into another graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from onnx import AttributeProto, GraphProto, NodeProto

from .messages import defined


class Names:
    """Names that are taken, and renaming so that none comes twice."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.taken = set(taken)

    def rename(
        self, node: NodeProto, names: Mapping[str, str], attributes: Mapping[str, AttributeProto]
    ) -> None:
        """Rename the values of a node, and give it the attributes that it refers to."""
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        kept = []
        for row in node.attribute:
            if row.ref_attr_name:
                if row.ref_attr_name not in attributes:
                    continue
                bound = AttributeProto()
                bound.CopyFrom(attributes[row.ref_attr_name])
                bound.name = row.name
                kept.append(bound)
                continue
            for graph in ([row.g] if row.HasField("g") else []) + list(row.graphs):
                self.rename_graph(graph, names, attributes)
            kept.append(row)
        if len(kept) != len(node.attribute) or any(row.ref_attr_name for row in node.attribute):
            copies = [AttributeProto.FromString(row.SerializeToString()) for row in kept]
            del node.attribute[:]
            node.attribute.extend(copies)

    def rename_graph(
        self, graph: GraphProto, names: Mapping[str, str], attributes: Mapping[str, AttributeProto]
    ) -> None:
        """Rename the values that a subgraph sees, and give its own fresh names."""
        inner = {**names, **{name: self.fresh(name) for name in defined(graph)}}
        for row in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            row.name = inner.get(row.name, row.name)
        for node in graph.node:
            self.rename(node, inner, attributes)

    def fresh(self, hint: str) -> str:
        """Give a name that nothing has, and take it."""
        name, number = hint, 1
        while name in self.taken:
            number += 1
            name = f"{hint}~{number}"
        self.taken.add(name)
        return name
