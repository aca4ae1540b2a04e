"""Tar archives of samples, as WebDataset has them: one file for each field of each sample.

    0000000017.image.npy   an array, as numpy.save writes it; a float or a bool too, without axes
    0000000017.label.cls   an integer, as decimal text
    0000000017.text.txt    text, in UTF-8
    0000000017.raw.bin     bytes
    0000000017.meta.json   a list or a dict

The headers are those of POSIX ustar, without times and owners, so that the same samples make the
same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tensorkeep.data.dataset import Field
from tensorkeep.data.members import MOST_SUFFIXES
from tensorkeep.data.writing.fields import Fields, Value
from tensorkeep.data.writing.writer import File, Packed, Writer
from tensorkeep.errors import ArgumentError, TensorKeepError, UnsupportedError
from tensorkeep.hidden import failed_write
from tensorkeep.replacing import Replacement
from tensorkeep.tensor import Tensor
from tensorkeep.wire.npy import content
from tensorkeep.wire.text import dump_json

_BLOCK = 512
_RECORD = 20 * _BLOCK  # a tape's, to whose multiple an archive is filled up
_TOGETHER = 1 << 20  # bytes that are collected before they are written
_LONGEST = 8 << 30  # what 11 octal digits tell
_MOST_HEADERS = 4096
_ENDING = re.compile("[A-Za-z0-9_-]{1,16}")
_ZEROS = [bytes(n) for n in range(_BLOCK)]


class TarWriter(Writer):
    """Samples to archives.

    Args:
        fields: what is known of the fields.
        durable: have archives on the disk when they are finished.
        endings: by field, what the files of its bytes or text end in, such as {"image": "jpg"};
            they are written as they are.
    """

    def __init__(
        self,
        fields: Mapping[str, Field],
        *,
        durable: bool,
        endings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(Fields(fields, as_text=True), durable=durable)
        self._endings = _check_endings(endings or {})
        self._headers: dict[tuple[str, int], _Header] = {}
        self._npy: dict[tuple[np.dtype[Any], tuple[int, ...]], bytes] = {}
        self._written: dict[str, str] = {}  # what each field's files end in

    def pack(self, number: int, sample: Mapping[str, Any]) -> Packed:
        values = self.fields.take(number, sample)
        if not self._written:
            self._check_fields(values)
        key = b"%010d" % number
        spread = sum(key)
        parts: list[Any] = []
        size = 0
        for name, value in values.items():
            try:
                ending, chunks, length = self._contents(name, value)
                if self._written.get(name) != ending:
                    self._begin_field(name, ending)
                header = self._headers.get((name + ending, length))
                if header is None:
                    header = self._header(name, ending, length)
            except TensorKeepError as error:
                where = f"sample {number}, field {name!r}"
                raise type(error)(error.problem, where=where, cure=error.cure) from None
            padding = -length % _BLOCK
            parts += (key, header.first, b"%06o\0 " % (header.sum + spread), header.last)
            parts += (*chunks, _ZEROS[padding])
            size += _BLOCK + length + padding
        return Packed(number, size, b"".join(parts))

    def _check_fields(self, values: Mapping[str, Value]) -> None:
        if len(values) > MOST_SUFFIXES:
            raise UnsupportedError(
                f"has {len(values):,} fields, and a .tar may have {MOST_SUFFIXES:,}",
                where="sample 0",
                cure="Put them into arrays.",
            )
        for name in self._endings:
            if name not in values:
                raise ArgumentError(
                    f"endings names the field {name!r}, which samples do not have",
                    cure=f"They have {', '.join(values)}.",
                )

    def _begin_field(self, name: str, ending: str) -> None:
        """Refuse names that would not be read back, and files that are none of one field."""
        if name in self._written:
            raise UnsupportedError(
                f"would be a {ending} file, where the samples before have {self._written[name]}",
                cure="Give all samples the same kind of value: floats and integers are two.",
            )
        if name != name.lower():
            raise UnsupportedError(
                "has capitals in its name, which is read back in small letters",
                cure=f"Rename it {name.lower()!r}.",
            )
        self._written[name] = ending

    def begin(self, path: str) -> File:
        return _Archive(path, durable=self.durable)

    def _contents(self, name: str, value: Value) -> tuple[str, tuple[Any, ...], int]:
        """Give the ending of a file, what is in it, and how long that is."""
        if isinstance(value, np.generic) and not isinstance(value, np.integer):
            value = np.asarray(value)
        if isinstance(value, np.ndarray) and value.dtype != object:
            kin = (value.dtype, value.shape)
            head = self._npy.get(kin)
            if head is not None:
                return ".npy", (head, value), len(head) + value.nbytes
        if name in self._endings:
            if not isinstance(value, str | bytes):
                raise UnsupportedError(
                    f"is no bytes or text, to be written as .{self._endings[name]}",
                    cure="Encode it, or leave its ending out.",
                )
            data = value.encode() if isinstance(value, str) else value
            return f".{self._endings[name]}", (data,), len(data)
        if isinstance(value, str):
            data = value.encode()
            return ".txt", (data,), len(data)
        if isinstance(value, bytes):
            return ".bin", (value,), len(value)
        if isinstance(value, list | dict):
            data = dump_json(value).encode()
            return ".json", (data,), len(data)
        if isinstance(value, np.int64):
            data = b"%d" % int(value)
            return ".cls", (data,), len(data)
        return ".npy", *self._array(np.asarray(value))

    def _array(self, array: Any) -> tuple[tuple[Any, ...], int]:
        whole = content(Tensor.of(array))
        chunks = tuple(whole.chunks())
        canonical = sum(memoryview(chunk).nbytes for chunk in chunks[1:]) == array.nbytes
        if array.dtype != object and array.dtype.kind in "biufc" and canonical:
            if len(self._npy) >= _MOST_HEADERS:
                self._npy.clear()
            self._npy[array.dtype, array.shape] = whole.head
        return chunks, whole.size

    def _header(self, name: str, ending: str, size: int) -> _Header:
        called = f".{name}{ending}".encode()
        if "/" in name or "." in name or "\\" in name:
            raise UnsupportedError(
                "has a dot or a slash in its name, which ends the name of a field in a .tar",
                cure="Rename it, with _ instead.",
            )
        if len(called) > 90:
            raise UnsupportedError(
                f"has a name of {len(name.encode())} bytes, and a .tar takes about 80",
                cure="Rename it.",
            )
        if size >= _LONGEST:
            raise UnsupportedError(
                f"has {size:,} bytes, and a file in a .tar has less than {_LONGEST:,}",
                cure="Write smaller samples.",
            )
        fields = b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"00000000000\0"
        first = called + bytes(90 - len(called)) + fields
        last = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
        made = _Header(first, last, sum(first) + sum(last) + 8 * ord(" "))
        if len(self._headers) >= _MOST_HEADERS:
            self._headers.clear()
        self._headers[name + ending, size] = made
        return made


class _Header:
    """A header without the ten digits of its sample: up to the sum of its bytes, and behind it."""

    __slots__ = ("first", "last", "sum")

    def __init__(self, first: bytes, last: bytes, total: int) -> None:
        self.first = first
        self.last = last
        self.sum = total


def _check_endings(endings: Any) -> dict[str, str]:
    cure = 'Give such as {"image": "jpg"}.'
    if not isinstance(endings, Mapping):
        raise ArgumentError(f"endings is a dict, not a {type(endings).__name__}", cure=cure)
    for name, ending in endings.items():
        if not isinstance(ending, str) or not _ENDING.fullmatch(ending.removeprefix(".")):
            raise ArgumentError(f"{ending!r} is no ending for the field {name!r}", cure=cure)
    return {name: ending.removeprefix(".") for name, ending in endings.items()}


class _Archive(File):
    def __init__(self, path: str, *, durable: bool) -> None:
        self._path = path
        self._durable = durable
        self._waiting: list[bytes] = []
        self._size = 0
        self._file = Replacement(path)

    def add(self, packed: Packed) -> None:
        self._waiting.append(packed.data)
        self._size += packed.size
        if self._size >= _TOGETHER:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting, self._size = self._waiting, [], 0
        try:
            self._file.append(waiting, durable=self._durable)
        except OSError as error:
            raise failed_write(error, self._path) from error

    def finish(self) -> None:
        end = self._file.end + self._size + 2 * _BLOCK
        self._waiting.append(bytes(2 * _BLOCK + -end % _RECORD))
        self._flush()
        try:
            self._file.finish(durable=self._durable)
        except OSError as error:
            raise failed_write(error, self._path) from error

    def close(self) -> None:
        self._file.close()
