"""Several datasets are one: the rows of the arrays one behind the other."""

from __future__ import annotations

import os
import pickle
import threading
import weakref
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorkeep as tk
from tensorkeep.data.dataset import Dataset
from tensorkeep.data.ranges import span
from tensorkeep.data.sources import joined, open
from tensorkeep.data.sources.joined import JoinedDataset, Part
from tensorkeep.data.writing import write
from tensorkeep.errors import ArgumentError, CorruptError, MissingError, UnsupportedError


def _files(folder: Path, counts: list[int], width: int = 3) -> list[Path]:
    """Write files whose rows count on from one to the next."""
    paths, start = [], 0
    for number, count in enumerate(counts):
        rows = np.arange(start, start + count)
        paths.append(folder / f"train-{number}.safetensors")
        tk.save({"x": np.repeat(rows[:, None], width, 1), "y": rows}, paths[-1], durable=False)
        start += count
    return paths


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.data())
def test_any_rows_of_any_parts(counts: list[int], data: st.DataObject) -> None:
    total = sum(counts)
    whole = np.arange(2 * total, dtype=np.int16).reshape(total, 2)
    parts = [open({"x": part}) for part in np.split(whole, np.cumsum(counts)[:-1])]
    dataset = JoinedDataset(parts)
    assert len(dataset) == total
    rows = np.array(data.draw(st.lists(st.integers(0, total - 1))) if total else [], np.int64)
    batch = dataset.gather(dataset.check(rows))["x"]
    assert batch.dtype == whole.dtype
    assert batch.tolist() == whole[rows].tolist()
    assert [sample["x"].tolist() for sample in dataset.samples(rows)] == whole[rows].tolist()


def test_names_tell_the_file(tmp_path: Path) -> None:
    paths = _files(tmp_path, [4, 2, 3])
    with open(paths) as dataset:
        assert dataset.name(5) == f"sample 1 of {paths[1]} (sample 5 of all)"
        assert dataset.name(9) == "sample 9"
        assert dataset[-1]["y"] == 8
        assert dataset.fields.keys() == {"x", "y"}


def test_files_of_which_few_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = _files(tmp_path, [3] * 12)
    monkeypatch.setattr(joined, "AT_ONCE", 2)
    before = len(os.listdir("/proc/self/fd"))
    with open(paths) as dataset:
        rows = np.random.default_rng(0).permutation(36)
        assert dataset.gather(rows)["y"].tolist() == rows.tolist()
        assert len(os.listdir("/proc/self/fd")) <= before + 4
        again = pickle.loads(pickle.dumps(dataset))
        assert again.digest == dataset.digest
        again.close()
        assert dataset.verify() == []


def test_threads_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joined, "AT_ONCE", 2)
    dataset = open(_files(tmp_path, [5] * 6))
    wrong: list[Any] = []

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(30):
            rows = rng.integers(0, 30, 8)
            if (dataset.gather(rows)["y"] != rows).any():
                wrong.append(rows)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    dataset.close()


def test_the_order_of_the_parts_counts(tmp_path: Path) -> None:
    one, two = _files(tmp_path, [4, 4])
    assert open([one, two]).digest != open([two, one]).digest
    assert open([one, two]).digest == open([str(one), str(two)]).digest


def test_parts_in_memory_are_sent_to_processes() -> None:
    dataset = JoinedDataset([open({"x": np.arange(3)}), open({"x": np.arange(3, 5)})])
    again = pickle.loads(pickle.dumps(dataset))
    assert again.gather(np.array([4, 0]))["x"].tolist() == [4, 0]
    assert again.digest == dataset.digest


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"x": np.zeros((2, 4))}, r"'x' is float64, \(3,\) in the arrays and float64, \(4,\) in"),
        ({"x": np.zeros((2, 3), "f4")}, r"'x' is float64, \(3,\) in .* and float32, \(3,\) in"),
        ({"z": np.zeros((2, 3))}, "has the fields x, and the arrays z"),
    ],
    ids=["shape", "type", "names"],
)
def test_parts_that_differ(other: dict[str, Any], told: str) -> None:
    with pytest.raises(UnsupportedError, match=told):
        JoinedDataset([open({"x": np.zeros((2, 3))}), open(other)])


