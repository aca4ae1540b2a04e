"""The element types of ONNX by their numbers, and where a TensorProto keeps their values.

From onnx.proto: raw_data is little-endian, 4- and 2-bit elements lie low bits first; without it the
values stand in a list that each type has, narrow ones widened: int32_data also holds the bits of
float16, bfloat16, float8 and float6, and elements of 4 and 2 bits a byte at a time.
"""

from __future__ import annotations

from tensorkeep import dtypes
from tensorkeep.dtypes import DType

KINDS: dict[int, DType] = dict(
    enumerate(
        (
            dtypes.FLOAT32,
            dtypes.UINT8,
            dtypes.INT8,
            dtypes.UINT16,
            dtypes.INT16,
            dtypes.INT32,
            dtypes.INT64,
            dtypes.STRING,
            dtypes.BOOL,
            dtypes.FLOAT16,
            dtypes.FLOAT64,
            dtypes.UINT32,
            dtypes.UINT64,
            dtypes.COMPLEX64,
            dtypes.COMPLEX128,
            dtypes.BFLOAT16,
            dtypes.FLOAT8_E4M3FN,
            dtypes.FLOAT8_E4M3FNUZ,
            dtypes.FLOAT8_E5M2,
            dtypes.FLOAT8_E5M2FNUZ,
            dtypes.UINT4,
            dtypes.INT4,
            dtypes.FLOAT4_E2M1FN,
            dtypes.FLOAT8_E8M0FNU,
            dtypes.UINT2,
            dtypes.INT2,
            dtypes.FLOAT6_E2M3FN,
            dtypes.FLOAT6_E3M2FN,
        ),
        start=1,
    )
)
NUMBERS: dict[DType, int] = {kind: number for number, kind in KINDS.items()}

_FIELDS = {
    dtypes.FLOAT32: "float_data",
    dtypes.COMPLEX64: "float_data",
    dtypes.FLOAT64: "double_data",
    dtypes.COMPLEX128: "double_data",
    dtypes.INT64: "int64_data",
    dtypes.UINT32: "uint64_data",
    dtypes.UINT64: "uint64_data",
    dtypes.STRING: "string_data",
}

# The IR version that a type came with, where that is not the first.
SINCE_IR = {
    dtypes.FLOAT8_E4M3FN: 9,
    dtypes.FLOAT8_E4M3FNUZ: 9,
    dtypes.FLOAT8_E5M2: 9,
    dtypes.FLOAT8_E5M2FNUZ: 9,
    dtypes.UINT4: 10,
    dtypes.INT4: 10,
    dtypes.FLOAT4_E2M1FN: 11,
    dtypes.FLOAT8_E8M0FNU: 12,
    dtypes.UINT2: 13,
    dtypes.INT2: 13,
    dtypes.FLOAT6_E2M3FN: 14,
    dtypes.FLOAT6_E3M2FN: 14,
}


def field_of(kind: DType) -> str:
    """Name the list that holds the values of a type where raw_data does not.

    >>> field_of(dtypes.FLOAT16), field_of(dtypes.COMPLEX64)
    ('int32_data', 'float_data')
    """
    return _FIELDS.get(kind, "int32_data")
