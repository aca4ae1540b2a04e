"""`tensorkeep copy`: files, checkpoints and runs, between disks and object stores."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from tensorkeep.cli.progress import progress
from tensorkeep.cli.terminal import JsonOption, clean, say, say_json, several, size, table, warn
from tensorkeep.copying import JOBS, Copied, Copy
from tensorkeep.copying import copy as copy_all

_SHOWN = 40  # files of a plan to list


def copy(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A file, checkpoint, run or folder; also URLs.")
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET", help="Where it goes; below it, under its own name, if this ends in /."
        ),
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there and has other content.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify", help="Compare every byte with the digests that are stored."
        ),
    ] = True,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", metavar="N", help="How many files at a time.")
    ] = JOBS,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only say what would be copied.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Copy a file with those that it names, a checkpoint, or all checkpoints of a run.

    Nothing is seen at the target until it is whole. A copy that was cut short goes on where it
    ended when the same is said again.

    With --json: {"source", "target", "kind", "bytes", "transferred", "shared", "skipped",
    "steps": [NAME], "notes": [SENTENCE], "files": [{"name", "transferred", "shared", "skipped"}]}.
    """
    with progress("copying") as report:
        copied = copy_all(
            source,
            target,
            overwrite=overwrite,
            verify=verify,
            jobs=jobs,
            dry_run=dry_run,
            progress=report,
        )
    if as_json:
        say_json(_describe(copied))
        return 0
    if dry_run:
        _say_plan(copied)
    else:
        say(f"{clean(copied.target)}: {_summary(copied)}")
    for note in copied.notes:
        warn(clean(note))
    return 0


def _describe(copied: Copied) -> dict[str, object]:
    return {
        "source": copied.source,
        "target": copied.target,
        "kind": copied.kind,
        "bytes": copied.size,
        "transferred": copied.transferred,
        "shared": copied.shared,
        "skipped": copied.skipped,
        "steps": copied.steps,
        "notes": copied.notes,
        "files": list(map(asdict, copied.files)),
    }


def _summary(copied: Copied) -> str:
    parts = [several(len(copied.files), "file")]
    if copied.kind == "run":
        parts.insert(0, several(len(copied.steps), "checkpoint"))
    parts.append(f"{size(copied.transferred)} copied")
    if copied.shared:
        parts.append(f"{size(copied.shared)} shared")
    if copied.skipped:
        parts.append(f"{size(copied.skipped)} there already")
    return ", ".join(parts)


def _say_plan(copied: Copied) -> None:
    rows = [(clean(file.name), size(_bytes(file)), _fate(file)) for file in copied.files[:_SHOWN]]
    table(("file", "size", "would be"), rows, right=("size",))
    if len(copied.files) > _SHOWN:
        say(f"and {len(copied.files) - _SHOWN:,} more")
    where = clean(copied.target)
    say(f"{where}: {size(copied.transferred)} to copy, {size(copied.skipped)} there already")


def _bytes(file: Copy) -> int:
    return file.transferred + file.shared + file.skipped


def _fate(file: Copy) -> str:
    return "left as it is" if file.skipped else "copied"
