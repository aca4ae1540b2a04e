"""Remove the checkpoints that no rule keeps, in a thread of its own, never the last sound one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from tensorkeep.checkpoint.folder import Folder
from tensorkeep.checkpoint.keeping import Keep
from tensorkeep.checkpoint.listing import Checkpoint, identity, read_checkpoint
from tensorkeep.errors import CorruptError, StoreError, TensorKeepError
from tensorkeep.hidden import reason, remove
from tensorkeep.verify import verify


def doomed(folder: Folder, rules: Keep, always: set[int] | None = None) -> list[Checkpoint]:
    """List the whole checkpoints that no rule keeps; the newest is always kept.

    What is damaged or not ours is never among them.
    """
    rows = [read_checkpoint(folder, step)[0] for step in folder.steps()]
    good = [row for row in rows if row.ok]
    kept = rules.chosen(good) | (always or set()) | {row.step for row in good[-1:]}
    return [row for row in good if row.step not in kept]


def check(folder: Folder, step: int) -> bool:
    """Read all of a checkpoint, and note that it is sound; False where it is not."""
    digest = identity(folder, step)
    try:
        sound = verify(folder.path_of(step)).ok
    except TensorKeepError:
        return False
    if sound:
        folder.mark_verified(step, digest, time.time())
    return sound


def remove_doomed(
    folder: Folder, rows: list[Checkpoint], is_sound: Callable[[int], bool]
) -> list[Checkpoint]:
    """Remove checkpoints, once the newest of the others was read and found sound.

    Returns:
        Those that were removed.

    Raises:
        CorruptError: none of the others is sound; nothing was removed.
        StoreError: the filesystem refuses.
    """
    if not rows:
        return []
    going = {row.step for row in rows}
    staying = [step for step in reversed(folder.steps()) if step not in going]
    if not any(map(is_sound, staying)):
        raise CorruptError(
            "no checkpoint that would be kept is sound; none was removed",
            where=folder.where,
            cure="Run `tensorkeep checkpoints DIR verify`, and save again.",
        )
    for row in rows:
        try:
            trash = folder.take_out(row.step)
        except OSError as error:
            raise StoreError(f"cannot be removed: {reason(error)}", where=row.path) from error
        if trash is not None:
            remove(trash)
    return rows


class Janitor:
    """A thread that applies the rules after each save, so that no save waits for it."""

    def __init__(self, folder: Folder, rules: Keep) -> None:
        self.folder = folder
        self.rules = rules
        self.sound: set[tuple[int, str]] = set()  # what this process has read and found sound
        self.damaged: set[int] = set()
        self.error: TensorKeepError | None = None
        self._queue: SimpleQueue[int | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def saved(self, step: int) -> None:
        """Have the rules applied, now that a step was saved."""
        self._queue.put(step)

    def close(self) -> None:
        """Finish what there is to do."""
        self._queue.put(None)
        self._thread.join()

    def take_error(self) -> TensorKeepError | None:
        """Give what went wrong since this was last asked."""
        error, self.error = self.error, None
        return error

    def _work(self) -> None:
        while (step := self._queue.get()) is not None:
            try:
                rows = doomed(self.folder, self.rules, {step})
                remove_doomed(self.folder, rows, self._is_sound)
            except TensorKeepError as error:
                self.error = error
            except Exception as error:
                self.error = StoreError(f"old ones stay: {error!r}", where=self.folder.where)

    def _is_sound(self, step: int) -> bool:
        key = step, identity(self.folder, step)
        if key not in self.sound:
            if not check(self.folder, step):
                self.damaged.add(step)
                return False
            self.sound.add(key)
        return True
