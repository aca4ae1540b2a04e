"""Files of arrays: each field one array, whose first axis counts the samples.

Samples come row by row, and files have one field after the other. So each field is collected in a
file without a name beside the target, which is gone with the process, and the state of all of them
is saved at the end: memory stays flat, the disk holds the data twice meanwhile.
"""

from __future__ import annotations

import contextlib
import inspect
import mmap
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from tensorkeep import api, dtypes, quantized, syscalls
from tensorkeep.data.dataset import Field
from tensorkeep.data.writing.fields import Fields, Value, encoded, size_of_value
from tensorkeep.data.writing.writer import File, Packed, Writer
from tensorkeep.errors import ArgumentError, LossError, MissingError, UnsupportedError
from tensorkeep.format import Format
from tensorkeep.hidden import failed_write
from tensorkeep.replacing import unnamed
from tensorkeep.source import MemorySource, Source
from tensorkeep.state import State
from tensorkeep.tensor import Tensor
from tensorkeep.tree import ROOT
from tensorkeep.wire.elements import Joined

_BUFFER = 1 << 20


class ColumnsWriter(Writer):
    """Samples to files of arrays.

    Args:
        chosen: their format.
        fields: what is known of the fields.
        durable: have files on the disk when they are finished.
        lossy: write even where the format cannot hold everything.
        options: what the format's `encode` takes.
    """

    def __init__(
        self,
        chosen: Format,
        fields: Mapping[str, Field],
        *,
        durable: bool,
        lossy: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(Fields(fields, alike=chosen.name), durable=durable)
        self._format = chosen
        self._options = {**options, "lossy": lossy}
        self._checked = False
        known = list(inspect.signature(chosen.encode).parameters)[2:] if chosen.encode else []
        for option in options:
            if option not in known or option == "max_shard_size":
                listed = ", ".join(name for name in known if name != "max_shard_size")
                raise ArgumentError(
                    f"{chosen.name} has no option {option!r} here",
                    cure=f"It has {listed or 'none'}; shard_size makes several files.",
                )

    def pack(self, number: int, sample: Mapping[str, Any]) -> Packed:
        values = self.fields.take(number, sample)
        if not self._checked:
            self._check(number, values)
        size = sum(map(size_of_value, values.values()))
        return Packed(number, size, values)

    def begin(self, path: str) -> File:
        return _Columns(self._format, path, self.fields.known, self._options, durable=self.durable)

    def _check(self, number: int, values: Mapping[str, Value]) -> None:
        """Refuse what the format cannot hold now, and not when all samples have come."""
        for name, value in values.items():
            if isinstance(value, bytes) and not self._options["lossy"]:
                raise UnsupportedError(
                    f"has bytes, which {self._format.name} would give back as text",
                    where=f"sample {number}, field {name!r}",
                    cure="Decode it, write to a .tar, or accept that with lossy=True.",
                )
        rows = {name: Tensor.of(np.asarray(value)[None]) for name, value in values.items()}
        state = _state(rows, self._format)
        lost = [
            *self._format.losses(state),
            *quantized.told(state, self._format.holds, self._format.name),
        ]
        if lost and not self._options["lossy"]:
            raise LossError(
                f"{self._format.name} cannot hold all fields: {'; '.join(lost)}",
                where=f"sample {number}",
                cure="Choose another format, or accept it with lossy=True.",
            )
        self._checked = True


def _state(tensors: Mapping[str, Tensor], chosen: Format) -> State:
    if chosen.name == "npy" and len(tensors) == 1:  # which has no place for a name
        return State({ROOT: next(iter(tensors.values()))}, skeleton={"tree": "$"})
    return State(tensors, where="the samples to write")


class _Columns(File):
    def __init__(
        self,
        chosen: Format,
        path: str,
        fields: Mapping[str, Field],
        options: Mapping[str, Any],
        *,
        durable: bool,
    ) -> None:
        self._format = chosen
        self._path = path
        self._options = options
        self._durable = durable
        self._count = 0
        self._held = contextlib.ExitStack()
        folder = os.path.dirname(os.path.realpath(path))
        if not os.path.isdir(folder):
            raise MissingError(
                "the folder to save in does not exist", where=folder, cure="Create it first."
            )
        try:
            self._columns = {name: self._column(field) for name, field in fields.items()}
        except OSError as error:
            self._held.close()
            raise failed_write(error, path) from error

    def _column(self, field: Field) -> _Numbers | _Texts:
        shape = field.shape or ()
        if field.dtype in ("string", ""):  # nothing but bytes has no dtype here
            return _Texts(shape, self._spool(), self._spool())
        return _Numbers(field.dtype, shape, self._spool())

    def _spool(self) -> BinaryIO:
        return self._held.enter_context(open(unnamed(self._path), "w+b", buffering=_BUFFER))

    def add(self, packed: Packed) -> None:
        try:
            for name, value in packed.data.items():
                self._columns[name].add(value)
        except OSError as error:
            raise failed_write(error, self._path) from error
        self._count += 1

    def finish(self) -> None:
        try:
            tensors = {
                name: column.tensor(self._count, self._path)
                for name, column in self._columns.items()
            }
        except OSError as error:
            raise failed_write(error, self._path) from error
        api.save(
            _state(tensors, self._format),
            self._path,
            format=self._format.name,
            durable=self._durable,
            **self._options,
        )

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what waits on a full disk is not needed
            self._held.close()


class _Numbers:
    """The values of one field, one sample behind the other."""

    def __init__(self, dtype: str, shape: tuple[int, ...], spool: BinaryIO) -> None:
        self._kind = dtypes.DTYPES[dtype]
        self._shape = shape
        self._spool = spool
        self._plain = self._kind.numpy.kind in "biufc"  # other types have no buffers of their own

    def add(self, value: Any) -> None:
        self._spool.write(value if self._plain else value.reshape(-1).view(np.uint8).data)

    def tensor(self, count: int, where: str) -> Tensor:
        shape, source = (count, *self._shape), _mapped(self._spool, where)
        if self._kind.packed:  # which lie a byte each here
            flat = np.frombuffer(source.read(0, source.size), np.uint8)
            return Tensor.of(flat.view(self._kind.numpy).reshape(shape), where)
        return Tensor(self._kind, shape, source)


class _Texts:
    """The texts of one field: where they end, and one behind the other."""

    def __init__(self, shape: tuple[int, ...], ends: BinaryIO, spool: BinaryIO) -> None:
        self._shape = shape
        self._ends = ends
        self._spool = spool
        self._end = 0
        ends.write(bytes(8))

    def add(self, value: Any) -> None:
        for text in value.reshape(-1) if isinstance(value, np.ndarray) else (value,):
            self._end += self._spool.write(encoded(text))
            self._ends.write(self._end.to_bytes(8, "little"))

    def tensor(self, count: int, where: str) -> Tensor:
        parts = [_mapped(spool, where) for spool in (self._ends, self._spool)]
        source = Joined([(part, 0, part.size) for part in parts], where)
        return Tensor(dtypes.STRING, (count, *self._shape), source, 0, source.size)


def _mapped(spool: BinaryIO, where: str) -> Source:
    spool.flush()
    size = os.fstat(spool.fileno()).st_size
    if not size:
        return MemorySource(b"", where)
    return _Spooled(memoryview(mmap.mmap(spool.fileno(), size, prot=mmap.PROT_READ)), where)


class _Spooled(MemorySource):
    """A map whose pages count as memory no longer than until the next piece is read."""

    __slots__ = ("_last",)

    def __init__(self, view: memoryview, where: str) -> None:
        super().__init__(view, where)
        self._last = view[:0]

    def _read(self, start: int, stop: int) -> memoryview:
        last, self._last = self._last, super()._read(start, stop)
        syscalls.let_go(last)
        return self._last
