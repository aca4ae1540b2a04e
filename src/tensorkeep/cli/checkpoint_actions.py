"""What `tensorkeep checkpoints` does beside listing: verify, prune, restore, repair."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from tensorkeep import api, formats
from tensorkeep.checkpoint import Checkpoint, foreign
from tensorkeep.checkpoint import checkpoints as list_checkpoints
from tensorkeep.checkpoint.folder import open_folder
from tensorkeep.checkpoint.keeping import parse_keep
from tensorkeep.checkpoint.repair import Finding
from tensorkeep.checkpoint.repair import repair as repair_folder
from tensorkeep.checkpoint.retention import check, doomed, examine, remove_doomed
from tensorkeep.cli.progress import progress
from tensorkeep.cli.terminal import clean, dim, red, say, say_json, several, size, warn
from tensorkeep.convert import refuse_existing
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    FormatError,
    MissingError,
    TensorKeepError,
)
from tensorkeep.state import State
from tensorkeep.stores import locate
from tensorkeep.verify import verify as verify_file

_SHOWN = 10  # damaged tensors, or names, to show
_STEP = re.compile(r"(?:step-)?([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks for."""

    path: str
    steps: list[str]
    keep: str
    dry_run: bool
    target: str
    names: list[str] | None
    lossy: bool
    options: dict[str, Any]
    force: bool
    as_json: bool


def _step_of(text: str) -> int:
    match = _STEP.fullmatch(text)
    if match is None:
        raise ArgumentError(f"{text!r} is no step", cure="Write 1200, step-00001200 or latest.")
    return int(match[1])


def _chosen(asked: Asked, rows: list[Checkpoint], text: str) -> Checkpoint:
    """Find the checkpoint of a step, one of ours before one of another program's."""
    if text == "latest" and rows:
        return rows[-1]
    step = None if text == "latest" else _step_of(text)
    fitting = [row for row in rows if row.step == step]
    if not fitting:
        there = ", ".join(str(row.step) for row in rows[-10:])
        raise MissingError(
            "there is no checkpoint" if step is None else f"there is no checkpoint of step {step}",
            where=asked.path,
            cure=f"There are {there}." if there else "",
        )
    return min(fitting, key=is_foreign)


def is_foreign(row: Checkpoint) -> bool:
    """Say whether another program saved a checkpoint."""
    return row.format != "checkpoint"


# --- verify -------------------------------------------------------------------------------------


def verify(asked: Asked) -> int:
    """Re-read every byte of all checkpoints, or of the steps given."""
    rows = list_checkpoints(asked.path)
    if asked.steps:
        rows = [_chosen(asked, rows, text) for text in asked.steps]
    told = [_verify_one(asked, row) for row in rows]
    ok = all(row["ok"] for row in told)
    if asked.as_json:
        say_json({"ok": ok, "checkpoints": told})
    elif not rows:
        say(f"{clean(asked.path)}: no checkpoints")
    return 0 if ok else 1


def _verify_one(asked: Asked, row: Checkpoint) -> dict[str, Any]:
    folder = open_folder(asked.path)
    problem, damaged, note = row.problem, list[tuple[str, str]](), ""
    if not problem:
        try:
            with progress(f"verifying step {row.step}") as report:
                if is_foreign(row):
                    epoch = next(e for e in foreign.find(folder) if e.step == row.step)
                    found = [verify_file(part, progress=report) for part in epoch.parts.values()]
                else:
                    found = [examine(folder, row.step, report)]
            damaged = [pair for one in found for pair in one.damaged]
            total = several(sum(one.tensors for one in found), "tensor")
            note = f"{total} ({size(sum(one.bytes for one in found))}) match what was saved"
            if any(one.unchecked for one in found):
                note = f"only the structure of {total} was checked; there are no checksums"
            if damaged:
                problem = f"{len(damaged):,} of {total}"
        except TensorKeepError as error:
            path = folder.location(row.step).where
            inside = error.where.removeprefix(path).lstrip("/") if error.where != path else ""
            problem = f"{inside}: {error.problem}" if inside else error.problem
    if not asked.as_json:
        where = clean(row.path)
        say(
            f"{red('DAMAGED')}  {where}: {clean(problem)}"
            if problem
            else f"ok       {where}: {note}"
        )
        for name, told in damaged[:_SHOWN]:
            say(f"         {clean(name)}: {clean(told)}")
        if len(damaged) > _SHOWN:
            say(f"         and {len(damaged) - _SHOWN:,} more")
    return {
        "step": row.step,
        "path": row.path,
        "ok": not problem,
        "problem": problem,
        "damaged": [{"name": name, "problem": told} for name, told in damaged],
    }


