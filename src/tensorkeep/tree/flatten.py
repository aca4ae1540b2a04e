"""From a nesting to named tensors and a skeleton."""

from __future__ import annotations

import base64
import itertools
import math
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.errors import UnsupportedError
from tensorkeep.state import Json, name_problem
from tensorkeep.tensor import Tensor
from tensorkeep.tree import torch_values
from tensorkeep.tree.vocabulary import (
    EXACT_INT,
    FACTORIES,
    MAX_DEPTH,
    ROOT,
    float_text,
    is_plain,
    part_of,
)

INLINE_BYTES = 1024
_RESERVED = "__metadata__"
_PLAIN = "str, int, float, bool, None or tuples of them."

# Gives the framework's name and the values of an array-like leaf, or None for anything else.
ToArray = Callable[[Any, str], tuple[str, npt.NDArray[Any]] | None]


def flatten(value: Any, to_array: ToArray) -> tuple[dict[str, Tensor], dict[str, Json] | None]:
    """Turn nested containers into named tensors and a skeleton (None for a flat dict of arrays).

    Raises:
        UnsupportedError: something that cannot be kept, with its place in the nesting.

    >>> as_numpy = lambda v, _: ("numpy", v) if isinstance(v, np.ndarray) else None
    >>> tensors, skeleton = flatten({"a": {"b": np.ones(2)}, "step": 3}, as_numpy)
    >>> list(tensors), skeleton["tree"]
    (['a.b'], {'a': {'b': '$'}, 'step': 3})
    """
    walk = _Flatten(to_array)
    tree = walk.node(value, (), 0)
    skeleton: dict[str, Json] = {}
    if walk.usual not in ("", "numpy"):
        skeleton["framework"] = walk.usual
    if type(value) is not dict or any(leaf != "$" for leaf in tree.values()):
        skeleton["tree"] = tree
    return walk.tensors, skeleton or None


