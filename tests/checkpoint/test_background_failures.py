"""What fails behind the training's back, or is interrupted, is told once and leaves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.checkpoint.slow_disk import BACKGROUND, BOTH, FENCED, Disk, state

import tensorkeep as tk
from tensorkeep import errors, testing
from tensorkeep.checkpoint import Checkpointer
from tensorkeep.checkpoint.disk import DiskFolder as Folder


def spoil(value: Any) -> None:
    """Change all of a state, as training on does."""
    for part in value.values():
        for name, array in part.items():
            if isinstance(array, np.ndarray):
                array[...] = "x" if array.dtype.kind == "U" else ~array if name == "b" else 5


def check(folder: Path, step: int, expected: Any) -> None:
    testing.assert_equal_states(tk.load(folder / f"step-{step:08}", verify=True), expected)


def clean(folder: Path) -> bool:
    return Folder(folder).leftovers() == []


@BOTH
@pytest.mark.parametrize("by", ["save", "step", "wait", "fence", "close", "saving", "restore"])
def test_a_failure_is_told_once(
    options: dict[str, Any], by: str, disk: Disk, tmp_path: Path
) -> None:
    ck = Checkpointer(tmp_path, **options)
    ck.save(1, state(1))
    disk.free.set()
    ck.wait()
    disk.fails = True
    saving = ck.save(2, state(2))
    saving.wait_over()
    disk.fails = False
    calls: dict[str, Any] = {
        "save": lambda: ck.save(3, state(3)),
        "step": lambda: ck.step(3, state(3)),
        "wait": ck.wait,
        "fence": ck.fence,
        "close": ck.close,
        "saving": saving.wait,
        "restore": ck.restore,
    }
    with pytest.raises(errors.StoreError, match=r"step-00000002: .*Input/output error"):
        calls[by]()
    ck.wait()
    assert clean(tmp_path)
    if by != "close":
        ck.save(4, state(4))
    ck.close()
    found = [row.step for row in tk.checkpoints(tmp_path)]
    assert found == ([1] if by == "close" else [1, 4])
    check(tmp_path, found[-1], state(found[-1]))


EXIT = """
import os, sys, threading, time, numpy as np, tensorkeep as tk
ck = tk.Checkpointer(sys.argv[1], background=True, fenced=sys.argv[2] == "fenced")
real = os.pwritev
def slow(*a):
    threading.main_thread().join()  # until the program itself has ended
    if sys.argv[3] == "fail":
        raise OSError(5, "Input/output error")
    return real(*a)
os.pwritev = slow
ck.save(1, {"w": np.arange(100)})
ck.fence()
if sys.argv[4] == "dropped":
    import gc
    del ck
    gc.collect()
"""


@pytest.mark.parametrize(
    ("how", "end", "disk_does"),
    [
        ("background", "kept", "work"),
        ("fenced", "dropped", "work"),
        ("fenced", "kept", "fail"),
        ("background", "dropped", "fail"),
    ],
)
def test_a_program_that_ends_without_close(
    how: str, end: str, disk_does: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", EXIT, str(tmp_path), how, disk_does, end]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if disk_does == "work":
        assert done.stderr == ""
        check(tmp_path, 1, {"w": np.arange(100)})
    else:
        assert "step-00000001" in done.stderr
        assert "Input/output error" in done.stderr
        assert tk.checkpoints(tmp_path) == []


class Interrupt:
    """Ctrl-C, just before one call of a function."""

    def __init__(self, real: Any, at: int) -> None:
        self.real, self.left = real, at

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.left -= 1
        if self.left == -1:
            raise KeyboardInterrupt
        return self.real(*arguments, **options)


@pytest.mark.parametrize("call", ["pwritev", "fsync", "mkdir", "rename"])
def test_ctrl_c_leaves_nothing_half(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted = 0
    with Checkpointer(tmp_path, rng=False) as ck:
        ck.save(1, state(1))
        for at in range(40):
            with monkeypatch.context() as patch:
                patch.setattr(os, call, Interrupt(getattr(os, call), at))
                try:
                    ck.save(2, state(2), overwrite=True)
                    break
                except KeyboardInterrupt:
                    interrupted += 1
            assert clean(tmp_path)
            for row in tk.checkpoints(tmp_path):
                assert row.ok
                check(tmp_path, row.step, state(row.step))
    assert interrupted
    check(tmp_path, 2, state(2))


class Broken:
    """What cannot say its state."""

    def state_dict(self) -> dict[str, Any]:
        raise RuntimeError("CUDA error")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise AssertionError


@pytest.mark.parametrize("options", [{}, BACKGROUND, FENCED])
def test_an_object_that_does_not_give_its_state(options: dict[str, Any], tmp_path: Path) -> None:
    with Checkpointer(tmp_path, **options) as ck:
        with pytest.raises(errors.UnsupportedError, match=r"a\.1: its Broken .*CUDA error"):
            ck.save(1, {"a": [1, Broken()]})
        ck.save(1, state(1))
    assert [row.step for row in tk.checkpoints(tmp_path)] == [1]
    assert clean(tmp_path)


def test_a_fork_while_a_save_is_under_way(disk: Disk, tmp_path: Path) -> None:
    """The child neither waits for it for ever, nor ends it."""
    with Checkpointer(tmp_path, **BACKGROUND) as ck:
        ck.save(1, state(1))
        disk.free.set()
        ck.wait()
        disk.free.clear()
        disk.waiting.clear()
        ck.save(2, state(2))
        assert disk.waiting.wait(60)
        child = os.fork()
        if not child:
            found = ck.restore()
            os._exit(0 if found is not None and found.step == 1 else 1)
        watchdog = threading.Timer(4, os.kill, (child, 9))
        watchdog.start()
        status = os.waitpid(child, 0)[1]
        watchdog.cancel()
        disk.free.set()
        ck.wait()
        assert os.waitstatus_to_exitcode(status) == 0
    check(tmp_path, 2, state(2))
