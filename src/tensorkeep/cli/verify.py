"""`tensorkeep verify`: re-read everything that has a checksum."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tensorkeep.bulk import Outcome, find
from tensorkeep.bulk.finding import means_many
from tensorkeep.bulk.verifying import verify as verify_item
from tensorkeep.cli.bulk import (
    FromOption,
    JobsOption,
    JournalOption,
    OnOption,
    code_of,
    describe,
    describe_all,
    read_names,
    say_outcomes,
    work,
)
from tensorkeep.cli.progress import progress
from tensorkeep.cli.terminal import (
    JsonOption,
    clean,
    fail,
    problem_of,
    red,
    say,
    say_json,
    several,
    size,
)
from tensorkeep.errors import ArgumentError, CorruptError, TensorKeepError
from tensorkeep.verify import Verification
from tensorkeep.verify import verify as verify_file

_SHOWN = 20  # damaged tensors to name


def verify(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH...",
            help="Files, checkpoints, folders of them, globs, URLs; - reads names from stdin.",
        ),
    ] = None,
    jobs: JobsOption = None,
    on: OnOption = None,
    journal: JournalOption = None,
    source: FromOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Of many, also show those that are fine.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Check files against the checksums stored in them.

    Of folders, everything below them is checked. Exits with 1 if anything is damaged, with 2 if
    something else could not be checked.

    With --json: {"ok", "files": [{"path", "ok", "format", "tensors", "bytes",
    "checked", "unchecked": [NAME], "damaged": [{"name", "problem"}]}]};
    a file whose structure cannot be read has {"path", "ok", "error"} instead. Of folders, and with
    --jobs, --on, --journal or --from, each has "status", "problem" and "tries" as well, at most 100
    names in a list, and there is {"summary": {"items", "done", "damaged", "failed", "skipped",
    "bytes", "seconds"}}.
    """
    given = paths or []
    if not given and source is None:
        raise ArgumentError("there is nothing to verify", cure="Give files, folders or URLs.")
    asked = jobs is not None or on or journal or source or "-" in given
    if asked or any(map(means_many, given)):
        return _verify_many(
            read_names(given, source), jobs, on, journal, everything=everything, as_json=as_json
        )
    files = [_verify(path, as_json) for path in given]
    if as_json:
        say_json({"ok": all(file["ok"] for file in files), "files": files})
    if any(not file["ok"] and not _unreadable(file) for file in files):
        return 1
    return 2 if any(map(_unreadable, files)) else 0


def _verify_many(
    names: list[str],
    jobs: int | None,
    on: str | None,
    journal: str | None,
    *,
    everything: bool,
    as_json: bool,
) -> int:
    items = find(names)
    summary = work("verifying", verify_item, items, jobs=jobs, on=on, journal=journal)
    if as_json:
        files = [{"damaged": [], **describe(outcome)} for outcome in summary.outcomes]
        say_json({"ok": summary.ok, "files": files, "summary": describe_all(summary)})
    else:
        say_outcomes(summary, _told, everything=everything, more=_named)
    return code_of(summary)


def _told(outcome: Outcome) -> str:
    found = outcome.result
    total = several(found["tensors"], "tensor")
    if found["checked"] == found["tensors"]:
        return f"{total} ({size(found['bytes'])}) match what was saved"
    return f"{found['checked']:,} of {total} match what was saved; the others have no checksum"


def _named(outcome: Outcome) -> str:
    damaged = outcome.result.get("damaged", [])
    lines = [f"         {clean(each['name'])}: {clean(each['problem'])}" for each in damaged]
    more = [f"         and {len(lines) - _SHOWN:,} more"] if len(lines) > _SHOWN else []
    return "\n".join([*lines[:_SHOWN], *more])


def _unreadable(file: dict[str, Any]) -> bool:
    return "error" in file and file["error"]["kind"] != CorruptError.__name__


def _verify(path: str, as_json: bool) -> dict[str, Any]:
    """Verify one file, say the result unless it will be JSON, and describe it."""
    try:
        with progress("verifying") as report:
            found = verify_file(path, progress=report)
    except TensorKeepError as error:
        if not isinstance(error, CorruptError):
            fail(error)
        elif not as_json:
            say(f"{red('DAMAGED')}  {clean(str(error))}")
        return {"path": path, "ok": False, "error": problem_of(error)}
    if not as_json:
        _say(path, found)
    return {
        "path": path,
        "ok": found.ok,
        "format": found.format,
        "tensors": found.tensors,
        "bytes": found.bytes,
        "checked": found.checked,
        "unchecked": found.unchecked,
        "damaged": [{"name": name, "problem": problem} for name, problem in found.damaged],
    }


def _say(path: str, found: Verification) -> None:
    where = clean(path)
    total = several(found.tensors, "tensor")
    if found.damaged:
        say(f"{red('DAMAGED')}  {where}: {len(found.damaged):,} of {total}")
        for name, problem in found.damaged[:_SHOWN]:
            say(f"         {clean(name)}: {clean(problem)}")
        if len(found.damaged) > _SHOWN:
            say(f"         and {len(found.damaged) - _SHOWN:,} more")
    elif not found.unchecked:
        say(f"ok       {where}: {total} ({size(found.bytes)}) match what was saved")
    elif not found.checked:
        say(f"ok       {where}: it holds no checksums; only the structure of {total} was checked")
    else:
        say(
            f"ok       {where}: {found.checked:,} of {total} match what was saved; "
            f"{len(found.unchecked):,} have no checksum, only their structure was checked"
        )
