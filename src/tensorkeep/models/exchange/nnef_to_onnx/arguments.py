"""Arguments of operations that are not tensors, each of the kind that is expected."""

from __future__ import annotations

from tensorkeep.models.exchange.report import Refused
from tensorkeep.wire.nnef.operations import Operation, Value

_MOST = 2**31 - 1  # of a size, a place or a number of times


class Arguments:
    """What operations were given beside tensors; Refused where it is not of the kind."""

    def integer(self, op: Operation, key: str) -> int:
        """Give an integer."""
        return _integer(op.arguments.get(key), key)

    def integers(self, op: Operation, key: str, count: int | None = None) -> list[int]:
        """Give a list of integers; of so many, if it is said and the list is not empty."""
        given = op.arguments.get(key)
        if not isinstance(given, list | tuple):
            raise Refused(f"has {key} = {_told(given)}, where a list of integers is expected")
        if count is not None and given and len(given) != count:
            raise Refused(f"has {len(given)} in {key}, where {count} are expected")
        return [_integer(each, key) for each in given]

    def axes(self, op: Operation, rank: int, key: str = "axes") -> list[int]:
        """Give axes, each one of so many and none twice."""
        axes = self.integers(op, key)
        for axis in axes:
            check_axis(axis, rank)
        if len(set(axes)) != len(axes):
            raise Refused(f"names an axis twice in {key} = {axes}")
        return axes

    def axis(self, op: Operation, rank: int, key: str = "axis") -> int:
        """Give an axis, one of so many."""
        return check_axis(self.integer(op, key), rank)

    def pairs(self, op: Operation, key: str, count: int | None = None) -> list[tuple[int, int]]:
        """Give a list of pairs of integers; of so many, if it is said and there are any."""
        given = op.arguments.get(key)
        if not isinstance(given, list | tuple):
            raise Refused(f"has {key} = {_told(given)}, where a list of pairs is expected")
        if count is not None and given and len(given) != count:
            raise Refused(f"has {len(given)} in {key}, where {count} are expected")
        pairs = []
        for each in given:
            if not isinstance(each, list | tuple) or len(each) != 2:
                raise Refused(f"has {_told(each)} in {key}, where a pair is expected")
            pairs.append((_integer(each[0], key), _integer(each[1], key)))
        return pairs

    def flag(self, op: Operation, key: str) -> bool:
        """Give a logical value."""
        given = op.arguments.get(key)
        if not isinstance(given, bool):
            raise Refused(f"has {key} = {_told(given)}, where true or false is expected")
        return given

    def word(self, op: Operation, key: str, *known: str) -> str:
        """Give a text, one of those known if any are said."""
        given = op.arguments.get(key)
        if not isinstance(given, str) or (known and given not in known):
            expected = " or ".join(map(repr, known)) or "a text"
            raise Refused(f"has {key} = {_told(given)}, where {expected} is expected")
        return given

    def float(self, op: Operation, key: str) -> float:
        """Give a number that is no tensor."""
        given = op.arguments.get(key)
        if isinstance(given, bool) or not isinstance(given, int | float):
            raise Refused(f"has {key} = {_told(given)}, where a number is expected")
        try:
            return float(given)
        except OverflowError:
            raise Refused(f"has {key} = {_told(given)}, which is no float64") from None

    def items(self, op: Operation, key: str) -> list[Value]:
        """Give a list of tensors or literals."""
        given = op.arguments.get(key)
        if not isinstance(given, list | tuple):
            raise Refused(f"has {key} = {_told(given)}, where a list is expected")
        return list(given)


def check_axis(axis: int, rank: int) -> int:
    """Give an axis if it is one of so many.

    Raises:
        Refused: it is not; NNEF counts axes from the front alone.
    """
    if not 0 <= axis < rank:
        raise Refused(f"axis {axis} is not one of {rank}")
    return axis


def _integer(given: Value, key: str) -> int:
    if isinstance(given, bool) or not isinstance(given, int):
        raise Refused(f"has {_told(given)} in {key}, where an integer is expected")
    if abs(given) > _MOST:
        raise Refused(f"has {_told(given)} in {key}, which is beyond {_MOST:,}")
    return given


def _told(value: Value) -> str:
    if isinstance(value, int) and abs(value) > 10**40:
        return "a number beyond 1e40"  # whose digits take long
    text = "none" if value is None else str(value)
    return text if len(text) < 60 else f"{text[:57]}..."
