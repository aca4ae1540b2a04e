"""The files beside a model that its tensors name: which may be read, and how they are laid out.

A name is taken as a path below the model's own folder, also for a model that was named without a
folder. Links of any kind are refused, since whoever made the model would choose what is read.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping
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
            if part.offset > at:
                yield bytes(part.offset - at)
            yield from part.tensor.pieces()
            at = part.offset + part.tensor.nbytes


def lay_out(name: str, tensors: Mapping[str, Tensor], align: int) -> DataFile:
    """Lay tensors out in a file, a safetensors file where it is called so.

    Raises:
        ArgumentError: the header of a safetensors file would be too long.
    """
    if name.endswith(SAFETENSORS):
        return _lay_out_safetensors(name, tensors, align)
    parts, at = [], 0
    for key, tensor in tensors.items():
        at += -at % align
        parts.append(Part(key, tensor, at))
        at += tensor.nbytes
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


def choose_name(location: Location, wanted: str, own: set[str]) -> str:
    """Choose the name of a data file so that no file that is there is overwritten.

    The files of the model that is to be replaced (`own`) stay until the new one stands.

    Raises:
        ArgumentError: there is such a file, and it does not belong to the model.
    """
    beside = location.sibling(wanted)
    if wanted not in own and not _exists(beside):
        return wanted
    if wanted not in own:
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
    name = _MARK.sub("", name)
    stem, dot, ending = name.rpartition(".")
    return f"{stem}.{mark}.{ending}" if dot else f"{name}.{mark}"


def _exists(location: Location) -> bool:
    try:
        location.store.get(location.key).close()
    except MissingError:
        return False
    return True


def is_own(name: str, model_name: str) -> bool:
    """Say whether a data file is named after the model, so that it may be deleted with it.

    >>> is_own("m.onnx.data", "m.onnx"), is_own("m.onnx.89abcdef.data", "m.onnx")
    (True, True)
    >>> is_own("weights.bin", "m.onnx")
    False
    """
    pattern = rf"{re.escape(model_name)}(\.[0-9a-f]{{8}})?(\.data|\.safetensors)"
    return re.fullmatch(pattern, name) is not None
