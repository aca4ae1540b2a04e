"""What Caffe2 has no place for, beside the blobs: our notes, and a seal over what they belong to.

The text is 32 hex digits, the seal, and then `tensorkeep.notes`. The seal is the XXH3-128 of the
notes and of all that the blobs say beside the numbers in their tensors: names, element types,
shapes, texts, devices. So it holds whatever order, chunks or database the blobs are kept in, and
numbers are covered by the digests in the notes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import xxhash

from tensorkeep import checksum
from tensorkeep.checksum import mismatch
from tensorkeep.dtypes import BOOL, STRING, UINT8, DType
from tensorkeep.errors import ArgumentError, CorruptError, LossError
from tensorkeep.formats.caffe2.blobs import (
    FOR_READING,
    KEY,
    NOT_READ,
    Gathered,
    blobs_of,
    gather,
)
from tensorkeep.message.schema import encode_varint
from tensorkeep.notes import Notes, parse_notes
from tensorkeep.source import Source
from tensorkeep.state import Json, State
from tensorkeep.store import Late, Location
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.arguments import walk
from tensorkeep.wire.caffe2.elements import CODES
from tensorkeep.wire.caffe2.values import KINDS, Blob

_WIDTH = 32
_NO_DIGEST = "0" * _WIDTH


@dataclass(slots=True)
class Prepared:
    """A state as blobs, and what is noted beside them."""

    state: State
    blobs: dict[str, Blob]
    gathered: Gathered
    notes: Notes

    @property
    def draft(self) -> bytes:
        """The text as long as it will be, before the digests are known."""
        digests = dict.fromkeys(self.state, _NO_DIGEST)
        return _NO_DIGEST.encode() + replace(self.notes, digests=digests).dump().encode()

    def text(self) -> bytes:
        """Hash the tensors and give the text.

        Raises:
            CorruptError: a tensor is not what its own digest says, so it was damaged before.
        """
        digests = hash_whole(self.state, self.state)
        kept = self.gathered.tensors.items()
        digests |= checksum.digests({name: t for name, t in kept if t.dtype is BOOL})
        noted = replace(self.notes, digests=digests).dump().encode()
        return _seal(noted, self.gathered).encode() + noted


def hash_whole(state: State, names: Iterable[str]) -> dict[str, str]:
    """Hash tensors, and refuse those that are not what the state's own digests say.

    Raises:
        CorruptError: one was damaged before it came here.
    """
    digests = checksum.digests({name: state[name] for name in names})
    for name, found in digests.items():
        if state.digests.get(name, found) != found:
            raise mismatch(name, state.digests[name], found, state.where)
    return digests


def prepare(
    state: State,
    holds: frozenset[DType] = frozenset(CODES),
    *,
    kinds: frozenset[str] = KINDS,
    devices: bool = True,
) -> Prepared:
    """Turn a state into blobs.

    Args:
        state: what to keep.
        holds: the element types that can be kept; tensors of others become their bytes.
        kinds: the types of blobs that can be kept; others become plain tensors.
        devices: whether the devices of blobs can be kept.

    Raises:
        ArgumentError: its metadata does not fit its tensors.
    """
    stored = {name: (t.dtype, t.shape) for name, t in state.items() if t.dtype not in holds}
    tensors = {name: _as_bytes(t) if name in stored else _sound(t) for name, t in state.items()}
    metadata = dict(state.metadata)
    if _not_read(state):
        metadata[KEY] = {key: rows for key, rows in _own(state).items() if key != NOT_READ}
    blobs = blobs_of(tensors, _restrict(metadata.get(KEY), kinds, devices))
    gathered = gather(blobs)
    _check_fit(tensors, gathered)
    if metadata.get(KEY) == gathered.metadata:
        metadata.pop(KEY, None)
    return Prepared(state, blobs, gathered, Notes(metadata, state.skeleton, stored))


def _restrict(metadata: Json, kinds: frozenset[str], devices: bool) -> Json:
    if not isinstance(metadata, dict) or (kinds == KINDS and devices):
        return metadata
    types = metadata.get("types")
    rows = types.items() if isinstance(types, dict) else ()
    kept: dict[str, Json] = {
        name: kind for name, kind in rows if isinstance(kind, str) and kind in kinds
    }
    places = {"devices": metadata["devices"]} if devices and "devices" in metadata else {}
    details: Json = metadata.get("details", {})
    if isinstance(details, dict):
        details = {name: found for name, found in details.items() if name in kept}
    return {"types": kept, "details": details, **places}


def _check_fit(tensors: Mapping[str, Tensor], gathered: Gathered) -> None:
    """Refuse blobs that would be read as other tensors than those that they were made of."""
    found = gathered.tensors
    ours = {id(tensor) for tensor in tensors.values()}  # which belong under their own names
    for name in tensors.keys() | found.keys():
        wanted, given = tensors.get(name), found.get(name)
        if given is wanted:
            continue
        if (
            given is None
            or wanted is None
            or id(given) in ours
            or (given.dtype, given.shape) != (wanted.dtype, wanted.shape)
        ):
            raise ArgumentError(
                f"the {KEY!r} metadata makes {given} of {name!r}, which is {wanted}",
                cure=f"Drop {KEY!r} from the metadata to keep plain tensors.",
            )


def _own(state: State) -> dict[str, Json]:
    own = state.metadata.get(KEY)
    return own if isinstance(own, dict) else {}


def _not_read(state: State) -> dict[str, Json]:
    found = _own(state).get(NOT_READ)
    return found if isinstance(found, dict) else {}


def losses(state: State) -> list[str]:
    """Say which blobs a state lacks, since nothing here reads them."""
    return [f"{name!r}, a {kind}, was not read" for name, kind in _not_read(state).items()]


def _as_bytes(tensor: Tensor) -> Tensor:
    return Tensor(UINT8, (tensor.nbytes,), tensor.source, tensor.offset, tensor.nbytes)


def _sound(tensor: Tensor) -> Tensor:
    """Make every byte of a bool 0 or 1, as Caffe2's records hold it."""
    if tensor.dtype is not BOOL:
        return tensor
    return Tensor(BOOL, tensor.shape, _Bools(tensor), 0, tensor.nbytes)


