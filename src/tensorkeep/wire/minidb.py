"""Caffe2's minidb: records of a key and a value, back to back, with nothing around them.

A record is two little-endian int32, the lengths of its key and of its value, then their bytes.
There is no header, index, checksum or footer; keys may repeat, and their order is the one they were
written in. Both lengths have to be above zero to be read back. Facts: Caffe2's `minidb.cc`.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from tensorkeep.database import key_bytes
from tensorkeep.database.recordfile import Record
from tensorkeep.errors import CorruptError, UnsupportedError
from tensorkeep.source import Source

MAX_VALUE = 2**31 - 1  # bytes: int32
MAX_KEY = 1 << 20  # bytes: what is longer is damage, or an attack on our memory

_LENGTHS = Struct("<ii")
_LENGTH = 4  # fewer stray bytes are a clean end for Caffe2
_WINDOW = 64 << 10
_SMALL = 4 << 10  # records up to here are read several at a time
_SPARE = 16  # how much longer a key may be than the one before, to be read with its lengths
_STARTS = (0x08, 0x10)  # the first byte of a TensorProto: dims, or the type where it has none


def record_header(key: str, size: int) -> bytes:
    r"""Give what stands before a value of `size` bytes: both lengths and the key.

    Raises:
        UnsupportedError: the record could not be read back: an empty key or value, a key over
            1 MiB or a value of 2 GiB.
        ArgumentError: the key cannot be encoded.

    >>> record_header("w#%0", 3)
    b'\x04\x00\x00\x00\x03\x00\x00\x00w#%0'
    """
    name = key_bytes(key)
    if not 0 < len(name) <= MAX_KEY:
        raise UnsupportedError(
            f"the key {key[:60]!r} has {len(name):,} bytes; minidb gives back 1 to {MAX_KEY:,}",
            cure="Give it another name.",
        )
    if not size:
        raise UnsupportedError(
            f"the value of {key[:60]!r} is empty, which minidb cannot give back",
            cure="Leave it out, or use another kind of database, such as sqlite.",
        )
    if size > MAX_VALUE:
        raise UnsupportedError(
            f"the value of {key[:60]!r} has {size:,} bytes; minidb holds up to {MAX_VALUE:,}",
            cure="Save it in smaller parts: give a chunk_size.",
        )
    return _LENGTHS.pack(len(name), size) + name


def read_records(source: Source, *, strict: bool = True) -> Iterator[Record]:
    """Give the records in order, without reading their values.

    Args:
        source: the whole file.
        strict: False takes up to three stray bytes at the end for nothing, as Caffe2 does.

    Raises:
        CorruptError: a record is cut short or has an impossible length; raised after the records
            before it were given.

    >>> from tensorkeep.source import MemorySource
    >>> list(read_records(MemorySource(record_header("a", 2) + b"hi")))
    [Record(key='a', start=9, stop=11)]
    """
    size = source.size
    view = source.read(0, size if source.mapped else min(size, _WINDOW))
    first, last = 0, view.nbytes  # what part of the source `view` shows
    at = number = key_size = 0
    key = ""
    before = 0  # where the last record began
    unpack = _LENGTHS.unpack_from
    while at < size:
        start = at + _LENGTHS.size
        if start > last:
            if start > size:
                if not strict and size - at < _LENGTH:
                    return
                raise _stray(source, at, number, key)
            ahead = _WINDOW if at - before <= _SMALL else start - at + key_size + _SPARE
            view = source.read(at, min(size, at + ahead))
            first, last = at, at + view.nbytes
        key_size, value_size = unpack(view, at - first)
        start += key_size
        stop = start + value_size
        if not 0 < key_size <= MAX_KEY or value_size <= 0 or stop > size:
            raise _damage(source, at, number, key, key_size, value_size)
        if start > last:
            view = source.read(at, start)
            first, last = at, start
        key = str(view[start - key_size - first : start - first], "utf-8", "surrogateescape")
        yield Record(key, start, stop)
        before, at = at, stop
        number += 1


def looks_like_minidb(head: bytes, size: int) -> bool:
    """Tell a minidb by the first few kilobytes of a file of `size` bytes.

    The first record has to have a readable key and a length that the file holds; what follows has
    to be a message, the end or another record. A value that is named like its key is enough even
    where the file is cut short. An empty file is a minidb too, but does not look like anything.

    >>> looks_like_minidb(record_header("a", 2) + b"hi", 11)
    True
    >>> looks_like_minidb(b'{"a": 1}', 8)
    False
    """
    first = _lengths(head, 0)
    if first is None:
        return False
    start = _LENGTHS.size + first[0]
    stop = start + first[1]
    key, value = head[_LENGTHS.size : start], head[start : min(stop, start + len(head))]
    if not value:
        return False
    if _is_blob(key, value):
        return True
    if stop > size or not _is_readable(key):
        return False
    if stop == size or value[0] in _STARTS or _first_field(value, first[1]) is not None:
        return True
    second = _lengths(head, stop)
    return second is not None and stop + _LENGTHS.size + sum(second) <= size


def _lengths(head: bytes, at: int) -> tuple[int, int] | None:
    """Give the two lengths at a place, where they are there and possible."""
    if len(head) < at + _LENGTHS.size:
        return None
    key_size, value_size = _LENGTHS.unpack_from(head, at)
    return (key_size, value_size) if key_size > 0 and value_size > 0 else None


def _is_readable(key: bytes) -> bool:
    try:
        return key.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _is_blob(key: bytes, value: bytes) -> bool:
    """Tell a BlobProto, which begins with its name; a key is that or goes on with #%0."""
    name = _first_field(value, len(value))
    return name is not None and (key == name or key.startswith(name + b"#%"))


def _first_field(value: bytes, size: int) -> bytes | None:
    """Give the first field of a message whose first is text or another message."""
    if value[0] != 0x0A:
        return None
    length = shift = 0
    for i, byte in enumerate(value[1:6], 2):
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value[i : i + length] if i + length <= size else None
    return None


def _stray(source: Source, at: int, number: int, key: str) -> CorruptError:
    count = source.size - at
    return CorruptError(
        f"record {number} at byte {at:,} is cut short: {count} of the {_LENGTHS.size} bytes of its "
        f"lengths are there, {_LENGTHS.size - count} are missing ({_before(number, key)})",
        where=source.where,
        cure="The file was cut short: copy it again.",
    )


def _damage(
    source: Source, at: int, number: int, key: str, key_size: int, value_size: int
) -> CorruptError:
    stop = at + _LENGTHS.size + key_size + value_size
    problem = f"has a key of {key_size:,} and a value of {value_size:,} bytes"
    cure = "The file was cut short, or a length in it is damaged: copy it again."
    if key_size <= 0 or value_size <= 0:
        problem += ", but both have to be above zero"
    elif stop > source.size:
        problem += f", of which {stop - source.size:,} are missing"
    else:
        problem += f", but keys end at {MAX_KEY:,}"
    if not number:
        cure += " If it is no minidb, open it as what it is."
    return CorruptError(
        f"record {number} at byte {at:,} {problem} ({_before(number, key)})",
        where=source.where,
        cure=cure,
    )


def _before(number: int, key: str) -> str:
    return f"the last whole record is {number - 1}, {key[:60]!r}" if number else "none is whole"
