"""Databases of samples: a record for each, a TensorProtos, under its number in ten digits."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tensorkeep import syscalls
from tensorkeep.data.dataset import Field
from tensorkeep.data.writing.fields import Fields, Value, encoded
from tensorkeep.data.writing.writer import File, Packed, Writer
from tensorkeep.database import Database
from tensorkeep.errors import ArgumentError, StoreError, TensorKeepError, UnsupportedError
from tensorkeep.hidden import failed_write, hidden, removal, sharing
from tensorkeep.wire.caffe2.encode_tensor import LONGEST_RECORD, varint
from tensorkeep.wire.caffe2.protos import encode_record

_MOST_FRAMES = 4096
_64_BITS = (1 << 64) - 1
_LONG = 1024  # characters of a text of whose length there are few others


class _Frame(NamedTuple):
    """What stands before and behind the values of a tensor."""

    before: bytes
    behind: bytes


_UNKNOWN = _Frame(b"", b"")


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
        kin: tuple[Any, ...]
        data: Any = value
        if isinstance(value, np.integer):
            data = varint(int(value) & _64_BITS)
            kin = name, value.dtype, len(data)
        elif isinstance(value, np.ndarray | np.generic) and value.dtype != object:
            kin = name, value.dtype, value.shape
        elif isinstance(value, str | bytes) and 0 < len(value) < _LONG:
            data = encoded(value)
            kin = name, str, len(data)
        else:
            parts.append(encode_record({name: value}))  # type: ignore[dict-item]
            return
        frame = self._frames.get(kin, _UNKNOWN)
        if frame is _UNKNOWN:
            if len(self._frames) >= _MOST_FRAMES:
                self._frames.clear()
            frame = self._frames[kin] = _frame(name, value, data)
        if frame is None:
            parts.append(encode_record({name: value}))
        else:
            parts += (frame.before, data, frame.behind)


def _frame(name: str, value: Any, data: Any) -> _Frame | None:
    """Find what stands around the data of a value, where that is kept as it is."""
    if isinstance(value, str | bytes):
        other: Any = bytes((data[0] ^ 1,)) + data[1:]
    elif isinstance(value, np.integer):
        other = value ^ value.dtype.type(1)  # which has as many digits
    elif value.nbytes and value.dtype != bool:
        flat = np.zeros(value.nbytes, np.uint8)
        other = flat.view(value.dtype).reshape(value.shape)
        data = bytes((0x81,)) * value.nbytes
        value = np.frombuffer(data, value.dtype).reshape(value.shape)
    else:
        return None
    return _between(encode_record({name: value}), data, encode_record({name: other}))


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
