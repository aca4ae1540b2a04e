"""GGUF: tensors, against ggml's own Python package in both directions."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Number
from gguf import GGUFEndian

import tensorkeep as tk
from tensorkeep.blocks import LAYOUTS
from tensorkeep.dtypes import BLOCKS, DTYPES
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    LossError,
    UnsupportedError,
)
from tensorkeep.formats.gguf.reading import KINDS
from tensorkeep.state import State
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.tensor import Tensor
from tensorkeep.testing import CountingStore, assert_equal_states, sample

PLAIN: dict[str, Any] = {
    "f32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "f16": np.arange(4, dtype=np.float16),
    "f64": np.array([[1e300]]),
    "i8": np.arange(-3, 3, dtype=np.int8),
    "i16": np.arange(8, dtype=np.int16).reshape(2, 1, 4),
    "i32": np.arange(16, dtype=np.int32).reshape(2, 2, 2, 2),
    "i64": np.array([2**62]),
}
BLOCK_DATA = {
    name: np.random.default_rng(4).integers(0, 60, (3, 2 * layout.nbytes), dtype=np.uint8)
    for name, layout in LAYOUTS.items()
}


def gguf_written(
    path: Path, order: GGUFEndian = GGUFEndian.LITTLE, **options: Any
) -> gguf.GGUFWriter:
    return gguf.GGUFWriter(path, "test", endianess=order, **options)


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


@pytest.fixture
def blocks_path(path: Path) -> Path:
    """A file of all block types and a plain bias, written by the reference."""
    writer = gguf_written(path)
    for name, data in BLOCK_DATA.items():
        writer.add_tensor(name, data, raw_dtype=Number[name.upper()])
    writer.add_tensor("bias", PLAIN["f32"])
    finish(writer)
    return path


# --- what the reference writes ------------------------------------------------------------------


@pytest.mark.parametrize("order", GGUFEndian)
def test_plain_tensors_that_the_reference_wrote(path: Path, order: GGUFEndian) -> None:
    writer = gguf_written(path, order)
    for name, array in PLAIN.items():
        writer.add_tensor(name, array)
    bits = np.array([1.5, -2, 3], ml_dtypes.bfloat16)
    writer.add_tensor("bf16", bits.view(np.int16), raw_shape=(3,), raw_dtype=Number.BF16)
    finish(writer)
    assert_equal_states(tk.load(path), {**PLAIN, "bf16": bits})
    with tk.open(path) as state:
        assert state.metadata == {"general.architecture": "test"}
        assert state["i32"][1, 0].tolist() == [[8, 9], [10, 11]]
        assert state["f32"].source.mapped == (order == GGUFEndian.LITTLE)


def test_blocks_that_the_reference_wrote(blocks_path: Path) -> None:
    with tk.open(blocks_path) as state:
        for name, data in BLOCK_DATA.items():
            assert state[name].dtype is BLOCKS[name]
            assert state[name].shape == (3, 2 * LAYOUTS[name].size)
            assert bytes(state[name].read()) == data.tobytes()
            if LAYOUTS[name].dequantizer and name != "q8_k":
                with np.errstate(all="ignore"):
                    expected = gguf.dequantize(data, Number[name.upper()])
                assert_equal_states(state[name].numpy(), expected)


def test_all_types_are_known() -> None:
    numbers = {number.value for number in Number} - {Number.Q8_1}
    assert numbers == set(KINDS)
    for number, kind in KINDS.items():
        size, nbytes = gguf.GGML_QUANT_SIZES[Number(number)]
        assert (kind.block, kind.nbytes(kind.block)) == (size, nbytes)


def test_q8_1_is_refused(path: Path) -> None:
    writer = gguf_written(path)
    writer.add_tensor("w", np.zeros((1, 40), np.uint8), raw_dtype=Number.Q8_1)
    finish(writer)
    with pytest.raises(UnsupportedError, match="'w' is of the element type Q8_1"):
        tk.open(path)


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_alignment(path: Path, alignment: int) -> None:
    writer = gguf_written(path)
    writer.add_custom_alignment(alignment)
    for name, array in PLAIN.items():
        writer.add_tensor(name, array)
    finish(writer)
    assert_equal_states(tk.load(path), PLAIN)
    again = path.with_name("again.gguf")
    tk.convert(path, again)
    with tk.open(again) as state:
        assert state.metadata["general.alignment"] == alignment
        assert {tensor.offset % alignment for tensor in state.values()} == {0}
    assert gguf.GGUFReader(again).alignment == alignment


def swapped_by_reference(source: Path, target: Path) -> None:
    """Convert a file to big-endian with the script of the reference."""
    import argparse
    import builtins

    from gguf.scripts import gguf_convert_endian

    target.write_bytes(source.read_bytes())
    reader = gguf.GGUFReader(target, "r+")
    asked, builtins.input = builtins.input, lambda *_: "YES"
    try:
        gguf_convert_endian.convert_byteorder(
            reader, argparse.Namespace(order="big", dry_run=False)
        )
    finally:
        builtins.input = asked
    reader.data.flush()


def test_blocks_of_a_big_endian_file(path: Path) -> None:
    pytest.importorskip("tqdm")
    names = ["q4_0", "q8_0", "q4_k", "q6_k", "mxfp4"]
    writer = gguf_written(path)
    for name in names:
        writer.add_tensor(name, BLOCK_DATA[name], raw_dtype=Number[name.upper()])
    finish(writer)
    big = path.with_name("big.gguf")
    swapped_by_reference(path, big)
    assert big.read_bytes() != path.read_bytes()
    with tk.open(big) as state, tk.open(path) as expected:
        assert_equal_states(state, expected)
        for name in names:
            assert_equal_states(state[name][1, 3:70], expected[name][1, 3:70])
            assert b"".join(state[name].pieces(50)) == bytes(expected[name].read())


def test_blocks_whose_big_endian_bytes_nobody_agrees_on(path: Path) -> None:
    writer = gguf_written(path, GGUFEndian.BIG)
    writer.add_tensor("w", BLOCK_DATA["iq2_xxs"], raw_dtype=Number.IQ2_XXS)
    finish(writer)
    with pytest.raises(UnsupportedError, match="big-endian file"):
        tk.open(path)


def test_opening_reads_the_header_alone(path: Path) -> None:
    writer = gguf_written(path)
    for i in range(64):
        writer.add_tensor(f"w{i}", np.zeros((64, 34 * 32), np.uint8), raw_dtype=Number.Q8_0)
    finish(writer)
    store = CountingStore(MemoryStore({"a.gguf": path.read_bytes()}))
    with tk.open(Location(store, "a.gguf")) as state:
        assert store.bytes_read <= (64 << 10) + 4096 + 8
        before = store.bytes_read
        assert state["w5"][3, 32:64].shape == (32,)
        assert store.bytes_read - before == 34


# --- what the reference reads -------------------------------------------------------------------


def test_the_reference_reads_what_is_written(path: Path) -> None:
    nested = {"a": {"b": PLAIN["f32"]}, "c": [PLAIN["i32"], PLAIN["f16"]], "step": 3}
    tk.save(nested, path, metadata={"general.architecture": "llama", "llama.block_count": 2})
    reader = gguf.GGUFReader(path)
    found = {tensor.name: tensor for tensor in reader.tensors}
    for name, array in (("a.b", PLAIN["f32"]), ("c.0", PLAIN["i32"]), ("c.1", PLAIN["f16"])):
        assert_equal_states(np.array(found[name].data), array)
        assert found[name].shape.tolist() == list(array.shape[::-1])
    assert reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["llama.block_count"].types == [gguf.GGUFValueType.UINT32]
    assert_equal_states(tk.load(path), nested)


def test_the_reference_reads_copied_blocks(blocks_path: Path) -> None:
    again = blocks_path.with_name("again.gguf")
    assert tk.convert(blocks_path, again) == []
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(again).tensors}
    for name, data in BLOCK_DATA.items():
        assert found[name].tensor_type is Number[name.upper()]
        assert found[name].data.tobytes() == data.tobytes()
    with tk.open(again) as state, tk.open(blocks_path) as expected:
        assert_equal_states(state, expected)
    assert not tk.verify(again).damaged
    assert tk.diff(blocks_path, again, names=["q4_k", "bias"]).equal


@pytest.mark.parametrize("name", ["q8_0", "q4_0"])
def test_quantizing(path: Path, name: str) -> None:
    values = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    state: dict[str, Any] = {
        "w": values,
        "half": values.astype(np.float16),
        "odd": np.ones((3, 33), np.float32),
        "bias": np.ones(64, np.float32),
        "ids": np.ones((2, 32), np.int32),
    }
    tk.save(state, path, quantize=name)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    number = Number[name.upper()]
    assert found["w"].data.tobytes() == gguf.quantize(values, number).tobytes()
    half = gguf.quantize(state["half"].astype(np.float32), number)
    assert found["half"].data.tobytes() == half.tobytes()
    assert [found[n].tensor_type.name for n in ("odd", "bias", "ids")] == ["F32", "F32", "I32"]
    with tk.open(path) as opened:
        assert opened.metadata["general.quantization_version"] == 2
    loaded = tk.load(path, dtype="float32", verify=True)
    assert_equal_states(loaded["w"], gguf.dequantize(gguf.quantize(values, number), number))
    with pytest.raises(ArgumentError, match="Give one of q4_0, q8_0"):
        tk.save(state, path, quantize="q5_k")


def test_equal_files_with_and_without_a_state_in_between(blocks_path: Path) -> None:
    first, second = (blocks_path.with_name(name) for name in ("1.gguf", "2.gguf"))
    tk.convert(blocks_path, first)
    tk.convert(first, second)
    assert first.read_bytes() == second.read_bytes()


# --- loading ------------------------------------------------------------------------------------


def test_quantized_tensors_are_not_loaded_unasked(blocks_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r'25 of its 26 tensors .* Say dtype="float32"'):
        tk.load(blocks_path)
    with pytest.raises(UnsupportedError, match=r"1 of its 26 tensors are quantized \(q4_0\)"):
        tk.load(blocks_path, names="q4_0")
    assert_equal_states(tk.load(blocks_path, names="bias"), {"bias": PLAIN["f32"]})


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_loading_dequantized(blocks_path: Path, dtype: str) -> None:
    found = tk.load(blocks_path, names=["q4_0", "q6_k", "bias"], dtype=dtype)
    for name, array in found.items():
        assert array.dtype == DTYPES[dtype].numpy
        assert array.flags.writeable
        with tk.open(blocks_path) as state, np.errstate(all="ignore"):
            assert_equal_states(array, state[name].numpy().astype(array.dtype))


def test_damage_to_blocks_is_found(blocks_path: Path) -> None:
    path = blocks_path.with_name("sealed.gguf")
    tk.convert(blocks_path, path, names=["q4_0", "bias"])
    data = bytearray(path.read_bytes())
    with tk.open(path) as state:
        data[state["q4_0"].offset + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError, match="'q4_0' is damaged"):
        tk.load(path, dtype="float32", verify=True)
    with pytest.raises(CorruptError, match="'q4_0' is damaged"):
        tk.convert(path, path.with_name("other.gguf"))


@pytest.mark.parametrize("ending", ["safetensors", "npz", "json"])
def test_formats_without_blocks(blocks_path: Path, ending: str) -> None:
    target = blocks_path.with_name(f"model.{ending}")
    names = ["q4_0", "bias"]
    with pytest.raises(LossError, match=r"'q4_0' is quantized \(q4_0\), which .* does not hold"):
        tk.convert(blocks_path, target, names=names)
    lost = tk.convert(blocks_path, target, names=names, lossy=True)
    assert "quantized" in lost[0]
    assert_equal_states(tk.load(target), tk.load(blocks_path, names=names, dtype="float32"))
    assert tk.convert(blocks_path, target, names=names, dtype="float32") == []
    assert_equal_states(tk.load(target), tk.load(blocks_path, names=names, dtype="float32"))


# --- what GGUF has no place for -----------------------------------------------------------------


def test_more_axes_than_four(path: Path) -> None:
    array = np.arange(64, dtype=np.float32).reshape(2, 2, 2, 2, 2, 2)
    state = State({"w": Tensor.of(array), "q": sample(BLOCKS["q8_0"], (1, 2, 1, 2, 2))})
    tk.save(state, path)
    shapes = {t.name: t.shape.tolist() for t in gguf.GGUFReader(path).tensors}
    assert shapes == {"w": [2, 2, 2, 8], "q": [64, 2, 1, 2]}
    with tk.open(path) as found:
        assert_equal_states(found, state)


def test_types_that_gguf_lacks_are_noted(path: Path) -> None:
    state = {
        "bool": np.array([[True, False]]),
        "complex": np.array([1 + 2j]),
        "text": np.array(["ab", "ü"], object),
        "uint16": np.array([65535], np.uint16),
    }
    tk.save(state, path)
    assert_equal_states(tk.load(path), state)
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}
    assert kinds == {"bool": "I8", "complex": "I8", "text": "I8", "uint16": "I16"}


def test_long_names_are_a_loss(path: Path) -> None:
    state = {"n" * 64: np.ones(1, np.float32), "n" * 63: np.ones(1, np.float32)}
    with pytest.raises(LossError, match="longer than the 63 bytes that llama"):
        tk.save(state, path)
    tk.save(state, path, lossy=True)
    assert_equal_states(tk.load(path), state)


@pytest.mark.parametrize("align", [0, 4, 48, True, "64", 1 << 30])
def test_alignments_that_are_refused(path: Path, align: Any) -> None:
    with pytest.raises(ArgumentError, match="align cannot be"):
        tk.save({"w": np.ones(1)}, path, align=align)


def test_a_save_over_its_own_source(path: Path) -> None:
    tk.save({"w": np.ones(3), "v": np.zeros(2)}, path)
    with tk.open(path) as state:
        tk.save(state, path, align=64)
    assert_equal_states(tk.load(path), {"w": np.ones(3), "v": np.zeros(2)})


def test_quantizing_and_back_streams(path: Path) -> None:
    """Neither a save nor a conversion holds a whole tensor."""
    row = np.linspace(-1, 1, 4096, dtype=np.float32)
    huge = np.broadcast_to(row, (8192, 4096))  # 128 MiB, of which 16 KiB are there
    back = path.with_suffix(".safetensors")
    tracemalloc.start()
    try:
        tk.save({"w": huge}, path, quantize="q8_0", durable=False)
        tk.convert(path, back, dtype="float32", durable=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20
    with tk.open(path) as packed, tk.open(back) as state:
        assert_equal_states(state["w"][8191], packed["w"][0])
