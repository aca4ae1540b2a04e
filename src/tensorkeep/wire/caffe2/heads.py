"""The head of a record: what it says of its blob, and whether Caffe2 would take that.

Facts: caffe2.proto and Caffe2's deserializers (PyTorch 1.10), read and run.
"""

from __future__ import annotations

import math

from tensorkeep import dtypes
from tensorkeep.dtypes import DType
from tensorkeep.errors import CorruptError, FormatError, UnsupportedError
from tensorkeep.wire.caffe2.elements import (
    BYTE,
    BYTE_DATA,
    DOUBLE_DATA,
    DTYPE_OF,
    FIELD_NAMES,
    FIELDS,
    FLOAT,
    FLOAT_DATA,
    INT32_DATA,
    RAW_DATA,
    STRING_DATA,
    UINT8,
    UNDEFINED,
    VARINT_FIELDS,
)
from tensorkeep.wire.caffe2.values import COUNTER, CPU, INDEX, KINDS, TENSOR, TREE_CURSOR

BFLOAT16 = 1  # the SerializationFormat

Problem = tuple[type[FormatError], str]

MOST_AXES = 64
_HOLDERS = (TENSOR, COUNTER, INDEX)  # of a TensorProto; a TreeCursor may have one
_PLAIN = (BYTE_DATA, FLOAT_DATA, DOUBLE_DATA)


class Stretches:
    """Where the values of one field lie: from the first start to the last stop, all or in part."""

    __slots__ = ("items", "nbytes", "start", "stop")

    def __init__(self) -> None:
        self.start = self.stop = self.nbytes = self.items = 0

    def add(self, start: int, stop: int) -> None:
        if not self.items:
            self.start = start
        self.stop = stop
        self.nbytes += stop - start
        self.items += 1

    @property
    def together(self) -> bool:
        """True where nothing lies between them."""
        return self.nbytes == self.stop - self.start


NOWHERE = Stretches()


class Head:
    """What a record says before its values; places are counted from its first byte."""

    __slots__ = (
        "begin",
        "chunk_id",
        "code",
        "content",
        "count",
        "data_format",
        "device",
        "dtype",
        "end",
        "field",
        "has_segment",
        "has_tensor",
        "kind",
        "names",
        "num_chunks",
        "offset",
        "problem",
        "shape",
        "tensors",
        "total",
        "values",
        "whole",
    )

    def __init__(self) -> None:
        self.kind = ""
        self.device = CPU
        self.code: int | None = None
        self.shape: tuple[int, ...] = ()
        self.count = 1
        self.total = 0  # what Caffe2 counts up to: elements of tensors
        self.begin = self.end = 0
        self.has_segment = self.has_tensor = False
        self.data_format = 0
        self.field = 0
        self.values = NOWHERE
        self.content: tuple[int, int] | None = None
        self.num_chunks: int | None = None
        self.chunk_id = 0
        self.names: list[tuple[int, int]] = []
        self.tensors: list[tuple[int, int]] = []
        self.problem: Problem | None = None
        self.dtype: DType | None = None  # None also of blobs within the tensor
        self.whole = False  # sound, and all there is of its blob
        self.offset = -1  # of values that lie as a tensor has them in memory, all of them

    def finish(self, fields: dict[int, Stretches]) -> None:
        """Draw the conclusions, once all fields were seen."""
        self.count = math.prod(self.shape) if len(self.shape) <= MOST_AXES else 0
        self.total = self.count if self.has_tensor else 0
        if not self.has_segment:
            self.end = self.count
        if self.code == UNDEFINED and self.count == 0:
            self.dtype = dtypes.FLOAT32
        elif self.code is not None:
            self.dtype = DTYPE_OF.get(self.code)
        self.field = _choose_field(self, fields)
        self.values = fields.get(self.field, NOWHERE)
        self.problem = _find_problem(self)
        all_of_it = self.begin == 0 and self.end == self.count
        self.whole = self.problem is None and self.num_chunks is None and all_of_it
        plain = self.field in _PLAIN and self.dtype is not dtypes.BOOL  # any byte but 0 is true
        if self.whole and self.kind == TENSOR and plain and self.values.together:
            self.offset = self.values.start


def _choose_field(head: Head, fields: dict[int, Stretches]) -> int:
    """Choose the field of the values; byte_data, where it is there, goes before int32_data."""
    if head.code == UNDEFINED:
        return STRING_DATA
    if head.code == BYTE:
        return BYTE_DATA
    if head.code == FLOAT:
        return RAW_DATA if head.data_format == BFLOAT16 else FLOAT_DATA
    dtype = head.dtype
    field = 0 if dtype is None else FIELDS[dtype]
    as_bytes = field == INT32_DATA and dtype is not dtypes.INT32 and BYTE_DATA in fields
    return BYTE_DATA if as_bytes else field


def _find_problem(head: Head) -> Problem | None:
    """Say why Caffe2 would refuse to load the record, in the order of its checks."""
    if head.kind not in KINDS:
        kind = f"the type {head.kind!r}" if head.kind else "no type"
        return UnsupportedError, f"has {kind}; no deserializer reads that"
    holds = head.kind in _HOLDERS or (head.kind == TREE_CURSOR and head.has_tensor)
    return _find_tensor_problem(head) if holds else None


def _find_tensor_problem(head: Head) -> Problem | None:
    if len(head.shape) > MOST_AXES:
        return CorruptError, f"has {len(head.shape)} axes"
    if any(axis < 0 for axis in head.shape):
        return CorruptError, f"has the shape {head.shape}"
    if head.code is None:
        return CorruptError, "has no data_type, or one that Caffe2 1.10 has not"
    if head.code != UNDEFINED and head.dtype is None:
        return UnsupportedError, f"has data_type {head.code}, which no deserializer reads"
    size = head.end - head.begin
    if not 0 <= head.begin <= head.end <= head.count:
        return CorruptError, f"holds elements {head.begin} to {head.end} of {head.count}"
    if head.code == UNDEFINED and head.count == 0:
        return None
    if head.data_format not in (0, BFLOAT16) or (head.data_format and head.code != FLOAT):
        return CorruptError, f"has data_format {head.data_format} with data_type {head.code}"
    values, name = head.values, FIELD_NAMES[head.field]
    if head.field == STRING_DATA:
        if values.items != size:
            return CorruptError, f"has {values.items} string_data for {size} elements"
        return None
    if head.field in VARINT_FIELDS:
        if not size <= values.nbytes <= 10 * size:
            return CorruptError, f"has {values.nbytes} bytes of {name} for {size} elements"
        return None
    width = 2 if head.field == RAW_DATA or head.dtype is None else head.dtype.bits // 8
    # Caffe2 copies what the segment of a uint8 tensor says, however long byte_data is.
    slack = head.code == UINT8 and head.has_segment and values.nbytes > size
    if values.nbytes != size * width and not slack:
        return CorruptError, f"has {values.nbytes} bytes of {name} for {size} elements"
    return None
