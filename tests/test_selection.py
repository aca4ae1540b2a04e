from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tensorkeep import dtypes, errors, testing
from tensorkeep.dtypes import DType
from tensorkeep.selection import select
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.tensor import Tensor

KINDS = [dtypes.FLOAT32, dtypes.COMPLEX128, dtypes.INT4, dtypes.UINT2, dtypes.FLOAT6_E2M3FN]


def counted(tensor: Tensor) -> tuple[Tensor, testing.CountingStore]:
    """Put a tensor behind a source that notes what is read of it."""
    store = testing.CountingStore(MemoryStore({"t": bytes(tensor.read())}))
    return Tensor(tensor.dtype, tensor.shape, store.get("t")), store


@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_basic_indices_are_numpys(data: st.DataObject, kind: DType) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 7), max_size=4)))
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
    tensor, _ = counted(testing.sample(kind, shape))
    expected = np.asarray(tensor.numpy()[index])
    found = tensor[index]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    testing.assert_equal_states(found, expected)


@given(data=st.data())
def test_large_gaps_are_skipped(data: st.DataObject) -> None:
    """Sizes at which reading separate runs pays, so that every way of reading is taken."""
    shape = (6, 5, 600)
    index = data.draw(hnp.basic_indices(shape))
    tensor, store = counted(testing.sample(dtypes.INT16, shape))
    expected = np.asarray(tensor.numpy()[index])
    store.ranges.clear()
    found = tensor[index]
    testing.assert_equal_states(found, expected)
    assert store.bytes_read <= min(tensor.nbytes, 2 * found.nbytes * 600 + 2048 * 30)


@given(data=st.data())
def test_other_indices_are_numpys(data: st.DataObject) -> None:
    shape = (3, 4, 2)
    index = data.draw(
        hnp.integer_array_indices(shape)
        | hnp.arrays(np.bool_, shape)
        | hnp.arrays(np.bool_, shape[:1])
        | st.tuples(st.just([0, 2]), st.slices(4))
        | st.sampled_from([None, (None, 1), (..., None), True, [1], ((0, 1), 2), np.array(1)])
    )
    tensor = testing.sample(dtypes.FLOAT64, shape)
    testing.assert_equal_states(tensor[index], np.asarray(tensor.numpy()[index]))


READS: dict[str, tuple[Any, int, int]] = {
    "one row": (5, 4000, 1),
    "some rows": (slice(5, 9), 16_000, 1),
    "rows backwards": (slice(8, 4, -1), 16_000, 1),
    "one element": ((5, 7), 4, 1),
    "from the end": ((-1, -1), 4, 1),
    "part of a row": ((5, slice(10, 20)), 40, 1),
    "part of a row with steps": ((5, slice(10, 20, 3)), 40, 1),
    "nothing": (slice(0, 0), 0, 1),
    "nothing of some rows": ((slice(5, 9), slice(3, 3)), 0, 1),
    "everything": (..., 4_000_000, 1),
    "all, one by one": (slice(None), 4_000_000, 1),
    "an index of NumPy": (np.int64(5), 4000, 1),
    "rows far apart": (slice(0, None, 500), 8000, 2),
}


@pytest.mark.parametrize(("index", "nbytes", "reads"), READS.values(), ids=READS)
def test_bytes_read(index: Any, nbytes: int, reads: int) -> None:
    array = np.arange(1_000_000, dtype=np.int32).reshape(1000, 1000)
    tensor, store = counted(Tensor.of(array))
    testing.assert_equal_states(tensor[index], np.asarray(array[index]))
    assert store.bytes_read == nbytes
    assert len(store.ranges) <= reads


def test_a_column_is_not_a_thousand_tiny_reads() -> None:
    array = np.arange(1_000_000, dtype=np.int8).reshape(1000, 1000)
    tensor, store = counted(Tensor.of(array))
    testing.assert_equal_states(tensor[:, 3], array[:, 3])
    assert len(store.ranges) == 1


def test_packed_slices_read_their_bytes() -> None:
    tensor, store = counted(testing.sample(dtypes.INT4, (1000, 10)))
    testing.assert_equal_states(tensor[7], tensor.numpy()[7])
    assert store.ranges[0] == ("t", 35, 40)
    odd, store = counted(testing.sample(dtypes.INT4, (100, 3)))
    testing.assert_equal_states(odd[1], odd.numpy()[1])
    assert store.ranges[0] == ("t", 1, 3)


WRONG: dict[str, Any] = {
    "behind the end": 3,
    "before the start": -4,
    "second axis": (0, 2),
    "too many": (0, 0, 0),
    "too many slices": (slice(None),) * 3,
    "two ellipses": (..., ...),
    "text": "a",
    "text in a tuple": (0, "a"),
    "float": 1.5,
    "float array": np.array(1.5),
    "far list": [5],
    "mask of another size": np.ones(7, bool),
    "step of zero": slice(None, None, 0),
    "slice of text": slice("a", "b"),
    "slice of floats": slice(0.5, 2),
    "dict": {},
    "object": object(),
}


@pytest.mark.parametrize("index", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("kind", [dtypes.FLOAT32, dtypes.STRING], ids=str)
def test_wrong_indices(index: Any, kind: DType) -> None:
    with pytest.raises(errors.ArgumentError):
        testing.sample(kind, (3, 2))[index]


def test_a_wrong_index_is_an_index_error_too() -> None:
    """What loops over sequences, and callers who know NumPy, wait for IndexError."""
    with pytest.raises(IndexError):
        testing.sample(dtypes.FLOAT32, (3,))[3]


def test_plans() -> None:
    chosen = select((slice(1, 3), 0), (4, 5000))
    assert chosen is not None
    assert chosen.runs == [(5000, 5001), (10000, 10001)]
    assert select(None, (3,)) is None
    assert select([0], (3,)) is None
    assert select(True, (3,)) is None
