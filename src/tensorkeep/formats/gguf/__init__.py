"""GGUF: the models of llama.cpp, Ollama and LM Studio; versions 1 to 3, of either byte order.

    "GGUF"  version: u32  tensors: u64  keys: u64
    keys      key: text, type: u32, value            text is a length (u64) and UTF-8
    tensors   name: text, axes: u32, sizes: u64 each (the fastest first), type: u32, offset: u64
    data      from the next multiple of general.alignment (32); offsets count from there

In version 1 counts and lengths are u32. A model in several files names them
`NAME-00001-of-00003.gguf`, and `split.no`, `split.count` and `split.tensors.count` in each say
which part it is; any of them opens the whole.

Tensors of block-quantized types are kept as the blocks that they are. The metadata are the keys,
those of a type that their values do not tell spelt under `gguf.types` (see values.py). What GGUF
has no type for, the nesting and the digests are noted in one more key, `tensorkeep`.

Facts from ggml's document on GGUF and from its Python package `gguf`, version 0.19.
"""

from __future__ import annotations

from tensorkeep.dtypes import BLOCKS, DTYPES
from tensorkeep.format import Format
from tensorkeep.formats.gguf.header import MAGIC
from tensorkeep.formats.gguf.reading import PART, decode
from tensorkeep.formats.gguf.writing import encode, losses
from tensorkeep.store import Location


def accepts(location: Location) -> bool:
    """The four letters that it starts with."""
    return location.head.startswith(MAGIC)


def instead(location: Location) -> Location | None:
    """Give the first part of the split model that a name stands for."""
    if location.suffix != ".gguf":
        return None
    found = []
    for key in location.store.keys(location.key[: -len(".gguf")] + "-"):
        part = PART.fullmatch(key)
        if part and f"{part[1]}.gguf" == location.key and int(part[2]) == 1:
            found.append(key)
    return Location(location.store, found[0]) if len(found) == 1 else None


FORMAT = Format(
    name="gguf",
    suffixes=(".gguf",),
    accepts=accepts,
    decode=decode,
    encode=encode,
    instead=instead,
    losses=losses,
    holds=frozenset(DTYPES.values()) | frozenset(BLOCKS.values()),
    checked_by="XXH3-128",
    sharded="numbered parts",
)
