"""Records back to what they say of their blob: kind, shape, segment, and where the values are.

A record is a serialized BlobProto. Its head is parsed here; its values stay in the file. Files hold
ten thousands of small tensors of few shapes, whose records differ in names and values alone: what
was learned of one is kept, and recognised in the next.

Facts: caffe2.proto and Caffe2's deserializers (PyTorch 1.10), read and run.
"""

from __future__ import annotations

import numpy as np

from tensorkeep.dtypes import DType
from tensorkeep.message.varints import Buffer, decode_varints
from tensorkeep.source import Source
from tensorkeep.wire.caffe2.elements import BYTE_DATA, FIELD_NAMES, RAW_DATA, UNPACKED
from tensorkeep.wire.caffe2.fields import BYTES, VARINT, Record, int32, signed
from tensorkeep.wire.caffe2.heads import Head, Stretches
from tensorkeep.wire.caffe2.values import CPU, KINDS, STRING, TENSOR, Device

_SMALL = 64 << 10  # bytes of a record that is compared with learned ones
_MOST_LEARNED, _MOST_ALIKE = 4096, 8
_MOST_FIXED = 1024  # bytes kept of one
_DATA_TYPES = (*range(11), *range(12, 16))
_KIND_OF = {kind.encode(): kind for kind in KINDS}
_KIND_OF |= dict.fromkeys((b"TensorCPU", b"TensorCUDA"), TENSOR)  # as older Caffe2 wrote


