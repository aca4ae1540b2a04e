"""Element types of a TensorProto: their numbers, and the field that holds which.

Facts: caffe2.proto and Caffe2's tensor serializers (PyTorch 1.10), read and run.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tensorkeep import dtypes
from tensorkeep.dtypes import DType
from tensorkeep.wire.caffe2.fields import FIXED32, FIXED64, VARINT

UNDEFINED: Final = 0
FLOAT: Final = 1
BYTE: Final = 3  # of old writers; reads as uint8
UINT8: Final = 6

FLOAT_DATA: Final = 3
INT32_DATA: Final = 4
BYTE_DATA: Final = 5
STRING_DATA: Final = 6
DOUBLE_DATA: Final = 9
INT64_DATA: Final = 10
RAW_DATA: Final = 13

FIELD_NAMES = {
    FLOAT_DATA: "float_data",
    INT32_DATA: "int32_data",
    BYTE_DATA: "byte_data",
    STRING_DATA: "string_data",
    DOUBLE_DATA: "double_data",
    INT64_DATA: "int64_data",
    RAW_DATA: "raw_data",
}
VARINT_FIELDS = (INT32_DATA, INT64_DATA)

# The wire types that repeated numbers have where they are not packed.
UNPACKED = {FLOAT_DATA: FIXED32, DOUBLE_DATA: FIXED64, INT32_DATA: VARINT, INT64_DATA: VARINT}

CODES: dict[DType, int] = {
    dtypes.FLOAT32: FLOAT,
    dtypes.INT32: 2,
    dtypes.STRING: 4,
    dtypes.BOOL: 5,
    dtypes.UINT8: UINT8,
    dtypes.INT8: 7,
    dtypes.UINT16: 8,
    dtypes.INT16: 9,
    dtypes.INT64: 10,
    dtypes.FLOAT16: 12,
    dtypes.FLOAT64: 13,
}
DTYPE_OF = {code: dtype for dtype, code in CODES.items()} | {BYTE: dtypes.UINT8}

# The field of each type; those of int32_data may be in byte_data instead, as their plain bytes.
FIELDS: dict[DType, int] = {
    dtype: {
        dtypes.FLOAT32: FLOAT_DATA,
        dtypes.FLOAT64: DOUBLE_DATA,
        dtypes.INT64: INT64_DATA,
        dtypes.STRING: STRING_DATA,
    }.get(dtype, INT32_DATA)
    for dtype in CODES
}


def varint_dtype(dtype: DType) -> np.dtype[Any]:
    """Give the integers that stand for a type in int32_data; float16 goes as its bit pattern."""
    return np.dtype(np.uint16) if dtype is dtypes.FLOAT16 else dtype.numpy
