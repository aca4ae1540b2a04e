"""Facts about a model: who made it, its version and license, how it was trained.

    name, doc                       name and doc_string of the graph
    version, domain                 model_version and domain of the model
    producer, producer_version      producer_name and producer_version
    author, license                 metadata_props: model_author, model_license
    training.optimizer, ...         metadata_props of the same key
    any other key                   metadata_props of the same key
    ir_version, opset               read only
    training_info                   read only: what the graphs for training are, in short

ONNX's docs/MetadataProps.md names model_author and model_license; `author` and `license`, as
Ultralytics writes them, are read as well. metadata_props hold text alone: numbers, true, false,
lists and objects are kept as JSON; text stands as it is, in quotes where it would be read as one of
those.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from tensorkeep import api
from tensorkeep.errors import ArgumentError
from tensorkeep.graph import Graph
from tensorkeep.graph.schema import ENTRY
from tensorkeep.message import Message
from tensorkeep.models.opening import Model, graph_of
from tensorkeep.models.training_info import describe_training
from tensorkeep.notes import KEY as OWN
from tensorkeep.state import Json, State

# Facts that ONNX has fields for, and the message that holds each: the model or its graph.
FIELDS = {
    "name": ("graph", "name"),
    "version": ("model", "model_version"),
    "domain": ("model", "domain"),
    "producer": ("model", "producer_name"),
    "producer_version": ("model", "producer_version"),
    "doc": ("graph", "doc_string"),
}
READ_ONLY = ("ir_version", "opset", "training_info")

# Facts in metadata_props that go by other keys as well: the documented one first.
KEYS = {
    "author": ("model_author", "author"),
    "license": ("model_license", "license"),
    "training.optimizer": ("training.optimizer", "optimizer"),
    "training.learning_rate": ("training.learning_rate", "learning_rate", "lr", "lr0"),
    "training.batch_size": ("training.batch_size", "batch_size"),
    "training.epochs": ("training.epochs", "epochs", "num_epochs"),
    "training.dataset": ("training.dataset", "dataset"),
    "training.loss": ("training.loss", "loss"),
    "training.metrics": ("training.metrics", "metrics"),
}
_FACTS = {key: fact for fact, keys in KEYS.items() for key in keys}
_TEXT = frozenset(("author", "license"))  # never read as numbers
_LONGEST = 1 << 16  # characters of a value that may be JSON; longer ones are text


def metadata(model: Model) -> dict[str, Json]:
    """Give the facts about a model; of any other file, the metadata that it has.

    Args:
        model: a path or a state.

    Raises:
        MissingError: there is no such file.
        CorruptError: it is damaged.

    >>> from tensorkeep.models.building import input, model, node
    >>> y = node("Relu", input("x", "float32", [4])).typed("float32", [4])
    >>> named = set_metadata(model([y], name="tiny"), {"author": "Ada", "training.epochs": 3})
    >>> facts = metadata(named)
    >>> facts["name"], facts["author"], facts["training.epochs"], facts["opset"]
    ('tiny', 'Ada', 3, {'ai.onnx': 13})
    """
    state = model if isinstance(model, State) else api.open(model)
    try:
        return dict(state.metadata) if state.graph is None else _read(state.graph, state.metadata)
    finally:
        if state is not model:
            state.close()


def set_metadata(model: Model, facts: Mapping[str, Json]) -> State:
    """Give a model with some facts changed, and all else as it was.

    Setting a fact that is there several times, or under another key that means the same, leaves it
    once under the documented key.

    Args:
        model: a path, or a state with a graph; it is not changed.
        facts: what to set, by the keys of `metadata`; None removes.

    Raises:
        ArgumentError: it is no model; a fact is read only, or of another type.
    """
    if not isinstance(facts, Mapping):
        raise ArgumentError(f"facts are a dict of values by their keys, not {facts!r}")
    state = model if isinstance(model, State) else api.open(model)
    try:
        if state.graph is None:
            raise ArgumentError(
                f"is {state.format or 'a state'}, whose metadata is written with it alone",
                where=state.where,
                cure="Save it anew, with tensorkeep.save(state, path, metadata={...}).",
            )
        graph = graph_of(state).copy()
        kept = dict(state.metadata)
        for fact, value in facts.items():
            _set(graph.model, kept, fact, value)
        changed = State.of_graph(graph, state)
        stays = kept.keys() | graph.metadata.keys()
        return changed.replace(
            metadata={key: value for key, value in changed.metadata.items() if key in stays}
        )
    except BaseException:
        if state is not model:
            state.close()
        raise


def replaced_entries(state: State, fact: str) -> list[str]:
    """List the keys of several entries, or of one of another key, that setting a fact makes one.

    Empty where the fact stands once at most, under its documented key.
    """
    if state.graph is None or fact in FIELDS:
        return []
    keys = _keys(fact)
    found = [entry.key for entry in state.graph.model.metadata_props if entry.key in keys]
    return [] if found in ([], [keys[0]]) else found


def parse_fact(fact: str, text: str) -> Json:
    """Give the value of a fact that was written as text, as `metadata` would read it.

    Raises:
        ArgumentError: it is no number where one belongs.

    >>> parse_fact("version", "3"), parse_fact("license", "0"), parse_fact("training.loss", "0.5")
    (3, '0', 0.5)
    """
    if fact == "version":
        try:
            return int(text)
        except ValueError:
            raise ArgumentError(f"version is a whole number, not {text!r}") from None
    return text if fact in FIELDS or _FACTS.get(fact) in _TEXT else _parse(text)


def _read(graph: Graph, kept: Mapping[str, Json]) -> dict[str, Json]:
    model = graph.model
    found: dict[str, Json] = {}
    for fact, (_, field) in FIELDS.items():
        value = _holder(model, fact)[field]
        if value:
            found[fact] = value
    texts: dict[str, str] = {}
    for entry in model.metadata_props:
        if entry.key != OWN:
            texts[entry.key] = entry.value
    for fact, keys in KEYS.items():
        first = next((key for key in keys if key in texts), None)
        if first is not None:
            found[fact] = texts[first] if fact in _TEXT else _parse(texts[first])
    for key, text in texts.items():
        if key not in _FACTS:
            found[_escaped(key)] = _parse(text)
    for key, value in kept.items():
        if key not in texts and key not in _FACTS and key != OWN:
            found.setdefault(_escaped(key), value)
    found["ir_version"] = int(model.ir_version)
    found["opset"] = {domain or "ai.onnx": int(v) for domain, v in graph.opsets.items()}
    if model.training_info:
        found["training_info"] = describe_training(model)
    return found


def _escaped(key: str) -> str:
    """Tell an entry from a field of the same name."""
    return f"{_PROPS}{key}" if key in FIELDS or key in READ_ONLY else key


_PROPS = "metadata_props."


def _keys(fact: str) -> tuple[str, ...]:
    """Give the keys of entries that hold a fact, the one to write first."""
    plain = fact.removeprefix(_PROPS)
    if plain != fact and (plain in FIELDS or plain in READ_ONLY):
        return (plain,)
    return KEYS.get(_FACTS.get(fact, fact), (fact,))


def _holder(model: Message, fact: str) -> Message:
    place, _ = FIELDS[fact]
    return model if place == "model" else model.graph


def _set(model: Message, kept: dict[str, Json], fact: Any, value: Json) -> None:
    if not isinstance(fact, str) or not fact:
        raise ArgumentError(f"a fact goes by a key, which cannot be {fact!r}")
    if fact in READ_ONLY:
        raise ArgumentError(
            f"{fact} says what the model is, and cannot be set",
            cure="Convert the model to another opset." if fact == "opset" else "",
        )
    if fact == OWN:
        raise ArgumentError(f"{OWN!r} is where tensorkeep keeps notes of its own")
    if fact in FIELDS:
        _set_field(model, fact, value)
        return
    keys = _keys(fact)
    for key in keys:
        kept.pop(key, None)
    entries = [entry for entry in model.metadata_props if entry.key in keys]
    if value is None:
        if entries:
            model.metadata_props = [e for e in model.metadata_props if e.key not in keys]
        return
    text = _dump(fact, value, plain=_FACTS.get(fact) in _TEXT)
    if not entries:
        model.add("metadata_props", key=keys[0], value=text)
        return
    first = entries[0]
    if len(entries) > 1 or first.key != keys[0]:
        fresh = Message(ENTRY, key=keys[0], value=text)
        model.metadata_props = [
            fresh if entry is first else entry
            for entry in model.metadata_props
            if entry is first or entry.key not in keys
        ]
    elif first.value != text:
        first.value = text


def _set_field(model: Message, fact: str, value: Json) -> None:
    holder, (_, field) = _holder(model, fact), FIELDS[fact]
    if value is None:
        if field in holder:
            holder.drop(field)
        return
    number = fact == "version"
    if type(value) is not (int if number else str):
        said = "a whole number" if number else "text"
        raise ArgumentError(f"{fact} is {said}, not {value!r}")
    if fact == "name" and not value:
        raise ArgumentError("a graph cannot be without a name")
    if holder.get(field) != value:
        holder[field] = value


def _parse(text: str) -> Json:
    """Read a value from text: JSON where it is written as JSON writes it, else the text itself.

    >>> _parse("0.001"), _parse("1.00"), _parse("adam"), _parse('"3"'), _parse("[1, 2]")
    (0.001, '1.00', 'adam', '3', [1, 2])
    """
    if not text or len(text) > _LONGEST or text[0] not in '-0123456789tf[{"':
        return text
    try:
        value = json.loads(text, parse_constant=_refuse)
        again = json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text
    # 1.00, 1e3 and 007 may be versions or names: what would not be written so again is text.
    if isinstance(value, int | float) and again != text:
        return text
    return value  # type: ignore[no-any-return]


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _dump(fact: str, value: Json, *, plain: bool) -> str:
    if isinstance(value, str):
        quoted = not plain and _parse(value) != value
        return json.dumps(value, ensure_ascii=False) if quoted else value
    if plain:
        raise ArgumentError(f"{fact} is text, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    try:
        return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ArgumentError(
            f"{fact} cannot be {value!r}",
            cure="Give text, a number, a bool, or lists and dicts of these.",
        ) from None


def _plain(value: Any) -> Any:
    """Take numbers of NumPy as Python's."""
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "ndim", None) == 0 else value
