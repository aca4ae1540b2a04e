"""Saver: carries out one save after another, in the foreground or behind the training's back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from tensorkeep.checkpoint import writing
from tensorkeep.checkpoint.crew import Crew
from tensorkeep.checkpoint.folder import Folder
from tensorkeep.checkpoint.layout import Plan, plan
from tensorkeep.checkpoint.lineage import Lineage, Parent, matching
from tensorkeep.checkpoint.saving import Saving
from tensorkeep.checkpoint.staging import Buffer
from tensorkeep.checkpoint.writing import Contents
from tensorkeep.checksum import THREADS
from tensorkeep.tensor import Tensor


@dataclass(frozen=True, slots=True)
class _Job:
    """One save."""

    saving: Saving
    contents: Contents
    tensors: dict[str, Tensor]
    frozen: set[str]
    parent: Parent | None
    replace: bool


class Saver:
    """Stage, write and commit.

    Args:
        folder: where the checkpoints are.
        lineage: what the next one can share.
        background: return once the state is staged.
        fenced: return before that, with `background`.
        durable: have it on the disk when it is committed.
        limit: how many bytes a shard holds at most.
        committed: called with each step that was committed, maybe from another thread.
    """

    def __init__(
        self,
        folder: Folder,
        lineage: Lineage,
        *,
        background: bool,
        fenced: bool,
        durable: bool,
        limit: int | None,
        committed: Callable[[int], None],
    ) -> None:
        self._folder = folder
        self._lineage = lineage
        self._background = background
        self._fenced = fenced
        self._durable = durable
        self._limit = limit
        self._committed = committed
        self._crew: Crew | None = None
        self._buffer = Buffer()

    def begin(
        self,
        saving: Saving,
        contents: Contents,
        tensors: dict[str, Tensor],
        frozen: set[str],
        *,
        replace: bool,
    ) -> None:
        """Save now, or stage now and write behind, or do both behind.

        Args:
            saving: what tells how far it is.
            contents: what is saved beside the tensors.
            tensors: what to save.
            frozen: the names of those that nobody means to change.
            replace: whether a checkpoint of that step gives way.

        Raises:
            StoreError: the disk is full or failed.
        """
        saving.total = sum(tensor.nbytes for tensor in tensors.values())
        job = _Job(saving, contents, tensors, frozen, self._lineage.parent(), replace)
        if self._background and self._fenced:
            saving.note = self._buffer.shortage(self._most(job))
            if not saving.note:
                _ = self._workers  # started here, since none can be while the interpreter ends
                self._start(lambda: self._write(job, *self._stage(job)), saving)
                return
        elif self._background:
            plan = self._plan(job)
            saving.note = self._buffer.shortage(_needed(plan, tensors))
            try:
                staged = None if saving.note else self._copy(job, plan)
            except MemoryError:
                saving.note = "there is no memory for a copy"
            else:
                if staged is not None:
                    self._start(lambda: self._write(job, plan, staged), saving)
                    return
        self._write(job, self._plan(job), tensors)
        saving.finish()

    def _start(self, work: Callable[[], None], saving: Saving) -> None:
        def run() -> None:
            try:
                work()
                saving.finish()
            except BaseException as error:
                saving.finish(error)

        # No daemon: the interpreter waits for it before it ends.
        threading.Thread(target=run, name=f"saving step {saving.step}").start()

    def _most(self, job: _Job) -> int:
        """Give how many bytes may have to be copied, if what was still before is so again."""
        likely = self._lineage.expected(job.tensors, job.frozen)
        return sum(t.nbytes for name, t in job.tensors.items() if name not in likely)

    def _plan(self, job: _Job) -> Plan:
        """Find out what has not changed, and what goes where."""
        expected = self._lineage.expected(job.tensors, job.frozen)
        return plan(
            job.tensors,
            job.contents.skeleton,
            same=matching(job.tensors, expected, self._workers),
            still=self._lineage.still | job.frozen,
            parent=job.parent,
            limit=self._limit,
        )

    def _stage(self, job: _Job) -> tuple[Plan, dict[str, Tensor]]:
        found = self._plan(job)
        return found, self._copy(job, found)

    def _copy(self, job: _Job, plan: Plan) -> dict[str, Tensor]:
        shared = plan.shared
        copied = {name: t for name, t in job.tensors.items() if name not in shared}
        staged = {**job.tensors, **self._buffer.stage(copied, self._workers)}
        job.saving.mark_staged()
        return staged

    def _write(self, job: _Job, plan: Plan, tensors: dict[str, Tensor]) -> None:
        """Write, commit, and remember what the next save can share."""
        saving, step = job.saving, job.saving.step
        with self._folder.draft(step, durable=self._durable) as draft:
            manifest, saving.shared = writing.write(
                draft, job.contents, plan, tensors, job.parent, saving.report
            )
            saving.report(0)
            self._folder.commit(draft, step, replace=job.replace)
        saving.committed = True
        saving.written = manifest.size - saving.shared
        self._lineage.remember(step, manifest, job.parent)
        self._committed(step)

    @property
    def _workers(self) -> Crew:
        if self._crew is None:
            self._crew = Crew(THREADS - 1)
        return self._crew

    def close(self) -> None:
        """Let threads and memory go."""
        if self._crew is not None:
            self._crew.close()
            self._crew = None
        self._buffer = Buffer()


def _needed(plan: Plan, tensors: dict[str, Tensor]) -> int:
    shared = plan.shared
    return sum(tensor.nbytes for name, tensor in tensors.items() if name not in shared)
