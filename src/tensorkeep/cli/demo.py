"""`tensorkeep demo`: the main job on real data, told as it happens."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

from tensorkeep.cli.terminal import JsonOption, clean, say, say_json, warn
from tensorkeep.demo import run


def demo(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER",
            help="A new or empty folder to leave the files in; a temporary one otherwise.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Train, kill, resume, verify, convert and compare.

    A digit classifier is trained on real images and killed in the middle of a save. Exits with 1
    if anything differs that has to be equal.

    With --json the story goes to stderr and its summary to stdout: {"ok", "folder", "trained_on",
    "held_out", "weights", "epochs", "kill": {"tries", "unfinished", "epoch", "sample", "step",
    "accuracy"}, "resumed_identical", "accuracy", "conversions": [{"format", "file", "bytes",
    "verified", "identical", "difference", "accuracy"}], "skipped": {FORMAT: REASON},
    "files": {NAME: BYTES}, "seconds"}.
    """
    summary = run(folder, say=warn if as_json else _say)
    if as_json:
        say_json({"ok": summary.ok, **dataclasses.asdict(summary)})
    return 0 if summary.ok else 1


def _say(line: str) -> None:
    say(clean(line))
    sys.stdout.flush()  # each line as it happens, through a pipe too
