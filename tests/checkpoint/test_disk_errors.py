"""Checkpoints on the simulated disk: what an error at any call does."""

from __future__ import annotations

import contextlib
import errno
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.checkpoint.runs import (
    RUNS,
    Run,
    check_clean,
    forbid_swaps,
    quiet,
    state,
    watch_only,
)

import tensorkeep as tk
from tensorkeep import testing
from tensorkeep.checkpoint.saver import Saver
from tensorkeep.checkpoint.saving import Saving
from tensorkeep.testing import disk

FULL: dict[str, Any] = {"code": errno.ENOSPC}
BROKEN: dict[str, Any] = {"code": errno.EIO}
GONE: dict[str, Any] = {"code": errno.EIO, "forever": True}
SHORT: dict[str, Any] = {"short": True}
CASES = [
    *[("swap", trouble) for trouble in (FULL, GONE)],
    *[("aside", trouble) for trouble in (BROKEN, GONE)],
    *[("kept", trouble) for trouble in (BROKEN, GONE)],
    *[("shards", trouble) for trouble in (FULL, SHORT)],
    *[("background", trouble) for trouble in (GONE, SHORT)],
    *[("fenced", trouble) for trouble in (BROKEN,)],
    *[("again", trouble) for trouble in (FULL, GONE)],
]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    watch_only(monkeypatch)


def save_all(run: Run, checkpointer: tk.Checkpointer, committed: int) -> int:
    """Save what a run saves until a save fails; give the number that was committed last."""
    for number, step in run.saves:
        try:
            checkpointer.save(step, state(number), overwrite=True).wait()
        except tk.TensorKeepError:
            break
        committed = number
    return committed


def check_error(run: Run, root: Path, k: int, trouble: dict[str, Any], reopen: bool) -> list[str]:
    """Have the call number `k` fail, and save again on the disk, which is well by then."""
    checkpointer = tk.Checkpointer(root, rng=False, **run.options)
    checkpointer.restore()
    with disk.failing(root, at=k, **trouble) as faults:
        committed = save_all(run, checkpointer, run.before)
        if reopen:
            checkpointer.close()
    told = f"{faults.hits[:1]} at {k}"
    if reopen:
        checkpointer = tk.Checkpointer(root, rng=False, **run.options)
    run.check_listed(root, committed, told)
    restored = checkpointer.restore()
    assert restored is not None, told
    assert restored.state["n"] >= committed, told
    last = run.saves[-1][0]
    assert committed == last or faults.hits, told
    assert save_all(run, checkpointer, committed) == last, told
    checkpointer.close()
    assert run.check(root, last, told) == last
    return faults.hits


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "trouble"), CASES)
def test_checkpoints_survive_errors(
    name: str, trouble: dict[str, Any], every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RUNS[name]
    if not run.swaps:
        forbid_swaps(monkeypatch)
    run.prepare(tmp_path / "base")
    # On a disk that is gone nothing that was moved aside can be put back; and what is listed while
    # old ones are removed may be gone when it is read.
    fresh = trouble is GONE or "keep" in run.options
    for k in itertools.count(0, every):
        root = tmp_path / str(k)
        shutil.copytree(tmp_path / "base", root)
        with quiet():
            if not check_error(run, root, k, trouble, reopen=fresh or k % 4 == 0):
                break
        shutil.rmtree(root)
    assert k > 5


NEXT: dict[str, Callable[[tk.Checkpointer], Any]] = {
    "save": lambda checkpointer: checkpointer.save(4, state(4)),
    "step": lambda checkpointer: checkpointer.step(4, state(4)),
    "fence": lambda checkpointer: checkpointer.fence(),
    "wait": lambda checkpointer: checkpointer.wait(),
    "restore": lambda checkpointer: checkpointer.restore(),
    "close": lambda checkpointer: checkpointer.close(),
}


@pytest.mark.parametrize("fenced", [False, True])
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("call", NEXT)
def test_a_failure_in_the_background_is_raised_by_the_next_call(
    call: str, early: bool, fenced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if early:  # it has failed before `save` returns
        real = Saver.begin

        def begin(self: Saver, saving: Saving, *rest: Any, **options: Any) -> None:
            real(self, saving, *rest, **options)
            saving.wait_over()

        monkeypatch.setattr(Saver, "begin", begin)
    checkpointer = tk.Checkpointer(tmp_path, background=True, fenced=fenced)
    checkpointer.save(2, state(2)).wait()
    with disk.failing(tmp_path, forever=True) as faults:
        saving = checkpointer.save(3, state(3))
        saving.wait_over()
    assert faults.hits
    with pytest.raises(tk.TensorKeepError, match=r"step-00000003: .*No space"):
        NEXT[call](checkpointer)
    assert [row.step for row in tk.checkpoints(tmp_path)] == [2]
    if call != "close":
        checkpointer.save(3, state(3))
        checkpointer.close()
        testing.assert_equal_states(tk.load(tmp_path / "step-00000003"), state(3))
    check_clean(tmp_path)


@pytest.mark.parametrize("trouble", [BROKEN, GONE])
def test_opening_survives_errors(trouble: dict[str, Any], tmp_path: Path) -> None:
    """Leftovers are swept then, or later."""
    run = RUNS["aside"]
    base = tmp_path / "base"
    run.prepare(base)
    shutil.copytree(base / "step-00000002", base / ".step-00000003.01234567.tensorkeep.tmp")
    (base / "step-00000002").rename(base / ".step-00000002.aside")
    for k in itertools.count():
        root = tmp_path / str(k)
        shutil.copytree(base, root)
        failing = disk.failing(root, at=k, **trouble)
        with contextlib.suppress(tk.TensorKeepError), failing as faults:
            tk.Checkpointer(root).close()
        run.check(root, run.before, faults.hits)
        if not faults.hits:
            break
    assert k > 5
