"""`tensorkeep ls`: what a file holds, without reading it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from tensorkeep import api
from tensorkeep.cli.terminal import (
    JsonOption,
    NamesOption,
    bold,
    clean,
    dim,
    say,
    say_json,
    several,
    shorten,
    size,
    table,
)
from tensorkeep.diff import scalars
from tensorkeep.state import State
from tensorkeep.tensor import Tensor

if TYPE_CHECKING:
    from tensorkeep.graph import Graph, Value

_COMMON = 8  # types of nodes
_SHOWN = 12  # values beside the tensors, unless asked for more


def ls(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A file, or a folder of shards.")],
    names: NamesOption = None,
    long: Annotated[
        bool, typer.Option("--long", "-l", help="Show places and digests, and every value.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """List what a file holds; reads the header alone.

    With --json: {"path", "format", "count", "bytes", "elements", "checksums",
    "metadata": {}, "values": {PLACE: VALUE}, "refused": [SENTENCE],
    "model": {"ir", "opsets": {DOMAIN: VERSION}, "producer", "doc", "functions", "training",
    "inputs": [{"name", "dtype", "shape", "kind"}], "outputs", "nodes": {TYPE: COUNT}},
    "tensors": [{"name", "dtype", "shape", "bytes", "file", "offset", "digest", "remark"}]}.
    The model is null for what is none; of NNEF's it is {"dialect", "graph", "inputs", "outputs",
    "nodes"}. A digest is the XXH3-128 of the tensor's bytes, or null. A
    remark says how a tensor is kept, such as in chunks, or what of it is missing; null where there
    is nothing to say. What is refused would need code that the file names, which is never run.
    """
    with api.open(path) as state:
        chosen = state.match(names) if names else list(state)
        tensors = {name: state[name] for name in chosen}
        if as_json:
            say_json(_describe(path, state, tensors))
            return 0
        say(f"{bold(clean(path))}: {state.format}, {_checksums(state, tensors)}")
        if state.graph is not None:
            _values("Model", _model(state.graph), True)
        if state.document is not None:
            from tensorkeep.cli.documents import document_lines

            _values("Model", document_lines(state.document, _COMMON), True)
        _values("Metadata", dict(_places(state.metadata)), long)
        _values("Values", scalars(state), long)
        if state.refused:
            say(f"\n{bold('Not read, since it is not data')}")
            for sentence in state.refused:
                say(f"  {clean(sentence)}")
        say()
        if tensors:
            _table(state, tensors, long)
            say()
        elements = several(_elements(tensors), "element")
        say(f"{several(len(tensors), 'tensor')}, {elements}, {size(_bytes(tensors))}")
    return 0


def _model(graph: Graph) -> dict[str, object]:
    """Say in a few lines what a model is."""
    model = graph.model
    opsets = (f"{domain or 'ai.onnx'} {version}" for domain, version in graph.opsets.items())
    said: dict[str, object] = {"ir": f"{model.ir_version}, opset {', '.join(opsets) or 'none'}"}
    producer = f"{model.producer_name} {model.producer_version}".strip()
    said |= {"producer": producer} if producer else {}
    said |= {"doc": shorten(model.doc_string)} if model.doc_string else {}
    for title, values in (("in", graph.inputs), ("out", graph.outputs)):
        for number, value in enumerate(values, 1):
            said[title if number == 1 else f"{title} {number}"] = str(value)
    said["nodes"] = f"{len(graph):,}: {_most(Counter(node.op_type for node in model.graph.node))}"
    if model.functions:
        said["functions"] = f"{len(model.functions):,}"
    if model.training_info:
        said["training"] = several(len(model.training_info), "training graph")
    return said


def _describe_any(state: State) -> dict[str, object] | None:
    if state.document is not None:
        from tensorkeep.cli.documents import describe_document

        return describe_document(state.document)
    return None if state.graph is None else _describe_model(state.graph)


def _describe_model(graph: Graph) -> dict[str, object]:
    model = graph.model
    return {
        "ir": model.ir_version,
        "opsets": graph.opsets,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "doc": model.doc_string,
        "functions": len(model.functions),
        "training": len(model.training_info),
        "inputs": [_describe_value(value) for value in graph.inputs],
        "outputs": [_describe_value(value) for value in graph.outputs],
        "nodes": dict(Counter(node.op_type for node in model.graph.node).most_common()),
    }


def _describe_value(value: Value) -> dict[str, object]:
    return {
        "name": value.name,
        "dtype": value.dtype or None,
        "shape": value.axes,
        "kind": value.kind,
    }


def _most(counts: Counter[str]) -> str:
    shown = ", ".join(f"{name} {count:,}" for name, count in counts.most_common(_COMMON))
    return f"{shown}, ..." if len(counts) > _COMMON else shown


def _bytes(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _elements(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.size for tensor in tensors.values())


def _checksums(state: State, tensors: dict[str, Tensor]) -> str:
    all_of_them = all(name in state.checks or name in state.digests for name in tensors)
    count = len(tensors) if all_of_them else sum(name in state.digests for name in tensors)
    if count == len(tensors) and tensors:
        return "with checksums"
    return "without checksums" if not count else f"{count:,} with checksums"


def _places(metadata: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Give a line of its own to each entry of what is nested."""
    for key, value in metadata.items():
        if isinstance(value, dict) and any(isinstance(v, dict | list) for v in value.values()):
            yield from _places(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _values(title: str, values: Mapping[str, object], every: bool) -> None:
    if not values:
        return
    say(f"\n{bold(title)}")
    shown = list(values.items())
    if not every:  # what lies deep in the nesting last
        shown = sorted(shown, key=lambda row: row[0].count("."))[:_SHOWN]
    places = [clean(place) or "." for place, _ in shown]
    widest = max(map(len, places))
    for place, (_, value) in zip(places, shown, strict=True):
        text = value if isinstance(value, str) else repr(value)
        say(f"  {place.ljust(widest)}  {clean(text) if every else shorten(text)}")
    if len(values) > len(shown):
        say(dim(f"  and {len(values) - len(shown):,} more, with --long"))


def _table(state: State, tensors: dict[str, Tensor], long: bool) -> None:
    columns = {
        "NAME": [clean(name) for name in tensors],
        "DTYPE": [tensor.dtype.name for tensor in tensors.values()],
        "SHAPE": [str(tensor.shape) for tensor in tensors.values()],
    }
    if long:
        columns["BYTES"] = [f"{tensor.nbytes:,}" for tensor in tensors.values()]
        columns["OFFSET"] = [f"{tensor.offset:,}" for tensor in tensors.values()]
        columns["XXH3-128"] = [clean(state.digests.get(name, "-")) for name in tensors]
        if len({tensor.source.where for tensor in tensors.values()}) > 1:
            places = (tensor.source.where for tensor in tensors.values())
            columns["FILE"] = [clean(os.path.basename(place)) for place in places]
    else:
        columns["SIZE"] = [size(tensor.nbytes) for tensor in tensors.values()]
    if any(name in state.remarks for name in tensors):
        columns["NOTE"] = [clean(state.remarks.get(name, "")) for name in tensors]
    rows = list(zip(*columns.values(), strict=True))
    table(list(columns), rows, right=("SIZE", "BYTES", "OFFSET"))


def _describe(path: str, state: State, tensors: dict[str, Tensor]) -> dict[str, object]:
    return {
        "path": path,
        "format": state.format,
        "count": len(tensors),
        "bytes": _bytes(tensors),
        "elements": _elements(tensors),
        "checksums": _checksums(state, tensors) == "with checksums",
        "metadata": state.metadata,
        "values": scalars(state),
        "refused": list(state.refused),
        "model": _describe_any(state),
        "tensors": [
            {
                "name": name,
                "dtype": tensor.dtype.name,
                "shape": tensor.shape,
                "bytes": tensor.nbytes,
                "file": tensor.source.where,
                "offset": tensor.offset,
                "digest": state.digests.get(name),
                "remark": state.remarks.get(name),
            }
            for name, tensor in tensors.items()
        ],
    }
