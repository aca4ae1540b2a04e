"""Datasets that are written: of tensors of frameworks, and read by the webdataset library."""

from __future__ import annotations

import gc
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.data import sources
from tensorkeep.data.writing import write

pytestmark = pytest.mark.frameworks


def sample(i: int) -> dict[str, Any]:
    return {"image": np.full((2, 3), i, np.uint8), "label": i, "text": f"é{i}", "meta": {"i": i}}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files left open
def test_webdataset_reads_it(tmp_path: Path) -> None:
    webdataset = importlib.import_module("webdataset")
    write(map(sample, range(5)), tmp_path / "a.tar", shard_samples=2)
    urls = f"{tmp_path}/a-{{00000..00002}}.tar"
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    gc.collect()
    assert [row["__key__"] for row in found] == [f"{i:010d}" for i in range(5)]
    for i, row in enumerate(found):
        assert np.array_equal(row["image.npy"], sample(i)["image"])
        assert (row["label.cls"], row["text.txt"], row["meta.json"]) == (i, f"é{i}", {"i": i})


@pytest.mark.parametrize("ending", ["tar", "minidb", "npz"])
def test_tensors_of_torch(ending: str, torch: Any, tmp_path: Path) -> None:
    given = [{"x": torch.arange(6).reshape(2, 3).T + i, "n": torch.tensor(i)} for i in range(4)]
    write(given, tmp_path / f"a.{ending}")
    write({"x": torch.stack([row["x"] for row in given])}, tmp_path / f"b.{ending}")
    for name in "ab":
        with sources.open(tmp_path / f"{name}.{ending}") as dataset:
            batch = dataset.gather(dataset.check(np.arange(4)))
        for i, row in enumerate(given):
            assert np.array_equal(batch["x"][i], row["x"].numpy())


def test_narrow_tensors_of_torch(torch: Any, tmp_path: Path) -> None:
    given = [{"x": torch.full((3,), i, dtype=torch.bfloat16)} for i in range(4)]
    write(given, tmp_path / "a.safetensors")
    found = tk.load(tmp_path / "a.safetensors", framework="torch")["x"]
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, torch.stack([row["x"] for row in given]))


def test_arrays_of_jax(tmp_path: Path) -> None:
    numpy = importlib.import_module("jax.numpy")
    write([{"x": numpy.arange(3) + i} for i in range(4)], tmp_path / "a.npz")
    assert tk.load(tmp_path / "a.npz")["x"].tolist() == [[i, i + 1, i + 2] for i in range(4)]
