"""Runs of a Checkpointer on the simulated disk, and what has to be there after them."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import syscalls, testing
from tensorkeep.checkpoint.disk import DiskFolder as Folder

LAST = 90  # the number and the step of what `check` saves
Save = tuple[int, int]  # a number and the step that it is saved as


def state(number: int) -> dict[str, Any]:
    """Make the state of a number; the frozen part is the same in all."""
    return {
        "frozen": {"table": np.arange(900, dtype=np.int32), "bias": np.ones(40)},
        "model": {"w": np.full(1500, number, np.int32), "v": np.full(300, number, np.float32)},
        "n": number,
    }


@dataclass(frozen=True)
class Run:
    """What is saved with which options.

    Args:
        saves: what is saved while the disk is watched, overwriting what has the step.
        base: what is saved before.
        options: of the Checkpointer.
        swaps: whether the system can exchange two names.
        damaged: a step of the base of which one byte is changed before the disk is watched.
    """

    saves: tuple[Save, ...]
    base: tuple[Save, ...] = ((1, 1), (2, 2))
    options: dict[str, Any] = field(default_factory=dict)
    swaps: bool = True
    damaged: int | None = None

    @property
    def steps(self) -> dict[int, int]:
        """The step of each number."""
        return {**dict(self.base), **dict(self.saves), LAST: LAST}

    @property
    def before(self) -> int:
        """The number that was committed last when the disk begins to be watched; 0 for none."""
        return max((n for n, step in self.base if step != self.damaged), default=0)

    def prepare(self, root: Path) -> None:
        """Save the base."""
        if self.base:
            self.save(root, self.base)
        if self.damaged is not None:
            file = root / f"step-{self.damaged:08}" / "model.safetensors"
            data = bytearray(file.read_bytes())
            data[-1] ^= 1
            file.write_bytes(data)

    def play(self, root: Path, mark: Callable[[int], None] = lambda number: None) -> None:
        """Save the rest; each number is marked once it is committed."""
        self.save(root, self.saves, mark)

    def save(
        self, root: Path, saves: Iterable[Save], mark: Callable[[int], None] = lambda number: None
    ) -> None:
        with tk.Checkpointer(root, rng=False, **self.options) as checkpointer:
            with quiet():
                checkpointer.restore()
            for number, step in saves:
                given = state(number)
                saving = checkpointer.save(step, given, overwrite=step != self.damaged)
                checkpointer.fence()
                given["model"]["w"][:] = -1  # as training on does
                saving.wait()
                mark(number)

    def check(self, root: Path, at_least: int, told: object = "") -> int:
        """Check what is in a folder after whatever has happened, and that saving goes on there.

        Args:
            root: the folder.
            at_least: the number that was committed last; 0 for none.
            told: what has happened, for messages.

        Returns:
            The number that is restored.
        """
        found = 0
        with tk.Checkpointer(root, durable=False, rng=False, **self.options) as checkpointer:
            self.check_listed(root, at_least, told)
            with quiet(self.damaged is not None):
                restored = checkpointer.restore()
            if restored is not None:
                found = restored.state["n"]
                assert restored.step == self.steps[found], told
                testing.assert_equal_states(restored.state, state(found))
            assert found >= at_least, f"{found} after {at_least}: {told}"
            checkpointer.save(LAST, state(LAST), overwrite=True).wait()
        last = tk.checkpoints(root)[-1]
        assert (last.step, last.ok) == (LAST, True), told
        testing.assert_equal_states(tk.load(last.path, verify=True), state(LAST))
        check_clean(root, told)
        return found

    def check_listed(self, root: Path, at_least: int, told: object = "") -> None:
        """Check that what is listed as whole is so, to the last byte."""
        for row in tk.checkpoints(root):
            sound = row.ok and tk.verify(row.path).ok
            if not sound and row.step == self.damaged and at_least <= self.before:
                continue
            assert sound, f"step {row.step}: {row.problem or 'damaged'}: {told}"
            loaded = tk.load(row.path)
            assert self.steps[loaded["n"]] == row.step, told
            testing.assert_equal_states(loaded, state(loaded["n"]))


def check_clean(root: Path, told: object = "") -> None:
    """Check that nothing is left of saves that failed."""
    assert Folder(root).leftovers() == [], told
    inside = [path.relative_to(root) for path in root.rglob(".*")]
    assert inside == [Path(".tensorkeep")], told


def quiet(really: bool = True) -> AbstractContextManager[Any]:
    """Take the warnings of what is known to be damaged, or is made to fail."""
    return warnings.catch_warnings(action="ignore" if really else "error", category=RuntimeWarning)


def watch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no real disk be waited for: what counts is what the simulated one is told."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def forbid_swaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the system be one that cannot exchange two names."""

    def exchange(one: str, other: str) -> None:
        raise OSError(errno.ENOSYS, "not implemented")

    monkeypatch.setattr(syscalls, "exchange", exchange)


KEPT = {"keep": "last=2"}
RUNS = {
    "first": Run(((1, 1), (2, 2)), base=()),
    "background": Run(((3, 3), (4, 4)), options={"background": True}),
    "fenced": Run(((3, 3), (4, 4)), options={"background": True, "fenced": True, **KEPT}),
    "kept": Run(((3, 3), (4, 4)), options=KEPT),
    "shards": Run(((3, 3),), options={"max_shard_size": 3000}),
    "swap": Run(((3, 2), (4, 2))),
    "aside": Run(((3, 2), (4, 2)), swaps=False),
    "again": Run(((3, 2), (4, 3)), options=KEPT, damaged=2),
    "again-aside": Run(((3, 2),), options={"background": True}, damaged=2, swaps=False),
}
