"""How tensors are written: chunk sizes and encodings, chosen by name.

Facts: SerializationOptions of caffe2.proto and Caffe2's blob serialization (PyTorch 1.10).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral

from tensorkeep.errors import ArgumentError
from tensorkeep.message import Message

DEFAULT_CHUNK = 1_000_000  # elements: Caffe2's flag caffe2_tensor_chunk_size
NEVER = -1

_FLOAT_BFLOAT16 = 2


@dataclass(frozen=True, slots=True)
class SaveOptions:
    """How tensors are written.

    Args:
        chunk_size: elements per record; -1 for all of a tensor in one.
        bfloat16: write float32 with 16 bits, rounded as Caffe2 does.
        bytes_as_holder: write bool and 8- and 16-bit numbers as plain bytes, not varints.
        fp16_as_bytes: the same for float16 alone.
        nan_safe: keep NaN a NaN in bfloat16, where Caffe2 may make zeros or infinities of it.

    Raises:
        ArgumentError: a chunk_size that is neither positive nor -1.

    >>> SaveOptions(chunk_size=1000).bfloat16
    False
    """

    chunk_size: int = DEFAULT_CHUNK
    bfloat16: bool = False
    bytes_as_holder: bool = False
    fp16_as_bytes: bool = False
    nan_safe: bool = False

    def __post_init__(self) -> None:
        size: object = self.chunk_size
        if not isinstance(size, Integral) or (size < 1 and size != NEVER):
            raise ArgumentError(
                f"chunk_size {size!r} is not a number of elements",
                cure="Give 1 or more, or -1 for every tensor in one record.",
            )


DEFAULT = SaveOptions()


def choose_options(
    name: str, rows: Sequence[Message], default: SaveOptions = DEFAULT
) -> SaveOptions:
    """Choose how to write a blob: the first BlobSerializationOptions row that fits its name.

    A row fits if its blob_name_regex is empty or matches all of the name; it wins entirely, so one
    without a chunk_size means the default's, whatever rows follow. Without any, the default.

    Raises:
        ArgumentError: a pattern that is no regular expression, or a senseless chunk_size.
    """
    letters = name.encode("utf-8", "surrogateescape")  # Caffe2 matches bytes
    for row in rows:
        pattern: str = row.blob_name_regex
        try:
            regex = pattern.encode("utf-8", "surrogateescape")
            fits = not regex or re.fullmatch(regex, letters) is not None
        except (re.error, RecursionError, OverflowError) as error:
            raise ArgumentError(f"blob_name_regex {pattern!r}: {error}", where=name) from None
        if fits:
            return replace(
                default,
                chunk_size=int(row.chunk_size) or default.chunk_size,
                bfloat16=int(row.float_format) == _FLOAT_BFLOAT16,
            )
    return default
