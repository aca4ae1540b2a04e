"""Whatever has a length and gives samples by number."""

from __future__ import annotations

import pickle
from collections import namedtuple
from typing import Any

import numpy as np
import pytest

from tensorkeep.data.sources import open
from tensorkeep.data.sources.sequence import SequenceDataset
from tensorkeep.errors import ArgumentError, MissingError, SampleError, UnsupportedError


class Squares:
    """As a torch Dataset is written."""

    def __init__(self, count: int = 5) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        if index == 3:
            raise ValueError("no third one")
        return np.full((2,), index, np.float32), index * index


class Many:
    """As a Hugging Face dataset gives many at once."""

    _fingerprint = "3f2a"

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"text": f"line {index}", "label": index}

    def __getitems__(self, rows: list[int]) -> list[dict[str, Any]]:
        self.asked.append(rows)
        return [self[row] for row in rows]


Pair = namedtuple("Pair", "image label")


@pytest.mark.parametrize(
    ("items", "names"),
    [
        ([{"x": 1, "y": 2.5}] * 3, ["x", "y"]),
        ([(1, "a")] * 3, ["0", "1"]),
        ([[1, 2]] * 3, ["0", "1"]),
        ([Pair(np.zeros(2), 1)] * 3, ["image", "label"]),
        ([np.zeros((2, 2))] * 3, ["data"]),
        ([1, 2, 3], ["data"]),
        (range(3), ["data"]),
    ],
    ids=["dicts", "tuples", "lists", "named tuples", "arrays", "numbers", "range"],
)
def test_forms_of_samples(items: Any, names: list[str]) -> None:
    dataset = open(items)
    assert list(dataset.fields) == names
    batch = dataset.gather(np.array([2, 0]))
    assert list(batch) == names
    assert all(len(values) == 2 for values in batch.values())
    assert dataset.verify() == []


def test_values_are_stacked_and_fields_chosen() -> None:
    dataset = open(Squares(), fields=["1"])
    assert dataset.gather(np.array([4, 2, 2]))["1"].tolist() == [16, 4, 4]
    with pytest.raises(MissingError, match=r"sample 0: has no field 'x'. It has 0, 1\."):
        open(Squares(), fields=["x"])


def test_an_error_names_the_sample() -> None:
    dataset = open(Squares())
    with pytest.raises(SampleError, match="sample 3 cannot be read: ValueError: no third") as told:
        dataset.gather(np.array([1, 3]))
    assert isinstance(told.value.__cause__, ValueError)
    assert len(dataset.verify()) == 1


def test_many_are_asked_for_at_once() -> None:
    items = Many()
    dataset = open(items)
    batch = dataset.gather(np.array([7, 1, 4]))
    assert items.asked == [[7, 1, 4]]
    assert batch["text"].tolist() == ["line 7", "line 1", "line 4"]
    assert dataset.digest == open(Many()).digest
    items._fingerprint = "other"
    assert open(items).digest != dataset.digest


def test_an_error_among_many_names_the_sample() -> None:
    class Failing(Many):
        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"x": 1 // (index - 4)}

    with pytest.raises(SampleError, match="sample 4 cannot be read: ZeroDivisionError"):
        open(Failing()).gather(np.array([1, 4, 5]))

    class Short(Many):
        def __getitems__(self, rows: list[int]) -> list[dict[str, Any]]:
            return []

    with pytest.raises(SampleError, match="__getitems__ gave 0 samples for 2 numbers"):
        open(Short()).gather(np.array([1, 4]))


def test_samples_that_differ_make_no_batch() -> None:
    dataset = open([{"x": np.zeros(2)}, {"x": np.zeros(3)}, {"y": 1}])
    with pytest.raises(UnsupportedError, match=r"shape \(2,\) in sample 0 and \(3,\) in sample 1"):
        dataset.gather(np.array([0, 1]))
    with pytest.raises(UnsupportedError, match="sample 0 has the fields x, and sample 2 y"):
        dataset.gather(np.array([0, 2]))
    assert [sample["x"].shape for sample in dataset.samples(np.array([1, 0]))] == [(3,), (2,)]


def test_samples_that_would_lose_something() -> None:
    with pytest.raises(SampleError, match="sample 0 has two fields called '1'"):
        open([{1: 2, "1": 3}])
    masked = open([{"x": np.ma.masked_equal([1, 2], 2)}])
    with pytest.raises(UnsupportedError, match="'x' of sample 0 is a masked array"):
        masked.gather(np.array([0]))


@pytest.mark.parametrize("length", [-1, 10**30])
def test_a_length_that_is_none(length: int) -> None:
    class Wrong(Squares):
        def __len__(self) -> int:
            return length

    with pytest.raises(SampleError, match="its length cannot be told"):
        open(Wrong())


def test_samples_are_the_callers_own() -> None:
    held = [{"x": np.zeros(2)}]
    dataset = open(held)
    dataset[0]["x"][:] = 1
    dataset.gather(np.array([0]))["x"][:] = 1
    assert held[0]["x"].tolist() == [0, 0]


def test_the_digest_of_a_list_is_of_its_samples() -> None:
    def listed(changed: float = 0) -> list[dict[str, Any]]:
        return [{"x": np.array([i, changed]), "t": f"{i}"} for i in range(40)]

    one = open(listed())
    assert one.digest == open(listed()).digest
    assert one.digest != open(listed(1)).digest
    assert one.digest != open(listed()[:39]).digest
    assert open([]).digest == open([]).digest


def test_the_digest_of_an_object_runs_none_of_its_code() -> None:
    class Random(Squares):
        def __getitem__(self, index: int) -> Any:
            return {"x": np.random.default_rng().random(3)}

    assert open(Random()).digest == open(Random()).digest
    assert open(Random()).digest != open(Random(6)).digest
    named = Random()
    named.digest = "of mine"  # type: ignore[attr-defined]
    assert open(named).digest != open(Random()).digest


def test_goes_to_processes() -> None:
    dataset = open(Squares(3), fields=["1"])
    again = pickle.loads(pickle.dumps(dataset))
    assert again.gather(np.array([2]))["1"].tolist() == [4]
    assert isinstance(again, SequenceDataset)


def test_empty() -> None:
    dataset = open([])
    assert len(dataset) == 0
    assert dataset.gather(np.zeros(0, np.int64)) == {}
    assert dataset.verify() == []
    with pytest.raises(ArgumentError, match="there is no sample 0: it has 0"):
        dataset[0]


@pytest.mark.parametrize("what", [iter([1]), 7, None, {1, 2}], ids=lambda what: type(what).__name__)
def test_what_gives_no_samples_by_number(what: Any) -> None:
    with pytest.raises(ArgumentError, match=r"gives no samples by number. Give a path, a dict"):
        open(what)
