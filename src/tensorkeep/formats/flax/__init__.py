"""flax: a nesting as Flax serializes it, one msgpack value (see tensorkeep.wire.msgpack).

Maps, lists, None, bools, numbers, text and bytes are msgpack's own. What it lacks is an extension,
whose bytes are msgpack again:

    1   an array: [SHAPE, DTYPE NAME, BYTES], in C order and little endian
    2   a complex number: [RE, IM]
    3   a NumPy scalar, written as an array without axes is

An array of more than 2**30 bytes is a map in its place, of flat arrays to be joined:
`{"__msgpack_chunked_array__": true, "shape": {"0": N, ...}, "chunks": {"0": ARRAY, ...}}`.

What `encode` writes is, byte for byte, what flax.serialization.to_bytes gives of the same nesting:
it holds nothing of ours, since `from_bytes` refuses keys that it does not look for. So metadata and
what msgpack has no kind for is told by `losses`. Flax makes no difference between arrays of JAX and
of NumPy, and neither does a state that is read from here.

`flax_model.msgpack.index.json`, the index of shards that Hugging Face's tools wrote, is read as one
state. Facts from Flax 0.12 and from its files on the Hugging Face Hub.
"""

from __future__ import annotations

from tensorkeep.dtypes import DTYPES, STRING
from tensorkeep.errors import TensorKeepError
from tensorkeep.format import Format
from tensorkeep.formats.flax.reading import decode_file
from tensorkeep.formats.flax.shards import INDEX, decode_index
from tensorkeep.formats.flax.writing import encode, losses
from tensorkeep.state import State
from tensorkeep.store import Location
from tensorkeep.wire.msgpack import Extension, Walk

_ENDING = ".msgpack"
_LOOK = 64  # values that have to make sense


def accepts(location: Location) -> bool:
    """A msgpack map with text for keys and an array in it, or any where the name says msgpack."""
    if location.name.endswith(INDEX):
        return location.head.lstrip()[:1] == b"{"
    head = location.head
    named = location.suffix == _ENDING
    if not head or not (_is_map(head) or (named and head[0] in _NAMED)):
        return False
    look = _Look(location.source, most=_LOOK)
    try:
        look.whole()
    except StopIteration:
        return named or look.arrays > 0
    except TensorKeepError:
        return False
    return named or look.arrays > 0


_NAMED = {*range(0x90, 0xA0), 0xDC, 0xDD, *range(0xC7, 0xCA), *range(0xD4, 0xD9)}


def _is_map(head: bytes) -> bool:
    """Say whether bytes start as a map does whose first key is text, or that is empty."""
    after = {0xDE: 3, 0xDF: 5}.get(head[0], 1)
    key = head[after : after + 1]
    if not (0x80 <= head[0] <= 0x8F or after > 1):
        return False
    return head == b"\x80" or (key != b"" and (0xA0 <= key[0] <= 0xBF or 0xD9 <= key[0] <= 0xDB))


class _Look(Walk):
    """A walk that ends early, and counts arrays."""

    arrays = 0

    def value(self, depth: int = 0) -> object:
        if self._most <= 1:
            raise StopIteration
        found = super().value(depth)
        if isinstance(found, Extension):
            self.arrays += found.code in (1, 3)
        return found


def decode(location: Location) -> State:
    """Walk the file, or the index's shards, passing over the arrays' bytes."""
    if location.name.endswith(INDEX):
        return decode_index(location)
    return decode_file(location)


def instead(location: Location) -> Location | None:
    """Give the index of the shards that a name stands for."""
    if location.suffix != _ENDING:
        return None
    index = location.beside(location.name.removesuffix(_ENDING) + INDEX)
    return index if any(True for _ in index.store.keys(index.key)) else None


FORMAT = Format(
    name="flax",
    suffixes=(_ENDING, INDEX),
    accepts=accepts,
    decode=decode,
    encode=encode,
    instead=instead,
    losses=losses,
    holds=frozenset(DTYPES.values()) - {STRING},
    sharded="an index",
)

__all__ = ["FORMAT"]
