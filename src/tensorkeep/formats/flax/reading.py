"""From msgpack to a state."""

from __future__ import annotations

import base64
from typing import Any

from tensorkeep.dtypes import DTYPES, STRING, UINT8, DType, count_of
from tensorkeep.errors import CorruptError, UnsupportedError
from tensorkeep.notes import is_shape
from tensorkeep.source import Source
from tensorkeep.state import Json, State
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor
from tensorkeep.tree.leaves import Leaves, Path, mapping, part_of, scalar, skeleton_of
from tensorkeep.wire.elements import Joined, Packed, wide_nbytes
from tensorkeep.wire.msgpack import Extension, Span, Walk
from tensorkeep.wire.text import show

ARRAY, COMPLEX, SCALAR = 1, 2, 3
CHUNKED = "__msgpack_chunked_array__"
_INLINE_BYTES = 1024


def decode_file(location: Location) -> State:
    """Walk a file; its arrays are windows on it."""
    source = location.source
    leaves = Leaves()
    tree = Reading(source, leaves).node(Walk(source).whole(), ())
    return State(
        leaves.tensors,
        skeleton=skeleton_of(tree),
        format="flax",
        where=location.where,
        close=location.close,
    )


class Reading:
    """Turns what a walk gives into a skeleton and tensors.

    Args:
        source: what was walked.
        leaves: where to keep the tensors.
    """

    def __init__(self, source: Source, leaves: Leaves) -> None:
        self._source = source
        self._leaves = leaves

    def node(self, value: Any, path: Path) -> Json:
        """Give the skeleton of a value, and keep its arrays."""
        match value:
            case dict() if CHUNKED in value:
                return self._leaves.keep(self._joined(value, path), path)
            case dict():
                return mapping(
                    (key, self.node(child, (*path, part_of(key)))) for key, child in value.items()
                )
            case list():
                return [self.node(child, (*path, str(i))) for i, child in enumerate(value)]
            case Extension(code=code) if code in (ARRAY, SCALAR):
                tensor = self._array(value, path)
                if code == SCALAR and tensor.shape:
                    raise self._wrong(path, f"is a scalar of shape {tensor.shape}")
                leaf = self._leaves.keep(tensor, path)
                return leaf if code == ARRAY else {"$scalar": leaf}
            case Extension(code=code) if code == COMPLEX:
                return scalar(self._complex(value, path))
            case Extension():
                raise UnsupportedError(
                    f"{_place(path)} is of msgpack's extension type {value.code}, "
                    "which is none of Flax's",
                    where=self._source.where,
                )
            case Span():
                return {"$bytes": self._raw(value, path)}
        return scalar(value)

    def _raw(self, span: Span, path: Path) -> str:
        if span.stop - span.start <= _INLINE_BYTES:
            return base64.b64encode(self._source.read(span.start, span.stop)).decode()
        size = span.stop - span.start
        return self._leaves.keep(Tensor(UINT8, (size,), self._source, span.start), path)

    def _array(self, found: Extension, path: Path) -> Tensor:
        walk = Walk(self._source, found.start, found.stop, most=100)
        match walk.whole():
            case [list(shape), name, Span(start=start, stop=stop)] if is_shape(shape):
                kind = self._dtype(name, path)
            case _:
                raise self._wrong(path, "is not a shape, a dtype and bytes")
        count = count_of(tuple(shape))
        if stop - start != wide_nbytes(kind, count):
            raise self._wrong(
                path,
                f"has {stop - start:,} bytes, not the {wide_nbytes(kind, count):,} that {kind} "
                f"of shape {tuple(shape)} takes",
            )
        if kind.packed:
            return Tensor(kind, tuple(shape), Packed(self._source, start, kind, count))
        return Tensor(kind, tuple(shape), self._source, start, stop - start)

    def _dtype(self, name: Any, path: Path) -> DType:
        if isinstance(name, Span):  # what older versions wrote
            name = bytes(self._source.read(name.start, min(name.stop, name.start + 64)))
            name = name.decode("latin-1")
        kind = DTYPES.get(name) if isinstance(name, str) else None
        if kind is None or kind is STRING:
            raise UnsupportedError(
                f"{_place(path)} has the dtype {show(name)}, which is not known here",
                where=self._source.where,
            )
        return kind

    def _complex(self, found: Extension, path: Path) -> complex:
        match Walk(self._source, found.start, found.stop, most=100).whole():
            case [float(real), float(imag)]:
                return complex(real, imag)
        raise self._wrong(path, "is not the two parts of a complex number")

    def _joined(self, value: dict[Any, Any], path: Path) -> Tensor:
        shape = self._listed(value.get("shape"), path)
        chunks = [
            self._array(chunk, path) if isinstance(chunk, Extension) else None
            for chunk in self._listed(value.get("chunks"), path)
        ]
        first = chunks[0] if chunks else None
        if first is None or not is_shape(shape):
            raise self._wrong(path, "is chunked, but has no chunks or no shape")
        parts: list[tuple[Source, int, int]] = []
        size = 0
        for chunk in chunks:
            if chunk is None or chunk.dtype is not first.dtype or chunk.ndim != 1:
                raise self._wrong(path, f"has chunks that are not all flat arrays of {first.dtype}")
            if first.dtype.packed and size * first.dtype.bits % 8:
                raise UnsupportedError(
                    f"{_place(path)} has chunks of {first.dtype} that end within a byte",
                    where=self._source.where,
                )
            parts.append((chunk.source, chunk.offset, chunk.offset + chunk.nbytes))
            size += chunk.size
        if size != count_of(tuple(shape)):
            raise self._wrong(path, f"has chunks of {size:,} elements for the shape {shape}")
        return Tensor(first.dtype, tuple(shape), Joined(parts, self._source.where))

    def _listed(self, value: Any, path: Path) -> list[Any]:
        """Read a list as Flax writes one: a map of "0", "1", ..."""
        if isinstance(value, dict) and all(str(i) in value for i in range(len(value))):
            return [value[str(i)] for i in range(len(value))]
        raise self._wrong(path, "is chunked, but its shape or chunks are not numbered")

    def _wrong(self, path: Path, problem: str) -> CorruptError:
        return CorruptError(f"{_place(path)} {problem}", where=self._source.where)


def _place(path: Path) -> str:
    return repr(".".join(path))[:80] if path else "the value"
