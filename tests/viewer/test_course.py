"""Tensors over the steps of a run, against plain NumPy."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from tests.servers import Server
from tests.viewer.runs_made import BROKEN, EXPLODES, STEPS

import tensorkeep as tk
from tensorkeep.blocks import LAYOUTS
from tensorkeep.source import FileSource
from tensorkeep.state import State
from tensorkeep.viewer import course as courses
from tensorkeep.viewer.answers import Course
from tensorkeep.viewer.course import _Followed, _vector
from tensorkeep.viewer.runs import course

Array = npt.NDArray[Any]


def _course(target: Any, *, exact: bool = True) -> Course:
    told: list[tuple[int, int]] = []
    found = course(target, exact=exact, report=lambda done, total: told.append((done, total)))
    json.dumps(asdict(found), allow_nan=False)
    assert told == sorted(told)
    assert not told or told[-1][0] == told[-1][1]
    for rows in (found.norms, found.updates, found.broken):
        assert len(rows) == len(found.names)
        assert all(len(row) == len(found.steps) for row in rows)
    return found


def _save(folder: Path, *states: Any, **options: Any) -> None:
    with tk.Checkpointer(folder, rng=False, durable=False, **options) as ck:
        for step, state in enumerate(states):
            ck.save(step, state)


def _of(found: Course, name: str) -> tuple[list[float | None], list[float | None], list[int]]:
    at = found.names.index(name)
    return found.norms[at], found.updates[at], found.broken[at]


def test_a_training_as_numpy_says(made: Path) -> None:
    found = _course(made / "damaged")
    before: dict[str, Array] = {}
    assert found.steps == list(range(1, STEPS + 1))
    for at, step in enumerate(found.steps):
        with tk.open(made / "damaged" / f"step-{step:08}") as opened:
            weights = {
                name: opened[f"model.{name}"].numpy().astype(np.float64)
                for name in ("output.weight", "hidden.bias", "conv.weight")
            }
        for name, now in weights.items():
            norms, updates, broken = _of(found, f"model.{name}")
            assert norms[at] == pytest.approx(np.linalg.norm(now), rel=1e-6)
            assert broken[at] == 0
            if name not in before:
                assert updates[at] is None
            else:
                size = np.linalg.norm(now - before[name]) / np.linalg.norm(before[name])
                assert updates[at] == pytest.approx(size, rel=1e-5, abs=1e-12)
            before[name] = now
    assert "optimizer.square.output.weight" in found.names
    assert _of(found, "start.hidden.weight")[1] == [None] + [0.0] * (STEPS - 1)


def test_a_damaged_tensor_is_told_and_skipped(made: Path) -> None:
    found = _course(made / "damaged")
    assert list(found.problems) == ["11"]
    assert found.problems["11"].startswith("model.hidden.weight: its XXH3-128 is ")
    norms, updates, _ = _of(found, "model.hidden.weight")
    assert [at for at, norm in enumerate(norms) if norm is None] == [10]
    assert [at for at, update in enumerate(updates) if update is None] == [0, 10, 11]
    assert None not in _of(found, "model.output.weight")[0]


def test_a_training_that_goes_wrong(made: Path) -> None:
    for exact in (True, False):
        norms, updates, broken = _of(
            _course(made / "diverging", exact=exact), "model.hidden.weight"
        )
        first = BROKEN - 1
        assert None not in norms[:first]
        assert norms[first:] == [None] * (STEPS - first)
        assert updates[first:] == [None] * (STEPS - first)
        assert broken == [0] * first + [512 * 256] * (STEPS - first)
        calm, wild = updates[EXPLODES - 2], updates[EXPLODES - 1]
        assert calm is not None
        assert wild is not None
        assert wild > 100 * calm


def test_a_sample_comes_close(made: Path) -> None:
    whole, some = (_course(made / "damaged", exact=exact) for exact in (True, False))
    assert (whole.exact, some.exact) == (True, False)
    assert whole.names == some.names
    assert some.problems == {}  # nobody compared digests
    for name in ("model.hidden.weight", "optimizer.square.hidden.weight"):
        for a, b in zip(_of(whole, name)[0], _of(some, name)[0], strict=True):
            assert a is None or b == pytest.approx(a, rel=0.2)
    assert _of(whole, "model.output.bias") == _of(some, "model.output.bias")


@pytest.mark.parametrize(
    "name",
    ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "float6_e2m3fn", "float4_e2m1fn"],
)
def test_narrow_floats(tmp_path: Path, name: str) -> None:
    a = np.array([0, 1, 2, -3, 1], getattr(ml_dtypes, name, None) or name)
    b = np.array([1, 1, 2, 2, 1], a.dtype)
    _save(tmp_path, {"w": a}, {"w": b})
    norms, updates, _ = _of(_course(tmp_path), "w")
    assert norms == [pytest.approx(math.sqrt(15)), pytest.approx(math.sqrt(11))]
    assert updates == [None, pytest.approx(math.sqrt(26 / 15))]


def test_other_types(tmp_path: Path) -> None:
    def state(add: int) -> dict[str, Any]:
        return {
            "complex": np.array([3 + 4j, add * 1j], np.complex64),
            "int4": np.full((2, 3), 2 + add, ml_dtypes.int4),
            "int8": np.full((2, 2), 100 + add, np.int8),
            "scalar": np.float32(2 + add),
            "empty": np.zeros((0, 4)),
            "counter": np.int64(add),
            "random": np.arange(5, dtype=np.uint32) + add,
            "mask": np.array([[True, add > 0]]),
            "text": np.array(["a", "b" * add]),
        }

    _save(tmp_path, state(0), state(1))
    found = _course(tmp_path)
    assert found.names == ["complex", "int4", "int8", "scalar", "empty"]
    assert found.left_out == 0
    assert _of(found, "complex")[0] == [5, pytest.approx(math.sqrt(26))]
    assert _of(found, "complex")[1] == [None, pytest.approx(0.2)]
    assert _of(found, "int4")[1] == [None, pytest.approx(0.5)]
    assert _of(found, "int8")[0] == [200, 202]
    assert _of(found, "scalar") == ([2, 3], [None, 0.5], [0, 0])
    assert _of(found, "empty") == ([0, 0], [None, 0], [0, 0])


def test_what_is_no_number(tmp_path: Path) -> None:
    values = [
        np.array([1, np.nan, np.inf, -np.inf]),
        np.array([3.0, 4, 0, 0]),
        np.array([3.0, np.inf, 0, 0]),
        np.zeros(4),
        np.ones(4),
        np.zeros(4),
    ]
    _save(tmp_path, *({"w": value, "z": value + 0j} for value in values))
    found = _course(tmp_path)
    for name in ("w", "z"):
        assert _of(found, name) == (
            [None, 5, None, 0, 2, 0],
            [None, None, None, None, None, 1],  # what was 0 has no relative change
            [3, 0, 1, 0, 0, 0],
        )


def test_values_whose_squares_float64_does_not_hold(tmp_path: Path) -> None:
    _save(tmp_path, *({"w": np.array([3, 4]) * scale} for scale in (1e300, 2e300, 1e-300, 5e-324)))
    norms, updates, _ = _of(_course(tmp_path), "w")
    assert norms[:3] == [pytest.approx(5e300), pytest.approx(1e301), pytest.approx(5e-300)]
    assert updates[1:3] == [pytest.approx(1), pytest.approx(1)]
    assert norms[3] == pytest.approx(25e-324, abs=5e-324)
    assert _of(_course(tmp_path, exact=False), "w")[0] == norms


_ARRAYS = npst.arrays(
    np.float32,
    st.just((7,)),
    elements=st.floats(-1e3, 1e3, width=32) | st.just(math.nan) | st.just(math.inf),
)


@given(st.lists(_ARRAYS, min_size=2, max_size=4))
def test_as_numpy_says(arrays: list[Array]) -> None:
    followed = _Followed(True, 10)
    for step, array in enumerate(arrays):
        followed.take(step, State({"w": tk.Tensor.of(array)}), lambda share: None)
    found = followed.course({})
    for at, array in enumerate(arrays):
        now = array.astype(np.float64)
        finite = bool(np.isfinite(now).all())
        assert found.broken[0][at] == np.count_nonzero(~np.isfinite(now))
        assert found.norms[0][at] == (pytest.approx(np.linalg.norm(now)) if finite else None)
        past = arrays[at - 1].astype(np.float64)
        size = np.linalg.norm(past)
        if at and finite and np.isfinite(past).all() and size:
            assert found.updates[0][at] == pytest.approx(np.linalg.norm(now - past) / size)


def test_many_pieces(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    arrays = [rng.standard_normal((700, 301)).astype(kind) for kind in ("f4", "f4", "f8")]
    _save(tmp_path, *({"w": array} for array in arrays))
    norms, updates, _ = _of(_course(tmp_path), "w")
    a, b, c = (array.astype(np.float64) for array in arrays)
    assert norms == [pytest.approx(np.linalg.norm(side)) for side in (a, b, c)]
    changes = [np.linalg.norm(b - a) / np.linalg.norm(a), np.linalg.norm(c - b) / np.linalg.norm(b)]
    assert updates == [None, *map(pytest.approx, changes)]
    sampled = _of(_course(tmp_path, exact=False), "w")
    assert sampled[0] == [pytest.approx(norm, rel=0.02) for norm in norms]
    assert sampled[1][1:] == [pytest.approx(update, rel=0.02) for update in changes]


def test_names_and_shapes_that_come_and_go(tmp_path: Path) -> None:
    one, two = np.ones(4), np.ones((2, 2)) * 2
    _save(tmp_path, {"a": one}, {"a": two, "b": one}, {"b": two.reshape(4)}, {"a": two})
    found = _course(tmp_path)
    assert found.names == ["a", "b"]
    assert _of(found, "a") == ([2, 4, None, 4], [None] * 4, [0] * 4)
    assert _of(found, "b") == ([None, 2, 4, None], [None, None, 1, None], [0] * 4)


def test_unchanged_tensors_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen, moving = np.arange(300_000, dtype=np.float32), np.zeros(8, np.float32)
    _save(tmp_path, *({"frozen": frozen, "head": moving + at} for at in range(5)))
    count, read = 0, FileSource._readinto

    def counting(self: FileSource, start: int, buffer: memoryview) -> None:
        nonlocal count
        count += buffer.nbytes
        read(self, start, buffer)

    monkeypatch.setattr(FileSource, "_readinto", counting)
    norms, updates, _ = _of(_course(tmp_path), "frozen")
    assert norms == [pytest.approx(np.linalg.norm(frozen.astype(float)))] * 5
    assert updates == [None, 0, 0, 0, 0]
    assert frozen.nbytes < count < 1.5 * frozen.nbytes


def test_steps_that_are_no_good(tmp_path: Path) -> None:
    _save(tmp_path, *({"w": np.full(3, step + 1.0)} for step in range(5)))
    (tmp_path / "step-00000001" / "MANIFEST.json").write_text("{")
    file = tmp_path / "step-00000003" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    found = _course(tmp_path)
    assert found.steps == [0, 2, 4]  # of step 3 nothing is left
    assert list(found.problems) == ["1", "3"]
    assert _of(found, "w")[1] == [None, pytest.approx(2), pytest.approx(2 / 3)]


def test_steps_that_go_meanwhile(tmp_path: Path) -> None:
    _save(tmp_path, *({"w": np.full(3, step + 1.0)} for step in range(5)))

    def report(done: int, total: int) -> None:
        for step in (1, 2):
            shutil.rmtree(tmp_path / f"step-0000000{step}", ignore_errors=True)

    found = course(tmp_path, exact=True, report=report)
    assert found.steps == [0, 3, 4]
    assert set(found.problems) == {"1", "2"}
    assert "removed meanwhile" in found.problems["1"]


def test_at_most_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courses, "_MOST_TENSORS", 3)
    _save(tmp_path, {f"w{at}": np.ones(1) for at in range(5)}, {"w0": np.ones(1), "x": np.ones(2)})
    found = _course(tmp_path)
    assert found.names == ["w0", "w1", "w2"]
    assert found.left_out == 3


def test_sharded_and_other_formats(tmp_path: Path) -> None:
    _save(
        tmp_path / "sharded",
        *({f"w{at}": np.full(300, at + step + 1.0) for at in range(5)} for step in range(2)),
        max_shard_size=3000,
    )
    assert _of(_course(tmp_path / "sharded"), "w4")[1] == [None, pytest.approx(0.2)]
    folder = tmp_path / "others"
    folder.mkdir()
    for step in (1, 2):
        tk.save({"w": np.full((4, 4), step * 0.5)}, folder / f"step_{step}.pt")
    assert _of(_course(folder), "w") == ([2, 4], [None, 1], [0, 0])
    for path in (tmp_path / "empty", tmp_path / "empty2"):
        path.mkdir()
        assert _course(path).steps == []


def test_blocks(tmp_path: Path) -> None:
    layout = LAYOUTS["q8_0"]
    folder = tmp_path / "run"
    folder.mkdir()
    for step in (1, 2):
        data = (np.float16(step).tobytes() + bytes([2] * layout.size)) * 3
        tensor = tk.Tensor(
            tk.dtype("q8_0"), (3, 32), tk.Tensor.of(np.frombuffer(data, "u1")).source
        )
        tk.save(State({"w": tensor}), folder / f"step_{step}.gguf")
    norms, updates, _ = _of(_course(folder), "w")
    assert norms == [pytest.approx(2 * math.sqrt(96)), pytest.approx(4 * math.sqrt(96))]
    assert updates == [None, pytest.approx(1)]


def test_in_a_bucket(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.bucket()
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    with tk.Checkpointer(bucket.url("run"), rng=False) as ck:
        for step in (1, 2):
            ck.save(step, {"w": np.full((400, 500), float(step)), "frozen": np.ones(9)})
    for exact in (True, False):
        found = _course(bucket.url("run"), exact=exact)
        assert _of(found, "w")[1] == [None, pytest.approx(1)]
        assert _of(found, "frozen")[1] == [None, 0]


def test_odd_complex_numbers_are_followed_without_a_warning() -> None:
    signalling = np.array([0x7F800001, 0x3F800000], "<u4").view("<c8")
    assert np.isnan(_vector(signalling)[0])