def test_parts_that_turn_out_to_differ() -> None:
    dataset = JoinedDataset([open([{"x": np.zeros(3)}]), open([{"x": np.zeros(4)}])])
    with pytest.raises(UnsupportedError, match=r"'x' is float64 of shape \(3,\) in one part, and"):
        dataset.gather(np.array([0, 1]))
    assert [sample["x"].shape for sample in dataset.samples(np.array([1, 0]))] == [(4,), (3,)]


def test_a_part_that_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joined, "AT_ONCE", 1)
    paths = _files(tmp_path, [3, 3, 3])
    dataset = open(paths)
    dataset.gather(np.array([0]))
    tk.save({"x": np.zeros((2, 3), int), "y": np.zeros(2, int)}, paths[2])
    for _ in range(2):  # it is not taken for the part the next time either
        with pytest.raises(CorruptError, match=r"had 3 samples, and has 2 now. It was changed"):
            dataset.gather(np.array([7]))


def test_datasets_that_were_given_stay_open() -> None:
    given = [open({"x": np.arange(3)}), open({"x": np.arange(3, 5)})]
    with open(given) as dataset:
        assert dataset.gather(np.array([4, 0]))["x"].tolist() == [4, 0]
    assert [each[0]["x"] for each in given] == [0, 3]


def test_nothing_to_join() -> None:
    with pytest.raises(ArgumentError, match="there are no datasets to join"):
        JoinedDataset([])


def test_a_part_says_what_is_known_of_it_before_it_is_opened() -> None:
    opened: list[int] = []

    def part(number: int) -> Part:
        def opener() -> Dataset:
            opened.append(number)
            return open({"x": np.full(4, number)})

        fields = open({"x": np.zeros(4, int)}).fields
        return Part(opener, 4, fields, f"part {number}", digest=f"{number:032x}")

    dataset = JoinedDataset([part(number) for number in range(1000)])
    assert len(dataset) == 4000
    assert dataset.digest
    assert opened == []
    assert dataset.gather(np.array([2001, 2002, 8]))["x"].tolist() == [500, 500, 2]
    assert sorted(opened) == [2, 500]


def test_a_missing_file_of_a_list(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="there is no such file"):
        open([*_files(tmp_path, [2]), tmp_path / "gone.npy"])


@pytest.mark.parametrize("ending", ["safetensors", "tar", "npy"])
def test_large_fields_of_all_shards_are_copied_at_once(ending: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 3, 20, 30), np.uint8)
    labels = np.arange(30)
    for part, (start, stop) in enumerate(pairwise((0, 7, 8, 19, 30))):
        own = {"image": images[start:stop], "label": labels[start:stop]}
        if ending == "npy":
            (tmp_path / f"{part}").mkdir()
            for name, array in own.items():
                np.save(tmp_path / f"{part}" / f"{name}.npy", array)
        else:
            write(own, tmp_path / f"{part}.{ending}")
    parts = sorted(tmp_path.glob("?" if ending == "npy" else f"?.{ending}"))
    with open([str(part) for part in parts]) as dataset:
        wanted: list[list[int]] = [rng.permutation(30).tolist(), [29, 0, 29, 7, 8], [7, 7], []]
        for rows in wanted:
            numbers = np.array(rows, np.int64)
            batch = dataset.gather(numbers)
            assert list(batch) == ["image", "label"]
            assert np.array_equal(batch["image"], images[numbers])
            assert np.array_equal(batch["label"], labels[numbers])
            assert batch["image"].flags.writeable


def test_looking_at_all_shards_holds_on_to_nothing() -> None:
    views = [np.zeros(5000, np.uint8) for _ in range(3)]
    gone = [weakref.ref(view) for view in views]
    whole, begins = span(views)
    assert [int(whole[begin]) for begin in begins] == [0, 0, 0]
    del views, whole
    assert [one() for one in gone] == [None, None, None]
