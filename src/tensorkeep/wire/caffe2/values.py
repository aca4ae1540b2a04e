"""What a Caffe2 blob can hold, as plain values.

Facts: the serializers registered in Caffe2 (PyTorch 1.10), read and run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tensorkeep.tensor import Tensor

TENSOR = "Tensor"
STRING = "std::string"
INT8_TENSOR = "Int8TensorCPU"
QTENSOR = "QTensor"
COUNTER = "std::unique_ptr<Counter<int64_t>>"
MUTEX = "std::unique_ptr<std::mutex>"
INDEX = "std::unique_ptr<caffe2::IndexBase>"
TREE_CURSOR = "std::unique_ptr<TreeCursor>"
TENSOR_VECTOR = "std::shared_ptr<std::vector<TensorCPU>>"
DB_READER = "DBReader"
UNINITIALIZED = "nullptr (uninitialized)"  # of a blob without a value; it is never saved
MAPS = {
    f"(std::unordered_map<{key}, {value}>)": (key.removesuffix("_t"), value.removesuffix("_t"))
    for key in ("int32_t", "int64_t")
    for value in ("int32_t", "int64_t")
}
KINDS = frozenset(
    (
        *(TENSOR, STRING, INT8_TENSOR, QTENSOR, COUNTER, MUTEX, INDEX, TREE_CURSOR),
        *(TENSOR_VECTOR, DB_READER, *MAPS),
    )
)

# Fields of a DBReaderProto that are ours; Caffe2, and any other reader of protobuf, skips them.
READER_EXTRAS = {"num_shards": 1001, "shard_id": 1002, "record": 1003}
READER_DEFAULTS = {"num_shards": 1, "shard_id": 0, "record": 0}

_DEVICES = (
    *("CPU", "CUDA", "MKLDNN", "OPENGL", "OPENCL", "IDEEP", "HIP", "FPGA", "ORT", "XLA", "MLC"),
)


@dataclass(frozen=True, slots=True)
class Device:
    """Where Caffe2 kept a blob: a DeviceTypeProto and, but for the CPU, which one.

    >>> str(Device()), str(Device(1, 3))
    ('CPU', 'CUDA:3')
    """

    type: int = 0
    id: int = 0

    def __str__(self) -> str:
        known = 0 <= self.type < len(_DEVICES)
        name = _DEVICES[self.type] if known else f"device type {self.type}"
        return name if self.type == 0 else f"{name}:{self.id}"


CPU = Device()


@dataclass(slots=True)
class Blob:
    """One value of a workspace: Caffe2's name of its type, the value itself and its device.

    >>> Blob(STRING, b"hello")
    Blob(kind='std::string', value=b'hello', device=Device(type=0, id=0))
    """

    kind: str
    value: Any
    device: Device = CPU


@dataclass(frozen=True, slots=True)
class NestedBlobs:
    """A tensor of an element type that Caffe2 has no number for: every element a blob, in C order.

    `PackRecords` makes such tensors.
    """

    shape: tuple[int, ...]
    blobs: list[Blob]


@dataclass(frozen=True, slots=True)
class Int8Tensor:
    """A quantized tensor: (data - zero_point) * scale; data is uint8, or int32 for a bias."""

    data: Tensor
    scale: float
    zero_point: int


@dataclass(frozen=True, slots=True)
class QTensor:
    """A tensor of numbers of `precision` bits; `data` (uint8) are its bit planes as stored."""

    shape: tuple[int, ...]
    precision: int
    scale: float
    bias: float
    is_signed: bool
    data: Tensor


@dataclass(frozen=True, slots=True)
class Index:
    """A dictionary from keys to the ids 1, 2, ...: `keys` (int32, int64 or string) in id order."""

    keys: Tensor
    max_elements: int
    frozen: bool


@dataclass(frozen=True, slots=True)
class TreeCursor:
    """How far a column dataset was read: int64 offsets, None before the first batch."""

    offsets: Tensor | None
    fields: list[str]


@dataclass(frozen=True, slots=True)
class Map:
    """An unordered map of integers: keys and values in one order."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class DBReaderState:
    """A reader of a database: its name, path, kind and, where it can seek, the next key.

    What follows Caffe2 forgot when it saved a reader, and skips when it reads one: the shard, and
    where keys are not sorted the number of the next record; 0 stands for the shard's first.
    """

    name: str
    source: str
    db_type: str
    key: str = ""
    num_shards: int = 1
    shard_id: int = 0
    record: int = 0
