"""`tensorkeep meta`: read and write what a model says of itself."""

from __future__ import annotations

import difflib
import json
from typing import Annotated

import typer

from tensorkeep import api
from tensorkeep.cli.terminal import JsonOption, clean, say, say_json, shorten, warn
from tensorkeep.errors import ArgumentError, MissingError
from tensorkeep.models.describing import metadata, parse_fact, replaced_entries, set_metadata
from tensorkeep.state import Json

_USAGE = "Use meta get MODEL [KEY], or meta set MODEL KEY=VALUE..."


def meta(
    action: Annotated[str, typer.Argument(metavar="ACTION", help="get or set.")],
    path: Annotated[str, typer.Argument(metavar="MODEL", help="A model, or any other file.")],
    facts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY | KEY=VALUE...]", help="What to show, or what to set."),
    ] = None,
    unset: Annotated[
        list[str] | None,
        typer.Option("--unset", metavar="KEY", help="Remove a fact; repeatable."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write the model there; in place otherwise."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Show what a model says of itself, or change it.

    get shows all facts, or the one of a KEY; it exits with 1 where that is not there. set changes
    facts such as author=Ada version=3 training.learning_rate=0.001, and leaves every other byte of
    the model, and the files beside it, as they are.

    With --json: get writes {KEY: VALUE}, or the value of the KEY; set writes {"path", "facts",
    "unset", "replaced": {KEY: [KEY OF AN ENTRY]}}.
    """
    if action == "get":
        if unset or output:
            raise ArgumentError("meta get takes no --unset or --output", cure=_USAGE)
        return _get(path, facts or [], as_json)
    if action == "set":
        return _set(path, facts or [], unset or [], output, as_json)
    raise ArgumentError(f"meta cannot {action!r}", cure=_USAGE)


def _get(path: str, keys: list[str], as_json: bool) -> int:
    if len(keys) > 1:
        raise ArgumentError("meta get takes one KEY", cure=_USAGE)
    found = metadata(path)
    if not keys:
        if as_json:
            say_json(found)
            return 0
        widest = max((len(clean(key)) for key in found), default=0)
        for key, value in found.items():
            say(f"{clean(key).ljust(widest)}  {shorten(_text(value))}")
        return 0
    (key,) = keys
    if key not in found:
        near = difflib.get_close_matches(key, list(found)[:10_000], n=3)
        if as_json:
            say_json(None)
        warn(clean(f"{path} has no {key!r}" + (f"; there is {' or '.join(near)}" if near else "")))
        return 1
    if as_json:
        say_json(found[key])
    else:
        value = found[key]
        lines = value.splitlines() if isinstance(value, str) else [_text(value)]
        for line in lines or [""]:
            say(clean(line))
    return 0


def _set(path: str, facts: list[str], unset: list[str], output: str | None, as_json: bool) -> int:
    wanted: dict[str, Json] = {}
    for fact in facts:
        key, equals, text = fact.partition("=")
        if not (key and equals):
            raise ArgumentError(f"{fact!r} is not KEY=VALUE", cure=_USAGE)
        if key in wanted:
            raise ArgumentError(f"{key!r} is given twice", cure=_USAGE)
        wanted[key] = parse_fact(key, text)
    if both := wanted.keys() & set(unset):
        raise ArgumentError(f"{min(both)!r} cannot be set and removed at once")
    if not (facts or unset):
        raise ArgumentError("there is nothing to set", cure=_USAGE)
    with api.open(path) as state:
        changed = set_metadata(state, {**wanted, **dict.fromkeys(unset)})
        present = metadata(state)
        for key in unset:
            if key not in present:
                raise MissingError(f"has no {key!r} to remove", where=path)
        replaced = {key: keys for key in wanted if (keys := replaced_entries(state, key))}
        api.save(changed, output or path, format=None if output else state.format)
    if as_json:
        document = {"path": output or path, "facts": wanted, "unset": unset, "replaced": replaced}
        say_json(document)
        return 0
    for key, keys in replaced.items():
        say(f"{clean(key)}: one entry now, in the place of {', '.join(map(clean, keys))}")
    return 0


def _text(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
