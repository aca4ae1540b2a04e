"""Databases of samples: a record for each, a TensorProtos, under its number in ten digits."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tensorkeep import syscalls
from tensorkeep.data.dataset import Field
from tensorkeep.data.writing.fields import Fields, Value
from tensorkeep.data.writing.writer import File, Packed, Writer
from tensorkeep.database import Database
from tensorkeep.errors import ArgumentError, StoreError, TensorKeepError, UnsupportedError
from tensorkeep.hidden import failed_write, hidden, removal, sharing
from tensorkeep.wire.caffe2.encode_tensor import LONGEST_RECORD, varint
from tensorkeep.wire.caffe2.protos import encode_record

_MOST_FRAMES = 4096
_64_BITS = (1 << 64) - 1


class _Frame(NamedTuple):
    """What stands before and behind the values of a tensor."""

    before: bytes
    behind: bytes


class DatabaseWriter(Writer):
    """Samples to databases.

    Args:
        kind: the class of database.
        fields: what is known of the fields.
        durable: have databases on the disk when they are finished.
        options: what the database takes, such as `map_size`.
    """

    def __init__(
        self, kind: type[Database], fields: Mapping[str, Field], *, durable: bool, **options: Any
    ) -> None:
        super().__init__(Fields(fields), durable=durable)
        for option in options:
            if option not in kind.option_names:
                raise ArgumentError(
                    f"{kind.kind} has no option {option!r}",
                    cure=f"It has {', '.join(kind.option_names) or 'none'}.",
                )
        self._kind = kind
        self._options = options
        self._frames: dict[tuple[Any, ...], _Frame | None] = {}

    def pack(self, number: int, sample: Mapping[str, Any]) -> Packed:
        values = self.fields.take(number, sample)
        parts: list[Any] = []
        for name, value in values.items():
            try:
                self._encode(name, value, parts)
            except TensorKeepError as error:
                where = f"sample {number}, field {name!r}"
                raise type(error)(error.problem, where=where, cure=error.cure) from None
        data = b"".join(parts)
        if len(data) > LONGEST_RECORD:
            raise UnsupportedError(
                f"needs a record of {len(data):,} bytes; Caffe2 reads up to {LONGEST_RECORD:,}",
                where=f"sample {number}",
                cure="Make samples smaller: one record is one sample.",
            )
        return Packed(number, len(data), data)

    def begin(self, path: str) -> File:
        return _Records(self._kind, path, self._options, durable=self.durable)

    def _encode(self, name: str, value: Value, parts: list[Any]) -> None:
        """Add the message of a field; what those of alike values share is made once."""
        if isinstance(value, np.ndarray) and value.dtype != object:
            kin = name, value.dtype, value.shape
            frame = self._frames[kin] if kin in self._frames else self._frame(name, value)
            if frame is not None:
                parts += (frame.before, value, frame.behind)
                return
        elif isinstance(value, np.integer):
            digits = varint(int(value) & _64_BITS)
            kin = name, value.dtype, len(digits)
            frame = self._frames[kin] if kin in self._frames else self._around(name, value, digits)
            if frame is not None:
                parts += (frame.before, digits, frame.behind)
                return
        parts.append(encode_record({name: value}))  # type: ignore[dict-item]

    def _frame(self, name: str, array: Any) -> _Frame | None:
        """Find the bytes around the values of an array, where the values are kept as they are."""
        frame = None
        if array.nbytes and array.dtype != bool:
            flat = np.zeros(array.nbytes, np.uint8)
            zeros = encode_record({name: flat.view(array.dtype).reshape(array.shape)})
            flat[:] = 0x81
            ones = encode_record({name: flat.view(array.dtype).reshape(array.shape)})
            frame = _between(ones, flat.tobytes(), zeros)
        return self._keep((name, array.dtype, array.shape), frame)

    def _around(self, name: str, value: Any, digits: bytes) -> _Frame | None:
        """Find the bytes around a number, where it is kept as a varint."""
        message = encode_record({name: value})
        other = encode_record({name: value ^ value.dtype.type(1)})  # which has as many digits
        return self._keep((name, value.dtype, len(digits)), _between(message, digits, other))

    def _keep(self, kin: tuple[Any, ...], frame: _Frame | None) -> _Frame | None:
        if len(self._frames) >= _MOST_FRAMES:
            self._frames.clear()
        self._frames[kin] = frame
        return frame


def _between(message: bytes, data: bytes, other: bytes) -> _Frame | None:
    """Find the bytes around some data; None where it is not there, or others differ as well.

    Args:
        message: what may have it.
        data: what is looked for.
        other: a message like it whose data differs from its first byte on.
    """
    pairs = enumerate(zip(message, other, strict=False))
    start = next((i for i, (one, two) in pairs if one != two), len(message))
    stop = start + len(data)
    if (
        message[start:stop] == data
        and len(message) == len(other)
        and message[stop:] == other[stop:]
    ):
        return _Frame(message[:start], message[stop:])
    return None


class _Records(File):
    """A new database; one that replaces a folder is built beside it, and exchanged with it."""

    def __init__(
        self, kind: type[Database], path: str, options: Mapping[str, Any], *, durable: bool
    ) -> None:
        self._path = os.path.realpath(path)
        self._where = path
        self._durable = durable
        self._held = contextlib.ExitStack()
        self._hidden = ""
        try:
            if os.path.isdir(self._path) and os.listdir(self._path):
                self._make_way(kind)
            there = os.path.isdir(self._path) and not self._hidden  # an empty folder
            self._database = kind(self._hidden or path, "write" if there else "new", **options)
            self._database.where = path
            self._held.callback(self._database.close)
        except BaseException:
            self._held.close()
            raise

    def _make_way(self, kind: type[Database]) -> None:
        """Look whether what is there may be replaced, and choose a hidden place."""
        if not kind.recognises(self._path):
            raise StoreError(
                f"is a folder that holds no {kind.kind} database",
                where=self._where,
                cure="Remove it first, or give another name.",
            )
        try:
            self._folder = self._held.enter_context(sharing(os.path.dirname(self._path)))
        except OSError as error:
            raise failed_write(error, self._where) from error
        self._hidden = hidden(self._path)
        self._held.callback(removal(self._hidden))

    def add(self, packed: Packed) -> None:
        self._database.put(
            f"{packed.number:010d}", (packed.data,), size=packed.size, durable=self._durable
        )

    def finish(self) -> None:
        self._database.commit()
        self._database.close()
        if not self._hidden:
            return
        try:
            self._exchange()
            if self._durable:
                os.fsync(self._folder)
        except OSError as error:
            raise failed_write(error, self._where) from error

    def _exchange(self) -> None:
        try:
            syscalls.exchange(self._hidden, self._path)
        except OSError:  # a system or a filesystem without it: for an instant there is none
            aside = hidden(self._path)
            os.rename(self._path, aside)
            try:
                os.rename(self._hidden, self._path)
            except OSError:
                os.rename(aside, self._path)
                raise
            self._held.callback(removal(aside))

    def close(self) -> None:
        self._held.close()