class _Flatten:
    """One walk over a nesting: the tensors found so far and the names they took."""

    def __init__(self, to_array: ToArray) -> None:
        self.to_array = to_array
        self.tensors: dict[str, Tensor] = {}
        self.usual = ""  # the framework of the first array, which leaves need not repeat
        self._kept: dict[tuple[Any, ...], tuple[str, np.dtype[Any] | None]] = {}
        self._alive: list[Any] = []  # so that no address is used twice

    def node(self, value: Any, path: tuple[str, ...], depth: int) -> Any:
        """Give the skeleton of a value, and keep its arrays."""
        if type(value) is np.ndarray:  # by far the most frequent, so asked first
            return self._array("numpy", value, path)
        if depth > MAX_DEPTH:
            raise self._refuse(
                path, f"is nested deeper than {MAX_DEPTH} levels", "Does a container hold itself?"
            )
        walk = _WALKERS.get(type(value))
        if walk is not None:
            return walk(self, value, path, depth)
        if isinstance(value, np.generic):
            if isinstance(value, np.str_ | np.bytes_) and value[-1:] in ("\0", b"\0"):
                raise self._refuse(
                    path, "is NumPy text that ends with NUL, which NumPy drops", "Use str or bytes."
                )
            scalar = np.asarray(value)
            special = {"numpy": text_dtype(scalar)} if scalar.dtype.kind in "US" else {}
            return {"$scalar": self._keep(scalar, path), **special}
        if isinstance(value, tuple) and _is_named(value):
            return self._namedtuple(value, path, depth)
        found = self.to_array(value, _place(path))
        if found is not None:
            return self._array(*found, path)
        told = torch_values.describe(value)
        if told is not None:
            return {"$torch": [told[0], self.node(told[1], path, depth)]}
        raise self._refuse(
            path,
            f"is a {type(value).__module__}.{type(value).__qualname__}, which is not kept",
            _cure(value),
        )

    def _array(self, framework: str, array: npt.NDArray[Any], path: tuple[str, ...]) -> Any:
        self.usual = self.usual or framework
        leaf = self._keep(array, path, tie=True)
        special: dict[str, Json] = {}
        if framework != self.usual:
            special["framework"] = framework
        if array.dtype.kind in "UST":
            special["numpy"] = text_dtype(array)
        return {"$array": leaf, **special} if special else leaf

    def _scalar(self, value: Any, path: tuple[str, ...], depth: int) -> Any:
        return value

    def _int(self, value: int, path: tuple[str, ...], depth: int) -> Any:
        return value if abs(value) < EXACT_INT else {"$int": hex(value)}

    def _float(self, value: float, path: tuple[str, ...], depth: int) -> Any:
        return value if math.isfinite(value) else {"$float": float_text(value)}

    def _complex(self, value: complex, path: tuple[str, ...], depth: int) -> Any:
        return {"$complex": [self._float(part, path, depth) for part in (value.real, value.imag)]}

    def _range(self, value: range, path: tuple[str, ...], depth: int) -> Any:
        parts = (value.start, value.stop, value.step)
        return {"$range": [self._int(part, path, depth) for part in parts]}

    def _bytes(self, value: bytes, path: tuple[str, ...], depth: int) -> Any:
        return {"$bytes": self._raw(value, path)}

    def _bytearray(self, value: bytearray, path: tuple[str, ...], depth: int) -> Any:
        return {"$bytearray": self._raw(value, path)}

    def _raw(self, value: bytes | bytearray, path: tuple[str, ...]) -> str:
        if len(value) <= INLINE_BYTES:
            return base64.b64encode(value).decode()
        return self._keep(np.frombuffer(value, np.uint8), path)

    def _list(self, value: Iterable[Any], path: tuple[str, ...], depth: int) -> Any:
        return [self.node(v, (*path, str(i)), depth + 1) for i, v in enumerate(value)]

    def _tuple(self, value: Iterable[Any], path: tuple[str, ...], depth: int) -> Any:
        return {"$tuple": self._list(value, path, depth)}

    def _deque(self, value: deque[Any], path: tuple[str, ...], depth: int) -> Any:
        kept = {"$deque": self._list(value, path, depth)}
        if value.maxlen is None:
            return kept
        return kept | {"maxlen": self._int(value.maxlen, path, depth)}

    def _set(self, value: Iterable[Any], path: tuple[str, ...], depth: int) -> Any:
        return {"$set": self._items(value, path, depth)}

    def _frozenset(self, value: Iterable[Any], path: tuple[str, ...], depth: int) -> Any:
        return {"$frozenset": self._items(value, path, depth)}

    def _items(self, items: Iterable[Any], path: tuple[str, ...], depth: int) -> list[Any]:
        """Give the items of a set in one order, so that equal sets are equal bytes."""
        kept = []
        for item in items:
            if not is_plain(item):
                problem = f"is a set with an item of type {type(item).__name__}"
                raise self._refuse(path, problem, f"Use a list, or {_PLAIN}")
            kept.append((item, self.node(item, path, depth + 1)))
        return [node for _, node in sorted(kept, key=lambda pair: order(pair[0]))]

    def _namedtuple(self, value: Any, path: tuple[str, ...], depth: int) -> Any:
        kind = type(value)
        if getattr(value, "__dict__", None):
            raise self._refuse(
                path, "is a named tuple with attributes of its own", "Keep them in a dict."
            )
        fields = {
            field: self.node(child, (*path, field), depth + 1)
            for field, child in zip(kind._fields, value, strict=True)
        }
        return {"$namedtuple": [kind.__module__, kind.__qualname__, fields]}

    def _text(self, text: str, path: tuple[str, ...], depth: int) -> str:
        if not text.isascii() and not is_utf8(text):
            raise self._refuse(
                path,
                "is a str with a lone surrogate, which is not text",
                "Encode it to bytes first.",
            )
        return f"${text}" if text.startswith("$") else text

    def _dict(self, value: dict[Any, Any], path: tuple[str, ...], depth: int) -> Any:
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {
                self._text(key, path, depth): self.node(child, (*path, key), depth + 1)
                for key, child in value.items()
            }
        return {"$dict": self._pairs(value, path, depth)}

    def _ordereddict(self, value: dict[Any, Any], path: tuple[str, ...], depth: int) -> Any:
        return {"$ordereddict": self._pairs(value, path, depth)}

    def _defaultdict(self, value: defaultdict[Any, Any], path: tuple[str, ...], depth: int) -> Any:
        kept = {"$defaultdict": self._pairs(value, path, depth)}
        factory = value.default_factory
        if factory is None:
            return kept
        for name, known in FACTORIES.items():
            if factory is known:
                return kept | {"factory": name}
        called = getattr(factory, "__name__", type(factory).__name__)
        raise self._refuse(
            path,
            f"is a defaultdict that makes missing values by {called}, which is not kept",
            f"Use dict(...), or one of {', '.join(FACTORIES)} for its default_factory.",
        )

    def _counter(self, value: Counter[Any], path: tuple[str, ...], depth: int) -> Any:
        for count in value.values():
            if type(count) is not int:
                problem = f"is a Counter with a count of type {type(count).__name__}"
                raise self._refuse(path, problem, "Use int for its counts, or dict(...).")
        return {"$counter": self._pairs(value, path, depth)}

    def _pairs(self, value: dict[Any, Any], path: tuple[str, ...], depth: int) -> list[Any]:
        pairs = []
        for key, child in value.items():
            if not is_plain(key):
                raise self._refuse(path, f"has a key of type {type(key).__name__}", f"Use {_PLAIN}")
            pairs.append(
                [
                    self.node(key, path, depth + 1),
                    self.node(child, (*path, part_of(key)), depth + 1),
                ]
            )
        return pairs

    def _keep(self, array: npt.NDArray[Any], path: tuple[str, ...], *, tie: bool = False) -> str:
        """Name an array's tensor, or find the one that already holds the same memory."""
        wanted = ".".join(path) if path else ROOT
        memory: tuple[Any, ...] = ()
        if tie and array.size:
            memory = (array.__array_interface__["data"][0], array.shape, array.strides)
            name, dtype = self._kept.get(memory, ("", None))
            if dtype is not None and dtype == array.dtype:
                return f"$:{name}"
        name = wanted if is_good_name(wanted) else f"tensor-{len(self.tensors)}"
        if name in self.tensors:
            numbered = (f"{name}~{i}" for i in itertools.count(2))
            name = next(n for n in numbered if n not in self.tensors)
        try:
            self.tensors[name] = Tensor.of(array)
        except UnsupportedError as error:
            raise self._refuse(path, error.problem, error.cure) from None
        if memory:
            self._kept[memory] = (name, array.dtype)
            self._alive.append(array)
        return "$" if name == wanted else f"$:{name}"

    def _refuse(self, path: tuple[str, ...], problem: str, cure: str) -> UnsupportedError:
        return UnsupportedError(problem, where=_place(path), cure=cure)


