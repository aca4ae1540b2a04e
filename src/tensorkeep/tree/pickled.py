"""From what a pickle holds to named tensors and a skeleton, with what cannot be kept told by place.

What is not Python's own is put to `look`, which a format hands in; it gives a Tensor, values to go
on with, or one of the records of this module. Nothing fails for a part that cannot be kept: that
part's data stays as far as it is plain, and a sentence says what is missing.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy.typing as npt

from tensorkeep.dtypes import UINT8
from tensorkeep.errors import CorruptError, UnsafeError, UnsupportedError
from tensorkeep.source import MemorySource
from tensorkeep.state import Json
from tensorkeep.tensor import Tensor
from tensorkeep.tree.flatten import INLINE_BYTES, is_utf8, order, text_dtype
from tensorkeep.tree.leaves import Leaves, Path, scalar
from tensorkeep.tree.vocabulary import FACTORIES, MAX_DEPTH, ROOT, is_plain, part_of
from tensorkeep.wire.pickle.arrays import PickledArray, PickledScalar
from tensorkeep.wire.pickle.values import CounterMap, DefaultMap, Known, Opaque, OrderedMap

# How much is written out, what stands in several places each time: so much, and a multiple of what
# the pickle has in bytes.
_NODES, _NODES_EACH = 1 << 19, 4
_LETTERS, _LETTERS_EACH = 1 << 26, 16
_PYTHON_2 = {"long": "int", "unicode": "str"}  # what protocols up to 2 call them
_SHOWN = 3  # places of one problem that a sentence names


class Verbatim(NamedTuple):
    """A value that the skeleton says in words of its own."""

    node: Json


class Unkept(NamedTuple):
    """A value that cannot be kept: why, and what of it is data all the same."""

    problem: str
    data: Any = None


class Nested(NamedTuple):
    """What a pickle holds.

    Args:
        tensors: by name.
        skeleton: how they nest; None for a flat dict of tensors.
        refused: what cannot be kept, a sentence each.
        attributes: what ordered dicts carried besides their items, by place.
    """

    tensors: dict[str, Tensor]
    skeleton: dict[str, Json] | None
    refused: tuple[str, ...]
    attributes: dict[str, Any]


Look = Callable[[Any, str], Any]


def nest_pickled(value: Any, look: Look, where: str, size: int = 1 << 20) -> Nested:
    """Name the tensors of a pickle's value, and describe how they nest.

    Args:
        value: what `read_pickle` gave.
        look: gives what a value that is not plain stands for, and takes its place; the value
            itself where it knows no more than this module.
        where: names the file in messages.
        size: the bytes of the pickle, which bounds what may come out of it.

    Raises:
        UnsafeError: written out, it would be far larger than the file.

    >>> nest_pickled({"a": [1, Opaque("os", "system", ("ls",))]}, lambda v, _: v, "a.pkl")[1:3]
    ({'tree': {'a': [1, {'$tuple': ['ls']}]}}, ("'a.1' would need os.system",))
    """
    walk = _Walk(look, where, size)
    tree = walk.node(value, ())
    flat = isinstance(tree, dict) and type(value) is dict and all(n == "$" for n in tree.values())
    if type(value) is OrderedMap and isinstance(tree, dict):  # in order, as every dict is
        pairs = tree["$ordereddict"]
        if all(leaf == "$" and key[:1] != "$" for key, leaf in pairs if isinstance(key, str)):
            flat = all(isinstance(key, str) for key, _ in pairs)
    skeleton = None if flat else {"tree": tree}
    return Nested(walk.leaves.tensors, skeleton, walk.sentences(), walk.attributes)


class _Walk:
    def __init__(self, look: Look, where: str, size: int) -> None:
        self.look = look
        self.where = where
        self.leaves = Leaves()
        self.attributes: dict[str, Any] = {}
        self._names: dict[int, str] = {}  # of tensors that may stand in several places
        self._arrays: dict[int, tuple[Any, Tensor]] = {}
        self._longs: dict[int, tuple[bytes | bytearray, Tensor]] = {}
        self._around: set[int] = set()  # the containers that the walk is inside of
        self._problems: dict[str, list[str]] = {}
        self._nodes = self._most_nodes = _NODES + _NODES_EACH * size
        self._letters = self._most_letters = _LETTERS + _LETTERS_EACH * size

    def node(self, value: Any, path: Path) -> Any:
        """Give the skeleton of a value, and keep its tensors."""
        if isinstance(value, Tensor):  # by far the most frequent
            return self._keep(value, path)
        self._nodes -= 1
        if self._nodes < 0:
            raise self._bomb(f"{self._most_nodes:,} values")
        leaf = _LEAVES.get(type(value))
        if leaf is not None:
            return leaf(self, value, path)
        walk = _CONTAINERS.get(type(value))
        if walk is None:
            return self._other(value, path)
        if id(value) in self._around:
            return self._unkept(path, "holds itself")
        if len(path) > MAX_DEPTH or len(self._around) > MAX_DEPTH:
            return self._unkept(path, f"is nested deeper than {MAX_DEPTH} levels")
        self._around.add(id(value))
        found = walk(self, value, path)
        self._around.discard(id(value))
        return found

    def sentences(self) -> tuple[str, ...]:
        """Say what could not be kept, one sentence for all places of a problem."""
        told = []
        for problem, places in self._problems.items():
            shown = ", ".join(places[:_SHOWN])
            more = f" and {len(places) - _SHOWN:,} more" if len(places) > _SHOWN else ""
            told.append(f"{shown}{more} {problem}")
        return tuple(told)

    # --- values that are not plain ---

    def _other(self, value: Any, path: Path) -> Any:
        place = ".".join(path)
        self._count(len(place))
        found = self.look(value, place)
        if isinstance(found, Tensor):
            return self._keep(found, path)
        if found is not value:
            if type(found) is Verbatim:
                return found.node
            if type(found) is not Unkept:
                return self._inside(value, found, path)
            self._note(path, found.problem)
            return None if found.data is None else self._inside(value, found.data, path)
        if type(value) is Known or (type(value) is Opaque and value.args is None):
            return self._unkept(path, f"would need {_named(value)}")
        if type(value) is Opaque:
            self._note(path, f"would need {_named(value)}")
            return self._inside(value, _data_of(value), path)
        return self._unkept(path, f"is a {type(value).__name__}, which is not kept")

    def _inside(self, value: Any, data: Any, path: Path) -> Any:
        """Go on with what stands for a value."""
        if id(value) in self._around:
            return self._unkept(path, "holds itself")
        if len(self._around) > MAX_DEPTH:
            return self._unkept(path, f"is nested deeper than {MAX_DEPTH} levels")
        self._around.add(id(value))
        found = self.node(data, path)
        self._around.discard(id(value))
        return found

    def _unkept(self, path: Path, problem: str) -> None:
        """Note a value of which nothing is kept."""
        self._note(path, problem)

    def _note(self, path: Path, problem: str) -> None:
        self._count(sum(map(len, path)))
        self._problems.setdefault(problem, []).append(_place(path))

    # --- leaves ---

    def _scalar(self, value: Any, path: Path) -> Any:
        return scalar(value)

    def _int(self, value: int, path: Path) -> Any:
        self._count(value.bit_length() >> 2)  # what hex takes
        return scalar(value)

    def _range(self, value: range, path: Path) -> Any:
        return {"$range": [self._int(n, path) for n in (value.start, value.stop, value.step)]}

    def _text(self, value: str, path: Path) -> Any:
        self._count(len(value))
        if not value.isascii() and not is_utf8(value):
            return self._unkept(path, "is text with a lone surrogate")
        return scalar(value)

    def _bytes(self, value: bytes, path: Path) -> Any:
        return {"$bytes": self._raw(value, path)}

    def _bytearray(self, value: bytearray, path: Path) -> Any:
        return {"$bytearray": self._raw(value, path)}

    def _raw(self, value: bytes | bytearray, path: Path) -> str:
        if len(value) <= INLINE_BYTES:
            self._count(2 * len(value))
            return base64.b64encode(value).decode()
        found = self._longs.get(id(value))  # the same one wherever it stands, as arrays are
        if found is None:
            tensor = Tensor(UINT8, (len(value),), MemorySource(value, self.where))
            found = self._longs[id(value)] = value, tensor
        return self._keep(found[1], path)

    def _array(self, value: PickledArray, path: Path) -> Any:
        try:
            array, tensor = self._tensor_of(value)
        except UnsupportedError as error:
            return self._unkept(path, f"is {error.problem}")
        text = {"numpy": text_dtype(array)} if array.dtype.kind in "US" else {}
        leaf = self._keep(tensor, path)
        return {"$array": leaf, **text} if text else leaf

    def _numpy_scalar(self, value: PickledScalar, path: Path) -> Any:
        try:
            array, tensor = self._tensor_of(value)
        except UnsupportedError as error:
            return self._unkept(path, f"is {error.problem}")
        text = {"numpy": text_dtype(array)} if array.dtype.kind in "US" else {}
        return {"$scalar": self._keep(tensor, path), **text}

    def _tensor_of(self, value: PickledArray | PickledScalar) -> tuple[npt.NDArray[Any], Tensor]:
        """Give an array's tensor; the same one wherever the array stands."""
        found = self._arrays.get(id(value))
        if found is None:
            try:
                array = value.numpy()
            except CorruptError as error:
                raise CorruptError(error.problem, where=self.where) from None
            found = self._arrays[id(value)] = array, Tensor.of(array, self.where)
        return found

    # --- containers ---

    def _list(self, value: Iterable[Any], path: Path) -> Any:
        return [self.node(item, (*path, str(i))) for i, item in enumerate(value)]

    def _tuple(self, value: tuple[Any, ...], path: Path) -> Any:
        return {"$tuple": self._list(value, path)}

    def _deque(self, value: deque[Any], path: Path) -> Any:
        kept = {"$deque": self._list(value, path)}
        return kept if value.maxlen is None else kept | {"maxlen": scalar(value.maxlen)}

    def _set(self, value: Iterable[Any], path: Path) -> Any:
        return {"$set": self._members(value, path)}

    def _frozenset(self, value: Iterable[Any], path: Path) -> Any:
        return {"$frozenset": self._members(value, path)}

    def _members(self, items: Iterable[Any], path: Path) -> list[Any]:
        kept = [item for item in items if self._is_key(item, path)]
        return [self.node(item, path) for item in sorted(kept, key=order)]

    def _dict(self, value: dict[Any, Any], path: Path) -> Any:
        if all(type(key) is str and key[:1] != "$" for key in value):
            return {
                key: self.node(child, (*path, key))
                for key, child in value.items()
                if self._is_key(key, path)
            }
        return {"$dict": self._pairs(value, path)}

    def _ordered(self, value: OrderedMap, path: Path) -> Any:
        if value.attributes is not None:
            self.attributes[".".join(path)] = value.attributes
        return {"$ordereddict": self._pairs(value, path)}

    def _default(self, value: DefaultMap, path: Path) -> Any:
        kept = {"$defaultdict": self._pairs(value, path)}
        factory = value.factory
        if factory is None:
            return kept
        builtin = type(factory) is Known and factory.module in ("builtins", "__builtin__")
        name = _PYTHON_2.get(factory.name, factory.name) if builtin else ""
        if name in FACTORIES:
            return kept | {"factory": name}
        called = _named(factory) if isinstance(factory, Known | Opaque) else "something"
        self._unkept(path, f"makes missing values by {called}")
        return kept

    def _counter(self, value: CounterMap, path: Path) -> Any:
        if all(type(count) is int for count in value.values()):
            return {"$counter": self._pairs(value, path)}
        return self._dict(value, path)

    def _pairs(self, value: dict[Any, Any], path: Path) -> list[Any]:
        return [
            [self.node(key, path), self.node(child, (*path, part_of(key)))]
            for key, child in value.items()
            if self._is_key(key, path)
        ]

    def _is_key(self, key: Any, path: Path) -> bool:
        if type(key) is str:
            self._count(len(key))
            if key.isascii() or is_utf8(key):
                return True
        elif is_plain(key):
            return True
        self._unkept(path, f"has a key or an item of type {type(key).__name__} that is not kept")
        return False

    # --- names ---

    def _keep(self, tensor: Tensor, path: Path) -> str:
        """Name a tensor, or give the name that it has already."""
        if id(tensor) in self._names:
            return f"$:{self._names[id(tensor)]}"
        self._count(sum(map(len, path)))
        leaf = self.leaves.keep(tensor, path)
        self._names[id(tensor)] = ".".join(path) if leaf == "$" and path else leaf[2:] or ROOT
        return leaf

    def _count(self, letters: int) -> None:
        self._letters -= letters
        if self._letters < 0:
            raise self._bomb(f"{self._most_letters:,} letters")

    def _bomb(self, much: str) -> UnsafeError:
        return UnsafeError(
            f"its pickle would grow to over {much}, since it repeats what it holds",
            where=self.where,
            cure="Do not trust it.",
        )


