"""Torch distributed checkpoints: a folder of .metadata and the .distcp files that ranks wrote.

    .metadata          what there is, and where: see dcp_metadata
    __RANK_N.distcp    items one behind the other, each a whole archive as torch.save makes it

An item is a chunk of a tensor or a pickled object. The chunks of a tensor are one lazy Tensor, and
an item's archive is opened when something of it is first read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tensorkeep.dtypes import DTYPES, FLOAT4_E2M1FN, STRING, DType, count_of
from tensorkeep.errors import CorruptError, MissingError, UnsafeError, UnsupportedError
from tensorkeep.format import Format
from tensorkeep.formats.pytorch.archive import read_archive
from tensorkeep.formats.pytorch.dcp_metadata import MAX_METADATA, Place, Whole, read_metadata
from tensorkeep.formats.pytorch.tensors import Tensors
from tensorkeep.source import MemorySource, Source, Window
from tensorkeep.state import State
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor
from tensorkeep.tree.pickled import nest_pickled
from tensorkeep.tree.vocabulary import MAX_DEPTH
from tensorkeep.wire.chunks import Box, check_cover, gathered

METADATA = ".metadata"
_PICKLE = b"\x80"

Path = tuple[Any, ...]


def accepts(location: Location) -> bool:
    """A folder with a .metadata, or that file."""
    found = _metadata(location)
    return found is not None and found.head.startswith(_PICKLE)


def _metadata(location: Location) -> Location | None:
    if location.key:
        return location if location.name == METADATA else None
    listed = any(key == METADATA for key in location.store.keys(METADATA))
    return location.beside(METADATA) if listed else None


def decode(location: Location) -> State:
    """Read .metadata and the pickled objects; the tensors stay where they are."""
    metadata = _metadata(location)
    if metadata is None:
        raise MissingError(f"holds no {METADATA}", where=location.where)
    files = _Files(metadata)

    def close() -> None:
        files.close()
        location.close()

    try:
        return _decode(metadata, files, location.where, close)
    except BaseException:
        close()
        raise


def _decode(location: Location, files: _Files, where: str, close: Callable[[], None]) -> State:
    source = location.source
    if source.size > MAX_METADATA:
        raise UnsafeError(f"{METADATA} of {source.size:,} bytes is over the limit", where=where)
    told = read_metadata(source.read(0, source.size), location.where)
    leaves: dict[str, Any] = {}
    lazy: dict[int, Callable[[], None]] = {}
    parts: dict[int, int] = {}
    for name in told.order:
        if name in told.tensors:
            tensor, items = _tensor(name, told.tensors[name], files, where)
            leaves[name] = tensor
            lazy[id(tensor)] = partial(_check, items)
            parts[id(tensor)] = len(items)
            continue
        archive = read_archive(files.window(name, told.objects[name]), f"{where}: {name:.60}")
        files.opened.append(archive.close)
        leaves[name] = archive.unpickled.value
    maker = Tensors(where, files.size)
    nested = nest_pickled(_nested(leaves, told.paths), maker.look, where, source.size)
    checks = {name: lazy.get(id(t), maker.checks.get(id(t))) for name, t in nested.tensors.items()}
    chunks = {name: parts.get(id(tensor), 1) for name, tensor in nested.tensors.items()}
    return State(
        nested.tensors,
        skeleton=nested.skeleton,
        checks={name: check for name, check in checks.items() if check is not None},
        remarks={name: f"in {count:,} chunks" for name, count in chunks.items() if count > 1},
        refused=(*nested.refused, *(f"its metadata would need {name}" for name in told.refused)),
        format="torch-distributed",
        where=where,
        close=close,
    )


class _Files:
    """The files that .metadata names, each opened once; none outside of its folder."""

    def __init__(self, metadata: Location) -> None:
        self.metadata = metadata
        self.opened: list[Callable[[], None]] = []
        self._found: dict[str, Location] = {}

    @property
    def size(self) -> int:
        """The bytes of all files that were opened."""
        return sum(found.source.size for found in self._found.values())

    def window(self, name: str, place: Place) -> Source:
        """Give the bytes of an item.

        Raises:
            UnsafeError: the file is not inside the folder.
            MissingError: it is not there.
            CorruptError: it is shorter than that.
        """
        found = self._found.get(place.file)
        if found is None:
            found = self._found[place.file] = self.metadata.sibling(place.file)
        size = found.source.size
        if place.offset + place.length > size:
            raise CorruptError(
                f"{name!r:.60} lies at bytes {place.offset:,} to {place.offset + place.length:,} "
                f"of {place.file:.60}, which has {size:,}",
                where=self.metadata.where,
                cure="A file is cut short, or they belong to different saves.",
            )
        return Window(found.source, place.offset, place.length)

    def close(self) -> None:
        for close in self.opened:
            close()
        for found in self._found.values():
            found.close()
        self.metadata.close()


class _Item(Source):
    """The canonical bytes of a chunk, in an archive that is opened when they are first read."""

    __slots__ = ("_inner", "_kind", "_name", "_shape", "_tensor", "check")

    def __init__(self, inner: Source, kind: DType, shape: tuple[int, ...], name: str) -> None:
        super().__init__(kind.nbytes(count_of(shape)), inner.where)
        self._inner = inner
        self._kind = kind
        self._shape = shape
        self._name = name
        self._tensor: Tensor | None = None
        self.check: Callable[[], None] | None = None

    @property
    def mapped(self) -> bool:
        return self._inner.mapped

    def open(self) -> Tensor:
        """Give the tensor in the archive.

        Raises:
            CorruptError: it is another than .metadata says.
        """
        if self._tensor is None:
            maker = Tensors(self.where, self._inner.size)
            value = read_archive(self._inner, f"{self.where}: {self._name:.60}").unpickled.value
            found = maker.look(value, "")
            if type(found) is not Tensor or (found.dtype, found.shape) != (self._kind, self._shape):
                raise CorruptError(
                    f"{self._name!r:.60} should be {self._kind} of shape {self._shape}, but its "
                    f"file holds {found!r:.80}",
                    where=self.where,
                    cure="The files belong to different saves.",
                )
            self.check = maker.checks.get(id(found))
            self._tensor = found
        return self._tensor

    def _read(self, start: int, stop: int) -> memoryview:
        if start == stop:
            return memoryview(b"")
        tensor = self.open()
        return tensor.source.read(tensor.offset + start, tensor.offset + stop)

    def _readinto(self, start: int, buffer: memoryview) -> None:
        tensor = self.open()
        tensor.source.readinto(tensor.offset + start, buffer)

    def _private(self, start: int, stop: int) -> memoryview:
        tensor = self.open()
        return tensor.source.private(tensor.offset + start, tensor.offset + stop)


def _check(items: list[_Item]) -> None:
    for item in items:
        item.open()
        if item.check is not None:
            item.check()


def _tensor(name: str, told: Whole, files: _Files, where: str) -> tuple[Tensor, list[_Item]]:
    """Make the tensor of chunks, and check that they are all of it."""
    kind = told.dtype
    check_cover(told.sizes, [(c.offsets, c.sizes) for c in told.chunks], name, where)
    boxes: list[Box] = []
    items: list[_Item] = []
    for chunk in told.chunks:
        shape = chunk.sizes
        if kind is FLOAT4_E2M1FN:  # the last axis counts pairs
            shape = (*shape[:-1], 2 * shape[-1])
        window, needed = files.window(name, chunk.place), kind.nbytes(count_of(shape))
        if needed > window.size:
            raise CorruptError(
                f"a chunk of {name!r:.60} of shape {shape} takes {needed:,} bytes, but is kept in "
                f"{window.size:,}",
                where=where,
                cure="Its metadata lie about sizes.",
            )
        if needed:
            items.append(_Item(window, kind, shape, name))
            boxes.append(Box(chunk.offsets, shape, Tensor(kind, shape, items[-1])))
    if not boxes:
        return Tensor(kind, told.shape, MemorySource(b"", where)), []
    if len(boxes) == 1:
        return boxes[0].tensor, items
    if kind.packed:
        raise UnsupportedError(f"{name!r:.60} is {kind} in several chunks", where=where)
    return gathered(kind, told.shape, boxes, where), items


def _nested(leaves: dict[str, Any], paths: dict[str, Path]) -> Any:
    """Put values where their paths lead; a flat dict of them where the paths make no nesting."""
    root: dict[Any, Any] = {}
    inner = {id(root)}
    for name, value in leaves.items():
        *outer, last = paths[name]
        node = root
        if len(outer) >= MAX_DEPTH:
            return leaves
        for part in outer:
            node = node.setdefault(part, {})
            if type(node) is not dict or (node and id(node) not in inner):
                return leaves
            inner.add(id(node))
        if last in node:
            return leaves
        node[last] = value
    return _with_lists(root, inner)


def _with_lists(node: Any, inner: set[int]) -> Any:
    """Make lists of the containers whose keys are the indices of one."""
    if id(node) not in inner:
        return node
    built = {key: _with_lists(child, inner) for key, child in node.items()}
    if (
        built
        and all(type(key) is int for key in built)
        and sorted(built) == list(range(len(built)))
    ):
        return [built[index] for index in range(len(built))]
    return built


FORMAT = Format(
    name="torch-distributed",
    suffixes=(),
    accepts=accepts,
    decode=decode,
    encode=None,
    holds=frozenset(DTYPES.values()) - {STRING},
    written_by="torch.distributed.checkpoint",
    checked_by="CRC-32 of each member",
    sharded="a file per rank",
    safe_by="pickle is read as data, by an allow list",
)
