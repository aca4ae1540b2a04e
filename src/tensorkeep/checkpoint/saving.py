"""Saving: one save that is under way, and what became of it."""

from __future__ import annotations

import os
import threading
import time

from tensorkeep.errors import StoreError, TensorKeepError


class CancelledError(Exception):
    """The save gives way to a newer one."""


class Saving:
    """A save, under way or over. What `Checkpointer.save` gives.

    Args:
        step: what is saved.
        path: where it will be.

    >>> saving = Saving(7, "run/step-00000007")
    >>> saving.committed, saving.progress
    (False, (0, 0))
    """

    def __init__(self, step: int, path: str) -> None:
        self.step = step
        self.path = path
        self.owner = os.getpid()
        self.skipped = False  # another save was under way, and the policy is to skip
        self.replaced = False  # a newer save took its place
        self.note = ""  # why it was saved otherwise than asked for
        self._noted = False
        self.error: BaseException | None = None
        self.written = 0  # bytes
        self.shared = 0  # bytes that the checkpoint before has too
        self.total = 0  # bytes of all tensors
        self.committed = False  # it is there, whole, and on the disk if that was asked for
        self.told = False  # whoever should know of its failure does
        self._done = 0
        self._began = time.monotonic()
        self._staged = threading.Event()
        self._over = threading.Event()
        self._cancelled = False

    @property
    def staged(self) -> bool:
        """Whether the state may change again without changing what is saved."""
        return self._staged.is_set()

    @property
    def over(self) -> bool:
        """Whether nothing more will happen: it is committed, failed, skipped or replaced."""
        return self._over.is_set()

    @property
    def progress(self) -> tuple[int, int]:
        """The bytes dealt with and the total."""
        return self._done, self.total

    @property
    def seconds_left(self) -> float | None:
        """How long it may take; None before that can be told."""
        if not self._done or self.over:
            return 0.0 if self.over else None
        return (time.monotonic() - self._began) * (self.total - self._done) / self._done

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is over; False where that takes longer than `timeout` seconds.

        Raises:
            TensorKeepError: it failed.
        """
        over = self._over.wait(timeout)
        if over and self.error is not None:
            self.told = True
            raise self.failure() or self.error
        return over

    def wait_staged(self) -> None:
        """Wait until the state may change."""
        self._staged.wait()

    def wait_over(self) -> None:
        """Wait until it is over, however it ends."""
        self._over.wait()

    def failure(self) -> TensorKeepError | None:
        """Give a fresh error that says how it failed; None where it did not."""
        if self.error is None:
            return None
        cause = self.error
        if isinstance(cause, TensorKeepError):
            again = type(cause)(cause.problem, where=cause.where, cure=cause.cure)
            if isinstance(cause, OSError) and isinstance(again, OSError):
                again.errno = cause.errno
        else:
            again = StoreError(f"cannot be saved: {cause!r}", where=self.path)
        again.__cause__ = cause
        return again

    def take_note(self) -> str:
        """Give the note, if it was not given before."""
        if self._noted or not self.note:
            return ""
        self._noted = True
        return self.note

    def mark_staged(self) -> None:
        """Note that the state may change."""
        self._staged.set()

    def finish(self, error: BaseException | None = None) -> None:
        """Note that it is over."""
        if isinstance(error, CancelledError):
            self.replaced = True
        else:
            self.error = self.error or error
        self._staged.set()
        self._over.set()

    def cancel(self) -> None:
        """Have it give way: what is not committed by then is dropped."""
        self._cancelled = True

    def report(self, count: int) -> None:
        """Note that bytes were dealt with; the writing thread calls it."""
        self._done = min(self._done + count, self.total)
        if self._cancelled:
            raise CancelledError

    def __repr__(self) -> str:
        if self.error is not None:
            how = f"failed: {self.error}"
        elif self.over:
            how = "committed" if self.committed else "skipped" if self.skipped else "replaced"
        else:
            how = "staged" if self.staged else "staging"
        return f"Saving(step={self.step}, {how})"
