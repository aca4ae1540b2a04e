"""Remove the checkpoints that no rule keeps, in a thread of its own, never the last sound one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from queue import SimpleQueue

from tensorkeep.api import ProgressReport
from tensorkeep.checkpoint.folder import Folder
from tensorkeep.checkpoint.keeping import Keep
from tensorkeep.checkpoint.listing import Checkpoint, read_all
from tensorkeep.errors import CorruptError, StoreError, TensorKeepError
from tensorkeep.hidden import reason
from tensorkeep.verify import Verification, verify

_CURE = (
    "The next save writes everything anew; keep it, and run `tensorkeep checkpoints DIR verify`."
)


def doomed(folder: Folder, rules: Keep, always: set[int] | None = None) -> list[Checkpoint]:
    """List the whole checkpoints that no rule keeps; the newest is always kept.

    What is damaged or not ours is never among them.
    """
    rows = list(read_all(folder))
    good = [row for row in rows if row.ok]
    kept = rules.chosen(good) | (always or set()) | {row.step for row in good[-1:]}
    rest = [row for row in good if row.step not in kept]
    return [row for row in rest if folder.is_removable(row.step)]


def examine(folder: Folder, step: int, progress: ProgressReport | None = None) -> Verification:
    """Read all of a checkpoint, and note whether it is sound.

    Raises:
        CorruptError: its structure is damaged.
        MissingError: it is gone.
    """
    digest = folder.identity(step)
    sound = False
    try:
        found = verify(folder.location(step), format="checkpoint", progress=progress)
        sound = found.ok
    finally:
        if sound or folder.verified(step, digest):  # what was found sound once may not be now
            folder.mark_verified(step, digest, time.time() if sound else 0.0)
    return found


def check(folder: Folder, step: int, progress: ProgressReport | None = None) -> bool:
    """Read all of a checkpoint, and note that it is sound; False where it is not."""
    try:
        return examine(folder, step, progress).ok
    except TensorKeepError:
        return False


def remove_doomed(
    folder: Folder,
    rows: list[Checkpoint],
    is_sound: Callable[[int], bool],
    take_out: Callable[[int], Callable[[], None] | None] | None = None,
) -> list[Checkpoint]:
    """Remove checkpoints, once the newest of the others was read and found sound.

    Args:
        folder: where they are.
        rows: which.
        is_sound: reads one of the others.
        take_out: used in place of the folder's own; None from it leaves a step where it is.

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
            free = (take_out or folder.take_out)(row.step)
        except TensorKeepError:
            raise
        except OSError as error:
            raise StoreError(f"cannot be removed: {reason(error)}", where=row.path) from error
        if free is not None:
            free()
    return rows


class Janitor:
    """A thread that looks after what is there once a step was saved, so that no save waits."""

    def __init__(self, folder: Folder, rules: Keep | None, recheck: Callable[[], bool]) -> None:
        self.folder = folder
        self.rules = rules
        self.recheck = recheck  # reads what is shared again, where that was not done for long
        self.sound: set[tuple[int, str]] = set()  # what this process has read and found sound
        self.damaged: set[int] = set()
        self.error: TensorKeepError | None = None
        self._spared: Counter[int] = Counter()  # steps that the rules were not yet applied to
        self._lock = threading.Lock()
        self._queue: SimpleQueue[int | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def sparing(self, step: int) -> Iterator[None]:
        """Let a step be committed that is not to be removed on behalf of those before it."""
        with self._lock:
            self._spared[step] += 1
        try:
            yield
        except BaseException:
            self._release(step)
            raise

    def _release(self, step: int) -> None:
        with self._lock:
            self._spared[step] -= 1

    def _take_out(self, step: int) -> Callable[[], None] | None:
        with self._lock:  # so that no step of that number is committed meanwhile
            return None if self._spared[step] > 0 else self.folder.take_out(step)

    def saved(self, step: int) -> None:
        """Have the rules applied, now that a step was saved."""
        self._queue.put(step)

    def stop(self) -> None:
        """Have the thread end once it has done what there is to do."""
        self._queue.put(None)

    def close(self) -> None:
        """Finish what there is to do."""
        self.stop()
        self._thread.join()

    def take_error(self) -> TensorKeepError | None:
        """Give what went wrong since this was last asked."""
        error, self.error = self.error, None
        return error

    def _work(self) -> None:
        while (step := self._queue.get()) is not None:
            try:
                if not self.recheck():
                    where = self.folder.where_of(step)
                    raise CorruptError("a file that it shares is damaged", where=where, cure=_CURE)
                if self.rules is not None:
                    rows = doomed(self.folder, self.rules, {step})
                    rows = [row for row in rows if self._spared[row.step] <= 0]
                    remove_doomed(self.folder, rows, self._is_sound, self._take_out)
            except TensorKeepError as error:
                self.error = error
            except Exception as error:
                self.error = StoreError(f"old ones stay: {error!r}", where=self.folder.where)
            finally:
                self._release(step)

    def _is_sound(self, step: int) -> bool:
        key = step, self.folder.identity(step)
        if key not in self.sound:
            if not check(self.folder, step):
                self.damaged.add(step)
                return False
            self.sound.add(key)
        return True
