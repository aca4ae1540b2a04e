"""The messages of caffe2.proto under their names, for scripts that import caffe2_pb2."""

from __future__ import annotations

from tensorkeep.caffe2.compat.proto import EnumNames, Proto
from tensorkeep.wire.caffe2.schema import (
    DATA_TYPE,
    DEVICE_TYPE,
    FLOAT_FORMAT,
    SERIALIZATION_FORMAT,
)

DeviceTypeProto = EnumNames(DEVICE_TYPE)
CPU, CUDA, MKLDNN, OPENGL, OPENCL, IDEEP, HIP, FPGA, ORT, XLA, MLC = range(11)
PROTO_CPU, PROTO_CUDA, PROTO_MKLDNN, PROTO_OPENGL, PROTO_OPENCL, PROTO_IDEEP = range(6)
PROTO_HIP, PROTO_FPGA, PROTO_ORT, PROTO_XLA, PROTO_MLC = range(6, 11)
PROTO_COMPILE_TIME_MAX_DEVICE_TYPES = COMPILE_TIME_MAX_DEVICE_TYPES = 11


class Segment(Proto, schema="Segment"):
    """Which elements of a tensor a part of it holds."""


class TensorProto(Proto, schema="TensorProto"):
    """A tensor, or a part of one."""

    __slots__ = ()

    DataType = EnumNames(DATA_TYPE)
    UNDEFINED, FLOAT, INT32, BYTE, STRING, BOOL = range(6)
    UINT8, INT8, UINT16, INT16, INT64 = range(6, 11)
    FLOAT16, DOUBLE, ZERO_COLLISION_HASH, REBATCHING_BUFFER = range(12, 16)
    SerializationFormat = EnumNames(SERIALIZATION_FORMAT)
    FMT_PROTOBUF, FMT_BFLOAT16 = range(2)
    Segment = Segment


class QTensorProto(Proto, schema="QTensorProto"):
    """A quantized tensor."""


class TensorProtos(Proto, schema="TensorProtos"):
    """A list of tensors, such as one example of a data set."""


class TensorShape(Proto, schema="TensorShape"):
    """A shape and an element type."""


class TensorShapes(Proto, schema="TensorShapes"):
    """A list of shapes."""


class Argument(Proto, schema="Argument"):
    """A named argument of an operator or net."""


class DeviceOption(Proto, schema="DeviceOption"):
    """Where an operator runs."""


class OperatorDef(Proto, schema="OperatorDef"):
    """An operator: its type, inputs, outputs and arguments."""


class MapFieldEntry(Proto, schema="MapFieldEntry"):
    """A key and a value."""


class BackendOptions(Proto, schema="BackendOptions"):
    """The options of one backend."""


class PartitionInfo(Proto, schema="PartitionInfo"):
    """Which devices a part of a net is for."""


class NetDef(Proto, schema="NetDef"):
    """A net: its operators, in order."""


class ExecutionStep(Proto, schema="ExecutionStep"):
    """A step of a plan."""


class PlanDef(Proto, schema="PlanDef"):
    """Nets, and the steps that run them."""


class BlobProto(Proto, schema="BlobProto"):
    """A blob, or a chunk of one, as a database holds it."""


class DBReaderProto(Proto, schema="DBReaderProto"):
    """A reader of a database."""


class BlobSerializationOptions(Proto, schema="BlobSerializationOptions"):
    """How blobs of some names are saved."""

    __slots__ = ()

    FloatFormat = EnumNames(FLOAT_FORMAT)
    FLOAT_DEFAULT, FLOAT_PROTOBUF, FLOAT_BFLOAT16 = range(3)


class SerializationOptions(Proto, schema="SerializationOptions"):
    """How blobs are saved: the first row whose pattern fits counts."""
