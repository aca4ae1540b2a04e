"""`tensorkeep convert` of many files, each for itself, into a folder."""

from __future__ import annotations

from functools import partial
from typing import Any

from tensorkeep.bulk import Outcome, find
from tensorkeep.bulk.converting import convert, plan
from tensorkeep.cli.bulk import code_of, describe, describe_all, read_names, say_outcomes, work
from tensorkeep.cli.terminal import clean, say, say_json, several, size
from tensorkeep.errors import ArgumentError


def convert_many(
    paths: list[str],
    to: str | None,
    options: dict[str, Any],
    *,
    stray: list[str],
    force: bool,
    how: dict[str, Any],
    source: str | None,
    as_json: bool,
) -> int:
    """Convert all that the paths but the last mean into the folder that the last one is.

    Raises:
        ArgumentError: there is no folder or format, or two would have one target.
    """
    if stray:
        raise ArgumentError(f"{stray[0]} is for one conversion", cure="Run them one by one.")
    if to is None:
        raise ArgumentError("the format to convert many files to is not said", cure="Give --to.")
    if len(paths) < 2 and source is None:
        raise ArgumentError("there is no folder", cure="Give what to read, and then a folder.")
    *sources, folder = paths
    items = plan(find(read_names(sources, source)), folder, to)
    task = partial(convert, to=to, force=force, **options)
    summary = work("converting", task, items, **how)
    if as_json:
        files = [{"target": each.item.target, **describe(each)} for each in summary.outcomes]
        say_json({"ok": summary.ok, "files": files, "summary": describe_all(summary)})
    else:
        say_outcomes(summary, _told, everything=True)
        for sentence in _lost(summary.outcomes):
            say(f"lost: {clean(sentence)}")
    return code_of(summary)


def _told(outcome: Outcome) -> str:
    made = outcome.result
    total = f"{several(made['tensors'], 'tensor')}, {size(made['bytes'])}"
    return f"{clean(outcome.item.target)}: {made['format']}, {total}"


def _lost(outcomes: list[Outcome]) -> list[str]:
    return [
        f"{outcome.item.where}: {sentence}"
        for outcome in outcomes
        for sentence in outcome.result.get("lost", [])
    ]
