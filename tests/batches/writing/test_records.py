"""Where samples come from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.batches.writing.samples import IMAGES, check, sample, samples

import tensorkeep as tk
from tensorkeep import errors
from tensorkeep.data import sources
from tensorkeep.data.writing import write
from tensorkeep.data.writing.records import open_records


class Indexed:
    """A dataset as PyTorch has them."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, i: int) -> dict[str, Any]:
        return sample(i)


COLUMNS = {
    "image": IMAGES[:7],
    "label": [i * 7 % 10 for i in range(7)],
    "weight": np.arange(7, dtype=np.float32) / 2,
}


@pytest.mark.parametrize(
    ("records", "total"),
    [
        (lambda: samples(), 0),
        (lambda: list(samples()), 7),
        (lambda: tuple(samples()), 7),
        (lambda: COLUMNS, 7),
        (lambda: lambda start: samples(7, start), 0),
        (lambda: Indexed(), 7),
    ],
)
def test_all_of_them(records: Any, total: int, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write(records(), tmp_path / "a.tar", progress=lambda done, all: seen.append((done, all)))
    check(tmp_path / "a.tar")
    assert seen == [(i, total) for i in range(1, 8)]
    found, count = open_records(records(), 5)
    assert [int(s["label"]) for s in found] == [5, 2]
    assert count == total


def test_a_dataset_and_a_state(tmp_path: Path) -> None:
    write(samples(), tmp_path / "a.minidb")
    with sources.open(tmp_path / "a.minidb") as dataset:
        write(dataset, tmp_path / "a.safetensors", shard_samples=2)
        check(tmp_path / "a.safetensors")
        found, count = open_records(dataset, 6)
        assert (len(list(found)), count) == (1, 7)
    write(samples(), tmp_path / "b.npz")
    with tk.open(tmp_path / "b.npz") as state:
        write(state, tmp_path / "b.tar")
    check(tmp_path / "b.tar")


def test_texts_of_a_dict(tmp_path: Path) -> None:
    write({"t": ["a\0", "b"], "u": np.array(["x", "yy"])}, tmp_path / "a.npz")
    found = tk.load(tmp_path / "a.npz")
    assert list(found["t"]) == ["a\0", "b"]
    assert list(found["u"]) == ["x", "yy"]


def test_a_buffer_that_is_used_again(tmp_path: Path) -> None:
    """Nothing of a sample is looked at once the next one is asked for."""

    def same() -> Iterator[dict[str, Any]]:
        buffer = np.zeros(1000, np.float32)
        for i in range(20):
            buffer[:] = i
            yield {"x": buffer}

    for ending in ("tar", "npz", "lmdb", "minidb", "sqlite"):
        path = tmp_path / f"a.{ending}"
        write(same(), path)
        with sources.open(path) as dataset:
            batch = dataset.gather(dataset.check(np.arange(20)))
            assert batch["x"][:, 7].tolist() == list(range(20)), ending


@pytest.mark.parametrize(
    ("records", "text"),
    [
        ("train.lmdb", "not the path"),
        (7, "gives no samples"),
        (lambda start: 3, "gave a int"),
        ({"a": [1, 2], "b": [1]}, "'a' has 2, 'b' has 1"),
        ({"a": 3}, "'a' is a int"),
        ({"a": "text"}, "'a' is a str"),
        ({"a": np.array(3)}, "scalar"),
        ([], "no samples"),
        (iter([]), "no samples"),
        ({}, "no samples"),
    ],
)
def test_what_gives_no_samples(records: Any, text: str, tmp_path: Path) -> None:
    for shard_samples in (None, 2):
        with pytest.raises(errors.ArgumentError, match=text):
            write(records, tmp_path / "a.tar", shard_samples=shard_samples)
        assert list(tmp_path.iterdir()) == []


def test_fewer_than_were_written() -> None:
    for records in ([1, 2], {"a": [1, 2]}, iter([1, 2])):
        with pytest.raises(errors.ArgumentError, match="2 samples, and 3 were written"):
            list(open_records(records, 3)[0])  # type: ignore[arg-type]
