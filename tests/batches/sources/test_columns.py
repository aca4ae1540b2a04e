"""Columns of nested lists as samples: Caffe2's batches, any format, and random schemas."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.caffe2.golden_cases import DATA
from tests.wire.caffe2.test_columns import columns_of, datasets

import tensorkeep as tk
from tensorkeep.caffe2 import save
from tensorkeep.data.dataset import Field
from tensorkeep.data.sources.columns import (
    ColumnsDataset,
    are_columns,
    of_columns,
    open_columns,
    recognises,
)
from tensorkeep.errors import (
    ArgumentError,
    ClosedError,
    CorruptError,
    MissingError,
    TensorKeepError,
    UnsupportedError,
)
from tensorkeep.state import State
from tensorkeep.tensor import Tensor

GOLDEN = str(DATA / "dataset.minidb")
ENTRIES = json.loads((DATA / "MANIFEST.json").read_text())["entries"]
(ENTRY,) = (entry for entry in ENTRIES if entry["file"] == "dataset.minidb")
NESTED: dict[str, Any] = {
    "b": np.arange(3, dtype=np.float32),
    "m:keys": np.array([7, 8, 9]),
    "m:lengths": np.array([1, 0, 2], np.int32),
    "m:values:lengths": np.array([2, 0, 1], np.int32),
    "m:values:values": np.array([[1, 1], [2, 2], [3, 3]]),
    "t": np.array(["x", "", "zé"], object),
}


def rows(*numbers: int) -> Any:
    return np.array(numbers, np.int64)


def lists(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: values.tolist() for name, values in batch.items()}


@pytest.mark.parametrize("run", [run for run in ENTRY["runs"] if not run["enforce_batch_size"]])
def test_what_caffe2_read(run: dict[str, Any]) -> None:
    arrays = np.load(DATA / "dataset_batches.npz")
    with open_columns(GOLDEN) as dataset:
        for index, batch in enumerate(run["batches"]):
            start = index * run["batch_size"]
            found = dataset.gather(np.arange(min(start, 5), min(start + run["batch_size"], 5)))
            for (name, values), row in zip(found.items(), batch, strict=True):
                assert row["name"] == f"out:{name}"
                assert values.dtype == row["dtype"]
                assert values.tobytes() == arrays[row["npz"]].tobytes()


def test_the_fields_of_a_file() -> None:
    with open_columns(GOLDEN) as dataset:
        assert len(dataset) == 5
        assert dataset.fields == {
            "a:lengths": Field("int32", ()),
            "a:values": Field("int64", None),
            "b": Field("float32", ()),
        }
        assert dataset[1]["a:values"].tolist() == [3, 45]
        assert dataset[-3]["a:values"].tolist() == []
        assert dataset[1]["a:lengths"] == 2
        assert dataset.verify() == []
    with pytest.raises(ClosedError):
        dataset.check([0])


@pytest.mark.parametrize("ending", ["safetensors", "npz", "minidb", "lmdb", "sqlite", "h5"])
def test_any_format(tmp_path: Path, ending: str) -> None:
    path = f"{tmp_path}/data.{ending}"
    plain = {name: array for name, array in NESTED.items() if name != "t"}
    tk.save(plain, path)
    assert recognises(path)
    with open_columns(path) as dataset, of_columns(plain) as same:
        assert len(dataset) == 3
        for chosen in (rows(0, 1, 2), rows(2, 0, 2), rows(1), rows()):
            assert lists(dataset.gather(chosen)) == lists(same.gather(chosen))
        assert dataset[2]["m:values:values"].tolist() == [[3, 3]]
        again = pickle.loads(pickle.dumps(dataset))
        assert again.digest == dataset.digest
        assert lists(again.gather(rows(2))) == lists(dataset.gather(rows(2)))
        again.close()


def test_lists_in_lists_maps_and_text() -> None:
    dataset = of_columns(NESTED)
    assert lists(dataset.gather(rows(2, 0))) == {
        "b": [2, 0],
        "m:keys": [8, 9, 7],
        "m:lengths": [2, 1],
        "m:values:lengths": [0, 1, 2],
        "m:values:values": [[3, 3], [1, 1], [2, 2]],
        "t": ["zé", "x"],
    }
    first, none = dataset.samples(rows(0, 1))
    assert (first["t"], first["m:values:values"].tolist()) == ("x", [[1, 1], [2, 2]])
    assert none["m:values:values"].shape == (0, 2)
    assert dataset.samples(rows()) == []


def test_batches_are_the_callers_own() -> None:
    for dataset in (of_columns(NESTED), open_columns(GOLDEN)):
        for chosen in (rows(0, 1), rows(1, 0)):
            before = lists(dataset.gather(chosen))
            for values in dataset.gather(chosen).values():
                values[...] = 0
            assert lists(dataset.gather(chosen)) == before


@given(datasets(), st.lists(st.integers(0, 4), max_size=8), st.booleans())
@settings(max_examples=60, deadline=None)
def test_random_schemas(dataset: Any, numbers: list[int], reverse: bool) -> None:
    names, given_rows = dataset
    chosen = [number for number in numbers if number < len(given_rows)]
    arrays = {
        name: np.array(column, np.int32)
        for name, column in zip(names, columns_of(names, given_rows), strict=True)
    }
    order = sorted(names, reverse=reverse)
    columns = of_columns({name: arrays[name] for name in order})
    assert len(columns) == len(given_rows)
    for some in (chosen, sorted(set(chosen)), range(len(given_rows))):
        batch = columns.gather(np.array([*some], np.int64))
        expected = columns_of(order, [given_rows[i] for i in some])
        assert [batch[name].tolist() for name in order] == expected
    for number, sample in enumerate(columns.samples(np.arange(len(given_rows)))):
        for name in order:
            assert np.atleast_1d(sample[name]).tolist() == given_rows[number][name]


def test_some_fields() -> None:
    dataset = of_columns(NESTED, ["m:values:values", "b"])
    assert list(dataset.fields) == ["m:values:values", "b"]
    assert lists(dataset.gather(rows(0))) == {"m:values:values": [[1, 1], [2, 2]], "b": [0]}
    assert list(pickle.loads(pickle.dumps(dataset)).gather(rows(0))) == ["m:values:values", "b"]
    assert dataset.digest != of_columns(NESTED).digest
    extra = of_columns(NESTED | {"step": np.int64(3)}, ["b"])
    assert len(extra) == 3
    with pytest.raises(MissingError, match=r"has no field 'bb'.*b"):
        of_columns(NESTED, ["bb"])
    with pytest.raises(UnsupportedError, match=r"'step' is a scalar, and so has no rows"):
        of_columns(NESTED | {"step": np.int64(3)})


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"m:lengths": [1, 0, 1]}, "'m:lengths' adds up to 2, and 'm:keys' has 3 elements"),
        ({"m:lengths": [1, 1, 2]}, "'m:lengths' adds up to 4, and 'm:keys' has 3 elements"),
        ({"m:lengths": [-1, 2, 2]}, "'m:lengths' has a length of -1"),
        ({"m:lengths": [1, 0]}, "'m:lengths' has 2 elements, and 'b' has 3"),
        ({"m:keys": [7, 8]}, "'m:keys' has 2 elements, and 'm:values:lengths' has 3"),
        ({"m:values:values": [[1, 1]] * 4}, "'m:values:lengths' adds up to 3, and .* has 4"),
        ({"m:lengths": np.array([2**63, 2**63, 3], np.uint64)}, ".* or more, and 'm:keys' has 3"),
        ({"m:lengths": np.array([2**62] * 3)}, ".* or more, and 'm:keys' has 3"),
    ],
)
def test_inconsistent_lengths(changed: dict[str, Any], problem: str, tmp_path: Path) -> None:
    changed = {name: np.array(array) for name, array in changed.items()}
    tk.save(NESTED | changed, tmp_path / "x.safetensors")
    with pytest.raises(CorruptError, match=rf"x\.safetensors: {problem}"):
        open_columns(str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"a:lengths": np.ones(2), "a:values": np.ones(2)}, "is float64 of shape"),
        ({"a:lengths": np.ones((2, 1), int), "a:values": np.ones(2)}, r"int64 of shape \(2, 1\)"),
        ({"a:lengths": np.ones((2**40, 0), int), "a:values": np.ones(0)}, "not one element"),
    ],
)
def test_lengths_that_are_none(arrays: dict[str, Any], problem: str) -> None:
    with pytest.raises(UnsupportedError, match=problem):
        of_columns(arrays)
    tensors = {name: Tensor.of(array) for name, array in arrays.items()}
    assert not are_columns(tensors)
    with pytest.raises(ArgumentError, match="lies in itself"):
        of_columns({"q:lengths": np.ones(1, int), "q:lengths:lengths": np.ones(1, int)})


def test_an_empty_dataset() -> None:
    dataset = of_columns({"a:lengths": np.zeros(0, np.int32), "a:values": np.zeros((0, 2))})
    assert len(dataset) == 0
    assert dataset.gather(rows())["a:values"].shape == (0, 2)


def test_what_is_recognised(tmp_path: Path) -> None:
    assert recognises(GOLDEN)
    for name in ("tensorprotos.minidb", "dtypes.minidb", "MANIFEST.json", "nothing", "cases"):
        assert not recognises(str(DATA / name))
    tk.save({"a:lengths": np.array([1]), "b": np.array([1])}, tmp_path / "x.npz")
    assert not recognises(str(tmp_path / "x.npz")), "they are the lengths of nothing"
    (tmp_path / "empty").touch()
    assert not recognises(str(tmp_path / "empty"))


def test_digests_tell_data_apart(tmp_path: Path) -> None:
    def digest(name: str, **changed: Any) -> str:
        tk.save(NESTED | changed, tmp_path / name)
        with open_columns(str(tmp_path / name)) as dataset:
            return dataset.digest

    one = digest("one.safetensors")
    assert len(one) == 32
    assert digest("two.safetensors") == one
    assert digest("three.safetensors", b=np.ones(3, np.float32)) != one
    memory = of_columns(NESTED).digest
    assert memory == of_columns(dict(NESTED)).digest
    other = NESTED | {"m:lengths": np.array([0, 1, 2], np.int32)}
    assert of_columns(other).digest != memory


def test_values_stay_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tensorkeep.data.sources.columns._KEPT_FOR_ROWS", 1 << 20)
    values = np.arange(3_000_000, dtype=np.int64)
    lengths = np.full(1000, 3000, np.int32)
    data = {"a:lengths": lengths, "a:values": values, "a:x": values.astype(np.float32)}
    save(data, tmp_path / "large.minidb")
    with open_columns(str(tmp_path / "large.minidb")) as dataset:
        assert isinstance(dataset, ColumnsDataset)
        batch = dataset.gather(rows(999, 3))
        expected = np.r_[2_997_000:3_000_000, 9000:12000]
        assert np.array_equal(batch["a:values"], expected)
        assert np.array_equal(batch["a:x"], expected)
        assert np.array_equal(dataset.gather(rows(3, 4))["a:values"], np.arange(9000, 15000))
        assert dataset._held.keys() == {"a:lengths"}, "the large ones are not kept"


def test_damage_is_named(tmp_path: Path) -> None:
    tk.save(NESTED, tmp_path / "x.safetensors")
    data = bytearray((tmp_path / "x.safetensors").read_bytes())
    at = data.rindex(NESTED["m:values:values"].tobytes())
    data[at] ^= 1
    (tmp_path / "x.safetensors").write_bytes(data)
    with open_columns(str(tmp_path / "x.safetensors")) as dataset:
        (problem,) = dataset.verify()
        assert "the column 'm:values:values' is damaged" in problem


def test_every_bit_of_a_small_file(tmp_path: Path) -> None:
    data = Path(GOLDEN).read_bytes()
    path = tmp_path / "x.minidb"
    for bit in range(0, 8 * len(data), 11):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            with open_columns(str(path)) as dataset:
                dataset.gather(np.arange(len(dataset)))
        except TensorKeepError:
            pass


def test_several_files_as_one(tmp_path: Path) -> None:
    lengths, texts = np.array([2, 0, 1, 3], np.int32), np.array(list("abcdef"), object)
    tk.save({"a:lengths": lengths, "a:values": texts, "b": np.arange(4)}, tmp_path / "1.npz")
    ones = np.ones(3, np.int32)
    tk.save({"a:lengths": ones, "a:values": texts[:3], "b": np.arange(4, 7)}, tmp_path / "2.npz")
    with tk.data.open([tmp_path / "1.npz", tmp_path / "2.npz"]) as dataset:
        batch = dataset.gather(rows(6, 3, 1, 4))
        assert dataset.flat == {"a:values"}
        samples = [sample["a:values"].tolist() for sample in dataset.samples(rows(6, 3, 1, 4))]
        assert samples == [["c"], ["d", "e", "f"], [], ["a"]]
    assert {name: values.tolist() for name, values in batch.items()} == {
        "a:lengths": [1, 3, 0, 1],
        "a:values": ["c", "d", "e", "f", "a"],
        "b": [6, 3, 1, 4],
    }


def test_a_state_stays_open() -> None:
    state = State({name: Tensor.of(array) for name, array in NESTED.items()}, where="it")
    with of_columns(state) as dataset:
        assert dataset.where == "it"
    assert state["b"].numpy().tolist() == [0, 1, 2]
