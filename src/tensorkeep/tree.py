"""Nested containers and scalars as named tensors plus a JSON skeleton, and back.

The skeleton mirrors the nesting. Plain JSON values stand for themselves; a string that starts with
`$` is special:

    "$"                           the tensor named by the dotted path to here
    "$:NAME"                      the tensor NAME (tied tensors name the same one)
    "$$TEXT"                      the string "$TEXT"
    {"$array": LEAF, ...}         a tensor of another framework or NumPy type than the usual
    {"$scalar": LEAF}             a NumPy scalar, kept as a 0-d tensor
    {"$tuple": [...]}             a tuple
    {"$namedtuple": [MODULE, NAME, {FIELD: VALUE}]}
    {"$dict": [[KEY, VALUE]]}     a dict whose keys are not plain strings
    {"$ordereddict": [[KEY, VALUE]]}
    {"$int": "0x..."}, {"$float": "nan"}, {"$complex": [RE, IM]}
    {"$bytes": BASE64} or {"$bytes": LEAF}   short ones inline, long ones as a uint8 tensor

A flat dict of plain NumPy arrays needs no skeleton, so that its file is like anyone else's.
Reading one builds nothing but these types: a named tuple comes back as its own class only where
that class is already imported, else as an equal one made for it.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import math
import re
import sys
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from keyword import iskeyword
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.dtypes import STRING
from tensorkeep.errors import CorruptError, TensorKeepError, UnsupportedError
from tensorkeep.state import Json, name_problem
from tensorkeep.tensor import Tensor

ROOT = "array"
MAX_DEPTH = 100
_MAX_NAMED = 1000
_INLINE_BYTES = 1024
_RESERVED = "__metadata__"
_EXACT_INT = 2**53  # what JSON readers that use doubles still get right

# Gives the framework's name and the values of an array-like leaf, or None for anything else.
ToArray = Callable[[Any, str], tuple[str, npt.NDArray[Any]] | None]
# Gives the leaf for a tensor's name, its framework and its NumPy dtype (both "" for the usual).
FromTensor = Callable[[str, str, str], Any]


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
            special = {"numpy": _text_dtype(scalar)} if scalar.dtype.kind in "US" else {}
            return {"$scalar": self._keep(scalar, path), **special}
        if isinstance(value, tuple) and _is_named(value):
            return self._namedtuple(value, path, depth)
        found = self.to_array(value, _place(path))
        if found is None:
            raise self._refuse(
                path,
                f"is a {type(value).__module__}.{type(value).__qualname__}, which is not kept",
                _cure(value),
            )
        return self._array(*found, path)

    def _array(self, framework: str, array: npt.NDArray[Any], path: tuple[str, ...]) -> Any:
        self.usual = self.usual or framework
        leaf = self._keep(array, path, tie=True)
        special: dict[str, Json] = {}
        if framework != self.usual:
            special["framework"] = framework
        if array.dtype.kind in "UST":
            special["numpy"] = _text_dtype(array)
        return {"$array": leaf, **special} if special else leaf

    def _scalar(self, value: Any, path: tuple[str, ...], depth: int) -> Any:
        return value

    def _int(self, value: int, path: tuple[str, ...], depth: int) -> Any:
        return value if abs(value) < _EXACT_INT else {"$int": hex(value)}

    def _float(self, value: float, path: tuple[str, ...], depth: int) -> Any:
        return value if math.isfinite(value) else {"$float": repr(value)}

    def _complex(self, value: complex, path: tuple[str, ...], depth: int) -> Any:
        return {"$complex": [self._float(part, path, depth) for part in (value.real, value.imag)]}

    def _bytes(self, value: bytes, path: tuple[str, ...], depth: int) -> Any:
        if len(value) <= _INLINE_BYTES:
            return {"$bytes": base64.b64encode(value).decode()}
        return {"$bytes": self._keep(np.frombuffer(value, np.uint8), path)}

    def _list(self, value: Iterable[Any], path: tuple[str, ...], depth: int) -> Any:
        return [self.node(v, (*path, str(i)), depth + 1) for i, v in enumerate(value)]

    def _tuple(self, value: Iterable[Any], path: tuple[str, ...], depth: int) -> Any:
        return {"$tuple": self._list(value, path, depth)}

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
        if not text.isascii() and not _is_utf8(text):
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

    def _pairs(self, value: dict[Any, Any], path: tuple[str, ...], depth: int) -> list[Any]:
        pairs = []
        for key, child in value.items():
            if not _plain_key(key):
                raise self._refuse(
                    path,
                    f"has a key of type {type(key).__name__}",
                    "Use str, int, float, bool, None or tuples of them.",
                )
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
        name = wanted if _is_good_name(wanted) else f"tensor-{len(self.tensors)}"
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
    list: _Flatten._list,
    tuple: _Flatten._tuple,
    dict: _Flatten._dict,
    OrderedDict: _Flatten._ordereddict,
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
    "set": "Use a sorted list.",
    "frozenset": "Use a sorted list.",
    "bytearray": "Use bytes.",
    "defaultdict": "Use dict(...).",
    "numpy.random.Generator": "Keep its bit_generator.state.",
    "torch.Generator": "Keep its get_state().",
    "Size": "Use tuple(...).",
    "RandomState": "Keep its get_state().",
    "Random": "Keep its getstate().",
    "MaskedArray": "Keep its data and its mask as two arrays.",
}


def unflatten(
    skeleton: dict[str, Json] | None,
    tensors: Mapping[str, Tensor],
    from_tensor: FromTensor,
    where: str,
) -> Any:
    """Build the nesting that a skeleton describes, each leaf as `from_tensor` gives it.

    Raises:
        CorruptError: the skeleton is not one, or names a tensor that is not there.
    """
    usual = str(skeleton.get("framework", "")) if skeleton else ""
    if skeleton is None or "tree" not in skeleton:
        return {name: from_tensor(name, usual, "") for name in tensors}
    builder = _Unflatten(tensors, from_tensor, usual, where)
    try:
        return builder.node(skeleton["tree"], ())
    except (
        RecursionError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        SyntaxError,
    ) as error:
        if isinstance(error, TensorKeepError):
            raise
        raise CorruptError(f"the nesting stored with it is broken: {error}", where=where) from error


class _Unflatten:
    def __init__(
        self, tensors: Mapping[str, Tensor], from_tensor: FromTensor, usual: str, where: str
    ) -> None:
        self.tensors = tensors
        self.from_tensor = from_tensor
        self.usual = usual
        self.where = where
        self._built: dict[tuple[str, str], Any] = {}
        self._texts: dict[str, str] = {}
        self._bytes: dict[str, bytes] = {}
        self._wide = 0  # bytes that text types ask for beyond what their strings are worth
        self._named: set[tuple[str, ...]] = set()

    def node(self, tree: Any, path: tuple[str, ...]) -> Any:
        if isinstance(tree, str):
            if not tree.startswith("$"):
                return tree
            return tree[1:] if tree.startswith("$$") else self._leaf(tree, path, self.usual, "")
        if isinstance(tree, list):
            return [self.node(child, (*path, str(i))) for i, child in enumerate(tree)]
        if not isinstance(tree, dict):
            return tree
        tag = next(iter(tree), "")
        if not tag.startswith("$"):
            return {key: self.node(child, (*path, key)) for key, child in tree.items()}
        build = _BUILDERS.get(tag)
        if build is None:
            raise CorruptError(
                f"{tag!r} is not a kind of value known here",
                where=self.where,
                cure="A newer tensorkeep may know it.",
            )
        return build(self, tree[tag], path, tree)

    def _leaf(self, leaf: Any, path: tuple[str, ...], framework: str, numpy: str) -> Any:
        """Give a tensor; the same one wherever it is named, so that nothing is copied twice."""
        name = self._name(leaf, path)
        tensor = self.tensors.get(name)
        if tensor is None:
            raise CorruptError(
                f"the nesting names the tensor {name!r}, which is not there", where=self.where
            )
        if self._texts.setdefault(name, numpy) != numpy or not self._fits(tensor, numpy):
            raise CorruptError(
                f"the nesting gives the tensor {name!r} a text type that it cannot have",
                where=self.where,
            )
        key = (name, framework)
        if key not in self._built:
            self._built[key] = self.from_tensor(name, framework, numpy)
        return self._built[key]

    def _fits(self, tensor: Tensor, numpy: str) -> bool:
        """Say whether strings can be of a NumPy text type, without filling the memory with it."""
        if not numpy:
            return True
        width = _text_width(numpy)
        if width is None or tensor.dtype is not STRING:
            return False
        self._wide += max(0, tensor.size * width - _WIDE_RATIO * tensor.nbytes)
        return self._wide <= _WIDE

    def _name(self, leaf: Any, path: tuple[str, ...]) -> str:
        if leaf == "$":
            return ".".join(path) if path else ROOT
        return str(leaf)[2:] if str(leaf).startswith("$:") else ""

    def build_array(self, leaf: Any, path: tuple[str, ...], tree: dict[str, Any]) -> Any:
        framework = tree.get("framework", self.usual)
        return self._leaf(leaf, path, str(framework), str(tree.get("numpy", "")))

    def build_scalar(self, leaf: Any, path: tuple[str, ...], tree: dict[str, Any]) -> Any:
        tensor = self.tensors.get(self._name(leaf, path))
        if tensor is not None and tensor.shape:
            raise CorruptError(f"a scalar has the shape {tensor.shape}", where=self.where)
        return self._leaf(leaf, path, "numpy", str(tree.get("numpy", "")))[()]

    def build_tuple(self, items: Any, path: tuple[str, ...], tree: dict[str, Any]) -> Any:
        return tuple(self.node(items, path))

    def pairs(self, pairs: Any, path: tuple[str, ...]) -> Iterator[tuple[Any, Any]]:
        for key, child in pairs:
            built = self.node(key, path)
            yield built, self.node(child, (*path, part_of(built)))

    def build_dict(self, pairs: Any, path: tuple[str, ...], tree: Any) -> Any:
        return dict(self.pairs(pairs, path))

    def build_ordereddict(self, pairs: Any, path: tuple[str, ...], tree: Any) -> Any:
        return OrderedDict(self.pairs(pairs, path))

    def build_namedtuple(self, spec: Any, path: tuple[str, ...], tree: Any) -> Any:
        module, name, fields = spec
        self._named.add((module, name, *fields))
        if len(self._named) > _MAX_NAMED:
            raise CorruptError(f"it has over {_MAX_NAMED} kinds of named tuple", where=self.where)
        values = [self.node(child, (*path, field)) for field, child in fields.items()]
        return tuple.__new__(_namedtuple(module, name, tuple(fields)), values)

    def build_bytes(self, data: Any, path: tuple[str, ...], tree: Any) -> Any:
        if data.startswith("$"):
            name = self._name(data, path)
            if name not in self._bytes:
                self._bytes[name] = self._leaf(data, path, "numpy", "").tobytes()
            return self._bytes[name]
        try:
            return base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise CorruptError(f"bytes are not base64: {error}", where=self.where) from None


_BUILDERS: dict[str, Callable[[_Unflatten, Any, tuple[str, ...], Any], Any]] = {
    "$array": _Unflatten.build_array,
    "$scalar": _Unflatten.build_scalar,
    "$tuple": _Unflatten.build_tuple,
    "$dict": _Unflatten.build_dict,
    "$ordereddict": _Unflatten.build_ordereddict,
    "$namedtuple": _Unflatten.build_namedtuple,
    "$bytes": _Unflatten.build_bytes,
    "$int": lambda walk, text, path, tree: int(text, 16),
    "$float": lambda walk, text, path, tree: float(text),
    "$complex": lambda walk, parts, path, tree: complex(*walk.node(parts, path)),
}


def _namedtuple(module: str, name: str, fields: tuple[str, ...]) -> type[tuple[Any, ...]]:
    """Find the imported class, or make one alike. Nothing is imported and no code of it is run."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    if isinstance(found, type) and issubclass(found, tuple):
        named = (vars(kind)["_fields"] for kind in found.__mro__ if "_fields" in vars(kind))
        if next(named, None) == fields:
            return found
    return _made_namedtuple(name.rpartition(".")[2], fields)


