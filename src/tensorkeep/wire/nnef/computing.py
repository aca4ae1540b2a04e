"""What expressions of numbers, strings, arrays and tuples come to: no tensor is among them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from tensorkeep.errors import UnsafeError
from tensorkeep.wire.nnef.operations import Reference, Value
from tensorkeep.wire.nnef.printing import literal

MAX_ITEMS = 1_000_000
_MOST = 1 << 64
_SHOWN = 40


class UncomputableError(Exception):
    """An expression that has no value, and why."""


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge,
    "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


def type_of(value: Value) -> str:
    """Name the type of a value, for messages; a tensor is just that.

    >>> type_of([1, 2]), type_of((1.0, "a")), type_of(Reference("x"))
    ('integer[]', '(scalar,string)', 'tensor')
    """
    if isinstance(value, Reference):
        return "tensor"
    if isinstance(value, list):
        return f"{type_of(value[0])}[]" if value else "[]"
    if isinstance(value, tuple):
        return f"({','.join(map(type_of, value))})"
    names = {bool: "logical", int: "integer", float: "scalar", str: "string"}
    return names.get(type(value), "nothing")


def unary(sign: str, value: Value) -> Value:
    """Compute +a, -a or !a."""
    if sign == "!" and isinstance(value, bool):
        return not value
    if sign != "!" and type(value) in (int, float):
        return -value if sign == "-" else value  # type: ignore[operator]
    raise UncomputableError(f"'{sign}' has no meaning for {type_of(value)}")


def binary(sign: str, left: Value, right: Value) -> Value:
    """Compute an operator of two operands neither of which is a tensor.

    Raises:
        UncomputableError: the operands do not suit it.
        UnsafeError: what it gives is too long.
    """
    if sign in ("&&", "||") and isinstance(left, bool) and isinstance(right, bool):
        return (left and right) if sign == "&&" else (left or right)
    if sign == "in":
        if not isinstance(right, list):
            raise UncomputableError(f"'in' wants an array behind it, found {type_of(right)}")
        return any(_same(left, item) for item in right)
    if sign == "*" and isinstance(left, int) and isinstance(right, list | str):
        left, right = right, left
    if sign == "*" and isinstance(left, list | str) and type(right) is int:
        _bound(len(left) * max(right, 0))
        return left * right
    if sign == "+" and isinstance(left, list) and isinstance(right, list):
        _bound(len(left) + len(right))
        return left + right
    if sign == "+" and isinstance(left, str) and isinstance(right, str):
        _bound(len(left) + len(right))
        return left + right
    if sign in ("==", "!="):
        if not alike(left, right):
            raise UncomputableError(_unsuited(sign, left, right))
        return _same(left, right) == (sign == "==")
    if type(left) is not type(right) or type(left) not in (int, float, str):
        raise UncomputableError(_unsuited(sign, left, right))
    if sign in _COMPARISONS:
        return _COMPARISONS[sign](left, right)
    if isinstance(left, str):
        raise UncomputableError(_unsuited(sign, left, right))
    try:
        return _finite(_arithmetic(sign, left, right))
    except (ZeroDivisionError, OverflowError) as error:
        raise UncomputableError(f"{_shown(left)} {sign} {_shown(right)}: {error}") from None


def _shown(value: Value) -> str:
    text = literal(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _unsuited(sign: str, left: Value, right: Value) -> str:
    return f"'{sign}' has no meaning for {type_of(left)} and {type_of(right)}"


def _arithmetic(sign: str, left: Any, right: Any) -> Any:
    if sign == "+":
        return left + right
    if sign == "-":
        return left - right
    if sign == "*":
        return left * right
    if sign == "/":  # which drops the fraction of integers, towards zero
        return _quotient(left, right) if isinstance(left, int) else left / right
    if isinstance(left, float):
        return left**right
    if right < 0:
        return _quotient(1, left**-right) if abs(left) < 2 else 0
    if abs(left) > 1 and right > 64:
        raise OverflowError("takes more than 64 bits")
    return left ** (right if abs(left) > 1 else 2 - right % 2 if right else 0)


def _quotient(left: int, right: int) -> int:
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


def _finite(value: Any) -> Value:
    if isinstance(value, int) and abs(value) >= _MOST:
        raise OverflowError("takes more than 64 bits")
    if isinstance(value, complex) or (isinstance(value, float) and not math.isfinite(value)):
        raise OverflowError("is no number")
    return value  # type: ignore[no-any-return]


def _bound(length: int) -> None:
    if length > MAX_ITEMS:
        problem = f"an array or string of {length:,} items; at most {MAX_ITEMS:,} are built"
        raise UnsafeError(problem)


def alike(left: Value, right: Value) -> bool:
    """Tell whether values can be of one type."""
    if isinstance(left, list | tuple):
        return type(left) is type(right)
    return type(left) is type(right)


def _same(left: Value, right: Value) -> bool:
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        same = len(left) == len(right) and type(left) is type(right)
        return same and all(map(_same, left, right))
    return type(left) is type(right) and left == right


def subscript(sequence: Value, begin: Value, end: Value, ranges: bool) -> Value:
    """Give an item, or a range of items; what is negative counts from the end."""
    if not isinstance(sequence, list | tuple | str):
        raise UncomputableError(f"{type_of(sequence)} has no items")
    length = len(sequence)
    first = _index(0 if begin is None else begin, length)
    if not ranges:
        if not 0 <= first < length:
            raise UncomputableError(f"there is no item {_shown(begin)} among {length:,}")
        return sequence[first]
    if isinstance(sequence, tuple):
        raise UncomputableError("a range of a tuple")
    last = _index(length if end is None else end, length)
    if not 0 <= first <= last <= length:
        raise UncomputableError(f"there is no range {first}:{last} among {length:,} items")
    return sequence[first:last]


def _index(value: Value, length: int) -> int:
    if type(value) is not int:
        raise UncomputableError(f"an index is an integer, found {type_of(value)}")
    return value + length if value < 0 else value


def builtin(name: str, value: Value) -> Value:
    """Compute length_of and range_of, and convert to integer, scalar, logical and string."""
    if name in ("length_of", "range_of"):
        if not isinstance(value, list | str):
            raise UncomputableError(f"{name} wants an array or a string, found {type_of(value)}")
        return len(value) if name == "length_of" else list(range(len(value)))
    if not isinstance(value, bool | int | float | str):
        raise UncomputableError(f"{name} wants a number, string or logical, found {type_of(value)}")
    if name == "logical":
        return bool(value)
    if name == "string":
        return value if isinstance(value, str) else literal(value)
    try:
        return _finite(int(value) if name == "integer" else float(value))
    except (ValueError, OverflowError):
        raise UncomputableError(f"{_shown(value)} cannot be made {name}") from None
