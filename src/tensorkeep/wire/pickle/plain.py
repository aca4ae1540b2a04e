"""The names of Python's own that a pickle of plain data uses, each with a pure function of ours."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from tensorkeep.errors import CorruptError, UnsafeError
from tensorkeep.wire.pickle.stack import can_hash_alike
from tensorkeep.wire.pickle.values import CounterMap, DefaultMap, Known, Opaque, OrderedMap

_WHERE = "the pickle"
_ITEMS = (list, tuple, set, frozenset, bytes, bytearray, dict)
_MAX_ALIKE = 64  # keys with one hash, of the kinds for which such can be chosen


def _items(given: tuple[Any, ...]) -> Iterable[Any]:
    """Give the items that a container is made of; none where it is made empty."""
    if not given:
        return ()
    (items,) = given
    if type(items) not in _ITEMS:
        raise TypeError(f"the items are a {type(items).__name__}")
    return items  # type: ignore[no-any-return]


def _checked(keys: Iterable[Any]) -> Iterable[Any]:
    """Give what is to be hashed, each looked at before."""
    hashes: Counter[int] = Counter()
    for key in keys:
        if type(key).__hash__ is None:
            raise TypeError(f"a {type(key).__name__} cannot be hashed")
        if can_hash_alike(key, _WHERE):
            hashes[hash(key)] += 1
            if hashes[hash(key)] > _MAX_ALIKE:
                raise UnsafeError(f"its pickle has over {_MAX_ALIKE} keys chosen to hash alike")
        yield key


def _pairs(given: tuple[Any, ...]) -> dict[Any, Any]:
    items = _items(given)
    if isinstance(items, dict):
        return dict(items)
    pairs: list[Any] = [pair if type(pair) in (list, tuple) else () for pair in items]
    if any(len(pair) != 2 for pair in pairs):
        raise TypeError("the items are no pairs")
    keys = _checked(pair[0] for pair in pairs)
    return dict(zip(keys, (pair[1] for pair in pairs), strict=True))


def _ordered(*given: Any) -> OrderedMap:
    if not given:  # one for each tensor of torch's
        return OrderedMap()
    return OrderedMap(_pairs(given))


def _dict(*given: Any) -> dict[Any, Any]:
    return _pairs(given)


def _default(factory: Any = None, *given: Any) -> DefaultMap:
    made = DefaultMap(factory)
    made.update(_pairs(given))
    return made


def _counter(*given: Any) -> CounterMap:
    made = CounterMap()
    made.update(_pairs(given))
    return made


def _deque(items: Any = (), maxlen: Any = None) -> deque[Any]:
    if maxlen is not None and type(maxlen) is not int:
        raise TypeError("the length of a deque is no number")
    return deque(_items((items,)), maxlen)


def _set(*given: Any) -> set[Any]:
    return set(_checked(_items(given)))


def _frozenset(*given: Any) -> frozenset[Any]:
    return frozenset(_checked(_items(given)))


def _list(*given: Any) -> list[Any]:
    return list(_items(given))


def _tuple(*given: Any) -> tuple[Any, ...]:
    return tuple(_items(given))


def _bytes(*given: Any) -> bytes:
    """Make bytes of their numbers, or of text in an encoding, as protocols before 3 spell them."""
    if len(given) == 2 and type(given[0]) is str:
        return _encode(*given)
    return bytes(_items(given))


def _bytearray(*given: Any) -> bytearray:
    if len(given) == 2 and type(given[0]) is str:
        return bytearray(_encode(*given))
    return bytearray(_items(given))


def _encode(text: Any, encoding: Any = "utf-8") -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise TypeError("it encodes what is no text, or in no common way")
    return text.encode(encoding)


def _complex(*parts: Any) -> complex:
    if not all(type(part) in (int, float) for part in parts):
        raise TypeError("the parts are no numbers")
    return complex(*parts)


def _range(*parts: Any) -> range:
    if not all(type(part) is int for part in parts):
        raise TypeError("the ends are no integers")
    return range(*parts)


def _number(kind: type[int | float | bool]) -> Callable[..., Any]:
    def make(*given: Any) -> Any:
        if len(given) > 1 or any(type(value) not in (int, float, bool) for value in given):
            raise TypeError("it is made of what is no number")
        return kind(*given)

    return make


def _str(*given: Any) -> str:
    if any(type(value) is not str for value in given) or len(given) > 1:
        raise TypeError("it is made of what is no text")
    return "".join(given)


def _object() -> Any:
    return Opaque("builtins", "object", ())


def _reconstruct(cls: Any, base: Any, state: Any) -> Any:
    """Give what protocols 0 and 1 make any object by, as data."""
    if not isinstance(cls, Known | Opaque):
        raise CorruptError("its pickle makes an object of what is no class", where=_WHERE)
    return Opaque(cls.module, cls.name, () if state is None else (state,))


_BUILTINS: dict[str, Callable[..., Any]] = {
    "bool": _number(bool),
    "bytearray": _bytearray,
    "bytes": _bytes,
    "complex": _complex,
    "dict": _dict,
    "float": _number(float),
    "frozenset": _frozenset,
    "int": _number(int),
    "list": _list,
    "object": _object,
    "range": _range,
    "set": _set,
    "str": _str,
    "tuple": _tuple,
}

PLAIN: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "Counter"): _counter,
    ("collections", "OrderedDict"): _ordered,
    ("collections", "defaultdict"): _default,
    ("collections", "deque"): _deque,
    ("_codecs", "encode"): _encode,
    ("copyreg", "_reconstructor"): _reconstruct,
    ("copy_reg", "_reconstructor"): _reconstruct,
    ("__builtin__", "long"): _number(int),
    ("__builtin__", "unicode"): _str,
    ("__builtin__", "xrange"): _range,
    **{("builtins", name): make for name, make in _BUILTINS.items()},
    **{("__builtin__", name): make for name, make in _BUILTINS.items()},
}
