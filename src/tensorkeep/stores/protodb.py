"""A protodb file as a store: one TensorProtos message, each of its tensors a record.

The key of a record is the name of its tensor, and the value the TensorProto. It holds nothing
else: blobs, as Caffe2's Save makes them, are another message. Facts: Caffe2's `protodb.cc` and
`caffe2.proto`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import ClassVar

from tensorkeep.database import key_text
from tensorkeep.database.recordfile import Record, RecordFile
from tensorkeep.errors import CorruptError, TensorKeepError, UnsupportedError
from tensorkeep.message import scan
from tensorkeep.message.schema import BYTES, FIXED32, FIXED64, VARINT, encode_varint
from tensorkeep.source import FileSource, MemorySource, Source
from tensorkeep.store import Chunks, Progress, join

_PROTOS, _NAME = 1, 7  # the fields of TensorProtos and TensorProto that matter here
_MOST = (1 << 31) - 1  # bytes that protobuf reads
_CURE = "Use another kind of database, such as minidb."
_TAG = bytes([_PROTOS << 3 | BYTES])

# How the fields of a TensorProto may be written, numbers one by one or packed.
_KINDS: dict[int, tuple[int, ...]] = {
    **dict.fromkeys((1, 4, 10), (VARINT, BYTES)),
    **dict.fromkeys((2, 12, 15), (VARINT,)),
    **dict.fromkeys((5, 6, _NAME, 8, 11, 13, 14), (BYTES,)),
    3: (FIXED32, BYTES),
    9: (FIXED64, BYTES),
}


class ProtodbStore(RecordFile):
    r"""Tensors in one message, in the order in which they were put.

    A value has to be a TensorProto that is named like its key. One that is put again keeps its
    place, where Caffe2 refuses it; so no key is there twice.

    Args:
        path: the file.
        mode: "new" replaces the file at the first commit; until then nothing of it is shown.

    Raises:
        CorruptError: at the first use, for a file that is cut short or another message; `records`
            gives what is before that.

    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "weights.protodb")
    >>> with ProtodbStore(path, "new") as store:
    ...     store.put("w", [b"\x10\x01\x3a\x01w"])
    ...     store.commit()
    >>> list(ProtodbStore(path).keys())
    ['w']
    """

    kind: ClassVar[str] = "protodb"
    suffixes: ClassVar[tuple[str, ...]] = (".protodb",)
    most_bytes: ClassVar[int | None] = _MOST

    @classmethod
    def recognises(cls, path: str | os.PathLike[str]) -> bool:
        try:
            source = FileSource(path, mapping=False)
        except TensorKeepError:
            return False
        try:
            return _holds_tensors(source, empty=os.fsdecode(path).endswith(cls.suffixes))
        except TensorKeepError:
            return False
        finally:
            source.close()

    def put(
        self,
        key: str,
        chunks: Chunks,
        *,
        size: int | None = None,
        durable: bool = True,
        progress: Progress | None = None,
    ) -> None:
        """Take a TensorProto, which is held in memory while its name is looked at.

        Raises:
            UnsupportedError: it is none, or has another name than its key.
        """
        self._check_writable()
        data = join(chunks)
        _check_tensor(key, data, self.where)
        super().put(
            key,
            [data],
            size=len(data) if size is None else size,
            durable=durable,
            progress=progress,
        )

    def _scan(self, source: Source) -> Iterator[Record]:
        for number, wire, start, stop in scan(source, 0, source.size, source.where):
            if (number, wire) != (_PROTOS, BYTES):
                raise CorruptError(
                    f"has a field {number} before byte {start:,}, which TensorProtos has not",
                    where=source.where,
                    cure="It is damaged, or no protodb but another message.",
                )
            yield Record(_find_name(source, start, stop), start, stop)

    @staticmethod
    def _head(key: str, size: int) -> bytes:
        if size > _MOST:
            problem = f"the tensor {key[:60]!r} has {size:,} bytes; a protodb holds up to {_MOST:,}"
            raise UnsupportedError(problem, cure=_CURE)
        return _TAG + encode_varint(size)


def _find_name(source: Source, start: int, stop: int) -> str:
    """Give the name of a TensorProto; of several names the last one counts."""
    name = ""
    for number, wire, first, last in scan(source, start, stop, source.where):
        if (number, wire) == (_NAME, BYTES):
            name = key_text(bytes(source.read(first, last)))
    return name


def _check_tensor(key: str, data: bytes, where: str) -> None:
    source = MemorySource(data, f"{where}/{key[:60]}")
    try:
        name = _find_name(source, 0, source.size)
    except CorruptError as error:
        problem = f"the value is no TensorProto: {error.problem}"
        raise UnsupportedError(problem, where=source.where, cure=_CURE) from None
    if name != key or not key:
        problem = f"the value is no TensorProto of that name, but of {name[:60]!r}"
        raise UnsupportedError(problem, where=source.where, cure=_CURE)


def _holds_tensors(source: Source, *, empty: bool) -> bool:
    """Tell by the first field of a file whether it is a TensorProtos."""
    first = next(scan(source), None)
    if first is None:
        return empty
    number, wire, start, stop = first
    if (number, wire) != (_PROTOS, BYTES):
        return False
    if stop < source.size and source.read(stop, stop + 1) != _TAG:
        return False
    fields = [(number, wire) for number, wire, _, _ in scan(source, start, stop)]
    return (_NAME, BYTES) in fields and all(wire in _KINDS.get(n, ()) for n, wire in fields)
