"""Blobs to the records that Caffe2 writes, byte for byte.

A record is a serialized BlobProto. A tensor is cut into chunks by elements, one record each, with
the key `name#%index`; every other blob is one record with its name as the key.

Facts: caffe2.proto and Caffe2's serializers (PyTorch 1.10), read and run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from tensorkeep import dtypes
from tensorkeep.errors import UnsupportedError
from tensorkeep.source import MemorySource
from tensorkeep.store import Chunk
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2 import elements
from tensorkeep.wire.caffe2.encode_tensor import (
    LONGEST_RECORD,
    Record,
    encode_tensor,
    prefixed,
    varint,
)
from tensorkeep.wire.caffe2.messages import blob_message
from tensorkeep.wire.caffe2.options import DEFAULT, NEVER, SaveOptions, choose_options
from tensorkeep.wire.caffe2.values import STRING, TENSOR, Blob, NestedBlobs

__all__ = [
    "DEFAULT",
    "Record",
    "SaveOptions",
    "choose_options",
    "encode_blob",
    "estimate_size",
    "join_blob",
]

_POINTER = 16  # bytes of a std::shared_ptr
_DEEPEST = 32  # levels of blobs inside blobs
_STRING_LABEL = prefixed(0x12, STRING.encode()) + b'"'


def encode_blob(name: str, blob: Blob, options: SaveOptions = DEFAULT) -> Iterable[Record]:
    r"""Give the records of a blob: key, bytes in pieces, and their total; values stay views.

    The pieces are a tuple, or something that makes them while it is walked where they are large.

    Raises:
        UnsupportedError: Caffe2 has no serializer for it, or a record would pass 2 GiB.

    >>> for key, chunks, size in encode_blob("s", Blob(STRING, b"hi")):
    ...     print(key, b"".join(chunks))
    s b'\n\x01s\x12\x0bstd::string"\x02hi'
    """
    if blob.kind != TENSOR:
        return (_whole(name, blob),)
    if isinstance(blob.value, Tensor):
        return encode_tensor(name, blob.value, blob.device, options)
    return _encode_nested(name, blob, options, _DEEPEST)


def join_blob(name: str, blob: Blob, options: SaveOptions = DEFAULT) -> bytes:
    """Give one bare BlobProto, never cut into chunks, as `workspace.SerializeBlob` did."""
    return _join(name, blob, replace(options, chunk_size=NEVER), _DEEPEST)


def estimate_size(name: str, blob: Blob, options: SaveOptions = DEFAULT) -> int:
    """Estimate the bytes of a blob's records with the formula of EstimateAllBlobSizes.

    >>> import numpy as np
    >>> estimate_size("w", Blob(TENSOR, Tensor.of(np.zeros(10, "float32"))))
    91
    """
    letters: int = len(name.encode("utf-8", "surrogateescape"))
    if blob.kind == STRING:
        return letters + len(blob.value) + 20
    if blob.kind != TENSOR:
        return 0
    shape: tuple[int, ...] = blob.value.shape
    count = math.prod(shape)
    chunk = count + 1 if options.chunk_size == NEVER else options.chunk_size
    width = (
        _POINTER if isinstance(blob.value, NestedBlobs) else _estimate_width(blob.value, options)
    )
    return -(-count // chunk) * (letters + 50) + count * width


def _estimate_width(tensor: Tensor, options: SaveOptions) -> int:
    dtype = tensor.dtype
    if dtype is dtypes.STRING:
        return 50
    if dtype is dtypes.FLOAT32 and options.bfloat16:
        return 2
    plain = dtype.bits // 8
    if dtype in (dtypes.UINT8, dtypes.INT8, dtypes.UINT16, dtypes.INT16, dtypes.FLOAT16):
        fp16 = dtype is dtypes.FLOAT16 and options.fp16_as_bytes
        return plain if options.byte_holder or fp16 else plain + 1 if plain == 1 else 3
    return plain


def _encode_nested(name: str, blob: Blob, options: SaveOptions, depth: int) -> Iterable[Record]:
    value = blob.value
    if not isinstance(value, NestedBlobs):
        raise UnsupportedError(f"is a {TENSOR} that holds {type(value).__name__}", where=name)
    if depth == 0:
        raise UnsupportedError(f"nests blobs deeper than {_DEEPEST} levels", where=name)
    if len(value.blobs) != math.prod(value.shape):
        raise UnsupportedError(
            f"has {len(value.blobs)} blobs for the shape {value.shape}", where=name
        )
    whole = replace(options, chunk_size=NEVER)
    packed = dtypes.pack_strings(_join("", inner, whole, depth - 1) for inner in value.blobs)
    source = MemorySource(packed, name)
    tensor = Tensor(dtypes.STRING, value.shape, source, 0, len(packed))
    return encode_tensor(name, tensor, blob.device, options, elements.UNDEFINED)


def _join(name: str, blob: Blob, options: SaveOptions, depth: int) -> bytes:
    if blob.kind != TENSOR:
        return b"".join(_whole(name, blob)[1])
    if isinstance(blob.value, Tensor):
        records = encode_tensor(name, blob.value, blob.device, options)
    else:
        records = _encode_nested(name, blob, options, depth)
    return b"".join(chunk for _, chunks, _ in records for chunk in chunks)


def _whole(name: str, blob: Blob) -> Record:
    if blob.kind == STRING and isinstance(blob.value, bytes):
        raw = name.encode("utf-8", "surrogateescape")
        label = _STRING_LABEL + varint(len(blob.value))
        chunks: tuple[Chunk, ...] = (prefixed(0x0A, raw) + label, blob.value)
        size = len(chunks[0]) + len(blob.value)
    else:
        message = blob_message(name, blob)
        chunks, size = tuple(message.chunks()), message.size()
    if size > LONGEST_RECORD:
        raise UnsupportedError(
            f"needs a record of {size} bytes; Caffe2 reads up to {LONGEST_RECORD}", where=name
        )
    return name, chunks, size
