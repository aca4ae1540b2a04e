"""Rows of arrays are what NumPy's own indexing gives, of any type, from any file."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

import tensorkeep as tk
from tensorkeep.data.dataset import Field
from tensorkeep.data.sources import open
from tensorkeep.data.sources.arrays import ArraysDataset
from tensorkeep.data.sources.gathering import gather, take
from tensorkeep.dtypes import DTYPES, STRING, DType
from tensorkeep.errors import ClosedError, CorruptError, MissingError, UnsupportedError
from tensorkeep.source import FileSource
from tensorkeep.tensor import Tensor

_SHAPES = [(9,), (9, 3), (9, 2, 5), (9, 0), (0, 4), (1, 1)]


def _values(kind: DType, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    numbers = np.random.default_rng(7).integers(0, 200, shape)
    if kind is STRING:
        return np.array([f"é{n}" * (n % 4) for n in numbers.reshape(-1)], object).reshape(shape)
    if kind.name == "bool":
        return numbers > 99
    if kind.bits < 8:
        return (numbers % 2).astype(np.uint8).view(np.uint8).astype(kind.numpy)
    return numbers.astype(np.uint8).astype(kind.numpy)


def _same(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.flags.writeable
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("shape", _SHAPES, ids=str)
@pytest.mark.parametrize("kind", DTYPES.values(), ids=str)
def test_every_type_and_shape(tmp_path: Path, kind: DType, shape: tuple[int, ...]) -> None:
    values = _values(kind, shape)
    tk.save({"x": values}, tmp_path / "a.safetensors")
    rows = np.array([8, 0, 3, 3, 4, 5, 1]) % max(1, shape[0]) if shape[0] else np.zeros(0, int)
    for source in (tmp_path / "a.safetensors", {"x": values}):
        with open(source) as dataset:
            assert len(dataset) == shape[0]
            assert dataset.fields == {"x": Field(kind.name, shape[1:])}
            _same(dataset.gather(dataset.check(rows))["x"], values[rows])
            _same(dataset.gather(dataset.check([]))["x"], values[:0])


@given(
    st.sampled_from(["uint8", "float32", "bfloat16", "int4", "float6_e2m3fn", "string"]),
    st.integers(1, 40).flatmap(
        lambda count: st.tuples(st.just(count), st.lists(st.integers(0, count - 1)))
    ),
    st.lists(st.integers(0, 3), max_size=2),
    st.integers(1, 12),
)
def test_any_rows(name: str, drawn: tuple[int, list[int]], inner: list[int], block: int) -> None:
    count, listed = drawn
    values, rows = _values(DTYPES[name], (count, *inner)), np.array(listed, np.int64)
    _same(gather(Tensor.of(values), rows, block), values[rows])
    _same(take(values, rows), values[rows])


@pytest.mark.parametrize("layout", ["big", "fortran", "strided", "reversed"])
def test_layouts_that_are_not_plain(tmp_path: Path, layout: str) -> None:
    plain = np.arange(240, dtype="int32").reshape(12, 4, 5)
    values = {
        "big": plain.astype(">i4"),
        "fortran": np.asfortranarray(plain),
        "strided": np.repeat(plain, 2, axis=1)[:, ::2],
        "reversed": plain[::-1],
    }[layout]
    np.save(tmp_path / "a.npy", values)
    rows = np.array([11, 2, 2, 0])
    for source in (tmp_path / "a.npy", values):
        _same(open(source).gather(rows)["data"], values[rows].astype("int32"))


def _hdf5(path: Path, arrays: dict[str, npt.NDArray[Any]], **how: Any) -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, **how)


def _zarr(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    group = zarr.open_group(str(path), mode="w")
    for name, array in arrays.items():
        group.create_array(name, data=array, chunks=(7, *array.shape[1:]))


_WRITERS: dict[str, Callable[[Path, dict[str, Any]], None]] = {
    "plain.safetensors": lambda path, arrays: tk.save(arrays, path),
    "plain.npz": lambda path, arrays: np.savez(path, **arrays),
    "packed.npz": lambda path, arrays: np.savez_compressed(path, **arrays),
    "plain.h5": _hdf5,
    "packed.h5": lambda path, arrays: _hdf5(path, arrays, chunks=True, compression="gzip"),
    "plain.json": lambda path, arrays: tk.save(arrays, path),
    "grid.zarr": _zarr,
}


@pytest.mark.parametrize("name", _WRITERS)
def test_files_of_all_kinds(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(1)
    arrays = {
        "image": rng.integers(0, 255, (50, 3, 4), np.uint8),
        "label": np.arange(50),
        "weight": rng.random((50, 1), np.float32),
    }
    _WRITERS[name](tmp_path / name, arrays)
    rows = rng.permutation(50)[:20]
    with open(tmp_path / name) as dataset:
        batch = dataset.gather(rows)
        assert batch.keys() == arrays.keys()
        for field, values in arrays.items():
            _same(batch[field], values[rows])
        assert dataset.verify() == []
        assert dataset[-1]["label"] == 49
        again = pickle.loads(pickle.dumps(dataset))
        assert again.digest == dataset.digest
        assert again.gather(rows)["label"].tolist() == rows.tolist()
        again.close()
    with open(tmp_path / name, fields=["weight", "label"]) as chosen:
        assert list(chosen.gather(rows)) == ["weight", "label"]
        assert chosen.digest != dataset.digest


def test_chunks_are_decoded_together(tmp_path: Path) -> None:
    values = np.arange(400, dtype=np.int32).reshape(100, 4)
    _hdf5(tmp_path / "a.h5", {"x": values}, chunks=(32, 4), compression="gzip")
    with open(tmp_path / "a.h5") as dataset:
        assert dataset.block == 32
        rows = np.array([99, 0, 31, 64, 33, 1])
        _same(dataset.gather(rows)["x"], values[rows])


def test_chunks_of_zarr_are_decoded_together(tmp_path: Path) -> None:
    values = np.arange(400, dtype=np.int32).reshape(100, 4)
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("x", shape=(100, 4), chunks=(20, 4), dtype="i4")[:] = values
    group.create_array("y", data=values[:, 0], chunks=(10,), shards=(50,))
    group.create_array("z", data=values, chunks=(64, 4), compressors=None)  # read by rows
    with tk.open(tmp_path / "a.zarr") as state:
        assert state.remarks["x"].startswith("chunks of 20x4, ")
        assert state.remarks["y"].endswith(", in shards of 50")
        assert "z" not in state.remarks
    with open(tmp_path / "a.zarr") as dataset:
        assert dataset.block == 20
        rows = np.array([99, 0, 31, 64, 33, 1])
        for field in ("x", "z"):
            _same(dataset.gather(rows)[field], values[rows])


def test_a_zarr_without_samples(tmp_path: Path) -> None:
    tk.save({"x": np.zeros((0, 3), np.int16)}, tmp_path / "a.zarr")
    with open(tmp_path / "a.zarr") as dataset:
        assert dataset.gather(np.zeros(0, np.int64))["x"].shape == (0, 3)
        assert dataset.verify() == []


def test_each_chunk_is_read_once_for_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = Tensor.of(np.arange(4000, dtype=np.int64).reshape(1000, 4)[::-1])  # has to be copied
    asked: list[tuple[int, int]] = []
    read = type(tensor.source).read

    def counted(self: Any, start: int, stop: int) -> memoryview:
        asked.append((start // 32, stop // 32))
        return read(self, start, stop)

    monkeypatch.setattr(type(tensor.source), "read", counted)
    rows = np.array([900, 5, 120, 901, 7, 199, 100])
    gather(tensor, rows, block=100)
    assert asked == [(5, 200), (900, 902)]  # near blocks at once: the gap is under 16 KiB
    asked.clear()
    wide = Tensor.of(np.zeros((30, 4096), np.int64)[::-1])
    gather(wide, np.array([29, 1, 3, 15, 16, 22]), block=10)
    assert len(asked) == 3


def test_a_dict_nests_and_takes_lists_and_text() -> None:
    dataset = open({"in": {"x": np.zeros((3, 2))}, "y": [1, 2, 3], "name": ["a", "b", "c"]})
    assert list(dataset.fields) == ["in.x", "y", "name"]
    batch = dataset.gather(np.array([2, 0]))
    assert batch["name"].tolist() == ["c", "a"]
    assert batch["name"].dtype == object
    assert batch["y"].tolist() == [3, 1]


def test_a_state_and_a_folder_of_npy(tmp_path: Path) -> None:
    image, label = np.arange(24).reshape(6, 4), np.arange(6, dtype=np.uint8)
    np.save(tmp_path / "image.npy", image)
    np.save(tmp_path / "label.npy", label)
    (tmp_path / "README.md").write_text("two fields")
    with open(tmp_path) as folder:
        assert folder.kind == "npy"
        assert list(folder.fields) == ["image", "label"]
        _same(folder.gather(np.array([5, 0]))["image"], image[[5, 0]])
        assert pickle.loads(pickle.dumps(folder)).digest == folder.digest
        digest = folder.digest
    with pytest.raises(ClosedError, match="was closed before"):
        folder.gather(np.array([0]))
    label[3] = 9
    np.save(tmp_path / "label.npy", label)
    assert open(tmp_path).digest != digest
    tk.save({"image": image, "label": label}, tmp_path / "a.safetensors")
    with tk.open(tmp_path / "a.safetensors") as state:
        dataset = open(state)
        copy = pickle.loads(pickle.dumps(dataset))
        assert copy.gather(np.array([3]))["label"].tolist() == [9]
        dataset.close()
        assert state["label"][3] == 9  # which stays open: it was opened by the caller


def test_what_is_given_is_the_callers_own() -> None:
    held = np.zeros((4, 3), np.float32)
    for array in (held, held.T.copy().T):
        dataset = open({"x": array})
        dataset.gather(np.arange(4))["x"][:] = 1
        dataset[0]["x"][:] = 1
        dataset.samples(np.arange(2))[0]["x"][:] = 1
    assert not held.any()


_NESTED: dict[str, Any] = {}
_NESTED["x"] = _NESTED


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        (
            {"w": np.ones((3, 4)), "b": np.ones(4), "c": np.ones((4, 2))},
            r"w \(3, 4\), b \(4,\), c \(4, 2\)\. Name those that do, such as fields=\['b', 'c'\]",
        ),
        ({"x": np.ones(3), "step": np.array(7)}, r"step \(\)\. .*fields=\['x'\]"),
        ({"step": np.array(7)}, r"step \(\)\. A model's weights are no training data"),
        ({}, "holds no arrays"),
        ({"x": {1, 2}}, "the field 'x' is a set, which is no array"),
        ({"x": np.zeros(3, "datetime64[s]")}, "the field 'x' makes no batch"),
        ({"x": [{}, {}]}, "the field 'x' makes no batch"),
        ({"x": [[1], [2, 3]]}, "the field 'x' is a list of lists of several lengths"),
        ({"x": np.ma.masked_equal([1, 2], 2)}, "'x' is a masked array"),
        ({"a": {"b": [1]}, "a.b": [2]}, r"two fields are called 'a\.b'"),
        (_NESTED, "nested more than 64 deep"),
    ],
    ids=[
        "weights",
        "scalar",
        "only scalars",
        "nothing",
        "set",
        "dates",
        "objects",
        "ragged",
        "masked",
        "twice",
        "endless",
    ],
)
def test_what_is_no_samples(arrays: dict[str, Any], told: str) -> None:
    with pytest.raises(UnsupportedError, match=told):
        open(arrays)


def test_quantized_blocks_have_no_rows(tmp_path: Path) -> None:
    tk.save({"w": np.zeros((4, 32), np.float32)}, tmp_path / "a.gguf", quantize="q8_0")
    with pytest.raises(UnsupportedError, match=r"quantized .q8_0., and so has no rows. Leave it"):
        open(tmp_path / "a.gguf", fields=["w"])


def test_no_such_field() -> None:
    with pytest.raises(MissingError, match=r"has no field 'imge'. Did you mean image"):
        open({"image": np.ones(3), "label": np.ones(3)}, fields=["imge"])
    with pytest.raises(MissingError, match=r"has no field 'q'. It has image, label\."):
        open({"image": np.ones(3), "label": np.ones(3)}, fields=["q"])


def test_little_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.broadcast_to(np.uint8(0), (1, 64, 64)))
    head = (
        (tmp_path / "a.npy")
        .read_bytes()[:128]
        .replace(b"(1, 64, 64), }    ", b"(99999, 64, 64), }")
    )
    (tmp_path / "a.npy").write_bytes(head)
    os.truncate(tmp_path / "a.npy", 128 + 99_999 * 4096)  # sparse
    read = [0]
    into = FileSource._readinto

    def counted(self: FileSource, start: int, buffer: memoryview) -> None:
        read[0] += buffer.nbytes
        into(self, start, buffer)

    monkeypatch.setattr(FileSource, "_readinto", counted)
    monkeypatch.setattr("tensorkeep.syscalls.network_filesystem", lambda fd: "nfs")  # never mapped
    with open(tmp_path / "a.npy") as dataset:
        assert read[0] < 64 << 10
        read[0] = 0
        dataset.gather(np.array([70_000, 3, 99_998, 4]))
        assert read[0] == 4 * 4096
        read[0] = 0
        assert dataset.digest
        assert read[0] <= 384 << 10


@pytest.mark.parametrize("rows", [20, 4000])
@pytest.mark.parametrize("name", ["a.npy", "a.safetensors"])
def test_a_file_that_is_cut_short_later(tmp_path: Path, name: str, rows: int) -> None:
    tk.save(np.ones((rows, 64), np.uint8), tmp_path / name)
    with open(tmp_path / name) as dataset:
        dataset.gather(np.array([rows - 1]))
        os.truncate(tmp_path / name, 200)
        with pytest.raises(CorruptError, match="is shorter now"):
            dataset.gather(np.array([rows - 1]))


def test_every_truncation_is_an_error_of_ours(tmp_path: Path) -> None:
    tk.save({"x": np.arange(12).reshape(6, 2), "s": np.array(list("abcdef"))}, tmp_path / "a.npz")
    whole = (tmp_path / "a.npz").read_bytes()
    for size in range(0, len(whole), 7):
        (tmp_path / "b.npz").write_bytes(whole[:size])
        with pytest.raises(tk.TensorKeepError):
            open(tmp_path / "b.npz").gather(np.arange(6))


def test_a_header_that_claims_more_than_there_is(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((10, 10)))
    data = (tmp_path / "a.npy").read_bytes()
    huge = data.replace(b"(10, 10), }", b"(9999999999999, 10), }".ljust(11))
    (tmp_path / "a.npy").write_bytes(huge[:128] + data[128:])
    with pytest.raises(CorruptError):
        open(tmp_path / "a.npy")


def test_verify_tells_the_field(tmp_path: Path) -> None:
    tk.save({"x": np.arange(50_000), "y": np.arange(50_000)}, tmp_path / "a.safetensors")
    with builtin_open(tmp_path / "a.safetensors", -100) as file:
        file.write(b"\xff")
    with open(tmp_path / "a.safetensors") as dataset:
        (problem,) = dataset.verify()
        assert "the tensor 'y' is damaged" in problem
    with open(tmp_path / "a.safetensors", fields=["x"]) as dataset:
        assert dataset.verify() == []


def test_verify_tells_the_samples_of_a_damaged_chunk(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 9, (90, 400), np.uint8)
    _hdf5(tmp_path / "a.h5", {"x": values}, chunks=(30, 400), compression="gzip")
    with h5py.File(tmp_path / "a.h5") as file:
        at = file["x"].id.get_chunk_info(1).byte_offset
    with builtin_open(tmp_path / "a.h5", at + 10) as file:
        file.write(b"\xff" * 40)
    with open(tmp_path / "a.h5") as dataset:
        (problem,) = dataset.verify()
        assert "samples 30 to 59, field 'x'" in problem
        assert dataset.gather(np.array([0, 89]))["x"].tolist() == values[[0, 89]].tolist()
        with pytest.raises(CorruptError):
            dataset.gather(np.array([31]))


def test_digests_follow_the_content(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 255, (5000, 300), np.uint8)
    for checksums in (True, False):
        digests = set()
        for changed in (False, True):
            x[2500, 7] ^= changed
            path = tmp_path / f"{checksums}{changed}.safetensors"
            tk.save({"x": x}, path, checksums=checksums)
            with open(path) as dataset:
                digests.add(dataset.digest)
        # A sample of the bytes may miss one in the middle; digests of the file's own never do.
        assert len(digests) == 2 or not checksums
    assert open({"x": x}).digest == open({"x": x.copy()}).digest
    assert open({"x": x}).digest != open({"y": x}).digest
    assert open({"x": x}).digest != open({"x": x.reshape(5000, 30, 10)}).digest
    assert open({"x": x}).digest != open({"x": x.view(np.int8)}).digest
    assert isinstance(open({"x": x}), ArraysDataset)


def builtin_open(path: Path, at: int) -> Any:
    file = path.open("r+b")
    file.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
    return file
