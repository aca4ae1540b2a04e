"""`tensorkeep checkpoints`: look at what a training saved; verify, prune, restore, repair it."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from glob import has_magic
from typing import Annotated, Any

import typer

from tensorkeep.checkpoint import Checkpoint
from tensorkeep.checkpoint import checkpoints as list_checkpoints
from tensorkeep.checkpoint.folder import open_folder, step_of
from tensorkeep.cli.bulk import JobsOption, JournalOption, OnOption
from tensorkeep.cli.checkpoint_actions import Asked, is_foreign, prune, repair, restore, verify
from tensorkeep.cli.convert import parse_options
from tensorkeep.cli.terminal import (
    JsonOption,
    NamesOption,
    clean,
    fail,
    problem_of,
    red,
    say,
    say_json,
    several,
    shorten,
    size,
    table,
    warn,
)
from tensorkeep.errors import ArgumentError, CorruptError, StoreError, TensorKeepError
from tensorkeep.formats.safetensors.manifest import MANIFEST, read_manifest
from tensorkeep.stores import locate

_COLUMNS = 4  # metrics that get a column each
_TAKES: dict[str, set[str]] = {
    "list": set(),
    "verify": {"STEP"},
    "prune": {"--keep", "--dry-run"},
    "restore": {"STEP", "--to", "--names", "--lossy", "--option", "--force"},
    "repair": {"--dry-run"},
}
_USAGE = "Use list, verify [STEP...], prune --keep RULES, restore STEP --to FILE, or repair."


def checkpoints(
    path: Annotated[
        str,
        typer.Argument(
            metavar="DIR", help="The folder of checkpoints; prune takes several, and globs."
        ),
    ],
    action: Annotated[
        str,
        typer.Argument(metavar="ACTION", help="list, verify, prune, restore or repair."),
    ] = "list",
    steps: Annotated[
        list[str] | None,
        typer.Argument(metavar="STEP...", help="1200, step-00001200 or latest."),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(metavar="RULES", help="What prune keeps, such as last=3,best=loss."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what prune or repair would do.")
    ] = False,
    to: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="What restore writes; its ending tells the format."),
    ] = None,
    names: NamesOption = None,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Go on where the file cannot hold everything.")
    ] = False,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", "-o", metavar="NAME=VALUE", help="An option of the format; repeatable."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace the file if it is there.")
    ] = False,
    jobs: JobsOption = None,
    on: OnOption = None,
    journal: JournalOption = None,
    as_json: JsonOption = False,
) -> int:
    """List the checkpoints of a training; verify, prune, restore or repair them.

    verify reads every byte of all of them, or of the steps given. prune removes what no rule keeps:
    last=N, best=METRIC[:max][:N], every=N, younger=2d; one that fits is enough. restore converts
    one to a file. repair makes sound what can be made exactly what was saved, and says of the rest
    what is lost.

    Exits with 1 if anything is damaged.

    With --json: list gives {"ok", "checkpoints": [{"step", "path", "time", "size", "shared",
    "metrics", "metadata", "reason", "verified", "problem", "format"}]}; verify {"ok",
    "checkpoints": [{"step", "path", "ok", "problem", "damaged": [{"name", "problem"}]}]}; prune
    {"dry_run", "freed", "removed": [{"step", "path", "size", "freed"}], "kept": [{"step", "path",
    "why": [TEXT]}]}; restore {"step", "path", "target", "format", "tensors", "bytes", "lost",
    "skipped": [{"path", "problem"}]}; repair {"dry_run", "ok", "findings": [{"where", "problem",
    "action", "step", "lost", "sound", "cure"}]}; prune of several folders {"ok", "dry_run", "runs":
    [{"path", "ok", "status", "removed": [STEP], "kept": [STEP], "freed", "problem"}], "summary"}.
    """
    how = {"jobs": jobs, "on": on, "journal": journal}
    runs, action, steps = _several(path, action, steps or [])
    given: dict[str, object] = {
        "STEP": steps,
        "--keep": keep,
        "--dry-run": dry_run,
        "--to": to,
        "--names": names,
        "--lossy": lossy,
        "--option": option,
        "--force": force,
    }
    globbed = has_magic(path) and not os.path.exists(path)
    if len(runs) > 1 or any(value is not None for value in how.values()) or globbed:
        return _prune_many(runs, action, given, how, as_json)
    _check_usage(path, action, {name for name, value in given.items() if value})
    asked = Asked(
        path=path,
        steps=steps or [],
        keep=keep or "",
        dry_run=dry_run,
        target=to or "",
        names=names,
        lossy=lossy,
        options=parse_options(option),
        force=force,
        as_json=as_json,
    )
    try:
        return _ACTIONS[action](asked)
    except CorruptError as error:
        if as_json:
            say_json({"error": problem_of(error)})
        fail(error)
        return 1
    except StoreError as error:
        if "another Checkpointer" not in error.problem:
            raise
        cure = "Wait until it ends, or only look with --dry-run."
        raise StoreError(error.problem, where=error.where, cure=cure) from None


def _several(path: str, action: str, rest: list[str]) -> tuple[list[str], str, list[str]]:
    """Split DIR... ACTION STEP..., where more than one folder may stand before the action."""
    words = [action, *rest]
    at = next((number for number, word in enumerate(words) if word in _TAKES), 0)
    return [path, *words[:at]], words[at], words[at + 1 :]


def _prune_many(
    runs: list[str], action: str, given: dict[str, object], how: dict[str, Any], as_json: bool
) -> int:
    from tensorkeep.cli.prune_many import prune_many

    if action != "prune":
        raise ArgumentError(
            f"{action} takes one folder, and no --jobs, --on or --journal",
            cure="prune takes several; `tensorkeep verify DIR...` verifies all that is in them.",
        )
    for run in runs:
        _check_usage(run, action, {name for name, value in given.items() if value})
    keep, dry_run = str(given["--keep"]), bool(given["--dry-run"])
    return prune_many(runs, keep, dry_run=dry_run, how=how, as_json=as_json)


def _check_usage(path: str, action: str, given: set[str]) -> None:
    if _is_checkpoint(path):
        remote = "://" in path
        around, name = os.path.split(path.rstrip("/") if remote else os.path.abspath(path))
        around = around if remote else os.path.relpath(around)
        raise ArgumentError(
            "is one checkpoint, not the folder that it is in",
            where=path,
            cure=f"Run `tensorkeep checkpoints {shlex.quote(around)} verify "
            f"{name}`, or look into it with `tensorkeep ls {shlex.quote(path)}`.",
        )
    if os.path.isfile(path):
        raise ArgumentError(
            "is a file, not a folder of checkpoints",
            where=path,
            cure="Give the folder that a Checkpointer saves in; `tensorkeep ls` shows a file.",
        )
    if action not in _TAKES:
        raise ArgumentError(f"there is no action {action!r}", cure=_USAGE)
    if stray := sorted(given - _TAKES[action]):
        fitting = [name for name, takes in _TAKES.items() if stray[0] in takes]
        what = "a step" if stray[0] == "STEP" else stray[0]
        raise ArgumentError(
            f"{action} takes no {what.removeprefix('a ')}",
            cure=f"{what[0].upper()}{what[1:]} is for {' and '.join(fitting)}.",
        )
    if action == "prune" and "--keep" not in given:
        raise ArgumentError("prune needs to know what to keep", cure="Give --keep last=3.")
    if action == "restore" and not {"STEP", "--to"} <= given:
        raise ArgumentError(
            "restore needs a step and a file", cure="Give such as restore latest --to FILE."
        )


def _is_checkpoint(path: str) -> bool:
    """Say whether a folder is a checkpoint itself; others may have a file of that name too."""
    if "://" in path:
        around, _, name = path.rstrip("/").rpartition("/")
        step = step_of(name)
        return step is not None and open_folder(around).there(step)
    if not os.path.isfile(os.path.join(path, MANIFEST)):
        return False
    if step_of(os.path.basename(os.path.abspath(path))) is not None:
        return True
    try:
        read_manifest(locate(path))
    except TensorKeepError:
        return False
    return True


def _list(asked: Asked) -> int:
    rows = list_checkpoints(asked.path)
    bad = [row for row in rows if not row.ok]
    if asked.as_json:
        say_json({"ok": not bad, "checkpoints": [asdict(row) for row in rows]})
        return 1 if bad else 0
    if not rows:
        say(f"{clean(asked.path)}: no checkpoints")
        return 0
    _table(rows)
    if bad:
        told = f"{len(bad):,} of {several(len(rows), 'checkpoint')}"
        told += f" {'is' if len(bad) == 1 else 'are'} damaged"
        if not all(map(is_foreign, bad)):
            run = shlex.quote(asked.path)
            told += f"; see `tensorkeep checkpoints {run} repair --dry-run`"
        warn(clean(told))
    return 1 if bad else 0


def _table(rows: Sequence[Checkpoint]) -> None:
    now = time.time()
    metrics = list(dict.fromkeys(name for row in rows for name in row.metrics))
    columns = [
        ("STEP", [str(row.step) for row in rows]),
        ("AGE", [_age(now - row.time) if row.time else "-" for row in rows]),
        ("SIZE", [size(row.size) if row.time else "-" for row in rows]),
        ("SHARED", [size(row.shared) if row.shared else "-" for row in rows]),
    ]
    right = ["STEP", "AGE", "SIZE", "SHARED"]
    if len(metrics) > _COLUMNS:
        told = [
            ", ".join(f"{name}={_number(value)}" for name, value in row.metrics.items())
            for row in rows
        ]
        columns.append(("METRICS", [shorten(text, 60) for text in told]))
    else:
        for name in metrics:
            shown = [_number(row.metrics[name]) if name in row.metrics else "-" for row in rows]
            columns.append((shorten(name, 20), shown))
            right.append(shorten(name, 20))
    columns.append(
        (
            "VERIFIED",
            [
                f"yes, {_age(now - row.verified)} ago" if row.verified and row.ok else "no"
                for row in rows
            ],
        )
    )
    columns.append(("NOTE", list(map(_note, rows))))
    table([head for head, _ in columns], zip(*(cells for _, cells in columns), strict=True), right)


def _note(row: Checkpoint) -> str:
    if not row.ok:
        return f"{red('DAMAGED:')} {shorten(row.problem, 160)}"
    return clean(row.format) if is_foreign(row) else shorten(row.reason, 60)


def _number(value: float | str) -> str:
    return f"{value:.6g}" if isinstance(value, float) else shorten(str(value), 20)


def _age(seconds: float) -> str:
    """Say how long ago something was.

    >>> _age(20), _age(200), _age(7300), _age(5 * 86400)
    ('20 s', '3 min', '2 h', '5 d')
    """
    for unit, length, most in (("s", 1, 60), ("min", 60, 60), ("h", 3600, 48)):
        if seconds < most * length:
            return f"{max(int(seconds / length), 0)} {unit}"
    return f"{int(seconds / 86400)} d"


_ACTIONS: dict[str, Callable[[Asked], int]] = {
    "list": _list,
    "verify": verify,
    "prune": prune,
    "restore": restore,
    "repair": repair,
}
