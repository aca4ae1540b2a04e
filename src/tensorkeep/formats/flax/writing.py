"""From a state to msgpack, as Flax would write it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tensorkeep.dtypes import STRING
from tensorkeep.errors import ArgumentError, CorruptError, TensorKeepError, UnsupportedError
from tensorkeep.format import Stream
from tensorkeep.formats.flax.reading import ARRAY, CHUNKED, COMPLEX, SCALAR
from tensorkeep.formats.flax.shards import INDEX
from tensorkeep.state import Json, State
from tensorkeep.store import Chunk, Location
from tensorkeep.tensor import Tensor
from tensorkeep.tree import ROOT
from tensorkeep.tree.leaves import Path, part_of, scalar
from tensorkeep.wire.elements import wide_nbytes, wide_pieces
from tensorkeep.wire.msgpack import array_head, bytes_head, extension_head, map_head, pack

_LARGEST = 2**30  # bytes of an array that is not chunked
_SMALL = 1 << 16
_SHOWN = 5

Part = bytes | Tensor


def losses(state: State) -> list[str]:
    """Say what Flax has no place for: metadata, and all but dicts, lists, numbers and text."""
    plan = _Plan(state)
    plan.whole()
    lost = [f"the metadata ({', '.join(state.metadata)}) is lost"] if state.metadata else []
    lost += plan.lost[:_SHOWN]
    if len(plan.lost) > _SHOWN:
        lost.append(f"and {len(plan.lost) - _SHOWN:,} more such places")
    return lost


def encode(state: State, location: Location) -> Iterator[Stream]:
    """Write what flax.serialization.msgpack_restore and from_bytes read.

    Args:
        state: what to write.
        location: where to.

    Raises:
        UnsupportedError: a tensor of text, which Flax has no type for.
        ArgumentError: a key that Flax keeps for itself, or the name of an index.
    """
    if location.name.endswith(INDEX):
        raise ArgumentError(
            "is the name of an index of shards, which are read and not written",
            where=location.where,
            cure="Give a name in .msgpack.",
        )
    plan = _Plan(state)
    plan.whole()
    if plan.texts:
        raise UnsupportedError(
            f"Flax has no arrays of text, such as {plan.texts[0]!r}",
            where=location.where,
            cure="Leave it out, or use another format.",
        )
    size = sum(len(p) if isinstance(p, bytes) else wide_nbytes(p.dtype, p.size) for p in plan.parts)
    yield Stream(location.key, _chunks(plan.parts), size)


def _chunks(parts: list[Part]) -> Iterator[Chunk]:
    waiting = bytearray()
    for part in parts:
        if isinstance(part, bytes):
            waiting += part
        elif part.nbytes < _SMALL:
            for piece in wide_pieces(part):
                waiting += piece
        else:
            if waiting:
                yield bytes(waiting)
                waiting.clear()
            yield from wide_pieces(part)
        if len(waiting) >= _SMALL:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)


@dataclass
class _Plan:
    """What to write, in order, and what cannot be."""

    state: State
    parts: list[Part] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def whole(self) -> None:
        """Plan the state.

        Raises:
            CorruptError: its skeleton is not one.
        """
        try:
            self._whole()
        except TensorKeepError:
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            problem = f"the nesting stored with it is broken: {error}"
            raise CorruptError(problem, where=self.state.where) from error

    def _whole(self) -> None:
        skeleton = self.state.skeleton or {}
        if skeleton.get("framework", "numpy") not in ("numpy", "jax"):
            self.lost.append(f"that its arrays are those of {skeleton['framework']} is lost")
        if "tree" in skeleton:
            self.node(skeleton["tree"], ())
            return
        self.parts.append(map_head(len(self.state)))
        for name in self.state:
            self._key(scalar(name), ())
            self._tensor(name, (name,), ARRAY)

    def node(self, tree: Any, path: Path) -> None:
        """Plan a value of the skeleton."""
        if isinstance(tree, list):
            self._list(tree, path)
        elif isinstance(tree, dict):
            first = next(iter(tree), "")
            if first.startswith("$"):
                self._special(first, tree, path)
            else:
                self._map([[key, child] for key, child in tree.items()], path)
        elif isinstance(tree, str) and tree.startswith("$") and not tree.startswith("$$"):
            self._tensor(self._name(tree, path), path, ARRAY)
        else:
            self._plain(tree[1:] if isinstance(tree, str) and tree.startswith("$") else tree)

    def _special(self, kind: str, tree: dict[str, Any], path: Path) -> None:
        value = tree[kind]
        match kind:
            case "$array":
                if tree.get("framework", "numpy") not in ("numpy", "jax"):
                    self._lose(path, f"an array of {tree['framework']}")
                self._tensor(self._name(value, path), path, ARRAY)
            case "$scalar":
                self._tensor(self._name(value, path), path, SCALAR)
            case "$int":
                self._integer(int(value, 16), path)
            case "$float":
                self._plain(float(value))
            case "$complex":
                parts = [float(p["$float"]) if isinstance(p, dict) else float(p) for p in value]
                data = pack(parts)
                self.parts.append(extension_head(COMPLEX, len(data)) + data)
            case "$bytes" | "$bytearray":
                self._bytes(value, path)
                if kind == "$bytearray":
                    self._lose(path, "a bytearray")
            case "$dict":
                self._map(value, path)
            case _:
                self._degraded(kind, tree, path)

    def _degraded(self, kind: str, tree: dict[str, Any], path: Path) -> None:
        """Plan the nearest that there is to what msgpack has no kind for."""
        value = tree[kind]
        self._lose(path, f"a {kind[1:]}")
        if kind in ("$tuple", "$set", "$frozenset", "$deque", "$range"):
            self._list(value, path)
        elif kind in ("$ordereddict", "$defaultdict", "$counter"):
            self._map(value, path)
        elif kind == "$namedtuple":
            self._map([[key, child] for key, child in value[2].items()], path)
        elif kind == "$torch":
            self.node(value[1], path)
        else:
            raise CorruptError(f"nothing nests as {kind!r:.40}", where=self.state.where)

    def _list(self, items: list[Any], path: Path) -> None:
        self.parts.append(array_head(len(items)))
        for i, child in enumerate(items):
            self.node(child, (*path, str(i)))

    def _map(self, pairs: list[list[Any]], path: Path) -> None:
        self.parts.append(map_head(len(pairs)))
        for key, child in pairs:
            part = self._key(key, path)
            self.node(child, (*path, part))

    def _key(self, tree: Json, path: Path) -> str:
        key = _plain_key(tree)
        if key == CHUNKED:
            raise ArgumentError(
                f"Flax keeps the key {CHUNKED} for itself",
                where=".".join(path),
                cure="Rename it.",
            )
        if type(key) is tuple:
            self._lose(path, "a dict with tuples for keys")
            key = str(key)
        if type(key) is int and not -(2**63) <= key < 2**64:
            self._lose(path, "a dict with keys of more than 64 bits")
            key = part_of(key)
        self.parts.append(pack(key))
        return part_of(key)

    def _name(self, leaf: str, path: Path) -> str:
        return leaf[2:] if leaf.startswith("$:") else ".".join(path) if path else ROOT

    def _tensor(self, name: str, path: Path, code: int) -> None:
        tensor = self.state[name]
        if name in self.seen:
            self._lose(path, f"an array tied to {name!r}")
        self.seen.add(name)
        if tensor.dtype is STRING:
            self.texts.append(name)
            self._lose(path, "an array of text")
            return
        if wide_nbytes(tensor.dtype, tensor.size) > _LARGEST:
            self._chunked(tensor)
            return
        self._array(tensor, code)

    def _array(self, tensor: Tensor, code: int) -> None:
        size = wide_nbytes(tensor.dtype, tensor.size)
        head = array_head(3) + pack(list(tensor.shape)) + pack(tensor.dtype.name) + bytes_head(size)
        self.parts += [extension_head(code, len(head) + size) + head, tensor]

    def _chunked(self, tensor: Tensor) -> None:
        tensor.source.reach(tensor.offset, tensor.offset + tensor.nbytes)
        step = max(1, _LARGEST // tensor.dtype.numpy.itemsize)
        count = -(-tensor.size // step)
        shape = {str(axis): size for axis, size in enumerate(tensor.shape)}
        self.parts.append(
            map_head(3) + pack(CHUNKED) + pack(True) + pack("shape") + pack(shape) + pack("chunks")
        )
        self.parts.append(map_head(count))
        for i in range(count):
            length = min(step, tensor.size - i * step)
            offset = tensor.offset + tensor.dtype.nbytes(i * step)
            self.parts.append(pack(str(i)))
            self._array(Tensor(tensor.dtype, (length,), tensor.source, offset), ARRAY)

    def _bytes(self, value: str, path: Path) -> None:
        if value.startswith("$"):
            tensor = self.state[self._name(value, path)]
            self.parts += [bytes_head(tensor.nbytes), tensor]
            return
        try:
            data = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise CorruptError("bytes in its nesting are damaged", where=self.state.where) from None
        self.parts.append(bytes_head(len(data)) + data)

    def _integer(self, value: int, path: Path) -> None:
        if -(2**63) <= value < 2**64:
            self.parts.append(pack(value))
            return
        self._lose(path, "an integer of more than 64 bits")
        self.parts.append(pack(hex(value)))

    def _plain(self, value: Any) -> None:
        self.parts.append(pack(value))

    def _lose(self, path: Path, what: str) -> None:
        self.lost.append(f"{'.'.join(path) or 'the state'} is {what}, which is lost")


def _plain_key(tree: Any) -> Any:
    if isinstance(tree, dict):
        ((kind, value),) = tree.items()
        if kind == "$tuple":
            return tuple(map(_plain_key, value))
        return int(value, 16) if kind == "$int" else float(value)
    return tree[1:] if isinstance(tree, str) and tree.startswith("$") else tree
