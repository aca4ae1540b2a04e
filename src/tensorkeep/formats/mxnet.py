"""mxnet: the `.params` files of Apache MXNet, as `mx.nd.save` and Gluon's `save_parameters` write.

    uint64 0x112, uint64 0              the magic number and what is reserved
    uint64 COUNT, COUNT arrays
    uint64 COUNT, COUNT names           each a uint64 length and that many bytes; or no names at all

An array of today begins with F993FAC9 (FACA where zero-size shapes mean what they do in NumPy), and
goes on with how it is stored (int32: 0 dense, 1 row_sparse, 2 csr), for sparse ones the shape of
the stored values, its shape (uint32 number of axes, int64 sizes), the device (two int32), the type
(int32), for sparse ones type and shape of each array of indices, then the values and the indices.
Before there was F993FAC8, without sparse storage; and before that an array began with the number
of its axes, and sizes were uint32. An array without axes (FACA: without a number of them) is none,
and ends behind its shape.

All numbers are little endian; there is no checksum. Names are kept as they are, so that those of
a Module begin with `arg:` or `aux:`. A sparse array becomes its parts: `NAME.data`, `NAME.indices`
and, for csr, `NAME.indptr`. Facts: ndarray.cc of MXNet 1.9.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tensorkeep.dtypes import DTYPES, DType
from tensorkeep.errors import CorruptError, UnsafeError, UnsupportedError
from tensorkeep.format import Format
from tensorkeep.source import Source
from tensorkeep.state import MAX_NAME, MAX_TENSORS, Json, State
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor

MAGIC = (0x112).to_bytes(8, "little") + bytes(8)

_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_MAX_AXES = 32
_TYPES = (
    *("float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool"),
    *("int16", "uint16", "uint32", "uint64", "bfloat16"),
)
# How an array is stored: what it is called, and the names of its arrays of indices.
_STORAGE: dict[int, tuple[str, tuple[str, ...]]] = {
    -1: ("undefined", ()),
    0: ("dense", ()),
    1: ("row_sparse", ("indices",)),
    2: ("csr", ("indptr", "indices")),
}
_AHEAD = 512  # bytes to read at once: more than the head of an array takes

Shape = tuple[int, ...]


@dataclass
class _Array:
    """An array: its parts by name (one without a name where it is dense), none or several."""

    parts: list[tuple[str, Tensor]] = field(default_factory=list)
    storage: str = "dense"
    shape: Shape = ()


class _Reader:
    """Reads one thing after the other from a source."""

    def __init__(self, source: Source) -> None:
        self.source, self.where = source, source.where
        self.at = 0
        self._base, self._data = 0, memoryview(b"")

    def take(self, size: int) -> bytes:
        """Give the next bytes, few at a time: what follows an array is often near it."""
        start, stop = self.at, self.at + size
        if stop > self.source.size:
            raise CorruptError(
                f"ends at byte {self.source.size}, within what starts at byte {start}",
                where=self.where,
                cure="The file is cut short; use another copy.",
            )
        if not self._base <= start <= stop <= self._base + self._data.nbytes:
            ahead = min(self.source.size, max(stop, start + _AHEAD))
            self._base, self._data = start, self.source.read(start, ahead)
        self.at = stop
        return bytes(self._data[start - self._base : stop - self._base])

    def number(self, width: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(width), "little", signed=signed)

    def count(self, what: str, least: int) -> int:
        """Read how many there are of what takes at least so many bytes each."""
        count = self.number(8)
        if count > MAX_TENSORS:
            raise UnsafeError(f"is said to hold {count:,} {what}", where=self.where)
        if count * least > self.source.size - self.at:
            raise CorruptError(
                f"is said to hold {count:,} {what}, which do not fit", where=self.where
            )
        return count

    def shape(self, axes: int, width: int = 8) -> Shape:
        if not 0 <= axes <= _MAX_AXES:
            raise CorruptError(f"an array has {axes:,} axes", where=self.where)
        sizes = tuple(self.number(width, signed=width == 8) for _ in range(axes))
        if any(size < 0 for size in sizes):
            raise CorruptError(f"an array has shape {sizes}", where=self.where)
        return sizes

    def tensor(self, kind: DType, shape: Shape) -> Tensor:
        """Give the tensor that starts here, and go on behind it."""
        tensor = Tensor(kind, shape, self.source, self.at)
        self.at += tensor.nbytes
        return tensor


def accepts(location: Location) -> bool:
    """The magic number, and the zeros behind it."""
    return location.head.startswith(MAGIC)


def decode(location: Location) -> State:
    """Read the heads of the arrays, which lie between their values, and the names behind them."""
    source, where = location.source, location.where
    reader = _Reader(source)
    if reader.take(len(MAGIC)) != MAGIC:
        raise CorruptError("does not start as MXNet's files do", where=where)
    arrays = [_read_array(reader) for _ in range(reader.count("arrays", 4))]
    names = _read_names(reader)
    if reader.at != source.size:
        raise CorruptError(f"{source.size - reader.at:,} bytes follow the last name", where=where)
    if names and len(names) != len(arrays):
        raise CorruptError(f"{len(names):,} names are given to {len(arrays):,} arrays", where=where)
    named = names or [str(place) for place in range(len(arrays))]
    tensors: dict[str, Tensor] = {}
    about: dict[str, Json] = {}
    for name, array in zip(named, arrays, strict=True):
        for part, tensor in array.parts:
            full = f"{name}.{part}" if part else name
            if full in tensors:
                raise CorruptError(f"holds the array {full!r} twice", where=where)
            tensors[full] = tensor
    sparse: dict[str, Json] = {
        name: {"storage": array.storage, "shape": list(array.shape)}
        for name, array in zip(named, arrays, strict=True)
        if array.storage != "dense" and array.parts
    }
    none: list[Json] = [n for n, array in zip(named, arrays, strict=True) if not array.parts]
    if sparse:
        about["sparse"] = sparse
    if none:
        about["none"] = none
    # A list of dense arrays comes back as a list; with gaps or parts in it, by name.
    listed = not names and not sparse and not none and bool(arrays)
    return State(
        tensors,
        metadata={"mxnet": about} if about else {},
        skeleton={"tree": ["$"] * len(arrays)} if listed else None,
        format="mxnet",
        where=where,
        close=location.close,
    )


def _read_names(reader: _Reader) -> list[str]:
    names = []
    for _ in range(reader.count("names", 8)):
        size = reader.number(8)
        if size > MAX_NAME:
            raise UnsafeError(f"a name of {size:,} bytes is over the limit", where=reader.where)
        names.append(reader.take(size).decode("utf-8", "surrogateescape"))
    return names


def _read_array(reader: _Reader) -> _Array:
    magic = reader.number(4)
    if magic not in (_V2, _V3):
        return _read_old(reader, magic)
    number = reader.number(4, signed=True)
    if number not in _STORAGE:
        raise CorruptError(f"an array is stored in way {number}", where=reader.where)
    storage, indices = _STORAGE[number]
    stored = reader.shape(reader.number(4)) if indices else ()
    axes = reader.number(4, signed=True)
    if (axes < 0 and magic == _V3) or (axes == 0 and magic == _V2):
        return _Array()
    array = _Array([], storage, reader.shape(axes))
    kind = _device_and_type(reader)
    rows = [(_type(reader), reader.shape(reader.number(4))) for _ in indices]
    if not indices:
        array.parts.append(("", reader.tensor(kind, array.shape)))
        return array
    array.parts.append(("data", reader.tensor(kind, stored)))
    for name, (row, shape) in zip(indices, rows, strict=True):
        array.parts.append((name, reader.tensor(row, shape)))
    return array


def _read_old(reader: _Reader, magic: int) -> _Array:
    shape = reader.shape(reader.number(4)) if magic == _V1 else reader.shape(magic, 4)
    if not shape:
        return _Array()
    kind = _device_and_type(reader)
    return _Array([("", reader.tensor(kind, shape))], "dense", shape)


def _device_and_type(reader: _Reader) -> DType:
    reader.take(8)  # the device it was on, which says nothing of where it is to go
    return _type(reader)


def _type(reader: _Reader) -> DType:
    number = reader.number(4, signed=True)
    if not 0 <= number < len(_TYPES):
        raise UnsupportedError(
            f"an array has type {number}; those known are 0 to {len(_TYPES) - 1}",
            where=reader.where,
        )
    return DTYPES[_TYPES[number]]


FORMAT = Format(
    name="mxnet",
    suffixes=(".params",),
    accepts=accepts,
    decode=decode,
    encode=None,
    holds=frozenset(DTYPES[name] for name in _TYPES),
    written_by="Apache MXNet",
)
