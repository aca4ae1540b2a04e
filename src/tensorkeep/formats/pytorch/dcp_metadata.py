"""The .metadata of a torch distributed checkpoint: which tensors, in which chunks, and where.

It is a pickle of an object with three parts that matter: `state_dict_metadata` (name -> the shape,
type and chunks of a tensor, or a mark that it is a pickled object), `storage_data` (name and offset
of a chunk -> file, offset and length) and `planner_data` (name -> its place in the nesting). The
classes are torch's; here they are records of what was pickled, and nothing else is made.

Facts from torch 2.13's torch/distributed/checkpoint/metadata.py and filesystem.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from tensorkeep.dtypes import DTYPES, FLOAT4_E2M1FN, DType
from tensorkeep.errors import CorruptError, TensorKeepError, UnsafeError, UnsupportedError
from tensorkeep.notes import MAX_AXES
from tensorkeep.state import MAX_TENSORS
from tensorkeep.wire.pickle.machine import read_pickle
from tensorkeep.wire.pickle.plain import PLAIN
from tensorkeep.wire.pickle.values import Buildable, Known, Opaque, shown

MAX_METADATA = 1 << 30
MAX_CHUNKS = 4 * MAX_TENSORS
_MAX_ALIKE = 64

_PACKAGE = "torch.distributed.checkpoint"
_OLD_PROPERTIES = "torch.distributed._shard.sharded_tensor.metadata"  # where it was until torch 2.2
_PAIRS = "float4_e2m1fn_x2"

Index = tuple[str, tuple[int, ...] | None]


class Place(NamedTuple):
    """Where the bytes of a chunk or of an object lie."""

    file: str
    offset: int
    length: int


class Chunk(NamedTuple):
    """A box of a tensor: where it starts, its sizes, and where it lies."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Whole:
    """A tensor: its type and shape as ours, and its chunks in elements of torch's type."""

    dtype: DType
    shape: tuple[int, ...]
    sizes: tuple[int, ...]
    chunks: list[Chunk]


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the file says: tensors and objects by name, and the places of names in the nesting."""

    tensors: dict[str, Whole]
    objects: dict[str, Place]
    order: list[str]
    paths: dict[str, tuple[Any, ...]]
    refused: tuple[str, ...]


class _Record(Buildable):
    """An object of one of torch's classes: the values that it was pickled with."""

    __slots__ = ("fields", "kind")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.fields: Any = {}

    def build(self, state: Any) -> None:
        self.fields = state

    def field(self, name: str) -> Any:
        if not isinstance(self.fields, dict):
            raise TypeError(f"a {self.kind} has no fields")
        return self.fields.get(name)


def _record(kind: str, *args: Any) -> _Record:
    return _Record(kind)


def _size(axes: Any = ()) -> tuple[Any, ...]:
    return tuple(axes)


def _told(*args: Any) -> str:
    """Stand for what is named and of no meaning here: layouts, memory formats, paths."""
    return " ".join(arg for arg in args if type(arg) is str)[:1000]


def _allowed() -> dict[tuple[str, str], Callable[..., Any]]:
    records = {
        f"{_PACKAGE}.metadata": (
            "Metadata",
            "TensorStorageMetadata",
            "BytesStorageMetadata",
            "TensorProperties",
            "ChunkStorageMetadata",
            "MetadataIndex",
            "StorageMeta",
        ),
        f"{_PACKAGE}.filesystem": ("_StorageInfo", "_StoragePrefix"),
        _OLD_PROPERTIES: ("TensorProperties",),
    }
    names: dict[tuple[str, str], Callable[..., Any]] = dict(PLAIN)
    for module, kinds in records.items():
        names.update({(module, kind): partial(_record, kind) for kind in kinds})
    for module in (f"{_PACKAGE}.metadata", _OLD_PROPERTIES):
        names[module, "_MEM_FORMAT_ENCODING"] = _told
        names[module, "MEM_FORMAT_ENCODING"] = _told
    for module in ("pathlib", "pathlib._local"):
        for kind in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"):
            names[module, kind] = _told
    names["torch.serialization", "_get_layout"] = _told
    names["torch", "Size"] = _size
    names.update({("torch", name): _told for name in (*DTYPES, "complex32", _PAIRS)})
    return names


_ALLOWED = _allowed()


def read_metadata(data: memoryview, where: str) -> Metadata:
    """Read a .metadata file.

    Raises:
        CorruptError: it is damaged, or says what cannot be.
        UnsafeError: it would run code for what has to be known, or is made to exhaust its reader.
        UnsupportedError: it is a checkpoint of a kind that is not read here.
    """
    found = read_pickle(data, where, allowed=_ALLOWED)
    root = found.value
    if not isinstance(root, _Record) or root.kind != "Metadata":
        if found.refused:
            raise UnsafeError(
                f"its pickle is no checkpoint's metadata; it would run {', '.join(found.refused)}",
                where=where,
                cure="Do not trust it.",
            )
        raise CorruptError("its pickle is not a checkpoint's metadata", where=where)
    try:
        return _parse(root, found.refused, where)
    except TensorKeepError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        raise CorruptError(f"its metadata are broken: {error}", where=where) from None


