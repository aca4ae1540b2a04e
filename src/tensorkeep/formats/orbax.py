"""orbax: a folder that Orbax saved a nesting of arrays in; read here, through TensorStore.

    _METADATA             the nesting: for each leaf its keys, and what kind of value it is
    manifest.ocdbt, d/    the arrays, each a small zarr store, in one OCDBT database; or
    params.kernel/...     a folder for each array, named by its keys joined with dots
    _strings.json         the leaves that are text

A step of a CheckpointManager is a folder of such items, beside `_CHECKPOINT_METADATA`. Tuples come
back as lists, since Orbax does not tell them apart. Facts from orbax-checkpoint 0.12 and from what
it writes.
"""

from __future__ import annotations

import itertools
import math
import os
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tensorkeep import dtypes
from tensorkeep.dtypes import DTYPES, STRING, DType
from tensorkeep.errors import (
    ArgumentError,
    ClosedError,
    CorruptError,
    TensorKeepError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.format import Format
from tensorkeep.optional import require
from tensorkeep.source import Source
from tensorkeep.state import MAX_TENSORS, Json, State
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor
from tensorkeep.tree.leaves import Leaves, Path, mapping, scalar, skeleton_of
from tensorkeep.wire.elements import Packed, boxes
from tensorkeep.wire.text import parse_json, show

METADATA = "_METADATA"
STEP = "_CHECKPOINT_METADATA"
_STRINGS = "_strings.json"
_MANIFEST = "manifest.ocdbt"
_LOOK = 10_000  # files that are looked at for items
_MAX_DOCUMENT = 256 << 20
_SEQUENCE = 1  # the type of a key that is the number of an item
_EMPTY: dict[str, Json] = {"Dict": {}, "List": [], "Tuple": {"$tuple": []}}
_ENTRY = 16  # bytes that the table of a shard has for each chunk
_MANY, _FEW = 100_000, 1000  # chunks that any array may have; those that are read of more
_FREE, _RATIO, _SMALL = 1 << 30, 1000, 1 << 20  # declared bytes for stored ones; see _Folder.allow


def accepts(location: Location) -> bool:
    """A folder with Orbax's metadata in it, or a step with such folders."""
    if location.key:
        return False
    keys = location.store.keys
    if any(key == METADATA for key in keys(METADATA)):
        return True
    return any(key == STEP for key in keys(STEP)) and bool(_items(location))


def _items(location: Location) -> list[str]:
    """List the folders of a step that hold arrays."""
    looked = itertools.islice(location.store.keys(), _LOOK)
    found = [posixpath.split(key) for key in looked]
    return [folder for folder, name in found if name == METADATA and "/" not in folder]


def decode(location: Location) -> State:
    """Read the nesting, and the header of each array.

    Raises:
        MissingDependencyError: tensorstore is not installed.
        UnsupportedError: it is not in a folder of this machine.
        ArgumentError: a step of several items.
    """
    item = ""
    if not any(key == METADATA for key in location.store.keys(METADATA)):
        items = _items(location)
        if len(items) != 1:
            raise ArgumentError(
                f"is a step of {len(items)} items: {', '.join(items) or 'none'}",
                where=location.where,
                cure="Open the folder of one of them.",
            )
        item = items[0]
    tensorstore = require(
        "tensorstore",
        "a checkpoint of Orbax needs tensorstore",
        'Install it with: pip install "tensorkeep[orbax]".',
        location.where,
    )
    folder = _Folder(os.path.join(location.store.where, item), location.where, tensorstore)
    document = _read(location, posixpath.join(item, METADATA))
    rows = document.get("tree_metadata") if isinstance(document, dict) else None
    if not isinstance(rows, dict) or len(rows) > MAX_TENSORS:
        raise CorruptError(f"{METADATA} lists no values", where=location.where)
    ocdbt = document.get("use_ocdbt", os.path.exists(os.path.join(folder.path, _MANIFEST)))
    leaves = [_Leaf(row, location.where) for row in rows.values()]
    folder.open(
        {leaf.name: leaf for leaf in leaves if leaf.is_array},
        ocdbt=bool(ocdbt),
        driver="zarr3" if document.get("use_zarr3") else "zarr",
    )
    texts: Mapping[str, Any] = {}
    if any(leaf.kind == "string" for leaf in leaves):
        texts = _read(location, posixpath.join(item, _STRINGS))
    kept = Leaves()
    nesting = _Branch()
    for leaf in leaves:
        nesting.put(leaf, _node(leaf, folder, kept, texts), location.where)
    return State(
        kept.tensors,
        skeleton=skeleton_of(nesting.tree()),
        format="orbax",
        where=location.where,
        close=folder.close,
    )


def _read(location: Location, key: str) -> Any:
    place = Location(location.store, key)
    source = place.source
    try:
        if source.size > _MAX_DOCUMENT:
            raise UnsafeError(f"{source.size:,} bytes of metadata are over the limit", where=key)
        return parse_json(source.read(0, source.size), place.where, most=32 * MAX_TENSORS)
    finally:
        place.close()


def _node(leaf: _Leaf, folder: _Folder, kept: Leaves, texts: Mapping[str, Any]) -> Json:
    """Give the skeleton of a leaf; arrays are kept, scalars read."""
    if leaf.kind == "string":
        text = texts.get(leaf.name) if isinstance(texts, dict) else None
        if not isinstance(text, str):
            raise CorruptError(f"{_STRINGS} has no text for {leaf.name!r:.80}", where=folder.where)
        return scalar(text)
    if not leaf.is_array:
        return _EMPTY.get(leaf.kind)
    tensor = folder.tensor(leaf.name)
    if leaf.kind in ("scalar", "int", "float") and not tensor.shape and tensor.dtype in _PYTHONS:
        return scalar(tensor.numpy().item())
    return kept.keep(tensor, leaf.path)


_PYTHONS = {DTYPES[name] for name in ("bool", "int32", "int64", "uint32", "float32", "float64")}


class _Leaf:
    """A row of the metadata: the keys on the way to a value, and what kind of value it is."""

    def __init__(self, row: Any, where: str) -> None:
        match row:
            case {"key_metadata": list(keys), "value_metadata": {"value_type": str(kind)}}:
                value = row["value_metadata"]
            case _:
                raise CorruptError(f"{METADATA} describes a value by {show(row)}", where=where)
        path = []
        self.numbered = []
        for key in keys:
            match key:
                case {"key": str(text), "key_type": int(number)}:
                    path.append(text)
                    self.numbered.append(number == _SEQUENCE)
                case _:
                    raise CorruptError(f"{METADATA} has the key {show(key)}", where=where)
        self.path: Path = tuple(path)
        self.name = ".".join(path)
        self.kind = kind
        self.is_array = not value.get("skip_deserialize") and kind != "string" and kind != "None"
        parts = self.name.split("/")
        if self.is_array and ("\0" in self.name or any(part in ("", ".", "..") for part in parts)):
            raise UnsafeError(
                f"names the array {self.name[:60]!r}, which no folder may be", where=where
            )


class _Branch:
    """A dict or a list of the nesting, as its leaves tell it."""

    def __init__(self, numbered: bool = False) -> None:
        self.numbered = numbered
        self.children: dict[str, Any] = {}
        self.whole: tuple[Json] | None = None

    def put(self, leaf: _Leaf, node: Json, where: str) -> None:
        branch = self
        for i, part in enumerate(leaf.path):
            branch.numbered = leaf.numbered[i]
            if i == len(leaf.path) - 1:
                if part in branch.children:
                    raise CorruptError(f"{leaf.name!r:.80} is there twice", where=where)
                branch.children[part] = (node,)
                return
            branch = branch.children.setdefault(part, _Branch())
            if not isinstance(branch, _Branch):
                raise CorruptError(f"{leaf.name!r:.80} lies within a value", where=where)
        self.whole = (node,)  # a checkpoint of a single value

    def tree(self) -> Json:
        if self.whole is not None:
            return self.whole[0]
        children = {
            key: child.tree() if isinstance(child, _Branch) else child[0]
            for key, child in self.children.items()
        }
        if not self.numbered:
            return mapping(children.items())
        if set(children) == {str(i) for i in range(len(children))}:
            return [children[str(i)] for i in range(len(children))]
        return mapping(children.items())


class _Folder:
    """The arrays of a checkpoint, opened by TensorStore.

    Args:
        path: the folder.
        where: how messages name it.
        tensorstore: the library.
    """

    def __init__(self, path: str, where: str, tensorstore: Any) -> None:
        self.path = os.path.realpath(path)
        self.where = where
        self._library = tensorstore
        self._arrays: dict[str, Any] = {}
        self._kinds: dict[str, DType] = {}
        self._declared = 0
        if not os.path.isfile(os.path.join(self.path, METADATA)):
            raise UnsupportedError(
                "a checkpoint of Orbax is read from a folder of this machine only", where=where
            )
        self._stored = sum(self._sizes())

    def _sizes(self) -> Iterator[int]:
        """Give the size of each file; refuse links that lead out of the folder."""
        for folder, folders, names in os.walk(self.path):
            for name in (*folders, *names):
                path = os.path.join(folder, name)
                if os.path.islink(path):
                    real = os.path.realpath(path)
                    if os.path.commonpath([self.path, real]) != self.path:
                        raise UnsafeError(
                            f"is a link to {real}, outside its own folder", where=path
                        )
            yield from (os.lstat(os.path.join(folder, name)).st_size for name in names)

    def open(self, leaves: Mapping[str, _Leaf], *, ocdbt: bool, driver: str) -> None:
        """Open all arrays at once; their headers are read."""
        files: Any = {"driver": "file", "path": f"{self.path}/"}
        waiting = {}
        for name in leaves:
            store = (
                {"driver": "ocdbt", "base": files, "path": f"{name}/"}
                if ocdbt
                else {
                    "driver": "file",
                    "path": f"{self.path}/{name}/",
                }
            )
            spec = {"driver": driver, "kvstore": store}
            waiting[name] = self._library.open(spec, open=True, read=True)
        for name, future in waiting.items():
            array = self._asked(name, future.result)
            try:
                self._kinds[name] = dtypes.of_numpy(array.dtype.numpy_dtype)
            except (TensorKeepError, TypeError):
                self._kinds[name] = STRING
            if self._kinds[name] is STRING:
                raise UnsupportedError(
                    f"{name!r:.80} has the type {array.dtype.name}, which is not known here",
                    where=self.where,
                )
            self._check_chunks(name, array)
            self._arrays[name] = array
            self._declared += math.prod(array.shape) * self._kinds[name].numpy.itemsize

    def _check_chunks(self, name: str, array: Any) -> None:
        """Refuse chunks, or tables of shards, that TensorStore would make far too much room for."""
        chunk, shard = map(math.prod, _chunks(array))
        size = max(chunk * self._kinds[name].numpy.itemsize, _ENTRY * (shard // max(chunk, 1)))
        if size > self._most():
            raise UnsafeError(
                f"declares chunks of {size:,} bytes for {name!r:.80}, in {self._stored:,} bytes "
                "of files",
                where=self.where,
                cure="The checkpoint is damaged, or made to fill the memory.",
            )

    def _most(self) -> int:
        """Give how many bytes may be made room for."""
        return max(_FREE, _RATIO * self._stored)

    def _asked(self, name: str, call: Any) -> Any:
        try:
            return call()
        except Exception as error:  # TensorStore raises ValueError and others for the same
            text = str(error).split(" [source", 1)[0]
            if "NOT_FOUND" in text:
                text = "it is listed, but not there"
            raise CorruptError(
                f"{name!r:.80} cannot be read: {text:.300}", where=self.where
            ) from error

    def tensor(self, name: str) -> Tensor:
        """Give an array as a lazy tensor."""
        kind = self._kinds[name]
        shape = tuple(self._arrays[name].shape)
        source: Source = _Array(self, name, shape, kind)
        if kind.packed:
            source = Packed(source, 0, kind, math.prod(shape))
        return Tensor(kind, shape, source)

    def read(self, name: str, origin: tuple[int, ...], extent: tuple[int, ...]) -> Any:
        """Read a box of an array.

        Raises:
            ClosedError: the state was closed.
            UnsafeError: very many chunks are to be looked for, which are not stored.
        """
        if name not in self._arrays:
            raise ClosedError("was closed before this was read", where=self.where)
        box = tuple(slice(at, at + size) for at, size in zip(origin, extent, strict=True))
        array = self._arrays[name]
        steps = _chunks(array)[0]
        grid = math.prod(-(-size // step) for size, step in zip(array.shape, steps, strict=True))
        if grid > max(_MANY, self._stored):
            spans = zip(origin, extent, steps, strict=True)
            count = math.prod((at + size - 1) // step - at // step + 1 for at, size, step in spans)
            if count > _FEW:
                raise UnsafeError(
                    f"declares {grid:,} chunks of {name!r:.80} in {self._stored:,} bytes of files",
                    where=self.where,
                    cure="Read smaller slices of it; what was not written is zero.",
                )
        return self._asked(name, lambda: (array[box] if box else array).read().result())

    def allow(self, nbytes: int) -> None:
        """Refuse to make room for many bytes where arrays declare far more than is stored.

        Raises:
            UnsafeError: they do.
        """
        if nbytes > _SMALL and self._declared > self._most():
            raise UnsafeError(
                f"declares {self._declared:,} bytes of arrays in {self._stored:,} bytes of files",
                where=self.where,
                cure="Read slices of it; what was not written is zero.",
            )

    def close(self) -> None:
        """Read nothing more."""
        self._arrays.clear()


def _chunks(array: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give the sizes of what is read at once and of what is in a file; none of a scalar."""
    layout = array.chunk_layout
    return tuple(layout.read_chunk.shape or ()), tuple(layout.write_chunk.shape or ())


class _Array(Source):
    """The elements of an array in C order and little endian, each in whole bytes."""

    __slots__ = ("_folder", "_kind", "_name", "_shape")

    def __init__(self, folder: _Folder, name: str, shape: tuple[int, ...], kind: DType) -> None:
        super().__init__(math.prod(shape) * kind.numpy.itemsize, f"{folder.where}: {name}")
        self._folder, self._name, self._shape, self._kind = folder, name, shape, kind

    def reach(self, start: int, stop: int) -> None:
        self._folder.allow(stop - start)

    def _read(self, start: int, stop: int) -> memoryview:
        if start == stop:
            return memoryview(b"")
        width = self._kind.numpy.itemsize
        first, last = start // width, -(-stop // width)
        self._folder.allow((last - first) * width)
        out = np.empty(last - first, self._kind.numpy)
        done = 0
        for origin, extent in boxes(self._shape, first, last):
            count = math.prod(extent)
            part = np.asarray(self._folder.read(self._name, origin, extent))
            out[done : done + count] = part.reshape(-1)
            done += count
        data = out.view(np.uint8).data
        return data[start - first * width :][: stop - start].toreadonly()


FORMAT = Format(
    name="orbax",
    suffixes=(),
    accepts=accepts,
    decode=decode,
    encode=None,
    holds=frozenset(DTYPES.values()) - {STRING},
    written_by="orbax.checkpoint",
    extra="orbax",
    packed="as TensorStore has it",
    sharded="chunks",
    safe_by="TensorStore reads it; links are contained",
)