def _data_of(value: Opaque) -> Any:
    """Give what of an object is data: its attributes, its items, or what it is made of."""
    for part in (value.state, dict(value.pairs) or None, value.items or None, value.args or None):
        if part is not None:
            return part
    return None


def _named(value: Known | Opaque) -> str:
    path = value.path
    return path if len(path) <= 200 else f"{path[:197]}..."


def _place(path: Path) -> str:
    if not path:
        return "the whole"
    place = ".".join(path)
    return repr(place if len(place) <= 80 else f"{place[:77]}...")


_LEAVES: dict[type, Callable[[_Walk, Any, Path], Any]] = {
    type(None): _Walk._scalar,
    bool: _Walk._scalar,
    int: _Walk._int,
    float: _Walk._scalar,
    complex: _Walk._scalar,
    range: _Walk._range,
    str: _Walk._text,
    bytes: _Walk._bytes,
    bytearray: _Walk._bytearray,
    PickledArray: _Walk._array,
    PickledScalar: _Walk._numpy_scalar,
}
_CONTAINERS: dict[type, Callable[[_Walk, Any, Path], Any]] = {
    list: _Walk._list,
    tuple: _Walk._tuple,
    deque: _Walk._deque,
    set: _Walk._set,
    frozenset: _Walk._frozenset,
    dict: _Walk._dict,
    OrderedMap: _Walk._ordered,
    DefaultMap: _Walk._default,
    CounterMap: _Walk._counter,
}
