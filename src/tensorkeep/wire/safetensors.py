"""What safetensors files call element types, and the header that stands before their data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tensorkeep import dtypes
from tensorkeep.dtypes import DType
from tensorkeep.errors import ArgumentError
from tensorkeep.state import MAX_TENSORS
from tensorkeep.tensor import Tensor
from tensorkeep.wire.seal import SEAL, seal
from tensorkeep.wire.text import dump_json, quote

MAX_HEADER = 64 << 20  # the reference library reads up to 100 MB; real headers stay far below

# In the reference library's order; files are laid out from the last to the first.
CODES: dict[str, DType] = {
    "BOOL": dtypes.BOOL,
    "F4": dtypes.FLOAT4_E2M1FN,
    "F6_E2M3": dtypes.FLOAT6_E2M3FN,
    "F6_E3M2": dtypes.FLOAT6_E3M2FN,
    "U8": dtypes.UINT8,
    "I8": dtypes.INT8,
    "F8_E5M2": dtypes.FLOAT8_E5M2,
    "F8_E4M3": dtypes.FLOAT8_E4M3FN,
    "F8_E8M0": dtypes.FLOAT8_E8M0FNU,
    "F8_E4M3FNUZ": dtypes.FLOAT8_E4M3FNUZ,
    "F8_E5M2FNUZ": dtypes.FLOAT8_E5M2FNUZ,
    "I16": dtypes.INT16,
    "U16": dtypes.UINT16,
    "F16": dtypes.FLOAT16,
    "BF16": dtypes.BFLOAT16,
    "I32": dtypes.INT32,
    "U32": dtypes.UINT32,
    "F32": dtypes.FLOAT32,
    "C64": dtypes.COMPLEX64,
    "F64": dtypes.FLOAT64,
    "I64": dtypes.INT64,
    "U64": dtypes.UINT64,
}
_CODE_OF = {kind: code for code, kind in CODES.items()}


def storage(tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    """Choose the code and shape that a tensor is stored as."""
    kind = tensor.dtype
    code = _CODE_OF.get(kind)
    if code is not None and not (kind.packed and tensor.size * kind.bits % 8):
        return code, tensor.shape
    if kind is dtypes.COMPLEX128:
        return "F64", (*tensor.shape, 2)
    return "U8", (tensor.nbytes,)


def build_header(
    rows: Iterable[tuple[str, str, tuple[int, ...], int]], texts: Mapping[str, str], align: int
) -> bytes:
    """Write the length and the header for tensors in the order of their data.

    Args:
        rows: name, code, shape and bytes of each tensor.
        texts: what to keep as `__metadata__`.
        align: what the data has to start at a multiple of.

    Raises:
        ArgumentError: it would be longer than readers accept.
    """
    parts = [f'"__metadata__":{dump_json(dict(texts))}'] if texts else []
    end = 0
    for name, code, shape, nbytes in rows:
        start, end = end, end + nbytes
        axes = ",".join(map(str, shape))
        parts.append(
            f'{quote(name)}:{{"dtype":"{code}","shape":[{axes}],"data_offsets":[{start},{end}]}}'
        )
    text = f"{{{','.join(parts)}}}".encode()
    header = text + b" " * (-(8 + len(text)) % align)
    if len(header) > MAX_HEADER or len(parts) > MAX_TENSORS:
        raise ArgumentError(
            f"the header of {len(parts):,} tensors would take {len(header):,} bytes, over what is "
            f"read ({MAX_TENSORS:,} tensors, {MAX_HEADER:,} bytes)",
            cure="Split the state with max_shard_size.",
        )
    head = len(header).to_bytes(8, "little") + header
    return seal(head) if SEAL in texts else head
