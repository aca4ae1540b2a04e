"""The task of pruning a run: removing the checkpoints that no rule keeps."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

from tensorkeep.bulk.items import Item
from tensorkeep.checkpoint import checkpoints
from tensorkeep.checkpoint.folder import open_folder
from tensorkeep.checkpoint.keeping import parse_keep
from tensorkeep.checkpoint.retention import check, doomed, remove_doomed
from tensorkeep.state import Json

_OURS = "checkpoint"  # the format; those of other programs are never removed


def prune(item: Item, *, keep: str, dry_run: bool = False) -> dict[str, Json]:
    """Remove the checkpoints of a run that no rule keeps, once one that stays was found sound.

    Args:
        item: the folder of checkpoints.
        keep: the rules, such as "last=3,best=loss".
        dry_run: only say what would go.

    Returns:
        "removed" and "kept" (steps), and the "freed" bytes.

    Raises:
        MissingError: there is no such folder.
        CorruptError: none of those that would stay is sound; nothing was removed.
        StoreError: a Checkpointer saves there.

    >>> import tempfile
    >>> prune(Item(tempfile.mkdtemp()), keep="last=1")
    {'dry_run': False, 'removed': [], 'kept': [], 'freed': 0, 'bytes': 0}
    """
    rules = parse_keep(keep)
    rows = checkpoints(item.where)
    folder = open_folder(item.where)
    with contextlib.ExitStack() as held:
        if not dry_run and any(row.format == _OURS for row in rows):
            held.enter_context(folder.tending())
            rows = checkpoints(item.where)
        going = doomed(folder, rules)
        gone = {row.step for row in going}
        freed = folder.freed(gone)
        if not dry_run:
            remove_doomed(folder, going, partial(check, folder))
    kept: list[Any] = [row.step for row in rows if row.step not in gone or row.format != _OURS]
    removed: list[Any] = sorted(gone)
    return {
        "dry_run": dry_run,
        "removed": removed,
        "kept": kept,
        "freed": freed,
        "bytes": sum(row.size for row in rows),
    }