@lru_cache(maxsize=256)
def _made_namedtuple(name: str, fields: tuple[str, ...]) -> type[tuple[Any, ...]]:
    for i, field in enumerate(fields):
        usable = field.isidentifier() and not iskeyword(field) and not field.startswith("_")
        if not usable and field != f"_{i}":  # what rename=True makes of a name it cannot use
            raise ValueError(f"{field!r} is no name of a field")
    return namedtuple(name, fields, rename=True)


_TEXT_TYPE = re.compile(r"T|([<|]U|\|S)(0|[1-9][0-9]{0,9})")
_WIDE, _WIDE_RATIO = 16 << 20, 64


def _text_width(numpy: str) -> int | None:
    """Give the bytes of an element of a NumPy text type at most; None where it is none."""
    match = _TEXT_TYPE.fullmatch(numpy)
    return None if match is None else 4 * int(match[2] or 0)


def _text_dtype(array: npt.NDArray[Any]) -> str:
    return "T" if array.dtype.kind == "T" else array.dtype.newbyteorder("<").str


def _is_named(value: tuple[Any, ...]) -> bool:
    """Say whether a tuple is a named one: a class with a field for each item."""
    fields = getattr(type(value), "_fields", None)
    return (
        type(fields) is tuple
        and len(fields) == len(value)
        and all(type(field) is str for field in fields)
    )


def part_of(key: Any) -> str:
    """Spell a key as a part of a tensor's name; huge integers in hex, which has no limit."""
    return hex(key) if type(key) is int and abs(key) >= _EXACT_INT else str(key)


def _plain_key(key: Any) -> bool:
    if type(key) is tuple:
        return all(map(_plain_key, key))
    return key is None or type(key) in (str, int, float, bool)


def _place(path: tuple[str, ...]) -> str:
    return ".".join(path) or "the state"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_good_name(name: str) -> bool:
    """Say whether a tensor can be called so in every format."""
    return (name.isascii() or _is_utf8(name)) and name != _RESERVED and not name_problem(name)