# --- prune --------------------------------------------------------------------------------------


def prune(asked: Asked) -> int:
    """Remove what no rule keeps, and say why the others stay."""
    rules = parse_keep(asked.keep)
    rows = list_checkpoints(asked.path)
    folder = open_folder(asked.path)
    with contextlib.ExitStack() as held:
        if not asked.dry_run and any(not is_foreign(row) for row in rows):
            held.enter_context(folder.tending())
        rows = list_checkpoints(asked.path)
        going = doomed(folder, rules)
        gone = {row.step for row in going}
        total = folder.freed(gone)
        removed = [
            {
                "step": row.step,
                "path": row.path,
                "size": row.size,
                "freed": folder.freed([row.step]),
            }
            for row in going
        ]
        why = _reasons(asked.keep, rows)
        kept = [row for row in rows if row.step not in gone or is_foreign(row)]
        if not asked.dry_run:
            with progress("verifying what stays") as report:
                remove_doomed(folder, going, partial(check, folder, progress=report))
    if asked.as_json:
        listed = [{"step": row.step, "path": row.path, "why": why(row)} for row in kept]
        say_json({"dry_run": asked.dry_run, "freed": total, "removed": removed, "kept": listed})
        return 0
    for row in rows:
        if row in kept:
            say(f"kept     {clean(row.path)}: {clean(', '.join(why(row)))}")
        else:
            say(f"{'goes   ' if asked.dry_run else 'removed'}  {clean(row.path)}: {_sizes(row)}")
    would = "would be " if asked.dry_run else ""
    say(f"{several(len(going), 'checkpoint')} {would}removed, {size(total)} {would}freed")
    return 0


def _sizes(row: Checkpoint) -> str:
    shared = f", {size(row.shared)} of it shared with others" if row.shared else ""
    return f"{size(row.size)}{shared}"


def _reasons(keep: str, rows: Sequence[Checkpoint]) -> Callable[[Checkpoint], list[str]]:
    """Give what says which of the rules keep a checkpoint."""
    good = [row for row in rows if row.ok and not is_foreign(row)]
    chosen = {part.strip(): parse_keep(part).chosen(good) for part in keep.split(",")}

    def why(row: Checkpoint) -> list[str]:
        if is_foreign(row):
            return [f"{row.format}'s, which is never removed"]
        if not row.ok:
            return ["damaged, which repair looks at"]
        newest = ["the newest"] if row is good[-1] else []
        return newest + [part for part, steps in chosen.items() if row.step in steps]

    return why


# --- restore ------------------------------------------------------------------------------------


def restore(asked: Asked) -> int:
    """Convert one checkpoint, or the newest sound one, to a file."""
    if len(asked.steps) > 1:
        raise ArgumentError("restore takes one step", cure="Run it once for each.")
    location = locate(asked.target)
    chosen = formats.for_writing(location)
    if not asked.force:
        refuse_existing(location)
    rows = list_checkpoints(asked.path)
    latest = asked.steps[0] == "latest"
    ours = [row for row in rows if not is_foreign(row)] or rows
    wanted = ours[::-1] if latest and ours else [_chosen(asked, rows, asked.steps[0])]
    skipped: list[dict[str, str]] = []
    for row in wanted:
        try:
            if row.problem:
                raise CorruptError(row.problem, where=row.path, cure=_repair_of(asked))
            state = _opened(asked.path, row)
        except (FormatError, MissingError) as error:
            _skip(error, row, latest, skipped)
            continue
        with state:
            taken = _taken(state, asked.names)
            lost = chosen.losses(taken)
            try:
                with progress("restoring") as report:
                    api.save(
                        taken,
                        location,
                        format=chosen.name,
                        lossy=asked.lossy,
                        progress=report,
                        **asked.options,
                    )
            except CorruptError as error:
                _skip(error, row, latest, skipped)
                continue
            _say_restored(asked, row, chosen.name, taken, lost, skipped)
            return 0
    raise CorruptError(
        f"none of {several(len(wanted), 'checkpoint')} can be restored",
        where=asked.path,
        cure=_repair_of(asked),
    )