_WALKERS: dict[type, Callable[[_Flatten, Any, tuple[str, ...], int], Any]] = {
    type(None): _Flatten._scalar,
    bool: _Flatten._scalar,
    int: _Flatten._int,
    float: _Flatten._float,
    complex: _Flatten._complex,
    str: _Flatten._text,
    bytes: _Flatten._bytes,
    bytearray: _Flatten._bytearray,
    range: _Flatten._range,
    list: _Flatten._list,
    tuple: _Flatten._tuple,
    deque: _Flatten._deque,
    set: _Flatten._set,
    frozenset: _Flatten._frozenset,
    dict: _Flatten._dict,
    OrderedDict: _Flatten._ordereddict,
    defaultdict: _Flatten._defaultdict,
    Counter: _Flatten._counter,
}


def _cure(value: Any) -> str:
    name = type(value).__name__
    full = f"{type(value).__module__.partition('._')[0]}.{name}"
    return _CURES.get(full) or _CURES.get(name) or _ANY_CURE


_ANY_CURE = (
    "Turn it into arrays, numbers, text, dicts or lists; for a model, pass what its state_dict() "
    "gives."
)
_CURES = {
    "memoryview": "Use bytes(...).",
    "numpy.random.Generator": "Keep its bit_generator.state.",
    "torch.Generator": "Keep its get_state().",
    "torch.Size": "Use tuple(...).",
    "torch.device": "Use str(...).",
    "RandomState": "Keep its get_state().",
    "Random": "Keep its getstate().",
    "MaskedArray": "Keep its data and its mask as two arrays.",
}


def text_dtype(array: npt.NDArray[Any]) -> str:
    """Spell the NumPy type of an array of text, its byte order left out."""
    return "T" if array.dtype.kind == "T" else array.dtype.newbyteorder("<").str


def _is_named(value: tuple[Any, ...]) -> bool:
    """Say whether a tuple is a named one: a class with a field for each item."""
    fields = getattr(type(value), "_fields", None)
    return (
        type(fields) is tuple
        and len(fields) == len(value)
        and all(type(field) is str for field in fields)
    )


def order(key: Any) -> tuple[Any, ...]:
    """Give what sorts plain keys of any types: the name of the type, then the value."""
    kind = type(key).__name__
    if type(key) is tuple:
        return kind, *map(order, key)
    return (kind,) if key is None or key != key else (kind, key)


def _place(path: tuple[str, ...]) -> str:
    return ".".join(path) or "the state"


def is_utf8(text: str) -> bool:
    """Say whether a text has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_good_name(name: str) -> bool:
    """Say whether a tensor can be called so in every format."""
    return (name.isascii() or is_utf8(name)) and name != _RESERVED and not name_problem(name)
