"""SerializationOptions: how Save writes each blob.

Facts: caffe2/proto/caffe2.proto (BlobSerializationOptions), caffe2/operators/load_save_op_util.cc
(GetBlobOptions) and load_save_op.cc (the chunk_size argument).
"""

from __future__ import annotations

from collections.abc import Iterable

from tensorkeep.errors import ArgumentError, TensorKeepError
from tensorkeep.message import Message
from tensorkeep.wire.caffe2.options import DEFAULT, SaveOptions, choose_options
from tensorkeep.wire.caffe2.schema import BLOB_SERIALIZATION_OPTIONS, SERIALIZATION_OPTIONS


def get_blob_options(
    name: str, options: Message | Iterable[Message], default: SaveOptions = DEFAULT
) -> SaveOptions:
    """Choose how a blob is written: the first row whose regular expression matches its whole name.

    A row without a regular expression matches every name. The row counts alone: what it leaves
    open comes from `default`, never from a later row.

    Args:
        name: the blob, as it will be called in the file.
        options: a SerializationOptions, or its rows.
        default: what holds where no row matches.

    Raises:
        ArgumentError: a regular expression that cannot be read.

    >>> conv, rest = {"blob_name_regex": "conv.*", "chunk_size": 100}, {"chunk_size": -1}
    >>> rows = serialization_options(conv, rest)
    >>> get_blob_options("conv1_w", rows).chunk_size, get_blob_options("fc_w", rows).chunk_size
    (100, -1)
    """
    rows = options.options if isinstance(options, Message) else list(options)
    return choose_options(name, rows, default)


def serialization_options(*rows: dict[str, str | int]) -> Message:
    """Make a SerializationOptions of rows of blob_name_regex, chunk_size and float_format.

    >>> serialization_options({"float_format": 2}).encode().hex()
    '0a021802'
    """
    options = Message(SERIALIZATION_OPTIONS)
    for row in rows:
        options.add("options", **row)
    return options


def parse_options(data: bytes, where: str) -> list[Message]:
    """Read the rows of a serialized SerializationOptions.

    Raises:
        ArgumentError: the bytes are not one.

    >>> [row.chunk_size for row in parse_options(bytes.fromhex("0a021007"), "example")]
    [7]
    """
    try:
        rows: list[Message] = list(Message.parse(SERIALIZATION_OPTIONS, data, where=where).options)
        for row in rows:  # parsing is lazy: have each row parsed here
            _ = row.blob_name_regex, row.chunk_size, row.float_format
    except TensorKeepError as error:
        raise ArgumentError(
            f"the argument 'options' is no serialized SerializationOptions: {error.problem}",
            where=where,
            cure="Make one with serialization_options(...).",
        ) from error
    return rows


def chunk_size_row(chunk_size: int) -> Message:
    """Turn Save's chunk_size argument into the row that catches what no other row does.

    The argument says 0 for "never" and -1 for "the default"; a row says the reverse.

    >>> chunk_size_row(0).chunk_size, chunk_size_row(-1).chunk_size, chunk_size_row(5).chunk_size
    (-1, 0, 5)
    """
    size = {0: -1, -1: 0}.get(chunk_size, chunk_size)
    return Message(BLOB_SERIALIZATION_OPTIONS, chunk_size=size)
