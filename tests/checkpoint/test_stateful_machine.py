"""Any order of saves, damage, removal and new starts: the newest sound one is what comes back."""

from __future__ import annotations

import copy
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import tensorkeep as tk
from tensorkeep import errors, testing
from tensorkeep.checkpoint import Checkpointer
from tensorkeep.checkpoint.disk import DiskFolder as Folder

LIMIT = 60_000


class Runs(RuleBasedStateMachine):
    """A training with one Checkpointer, or a new one after each end, on a disk that forgets."""

    @initialize(background=st.booleans(), fenced=st.booleans())
    def begin(self, background: bool, fenced: bool) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.options: dict[str, Any] = {"background": background, "fenced": background and fenced}
        self.state: dict[str, Any] = {
            "model": {f"w{i}": np.full(70_000, i, np.float32) for i in range(6)},
            "more": {"a": np.arange(5), "n": 0},
        }
        self.saved: dict[int, Any] = {}
        self.bad: set[int] = set()  # steps that have been damaged since
        self.step = 0
        self.ck = self._open()

    def _open(self) -> Checkpointer:
        return Checkpointer(
            self.root, durable=False, rng=False, max_shard_size=1_000_000, **self.options
        )

    def teardown(self) -> None:
        if hasattr(self, "ck"):
            self.ck.close()
            assert Folder(self.root).leftovers() == []
            shutil.rmtree(self.root)

    def _folder(self, step: int) -> Path:
        return self.root / f"step-{step:08}"

    def _damaged(self, step: int, path: Path) -> None:
        """Note which steps a damaged file belongs to: those that share it."""
        shared = path.stat().st_ino if path.exists() else None
        self.bad.add(step)
        for other in self.saved:
            if shared in {file.stat().st_ino for file in self._folder(other).iterdir()}:
                self.bad.add(other)

    @rule(names=st.sets(st.integers(0, 5), max_size=3), by=st.integers(1, 3))
    def train(self, names: set[int], by: int) -> None:
        for name in names:
            self.state["model"][f"w{name}"] += by
        self.state["more"]["a"] += by
        self.state["more"]["n"] += by

    @rule(name=st.integers(0, 5), how=st.sampled_from(["dtype", "shape", "drop", "swap"]))
    def reshape(self, name: int, how: str) -> None:
        model, key = self.state["model"], f"w{name}"
        if how == "drop" and len(model) > 2:
            model["w9"] = model[key] * 2
        elif how == "swap":
            model[key], model["w0"] = model["w0"], model[key]
        elif how == "shape":
            model[key] = model[key].reshape(-1) if model[key].ndim > 1 else model[key][None]
        else:
            model[key] = model[key].view(np.int32).view(np.float32) * 1

    @rule(value=testing.states(max_leaves=4))
    def hold_anything(self, value: Any) -> None:
        self.state["any"] = value

    @rule()
    def save(self) -> None:
        self.step += 1
        expected = copy.deepcopy(self.state)
        self.ck.save(self.step, self.state)
        self.ck.fence()
        for array in self.state["model"].values():
            array += 100  # the copy has to be its own
        self.ck.wait()
        for array in self.state["model"].values():
            array -= 100
        self.saved[self.step] = expected

    @precondition(lambda self: self.saved)
    @rule(data=st.data())
    def overwrite(self, data: st.DataObject) -> None:
        step = data.draw(st.sampled_from(sorted(self.saved)))
        self.saved[step] = copy.deepcopy(self.state)
        self.ck.save(step, self.state, overwrite=True).wait()
        self.bad.discard(step)

    @precondition(lambda self: self.saved)
    @rule(data=st.data(), bit=st.integers(0, 7))
    def flip_a_bit(self, data: st.DataObject, bit: int) -> None:
        step = data.draw(st.sampled_from(sorted(self.saved)))
        files = sorted(self._folder(step).iterdir())
        if not files:
            return
        path = data.draw(st.sampled_from(files))
        at = data.draw(st.integers(0, path.stat().st_size - 1))
        with path.open("r+b") as file:
            file.seek(at)
            old = file.read(1)[0]
            file.seek(at)
            file.write(bytes([old ^ 1 << bit]))
        self._damaged(step, path)

    @precondition(lambda self: self.saved)
    @rule(data=st.data())
    def lose_a_file(self, data: st.DataObject) -> None:
        step = data.draw(st.sampled_from(sorted(self.saved)))
        files = sorted(self._folder(step).iterdir())
        if files:
            data.draw(st.sampled_from(files)).unlink()
            self.bad.add(step)

    @precondition(lambda self: self.saved)
    @rule()
    def lose_the_oldest(self) -> None:
        step = min(self.saved)
        shutil.rmtree(self._folder(step))
        del self.saved[step]
        self.bad.discard(step)

    @rule()
    def start_again(self) -> None:
        self.ck.close()
        self.ck = self._open()

    @precondition(lambda self: hasattr(self, "ck"))
    @invariant()
    def the_newest_sound_one_comes_back(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            try:
                found = self.ck.restore()
            except errors.CorruptError:
                assert set(self.saved) <= self.bad, "a sound one was not found"
                return
        sound = [step for step in self.saved if step not in self.bad]
        if found is None:
            assert self.saved == {}
            return
        assert found.step == max(sound)
        testing.assert_equal_states(found.state, self.saved[found.step])
        assert {row.step for row in tk.checkpoints(self.root)} == set(self.saved)


TestRuns = Runs.TestCase
TestRuns.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
