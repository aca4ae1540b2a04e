"""Block-quantized types against ggml's own Python package, bit for bit."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from gguf import quants
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tensorkeep import blocks, dtypes, testing
from tensorkeep.blocks import LAYOUTS, Layout
from tensorkeep.casting import cast
from tensorkeep.dtypes import BFLOAT16, BLOCKS, FLOAT16, FLOAT32
from tensorkeep.errors import ArgumentError, CorruptError, UnsupportedError
from tensorkeep.quantized import quantized
from tensorkeep.source import MemorySource
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.tensor import Tensor
from tensorkeep.testing import CountingStore

OPAQUE = {"q1_0"}
OURS = {"q8_k"}  # which gguf-py does not dequantize
READ = [row for row in LAYOUTS.values() if row.dequantizer and row.name not in OURS]
WRITTEN = [layout for layout in LAYOUTS.values() if layout.quantizer]

every_read = pytest.mark.parametrize("layout", READ, ids=lambda layout: layout.name)
every_written = pytest.mark.parametrize("layout", WRITTEN, ids=lambda layout: layout.name)


def number(layout: Layout) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[layout.name.upper()]


def theirs(layout: Layout, data: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    with np.errstate(all="ignore"):
        found = quants.dequantize(data.reshape(-1, layout.nbytes), number(layout))
    return np.asarray(found).reshape(-1)


def assert_same_bits(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> None:
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def of(layout: Layout, data: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> Tensor:
    return Tensor(BLOCKS[layout.name], shape, MemorySource(data.tobytes()), 0, data.nbytes)


def test_the_sizes_are_those_of_ggml() -> None:
    sizes = {LAYOUTS[name].name: (row.size, row.nbytes) for name, row in LAYOUTS.items()}
    known = {kind.name.lower(): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert sizes == {name: known[name] for name in sizes}
    plain = {"f32", "f16", "f64", "bf16", "i8", "i16", "i32", "i64"}
    assert known.keys() - sizes.keys() == plain | {"q8_1"}
    assert {name for name, row in LAYOUTS.items() if row.dequantizer is None} == OPAQUE


@every_read
def test_random_blocks(layout: Layout) -> None:
    """Among random bits all scales appear: NaN, infinite, subnormal and negative ones."""
    data = np.random.default_rng(7).integers(0, 256, 3000 * layout.nbytes, dtype=np.uint8)
    assert_same_bits(blocks.dequantize(layout, data), theirs(layout, data))


@every_read
@settings(max_examples=20)
@given(data=st.data())
def test_any_blocks(layout: Layout, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 3))
    found = data.draw(hnp.arrays(np.uint8, count * layout.nbytes))
    assert_same_bits(blocks.dequantize(layout, found), theirs(layout, found))


@every_read
@pytest.mark.parametrize("fill", [0, 255])
def test_equal_bytes(layout: Layout, fill: int) -> None:
    data = np.full(2 * layout.nbytes, fill, np.uint8)
    assert_same_bits(blocks.dequantize(layout, data), theirs(layout, data))


@every_read
def test_every_byte_in_every_place(layout: Layout) -> None:
    """Each byte of a block takes all values while the others stay."""
    start = np.random.default_rng(1).integers(0, 256, layout.nbytes, dtype=np.uint8)
    data = np.tile(start, (layout.nbytes, 256, 1))
    for at in range(layout.nbytes):
        data[at, :, at] = np.arange(256)
    data = data.reshape(-1)
    assert_same_bits(blocks.dequantize(layout, data), theirs(layout, data))


def test_q8_k_by_its_definition() -> None:
    kind = np.dtype([("scale", "<f4"), ("codes", "i1", 256), ("sums", "<i2", 16)])
    data = np.random.default_rng(7).integers(0, 256, 300 * kind.itemsize, dtype=np.uint8)
    found = blocks.dequantize(LAYOUTS["q8_k"], data)
    with np.errstate(all="ignore"):
        rows = data.view(kind)
        expected = rows["codes"].astype(np.float32) * rows["scale"][:, None]
    np.testing.assert_array_equal(found, expected.reshape(-1))


@pytest.mark.parametrize("name", ["q4_0", "q6_k", "iq2_xs"])
def test_many_chunks_on_several_threads(name: str) -> None:
    layout = LAYOUTS[name]
    count = 9 * blocks._CHUNK // layout.size + 5
    assert count * layout.size > blocks._WORTH_THREADS
    data = np.random.default_rng(3).integers(0, 256, count * layout.nbytes, dtype=np.uint8)
    assert_same_bits(blocks.dequantize(layout, data), theirs(layout, data))


def test_blocks_that_are_not_aligned() -> None:
    data = np.random.default_rng(3).integers(0, 256, 1 + 40 * 18, dtype=np.uint8)[1:]
    assert_same_bits(blocks.dequantize(LAYOUTS["q4_0"], data), theirs(LAYOUTS["q4_0"], data))


def test_no_blocks() -> None:
    for layout in READ:
        assert blocks.dequantize(layout, np.zeros(0, np.uint8)).size == 0


# --- quantizing ---------------------------------------------------------------------------------


def theirs_quantized(layout: Layout, values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    with np.errstate(all="ignore"):
        return np.asarray(quants.quantize(values.astype(np.float32), number(layout))).reshape(-1)


@every_written
def test_quantizing_normal_values(layout: Layout) -> None:
    values = np.random.default_rng(5).normal(size=(4000, 32)).astype(np.float32)
    values[0] = 0
    values[1] *= 1e-30
    values[2] *= 1e30
    values[3] = -0.0
    values[4] = np.arange(-16, 16)
    values[5] = np.arange(32) / 2
    found = blocks.quantize(layout, values.reshape(-1))
    np.testing.assert_array_equal(found, theirs_quantized(layout, values))


@every_written
@given(values=hnp.arrays(np.float32, (2, 32), elements=st.floats(-1e4, 1e4, width=32)))
def test_quantizing_any_values(layout: Layout, values: npt.NDArray[np.float32]) -> None:
    found = blocks.quantize(layout, values.reshape(-1))
    np.testing.assert_array_equal(found, theirs_quantized(layout, values))


@every_written
@pytest.mark.parametrize("kind", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_quantizing_other_floats(layout: Layout, kind: Any) -> None:
    values = np.random.default_rng(5).normal(size=(6, 64)).astype(kind)
    found = quantized(Tensor.of(values), BLOCKS[layout.name])
    assert bytes(found.read()) == theirs_quantized(layout, values).tobytes()
    assert b"".join(found.pieces(50)) == bytes(found.read())


def test_what_cannot_be_quantized() -> None:
    with pytest.raises(UnsupportedError, match="Choose one of q4_0, q8_0"):
        blocks.quantize(LAYOUTS["q4_k"], np.zeros(256, np.float32))
    with pytest.raises(UnsupportedError, match="Choose one of q4_0, q8_0"):
        quantized(Tensor.of(np.zeros((1, 256), np.float32)), BLOCKS["q4_k"])
    for array in (np.zeros((2, 33), np.float32), np.zeros((2, 32), np.int8), np.float32(1)):
        with pytest.raises(ArgumentError, match="rows of a multiple of 32"):
            quantized(Tensor.of(array), BLOCKS["q8_0"])


# --- tensors ------------------------------------------------------------------------------------


@pytest.fixture
def tensor() -> Tensor:
    layout = LAYOUTS["q5_k"]
    data = np.random.default_rng(2).integers(0, 60, 6 * 2 * layout.nbytes, dtype=np.uint8)
    return of(layout, data, (2, 3, 512))


def test_a_tensor_of_blocks(tensor: Tensor) -> None:
    assert str(tensor) == "Tensor(q5_k, (2, 3, 512))"
    assert (tensor.size, tensor.nbytes) == (3072, 12 * 176)
    whole = tensor.numpy()
    assert whole.dtype == np.float32
    assert whole.shape == (2, 3, 512)
    assert b"".join(tensor.pieces(100)) == bytes(tensor.read())
    for index in (0, (1, 2), (..., 5), (0, slice(1, 3), slice(250, 270)), slice(0, 0), (1, 1, -1)):
        np.testing.assert_array_equal(tensor[index], whole[index])


def test_a_slice_reads_only_its_blocks() -> None:
    store = CountingStore(MemoryStore({"a": bytes(34 * 10_000)}))
    source = store.get("a")
    tensor = Tensor(BLOCKS["q8_0"], (100, 3200), source, 0, 34 * 10_000)
    assert tensor[7, 40:50].tolist() == [0.0] * 10
    assert store.bytes_read == 34


def test_rows_have_to_be_whole_blocks() -> None:
    source = MemorySource(bytes(34 * 5))
    for shape in ((5, 16, 2), (160, 1), ()):
        with pytest.raises(CorruptError, match="q8_0"):
            Tensor(BLOCKS["q8_0"], shape, source)


def test_copies_stay_blocks(tensor: Tensor) -> None:
    for again in (pickle.loads(pickle.dumps(tensor)), copy.deepcopy(tensor)):
        assert again.dtype is tensor.dtype
        assert again.read() == tensor.read()


def test_opaque_types_are_bytes_only() -> None:
    for name in OPAQUE:
        tensor = testing.sample(BLOCKS[name], (2, 2))
        assert len(tensor.read()) == tensor.nbytes
        for read in (tensor.numpy, lambda t=tensor: t[0], lambda t=tensor: cast(t, FLOAT32).read()):
            with pytest.raises(UnsupportedError, match=f"type {name} cannot be turned"):
                read()


def test_names() -> None:
    assert dtypes.dtype("q4_k") is BLOCKS["q4_k"]
    assert not BLOCKS.keys() & dtypes.DTYPES.keys()
    assert pickle.loads(pickle.dumps(BLOCKS["q4_k"])) is BLOCKS["q4_k"]
    with pytest.raises(ArgumentError, match="no element type"):
        dtypes.dtype("q9_9")


@pytest.mark.parametrize("to", [FLOAT32, FLOAT16, BFLOAT16], ids=str)
def test_casting_blocks(tensor: Tensor, to: dtypes.DType) -> None:
    found = cast(tensor, to)
    with np.errstate(all="ignore"):
        expected = tensor.numpy().astype(to.numpy)
    testing.assert_equal_states(found.numpy(), expected)
    testing.assert_equal_states(found[1, 0, 200:300], expected[1, 0, 200:300])
    assert b"".join(found.pieces(1000)) == expected.tobytes()
