"""What the commands share that work on many items: their options, and what they say at the end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from tensorkeep.bulk import Item, Outcome, Summary
from tensorkeep.bulk import run as run_items
from tensorkeep.bulk.attempts import Task
from tensorkeep.cli.progress import progress_of_items
from tensorkeep.cli.terminal import clean, dim, red, say, size, spell, table
from tensorkeep.errors import ArgumentError, StoreError
from tensorkeep.formats import by_name

JobsOption = Annotated[
    int | None,
    typer.Option("--jobs", "-j", metavar="N", help="Work on N at once; 0: as many as cores."),
]
OnOption = Annotated[
    str | None,
    typer.Option(
        "--on", metavar="ray|dask", help="Work on a cluster, or a small one that is started here."
    ),
]
JournalOption = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Note what is done; a run that was cut off goes on from it."),
]
FromOption = Annotated[
    str | None,
    typer.Option("--from", metavar="FILE", help="Also what its lines name; - for standard input."),
]

Line = Callable[[Outcome], str]


def read_names(paths: Iterable[str], source: str | None) -> list[str]:
    """Give the paths, with those that a file or (for "-") standard input names line by line.

    Raises:
        StoreError: the file cannot be read.
    """
    given: list[str] = []
    for path in [*paths, *(["-"] if source == "-" else [])]:
        given += _lines(sys.stdin.read()) if path == "-" else [path]
    if source is not None and source != "-":
        try:
            with open(source, encoding="utf-8", errors="surrogateescape") as file:
                given += _lines(file.read())
        except OSError as error:
            raise StoreError(f"cannot be read: {error.strerror}", where=source) from error
    return given


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def work(
    doing: str,
    task: Task,
    items: list[Item],
    *,
    jobs: int | None,
    on: str | None,
    journal: str | None,
) -> Summary:
    """Do a task for all items, with a bar where somebody looks.

    Raises:
        ArgumentError: there are none.
    """
    if not items:
        raise ArgumentError("there is nothing to do", cure="Give files, folders or URLs.")
    with progress_of_items(doing) as report:
        return run_items(task, items, jobs=jobs, on=on, journal=journal, progress=report)


def code_of(summary: Summary) -> int:
    """Give the exit code: damage outweighs what could not be done."""
    counts = summary.counts
    return 1 if counts["damaged"] else 2 if counts["failed"] else 0


def say_outcomes(
    summary: Summary, line: Line, *, everything: bool = False, more: Line | None = None
) -> None:
    """Say what is not fine (or all), and a table of how many are.

    Args:
        summary: of the run.
        line: says in a few words what was done with an item.
        everything: also say those that are fine.
        more: further lines about what is not.
    """
    for outcome in summary.outcomes:
        where = clean(outcome.item.where)
        if outcome.status in ("damaged", "failed"):
            head = red("DAMAGED" if outcome.status == "damaged" else "FAILED ")
            cure = clean(spell(outcome.error.get("cure", "")))
            problem = clean(outcome.problem)
            told = f"{problem.rstrip('.')}. {cure}" if cure else problem
            say(f"{head}  {where}: {told}")
            if more is not None and (text := more(outcome)):
                say(text)
        elif everything:
            told = clean(outcome.problem) if outcome.status == "skipped" else line(outcome)
            say(f"{'skipped' if outcome.status == 'skipped' else 'ok     '}  {where}: {told}")
    _say_counts(summary)


def _say_counts(summary: Summary) -> None:
    counts = summary.counts
    heads = ["ITEMS", "OK", "DAMAGED", "FAILED", "SKIPPED", "BYTES", "TIME"]
    row = [f"{len(summary.outcomes):,}", *(f"{count:,}" for count in counts.values())]
    table(heads, [[*row, size(summary.bytes), f"{summary.seconds:.1f} s"]], heads)
    again = sum(max(0, outcome.tries - 1) for outcome in summary.outcomes)
    if again:
        tries = "1 try" if again == 1 else f"{again:,} tries"
        say(dim(f"{tries} failed, and were made again"))


def describe(outcome: Outcome) -> dict[str, Any]:
    """Describe an outcome for JSON."""
    told: dict[str, Any] = {
        "path": outcome.item.where,
        "ok": outcome.status in ("done", "skipped"),
        "status": outcome.status,
        **outcome.result,
        "problem": outcome.problem,
        "tries": outcome.tries,
    }
    return {**told, "error": outcome.error} if outcome.error else told


def describe_all(summary: Summary) -> dict[str, Any]:
    """Describe a run as a whole for JSON."""
    counts = summary.counts
    return {
        "items": len(summary.outcomes),
        **{str(status): count for status, count in counts.items()},
        "bytes": summary.bytes,
        "seconds": round(summary.seconds, 3),
    }


def is_folder_target(target: str, to: str | None) -> bool:
    """Say whether a target is a folder to convert into, rather than a file or one to write."""
    return to is not None and os.path.isdir(target) and not by_name(to).folder
