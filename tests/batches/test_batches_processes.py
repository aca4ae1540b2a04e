"""Batches that processes make are those that threads make, and their failures name samples."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.batches.batch_jobs import dies_at_seven, doubled, fails_at_seven, noisy

import tensorkeep as tk
from tensorkeep.errors import ArgumentError, SampleError, StoreError, TensorKeepError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "train.safetensors"
    tk.save({"x": np.arange(30), "y": np.arange(90.0).reshape(30, 3)}, path)
    return path


def _same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        assert np.array_equal(one[name], other[name])


def test_processes_make_what_threads_make(file: Path) -> None:
    how: dict[str, Any] = {"shuffle": True, "seed": 2, "each": noisy, "transform": doubled}
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    with (
        tk.Batches(file, 4, **how) as threads,
        tk.Batches(file, 4, processes=True, workers=2, prefetch=4, **how) as processes,
    ):
        for _ in range(2):
            for one, other in zip(threads, processes, strict=True):
                _same(one, other)
                assert threads.state_dict() == processes.state_dict()
        batch = next(iter(processes))  # left in the middle, and gone on with
        again = list(processes)
        threads.seek(2, 4)
        for one, other in zip(threads, again, strict=True):
            _same(one, other)
        batch["x"][:] = 0  # memory of the caller's own
    after = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    assert after <= before


def test_failures_of_processes_name_the_samples(file: Path) -> None:
    with tk.Batches(file, 4, each=fails_at_seven, processes=True) as batches:
        loop = iter(batches)
        assert next(loop)["x"].tolist() == [0, 1, 2, 3]
        with pytest.raises(SampleError, match="each failed for sample 7: ValueError: no sevens"):
            next(loop)
        assert batches.sample == 4
    with tk.Batches(file, 4, each=dies_at_seven, processes=True) as batches:
        loop = iter(batches)
        next(loop)
        with pytest.raises((StoreError, SampleError), match="samples 4, 5, 6, 7") as caught:
            next(loop)
        assert "SIGKILL" in str(caught.value)
        batches.seek(0, 8)
        assert next(iter(batches))["x"].tolist() == [8, 9, 10, 11]


def test_what_no_process_can_be_given_is_told(file: Path) -> None:
    batches = tk.Batches(file, 4, each=lambda sample: sample, processes=True)
    with pytest.raises(ArgumentError, match="processes=False"):
        next(iter(batches))
    batches.close()
    with pytest.raises(TensorKeepError):
        next(iter(tk.Batches(file, 4, processes=True, device="cuda")))
