"""Checkpointer: saves a training's whole state so that no failure loses it, and restores it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Literal, Self

from tensorkeep.checkpoint.arguments import (
    called,
    check_metadata,
    check_metrics,
    check_step,
    flatten_state,
)
from tensorkeep.checkpoint.folder import open_folder, step_of
from tensorkeep.checkpoint.foreign import list_all
from tensorkeep.checkpoint.keeping import Keep, parse_keep
from tensorkeep.checkpoint.lineage import Lineage
from tensorkeep.checkpoint.listing import Checkpoint, newest_first, read_checkpoint
from tensorkeep.checkpoint.restoring import Restored, Wanted, restore
from tensorkeep.checkpoint.retention import Janitor
from tensorkeep.checkpoint.rng import capture_rng
from tensorkeep.checkpoint.saver import Saver
from tensorkeep.checkpoint.saving import Saving
from tensorkeep.checkpoint.schedule import Schedule, Then
from tensorkeep.checkpoint.stateful import capture
from tensorkeep.checkpoint.writing import Contents
from tensorkeep.errors import (
    ArgumentError,
    ClosedError,
    CorruptError,
    StoreError,
)
from tensorkeep.state import Json
from tensorkeep.stores import Target
from tensorkeep.version import __version__
from tensorkeep.wire.sizes import size_of


class Checkpointer:
    """Save the whole state of a training again and again, so that nothing can lose it.

    Args:
        folder: where the checkpoints are, one folder each: a path, where it is made if it is not
            there, or in an object store, such as "s3://bucket/run" or what `tensorkeep.remote`
            gives.
        keep: which to keep (`tensorkeep.keep(last=3, best="loss")`, or such as "last=3"); all
            otherwise. The newest always stays.
        every_steps: have `step` save when the step is a multiple of this.
        every_seconds: have `step` save when this long has passed since the last time.
        signals: have `step` save when a signal came, then go on or stop:
            `{"SIGTERM": "stop", "SIGUSR1": "continue"}`.
        on_exception: save what `step` was last given when the `with` block ends by an exception.
        background: return once the state is copied; write in a thread.
        fenced: with `background`, do not even wait for the copy: `fence()` does, and has to be
            called before anything of the state is changed.
        busy: what a save does that finds another under way: "wait" for it, "skip" itself, or
            "replace" it.
        rng: keep the states of the global random generators of Python, NumPy and PyTorch too.
        durable: have each checkpoint on the disk, safe from a loss of power, when it counts as
            committed.
        max_shard_size: how large a file may be, in bytes or as "5GB".
        read_only: only look and restore, beside whoever saves here.

    Raises:
        StoreError: another Checkpointer saves in this folder, or it cannot be made. (In an object
            store this one takes over, and the other fails at its next save.)
        ArgumentError: an argument makes no sense.

    >>> import tempfile, numpy as np
    >>> from tensorkeep.checkpoint import Checkpointer
    >>> folder, weight = tempfile.mkdtemp(), np.zeros(3)
    >>> with Checkpointer(folder, every_steps=2) as ck:
    ...     for step in range(1, 6):
    ...         weight += 1
    ...         _ = ck.step(step, {"w": weight, "lr": 0.1}, metrics={"loss": 1 / step})
    ...     weight[:] = 0
    ...     restored = ck.restore(like={"w": weight, "lr": 0.0})
    >>> restored.step, weight.tolist(), restored.state["lr"], restored.metrics
    (4, [4.0, 4.0, 4.0], 0.1, {'loss': 0.25})
    """

    def __init__(
        self,
        folder: Target,
        *,
        keep: Keep | str | None = None,
        every_steps: int = 0,
        every_seconds: float = 0.0,
        signals: Mapping[str, Then] | None = None,
        on_exception: bool = False,
        background: bool = False,
        fenced: bool = False,
        busy: Literal["wait", "skip", "replace"] = "wait",
        rng: bool = True,
        durable: bool = True,
        max_shard_size: int | str | None = "5GB",
        read_only: bool = False,
    ) -> None:
        if fenced and not background:
            raise ArgumentError("fenced saves are background ones", cure="Say background=True too.")
        if busy not in ("wait", "skip", "replace"):
            raise ArgumentError(f"busy cannot be {busy!r}", cure="Say wait, skip or replace.")
        if keep is not None and not isinstance(keep, Keep | str):
            raise ArgumentError(
                f"keep cannot be {keep!r}", cure='Give tensorkeep.keep(last=3), or "last=3".'
            )
        limit = size_of(max_shard_size)
        self._keep = parse_keep(keep) if isinstance(keep, str) else keep
        self._on_exception = on_exception
        self._busy = busy
        self._rng = rng
        self._read_only = read_only
        self._owner = os.getpid()
        self._folder = open_folder(folder)
        self._saving: Saving | None = None  # the one under way, or the last
        self._unseen: list[Saving] = []  # background saves whose failure nobody was told yet
        self._given: tuple[int, Any, Any, Any] | None = None  # what `step` was given last
        self._schedule = Schedule(every_steps, every_seconds, signals)
        self._janitor: Janitor | None = None
        self._lineage = Lineage(self._folder)
        self._saver = Saver(
            self._folder,
            self._lineage,
            background=background,
            fenced=fenced,
            durable=durable,
            limit=limit,
            committing=self._committing,
            committed=self._committed,
        )
        if not read_only:
            self._open()
        self._closed = False

    def _open(self) -> None:
        """Take the folder, and look at what is in it."""
        try:
            self._folder.create()
            self._folder.lock()
            newest = next((r for r in newest_first(self._folder) if r[0].ok), None)
        except BaseException:
            self._schedule.close()
            self._folder.unlock()
            raise
        if newest is not None:
            self._lineage.adopt(newest[0].step, newest[1])
        self._janitor = Janitor(self._folder, self._keep, self._lineage.recheck)

    # --- saving ---------------------------------------------------------------------------------

    def step(
        self,
        step: int,
        state: Any,
        *,
        metrics: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Json] | None = None,
    ) -> Saving | None:
        """Save if it is time to: by steps, by seconds, or because a signal came.

        Once a signal has asked to stop, the save is over when this returns, and `stopping` is true.

        Args:
            step: of the training.
            state: what to save, or a function that gives it and is called only then.
            metrics: what was measured, by name.
            metadata: JSON values to keep with it.
        """
        if self._on_exception:
            self._given = step, state, metrics, metadata
        self._tell_failures()
        why = self._schedule.due(check_step(step))
        if not why:
            return None
        saving = self.save(
            step, called(state), metrics=metrics, metadata=metadata, overwrite=True, reason=why
        )
        if self.stopping:
            self.wait()
        return saving

    def save(
        self,
        step: int,
        state: Any,
        *,
        metrics: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Json] | None = None,
        overwrite: bool = False,
        reason: str = "",
    ) -> Saving:
        """Save a checkpoint now: all of the state, or nothing.

        Args:
            step: of the training; names the checkpoint.
            state: any nesting of dicts, lists, numbers, text and arrays, and of objects with
                `state_dict()` and `load_state_dict()` or random generators in it.
            metrics: what was measured, by name: numbers or text.
            metadata: JSON values to keep with it.
            overwrite: replace a checkpoint of the same step, if there is one.
            reason: why it is saved, which is kept with it.

        Returns:
            The save: over, unless it goes on in the background.

        Raises:
            UnsupportedError: something in the state cannot be kept; the message names its place.
            StoreError: the disk is full or failed; what was there before is unchanged.
            ArgumentError: that step is saved already.
            TensorKeepError: an earlier save in the background failed.
        """
        self._check_writable()
        self._tell_failures()
        saving = Saving(check_step(step), self._folder.where_of(step))
        if self._is_busy() and self._busy == "skip" and not self.stopping:
            saving.skipped = True
            saving.finish()
            return saving
        nested, frozen = capture(state)
        tensors, skeleton, kept = flatten_state(nested)
        contents = Contents(
            step=step,
            skeleton=skeleton,
            rng=capture_rng() if self._rng else None,
            metrics=check_metrics(metrics),
            metadata=kept | check_metadata(metadata),
            reason=reason,
            writer=f"tensorkeep {__version__}",
        )
        self._make_way()
        replace = self._may_replace(step, overwrite)
        self._schedule.saved(step)
        self._saving = saving
        try:
            self._saver.begin(saving, contents, tensors, frozen, replace=replace)
        except BaseException as error:
            saving.finish(error)
            saving.told = True
            raise
        if not saving.over or saving.error is not None:  # it may have failed already
            self._unseen.append(saving)
        self._tell_note()
        return saving

    def _committing(self, step: int) -> AbstractContextManager[None]:
        return nullcontext() if self._janitor is None else self._janitor.sparing(step)

    def _committed(self, step: int) -> None:
        if self._janitor is not None:
            self._janitor.saved(step)

    def _is_busy(self) -> bool:
        return self._saving is not None and not self._saving.over

    def _make_way(self) -> None:
        """Wait for a save that is under way, or have it give way."""
        if self._saving is not None and self._is_busy():
            if self._busy == "replace":
                self._saving.cancel()
            self._saving.wait_over()
            self._tell_failures()

    def _may_replace(self, step: int, overwrite: bool) -> bool:
        """Say whether there is something that gives way: what was damaged, or what is to."""
        if not self._folder.there(step):
            return False
        if step in self._lineage.damaged:  # as was said when it was skipped
            return True
        if not self._folder.is_own(step):
            raise StoreError(
                "is in the way, and no checkpoint that is known here",
                where=self._folder.where_of(step),
                cure="Move it, or save in another folder.",
            )
        if overwrite or not read_checkpoint(self._folder, step)[0].ok:
            return True
        raise ArgumentError(
            f"step {step} is saved already",
            where=self._folder.where,
            cure="Say overwrite=True to replace it.",
        )

    def fence(self) -> None:
        """Wait until the state may change: the save under way, if any, has its own copy.

        Raises:
            TensorKeepError: an earlier save in the background failed.
        """
        if self._saving is not None and self._is_mine():
            self._saving.wait_staged()
        self._tell_failures()

    def wait(self) -> None:
        """Wait until no save is under way.

        Raises:
            TensorKeepError: one failed.
        """
        if self._saving is not None and self._is_mine():
            self._saving.wait_over()
        self._tell_failures()

    @property
    def stopping(self) -> bool:
        """Whether a signal has asked the training to stop."""
        return self._schedule.stopping

    def due(self, step: int) -> bool:
        """Say whether `step` would save now."""
        return bool(self._schedule.due(check_step(step)))

    def _is_mine(self) -> bool:
        """Say whether this is the process that saves, and not a forked child of it."""
        return os.getpid() == self._owner

    def _tell_failures(self) -> None:
        """Raise the first failure of a background save that nobody was told."""
        if not self._is_mine():
            return
        self._tell_note()
        while self._unseen:
            if not self._unseen[0].over:
                return
            saving = self._unseen.pop(0)
            failure = saving.failure()
            if failure is not None and not saving.told:
                saving.told = True
                raise failure
        if self._janitor is not None:
            self._lineage.damaged |= self._janitor.damaged
            if (error := self._janitor.take_error()) is not None:
                warnings.warn(str(error), RuntimeWarning, stacklevel=3)

    def _tell_note(self) -> None:
        if self._saving is not None and (note := self._saving.take_note()):
            told = f"step {self._saving.step} is saved while the training waits: {note}"
            warnings.warn(told, RuntimeWarning, stacklevel=3)

    def _check_writable(self) -> None:
        if self._closed:
            raise ClosedError(
                "the Checkpointer was closed", where=self._folder.where, cure="Make another one."
            )
        if self._read_only:
            raise ArgumentError("it was made with read_only=True", where=self._folder.where)
        if not self._is_mine():
            raise ArgumentError(
                "a forked process cannot save with its parent's Checkpointer",
                where=self._folder.where,
                cure="Save in the process that made it.",
            )

    # --- looking and restoring ------------------------------------------------------------------

    def checkpoints(self) -> list[Checkpoint]:
        """List the checkpoints in the order of their steps, damaged ones and Caffe2's too."""
        return list_all(self._folder)

    def restore(
        self,
        like: Any = None,
        *,
        step: int | None = None,
        partial: bool = False,
        verify: bool = True,
        rng: bool = True,
        framework: str | None = None,
        device: str | None = None,
    ) -> Restored | None:
        """Restore the newest sound checkpoint, all of it or nothing.

        Newer ones that are damaged are skipped, with a warning, and listed in what is given.

        Args:
            like: what to restore into: arrays of NumPy and PyTorch and objects with a state are
                changed in place; JAX arrays, numbers and containers come back new. A None in it
                takes whatever was saved there. Without it all is given anew.
            step: restore this one, or fail.
            partial: restore what fits of it, and list the rest in `differences`.
            verify: check every tensor against its digest before anything is changed.
            rng: set the global random generators to what they were, too.
            framework: "numpy", "torch" or "jax" for all arrays; each as it was saved otherwise.
            device: where to place new arrays, as the framework names it.

        Returns:
            What was restored; None where nothing has been saved yet.

        Raises:
            CorruptError: every checkpoint, or the one asked for, is damaged.
            MissingError: there is no such step.
            MismatchError: it does not fit `like`; everything that does not is listed.
        """
        if self._saving is not None:
            self.wait()
        wanted = Wanted(like, partial, verify, rng, framework, device)
        try:
            found = restore(self._folder, None if step is None else check_step(step), wanted)
        except CorruptError:
            self._lineage.distrust()  # it may be the one that the next save would share with
            raise
        if found is None:
            return None
        restored, manifest = found
        for path, problem in restored.skipped:
            if (bad := step_of(os.path.basename(path))) is not None:  # not another program's
                self._lineage.damaged.add(bad)
            warnings.warn(f"{path} is skipped: {problem}", RuntimeWarning, stacklevel=2)
        if manifest is not None and not self._read_only:
            self._lineage.adopt(restored.step, manifest, verified=verify)
        return restored

    # --- ending ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Finish what is under way, and let others save here.

        Raises:
            TensorKeepError: a save in the background failed.
        """
        if self._closed or not self._is_mine():
            return
        self._closed = True
        try:
            self.wait()
        finally:
            if self._janitor is not None:
                self._janitor.close()
                if (error := self._janitor.take_error()) is not None:
                    warnings.warn(str(error), RuntimeWarning, stacklevel=2)
            self._saver.close()
            self._schedule.close()
            self._folder.unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        if self._on_exception and isinstance(error, Exception | KeyboardInterrupt):
            _try(lambda: self._save_last(error), error)
        _try(self.wait, error)
        _try(self.close, error)

    def _save_last(self, error: BaseException) -> None:
        if self._given is None:
            return
        step, state, metrics, metadata = self._given
        if self._saving is not None:
            _try(self.wait, error)  # an older failure does not stop this
            if self._saving.step == step and self._saving.committed:
                return
        told = {**(metadata or {}), "exception": f"{type(error).__name__}: {error}"}
        self.save(
            step, called(state), metrics=metrics, metadata=told, overwrite=True, reason="exception"
        )

    def __del__(self) -> None:
        # One that was dropped, in a notebook for example, does not keep the next one out.
        if not getattr(self, "_closed", True) and self._is_mine() and not self._is_busy():
            self._schedule.close()
            self._folder.unlock()
            self._saver.close()
            if self._janitor is not None:
                self._janitor.stop()

    def __repr__(self) -> str:
        return f"Checkpointer({self._folder.where!r})"

    def _repr_html_(self) -> str:
        from tensorkeep.notebook import checkpoint_table  # which only notebooks need

        return checkpoint_table(self._folder.where, self.checkpoints)


def _try(action: Callable[[], None], error: BaseException) -> None:
    """Do what is left to do when a block ends by an error, which is the one to be told."""
    try:
        action()
    except Exception as failure:
        error.add_note(f"tensorkeep: {failure}")
