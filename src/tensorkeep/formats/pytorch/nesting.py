"""A State's nesting as the values that a pickle for PyTorch is written from.

What PyTorch's restricted reader cannot make becomes what comes nearest: a named tuple a tuple, a
deque a list, a frozenset a set, a defaultdict a dict, a range its three numbers, long bytes and
NumPy's scalars tensors.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from tensorkeep.errors import CorruptError, TensorKeepError
from tensorkeep.state import State
from tensorkeep.tree import ROOT, unflatten
from tensorkeep.tree.vocabulary import is_plain, part_of
from tensorkeep.wire.pickle.writing import LONGEST_INT, Call, Global, int_size

_BUILTINS = "__builtin__"  # as pickles of protocol 2 call it
SET = Global(_BUILTINS, "set")
BYTEARRAY = Global(_BUILTINS, "bytearray")
COMPLEX = Global(_BUILTINS, "complex")
COUNTER = Global("collections", "Counter")
ENCODE = Global("_codecs", "encode")
SIZE = Global("torch", "Size")
DEVICE = Global("torch", "device")

# The element types that restricted readers know by name.
TORCH_DTYPES = frozenset(
    {
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "bfloat16", "float32", "float64", "complex32", "complex64", "complex128"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
        *("float8_e8m0fnu", "float4_e2m1fn_x2"),
        *("qint8", "quint8", "qint32", "quint4x2", "quint2x4"),
    }
)


def picklable(state: State, leaf: Callable[[str], Any]) -> Any:
    """Build the values of a state's nesting, each tensor as `leaf` gives it for a name.

    Raises:
        CorruptError: the skeleton is not one, or names a tensor that is not there.
    """
    if state.skeleton is None or "tree" not in state.skeleton:
        return {name: leaf(name) for name in state}
    try:
        return _Walk(state, leaf).node(state.skeleton["tree"], ())
    except TensorKeepError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        problem = f"the nesting stored with it is broken: {error}"
        raise CorruptError(problem, where=state.where) from error


class _Walk:
    """One walk over a skeleton."""

    def __init__(self, state: State, leaf: Callable[[str], Any]) -> None:
        self.state = state
        self.leaf = leaf

    def node(self, tree: Any, path: tuple[str, ...]) -> Any:
        if isinstance(tree, str):
            if not tree.startswith("$") or tree.startswith("$$"):
                return tree.removeprefix("$")
            return self._tensor(tree, path)
        if isinstance(tree, list):
            return [self.node(child, (*path, str(i))) for i, child in enumerate(tree)]
        if not isinstance(tree, dict):
            return tree
        tag = next(iter(tree), "")
        if not tag.startswith("$"):
            return {key: self.node(child, (*path, key)) for key, child in tree.items()}
        build = _BUILDERS.get(tag)
        return self.plain(tree) if build is None else build(self, tree[tag], path)

    def _tensor(self, leaf: Any, path: tuple[str, ...]) -> Any:
        own = ".".join(path) if path else ROOT
        name = own if leaf == "$" else str(leaf).removeprefix("$:")
        if name not in self.state:
            raise CorruptError(
                f"the nesting names the tensor {name!r}, which is not there",
                where=self.state.where,
            )
        return self.leaf(name)

    def plain(self, tree: Any) -> Any:
        """Build a value that holds no tensor: a number, a key, an item of a set."""
        if isinstance(tree, str) and not tree.startswith("$"):
            return tree
        return _call(unflatten({"tree": tree}, {}, _no_tensor, self.state.where))

    def build_pairs(self, pairs: Any, path: tuple[str, ...]) -> dict[Any, Any]:
        built = {}
        for node, child in pairs:
            key = self.plain(node)
            if not is_plain(key):
                raise ValueError(f"{type(key).__name__} is in place of a key")
            built[key] = self.node(child, (*path, part_of(key)))
        return built

    def build_ordered(self, pairs: Any, path: tuple[str, ...]) -> Any:
        return OrderedDict(self.build_pairs(pairs, path))

    def build_counter(self, pairs: Any, path: tuple[str, ...]) -> Any:
        return Call(COUNTER, (self.build_pairs(pairs, path),))

    def build_list(self, items: Any, path: tuple[str, ...]) -> Any:
        return [self.node(item, (*path, str(i))) for i, item in enumerate(items)]

    def build_tuple(self, items: Any, path: tuple[str, ...]) -> Any:
        return tuple(self.build_list(items, path))

    def build_named(self, spec: Any, path: tuple[str, ...]) -> Any:
        _, _, fields = spec
        return tuple(self.node(child, (*path, field)) for field, child in fields.items())

    def build_set(self, items: Any, path: tuple[str, ...]) -> Any:
        return Call(SET, ([self.plain(item) for item in items],))

    def build_bytes(self, told: Any, path: tuple[str, ...]) -> Any:
        return self._raw("$bytes", told, path)

    def build_bytearray(self, told: Any, path: tuple[str, ...]) -> Any:
        return self._raw("$bytearray", told, path)

    def _raw(self, tag: str, told: Any, path: tuple[str, ...]) -> Any:
        return self._tensor(told, path) if told[:1] == "$" else self.plain({tag: told})

    def build_range(self, parts: Any, path: tuple[str, ...]) -> Any:
        return tuple(self.plain(part) for part in parts)

    def build_torch(self, spec: Any, path: tuple[str, ...]) -> Any:
        kind, told = spec
        if kind == "size":
            return Call(SIZE, (tuple(told),))
        told = self.plain(told)
        if kind == "dtype":
            return Global("torch", told) if told in TORCH_DTYPES else told
        device, _, index = told.partition(":")
        return Call(DEVICE, (device, int(index)) if index else (device,))


_BUILDERS: dict[str, Callable[[_Walk, Any, tuple[str, ...]], Any]] = {
    "$array": _Walk._tensor,
    "$scalar": _Walk._tensor,
    "$tuple": _Walk.build_tuple,
    "$namedtuple": _Walk.build_named,
    "$deque": _Walk.build_list,
    "$set": _Walk.build_set,
    "$frozenset": _Walk.build_set,
    "$dict": _Walk.build_pairs,
    "$ordereddict": _Walk.build_ordered,
    "$defaultdict": _Walk.build_pairs,
    "$counter": _Walk.build_counter,
    "$bytes": _Walk.build_bytes,
    "$bytearray": _Walk.build_bytearray,
    "$range": _Walk.build_range,
    "$torch": _Walk.build_torch,
}


def _call(value: Any) -> Any:
    """Give what makes a value that pickles of protocol 2 have no opcode for."""
    if type(value) is bytes:
        return Call(ENCODE, (value.decode("latin1"), "latin1"))
    if type(value) is bytearray:
        return Call(BYTEARRAY, (_call(bytes(value)),))
    if type(value) is complex:
        return Call(COMPLEX, (value.real, value.imag))
    return value


def _no_tensor(name: str, framework: str, numpy: str) -> Any:
    raise ValueError("a tensor is in place of a plain value")


def misfits(state: State) -> list[str]:
    """Say what of a nesting a pickle for PyTorch cannot hold, a sentence each."""
    reached: set[str] = set()
    widest = 0

    def leaf(name: str) -> None:
        reached.add(name)

    waiting = [picklable(state, leaf)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting.extend(value)
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
        elif type(value) is int:
            widest = max(widest, int_size(value))
    sentences = []
    if widest > LONGEST_INT:
        sentences.append(f"PyTorch reads integers of {LONGEST_INT} bytes; one has {widest:,}")
    if left := [name for name in state if name not in reached]:
        some = ", ".join(repr(name) for name in left[:3])
        sentences.append(f"its nesting does not hold {some}, and a PyTorch file is that nesting")
    return sentences
