"""`tensorkeep verify`: re-read everything that has a checksum."""

from __future__ import annotations

from typing import Annotated, Any

import typer

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
from tensorkeep.errors import CorruptError, TensorKeepError
from tensorkeep.verify import Verification
from tensorkeep.verify import verify as verify_file

_SHOWN = 20  # damaged tensors to name


def verify(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="What to verify.")],
    as_json: JsonOption = False,
) -> int:
    """Check files against the checksums stored in them.

    Exits with 1 if anything is damaged.

    With --json: {"ok", "files": [{"path", "ok", "format", "tensors", "bytes",
    "checked", "unchecked": [NAME], "damaged": [{"name", "problem"}]}]};
    a file whose structure cannot be read has {"path", "ok", "error"} instead.
    """
    files = [_verify(path, as_json) for path in paths]
    if as_json:
        say_json({"ok": all(file["ok"] for file in files), "files": files})
    if any(not file["ok"] and not _unreadable(file) for file in files):
        return 1
    return 2 if any(map(_unreadable, files)) else 0


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
