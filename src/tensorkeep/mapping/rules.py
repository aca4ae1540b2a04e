"""Rules that give tensors other names and layouts, from the command line or a TOML file.

A map file:

    tensorkeep-map = 1
    about = "what it turns into what"

    [[rule]]
    from = "*/kernel"        # a glob, whose * are remembered; or "re:REGULAR EXPRESSION"
    ndim = 2                 # only tensors with so many axes
    beside = "*/gamma"       # only where this one is there too, each * as in `from`
    beside-ndim = 1          #   with so many axes
    to = "*.weight"          # the new name
    axes = [1, 0]            # the axes in this order
    reshape = [0, -1]        # then this shape: 0 keeps the axis, -1 takes the rest
    dtype = "float32"        # then this element type
    drop = true              # leave it out, and say so

    [[rule]]
    from = ["*.q.weight", "*.k.weight", "*.v.weight"]
    to = "*.qkv.weight"
    join = 0                 # several become one along this axis

    [[rule]]
    from = "*.qkv.weight"
    to = ["*.q.weight", "*.k.weight", "*.v.weight"]
    split = 0                # one becomes several, in equal parts along this axis

Rules are applied in order, each to what those before it made.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tensorkeep import dtypes
from tensorkeep.dtypes import DType
from tensorkeep.errors import ArgumentError, MissingError
from tensorkeep.mapping.patterns import check_replacement, compiled

_VERSION = "tensorkeep-map"
_MAX_FILE = 1 << 20
_KEYS = {
    "from": (str, list),
    "to": (str, list),
    "ndim": (int,),
    "beside": (str,),
    "beside-ndim": (int,),
    "axes": (list,),
    "reshape": (list,),
    "dtype": (str,),
    "drop": (bool,),
    "join": (int,),
    "split": (int,),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """Which tensors it is for, and what becomes of them; see the head of this module."""

    sources: tuple[str, ...]
    targets: tuple[str, ...] = ()
    ndim: int | None = None
    beside: str = ""
    beside_ndim: int | None = None
    axes: tuple[int, ...] | None = None
    reshape: tuple[int, ...] | None = None
    dtype: DType | None = None
    drop: bool = False
    join: int | None = None
    split: int | None = None
    needed: bool = False  # whether it is a mistake that it matches nothing
    where: str = ""


def renaming(renames: Mapping[str, str] | Iterable[Any]) -> list[Rule]:
    """Make rules of old and new names.

    Raises:
        ArgumentError: a pattern is none, or a new name asks for more than it remembers.

    >>> renaming({"model.*": "*"})[0].targets
    ('*',)
    """
    pairs = renames.items() if isinstance(renames, Mapping) else renames
    if not isinstance(pairs, Iterable):
        raise ArgumentError(
            f"rename takes patterns and new names, not {type(renames).__name__}",
            cure='Give a dict such as {"model.*": "*"}.',
        )
    rules = []
    for pair in pairs:
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise ArgumentError(f"{pair!r} is not a pattern and its replacement")
        pattern, replacement = pair
        if not (isinstance(pattern, str) and isinstance(replacement, str)):
            raise ArgumentError(f"a new name is text, not {pair!r}")
        check_replacement(pattern, replacement)
        where = f"the renaming {pattern}={replacement}"
        rules.append(Rule((pattern,), (replacement,), needed=True, where=where))
    return rules


def known_maps() -> dict[str, str]:
    """Name the maps that come with the library, each with what it does.

    >>> "keras-torch" in known_maps()
    True
    """
    found = {}
    for entry in resources.files("tensorkeep.mapping").joinpath("known").iterdir():
        if entry.name.endswith(".toml"):
            document = tomllib.loads(entry.read_text(encoding="utf-8"))
            found[entry.name[: -len(".toml")]] = str(document["about"])
    return dict(sorted(found.items()))


def read_map(name: str) -> list[Rule]:
    """Read a map file, or one of the maps that come with the library.

    Raises:
        MissingError: there is no such file, and no map of this name.
        ArgumentError: it is not a map; the message names the rule.
    """
    if name in known_maps():
        entry = resources.files("tensorkeep.mapping").joinpath("known", f"{name}.toml")
        return _parse(entry.read_text(encoding="utf-8"), name)
    path = Path(name)
    if not path.is_file():
        raise MissingError(
            "there is no such map file",
            where=name,
            cure=f"Maps that come with it are {', '.join(known_maps())}.",
        )
    if path.stat().st_size > _MAX_FILE:
        raise ArgumentError("is too large for a map", where=name)
    try:
        return _parse(path.read_text(encoding="utf-8"), name)
    except UnicodeDecodeError:
        raise ArgumentError("is not text in UTF-8", where=name) from None


def _parse(text: str, where: str) -> list[Rule]:
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ArgumentError(f"is not TOML: {error}", where=where) from None
    if document.get(_VERSION) != 1:
        raise ArgumentError(
            f"is no map: it has {document.get(_VERSION)!r} for {_VERSION!r}",
            where=where,
            cure=f"A map begins with the line `{_VERSION} = 1`.",
        )
    unknown = set(document) - {_VERSION, "about", "rule"}
    rules = document.get("rule", [])
    if unknown or not isinstance(rules, list) or not rules:
        problem = f"has {min(unknown)!r}" if unknown else "has no [[rule]]"
        raise ArgumentError(problem, where=where, cure="A map has `about` and [[rule]] tables.")
    return [_rule(rule, f"{where}: rule {at}") for at, rule in enumerate(rules, 1)]


def _rule(given: Any, where: str) -> Rule:
    if not isinstance(given, dict):
        raise ArgumentError(f"is {given!r:.60}, not a table", where=where)
    for key, value in given.items():
        if key not in _KEYS:
            raise ArgumentError(f"has {key!r}", where=where, cure=f"There are {', '.join(_KEYS)}.")
        if type(value) not in _KEYS[key]:
            kinds = " or ".join(kind.__name__ for kind in _KEYS[key])
            raise ArgumentError(f"has {value!r:.60} for {key}, not {kinds}", where=where)
    try:
        rule = Rule(
            _texts(given.get("from", ())),
            _texts(given.get("to", ())),
            given.get("ndim"),
            given.get("beside", ""),
            given.get("beside-ndim"),
            _whole_numbers(given.get("axes")),
            _whole_numbers(given.get("reshape")),
            dtypes.dtype(given["dtype"]) if "dtype" in given else None,
            given.get("drop", False),
            given.get("join"),
            given.get("split"),
            where=where,
        )
        _check(rule)
    except ArgumentError as error:
        raise ArgumentError(error.problem, where=where, cure=error.cure) from None
    return rule


def _check(rule: Rule) -> None:
    if not rule.sources:
        raise ArgumentError("has no `from`")
    many, several = len(rule.sources) > 1, len(rule.targets) > 1
    if many != (rule.join is not None) or (many and len(rule.targets) != 1):
        raise ArgumentError("`join` takes several `from` and one `to`, and they take `join`")
    if several != (rule.split is not None):
        raise ArgumentError("`split` takes several `to`, and they take `split`")
    if rule.drop and (rule.targets or rule.axes or rule.reshape or rule.dtype):
        raise ArgumentError("`drop` leaves a tensor out: nothing else can become of it")
    for pattern in rule.sources:
        compiled(pattern)
        for replacement in [*rule.targets, *([rule.beside] if rule.beside else [])]:
            check_replacement(pattern, replacement)


def _texts(value: Any) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else list(value)
    if not all(isinstance(text, str) and text for text in listed):
        raise ArgumentError(f"has {value!r:.60} for a name")
    return tuple(listed)


def _whole_numbers(value: list[Any] | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not all(type(number) is int and number >= -1 for number in value):
        raise ArgumentError(f"has {value!r:.60} for whole numbers")
    return tuple(value)
