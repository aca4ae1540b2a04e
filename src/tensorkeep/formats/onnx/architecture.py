"""Architecture: a model as JSON that people read, compare, keep and make; see docs/architecture.md.

    {"tensorkeep": "architecture", "version": 1, "ir_version": 8, "opsets": {"": 17},
     "graph": {"name": "net",
               "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 4]}], "outputs": [...],
               "weights": {"w": {"dtype": "float32", "shape": [4, 2], "file": "w.safetensors",
                                 "offset": 128, "length": 32}},
               "nodes": [{"op": "Gemm", "inputs": ["x", "w"], "outputs": ["y"],
                          "attributes": {"alpha": 0.5}}]},
     "hyperparameters": {"layers": 2}}

A number with a point or an exponent is a float, another an integer. What has no words of its own
here is kept under "more", as protobuf maps it to JSON, so that nothing is lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tensorkeep.errors import ArgumentError, CorruptError, TensorKeepError, UnsupportedError
from tensorkeep.format import Stream
from tensorkeep.formats.onnx.architecture_words import graph_from, graph_words, leftover, take_more
from tensorkeep.formats.onnx.building import build
from tensorkeep.formats.onnx.files import (
    SAFETENSORS,
    choose_name,
    files_named,
    is_own,
    lay_out,
)
from tensorkeep.formats.onnx.notes import seal_model
from tensorkeep.formats.onnx.reading import state_of
from tensorkeep.formats.onnx.texts import read_text, text_losses
from tensorkeep.graph import Graph, fill_tensor, set_external
from tensorkeep.graph.codec import Absent, clear_tensor
from tensorkeep.graph.schema import ENTRY, MODEL, OPSET
from tensorkeep.message import Message
from tensorkeep.state import Json, State
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor
from tensorkeep.wire.models import is_architecture
from tensorkeep.wire.sizes import size_of
from tensorkeep.wire.text import dump_json, parse_json

NAME = "architecture"
ENDING = ".arch.json"
HYPERPARAMETERS = "hyperparameters"
VERSION = 1
_THRESHOLD = 1024
_MOST_VALUES = 1 << 24
_PLAIN = {
    "ir_version": "ir_version",
    "producer": "producer_name",
    "producer_version": "producer_version",
    "domain": "domain",
    "model_version": "model_version",
    "doc": "doc_string",
}
_KNOWN = frozenset(
    ("tensorkeep", "version", *_PLAIN, "opsets", "graph", "metadata", HYPERPARAMETERS, "more")
)


def accepts(location: Location) -> bool:
    """JSON whose first member says that it is an architecture."""
    return bool(location.key) and is_architecture(location.head)


def decode(location: Location) -> State:
    """Read an architecture, and which bytes its weights are of the files beside it.

    Raises:
        CorruptError: it is no JSON, or not what the words of an architecture can be.
    """
    where = location.where
    words = parse_json(read_text(location), where, "architecture", most=_MOST_VALUES)
    if not isinstance(words, dict):
        raise CorruptError("an architecture is a JSON object", where=where)
    model = from_json(words, where)
    state = state_of(model, location, NAME)
    if HYPERPARAMETERS in words:
        state.metadata[HYPERPARAMETERS] = _checked(words[HYPERPARAMETERS], where)
    return state


def _checked(hyperparameters: Json, where: str) -> Json:
    """Give hyperparameters that JSON can say, and says as they are.

    Raises:
        CorruptError: there is a number in them that is too large, or they nest too deeply.
    """
    try:
        dump_json(hyperparameters)
    except UnsupportedError as error:
        raise CorruptError(f"{HYPERPARAMETERS}: {error.problem}", where=where) from None
    return hyperparameters


def encode(
    state: State,
    location: Location,
    *,
    tensors: bool | str = True,
    threshold: int | str = _THRESHOLD,
    checksums: bool | None = None,
) -> Iterator[Stream]:
    """Write an architecture.

    Args:
        state: what to write.
        location: where to.
        tensors: where those of at least the threshold go: a safetensors file beside it, which is
            called like it (True) or by this name. False leaves their values out, so that the
            structure alone is written.
        threshold: the most bytes of a tensor whose values stand in the text ("1KiB").
        checksums: note an XXH3-128 of each tensor and of the model itself; None does so for what is
            no model, and for models that have them.

    Raises:
        ArgumentError: an option has no such value.
    """
    least = size_of(threshold) or 0
    if tensors == "" or not isinstance(tensors, bool | str):
        raise ArgumentError(
            f"tensors cannot be {tensors!r}", cure="Give True, False or the name of a file."
        )
    metadata = {key: value for key, value in state.metadata.items() if key != HYPERPARAMETERS}
    if tensors is False:
        checksums = False if state.graph is not None else checksums
    graph = build(state.replace(metadata=metadata), checksums=checksums)
    outside = _hold(graph, least)
    before = _files_before(location)
    stem, written = location.name.removesuffix(".json"), ""
    if outside and tensors is False:
        places = graph.places()
        for place in outside:
            clear_tensor(places[place].message)
    elif outside:
        given = tensors if isinstance(tensors, str) else stem
        wanted = given.removesuffix(SAFETENSORS) + SAFETENSORS
        written = choose_name(location, wanted, before, given=isinstance(tensors, str))
        file = lay_out(written, outside, 1)
        places = graph.places()
        for part in file.parts:
            set_external(places[part.name].message, written, part.offset, part.tensor.nbytes)
        yield file.stream(location)
    seal_model(graph.model)
    words = to_json(graph.model)
    if HYPERPARAMETERS in state.metadata:
        dump_json(state.metadata[HYPERPARAMETERS])  # which refuses what is no JSON
        words[HYPERPARAMETERS] = state.metadata[HYPERPARAMETERS]
    yield Stream(location.key, _text(words))
    for name in sorted(before - {written}):
        if tensors is not False and is_own(name, stem):
            yield Stream(location.sibling(name).key, None)


def losses(state: State) -> list[str]:
    """Say what no text can hold."""
    return text_losses(state)


def _files_before(location: Location) -> set[str]:
    """Name the files of the architecture that is to be replaced."""
    found = Location(location.store, location.key)
    try:
        words = parse_json(read_text(found), found.where, "architecture", most=_MOST_VALUES)
        return set(files_named(from_json(words, found.where))) if isinstance(words, dict) else set()
    except TensorKeepError:
        return set()
    finally:
        found.close()


def _hold(graph: Graph, least: int) -> dict[str, Tensor]:
    """Bring all tensors into their canonical form; gives those that are to lie outside."""
    outside: dict[str, Tensor] = {}
    for name, place in graph.places().items():
        tensor = graph.read(place)
        if isinstance(tensor.source, Absent):
            clear_tensor(place.message)
            continue
        fill_tensor(place.message, tensor)
        if tensor.nbytes >= max(least, 1) and tensor.dtype.kind != "string":
            outside[name] = tensor
    return outside


def to_json(model: Message) -> dict[str, Any]:
    """Give a model in the words of an architecture.

    >>> model = Message(MODEL, ir_version=8)
    >>> _ = model.make("graph", name="g").add("node", op_type="Relu", input=["x"], output=["y"])
    >>> to_json(model)["graph"]["nodes"]
    [{'op': 'Relu', 'inputs': ['x'], 'outputs': ['y']}]
    """
    words: dict[str, Any] = {"tensorkeep": NAME, "version": VERSION}
    rest = model.copy()
    for word, field in _PLAIN.items():
        if field in model:
            words[word] = model[field]
            rest.drop(field)
    opsets = {row.domain: row.version for row in model.opset_import}
    if len(opsets) == len(model.opset_import) and not any(map(_is_odd, model.opset_import)):
        words["opsets"] = opsets
        rest.drop("opset_import")
    entries = model.metadata_props
    texts = {entry.key: entry.value for entry in entries}
    if entries and len(texts) == len(entries):
        words["metadata"] = texts
        rest.drop("metadata_props")
    if "graph" in model:
        words["graph"] = graph_words(model.graph)
        rest.drop("graph")
    return words | leftover(rest)


def _is_odd(row: Message) -> bool:
    return set(row) != {"domain", "version"} or bool(row.unknown())


def from_json(words: Mapping[str, Any], where: str) -> Message:
    """Read a model from the words of an architecture.

    Raises:
        CorruptError: a word is not known, or its value is of another kind.
        UnsupportedError: it is of a later version.
    """
    if words.get("tensorkeep") != NAME:
        raise CorruptError('has no "tensorkeep": "architecture"', where=where)
    if words.get("version") != VERSION:
        raise UnsupportedError(
            f"is an architecture of version {words.get('version')!r}, not {VERSION}",
            where=where,
            cure="Update tensorkeep.",
        )
    if unknown := sorted(words.keys() - _KNOWN):
        raise CorruptError(
            f"has a word that architectures have not: {unknown[0]!r}",
            where=where,
            cure=f"They have {', '.join(sorted(_KNOWN))}.",
        )
    model = take_more(MODEL, words, where)
    try:
        for word, field in _PLAIN.items():
            if word in words:
                model[field] = words[word]
        for domain, version in _table(words, "opsets", where).items():
            row = Message(OPSET, domain=domain, version=version)
            model["opset_import"] = [*model.opset_import, row]
        for key, value in _table(words, "metadata", where).items():
            model["metadata_props"] = [*model.metadata_props, Message(ENTRY, key=key, value=value)]
        if "graph" in words:
            model["graph"] = graph_from(words["graph"], f"{where}: graph")
    except (CorruptError, UnsupportedError):
        raise
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise CorruptError(f"is no architecture: {error}", where=where) from None
    return model


def _table(words: Mapping[str, Any], word: str, where: str) -> dict[str, Any]:
    found = words.get(word, {})
    if not isinstance(found, dict):
        raise CorruptError(f"{word!r} is to be an object", where=where)
    return found


def _text(words: dict[str, Any]) -> Iterator[bytes]:
    """Write the words with a line for each node, weight and value."""
    yield (_layout(words, 0) + "\n").encode("utf-8", "surrogateescape")


_APART = 2  # spaces
_DEEP = 4
_WIDE = 96


def _layout(value: Any, depth: int) -> str:
    """Write JSON, what is short and what is a list of numbers on one line."""
    if depth and (depth > _DEEP or not _is_nested(value) or _is_short(value, depth)):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    inner = " " * _APART * (depth + 1)
    if isinstance(value, dict):
        rows = [
            f"{json.dumps(k, ensure_ascii=False)}: {_layout(v, depth + 1)}"
            for k, v in value.items()
        ]
        opening, closing = "{", "}"
    else:
        rows = [_layout(item, depth + 1) for item in value]
        opening, closing = "[", "]"
    joined = f",\n{inner}".join(rows)
    return f"{opening}\n{inner}{joined}\n{' ' * _APART * depth}{closing}"


def _is_nested(value: Any) -> bool:
    if isinstance(value, list):
        return any(isinstance(item, dict | list) for item in value)
    return isinstance(value, dict)


def _is_short(value: Any, depth: int) -> bool:
    """Whether it fits into a line; what has many parts is not written to see that."""
    if len(value) * 4 > _WIDE:
        return False
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return len(text) + depth * _APART <= _WIDE
