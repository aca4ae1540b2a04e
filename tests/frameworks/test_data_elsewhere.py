"""Training data between tensorkeep and the data libraries of others: Grain, Hugging Face."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk

pytestmark = pytest.mark.frameworks

ARRAYS: dict[str, Any] = {
    "x": np.arange(40, dtype=np.float32).reshape(20, 2),
    "number": np.arange(20),
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what others warn of
        yield


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "train.safetensors"
    tk.save(ARRAYS, path)
    return path


@pytest.fixture
def grain() -> Any:
    import grain

    return grain


@pytest.fixture
def datasets() -> Any:
    import datasets

    return datasets


def test_grain_reads_our_datasets(grain: Any, file: Path) -> None:
    with tk.data.open(file) as dataset:
        mapped = grain.MapDataset.source(dataset).shuffle(seed=3).batch(5)
        found = list(mapped)
    assert [batch["x"].shape for batch in found] == [(5, 2)] * 4
    assert sorted(n for batch in found for n in batch["number"].tolist()) == list(range(20))
    for batch in found:
        assert np.array_equal(batch["x"], ARRAYS["x"][batch["number"]])


def test_grain_goes_on_in_the_middle_of_ours(grain: Any, file: Path) -> None:
    with tk.data.open(file) as dataset:

        def iterator() -> Any:
            mapped = grain.MapDataset.source(dataset).shuffle(seed=3).batch(5)
            return iter(mapped.to_iter_dataset())

        first = iterator()
        next(first)
        state = first.get_state()
        rest = [batch["number"].tolist() for batch in first]
        again = iterator()
        again.set_state(state)
        assert [batch["number"].tolist() for batch in again] == rest


def test_grains_dataloader_reads_ours_in_processes(grain: Any, file: Path) -> None:
    with tk.data.open(file) as dataset:
        loader = grain.DataLoader(
            data_source=dataset,
            sampler=grain.samplers.IndexSampler(20, shuffle=True, seed=1, num_epochs=1),
            operations=[grain.transforms.Batch(4)],
            worker_count=0,
        )
        found = [n for batch in loader for n in batch["number"].tolist()]
    assert sorted(found) == list(range(20))


def test_a_grain_dataset_is_a_source(grain: Any) -> None:
    rows = [{"x": row, "number": number} for number, row in enumerate(ARRAYS["x"])]
    mapped = grain.MapDataset.source(rows).map(lambda row: {**row, "x": row["x"] * 2})
    with tk.Batches(mapped, 6, shuffle=True) as batches:
        found = list(batches)
    assert [len(batch["x"]) for batch in found] == [6, 6, 6, 2]
    for batch in found:
        assert np.array_equal(batch["x"], 2 * ARRAYS["x"][batch["number"]])


def hugging_face(datasets: Any, columns: dict[str, list[Any]]) -> Any:
    """Make a dataset whose fingerprint is given: some releases cannot find it out themselves."""
    pyarrow = importlib.import_module("pyarrow")
    return datasets.Dataset(pyarrow.table(columns), fingerprint="0123456789abcdef")


@pytest.mark.parametrize("form", [None, "numpy", "torch"])
def test_a_hugging_face_dataset_is_a_source(datasets: Any, form: str | None) -> None:
    columns = {"x": ARRAYS["x"].tolist(), "number": list(range(20)), "text": list("a" * 20)}
    source = hugging_face(datasets, columns)
    if form is not None:
        source = source.with_format(form)
    with tk.Batches(source, 6, shuffle=True) as batches:
        for batch in batches:
            assert np.array_equal(batch["x"], ARRAYS["x"][batch["number"]])
            assert list(batch["text"]) == ["a"] * len(batch["number"])
        place = batches.state_dict()
    with tk.Batches(source, 6, shuffle=True) as batches:
        batches.load_state_dict(place)
        assert batches.epoch == 1


def test_a_hugging_face_dataset_is_written(datasets: Any, tmp_path: Path) -> None:
    source = hugging_face(datasets, {"x": ARRAYS["x"].tolist(), "number": list(range(20))})
    tk.data.write(source.with_format("numpy"), tmp_path / "train.tar")
    with tk.data.open(tmp_path / "train.tar") as dataset:
        assert np.array_equal(dataset[7]["x"], ARRAYS["x"][7])


def test_hugging_face_reads_our_datasets(datasets: Any, file: Path, tmp_path: Path) -> None:
    with tk.data.open(file) as dataset:
        made = datasets.Dataset.from_generator(
            lambda: (dataset[i] for i in range(len(dataset))), cache_dir=str(tmp_path)
        )
    assert made.with_format("numpy")[3]["x"].tolist() == [6.0, 7.0]
