"""JSON from files nobody vouches for: duplicate keys, depth and size are checked."""

from __future__ import annotations

import json
from typing import Any

from tensorkeep.errors import CorruptError


def parse_json(data: bytes | memoryview | str, where: str, what: str = "JSON") -> Any:
    """Parse a JSON document.

    Raises:
        CorruptError: not UTF-8, not JSON, nested too deeply, or a key given twice.

    >>> parse_json(b'{"a": [1, 2]}', "example")
    {'a': [1, 2]}
    """
    try:
        text = data if isinstance(data, str) else str(data, "utf-8")
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_constant)
    except _DuplicateError as error:
        problem = f"the {what} gives {error.args[0]!r} twice"
    except UnicodeDecodeError as error:
        problem = f"the {what} is not UTF-8 at byte {error.start}"
    except json.JSONDecodeError as error:
        problem = f"the {what} is broken at character {error.pos}: {error.msg}"
    except RecursionError:
        problem = f"the {what} is nested too deeply"
    except ValueError as error:  # an integer of more digits than Python converts
        problem = f"the {what} cannot be read: {error}"
    raise CorruptError(problem, where=where)


def dump_json(value: Any) -> str:
    """Write compact JSON, non-ASCII characters as themselves, keys in the order given."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class _DuplicateError(Exception):
    """A JSON object gives a key twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        raise _DuplicateError(next(k for k, _ in pairs if k in seen or seen.add(k)))  # type: ignore[func-returns-value]
    return found


def _constant(name: str) -> float:
    raise json.JSONDecodeError(f"{name} is not JSON", name, 0)
