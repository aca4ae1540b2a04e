"""`tensorkeep check`: what is wrong with a model, where, and how to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from tensorkeep import api
from tensorkeep.cli.terminal import JsonOption, bold, clean, dim, red, say, say_json, several
from tensorkeep.errors import ArgumentError, LossError
from tensorkeep.models.checking import check as check_model
from tensorkeep.models.checks.findings import Finding
from tensorkeep.models.fixing import fix
from tensorkeep.state import State

_SHOWN = 100  # findings, unless asked for all


def check(
    path: Annotated[str, typer.Argument(metavar="MODEL", help="The model to check.")],
    out: Annotated[
        str | None,
        typer.Option("--fix", metavar="OUT", help="Write the model there, mended where it can be."),
    ] = None,
    unused: Annotated[
        bool, typer.Option("--unused", help="With --fix: also remove constants nobody uses.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 for warnings, too.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Neither read the weights nor ask the onnx package.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Show all findings.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Explain all that is wrong with an ONNX model, and mend what can be mended.

    Exits with 1 if there are errors; with --fix, if some remain.

    With --json: {"path", "ok", "errors", "warnings", "findings": [FINDING],
    "written": OUT, "mended": [FINDING]}, a finding being {"severity", "code",
    "where", "problem", "cure", "fixable"}. With --fix the findings are those that
    remain; otherwise "written" is null.
    """
    if unused and out is None:
        raise ArgumentError("--unused goes with --fix OUT", cure="Say where to write the model.")
    found = check_model(path, contents=not quick, official=not quick)
    mended: list[Finding] = []
    if out is not None:
        if not as_json:
            _say_findings(path, found, everything)
        state, mended = fix(path, unused=unused)
        with state:
            _save(state, out)
        found = check_model(out, contents=not quick, official=not quick)
    if as_json:
        say_json(_describe(path, found, out, mended))
    elif out is None:
        _say_findings(path, found, everything)
    else:
        _say_mended(out, mended, found, everything)
    return 1 if any(strict or finding.severity == "error" for finding in found) else 0


def _save(state: State, out: str) -> None:
    try:
        api.save(state, out)
    except LossError as error:
        cure = "Give the name of a model, such as mended.onnx."
        raise LossError(error.problem, where=error.where, cure=cure) from None


def _describe(
    path: str, found: Sequence[Finding], out: str | None, mended: Sequence[Finding]
) -> dict[str, Any]:
    errors = sum(finding.severity == "error" for finding in found)
    return {
        "path": path,
        "ok": not errors,
        "errors": errors,
        "warnings": len(found) - errors,
        "findings": list(map(_row, found)),
        "written": out,
        "mended": list(map(_row, mended)),
    }


def _row(finding: Finding) -> dict[str, object]:
    return {name: getattr(finding, name) for name in Finding.__dataclass_fields__}


def _say_findings(path: str, found: Sequence[Finding], everything: bool) -> None:
    if not found:
        say(f"ok  {clean(path)}: nothing is wrong")
        return
    say(f"{bold(clean(path))}: {_count(found)}")
    for finding in found if everything else found[:_SHOWN]:
        word = red("error") if finding.severity == "error" else "warning"
        say(f"\n{word}  {clean(finding.where)}  {dim(f'[{finding.code}]')}")
        say(f"  {clean(finding.problem)}")
        say(f"  {clean(finding.cure)}{'  (--fix does it)' if finding.fixable else ''}")
    if len(found) > _SHOWN and not everything:
        say(dim(f"\nand {len(found) - _SHOWN:,} more, with --all"))


def _count(found: Sequence[Finding]) -> str:
    errors = sum(finding.severity == "error" for finding in found)
    counts = [(errors, "error"), (len(found) - errors, "warning")]
    return ", ".join(several(count, noun) for count, noun in counts if count)


def _say_mended(
    out: str, mended: Sequence[Finding], found: Sequence[Finding], everything: bool
) -> None:
    say()
    if not mended:
        say(f"{bold('Nothing could be mended')}; {clean(out)} is the model as it was")
    else:
        say(f"{bold('Mended')} in {clean(out)}")
        for finding in mended if everything else mended[:_SHOWN]:
            say(f"  {clean(finding.where)}: {clean(finding.problem)}")
    errors = [finding for finding in found if finding.severity == "error"]
    if errors:
        say(f"\n{bold('What remains')}: {_count(found)}")
        for finding in errors if everything else errors[:_SHOWN]:
            say(f"  {red('error')}  {clean(finding.where)}: {clean(finding.problem)}")
    else:
        say(f"\nno error remains{f', {_count(found)}' if found else ''}")
