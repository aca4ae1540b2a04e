"""Datasets of torch and grain as sources of samples, and arrays of torch and jax as fields."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from tensorkeep.data.sources import open
from tensorkeep.errors import ArgumentError

pytestmark = pytest.mark.frameworks


def test_a_torch_dataset(torch: Any) -> None:
    images = torch.arange(24, dtype=torch.bfloat16).reshape(6, 4)
    dataset = open(torch.utils.data.TensorDataset(images, torch.arange(6)))
    batch = dataset.gather(np.array([5, 0]))
    assert batch["0"].dtype.name == "bfloat16"
    assert batch["1"].tolist() == [5, 0]
    dataset[3]["0"][:] = 0
    assert images[3].sum() > 0


def test_a_torch_dataset_of_dicts_and_numbers(torch: Any) -> None:
    class Items(torch.utils.data.Dataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"x": torch.full((2,), float(index)), "label": index, "text": str(index)}

    batch = open(torch.utils.data.Subset(Items(), [3, 1])).gather(np.array([1, 0]))
    assert batch["x"].tolist() == [[1, 1], [3, 3]]
    assert batch["label"].tolist() == [1, 3]
    assert batch["text"].tolist() == ["1", "3"]


def test_a_torch_dataset_that_is_only_iterated_over(torch: Any) -> None:
    class Stream(torch.utils.data.IterableDataset):  # type: ignore[misc]
        def __iter__(self) -> Any:
            return iter(range(3))

    with pytest.raises(ArgumentError, match="gives no samples by number"):
        open(Stream())


def test_arrays_of_torch_and_jax(torch: Any, jax: Any) -> None:
    dataset = open({"t": torch.arange(6).reshape(3, 2), "j": jax.numpy.arange(3) * 2})
    batch = dataset.gather(np.array([2, 1]))
    assert batch["t"].tolist() == [[4, 5], [2, 3]]
    assert batch["j"].tolist() == [4, 2]
    assert open(torch.arange(3)).gather(np.array([2]))["data"].tolist() == [2]


def test_a_source_of_grain() -> None:
    grain = importlib.import_module("grain.python")
    dataset = open(grain.RangeDataSource(0, 10, 2))
    assert len(dataset) == 5
    assert dataset.gather(np.array([4, 0]))["data"].tolist() == [8, 0]
    mapped = grain.MapDataset.range(6).map(lambda x: {"x": x * x})
    assert open(mapped).gather(np.array([5, 1]))["x"].tolist() == [25, 1]