class Part:
    """One record: a blob, or a chunk of one. The values are not read."""

    __slots__ = ("head", "key", "size", "source", "start")

    def __init__(self, key: str, source: Source, start: int, size: int, head: Head) -> None:
        self.key = key
        self.source = source
        self.start = start
        self.size = size
        self.head = head

    @property
    def kind(self) -> str:
        """Caffe2's name of the blob's type."""
        return self.head.kind

    @property
    def device(self) -> Device:
        """Where Caffe2 had it."""
        return self.head.device

    @property
    def code(self) -> int | None:
        """The DataType; None where it is absent or none that is known."""
        return self.head.code

    @property
    def dtype(self) -> DType | None:
        """The element type; None for blobs within the tensor, and where it is not known."""
        return self.head.dtype

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape of the whole tensor, of which this may be a chunk."""
        return self.head.shape

    @property
    def count(self) -> int:
        """The elements of the whole tensor."""
        return self.head.count

    @property
    def begin(self) -> int:
        """The first element that this holds."""
        return self.head.begin

    @property
    def end(self) -> int:
        """The element after the last that this holds."""
        return self.head.end

    @property
    def has_segment(self) -> bool:
        """True where the record says which elements it holds; all of them otherwise."""
        return self.head.has_segment

    @property
    def has_tensor(self) -> bool:
        """True where the record has a TensorProto."""
        return self.head.has_tensor

    @property
    def content(self) -> bytes:
        """The bytes of a blob that is no tensor."""
        if self.head.content is None:
            return b""
        start, stop = self.head.content
        return bytes(self.source.read(self.start + start, self.start + stop))

    @property
    def content_num_chunks(self) -> int | None:
        """How many records a blob that is no tensor was cut into; None if it was not."""
        return self.head.num_chunks

    @property
    def content_chunk_id(self) -> int:
        """Which of these records this is."""
        return self.head.chunk_id

    @property
    def chunked(self) -> bool:
        """True where Caffe2 put a chunk index behind the name."""
        head = self.head
        tensor = head.kind == TENSOR or (head.has_tensor and head.kind not in KINDS)
        return tensor or head.num_chunks is not None

    @property
    def name(self) -> str:
        """The name of the blob, from the key: cut at the last "#%" where an index belongs there."""
        return self.key.rpartition("#%")[0] if self.chunked and "#%" in self.key else self.key

    @property
    def where(self) -> str:
        """How messages name it: the blob and, of a tensor, the elements."""
        head = self.head
        place = f"{self.source.where}: {self.key!r}"
        return f"{place}, elements {head.begin} to {head.end}" if head.has_segment else place

    def check(self, where: str = "") -> None:
        """Refuse what Caffe2 would not load; it looks at no values.

        Raises:
            CorruptError: what the head says is not possible.
            UnsupportedError: no deserializer reads it.
        """
        if self.head.problem is not None:
            kind, problem = self.head.problem
            raise kind(problem, where=where or self.where)

    def __repr__(self) -> str:
        shape = f", {self.dims}, elements {self.begin} to {self.end}" if self.has_tensor else ""
        return f"Part({self.key!r}, {self.kind!r}{shape})"


_Fixed = tuple[int, bytes]  # bytes that are the same in all records of a head, and where
_LEARNED: dict[tuple[int, bytes], list[tuple[_Fixed, _Fixed, _Fixed, Head]]] = {}


def parse_part(
    key: str,
    source: Source,
    where: str = "",
    strict: bool = True,
    start: int = 0,
    stop: int | None = None,
    data: Buffer | None = None,
) -> Part:
    """Parse the head of a record: the source, or its bytes from `start` up to `stop`.

    Args:
        key: what the database keeps it under.
        source: where it lies.
        where: how messages name it, if not as the source and the key.
        strict: refuse what no writer makes, such as two tensors in one record; Caffe2 joins them.
        start: its first byte.
        stop: the byte after its last.
        data: all its bytes, where they are at hand.

    Raises:
        CorruptError: it is not a BlobProto.
    """
    stop = source.size if stop is None else stop
    size = stop - start
    if size > _SMALL:
        record = Record(source, start, stop, where or f"{source.where}: {key!r}")
        return Part(key, source, start, size, _parse(record, strict))
    data = bytes(source.read(start, stop) if data is None else data)
    kin = (size, data[:2])
    for (one, first), (two, second), (three, third), head in _LEARNED.get(kin, ()):
        if (
            data.startswith(first, one)
            and data.startswith(second, two)
            and data.startswith(third, three)
        ):
            return Part(key, source, start, size, head)
    record = Record(source, start, stop, where or f"{source.where}: {key!r}", data)
    head = _parse(record, strict)
    _learn(kin, data, head)
    return Part(key, source, start, size, head)


def parse_tensor(
    key: str, source: Source, where: str = "", start: int = 0, stop: int | None = None
) -> Part:
    """Parse the head of a bare TensorProto, as that of a record which holds nothing else.

    Raises:
        CorruptError: it is not a TensorProto.
    """
    stop = source.size if stop is None else stop
    record = Record(source, start, stop, where or f"{source.where}: {key!r}", kind="TensorProto")
    head, fields = Head(), dict[int, Stretches]()
    head.kind = TENSOR
    _parse_tensor(record, start, stop, head, fields)
    head.finish(fields)
    return Part(key, source, start, stop - start, head)


def _learn(kin: tuple[int, bytes], data: bytes, head: Head) -> None:
    """Keep a head, for records that differ from this one in the names and values alone."""
    if head.kind not in (TENSOR, STRING) or data[:1] != b"\n":
        return
    if head.names[:1] != [(2, 2 + data[1])] or head.values.items > 1 or len(head.tensors) > 1:
        return
    spans = [*head.names[1:], *([head.content] if head.content else [])]
    if head.values.items:
        spans.append((head.values.start, head.values.stop))
    spans.sort()
    starts = [head.names[0][1], *(stop for _, stop in spans)]
    stops = [*(start for start, _ in spans), len(data)]
    fixed = [(at, data[at:stop]) for at, stop in zip(starts, stops, strict=True)]
    fixed += [(0, b"")] * (3 - len(fixed))
    if len(fixed) > 3 or sum(len(piece) for _, piece in fixed) > _MOST_FIXED:
        return
    if len(_LEARNED) >= _MOST_LEARNED:
        _LEARNED.clear()
    alike = _LEARNED.setdefault(kin, [])
    if len(alike) < _MOST_ALIKE:
        alike.append((fixed[0], fixed[1], fixed[2], head))


def _parse(record: Record, strict: bool) -> Head:
    head = Head()
    fields: dict[int, Stretches] = {}
    origin = record.start
    kind = b""
    for number, wire, start, stop, value in record.walk(record.start, record.stop):
        if wire == BYTES:
            if number == 1:
                head.names.append((start - origin, stop - origin))
            elif number == 2:
                kind = record.read(start, stop)
            elif number == 3:
                if head.has_tensor and strict:
                    record.refuse(start, "is a second tensor")
                _parse_tensor(record, start, stop, head, fields)
            elif number == 4:
                head.content = (start - origin, stop - origin)
        elif wire == VARINT and number == 6:
            head.num_chunks = int32(value)
        elif wire == VARINT and number == 7:
            head.chunk_id = int32(value)
    head.kind = _KIND_OF.get(kind) or kind.decode("utf-8", "replace")
    head.finish(fields)
    return head


def _parse_tensor(
    record: Record, start: int, stop: int, head: Head, fields: dict[int, Stretches]
) -> None:
    head.has_tensor = True
    origin = record.start
    head.tensors.append((start - origin, stop - origin))
    shape = list(head.shape)
    for number, wire, begin, end, value in record.walk(start, stop):
        if number in FIELD_NAMES and (wire == BYTES or wire == UNPACKED.get(number)):
            if number in (BYTE_DATA, RAW_DATA):
                fields[number] = Stretches()
            fields.setdefault(number, Stretches()).add(begin - origin, end - origin)
        elif wire == VARINT:
            if number == 1:
                shape.append(signed(value))
            elif number == 2:
                head.code = value if value in _DATA_TYPES else head.code
            elif number == 15:
                head.data_format = value & 0xFFFFFFFF
        elif wire == BYTES:
            if number == 7:
                head.names.append((begin - origin, end - origin))
            elif number == 8:
                head.device = _parse_device(record, begin, end, head.device)
            elif number == 11:
                _parse_segment(record, begin, end, head)
            elif number == 1:
                axes = decode_varints(record.read(begin, end), np.int64, None, record.where)
                shape.extend(axes.tolist())
    head.shape = tuple(shape)


def _parse_device(record: Record, start: int, stop: int, before: Device) -> Device:
    kind, which = before.type, before.id
    for number, wire, _, _, value in record.walk(start, stop):
        if wire == VARINT and number == 1:
            kind = int32(value)
        elif wire == VARINT and number == 2:
            which = int32(value)
    return Device(kind, which) if kind or which else CPU


def _parse_segment(record: Record, start: int, stop: int, head: Head) -> None:
    seen = set()
    for number, wire, _, _, value in record.walk(start, stop):
        if wire == VARINT and number == 1:
            head.begin = signed(value)
            seen.add(1)
        elif wire == VARINT and number == 2:
            head.end = signed(value)
            seen.add(2)
    if len(seen) < 2 and not head.has_segment:
        record.refuse(start, "is a segment without a begin and an end")
    head.has_segment = True
