"""Saves and restores of states of every kind, and who may save where."""

from __future__ import annotations

import random
from collections import OrderedDict, defaultdict, namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import errors, testing
from tensorkeep.checkpoint import Checkpointer, arguments, layout
from tensorkeep.formats.safetensors import manifest

W = np.arange(6, dtype=np.float32).reshape(2, 3)
Pair = namedtuple("Pair", ["one", "other"])


def saver(folder: Path, **options: Any) -> Checkpointer:
    return Checkpointer(folder, durable=False, **options)


def round_trip(folder: Path, state: Any, **options: Any) -> Any:
    with saver(folder, **options) as ck:
        ck.save(3, state)
        found = ck.restore()
    assert found is not None
    assert found.step == 3
    testing.assert_equal_states(found.state, state)
    again = Checkpointer(folder, read_only=True).restore()
    assert again is not None
    testing.assert_equal_states(again.state, state)
    return found.state


STATES: dict[str, Any] = {
    "empty": {},
    "scalars": {"lr": 0.1, "n": 3, "name": "x", "none": None, "yes": True},
    "flat": {"w": W, "b": np.ones(3, np.int8)},
    "flat with dots": {"a.b": W, "a": np.ones(1), "a.b.c": W + 1},
    "list": [W, 1, [W + 1]],
    "tuple": (W, (1, 2)),
    "array": W,
    "number": 7,
    "none": None,
    "ordered": OrderedDict(z={"w": W}, a={"w": W + 1}),
    "named": Pair({"w": W}, [1.5]),
    "defaultdict": {"d": defaultdict(list, {"w": W.copy()})},
    "nested empty": {"model": {}, "list": [], "w": W},
    "huge": {"n": 10**5000, "m": -(2**64), "c": 1j, "x": float("inf"), "nan": float("nan")},
    "text": {"b": b"\0\xff" * 2000, "a": bytearray(5000), "s": "\0ü\U0001d11e"},
    "int keys": {0: {"w": W}, 1: {"w": W + 1}, "0": {"w": W + 2}, (1, "a"): W},
    "dollar": {"$dict": {"w": W}, "$": {"w": W + 1}, "$$array": [W]},
    "layouts": {
        "fortran": np.asfortranarray(W),
        "strided": np.arange(20.0)[::3],
        "backwards": np.arange(9)[::-1],
        "big": np.arange(4, dtype=">i4"),
        "zero-d": np.array(2.5),
        "none": np.zeros((0, 3)),
        "broadcast": np.broadcast_to(np.float32(3), (2, 2)),
        "complex": np.array([1 + 2j]),
        "texts": np.array(["a", "ünï", ""], object),
        "fixed": np.array(["a", "bc"]),
    },
}
NAMES = {
    "Model": {"w": W},
    "model": {"w": W + 1},
    "MODEL": {"w": W + 2},
    "a/b": {"w": W},
    "..": {"w": W},
    "../../x": W,
    "": {"w": W, "": W + 1},
    "CON": {"w": W},
    "ünï": {"w": W},
    "x" * 300: {"w": W},
    "y" * 5000: {"w": W},
    "state": {"w": W},
    "state-2": {"w": W},
    "__metadata__": {"__metadata__": W},
    "inner": {
        "__metadata__": W,
        ".": W,
        "..": W,
        "../x": W,
        "": {"..": W},
        "a.b": {"c": W},
        "a": {"b.c": W},
    },
    "MANIFEST": {"json": W},
    "model-00001-of-00002": {"w": W},
    "model.w": W + 3,
    "model.safetensors": {"w": W},
    "loose": W + 4,
    "-": {"w": W},
    " ": {"w": W},
    "new\nline": {"w": W},
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    round_trip(tmp_path, STATES[name])


@pytest.mark.parametrize("limit", [None, 1, 40])
def test_names_that_files_cannot_have_or_that_collide(limit: int | None, tmp_path: Path) -> None:
    round_trip(tmp_path, NAMES, max_shard_size=limit)
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000003", ".tensorkeep"}


def test_shards_do_not_take_the_file_of_another_part(tmp_path: Path) -> None:
    state = {"model": {"a": np.zeros(99), "b": np.ones(99)}, "model-00001-of-00002": {"w": W}}
    round_trip(tmp_path, state, max_shard_size=792)


def test_every_element_type_and_shape(tmp_path: Path) -> None:
    state = {name: tensor.numpy() for name, tensor in testing.samples().items()}
    round_trip(tmp_path, {"model": state, **state})


def test_more_parts_than_files_make_sense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_MAX_PARTS", 5)
    round_trip(tmp_path, {f"k{i}": {"w": np.array([i])} for i in range(9)})
    files = {path.name for path in (tmp_path / "step-00000003").glob("*.safetensors")}
    assert files == {"model.safetensors", *(f"k{i}.safetensors" for i in range(5))}


def test_more_shards_than_a_manifest_lists_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "_MAX_FILES", 5)
    state = {f"k{i}": np.zeros(1, np.int8) for i in range(6)}
    with saver(tmp_path, max_shard_size=1) as ck:
        with pytest.raises(errors.ArgumentError, match="makes 6 files"):
            ck.save(1, state)
        assert ck.checkpoints() == []
        del state["k0"]
        ck.save(1, state)