def _opened(path: str, row: Checkpoint) -> State:
    folder = open_folder(path)
    if not is_foreign(row):
        return api.open(folder.location(row.step), format="checkpoint")
    epoch = next(epoch for epoch in foreign.find(folder) if epoch.step == row.step)
    return foreign.open_epoch(folder, epoch)


def _repair_of(asked: Asked) -> str:
    run = shlex.quote(asked.path)
    return f"`tensorkeep checkpoints {run} repair --dry-run` says what can be rescued."


def _skip(
    error: TensorKeepError, row: Checkpoint, latest: bool, skipped: list[dict[str, str]]
) -> None:
    """Note a damaged checkpoint that is passed over; raise the error where none may be."""
    if not latest:
        raise error
    skipped.append({"path": row.path, "problem": error.problem})
    warn(f"skipped {clean(row.path)}: {clean(error.problem)}")


def _taken(state: State, names: list[str] | None) -> State:
    if names is None:
        return state
    wanted = state.match(names)
    return state.replace(
        tensors={name: state[name] for name in wanted},
        skeleton=None,
        digests={name: state.digests[name] for name in wanted if name in state.digests},
        checks={name: state.checks[name] for name in wanted if name in state.checks},
    )


def _say_restored(
    asked: Asked,
    row: Checkpoint,
    kind: str,
    taken: State,
    lost: list[str],
    skipped: list[dict[str, str]],
) -> None:
    if asked.as_json:
        say_json(
            {
                "step": row.step,
                "path": row.path,
                "target": asked.target,
                "format": kind,
                "tensors": len(taken),
                "bytes": taken.nbytes,
                "lost": lost,
                "skipped": skipped,
            }
        )
        return
    total = several(len(taken), "tensor")
    told = f"step {row.step} as {kind}, {total}, {size(taken.nbytes)}"
    say(f"{clean(asked.target)}: {told}")
    for sentence in lost:
        say(f"lost: {clean(sentence)}")


# --- repair -------------------------------------------------------------------------------------


def repair(asked: Asked) -> int:
    """Make sound what can be, and say what is lost of the rest."""
    with progress("reading") as report:
        found = repair_folder(asked.path, dry_run=asked.dry_run, progress=report)
    damage = [one for one in found if one.step is not None]
    ok = not damage if asked.dry_run else all(one.repaired for one in found)
    if asked.as_json:
        say_json({"dry_run": asked.dry_run, "ok": ok, "findings": [asdict(one) for one in found]})
        return 0 if ok else 1
    for one in found:
        _say_finding(one, asked.dry_run)
    if not damage:
        count = len(open_folder(asked.path).steps())
        say(f"ok       {clean(asked.path)}: {several(count, 'checkpoint')}, all sound")
    return 0 if ok else 1


def _say_finding(one: Finding, dry_run: bool) -> None:
    where = clean(one.where)
    if one.repaired:
        would = "would be " if dry_run else ""
        head = "found  " if dry_run else "mended "
        say(f"{head}  {where}: {clean(one.problem)}; {would}{clean(one.action)}")
        return
    say(f"{red('DAMAGED')}  {where}: {clean(one.problem)}")
    for title, names in (("lost", one.lost), ("sound", one.sound)):
        if names:
            more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
            say(f"         {title}: {', '.join(map(clean, names[:_SHOWN]))}{more}")
    if one.cure:
        say(dim(f"         {clean(one.cure)}"))
