"""What a model notes under `tensorkeep` in its metadata_props: nesting, metadata, digests, a seal.

The seal is a digest of the model's message without the raw bytes of its tensors, which have digests
of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import xxhash

from tensorkeep.errors import CorruptError
from tensorkeep.graph import Graph
from tensorkeep.graph.schema import ENTRY
from tensorkeep.message import Message
from tensorkeep.message.encoding import Parts, Stream, gather_message
from tensorkeep.notes import KEY, VERSION, Notes, parse_notes
from tensorkeep.source import MemorySource, Window
from tensorkeep.wire.seal import NO_DIGEST, SEAL
from tensorkeep.wire.text import dump_json

NAME = f"{KEY}.state"  # of the graph of a state that is no model


class Noted(NamedTuple):
    """A model's notes, and whether it is sealed."""

    notes: Notes
    sealed: bool


def read_notes(model: Message, names: Iterable[str], where: str, *, needed: bool) -> Noted:
    """Read a model's notes; empty ones where it has none.

    Raises:
        CorruptError: they are damaged, or gone where they are needed.
    """
    texts = [entry.value for entry in model.metadata_props if entry.key == KEY]
    if not texts and needed:
        raise CorruptError(
            "keeps a state, but the notes at its end are gone",
            where=where,
            cure="It is cut short, or was changed by another tool; give its graph another name to "
            "read it as a model.",
        )
    if not texts:
        return Noted(Notes(), False)
    if len(texts) > 1:
        raise CorruptError("has two notes of tensorkeep", where=where)
    notes = parse_notes(texts[0], where, names)
    sealed = f'"{SEAL}":"' in texts[0]
    if notes.digests is not None and not sealed:
        raise CorruptError("the model's own digest is gone", where=where)
    return Noted(notes, sealed)


def write_notes(model: Message, notes: Notes) -> None:
    """Put notes into a model, in the place of those that it has."""
    document = notes.dump()
    entries = model.metadata_props
    kept = [entry for entry in entries if entry.key != KEY]
    if not document and is_bare(model):
        document = EMPTY  # what is cut short in front of it is told so
    if notes.digests is not None:
        document = f"{document[:-1]},{_member(NO_DIGEST)}"
    if document:
        kept.append(Message(ENTRY, key=KEY, value=document))
    if document or len(kept) != len(entries):
        model.metadata_props = kept


EMPTY = dump_json({"version": VERSION})


def is_bare(model: Message) -> bool:
    """Whether it only keeps a state: a graph without nodes, that we wrote."""
    graph = model.graph
    others = ("node", "input", "output", "value_info", "sparse_initializer")
    return (
        graph.name == NAME
        and not any(name in graph for name in others)
        and not any(name in model for name in ("functions", "training_info"))
    )


def hold_apart(graph: Graph) -> None:
    """Have the raw bytes of all tensors be parts of their own when the model is written."""
    for place in graph.places().values():
        message = place.message
        if "raw_data" in message:
            found = message.window("raw_data")
            data = Window(found[0], found[1], found[2] - found[1]) if found else None
            message.raw_data = data or MemorySource(message.raw_data)


def seal_model(model: Message) -> None:
    """Put the digest of a model into the place that its notes keep for it."""
    for entry in model.metadata_props:
        if entry.key == KEY and _PLACE.search(entry.value):
            entry.value = _PLACE.sub(_member(_digest(model)), entry.value)


def check_sealed(graph: Graph) -> None:
    """Check the seal of a model that has one.

    Raises:
        CorruptError: a bit of it has changed.
    """
    apart = graph.copy()
    hold_apart(apart)
    (entry,) = (entry for entry in apart.model.metadata_props if entry.key == KEY)
    sealed = _PLACE.search(entry.value)
    if sealed is None:
        raise CorruptError("the model's own digest is damaged", where=graph.where)
    entry.value = _PLACE.sub(_member(NO_DIGEST), entry.value)
    found = _digest(apart.model)
    if found != sealed[1]:
        raise CorruptError(
            f"the model is damaged: its XXH3-128 is {found}, {sealed[1]} was saved",
            where=graph.where,
            cure="Use another copy; if another tool has changed it, take the digests out by "
            "removing `tensorkeep` from its metadata_props.",
        )


_PLACE = re.compile(rf'"{re.escape(SEAL)}":"([0-9a-f]{{32}})"}}$')


def _member(digest: str) -> str:
    return f'"{SEAL}":"{digest}"}}'


def _digest(model: Message) -> str:
    """Hash the encoded message without those bytes that are held apart."""
    parts: Parts = []
    gather_message(parts, model)
    hasher = xxhash.xxh3_128()
    for part in reversed(parts):
        if not isinstance(part, Stream):
            hasher.update(part)
        elif not part.given:
            for chunk in part.make():
                hasher.update(chunk)
    return hasher.hexdigest()