def test_the_limits_of_files_are_those_of_the_manifest() -> None:
    assert 2 * layout._MAX_PARTS + 1 < manifest._MAX_FILES
    assert layout._MAX_FILES + layout._MAX_PARTS + 1 <= manifest._MAX_FILES + 1


def test_more_than_can_be_read_again_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arguments, "_MAX_VALUES", 1000)
    monkeypatch.setattr(arguments, "MAX_TENSORS", 20)
    with saver(tmp_path) as ck:
        with pytest.raises(errors.UnsupportedError, match="into arrays"):
            ck.save(1, {"ids": [0] * 1001})
        with pytest.raises(errors.UnsupportedError, match="21 tensors"):
            ck.save(1, [np.zeros(1) for _ in range(21)])
        with pytest.raises(errors.UnsupportedError, match="metadata"):
            ck.save(1, {}, metadata={"history": [0] * 1000})
        assert ck.checkpoints() == []


@pytest.mark.parametrize("limit", [None, 1])
def test_tied_arrays_stay_tied(limit: int | None, tmp_path: Path) -> None:
    moving = np.zeros(3)
    state = {"model": {"a": W, "m": moving}, "ema": {"a": W, "m": moving}, "top": W}
    with saver(tmp_path, max_shard_size=limit) as ck:
        for step in range(3):
            moving += 1
            ck.save(step, state)
            found = ck.restore()
            assert found is not None
            testing.assert_equal_states(found.state, state)
            assert found.state["model"]["a"] is found.state["ema"]["a"] is found.state["top"]
            assert found.state["model"]["m"] is found.state["ema"]["m"]
    moving -= 1
    state["ema"] = {"a": W, "m": moving.copy()}  # no longer tied
    moving += 5
    with saver(tmp_path) as ck:
        ck.save(9, state)
        found = ck.restore()
        assert found is not None
        testing.assert_equal_states(found.state, state)


def test_an_opened_state_is_saved_as_it_is(tmp_path: Path) -> None:
    tk.save({"a": {"w": W}, "n": 3}, tmp_path / "old.safetensors")
    with tk.open(tmp_path / "old.safetensors") as old, saver(tmp_path / "run") as ck:
        ck.save(1, old)
        ck.save(2, old)
    assert tk.load(tmp_path / "run" / "step-00000002", verify=True)["n"] == 3