def _parse(root: _Record, refused: tuple[str, ...], where: str) -> Metadata:
    rows = _mapping(root.field("state_dict_metadata"), "state_dict_metadata")
    if len(rows) > MAX_TENSORS:
        raise UnsafeError(f"it lists more than {MAX_TENSORS:,} tensors", where=where)
    places = dict(_places(_mapping(root.field("storage_data"), "storage_data"), where))
    tensors: dict[str, Whole] = {}
    objects: dict[str, Place] = {}
    for name, row in rows.items():
        if not isinstance(name, str) or not isinstance(row, _Record):
            raise TypeError(f"{shown(name)} is no name of a tensor or an object")
        if row.kind == "TensorStorageMetadata":
            tensors[name] = _whole(name, row, places, where)
        elif row.kind == "BytesStorageMetadata":
            if (name, None) not in places:
                raise CorruptError(f"does not say where {name!r:.60} lies", where=where)
            objects[name] = places[name, None]
        else:
            raise TypeError(f"{name!r:.60} is a {row.kind}")
    paths = _paths(root.field("planner_data"), list(rows))
    _refuse_alike(paths, where)
    return Metadata(tensors, objects, list(rows), paths, refused)


def _places(rows: Mapping[Any, Any], where: str) -> Iterator[tuple[Index, Place]]:
    for index, info in rows.items():
        if not isinstance(index, _Record) or not isinstance(info, _Record):
            raise TypeError("storage_data is not of places by index")
        name, offset = index.field("fqn"), index.field("offset")
        if type(name) is not str or not (offset is None or _is_axes(offset)):
            raise TypeError("an index is not a name and an offset")
        place = Place(*(info.field(part) for part in ("relative_path", "offset", "length")))
        if list(map(type, place)) != [str, int, int] or place.offset < 0 or place.length < 0:
            raise TypeError(f"{name!r:.60} lies at {', '.join(map(shown, place))}")
        if transforms := info.field("transform_descriptors"):
            some = transforms[:3] if type(transforms) is list else [transforms]
            raise UnsupportedError(
                f"keeps {name!r:.60} transformed by [{', '.join(map(shown, some))}], which is not "
                "read here",
                where=where,
                cure="Save it again with a writer that has no extensions.",
            )
        yield (name, offset), place


def _whole(name: str, row: _Record, places: Mapping[Index, Place], where: str) -> Whole:
    sizes, told = row.field("size"), _dtype(row.field("properties"))
    if not _is_axes(sizes):
        raise TypeError(f"{name!r:.60} has no shape")
    kind, shape = DTYPES.get(told), sizes
    if told == _PAIRS and sizes:
        kind, shape = FLOAT4_E2M1FN, (*sizes[:-1], 2 * sizes[-1])
    if kind is None:
        raise UnsupportedError(f"{name!r:.60} is a tensor of torch.{told}", where=where)
    chunks: dict[tuple[int, ...], Chunk] = {}
    listed = row.field("chunks")
    if type(listed) is not list or len(listed) > MAX_CHUNKS:
        raise TypeError(f"{name!r:.60} has no list of chunks")
    for chunk in listed:
        offsets, extent = chunk.field("offsets"), chunk.field("sizes")
        if not _is_axes(offsets) or not _is_axes(extent):
            raise TypeError(f"{name!r:.60} has a chunk that is no box")
        if not len(offsets) == len(extent) == len(sizes) or any(
            at + size > whole for at, size, whole in zip(offsets, extent, sizes, strict=True)
        ):
            raise CorruptError(
                f"{name!r:.60} of shape {sizes} has a chunk of {extent} at {offsets}", where=where
            )
        place = places.get((name, offsets))
        if place is None:
            raise CorruptError(
                f"does not say where the chunk of {name!r:.60} at {offsets} lies", where=where
            )
        if chunks.setdefault(offsets, Chunk(offsets, extent, place)).sizes != extent:
            raise CorruptError(f"{name!r:.60} has two chunks at {offsets}", where=where)
    return Whole(kind, shape, sizes, list(chunks.values()))


def _dtype(properties: Any) -> str:
    """Find the element type: the first of the values that the properties are pickled as."""
    if isinstance(properties, _Record):
        fields = properties.fields
        told = fields[0] if isinstance(fields, tuple) and fields else properties.field("dtype")
        if isinstance(told, Known | Opaque) and told.module == "torch":
            return told.name
    raise TypeError("a tensor has no element type")


def _is_axes(value: Any) -> bool:
    return (
        type(value) is tuple
        and len(value) <= MAX_AXES
        and all(type(n) is int and 0 <= n < 2**63 for n in value)
    )


def _mapping(value: Any, what: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{what} is not a dict")
    return value


def _paths(planned: Any, names: list[str]) -> dict[str, tuple[Any, ...]]:
    """Give the keys and indices that lead to each name; the name alone where nothing is said."""
    told = planned if isinstance(planned, dict) else {}
    return {name: _path(told.get(name)) or (name,) for name in names}


def _refuse_alike(paths: Mapping[str, tuple[Any, ...]], where: str) -> None:
    """Refuse keys of a nesting that were chosen to hash alike."""
    alike: dict[int, set[int]] = {}
    for path in paths.values():
        for part in path:
            if type(part) is int and not -(2**60) < part < 2**60:
                kept = alike.setdefault(hash(part), set())
                kept.add(part)
                if len(kept) > _MAX_ALIKE:
                    raise UnsafeError(
                        f"has over {_MAX_ALIKE} keys chosen to hash alike", where=where
                    )


def _path(value: Any) -> tuple[Any, ...] | None:
    if type(value) is tuple and all(type(part) in (str, int) for part in value):
        return value
    return None
