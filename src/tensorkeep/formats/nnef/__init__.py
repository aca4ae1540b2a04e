"""NNEF: a model as a text, and each of its variables in a file of its own.

    model.nnef/graph.nnef        the graph; tensorkeep's notes are a comment in its first line
    model.nnef/graph.quant       what quantized tensors mean, where there are any
    model.nnef/conv1/filter.dat  a variable, by its label

The same in a tar archive, perhaps gzip-compressed, is the other format here. What is read of a
compressed one is unpacked on the way, and never to disk.

A state that is no model is kept as a graph of variables alone.

Facts from the NNEF 1.0.5 specification and from `nnef` 1.0.10.
"""

from __future__ import annotations

from tensorkeep.dtypes import DTYPES
from tensorkeep.format import Format
from tensorkeep.formats.nnef import tensor
from tensorkeep.formats.nnef.reading import (
    accepts,
    accepts_archive,
    decode,
    decode_archive,
    instead,
)
from tensorkeep.formats.nnef.writing import encode, encode_archive, losses
from tensorkeep.wire.nnef.tensors import STORABLE

_SAFE = "labels are paths in its own folder, and links are refused"

FORMAT = Format(
    name="nnef",
    suffixes=(".nnef",),
    accepts=accepts,
    decode=decode,
    encode=encode,
    instead=instead,
    losses=losses,
    holds=frozenset(DTYPES.values()),
    compares_digests=True,
    dialect="nnef",
    folder=True,
    sharded="a file for each tensor",
    checked_by="XXH3-128",
    safe_by=_SAFE,
)

ARCHIVE = Format(
    name="nnef-archive",
    suffixes=(".nnef.tgz", ".nnef.tar.gz", ".nnef.tar"),
    accepts=accepts_archive,
    decode=decode_archive,
    encode=encode_archive,
    losses=losses,
    holds=frozenset(DTYPES.values()),
    compares_digests=True,
    dialect="nnef",
    lazy=False,  # unless it is not compressed
    packed="gzip",
    checked_by="XXH3-128",
    safe_by="its members are read by their names alone, and links are refused",
)

ONE = Format(
    name="nnef-tensor",
    suffixes=(),
    accepts=tensor.accepts,
    decode=tensor.decode,
    encode=None,
    holds=STORABLE,
    written_by="saving a model, a file for each tensor",
)

__all__ = ["ARCHIVE", "FORMAT", "ONE"]
