"""Saver: carries out one save after another, in the foreground or behind the training's back."""

from __future__ import annotations

import atexit
import dataclasses
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from tensorkeep.checkpoint import writing
from tensorkeep.checkpoint.crew import Crew
from tensorkeep.checkpoint.folder import Folder
from tensorkeep.checkpoint.layout import Plan, plan
from tensorkeep.checkpoint.lineage import Lineage, Parent, matching
from tensorkeep.checkpoint.saving import Saving
from tensorkeep.checkpoint.staging import Buffer, Hollow
from tensorkeep.checkpoint.writing import Contents
from tensorkeep.checksum import THREADS
from tensorkeep.errors import CorruptError, StoreError
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


_NO_MEMORY = "there is no memory for a copy"
_BEHIND: set[Saving] = set()  # those under way, and those that failed


@atexit.register
def _finish() -> None:
    """Keep the interpreter from ending before all is saved, and say what failed unseen."""
    for saving in list(_BEHIND):
        if saving.owner == os.getpid():
            saving.wait_over()
            failure = saving.failure()
            if failure is not None and not saving.told:
                sys.excepthook(type(failure), failure, failure.__traceback__)


class Saver:
    """Stage, write and commit.

    Args:
        folder: where the checkpoints are.
        lineage: what the next one can share.
        background: return once the state is staged.
        fenced: return before that, with `background`.
        durable: have it on the disk when it is committed.
        limit: how many bytes a shard holds at most.
        committing: gives what is entered while a step is committed.
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
        committing: Callable[[int], AbstractContextManager[None]],
        committed: Callable[[int], None],
    ) -> None:
        self._folder = folder
        self._lineage = lineage
        self._background = background
        self._fenced = fenced
        self._durable = durable
        self._limit = limit
        self._committing = committing
        self._committed = committed
        self._crew: Crew | None = None  # hashes and copies
        self._behind: Crew | None = None  # the one thread that saves in the background
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
            likely = self._likely(job)
            needed = sum(t.nbytes for name, t in tensors.items() if name not in likely)
            saving.note = self._buffer.shortage(needed)
            if not saving.note:
                _ = self._workers  # started here, since none can be while the interpreter ends
                self._start(partial(self._stage_and_write, [job]), saving)
                return
        elif self._background:
            likely = self._likely(job)
            same = matching(tensors, likely, self._workers)
            found = self._plan(job, same)
            needed = sum(t.nbytes for name, t in tensors.items() if name not in found.shared)
            saving.note = self._buffer.shortage(needed)
            try:
                staged = None if saving.note else self._copy(job, found)
            except MemoryError:
                saving.note, staged = _NO_MEMORY, None
            if staged is not None:
                self._start(partial(self._write_staged, staged, same, found), saving)
                return
        everything = self._lineage.expected(tensors, frozen)
        self._write(job, self._plan(job, matching(tensors, everything, self._workers)))
        saving.finish()

    def _start(self, work: Callable[[], None], saving: Saving) -> None:
        def run() -> None:
            try:
                work()
                saving.finish()
                _BEHIND.discard(saving)
            except BaseException as error:
                saving.finish(error)

        _BEHIND.difference_update([each for each in _BEHIND if each.told or each.replaced])
        _BEHIND.add(saving)
        if self._behind is None:
            self._behind = Crew(1)
        self._behind.start(run)

    def _likely(self, job: _Job) -> dict[str, str]:
        """Give the digests of the tensors that were still before; they are hashed, not copied."""
        still = self._lineage.still | job.frozen
        expected = self._lineage.expected(job.tensors, job.frozen)
        return {name: digest for name, digest in expected.items() if name in still}

    def _plan(self, job: _Job, same: set[str]) -> Plan:
        """Say what goes where, once it is known what has not changed."""
        return plan(
            job.tensors,
            job.contents.skeleton,
            same=same,
            still=self._lineage.still | job.frozen,
            parent=job.parent,
            limit=self._limit,
        )

    def _stage_and_write(self, jobs: list[_Job]) -> None:
        job = jobs.pop()  # of which nobody is to keep the caller's arrays
        time.sleep(0.001)  # or the caller would wait for Python's lock, up to a switch interval
        same = matching(job.tensors, self._likely(job), self._workers)
        first = self._plan(job, same)
        try:
            job = self._copy(job, first)
        except MemoryError:
            job.saving.note = _NO_MEMORY  # the fence opens once it is written
            self._write(job, first)
            return
        self._write_staged(job, same, first)

    def _write_staged(self, job: _Job, same: set[str], first: Plan) -> None:
        """Look at the copies of those that nothing was known of, too, and write."""
        left = self._lineage.expected(job.tensors, job.frozen)
        left = {name: digest for name, digest in left.items() if name not in same}
        unsure = {n: d for n, d in left.items() if n not in self._lineage.still | job.frozen}
        found = self._plan(job, same | matching(job.tensors, unsure, self._workers))
        if not first.shared <= found.shared:  # of which there are no copies
            raise StoreError(
                "the checkpoint before, whose files were to be shared, is gone",
                where=self._folder.where,
                cure="Save again.",
            )
        self._write(job, found)

    def _copy(self, job: _Job, plan: Plan) -> _Job:
        """Give the same save of copies; what it shares is hollow, as nothing reads that."""
        shared = plan.shared
        copied = {name: t for name, t in job.tensors.items() if name not in shared}
        hollow = {
            name: Tensor(t.dtype, t.shape, Hollow(t.nbytes), 0, t.nbytes)
            for name, t in job.tensors.items()
            if name in shared
        }
        staged = hollow | self._buffer.stage(copied, self._workers)
        job.saving.mark_staged()
        return dataclasses.replace(job, tensors={name: staged[name] for name in job.tensors})

    def _write(self, job: _Job, plan: Plan) -> None:
        """Write, commit, and remember what the next save can share."""
        saving, step = job.saving, job.saving.step
        with self._folder.draft(step, durable=self._durable) as draft:
            try:
                manifest, saving.shared = writing.write(
                    draft, job.contents, plan, job.tensors, job.parent, saving.report
                )
            except CorruptError:  # what was to be shared with it
                self._lineage.distrust()
                raise
            saving.report(0)
            with self._committing(step):
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
        for crew in (self._crew, self._behind):
            if crew is not None:
                crew.close()
        self._crew = self._behind = None
        self._buffer = Buffer()
