from __future__ import annotations

import gc
import json
import math
import threading
import time
from dataclasses import asdict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import tensorkeep
from tensorkeep import dtypes
from tensorkeep.dtypes import BLOCKS, DTYPES
from tensorkeep.errors import ArgumentError, CorruptError
from tensorkeep.source import MemorySource, Source
from tensorkeep.state import State
from tensorkeep.tensor import Tensor
from tensorkeep.viewer.answers import Statistics
from tensorkeep.viewer.measured import Measured


def silent(done: int, total: int) -> None:
    pass


def both(tensor: Tensor) -> tuple[Statistics, Statistics]:
    state = State({"t": tensor})
    return Measured().sampled(state, 0), Measured().exact(state, 0, silent)


class Broken(Source):
    """Holds nothing of what it says."""

    def __init__(self, size: int, sound: int = 0) -> None:
        super().__init__(size, "broken.bin")
        self.sound = sound

    def _read(self, start: int, stop: int) -> memoryview:
        if stop > self.sound:
            raise CorruptError("the chunk is damaged", where=self.where)
        return memoryview(bytes(stop - start))


def test_a_sample_first_and_the_exact_figures_once_they_are_known(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    array = random.normal(3, 2, (1000, 1000)).astype(np.float32)
    array[5, 5], array[6, 6], array[7, 7] = 0, math.nan, -math.inf
    tensorkeep.save({"b": np.zeros(3), "w": array}, tmp_path / "m.safetensors")
    measured = Measured()
    with tensorkeep.open(tmp_path / "m.safetensors") as state:
        index = list(state).index("w")
        first = measured.sampled(state, index)
        assert (first.index, first.size, first.measured) == (index, 1_000_000, 65_536)
        assert not first.exact
        assert first.mean == pytest.approx(3, abs=0.05)
        reports: list[tuple[int, int]] = []
        exact = measured.exact(state, index, lambda *report: reports.append(report))
        assert reports == sorted(reports)
        assert len(reports) > 3
        assert reports[-1] == (4_000_000, 4_000_000)
        finite = array[np.isfinite(array)].astype(np.float64)
        assert (exact.exact, exact.measured) == (True, 1_000_000)
        assert (exact.zeros, exact.nan, exact.inf) == (1, 1, 1)
        assert (exact.min, exact.max) == (finite.min(), finite.max())
        assert exact.mean == pytest.approx(finite.mean(), rel=1e-12)
        assert exact.std == pytest.approx(finite.std(), rel=1e-12)
        assert exact.counts == np.histogram(finite, exact.edges)[0].tolist()
        assert measured.sampled(state, index) == exact


def test_the_same_digest_is_measured_once(tmp_path: Path) -> None:
    array = np.arange(1000, dtype=np.float32)
    source = Tensor.of(array).source
    a = State({"w": Tensor(dtypes.FLOAT32, (1000,), source)}, digests={"w": "ab" * 16})
    unread = Tensor(dtypes.FLOAT32, (1000,), Broken(4000))
    b = State({"x": unread, "w": unread}, digests={"w": "ab" * 16})
    measured = Measured()
    measured.exact(a, 0, silent)
    assert measured.exact(b, 1, silent).max == 999
    assert measured.sampled(b, 1).index == 1
    assert measured.sampled(b, 0).problem
    other = State({"w": Tensor(dtypes.FLOAT32, (10, 100), Broken(4000))}, digests={"w": "ab" * 16})
    assert measured.exact(other, 0, silent).problem


def test_a_state_that_is_gone_lends_its_figures_to_no_other() -> None:
    measured = Measured()
    for value in range(50):
        state = State({"w": Tensor.of(np.full(3, value))})
        assert measured.exact(state, 0, silent).max == value
        del state
        gc.collect()


def test_the_oldest_figures_are_dropped() -> None:
    measured = Measured(kept=2)
    state = State({name: Tensor.of(np.zeros(300_000)) for name in "abc"})
    for index in range(3):
        measured.exact(state, index, silent)
    assert [measured.sampled(state, index).exact for index in (0, 2)] == [False, True]


@pytest.mark.parametrize("name", [name for name in DTYPES if name != "string"])
def test_each_type(name: str) -> None:
    row = DTYPES[name]
    array = (np.arange(300) % 2 + (name == "float8_e8m0fnu")).astype(row.numpy).reshape(3, 100)
    for found in both(Tensor.of(array)):
        one = float(np.asarray(array[0, 1]).astype(np.complex128).real)
        zero = float(np.asarray(array[0, 0]).astype(np.complex128).real)
        assert found.exact
        assert (found.size, found.measured, found.nan, found.inf) == (300, 300, 0, 0)
        assert {found.min, found.max} == {min(one, zero), max(one, zero)}
        assert found.zeros == (150 if zero == 0 else 0)
        assert sum(found.counts) == 300
        json.dumps(asdict(found), allow_nan=False)


def test_the_ends_of_64_bits_are_exact() -> None:
    for kind in (np.int64, np.uint64):
        ends = np.iinfo(kind)
        found = both(Tensor.of(np.array([ends.min, ends.max, 5], kind)))[1]
        assert (found.min, found.max) == (ends.min, ends.max)
        assert sum(found.counts) == 3


def test_narrow_floats_with_what_is_not_finite() -> None:
    values = [0, -0.0, 1, math.nan, math.inf, -math.inf]
    found = both(Tensor.of(np.array(values, ml_dtypes.bfloat16)))[1]
    assert (found.zeros, found.nan, found.inf, found.min, found.max) == (2, 1, 2, 0, 1)
    found = both(Tensor.of(np.array([1, math.nan, 448], ml_dtypes.float8_e4m3fn)))[1]
    assert (found.nan, found.max) == (1, 448)


def test_texts_by_their_lengths() -> None:
    for found in both(Tensor.of(["", "a", "äöü"])):
        assert (found.size, found.zeros, found.min, found.max) == (3, 1, 0, 3)
        assert found.counts == [1, 1, 0, 1]


def test_empty_and_scalar() -> None:
    for shape in ((0,), (3, 0, 2)):
        for kind in (np.float32, np.int8, object, np.bool_, ml_dtypes.int4):
            for found in both(Tensor.of(np.zeros(shape, kind))):
                assert (found.size, found.exact, found.min, found.edges) == (0, True, None, [])
    for found in both(Tensor.of(np.float32(2.5))):
        assert (found.size, found.min, found.mean, found.std) == (1, 2.5, 2.5, 0)
        assert found.counts == [1]


def test_numbers_are_finite_or_none() -> None:
    most = float(np.finfo(np.float64).max)
    for values in ([most, -most, 1.0], [most, most], [math.nan], [math.inf, 5e-324]):
        for found in both(Tensor.of(np.array(values))):
            json.dumps(asdict(found), allow_nan=False)


def test_what_cannot_be_read_gives_its_problem() -> None:
    for found in both(Tensor(dtypes.FLOAT32, (4_000_000,), Broken(16_000_000))):
        assert found.problem == "broken.bin: the chunk is damaged"
        assert (found.size, found.measured, found.exact) == (4_000_000, 0, False)
    late = State({"w": Tensor(dtypes.FLOAT32, (4_000_000,), Broken(16_000_000, 12_000_000))})
    assert Measured().exact(late, 0, silent).problem
    row = next(row for row in BLOCKS.values() if row.opaque)
    data = MemorySource(bytes(row.nbytes(row.block)))
    for found in both(Tensor(row, (row.block,), data)):
        assert "cannot be turned into numbers" in found.problem


def test_a_closed_file_gives_its_problem(tmp_path: Path) -> None:
    tensorkeep.save({"w": np.zeros(100_000)}, tmp_path / "m.safetensors")
    state = tensorkeep.open(tmp_path / "m.safetensors")
    state.close()
    assert "closed" in Measured().sampled(state, 0).problem


def test_what_failed_is_tried_again() -> None:
    source = Broken(4000)
    state = State({"w": Tensor(dtypes.FLOAT32, (1000,), source)})
    measured = Measured()
    assert measured.exact(state, 0, silent).problem
    source.sound = 4000
    assert measured.exact(state, 0, silent).zeros == 1000


def test_there_has_to_be_such_a_tensor() -> None:
    state = State({"w": Tensor.of(np.zeros(3))})
    for index in (-1, 1):
        with pytest.raises(ArgumentError, match="there is no tensor"):
            Measured().sampled(state, index)
        with pytest.raises(ArgumentError, match="there is no tensor"):
            Measured().exact(state, index, silent)


def test_a_report_may_stop_it() -> None:
    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise StopError

    state = State({"w": Tensor.of(np.zeros(3))})
    measured = Measured()
    with pytest.raises(StopError):
        measured.exact(state, 0, stop)


def test_several_threads_share_it() -> None:
    arrays = [np.random.default_rng(i).normal(size=200_000) for i in range(6)]
    state = State({str(i): Tensor.of(array) for i, array in enumerate(arrays)})
    measured = Measured(kept=3)
    wrong: list[int] = []

    def work() -> None:
        for index, array in enumerate(arrays):
            if measured.exact(state, index, silent).max != array.max():
                wrong.append(index)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_sample_of_a_large_file_is_there_at_once(tmp_path: Path) -> None:
    with (tmp_path / "huge.npy").open("wb") as file:
        head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000), }"
        head = head.ljust(117) + b"\n"
        file.write(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)
        file.truncate(file.tell() + 4_000_000_000)
    with tensorkeep.open(tmp_path / "huge.npy") as state:
        found = Measured().sampled(state, 0)
        assert (found.size, found.measured, found.zeros) == (1_000_000_000, 65_536, 65_536)


def test_small_ones_are_exact_at_once() -> None:
    assert Measured().sampled(State({"t": Tensor.of(np.ones(1 << 18, "float32"))}), 0).exact
    assert not Measured().sampled(State({"t": Tensor.of(np.ones(1 << 19, "float32"))}), 0).exact


def test_where_time_is_up_fewer_values_are_sampled() -> None:
    state = State({"t": Tensor.of(np.ones(1 << 20, "float32"))})
    found = Measured().sampled(state, 0, until=time.monotonic() - 1)
    assert (found.measured, found.exact, found.mean) == (1024, False, 1)
