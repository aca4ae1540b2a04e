"""`tensorkeep checkpoints RUN... prune`: prune many runs."""

from __future__ import annotations

from functools import partial
from typing import Any

from tensorkeep.bulk import Outcome
from tensorkeep.bulk.finding import matching
from tensorkeep.bulk.pruning import prune
from tensorkeep.checkpoint.keeping import parse_keep
from tensorkeep.cli.bulk import code_of, describe, describe_all, say_outcomes, work
from tensorkeep.cli.terminal import say_json, several, size


def prune_many(
    runs: list[str], keep: str, *, dry_run: bool, how: dict[str, Any], as_json: bool
) -> int:
    """Prune each run by the same rules."""
    parse_keep(keep)  # what makes no sense is refused before anything is removed
    task = partial(prune, keep=keep, dry_run=dry_run)
    summary = work("pruning", task, matching(runs), **how)
    if as_json:
        told = list(map(describe, summary.outcomes))
        total = describe_all(summary)
        say_json({"ok": summary.ok, "dry_run": dry_run, "runs": told, "summary": total})
    else:
        say_outcomes(summary, _told, everything=True)
    return code_of(summary)


def _told(outcome: Outcome) -> str:
    found = outcome.result
    would = "would be " if found["dry_run"] else ""
    gone = f"{several(len(found['removed']), 'checkpoint')} {would}removed"
    return f"{gone}, {size(found['freed'])} {would}freed, {len(found['kept']):,} kept"
