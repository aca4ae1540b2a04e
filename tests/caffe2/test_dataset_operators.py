"""Column datasets: the batches that Caffe2 read, and random schemas against lists of Python."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.caffe2.golden_cases import DATA
from tests.wire.caffe2.test_columns import columns_of, datasets

from tensorkeep import dtypes
from tensorkeep.caffe2 import TreeCursor, Workspace, create_operator, gradient_of, save
from tensorkeep.caffe2.shuffle import shuffled
from tensorkeep.errors import ArgumentError, CorruptError, TensorKeepError, UnsupportedError
from tensorkeep.source import MemorySource
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.values import TENSOR, TREE_CURSOR, Blob

ENTRIES = json.loads((DATA / "MANIFEST.json").read_text())["entries"]
(GOLDEN,) = (entry for entry in ENTRIES if entry["file"] == "dataset.minidb")
FIELDS = ["a:lengths", "a:values", "b"]
OUT = ["out:a:lengths", "out:a:values", "out:b"]
SAVED: dict[str, Any] = {"db_type": "minidb", "absolute_path": 1}


def run(ws: Workspace, kind: str, inputs: Any = (), outputs: Any = (), **given: Any) -> None:
    assert ws.run(create_operator(kind, inputs, outputs, **given))


@pytest.fixture
def ws() -> Workspace:
    """Five rows, with a cursor before the first one."""
    ws = Workspace()
    run(ws, "Load", [], FIELDS, db=str(DATA / "dataset.minidb"), **SAVED)
    run(ws, "CreateTreeCursor", [], ["cursor"], fields=FIELDS)
    return ws


def next_batch(ws: Workspace, **given: Any) -> list[list[Any]]:
    run(ws, "ReadNextBatch", ["cursor", *FIELDS], OUT, **given)
    return [ws.fetch(name).tolist() for name in OUT]


@pytest.mark.parametrize("golden", GOLDEN["runs"])
def test_what_caffe2_read(ws: Workspace, golden: dict[str, Any]) -> None:
    arrays = np.load(DATA / "dataset_batches.npz")
    given = {name: golden[name] for name in ("batch_size", "enforce_batch_size")}
    for _ in range(2):
        for batch in golden["batches"]:
            next_batch(ws, **given)
            for row in batch:
                found = ws.fetch(row["name"])
                assert found.dtype == row["dtype"]
                assert found.shape == tuple(row["shape"])
                assert found.tobytes() == arrays[row["npz"]].tobytes()
        run(ws, "ResetCursor", ["cursor"])


def test_a_saved_cursor_goes_on(ws: Workspace, tmp_path: Path) -> None:
    assert ws.fetch("cursor") == TreeCursor(None, FIELDS)
    assert next_batch(ws, batch_size=2)[1] == [22, 3, 45]
    run(ws, "GetCursorOffset", ["cursor"], ["offsets"])
    assert ws.fetch("offsets").tolist() == [2, 3]
    assert ws.fetch("offsets").dtype == np.int32
    run(ws, "Save", ["cursor"], db=str(tmp_path / "c.minidb"), **SAVED)
    expected = next_batch(ws, batch_size=2)
    run(ws, "Load", [], ["cursor"], db=str(tmp_path / "c.minidb"), **SAVED)
    assert next_batch(ws, batch_size=2) == expected
    run(ws, "ResetCursor", ["cursor"])
    run(ws, "GetCursorOffset", ["cursor"], ["offsets"])
    assert ws.fetch("offsets").tolist() == []


def test_cursors_that_caffe2_saved(ws: Workspace) -> None:
    saved = ["cursor", "cursor_moved"]
    run(ws, "Load", [], saved, db=str(DATA / "other_blobs.minidb"), **SAVED)
    fields = ws.fetch("cursor_moved").fields
    columns = {"a:lengths": "a:lengths", "a:values": "a:values", "b": "b"}
    names = [columns.get(field, "b") for field in fields]
    run(ws, "ReadNextBatch", ["cursor_moved", *names], [f"{n}_" for n in fields], batch_size=9)
    run(ws, "GetCursorOffset", ["cursor_moved"], ["offsets"])
    assert ws.fetch("offsets").tolist()[0] == 5


def feed(ws: Workspace, names: list[str], columns: list[Any]) -> list[str]:
    for name, column in zip(names, columns, strict=True):
        kind = np.int32 if name.endswith("lengths") else np.int64
        ws.feed(name, np.array(column, kind))
    run(ws, "CreateTreeCursor", [], ["cursor"], fields=names)
    return [f"out {name}" for name in names]


@given(datasets(), st.integers(1, 4), st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_random_schemas(dataset: Any, batch: int, whole: bool, random: Any) -> None:
    names, rows = dataset
    ws = Workspace()
    outputs = feed(ws, names, columns_of(names, rows))
    run(ws, "CheckDatasetConsistency", names, fields=names)
    sizes: dict[str, int] = {"batch_size": batch, "enforce_batch_size": int(whole)}

    def expected(start: int, order: list[int]) -> list[list[int]]:
        chosen = [rows[i] for i in order[start : start + batch]]
        return columns_of(names, [] if whole and len(chosen) < batch else chosen)

    for start in range(0, len(rows) + batch, batch):
        run(ws, "ReadNextBatch", ["cursor", *names], outputs, **sizes)
        assert [ws.fetch(name).tolist() for name in outputs] == expected(start, [*range(len(rows))])
    run(ws, "ResetCursor", ["cursor"])
    run(ws, "ComputeOffset", ["cursor", *names], ["offsets"])
    order = list(range(len(rows)))
    random.shuffle(order)
    ws.feed("order", np.array(order, np.int64))
    for start in range(0, len(rows) + batch, batch):
        run(ws, "ReadRandomBatch", ["cursor", "order", "offsets", *names], outputs, **sizes)
        assert [ws.fetch(name).tolist() for name in outputs] == expected(start, order)
    run(ws, "PackRecords", names, ["packed"], fields=names)
    run(ws, "UnPackRecords", ["packed", *names], outputs, fields=names)
    assert [ws.fetch(name).tolist() for name in outputs] == columns_of(names, rows)
    run(ws, "TrimDataset", names, names, fields=names, multiple_of=batch)
    kept = rows[: len(rows) // batch * batch]
    assert [ws.fetch(name).tolist() for name in names] == columns_of(names, kept)
    run(ws, "CheckDatasetConsistency", names, fields=names)


def test_text_columns(tmp_path: Path) -> None:
    texts = np.array([[b"a", b"bb"], [b"", b"c\xff"], [b"d", b"e"], [b"f", b"g"]], object)
    save({"a:lengths": np.array([2, 0, 1, 1], np.int32), "a:t": texts}, tmp_path / "t.minidb")
    ws = Workspace()
    names = ["a:lengths", "a:t"]
    run(ws, "Load", [], names, db=str(tmp_path / "t.minidb"), **SAVED)
    run(ws, "CreateTreeCursor", [], ["cursor"], fields=names)
    run(ws, "ReadNextBatch", ["cursor", *names], ["n", "t"], batch_size=1)
    assert ws.fetch("t").tolist() == texts[:2].tolist()
    run(ws, "ResetCursor", ["cursor"])
    run(ws, "ComputeOffset", ["cursor", *names], ["offsets"])
    ws.feed("order", np.array([3, 0, 1]))
    run(ws, "ReadRandomBatch", ["cursor", "order", "offsets", *names], ["n", "t"], batch_size=3)
    assert ws.fetch("t").tolist() == texts[[3, 0, 1]].tolist()
    run(ws, "PackRecords", names, ["packed"], fields=names)
    run(ws, "UnPackRecords", ["packed"], ["n", "t"], fields=names)
    assert ws.fetch("t").tolist() == texts.tolist()
    run(ws, "Append", ["t", "a:t"], ["t"])
    assert ws.fetch("t").tolist() == [*texts.tolist(), *texts.tolist()]


def test_offsets_from_where_the_cursor_is(ws: Workspace) -> None:
    run(ws, "ComputeOffset", ["cursor", *FIELDS], ["offsets"])
    assert ws.fetch("offsets").tolist() == [[0, 0], [1, 1], [2, 3], [3, 3], [4, 6], [5, 7]]
    next_batch(ws, batch_size=3)
    run(ws, "ComputeOffset", ["cursor", *FIELDS], ["offsets"])
    assert ws.fetch("offsets").tolist() == [[3, 3], [4, 6], [5, 7], [5, 7], [5, 7], [5, 7]]
    run(ws, "GetCursorOffset", ["cursor"], ["offsets"])
    assert ws.fetch("offsets").tolist() == [0, 0]


def test_random_batches_loop(ws: Workspace) -> None:
    run(ws, "ComputeOffset", ["cursor", *FIELDS], ["offsets"])
    ws.feed("order", np.array([4, 3, 2, 1, 0]))
    read: dict[str, Any] = {"batch_size": 2, "loop_over": 1}

    def lengths(**given: Any) -> list[int]:
        inputs = ["cursor", "order", "offsets", *FIELDS]
        run(ws, "ReadRandomBatch", inputs, OUT, **read, **given)
        return list(ws.fetch(OUT[0]))

    assert [lengths() for _ in range(4)] == [[1, 3], [0, 2], [1], [1, 3]]
    run(ws, "ResetCursor", ["cursor"])
    assert [lengths(enforce_batch_size=1) for _ in range(3)] == [[1, 3], [0, 2], [1, 3]]
    with pytest.raises(ArgumentError, match=r"has 1 offsets, and the dataset 2 lists\. Reset"):
        next_batch(ws)


@pytest.mark.parametrize(
    ("count", "start"),
    [
        (1, [0]),
        (2, [1, 0]),
        (3, [2, 0, 1]),
        (5, [3, 0, 4, 2, 1]),
        (13, [3, 0, 11, 10, 5, 9, 8, 6]),
        (1000, [502, 870, 164]),
        (46341, [7657, 15610, 35781]),
    ],
)
def test_the_shuffle_of_gnus_library(count: int, start: list[int]) -> None:
    order = shuffled(count)
    assert order[: len(start)].tolist() == start
    assert sorted(order.tolist()) == list(range(count))


def test_sorting_and_shuffling() -> None:
    ws = Workspace()
    feed(ws, ["x", "k"], [range(12), range(12)])
    ws.feed("k", np.arange(12, dtype=np.int32)[::-1].copy())
    columns = ["cursor", "x", "k"]
    run(ws, "SortAndShuffle", columns, ["order"], batch_size=2, shuffle_size=3)
    order = ws.fetch("order")
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(12))
    pairs = order.reshape(-1, 2)
    assert ((pairs[:, 0] < 6) == (pairs[:, 1] < 6)).all(), "batches are of one part"
    run(ws, "SortAndShuffle", columns, ["one"], batch_size=12)
    assert ws.fetch("one").tolist() == list(range(11, -1, -1)), "a last part is left as it is"
    run(ws, "SortAndShuffle", columns, ["rest"], sort_by_field_idx=-1, batch_size=5)
    assert ws.fetch("rest").tolist()[10:] == [10, 11]
    run(ws, "SortAndShuffle", columns, ["large"], batch_size=20, shuffle_size=9)
    assert ws.fetch("large").tolist() == list(range(11, -1, -1))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"sort_by_field_idx": 1}, "'a:values', which is in a list"),
        ({"sort_by_field_idx": 2}, "'b', which is float32 of shape"),
        ({"sort_by_field_idx": 3}, "is 3, of 3 fields"),
        ({"sort_by_field_idx": -2}, "is -2, of 3 fields"),
        ({"batch_size": 0}, "batch_size of 0"),
    ],
)
def test_orders_that_cannot_be(ws: Workspace, given: dict[str, int], problem: str) -> None:
    with pytest.raises(ArgumentError, match=problem):
        run(ws, "SortAndShuffle", ["cursor", *FIELDS], ["order"], **given)


def test_appending() -> None:
    ws = Workspace()
    ws.feed("a", np.zeros((0, 3), np.int64))
    expected = np.zeros((0, 3), np.int64)
    kept = []
    for i in range(40):
        more = np.full((i % 4, 3), i)
        ws.feed("more", more)
        run(ws, "Append", ["a", "more"], ["a"])
        expected = np.concatenate([expected, more])
        kept.append((ws.blob("a").value, expected))
    for tensor, array in kept:
        assert np.array_equal(tensor.numpy(), array), "tensors do not change"
    ws.set("b", ws.blob("a"))
    for name in "ab":  # both from one memory: the second must not see the first's rows
        ws.feed("more", np.full((2, 3), ord(name)))
        run(ws, "Append", [name, "more"], [name])
    assert ws.fetch("a")[-1].tolist() == [97] * 3
    assert ws.fetch("b")[-1].tolist() == [98] * 3
    run(ws, "Append", ["a", "a"], ["a"])
    assert len(ws.fetch("a")) == 2 * len(expected) + 4


def test_appending_what_does_not_fit() -> None:
    ws = Workspace()
    ws.feed("a", np.zeros((2, 3)))
    ws.feed("b", np.zeros((2, 4)))
    ws.feed("c", np.float32(1))
    ws.feed("text", b"x")
    with pytest.raises(UnsupportedError, match=r"float64 \(4,\) cannot follow rows of"):
        run(ws, "Append", ["a", "b"], ["a"])
    with pytest.raises(ArgumentError, match="'c' is a scalar, and has no rows"):
        run(ws, "Append", ["a", "c"], ["a"])
    with pytest.raises(ArgumentError, match="'text' is a std::string"):
        run(ws, "Append", ["text", "a"], ["text"])
    with pytest.raises(ArgumentError, match="in place, but its output is 'd'"):
        run(ws, "Append", ["a", "a"], ["d"])


def test_all_columns_are_appended_to_or_none() -> None:
    ws = Workspace()
    run(ws, "CreateMutex", [], ["mutex"])
    names, more = ["n", "v"], ["n2", "v2"]
    for name, array in zip([*names, *more], [[1], [5], [2, 0], [6, 7]], strict=True):
        ws.feed(name, np.array(array, np.int32))
    run(ws, "AtomicAppend", ["mutex", *names, *more], names)
    assert [ws.fetch(name).tolist() for name in names] == [[1, 2, 0], [5, 6, 7]]
    ws.feed("v2", np.zeros(2))
    with pytest.raises(UnsupportedError, match="rows of float64"):
        run(ws, "AtomicAppend", ["mutex", *names, *more], names)
    assert ws.fetch("n").tolist() == [1, 2, 0]
    with pytest.raises(ArgumentError, match="has 3 columns for 2 outputs"):
        run(ws, "AtomicAppend", ["mutex", *names, "n2"], names)
    with pytest.raises(ArgumentError, match="'n' is a Tensor, not a mutex"):
        run(ws, "AtomicAppend", ["n", *names, *more], names)


def test_threads_share_a_cursor() -> None:
    ws = Workspace()
    ws.feed("x", np.arange(300))
    run(ws, "CreateTreeCursor", [], ["cursor"], fields=["x"])
    found: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            run(ws, "ReadNextBatch", ["cursor", "x"], [f"out{number}"], batch_size=2)
            found.extend(ws.fetch(f"out{number}").tolist())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(300))


@pytest.mark.parametrize(
    ("lengths", "problem"),
    [
        ([1, 2, 0, 3, 2], "adds up to 8, and 'a:values' has 7 elements"),
        ([1, 2, 0, 3, 0], "adds up to 6, and 'a:values' has 7 elements"),
        ([1, 2, 0, -3, 7], "'a:lengths' has a length of -3"),
        ([1, 2**31 - 1, 0, 3, 1], "adds up to 2,147,483,647 or more"),
        ([1, 2, 0, 4], "'a:lengths' has 4 elements, and 'b' has 5"),
    ],
)
def test_an_inconsistent_dataset(ws: Workspace, lengths: list[int], problem: str) -> None:
    ws.feed("a:lengths", np.array(lengths, np.int32))
    with pytest.raises(CorruptError, match=problem):
        run(ws, "CheckDatasetConsistency", FIELDS, fields=FIELDS)
    before = ws.fetch("cursor")
    if "6" not in problem and len(lengths) == 5:
        with pytest.raises(CorruptError):
            next_batch(ws, batch_size=5)
        assert ws.fetch("cursor") == before
    ws.feed("only", np.array([2], np.int32))
    with pytest.raises(CorruptError, match="'a:lengths' are the lengths of nothing"):
        run(ws, "CheckDatasetConsistency", ["only"], fields=["a:lengths"])


@pytest.mark.parametrize(
    ("kind", "inputs", "outputs", "given", "problem"),
    [
        ("CreateTreeCursor", [], ["c"], {}, "has no columns"),
        ("CreateTreeCursor", [], ["c"], {"fields": ["m:keys", "m:lengths"]}, "stands before"),
        ("CreateTreeCursor", [], ["c"], {"fields": "a"}, "a list of texts is expected"),
        ("ReadNextBatch", ["b", *FIELDS], OUT, {}, "'b' is a Tensor, not a TreeCursor"),
        ("ReadNextBatch", ["cursor", "b"], ["x"], {}, "has 1 columns for 3 fields"),
        ("ReadNextBatch", ["cursor", *FIELDS], ["x"], {}, "has 1 outputs for 3 columns"),
        ("ReadNextBatch", ["cursor", *FIELDS], OUT, {"batch_size": 0}, "'batch_size' is 0"),
        ("ReadNextBatch", ["cursor", "s", "b", "b"], OUT, {}, "'a:lengths' is a scalar"),
        ("ReadNextBatch", ["cursor", "b", "b", "b"], OUT, {}, "lengths 'a:lengths' are float32"),
        ("ReadNextBatch", ["cursor", "cursor", "b", "b"], OUT, {}, "not a tensor of numbers"),
        ("ReadRandomBatch", ["cursor", "b", "b", *FIELDS], OUT, {}, "int64 of 1 axes is needed"),
        ("TrimDataset", FIELDS, FIELDS, {"fields": FIELDS, "multiple_of": 0}, "'multiple_of' is 0"),
        ("TrimDataset", FIELDS, OUT, {"fields": FIELDS, "multiple_of": 2}, "its outputs are its"),
        ("PackRecords", ["b"], ["p"], {"fields": FIELDS}, "has 1 columns for 3 fields"),
        ("UnPackRecords", ["b"], OUT, {"fields": FIELDS}, "'b' is not what PackRecords makes"),
        ("UnPackRecords", ["b", "b"], OUT, {"fields": FIELDS}, "2 inputs and 3 outputs for 3"),
    ],
)
def test_what_operators_are_not_given(
    ws: Workspace, kind: str, inputs: Any, outputs: Any, given: Any, problem: str
) -> None:
    ws.feed("s", np.int32(1))
    with pytest.raises(ArgumentError, match=problem):
        run(ws, kind, inputs, outputs, **given)


def test_offsets_and_orders_of_another_dataset(ws: Workspace) -> None:
    inputs = ["cursor", "order", "offsets", *FIELDS]
    run(ws, "ComputeOffset", ["cursor", *FIELDS], ["offsets"])
    good = ws.fetch("offsets")
    ws.feed("order", np.array([0, 5]))
    with pytest.raises(ArgumentError, match="has row 5, and there are offsets of 5"):
        run(ws, "ReadRandomBatch", inputs, OUT, batch_size=2)
    ws.feed("order", np.arange(5))
    for offsets in (good * 2, good[:, :1], -good):
        ws.feed("offsets", offsets)
        with pytest.raises(ArgumentError, match="offsets are"):
            run(ws, "ReadRandomBatch", inputs, OUT, batch_size=5)


@pytest.mark.parametrize("offset", [-1, -(2**63), 2**63 - 1, 1.5, float("nan"), "a"])
def test_offsets_that_no_reading_comes_to(ws: Workspace, offset: Any) -> None:
    run(ws, "ComputeOffset", ["cursor", *FIELDS], ["offsets"])
    ws.feed("order", np.arange(5))
    array = np.array([offset, offset], object if offset == "a" else None)
    ws.set("cursor", Blob(TREE_CURSOR, TreeCursor(Tensor.of(array), FIELDS)))
    random = ("ReadRandomBatch", ["cursor", "order", "offsets", *FIELDS], OUT)
    for kind, inputs, outputs in (random, ("ReadNextBatch", ["cursor", *FIELDS], OUT)):
        with pytest.raises(ArgumentError, match=r"the cursor (is at|are)"):
            run(ws, kind, inputs, outputs)
    if offset != -1:
        with pytest.raises(ArgumentError, match=r"passes int32|no integers"):
            run(ws, "GetCursorOffset", ["cursor"], ["at"])


def test_very_many_rows_without_an_element() -> None:
    ws = Workspace()
    hollow = Tensor(dtypes.FLOAT32, (2**40, 0), MemorySource(b"", "hollow"), 0, 0)
    ws.set("b", Blob(TENSOR, hollow))
    run(ws, "CreateTreeCursor", [], ["cursor"], fields=["b"])
    for kind, inputs, outputs in (
        ("ComputeOffset", ["cursor", "b"], ["out"]),
        ("SortAndShuffle", ["cursor", "b"], ["out"]),
        ("PackRecords", ["b"], ["out"]),
        ("CheckDatasetConsistency", ["b"], []),
    ):
        with pytest.raises(UnsupportedError, match="has 1,099,511,627,776 rows, and not one"):
            run(ws, kind, inputs, outputs, fields=["b"])


def test_a_dataset_is_trimmed_whole_or_not_at_all() -> None:
    ws = Workspace()
    ws.feed("n", np.arange(5))
    damaged = np.array([0, 9, 3, 3, 3, 3], "<u8").tobytes() + b"abc"
    source = MemorySource(damaged, "text")
    ws.set("text", Blob(TENSOR, Tensor(dtypes.STRING, (5,), source, 0, len(damaged))))
    with pytest.raises(CorruptError, match="string offsets"):
        run(ws, "TrimDataset", ["n", "text"], ["n", "text"], fields=["n", "text"], multiple_of=2)
    assert len(ws.fetch("n")) == 5


def test_packed_rows(ws: Workspace, tmp_path: Path) -> None:
    run(ws, "PackRecords", FIELDS, ["packed"], fields=FIELDS)
    rows = [[t.numpy().tolist() for t in blob.value] for blob in ws.fetch("packed").blobs]
    assert [row[:2] for row in rows][:3] == [[[1], [22]], [[2], [3, 45]], [[0], []]]
    with pytest.raises(UnsupportedError, match=r"cannot be saved\. Save what UnPackRecords"):
        run(ws, "Save", ["packed"], db=str(tmp_path / "p.minidb"), **SAVED)
    run(ws, "Load", [], ["packed"], db=str(DATA / "other_blobs.minidb"), **SAVED)
    with pytest.raises(TensorKeepError, match="Caffe2 saves nothing of them"):
        run(ws, "UnPackRecords", ["packed"], OUT, fields=FIELDS)
    ws.feed("none", np.zeros(0, np.int32))
    run(ws, "PackRecords", ["none"], ["packed"], fields=["x"])
    with pytest.raises(ArgumentError, match="nothing is packed"):
        run(ws, "UnPackRecords", ["packed"], ["out"], fields=["x"])


def test_field_names_that_would_come_back_as_two(tmp_path: Path) -> None:
    ws = Workspace()
    run(ws, "CreateTreeCursor", [], ["cursor"], fields=["two words"])
    with pytest.raises(UnsupportedError, match="would come back as two"):
        run(ws, "Save", ["cursor"], db=str(tmp_path / "c.minidb"), **SAVED)


def test_gradients_are_not_asked_for() -> None:
    for kind in ("ReadNextBatch", "SortAndShuffle", "TrimDataset", "AtomicAppend"):
        with pytest.raises(UnsupportedError, match="must not be asked for"):
            gradient_of(create_operator(kind, ["x"], ["y"]))