def test_damage_in_an_opened_state_gets_no_fresh_digest(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    tk.save({"a": {"w": W}}, path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with tk.open(path) as old, saver(tmp_path / "run") as ck:
        with pytest.raises(errors.CorruptError):
            ck.save(1, old)
        assert ck.checkpoints() == []


def test_a_container_that_holds_itself_is_refused_at_once(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop += [loop, loop]
    with saver(tmp_path) as ck, pytest.raises(errors.UnsupportedError, match="hold"):
        ck.save(1, {"loop": loop})


def test_a_step_is_saved_once_unless_overwritten(tmp_path: Path) -> None:
    with saver(tmp_path) as ck:
        ck.save(1, {"n": 1})
        with pytest.raises(errors.ArgumentError, match="step 1 is saved already"):
            ck.save(1, {"n": 2})
        assert tk.load(ck.save(1, {"n": 3}, overwrite=True).path)["n"] == 3
        assert [row.step for row in ck.checkpoints()] == [1]
        for bad in (-1, True, 1.0, "1", 10**18, np.int64(3)):
            with pytest.raises(errors.ArgumentError, match="a step cannot be"):
                ck.save(bad, {})  # type: ignore[arg-type]
        assert ck.save(10**18 - 1, {"n": 4}).committed


def test_a_damaged_step_gives_way_without_being_asked(tmp_path: Path) -> None:
    with saver(tmp_path) as ck:
        ck.save(1, {"w": W})
        (tmp_path / "step-00000001" / "MANIFEST.json").unlink()
        ck.save(1, {"w": W + 1})
        assert ck.checkpoints()[0].ok


def test_metrics_of_odd_kinds(tmp_path: Path) -> None:
    metrics = {
        "int": np.int64(3),
        "half": np.float16(0.5),
        "one": np.ones(1),
        "bool": np.bool_(True),
        "text": np.str_("x"),
        "nan": float("nan"),
        "inf": np.float32("-inf"),
        "huge": 10**400,
        "ünï\ud800": 1,
    }
    with saver(tmp_path, keep=tk.keep(best=["huge", "nan", "text"])) as ck:
        ck.save(1, {"w": W}, metrics=metrics)
        found = ck.restore()
        assert found is not None
        assert found.metrics["int"] == 3
        assert found.metrics["nan"] == "nan"
        assert found.metrics["inf"] == "-inf"
        assert found.metrics["huge"] == 10**400
        for bad in (1j, None, [1], np.ones(2), b"x", object(), 10**5000):
            with pytest.raises(errors.UnsupportedError):
                ck.save(2, {"w": W}, metrics={"x": bad})
        for wrong in ({1: 1}, [("a", 1)]):
            with pytest.raises(errors.UnsupportedError):
                ck.save(2, {"w": W}, metrics=wrong)  # type: ignore[arg-type]
        assert [row.step for row in ck.checkpoints()] == [1]


@pytest.mark.parametrize(
    "bad",
    [{1: 2}, {"a": {1: 2, "1": 3}}, {"a": (1,)}, {"a": float("nan")}, {"a": {1}}, {"a": 10**5000}],
)
def test_metadata_that_is_not_json_is_refused(bad: Any, tmp_path: Path) -> None:
    with saver(tmp_path) as ck:
        with pytest.raises(errors.UnsupportedError, match="metadata"):
            ck.save(1, {"w": W}, metadata=bad)
        assert ck.checkpoints() == []


def test_metadata_is_what_it_was_when_it_was_saved(tmp_path: Path) -> None:
    history: list[Any] = [1, 2]
    with saver(tmp_path, background=True) as ck:
        saving = ck.save(1, {"w": W}, metadata={"history": history, "ünï": "\ud800"})
        history.append(3)
        saving.wait()
        assert ck.checkpoints()[0].metadata == {"history": [1, 2], "ünï": "\ud800"}


def test_the_global_generators_are_restored(tmp_path: Path) -> None:
    with saver(tmp_path) as ck:
        random.gauss(0, 1)
        np.random.standard_normal()
        ck.save(1, {})
        expected = random.gauss(0, 1), random.random(), np.random.standard_normal(3).tolist()
        ck.restore(rng=False)
        assert random.random() != expected[1]
        ck.restore()
        found = random.gauss(0, 1), random.random(), np.random.standard_normal(3).tolist()
        assert found == expected


def test_another_global_generator_of_numpy_is_left_alone(tmp_path: Path) -> None:
    numpy: Any = np.random
    before = numpy.get_bit_generator()
    numpy.set_bit_generator(np.random.PCG64(1))
    try:
        with saver(tmp_path) as ck:
            ck.save(1, {})
            expected = random.random()
            assert ck.restore() is not None
            assert random.random() == expected
    finally:
        numpy.set_bit_generator(before)
