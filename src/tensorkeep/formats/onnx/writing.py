"""A state as a model: one file, or one whose large tensors lie in files beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tensorkeep import dtypes
from tensorkeep.errors import ArgumentError, MissingError, TensorKeepError
from tensorkeep.format import Stream
from tensorkeep.formats.onnx.building import build
from tensorkeep.formats.onnx.files import (
    ALIGN,
    DATA,
    SAFETENSORS,
    DataFile,
    choose_name,
    files_named,
    is_own,
    lay_out,
)
from tensorkeep.formats.onnx.notes import seal_model
from tensorkeep.graph import Graph, Place, fill_tensor, set_external
from tensorkeep.graph.codec import Absent, external_entries
from tensorkeep.graph.schema import EXTERNAL, MODEL
from tensorkeep.message import Message
from tensorkeep.message.encoding import Parts, gather_message, join_parts
from tensorkeep.source import FileSource, Source
from tensorkeep.state import State
from tensorkeep.store import Location
from tensorkeep.wire.sizes import size_of

LARGEST = (2 << 30) - 1  # bytes: no reader of protobuf takes a message of more
_MAX_ALIGN = 1 << 20
_THRESHOLD = 1024


def encode(
    state: State,
    location: Location,
    *,
    checksums: bool | None = None,
    external: bool | str | None = None,
    per_tensor: bool = False,
    threshold: int | str = _THRESHOLD,
    align: int | str = ALIGN,
) -> Iterator[Stream]:
    """Write a model.

    Args:
        state: what to write.
        location: where to.
        checksums: note an XXH3-128 of each tensor and of the model itself; None does so for what is
            no model, and for models that have them.
        external: where large tensors go. True: into a file beside the model, called like it with
            `.data` behind; a name: into that file, a safetensors file if it is called so; False:
            into the model itself; None: likewise, unless that would make it 2 GiB, and what lies in
            files beside the very model that is saved stays there.
        per_tensor: give each tensor a file of its own.
        threshold: the least bytes of a tensor to leave the model ("1KiB").
        align: what tensors start at a multiple of in a file ("64KiB").

    Raises:
        ArgumentError: an option has no such value, or the model would be too large for one file.
    """
    least, step = size_of(threshold) or 0, _alignment(align)
    if external == "" or not isinstance(external, bool | str | None):
        raise ArgumentError(
            f"external cannot be {external!r}", cure="Give True, False or the name of a file."
        )
    graph = build(state, checksums=checksums)
    before = _files_before(location)
    kept = _inline(graph, location, keep=external is None)
    if external is None or external is False:
        size = graph.model.size()
        if size > LARGEST:
            if external is False:
                raise ArgumentError(
                    f"would take {size:,} bytes in one file, of which protobuf reads {LARGEST:,}",
                    where=location.where,
                    cure="Save it with external=True.",
                )
            external = True
    files: dict[str, DataFile] = {}  # by the names that were wanted
    if external:
        given = isinstance(external, str)
        name = external if isinstance(external, str) else location.name + DATA
        chosen = _large(graph, least)
        groups = _per_tensor(name, chosen) if per_tensor else {name: list(chosen)}
        for wanted, keys in groups.items():
            if keys:
                there = choose_name(location, wanted, before, given=given)
                files[wanted] = _put_outside(graph, there, {key: chosen[key] for key in keys}, step)
    for file in files.values():
        yield file.stream(location)
    seal_model(graph.model)
    parts: Parts = []
    size = gather_message(parts, graph.model)
    if size > LARGEST:
        raise ArgumentError(
            f"would take {size:,} bytes without the tensors outside, of which protobuf reads "
            f"{LARGEST:,}",
            where=location.where,
            cure="Lower the threshold.",
        )
    yield Stream(location.key, join_parts(parts), size)
    for name in sorted(before - kept - {file.name for file in files.values()}):
        if is_own(name, location.name, files):
            yield Stream(location.sibling(name).key, None)


def _alignment(align: int | str) -> int:
    step = size_of(align) or 0
    if not 1 <= step <= _MAX_ALIGN or step & (step - 1):
        raise ArgumentError(
            f"align cannot be {align!r}", cure=f"Give a power of two, up to {_MAX_ALIGN:,}."
        )
    return step


def _files_before(location: Location) -> set[str]:
    """Name the files that the model to be replaced has."""
    try:
        source = location.store.get(location.key)
    except MissingError:
        return set()
    try:
        return set(files_named(Message.parse(MODEL, source)))
    except TensorKeepError:  # what is there is no model, so it has none
        return set()
    finally:
        source.close()


def _inline(graph: Graph, location: Location, *, keep: bool) -> set[str]:
    """Bring tensors into the model, but those to be kept in files beside it; names these files."""
    kept: set[str] = set()
    same = keep and os.path.realpath(location.where) == os.path.realpath(graph.where)
    for place in graph.places().values():
        if place.message.data_location != EXTERNAL:
            continue
        tensor = graph.read(place)
        name = external_entries(place.message).get("location", "")
        is_model = name.removeprefix("./") == location.name  # which is about to be replaced
        if (
            same
            and not is_model
            and (isinstance(tensor.source, Absent) or _is_there(tensor.source, location, name))
        ):
            kept.add(name)
        else:
            fill_tensor(place.message, tensor)
    return kept


def _is_there(source: Source, location: Location, name: str) -> bool:
    """Whether a file beside the model still is the one that was read."""
    try:
        beside = location.sibling(name.removeprefix("./"))
        found = beside.store.get_own(beside.key)
    except TensorKeepError:
        return False
    try:
        if isinstance(source, FileSource) and isinstance(found, FileSource):
            a, b = source.info(), found.info()
            return os.path.samestat(a, b)
        return bytes(found.read(0, found.size)) == bytes(source.read(0, source.size))
    finally:
        found.close()


def _large(graph: Graph, least: int) -> dict[str, Place]:
    """Find the tensors to move out of the model."""
    chosen: dict[str, Place] = {}
    for key, place in graph.places().items():
        if place.message.data_location != EXTERNAL:
            tensor = graph.read(place)
            stays = tensor.dtype is dtypes.STRING or isinstance(tensor.source, Absent)
            if tensor.nbytes >= max(least, 1) and not stays:
                chosen[key] = place
    return chosen


def _put_outside(graph: Graph, name: str, chosen: dict[str, Place], align: int) -> DataFile:
    """Move tensors out of the model into a file."""
    file = lay_out(name, {key: graph.read(place) for key, place in chosen.items()}, align)
    for part in file.parts:
        set_external(chosen[part.name].message, name, part.offset, part.tensor.nbytes)
    return file


def _per_tensor(name: str, chosen: dict[str, Place]) -> dict[str, list[str]]:
    """Name a file for each tensor after its place among them, which any filesystem takes."""
    stem, ending = name, ""
    for known in (SAFETENSORS, DATA):
        if name.endswith(known):
            stem, ending = name.removesuffix(known), known
    width = len(str(len(chosen)))
    return {f"{stem}.{i:0{width}}{ending}": [key] for i, key in enumerate(chosen, 1)}