class _Bools(Source):
    """The bytes of bools, 1 for all that are true."""

    __slots__ = ("_tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        super().__init__(tensor.nbytes, tensor.source.where)

    def _read(self, start: int, stop: int) -> memoryview:
        at = self._tensor.offset
        held = self._tensor.source.read(at + start, at + stop)
        return np.minimum(np.asarray(held, np.uint8), 1).data


def refuse_unplain(prepared: Prepared, format: str) -> None:
    """Refuse what only the notes would keep, and what is damaged, which they would reveal.

    Raises:
        LossError: something would be lost.
        CorruptError: a tensor is not what its own digest says.
    """
    stored = prepared.notes.stored
    lost = [f"the type of {name!r}, {kind}" for name, (kind, _) in stored.items()]
    if metadata := _unkept(prepared):
        lost.append(f"the metadata {', '.join(metadata)}")
    if nesting := _nesting(prepared.notes.skeleton):
        lost.append(nesting)
    if lost:
        raise LossError(
            f"{format} cannot hold {'; '.join(lost[:5])} in plain form",
            cure="Leave plain out, or save a flat dict of arrays of Caffe2's types.",
        )
    hash_whole(prepared.state, [name for name in prepared.state if name in prepared.state.digests])


def _nesting(skeleton: Mapping[str, Json] | None) -> str:
    """Say what a flat dict of arrays would lose of a nesting; empty for nothing."""
    if skeleton is None:
        return ""
    tree = skeleton.get("tree", {})
    leaves = list(tree.values()) if isinstance(tree, dict) else [None]
    if all(leaf == "$" for leaf in leaves):
        return f"that the arrays are {skeleton['framework']}'s" if "framework" in skeleton else ""
    if all(leaf == "$" or str(leaf).startswith("$:") for leaf in leaves):
        return "that names share a tensor, or are not their tensors' own"
    return "the nesting and what is in it beside arrays"


def _unkept(prepared: Prepared) -> list[str]:
    metadata = prepared.notes.metadata
    own = metadata.get(KEY)
    if isinstance(own, dict):
        known = prepared.gathered.metadata
        if {k: v for k, v in own.items() if k not in FOR_READING} == {
            k: v for k, v in known.items() if k not in FOR_READING
        }:
            return [key for key in metadata if key != KEY]
    return list(metadata)


def finish(
    gathered: Gathered,
    text: bytes | None,
    location: Location,
    *,
    format: str,
    summary: Mapping[str, Json] | None = None,
    checks: Mapping[str, Callable[[], None]] | None = None,
) -> State:
    """Make the state that blobs and the text beside them are.

    Args:
        gathered: the blobs.
        text: what stood beside them, or None.
        location: where they were.
        format: of the state.
        summary: what else to put into the metadata of a file that is not ours.
        checks: by name, raise CorruptError for tensors of which something is missing.

    Raises:
        CorruptError: they do not belong together.
    """
    where = location.where
    tensors = gathered.tensors
    metadata: dict[str, Json] = {KEY: gathered.metadata} if gathered.metadata else {}
    notes = Notes()
    if text is not None:
        notes = _parse(text, gathered, where)
        tensors = {name: _restore(name, tensors[name], notes) for name in notes.digests or tensors}
        metadata |= notes.metadata
    elif summary:
        metadata[KEY] = {**gathered.metadata, **summary}
    return State(
        tensors,
        metadata=metadata,
        skeleton=notes.skeleton,
        digests=notes.digests,
        checks=checks,
        remarks=gathered.remarks,
        format=format,
        where=where,
        close=location.close,
    )


def _parse(text: bytes, gathered: Gathered, where: str) -> Notes:
    seal, noted = text[:_WIDTH], text[_WIDTH:]
    if not re.fullmatch(rb"[0-9a-f]{32}", seal):
        raise CorruptError("the seal of tensorkeep's notes is damaged", where=where)
    if _seal(noted, gathered).encode() != seal:
        raise CorruptError(
            "a name, type, shape or text in it is not what was saved, or a tensor is missing",
            where=where,
            cure="Use another copy of it, or take what is left with tensorkeep.caffe2.load.",
        )
    return parse_notes(noted, where, gathered.tensors)


def _restore(name: str, tensor: Tensor, notes: Notes) -> Tensor:
    """Give a tensor the element type that it was kept instead of."""
    if name not in notes.stored:
        return tensor
    kind, shape = notes.stored[name]
    return Tensor(kind, shape, tensor.source, tensor.offset, tensor.nbytes)


def _seal(noted: bytes, gathered: Gathered) -> str:
    hasher = xxhash.xxh3_128(noted)
    for name in sorted(gathered.tensors):
        tensor = gathered.tensors[name]
        row = f"\n{name}\0{tensor.dtype}\0{tensor.shape}\0"
        hasher.update(row.encode("utf-8", "surrogatepass"))
        if tensor.dtype is STRING and not tensor.shape:
            hasher.update(tensor.read())
    hasher.update(json.dumps(gathered.metadata, sort_keys=True).encode())
    return hasher.hexdigest()


# Readers of protobuf skip a field that they do not know, and keep it: fields 1000 and 1001.
NET_NOTES = bytes([0xC2, 0x3E])
BARE_NOTES = bytes([0xCA, 0x3E])


def notes_field(prepared: Prepared, tag: bytes) -> Late:
    """Give the text as a field to stand first in a message, filled in last."""
    size = len(prepared.draft)
    head = tag + encode_varint(size)
    return Late(len(head) + size, lambda: head + prepared.text())


def take_notes(source: Source, where: str, tag: bytes) -> tuple[bytes | None, int]:
    """Give the text that stands first in a message, or None, and where the rest begins.

    Raises:
        CorruptError: it is cut short.
    """
    if bytes(source.read(0, min(source.size, len(tag)))) != tag:
        return None, 0
    _, _, start, stop = next(walk(source, 0, source.size, where))
    return bytes(source.read(start, stop)), stop
