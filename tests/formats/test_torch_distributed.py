"""Torch distributed checkpoints that torch wrote: see tests/data/pytorch_distributed."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import formats
from tensorkeep.errors import CorruptError, MissingError, TensorKeepError
from tensorkeep.store import Location
from tensorkeep.stores.file import FileStore
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.tensor import Tensor
from tensorkeep.testing import CountingStore, assert_equal_states
from tensorkeep.wire.chunks import Axes, Box, Gathered, check_cover

DATA = Path(__file__).parents[1] / "data" / "pytorch_distributed"
FOLDER = DATA / "four_ranks"


def made() -> Any:
    spec = importlib.util.spec_from_file_location("make_distributed", DATA / "make.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in FOLDER.iterdir()}


def expected() -> dict[str, Any]:
    module = made()
    model = {
        name: module.value(shape).astype(tk.dtypes.dtype(kind).numpy)
        for name, (shape, kind, _) in module.SHARDED.items()
    }
    return {
        "model": {**model, "copied": np.arange(4, dtype=np.float32)},
        "optim": {
            "state": {"0": {"step": np.array(3, np.float32)}},
            "groups": [{"lr": 0.5, "on": (0, 1)}],
        },
        "step": 7,
    }


@pytest.mark.parametrize("copy", [False, True])
def test_chunks_of_four_ranks_are_whole_tensors(copy: bool) -> None:
    assert_equal_states(tk.load(FOLDER, copy=copy, verify=True), expected())
    assert_equal_states(tk.load(FOLDER / ".metadata"), expected())
    with tk.open(FOLDER) as state:
        assert state.format == "torch-distributed"
        assert state.remarks["model.grid"] == "in 4 chunks"
        assert "model.copied" not in state.remarks
        assert state.refused == ()


def test_every_slice() -> None:
    wanted = expected()["model"]
    with tk.open(FOLDER) as state:
        for index in (slice(1, 2), (slice(None), slice(2, 5)), (1, 1), (slice(-2, None), -1), ...):
            for name in ("rows", "columns", "deep", "grid", "uneven"):
                found = state[f"model.{name}"][index]
                assert_equal_states(found, np.asarray(wanted[name][index]), f"{name} {index}")


def test_converting(tmp_path: Path) -> None:
    assert tk.convert(FOLDER, tmp_path / "a.safetensors") == []
    assert_equal_states(tk.load(tmp_path / "a.safetensors", verify=True), expected())


def test_opening_reads_no_tensor() -> None:
    store = CountingStore(MemoryStore(files()))
    with tk.open(Location(store)) as state:
        opening = store.bytes_read
        assert opening < 20_000
        assert np.array_equal(state["model.few"][1:], [1])
        assert store.bytes_read - opening < 2500


@pytest.mark.parametrize(("lacking", "kind"), [(".metadata", None), ("__1_0.distcp", MissingError)])
def test_a_file_that_is_missing(lacking: str, kind: Any) -> None:
    given = files()
    del given[lacking]
    location = Location(MemoryStore(given))
    assert formats.FORMATS["torch-distributed"].accepts(location) == (kind is not None)
    with pytest.raises(kind or TensorKeepError):
        tk.load(location)


def test_the_files_stay_open_no_longer_than_the_state(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "c")
    state = tk.open(Location(FileStore(tmp_path / "c")))
    tensor = state["model.rows"]
    tensor.numpy()
    state.close()
    with pytest.raises(TensorKeepError, match="closed"):
        tensor.numpy()


def test_truncations() -> None:
    for name, data in files().items():
        for length in range(0, len(data), 397):
            given = files() | {name: data[:length]}
            with pytest.raises(TensorKeepError):
                tk.load(Location(MemoryStore(given)), verify=True)


def test_flipped_bits_are_found_or_do_no_harm() -> None:
    wanted = expected()
    for name, data in files().items():
        for place in range(0, 8 * len(data), 1511):
            flipped = bytearray(data)
            flipped[place // 8] ^= 1 << place % 8
            try:
                found = tk.load(
                    Location(MemoryStore(files() | {name: bytes(flipped)})), verify=True
                )
            except TensorKeepError:
                continue
            if name != ".metadata":  # which has no checksum
                assert_equal_states(found, wanted, f"{name}, bit {place}")


# --- chunks -------------------------------------------------------------------------------------


def boxes(array: Any, cuts: list[tuple[slice, ...]]) -> list[Box]:
    return [
        Box(
            tuple(part.start for part in cut),
            tuple(part.stop - part.start for part in cut),
            Tensor.of(np.ascontiguousarray(array[cut])),
        )
        for cut in cuts
    ]


def test_every_range_of_bytes_is_gathered() -> None:
    array = np.arange(2 * 3 * 5, dtype=np.int16).reshape(2, 3, 5)
    whole, canonical = slice(0, 2), array.tobytes()
    cuts: list[tuple[slice, ...]] = [
        (whole, slice(0, 1), slice(0, 5)),
        (whole, slice(1, 3), slice(0, 2)),
        (slice(0, 1), slice(1, 3), slice(2, 5)),
        (slice(1, 2), slice(1, 3), slice(2, 5)),
    ]
    parts = boxes(array, cuts)
    check_cover(array.shape, [box[:2] for box in parts], "w", "it")
    source = Gathered(tk.dtypes.INT16, array.shape, parts, "it")
    for start in range(len(canonical) + 1):
        for stop in range(start, len(canonical) + 1):
            assert bytes(source.read(start, stop)) == canonical[start:stop]


def test_chunks_that_do_not_cover() -> None:
    good: list[tuple[Axes, Axes]] = [((0, 0), (2, 3)), ((2, 0), (2, 3))]
    check_cover((4, 3), good, "w", "it")
    check_cover((0, 3), [], "w", "it")
    check_cover((), [((), ())], "w", "it")
    with pytest.raises(CorruptError, match="6 elements of 'w' are in no chunk"):
        check_cover((4, 3), good[:1], "w", "it")
    with pytest.raises(CorruptError, match=r"chunks of 'w' overlap at \(1, 0\)"):
        check_cover((4, 3), [*good[:1], ((1, 0), (3, 3))], "w", "it")
    with pytest.raises(CorruptError, match="overlap"):
        check_cover((4, 3), [*good, ((3, 2), (1, 1))], "w", "it")
