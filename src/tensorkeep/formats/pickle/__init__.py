"""Plain pickles of data, Paddle's files and joblib's, read without running anything they name.

A pickle is read where all that it would call is on a list of functions of ours: Python's containers
and numbers, and NumPy's arrays, scalars and types. Arrays of 16 KiB or more stay in the file, as
windows on it. Anything else that a pickle names is told by name, and the rest is still data.
"""

from __future__ import annotations

from typing import Any

from tensorkeep.dtypes import DTYPES
from tensorkeep.errors import UnsupportedError
from tensorkeep.format import Format
from tensorkeep.formats.pickle.arrays import ALLOWED, look
from tensorkeep.formats.pickle.paddle import NAME_TABLE, is_paddle, unpacked
from tensorkeep.state import Json, State
from tensorkeep.store import Location
from tensorkeep.tree.pickled import nest_pickled
from tensorkeep.wire.pickle.lazy import read_pickle_lazily
from tensorkeep.wire.pickle.opcodes import HIGHEST

_PROTOCOL = 0x80
# What PyTorch wrote before it wrote zip archives starts with this number.
_PYTORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# What may follow the protocol: a frame, a container, a name, a number, text or bytes.
_FIRST = b"\x95})]\x8f(cNX\x8c\x8dBC\x8eGKMJ\x8a\x88\x89U."
_PACKED = {
    b"\x78\x01": "zlib",
    b"\x78\x5e": "zlib",
    b"\x78\x9c": "zlib",
    b"\x78\xda": "zlib",
    b"\x1f\x8b": "gzip",
    b"BZ": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x5d\x00": "lzma",
    b"\x04\x22\x4d\x18": "lz4",
    b"ZF": "an old version of joblib",
}


def accepts(location: Location) -> bool:
    """A pickle of protocol 2 or later that is not PyTorch's."""
    head = location.head
    return (
        len(head) > 2
        and head[0] == _PROTOCOL
        and 2 <= head[1] <= HIGHEST
        and head[2] in _FIRST
        and not head.startswith(_PYTORCH)
        and location.name != ".metadata"  # of a torch distributed checkpoint
    )


def decode(location: Location) -> State:
    """Read the pickle; large arrays stay where they are."""
    source, where = location.source, location.where
    for magic, name in _PACKED.items():
        if location.head.startswith(magic):
            raise UnsupportedError(
                f"is a pickle compressed by {name}, which is not read here",
                where=where,
                cure="Where you trust it, load it with joblib and dump it with compress=0.",
            )
    found = read_pickle_lazily(source, allowed=ALLOWED)
    if found.end != source.size:
        raise UnsupportedError(
            f"{source.size - found.end:,} bytes follow its pickle, which are not read here",
            where=where,
            cure="If several objects were pickled into it, put them into one list instead.",
        )
    value: Any = found.value
    metadata: dict[str, Json] = {}
    if is_paddle(value, location.suffix):
        value, named = unpacked(value, where)
        metadata = {NAME_TABLE: {**named}} if named else {}
    nested = nest_pickled(value, look, where, found.end)
    told = "\n".join(nested.refused)
    unplaced = [f"reading it would need {name}" for name in found.refused if name not in told]
    if nested.attributes:
        unplaced.append("an OrderedDict in it carries attributes, which are not kept")
    return State(
        nested.tensors,
        metadata=metadata,
        skeleton=nested.skeleton,
        refused=(*nested.refused, *unplaced),
        format="pickle",
        where=where,
        close=location.close,
    )


FORMAT = Format(
    name="pickle",
    suffixes=(".pkl", ".pickle", ".pdparams", ".pdopt", ".joblib"),
    accepts=accepts,
    decode=decode,
    encode=None,
    holds=frozenset(DTYPES.values()),
    written_by="pickle, joblib and paddle.save",
    safe_by="pickle is read as data, by an allow list",
)

__all__ = ["FORMAT"]
