"""protobuf: a state as one Protocol Buffers message of the schema `tensorkeep.proto`, beside this.

Any language reads it with code that `protoc` makes of the schema. A file is a State message:

    09 "tnsrkeep"            the magic number
    12 10 DIGEST             XXH3-128 of the header
    1a LENGTH HEADER         version, metadata, nesting, and name, type and shape of each tensor
    22 LENGTH CHUNK ...      which tensor, padding, and bytes that start at a multiple of 64

Since it is nothing but records of known length, it is also read one record at a time, which takes
no message of 2 GiB or more, the most that protobuf's own libraries parse.
"""

from __future__ import annotations

from tensorkeep.dtypes import DTYPES
from tensorkeep.format import Format
from tensorkeep.formats.protobuf.fields import MAGIC
from tensorkeep.formats.protobuf.reading import decode
from tensorkeep.formats.protobuf.unknown import losses
from tensorkeep.formats.protobuf.writing import encode
from tensorkeep.store import Location


def accepts(location: Location) -> bool:
    """A State message, whose first field is the magic number."""
    return location.head.startswith(MAGIC)


FORMAT = Format(
    name="protobuf",
    suffixes=(".tensors.pb", ".protobuf"),
    accepts=accepts,
    decode=decode,
    encode=encode,
    losses=losses,
    compares_digests=True,
    holds=frozenset(DTYPES.values()),
    checked_by="XXH3-128",
    sharded="chunks as messages",
)

__all__ = ["FORMAT"]
