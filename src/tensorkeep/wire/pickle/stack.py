"""The machine's state while it reads one pickle, and the limits that it keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tensorkeep.errors import CorruptError, TensorKeepError, UnsafeError
from tensorkeep.wire.pickle.values import Buildable, Known, Opaque

MAX_STACK = 4_000_000  # values that wait to be put into something
MAX_MARKS = 10_000  # values begun inside one another
MAX_CALLS_COST = 16  # for each byte of the pickle: how much functions may be given to work on
MAX_KEY_PARTS = 64  # of a key: those of tuples in tuples, and an integer's for each 64 bits
MAX_KEY_DEPTH = 8
MAX_ALIKE = 8192  # keys with one hash, of the kinds for which such can be chosen
MAX_REFUSED = 1000  # names that are kept to be told
MAX_OPAQUE = 250_000  # objects of classes that are not allowed
_SMALL = 2**60

_WORKED_ON = frozenset({str, bytes, bytearray, list, tuple, dict, set, frozenset})

Allowed = Mapping[tuple[str, str], Callable[..., Any]]


class CutShortError(CorruptError):
    """The pickle goes on behind the bytes that are there."""


class Stop(Exception):  # noqa: N818 - the end of a pickle is no error
    """The STOP instruction was reached."""


class Stack:
    """Values, marks, the memo and the names; what the instructions in `opcodes` work on."""

    __slots__ = (
        "allowed",
        "budget",
        "data",
        "hashes",
        "items",
        "known",
        "marks",
        "memo",
        "opaque",
        "persistent",
        "refused",
        "size",
        "where",
    )

    def __init__(
        self,
        data: bytes,
        where: str,
        allowed: Allowed,
        persistent: Callable[[Any], Any] | None,
    ) -> None:
        self.data = data
        self.size = len(data)
        self.where = where
        self.allowed = allowed
        self.persistent = persistent
        self.items: list[Any] = []
        self.marks: list[list[Any]] = []  # the stacks below the marks
        self.memo: dict[int, Any] = {}
        self.known: dict[tuple[str, str], Known | Opaque] = {}
        self.refused: dict[str, None] = {}
        self.budget = MAX_CALLS_COST * self.size + (1 << 20)
        self.hashes: dict[int, int] = {}
        self.opaque = 0

    def pop_mark(self) -> list[Any]:
        """Take the values down to the last mark."""
        above = self.items
        self.items = self.marks.pop()
        return above

    def find(self, module: Any, name: Any) -> Known | Opaque:
        """Look a name up in the table of those allowed; nothing is imported."""
        if type(module) is not str or type(name) is not str:
            raise self.broken("takes a name to import from what is no text")
        key = (module, name)
        found = self.known.get(key)
        if found is None:
            make = self.allowed.get(key)
            found = Opaque(module, name) if make is None else Known(module, name, make)
            self.known[key] = found
            if make is None:
                self.refuse(found)
        return found

    def refuse(self, what: Known | Opaque) -> None:
        """Note a name that would be needed and is not allowed."""
        if len(self.refused) < MAX_REFUSED:
            path = what.path
            self.refused[path if len(path) <= 200 else f"{path[:197]}..."] = None

    def call(self, function: Any, args: Any, kwargs: dict[str, Any] | None = None) -> Any:
        """Give what a function of the table makes, or note what would have been called."""
        if type(args) is not tuple:
            raise self.broken("calls a function without a tuple of arguments")
        self.budget -= len(args) + len(kwargs or ())
        if type(function) is Opaque:
            self.opaque += 1
            if self.opaque > MAX_OPAQUE:
                raise self.hostile(f"has over {MAX_OPAQUE:,} objects of unknown classes")
            self.check_budget()
            return Opaque(function.module, function.name, args, kwargs)
        if type(function) is not Known:
            raise self.broken(f"calls a {type(function).__name__}, which is no function")
        if kwargs:
            self.refuse(function)
            return Opaque(function.module, function.name, args, kwargs)
        for arg in args:
            if type(arg) in _WORKED_ON:
                self.budget -= len(arg)
        self.check_budget()
        try:
            return function.make(*args)
        except TensorKeepError as error:
            raise type(error)(error.problem, where=self.where, cure=error.cure) from None
        except (TypeError, ValueError, LookupError, OverflowError, AttributeError) as error:
            problem = f"calls {function.path} with what it does not take: {str(error)[:200]}"
            raise self.broken(problem) from None

    def check_budget(self) -> None:
        """Refuse to work on far more than the pickle has in bytes."""
        if self.budget < 0:
            raise self.hostile("makes functions work on the same values again and again")

    def build(self, target: Any, state: Any) -> None:
        """Give an object its state, as data."""
        if not isinstance(target, Buildable):
            raise self.broken(f"gives a {type(target).__name__} attributes, which has none")
        target.build(state)

    def check_key(self, key: Any) -> None:
        """Refuse a key, or an item of a set, that cannot be hashed or that is costly to hash."""
        kind = type(key)
        if kind is str:
            return
        if kind.__hash__ is None:
            raise self.broken(f"has a {kind.__name__} for a key")
        if can_hash_alike(key, self.where):
            found = hash(key)
            count = self.hashes[found] = self.hashes.get(found, 0) + 1
            if count > MAX_ALIKE:
                raise self.hostile(f"has over {MAX_ALIKE:,} keys that were chosen to hash alike")

    def check_limits(self) -> None:
        """Refuse a stack that no honest pickle has."""
        if len(self.items) > MAX_STACK or len(self.marks) > MAX_MARKS:
            raise self.hostile(
                f"has over {MAX_MARKS:,} values begun inside one another"
                if len(self.marks) > MAX_MARKS
                else f"puts over {MAX_STACK:,} values on its stack"
            )

    def broken(self, problem: str) -> CorruptError:
        """Give the error for a pickle that contradicts itself."""
        return CorruptError(f"its pickle {problem}", where=self.where, cure="Use another copy.")

    def hostile(self, problem: str) -> UnsafeError:
        """Give the error for a pickle made to exhaust its reader."""
        return UnsafeError(f"its pickle {problem}", where=self.where, cure="Do not trust it.")


def can_hash_alike(key: Any, where: str) -> bool:
    """Check that a key can be hashed at little cost, and say whether others may share its hash.

    Raises:
        UnsafeError: it is too large or too deep, so that hashing could exhaust the machine.
        CorruptError: something in it cannot be hashed.
    """
    kind = type(key)
    if kind is int and -_SMALL < key < _SMALL:
        return False
    if kind is not tuple and kind is not int:
        return kind is complex or kind is frozenset
    parts = 0
    waiting: list[tuple[Any, int]] = [((key,) if kind is int else key, 1)]
    while waiting:
        part, depth = waiting.pop()
        parts += len(part) + sum(n.bit_length() >> 6 for n in part if type(n) is int)
        if parts > MAX_KEY_PARTS or depth > MAX_KEY_DEPTH:
            raise UnsafeError(
                f"its pickle has a key of over {MAX_KEY_PARTS} parts or {MAX_KEY_DEPTH} levels",
                where=where,
            )
        for item in part:
            kind = type(item)
            if kind is tuple:
                waiting.append((item, depth + 1))
            elif kind.__hash__ is None:
                raise CorruptError(f"its pickle has a {kind.__name__} in a key", where=where)
    return True
