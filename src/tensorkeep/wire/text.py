"""JSON from files nobody vouches for, and JSON for people to read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tensorkeep.errors import CorruptError, UnsafeError, UnsupportedError

_SCALARS = {type(None), bool, int, float, str}
_SHORT = 3
_MAX_LEVELS = 400  # a nesting of 100 levels takes up to three of JSON each

_quote: Callable[[str], str] = json.encoder.encode_basestring


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a document that writes itself, given the line break of its place."""

    text: Callable[[str], Iterator[str]]


def parse_json(
    data: bytes | memoryview | str, where: str, what: str = "JSON", *, most: int | None = None
) -> Any:
    """Parse a JSON document, of not much more than `most` values where that is given.

    Raises:
        CorruptError: not UTF-8, not JSON, nested too deeply, or a key given twice.
        UnsafeError: it takes more memory than there is.

    >>> parse_json(b'{"a": [1, 2]}', "example")
    {'a': [1, 2]}
    """
    try:
        text = data if isinstance(data, str) else str(data, "utf-8")
        if most is not None:
            bound_values(text, most, where, what)
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_constant)
    except _DuplicateError as error:
        problem = f"the {what} gives {show(error.args[0])} twice"
    except UnicodeDecodeError as error:
        problem = f"the {what} is not UTF-8 at byte {error.start}"
    except json.JSONDecodeError as error:
        problem = f"the {what} is broken at character {error.pos}: {error.msg}"
    except RecursionError:
        problem = f"the {what} is nested too deeply"
    except ValueError as error:  # an integer of more digits than Python converts
        problem = f"the {what} cannot be read: {error}"
    except MemoryError:
        raise UnsafeError(f"the {what} takes more memory than there is", where=where) from None
    raise CorruptError(problem, where=where)


def dump_json(value: Any) -> str:
    """Write compact JSON, non-ASCII characters as themselves, keys in the order given.

    Raises:
        UnsupportedError: something in it is not JSON, or would not read back as it was.

    >>> dump_json({"ü": [1, 2.5]})
    '{"ü":[1,2.5]}'
    """
    try:
        _check(value)
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise _not_json("it is nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise _not_json(error) from None
    if _encodes(text):
        return text
    text = json.dumps(value, separators=(",", ":"))
    if json.loads(text) != value:
        raise _not_json("it spells a character as two surrogates")
    return text


def _check(value: Any) -> None:
    """Refuse what `json` would write as something else, such as tuples and numbers as keys."""
    if type(value) is dict:
        for key, child in value.items():
            if type(key) is not str:
                raise TypeError(f"it has {show(key)} for a key")
            _check(child)
    elif type(value) is list:
        for child in value:
            _check(child)
    elif type(value) not in _SCALARS:
        raise TypeError(f"it holds a {type(value).__name__}")


def _not_json(reason: object, where: str = "") -> UnsupportedError:
    return UnsupportedError(f"cannot be written as JSON: {reason}", where=where)


def write_json(value: Any, indent: str, where: str) -> Iterator[str]:
    """Write JSON to read, piece by piece; each `Part` in it writes itself.

    Dicts and lists stand over several lines. On one stand lists of scalars, short lists that start
    with one, and dicts whose first key starts with `$`: all of them values rather than nesting.

    Raises:
        UnsupportedError: something in it is not JSON, or it nests too deeply.

    >>> print("".join(write_json({"a": [1, 2], "b": {"$tuple": []}}, "  ", "example")))
    {
      "a": [1, 2],
      "b": {"$tuple": []}
    }
    """
    return _write(value, "\n", indent, where, 0)


def _write(value: Any, line: str, indent: str, where: str, level: int) -> Iterator[str]:
    if level > _MAX_LEVELS:
        raise _not_json(f"it nests over {_MAX_LEVELS} levels deep", where)
    if isinstance(value, Part):
        yield from value.text(line)
        return
    if type(value) not in (list, dict) or not value:
        yield _scalar(value, where)
        return
    if type(value) is dict:
        inline = str(next(iter(value))).startswith("$")
        rows = [(_key(key, where), child) for key, child in value.items()]
        opening, closing = "{}"
    else:
        nested = [isinstance(child, list | dict | Part) for child in value]
        inline = not any(nested) or (len(value) <= _SHORT and not nested[0])
        rows = [("", child) for child in value]
        opening, closing = "[]"
    inner = line if inline else line + indent
    before = "" if inline else inner
    yield opening
    for head, child in rows:
        yield before + head
        yield from _write(child, inner, indent, where, level + 1)
        before = ", " if inline else f",{inner}"
    yield closing if inline else line + closing


def quote(text: str) -> str:
    r"""Write a JSON string; half a surrogate pair, which UTF-8 cannot hold, as an escape.

    Raises:
        UnsupportedError: two halves follow one another, which would read back as one character.

    >>> print(quote('é "\udc80"'))
    "\u00e9 \"\udc80\""
    """
    if _encodes(text):
        return _quote(text)
    escaped = json.dumps(text)
    if json.loads(escaped) != text:
        raise _not_json(f"{show(text)} spells a character as two surrogates")
    return escaped


def show(value: Any) -> str:
    """Describe a parsed value in a message, cut where it would fill the screen.

    >>> show([1, 2]), show("x" * 1000)[-6:]
    ('a list of 2', 'xxx...')
    """
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    shown = repr(value[:60] if isinstance(value, str) else value)
    return shown if len(shown) < 60 else f"{shown[:57]}..."


def _scalar(value: Any, where: str) -> str:
    try:
        _check(value)
        return quote(value) if type(value) is str else json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise _not_json(error, where) from None


def _key(key: Any, where: str) -> str:
    if type(key) is not str:
        raise _not_json(f"it has {show(key)} for a key", where)
    return f"{_scalar(key, where)}: "


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _DuplicateError(Exception):
    """A JSON object gives a key twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateError(key)
            seen.add(key)
    return found


def bound_values(text: str, most: int, where: str, what: str = "JSON") -> None:
    """Refuse a document of many more values than it needs, before they are made.

    Raises:
        UnsafeError: it holds more than `most`.
    """
    if _values(text, most) > most:
        problem = f"the {what} holds more than {most:,} values"
        raise UnsafeError(problem, where=where, cure="It was made to fill the memory.")


def _values(text: str, most: int) -> int:
    """Count the values of a document, about; what stands within strings is passed over."""
    marks = _marks(text)
    if marks <= most:
        return marks
    bare = text.replace("\\\\", "").replace('\\"', "")
    quotes = bare.count('"')
    if quotes > 4 * most:  # a key and a text for each value have no more
        return quotes // 2
    return _marks("".join(bare.split('"')[::2]))


def _marks(text: str) -> int:
    return text.count(",") + text.count("[") + text.count("{")


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
