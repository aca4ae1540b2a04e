"""Restoring: past every kind of damage, into what is there, all of it or nothing."""

from __future__ import annotations

import os
import random
import shutil
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorkeep import errors, testing
from tensorkeep.checkpoint import Checkpointer, Restored

Pair = namedtuple("Pair", ["one", "other"])
Couple = namedtuple("Couple", ["a", "b"])
LIMIT = 100


def saver(folder: Path, **options: Any) -> Checkpointer:
    return Checkpointer(folder, durable=False, **options)


def state(number: int) -> dict[str, Any]:
    return {"model": {"a": np.full(12, number), "b": np.full(9, number)}, "n": number, "w": W + 1}


W = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three checkpoints, each of several shards and parts."""
    with saver(tmp_path / "run", max_shard_size=LIMIT) as ck:
        for step in (1, 2, 3):
            ck.save(step, state(step), metrics={"loss": step}, metadata={"m": step})
    return tmp_path / "run"


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def truncate(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


DAMAGE: dict[str, Callable[[Path], None]] = {
    "no manifest": lambda folder: (folder / "MANIFEST.json").unlink(),
    "empty manifest": lambda folder: truncate(folder / "MANIFEST.json", 0),
    "cut manifest": lambda folder: truncate(folder / "MANIFEST.json", 300),
    "bit in the manifest": lambda folder: flip(folder / "MANIFEST.json", 200),
    "cut shard": lambda folder: truncate(folder / "model-00001-of-00002.safetensors", -1),
    "empty shard": lambda folder: truncate(folder / "model-00002-of-00002.safetensors", 0),
    "no shard": lambda folder: (folder / "model-00001-of-00002.safetensors").unlink(),
    "bit in a tensor": lambda folder: flip(folder / "model-00001-of-00002.safetensors", -1),
    "bit in a header": lambda folder: flip(folder / "model-00002-of-00002.safetensors", 60),
    "bit in a length": lambda folder: flip(folder / "model-00002-of-00002.safetensors", 7),
    "bit in the index": lambda folder: flip(folder / "model.safetensors.index.json", 30),
    "no index": lambda folder: (folder / "model.safetensors.index.json").unlink(),
    "bit in state.json": lambda folder: flip(folder / "state.json", 50),
    "no state.json": lambda folder: (folder / "state.json").unlink(),
    "empty folder": lambda folder: become_empty(folder),
    "another's manifest": lambda folder: swap(folder, "MANIFEST.json"),
    "another's shard": lambda folder: swap(folder, "model-00001-of-00002.safetensors"),
    "another's all": lambda folder: swap(folder, *os.listdir(folder)),
    "a folder for a shard": lambda folder: become_folder(folder / "state.safetensors"),
    "a link to nowhere": lambda folder: become_link(folder / "state.json", "nowhere"),
    "a link to outside": lambda folder: become_link(folder / "state.json", "/etc/passwd"),
    "a file for the folder": lambda folder: become_file(folder),
}


def swap(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()  # which other checkpoints may share
        shutil.copy(folder.parent / "step-00000001" / name, folder / name)


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def become_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("")


def become_empty(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def become_link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def restored(folder: Path, **options: Any) -> Restored:
    with saver(folder) as ck:
        found = ck.restore(**options)
    assert found is not None
    return found


@pytest.mark.parametrize("into", [False, True])
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_one_is_skipped_and_named(kind: str, into: bool, run: Path) -> None:
    DAMAGE[kind](run / "step-00000003")
    like = state(0) if into else None
    with saver(run) as ck:
        with pytest.warns(RuntimeWarning, match="step-00000003 is skipped: "):
            found = ck.restore(like)
        with pytest.raises(errors.TensorKeepError, match=r"step-00000003|step 3"):
            ck.restore(step=3)
        ck.save(3, state(5))  # it gives way to a sound one
        again = ck.restore()
    assert again is not None
    assert (again.step, again.state["n"]) == (3, 5)
    assert found is not None
    assert (found.step, found.metrics, found.metadata) == (2, {"loss": 2}, {"m": 2})
    testing.assert_equal_states(found.state, state(2))
    ((path, problem),) = found.skipped
    assert path == str(run / "step-00000003")
    assert problem


@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if "another's" not in kind])
def test_where_all_are_damaged_each_is_named(kind: str, run: Path) -> None:
    for step in (1, 2, 3):
        DAMAGE[kind](run / f"step-{step:08}")
    like = state(0)
    with saver(run) as ck:
        with pytest.raises(errors.CorruptError, match="none of 3 checkpoints") as caught:
            ck.restore(like=like)
        for step in (1, 2, 3):
            assert str(run / f"step-{step:08}") in str(caught.value)
    testing.assert_equal_states(like, state(0))


def test_a_sound_step_is_restored_though_newer_ones_are_sound_too(run: Path) -> None:
    assert restored(run, step=1).state["n"] == 1
    with pytest.raises(errors.MissingError, match="There are 1, 2, 3"):
        restored(run, step=4)
    assert restored(run).step == 3


def test_without_checking_a_flipped_bit_passes(run: Path) -> None:
    flip(run / "step-00000003" / "model-00001-of-00002.safetensors", -1)
    assert restored(run, verify=False).step == 3


# --- into what is there ---------------------------------------------------------------------------


def test_arrays_are_changed_in_place(tmp_path: Path) -> None:
    views = np.zeros((2, 6), np.float32)
    like = {
        "c": np.zeros((2, 3), np.float32),
        "f": np.zeros((2, 3), np.float32, order="F"),
        "big": np.zeros((2, 3), ">f4"),
        "strided": views[:, ::2],
        "names": np.array(["", ""], object),
        "zero": np.array(0.0, np.float32),
    }
    saved = {**dict.fromkeys(("c", "f", "big", "strided"), W), "zero": np.array(2, np.float32)}
    saved["names"] = np.array(["a", "ünï"], object)
    with saver(tmp_path) as ck:
        ck.save(1, {"deep": [saved], "n": 3})
        found = ck.restore({"deep": [like], "n": 0})
    assert found is not None
    assert found.state["n"] == 3
    for name, array in like.items():
        assert found.state["deep"][0][name] is array
        assert np.array_equal(array, saved[name])
    assert np.array_equal(views[:, ::2], W)
    assert not views[:, 1::2].any()


def test_what_cannot_be_written_comes_new(tmp_path: Path) -> None:
    frozen = np.zeros((2, 3), np.float32)
    frozen.setflags(write=False)
    with saver(tmp_path) as ck:
        ck.save(1, {"w": W, "any": {"x": [W]}, "n": 3})
        found = ck.restore({"w": frozen, "any": None, "n": None})
    assert found is not None
    assert not frozen.any()
    found.state["w"][0, 0] += 0
    testing.assert_equal_states(found.state, {"w": W, "any": {"x": [W]}, "n": 3})


def test_containers_stay_what_they_are(tmp_path: Path) -> None:
    saved: dict[str, Any] = {
        "list": [W, 1],
        "tuple": (W, 2),
        "named": Pair(W, 3),
        "ordered": OrderedDict(b=W, a=4),
        "default": defaultdict[str, Any](list, {"x": W}),
    }
    with saver(tmp_path) as ck:
        ck.save(1, saved)
        like: dict[str, Any] = {
            "list": [W * 0, 0],
            "tuple": (W * 0, 0),
            "named": Pair(W * 0, 0),
            "ordered": OrderedDict(b=W * 0, a=0),
            "default": defaultdict[str, Any](list, {"x": W * 0}),
        }
        found = ck.restore(like)
    assert found is not None
    testing.assert_equal_states(found.state, saved)
    assert type(found.state["named"]) is Pair
    assert found.state["default"]["new"] == []


def test_everything_that_does_not_fit_is_listed_at_once(tmp_path: Path) -> None:
    with saver(tmp_path) as ck:
        ck.save(1, {"a": W, "b": [W, W], "c": {"x": W, "y": 1}, "d": Pair(W, 1), "e": W, "n": 1})
        like: dict[str, Any] = {
            "a": np.zeros(6, np.float32),
            "b": [np.zeros((2, 3), np.int32), W * 0, W * 0],
            "c": {"x": 3, "z": W * 0},
            "d": Couple(W * 0, 0),
            "e": {"w": W * 0},
            "n": 5,
            "new": W * 0,
        }
        ok = like["b"][1]
        with pytest.raises(errors.MismatchError) as caught:
            ck.restore(like)
        for name in ("a (", "b.0 (", "b.2", "c.x (", "c.y", "c.z", "d (", "e (", "new"):
            assert name in str(caught.value)
        assert not ok.any()
        found = ck.restore(like, partial=True)
    assert found is not None
    assert found.state["b"][1] is ok
    assert np.array_equal(ok, W)
    assert found.state["n"] == 1
    assert sorted(found.differences.missing) == ["b.2", "c.z", "new"]
    assert found.differences.unexpected == ["c.y"]
    assert [name for name, _ in found.differences.different] == ["a", "b.0", "c.x", "d", "e"]
    assert found.state["c"]["x"] == 3


class Counter:
    """An object that changes its array in place, and may refuse half-way."""

    def __init__(self, number: int, refuses: bool = False) -> None:
        self.array = np.full(5, number)
        self.refuses = refuses

    def state_dict(self) -> dict[str, Any]:
        return {"array": self.array, "inner": [self.array[:2]]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.array[:] = state["array"]
        if self.refuses:
            raise ValueError("I would rather not")


def test_objects_give_and_take_their_state(tmp_path: Path) -> None:
    one, other = np.random.default_rng(1), random.Random(2)
    old = np.random.RandomState(3)
    mt = np.random.Generator(np.random.MT19937(4))
    given: dict[str, Any] = {"a": [Counter(7), one], "r": other, "old": old, "mt": mt}
    with saver(tmp_path) as ck:
        ck.save(1, given)

        def draw() -> list[Any]:
            return [one.random(), other.random(), other.gauss(0, 1), old.randn(), mt.random()]

        expected = draw()
        draw()
        counter = given["a"][0]
        counter.array[:] = 0
        found = ck.restore(given)
        assert found is not None
        assert found.state["a"][0] is counter
        assert counter.array.tolist() == [7] * 5
        assert draw() == expected
    whole = restored(tmp_path).state
    assert whole["a"][0]["array"].tolist() == [7] * 5


def test_an_object_that_refuses_changes_nothing(tmp_path: Path) -> None:
    with saver(tmp_path) as ck:
        given = {"one": Counter(1), "rng": np.random.default_rng(1), "w": W, "two": Counter(2)}
        ck.save(1, given)
        rng = np.random.default_rng(9)
        like: dict[str, Any] = {
            "one": Counter(5),
            "rng": rng,
            "w": W * 0,
            "two": Counter(6, refuses=True),
        }
        before = rng.bit_generator.state
        random.random()
        state_of_python = random.getstate()
        with pytest.raises(errors.MismatchError, match=r"two refuses .* I would rather not"):
            ck.restore(like)
        assert like["one"].array.tolist() == [5] * 5
        assert like["two"].array.tolist() == [6] * 5
        assert not like["w"].any()
        assert rng.bit_generator.state == before
        assert random.getstate() == state_of_python


def test_a_generator_of_another_kind_refuses(tmp_path: Path) -> None:
    with saver(tmp_path) as ck:
        ck.save(1, {"rng": np.random.default_rng(1)})
        with pytest.raises(errors.MismatchError, match="rng refuses"):
            ck.restore({"rng": np.random.Generator(np.random.MT19937(1))})


def test_a_state_of_the_generators_that_cannot_be_changes_nothing(tmp_path: Path) -> None:
    """A later version might keep them otherwise; the arrays are not to be half-way then."""
    before = {"version": 3, "words": "AAAA", "gauss": None}
    with saver(tmp_path) as ck:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "tensorkeep.checkpoint.checkpointer.capture_rng", lambda: {"python": before}
            )
            ck.save(1, {"w": W})
        like = {"w": W * 0}
        with pytest.raises(errors.CorruptError, match="random generators"):
            ck.restore(like, step=1)
        assert not like["w"].any()
        assert ck.restore(like, rng=False) is not None
        assert np.array_equal(like["w"], W)


def test_a_disk_that_cannot_read_the_newest(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad sector in the newest checkpoint does not keep the older ones from being restored."""
    bad = os.stat(run / "step-00000003" / "model-00001-of-00002.safetensors").st_ino
    real = os.preadv

    def preadv(fd: int, *rest: Any) -> int:
        if os.fstat(fd).st_ino == bad:
            raise OSError(5, "Input/output error")
        return real(fd, *rest)

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.warns(RuntimeWarning, match="step-00000003 is skipped: .*Input/output error"):
        assert restored(run).step == 2
