"""darknet: the `.weights` of a Darknet network (YOLO), beside the `.cfg` that describes it.

    int32 MAJOR, MINOR, REVISION
    uint64 SEEN                 images seen in training; uint32 before version 0.2
    float32 ...                 the arrays of all layers, in the order of the .cfg

All little endian, with nothing between the arrays, and neither names nor a checksum: what is where
follows from the .cfg alone. It is the one with the same name beside the weights, or the only one in
the folder. Arrays are called `layer.000.convolutional.weight`; the .cfg is metadata. There is no
magic number, so that only files named .weights are taken for this.
"""

from __future__ import annotations

import math
import struct

from tensorkeep.dtypes import FLOAT32
from tensorkeep.errors import CorruptError, UnsupportedError
from tensorkeep.format import Format
from tensorkeep.formats.darknet.config import Section, find_config, read_config
from tensorkeep.formats.darknet.layers import Layer, follow
from tensorkeep.state import Json, State
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor

_VERSION = struct.Struct("<3i")
_WIDE = 2  # since version 0.2 a count is of 64 bits
_MAX_MINOR = 9
_FLOAT = 4


def accepts(location: Location) -> bool:
    """A file named .weights with the version of one."""
    if location.suffix != ".weights" or len(location.head) < _VERSION.size + _FLOAT:
        return False
    major, minor, revision = _VERSION.unpack_from(location.head)
    return bool(major == 0 and 0 <= minor <= _MAX_MINOR and 0 <= revision <= _MAX_MINOR)


def decode(location: Location) -> State:
    """Read the version and the .cfg, and find out where each array lies."""
    source, where = location.source, location.where
    if not accepts(location):
        raise UnsupportedError(
            f"does not start as the weights of Darknet 0.1 to 0.{_MAX_MINOR} do",
            where=where,
            cure="If it is of another program, say its format.",
        )
    major, minor, revision = _VERSION.unpack_from(location.head)
    width = 8 if major * 10 + minor >= _WIDE else 4
    start = _VERSION.size + width
    if source.size < start:
        raise CorruptError("ends within its header", where=where)
    seen = int.from_bytes(location.head[_VERSION.size : start], "little")
    config = find_config(location)
    try:
        sections = read_config(config)
        layers = _fitting(sections, source.size - start, location, config.name)
    finally:
        config.close()
    tensors: dict[str, Tensor] = {}
    at = start
    for number, (section, layer) in enumerate(zip(sections[1:], layers, strict=True)):
        for name, shape in layer.rows:
            tensor = Tensor(FLOAT32, shape, source, at)
            tensors[f"layer.{number:03}.{section.kind}.{name}"] = tensor
            at += tensor.nbytes
    about: dict[str, Json] = {
        "version": f"{major}.{minor}.{revision}",
        "seen": seen,
        "cfg": [{"section": part.kind, **part.options} for part in sections],
    }
    return State(
        tensors,
        metadata={"darknet": about},
        format="darknet",
        where=where,
        close=location.close,
    )


def _fitting(sections: list[Section], size: int, location: Location, config: str) -> list[Layer]:
    """Give the layers that take all the numbers, whichever fork the [batchnorm] layers are of.

    Raises:
        CorruptError: there are more numbers, or fewer.
    """
    layers = follow(sections, biases=False)
    needed = _count(layers)
    if _FLOAT * needed == size:
        return layers
    if any(section.kind == "batchnorm" for section in sections):
        others = follow(sections, biases=True)
        if _FLOAT * _count(others) == size:
            return others
    held = f"{size // _FLOAT:,}" + (f" and {size % _FLOAT} bytes" if size % _FLOAT else "")
    raise CorruptError(
        f"holds {held} numbers, but the layers of {config} have {needed:,}",
        where=location.where,
        cure="The file is cut short, or the .cfg is that of another network.",
    )


def _count(layers: list[Layer]) -> int:
    return sum(math.prod(shape) for layer in layers for _, shape in layer.rows)


FORMAT = Format(
    name="darknet",
    suffixes=(".weights",),
    accepts=accepts,
    decode=decode,
    encode=None,
    holds=frozenset({FLOAT32}),
    written_by="Darknet",
)
