"""From named tensors and a skeleton to the nesting."""

from __future__ import annotations

import base64
import binascii
import re
import sys
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from keyword import iskeyword
from typing import Any

import numpy as np

from tensorkeep.dtypes import STRING, UINT8
from tensorkeep.errors import CorruptError, TensorKeepError
from tensorkeep.state import Json
from tensorkeep.tensor import Tensor
from tensorkeep.tree import torch_values
from tensorkeep.tree.vocabulary import FACTORIES, ROOT, is_plain, part_of

_MAX_NAMED = 1000

# Gives the leaf for a tensor's name, its framework and its NumPy dtype (both "" for the usual).
FromTensor = Callable[[str, str, str], Any]


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
        OverflowError,
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
        self._bytes: dict[tuple[str, type], Any] = {}
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

    def build_deque(self, items: Any, path: tuple[str, ...], tree: dict[str, Any]) -> Any:
        built, maxlen = self._list(items, path), self.node(tree.get("maxlen"), path)
        if maxlen is not None and not (type(maxlen) is int and len(built) <= maxlen <= sys.maxsize):
            raise CorruptError(
                f"a deque of {len(built)} has {maxlen!r:.40} for its maxlen", where=self.where
            )
        return deque(built, maxlen)

    def build_set(self, items: Any, path: tuple[str, ...], tree: Any) -> Any:
        return self._items(items, path, set)

    def build_frozenset(self, items: Any, path: tuple[str, ...], tree: Any) -> Any:
        return self._items(items, path, frozenset)

    def _items(self, items: Any, path: tuple[str, ...], kind: type[Any]) -> Any:
        listed = self._list(items, path)
        built = kind(listed)
        if len(built) != len(listed) or not all(map(is_plain, built)):
            raise CorruptError("a set has items that it cannot have", where=self.where)
        return built

    def _list(self, items: Any, path: tuple[str, ...]) -> list[Any]:
        if type(items) is not list:
            raise CorruptError(f"a {type(items).__name__} is in place of a list", where=self.where)
        return [self.node(item, (*path, str(i))) for i, item in enumerate(items)]

    def pairs(self, pairs: Any, path: tuple[str, ...]) -> Iterator[tuple[Any, Any]]:
        for key, child in pairs:
            built = self.node(key, path)
            yield built, self.node(child, (*path, part_of(built)))

    def build_dict(self, pairs: Any, path: tuple[str, ...], tree: Any) -> Any:
        return dict(self.pairs(pairs, path))

    def build_ordereddict(self, pairs: Any, path: tuple[str, ...], tree: Any) -> Any:
        return OrderedDict(self.pairs(pairs, path))

    def build_defaultdict(self, pairs: Any, path: tuple[str, ...], tree: dict[str, Any]) -> Any:
        name = tree.get("factory")
        factory = None if name is None else FACTORIES.get(name)
        if name is not None and factory is None:
            raise CorruptError(
                f"a defaultdict makes missing values by {name!r:.40}", where=self.where
            )
        return defaultdict(factory, self._unique(pairs, path))

    def build_counter(self, pairs: Any, path: tuple[str, ...], tree: Any) -> Any:
        counts = self._unique(pairs, path)
        if not all(type(count) is int for count in counts.values()):
            raise CorruptError("a Counter has counts that are no integers", where=self.where)
        return Counter(counts)

    def _unique(self, pairs: Any, path: tuple[str, ...]) -> dict[Any, Any]:
        built = dict(self.pairs(pairs, path))
        if type(pairs) is not list or len(built) != len(pairs) or not all(map(is_plain, built)):
            raise CorruptError("a dict has keys that it cannot have", where=self.where)
        return built

    def build_range(self, parts: Any, path: tuple[str, ...], tree: Any) -> Any:
        built = self._list(parts, path)
        if len(built) != 3 or any(type(part) is not int for part in built):
            raise CorruptError("a range is not of three integers", where=self.where)
        return range(*built)

    def build_namedtuple(self, spec: Any, path: tuple[str, ...], tree: Any) -> Any:
        module, name, fields = spec
        self._named.add((module, name, *fields))
        if len(self._named) > _MAX_NAMED:
            raise CorruptError(f"it has over {_MAX_NAMED} kinds of named tuple", where=self.where)
        values = [self.node(child, (*path, field)) for field, child in fields.items()]
        return tuple.__new__(_namedtuple(module, name, tuple(fields)), values)

    def build_bytes(self, data: Any, path: tuple[str, ...], tree: Any) -> Any:
        return self._raw(data, path, bytes)

    def build_bytearray(self, data: Any, path: tuple[str, ...], tree: Any) -> Any:
        return self._raw(data, path, bytearray)

    def _raw(self, data: Any, path: tuple[str, ...], kind: type[bytes | bytearray]) -> Any:
        if data.startswith("$"):
            key = self._name(data, path), kind
            if key not in self._bytes:
                self._bytes[key] = self._raw_leaf(data, path, kind)
            return self._bytes[key]
        try:
            return kind(base64.b64decode(data, validate=True))
        except binascii.Error as error:
            raise CorruptError(f"bytes are not base64: {error}", where=self.where) from None

    def _raw_leaf(self, leaf: str, path: tuple[str, ...], kind: type[bytes | bytearray]) -> Any:
        tensor = self.tensors.get(self._name(leaf, path))
        if tensor is not None and tensor.dtype is not UINT8:
            raise CorruptError(f"bytes are a tensor of {tensor.dtype}", where=self.where)
        array = self._leaf(leaf, path, "numpy", "")
        if not hasattr(array, "tobytes"):  # of a framework that was asked for
            array = np.asarray(array.cpu())
        found = array.tobytes()
        return kind(found) if isinstance(found, bytes) else found  # `diff` puts stand-ins there

    def build_torch(self, spec: Any, path: tuple[str, ...], tree: Any) -> Any:
        kind, told = spec
        return torch_values.build(kind, self.node(told, path))


_BUILDERS: dict[str, Callable[[_Unflatten, Any, tuple[str, ...], Any], Any]] = {
    "$array": _Unflatten.build_array,
    "$scalar": _Unflatten.build_scalar,
    "$tuple": _Unflatten.build_tuple,
    "$namedtuple": _Unflatten.build_namedtuple,
    "$deque": _Unflatten.build_deque,
    "$set": _Unflatten.build_set,
    "$frozenset": _Unflatten.build_frozenset,
    "$dict": _Unflatten.build_dict,
    "$ordereddict": _Unflatten.build_ordereddict,
    "$defaultdict": _Unflatten.build_defaultdict,
    "$counter": _Unflatten.build_counter,
    "$range": _Unflatten.build_range,
    "$bytes": _Unflatten.build_bytes,
    "$bytearray": _Unflatten.build_bytearray,
    "$torch": _Unflatten.build_torch,
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
