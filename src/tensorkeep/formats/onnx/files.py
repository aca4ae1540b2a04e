"""The files beside a model that its tensors name: which may be read, and how they are laid out.

A name is taken as a path below the model's own folder, also for a model that was named without a
folder. Links of any kind are refused, since whoever made the model would choose what is read.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from tensorkeep.errors import ArgumentError, MissingError
from tensorkeep.format import Stream
from tensorkeep.graph.codec import Opener, external_entries
from tensorkeep.graph.schema import EXTERNAL
from tensorkeep.graph.walking import walk
from tensorkeep.message import Message
from tensorkeep.source import Source
from tensorkeep.store import Chunk, Location
from tensorkeep.tensor import Tensor
from tensorkeep.wire.safetensors import build_header, storage

SAFETENSORS = ".safetensors"
DATA = ".data"
ALIGN = 4096  # a page: readers map tensors


def opener_of(location: Location) -> tuple[Opener, Callable[[], None]]:
    """Give what opens the files beside a model, each once, and what closes them."""
    opened: dict[str, Source] = {}

    def open_file(name: str) -> Source:
        if name not in opened:
            beside = location.sibling(name.removeprefix("./"))
            opened[name] = beside.store.get_own(beside.key)
        return opened[name]

    def close() -> None:
        for source in opened.values():
            source.close()

    return open_file, close


def files_named(model: Message) -> list[str]:
    """List the files that the tensors of a model name, as they name them."""
    names = (
        external_entries(place.message).get("location", "")
        for place in walk(model)
        if place.message.data_location == EXTERNAL
    )
    return [name for name in dict.fromkeys(names) if name]


class Part(NamedTuple):
    """A tensor in a file: its name there, and where it starts."""

    name: str
    tensor: Tensor
    offset: int


class DataFile(NamedTuple):
    """A file to write: its name beside the model, what stands before the tensors, and those."""

    name: str
    head: bytes
    parts: list[Part]
    size: int

    def stream(self, location: Location) -> Stream:
        """Give it as what a store takes."""
        return Stream(location.sibling(self.name).key, self._chunks(), self.size)

    def _chunks(self) -> Iterator[Chunk]:
        at = len(self.head)
        if self.head:
            yield self.head
        for part in self.parts:
            if part.offset < at:  # the bytes of one before, which it shares
                continue
            if part.offset > at:
                yield bytes(part.offset - at)
            yield from part.tensor.pieces()
            at = part.offset + part.tensor.nbytes


def lay_out(name: str, tensors: Mapping[str, Tensor], align: int) -> DataFile:
    """Lay tensors out in a file, a safetensors file where it is called so.

    Those that are the same bytes of one source are there once, but in a safetensors file.

    Raises:
        ArgumentError: the header of a safetensors file would be too long.
    """
    if name.endswith(SAFETENSORS):
        return _lay_out_safetensors(name, tensors, align)
    parts, at = [], 0
    known: dict[tuple[int, int, int], int] = {}
    for key, tensor in tensors.items():
        held = id(tensor.source), tensor.offset, tensor.nbytes
        if held not in known:
            at += -at % align
            known[held] = at
            at += tensor.nbytes
        parts.append(Part(key, tensor, known[held]))
    return DataFile(name, b"", parts, at)


def _lay_out_safetensors(name: str, tensors: Mapping[str, Tensor], align: int) -> DataFile:
    """Lay tensors out without gaps, wide elements first, so that each is aligned to its own."""
    rows = [(key, tensor, *storage(tensor)) for key, tensor in tensors.items()]
    rows.sort(key=lambda row: (-(row[1].dtype.bits if row[2] != "U8" else 8), row[0]))
    entries = ((key, code, shape, tensor.nbytes) for key, tensor, code, shape in rows)
    head = build_header(entries, {"format": "pt"}, align)
    parts, at = [], len(head)
    for key, tensor, _, _ in rows:
        parts.append(Part(key, tensor, at))
        at += tensor.nbytes
    return DataFile(name, head, parts, at)


def choose_name(location: Location, wanted: str, before: set[str], *, given: bool) -> str:
    """Choose the name of a data file so that no file that is there is overwritten.

    The files of the model that is to be replaced (`before`) stay until the new one stands.

    Args:
        location: the model.
        wanted: the name to use if it is free.
        before: the files that the model has that is there now.
        given: whether the caller spelt the name out, so that only files of the model's own make
            another name of it.

    Raises:
        ArgumentError: there is such a file, and it does not belong to the model.
        UnsafeError: the name leads out of the model's folder, or is a link.
    """
    beside = location.sibling(wanted)
    if beside.key == location.key:
        raise ArgumentError("cannot be the model's and its tensors' file", where=location.where)
    if wanted not in before:
        if not _exists(beside):
            return wanted
        if given and not any(_unmarked(name) == wanted for name in before):
            raise ArgumentError(
                "is there already, and is not this model's",
                where=beside.where,
                cure="Remove it, or choose another name with external=....",
            )
    folder, slash, name = wanted.rpartition("/")
    while True:
        fresh = f"{folder}{slash}{_marked(name, secrets.token_hex(4))}"
        if not _exists(location.sibling(fresh)):
            return fresh


_MARK = re.compile(r"\.[0-9a-f]{8}(?=\.[^.]*$)")


def _marked(name: str, mark: str) -> str:
    """Put a mark before the last ending of a name, in the place of one that is there.

    >>> _marked("m.onnx.data", "01234567"), _marked("m.onnx.01234567.data", "89abcdef")
    ('m.onnx.01234567.data', 'm.onnx.89abcdef.data')
    """
    name = _unmarked(name)
    stem, dot, ending = name.rpartition(".")
    return f"{stem}.{mark}.{ending}" if dot else f"{name}.{mark}"


def _unmarked(name: str) -> str:
    return _MARK.sub("", name)


def _exists(location: Location) -> bool:
    try:
        location.store.get_own(location.key).close()
    except MissingError:
        return False
    return True


def is_own(name: str, model_name: str, wanted: Iterable[str] = ()) -> bool:
    """Say whether a data file is the model's alone, so that it may be deleted with it.

    It is where it is named after the model, or where we have put a mark into a name `wanted`.

    >>> is_own("m.onnx.data", "m.onnx"), is_own("m.onnx.2.89abcdef.data", "m.onnx")
    (True, True)
    >>> is_own("w.bin", "m.onnx", ["w.bin"]), is_own("w.89abcdef.bin", "m.onnx", ["w.bin"])
    (False, True)
    """
    pattern = rf"{re.escape(model_name)}(\.[0-9]+)?(\.[0-9a-f]{{8}})?(\.data|\.safetensors)"
    if re.fullmatch(pattern, name):
        return True
    return _unmarked(name) != name and _unmarked(name) in set(wanted)
