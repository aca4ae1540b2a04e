"""Checkpoints that TensorFlow 2.21 wrote (see tests/data/tensorflow), and others made here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.formats.bundles import (
    INT4,
    QINT8,
    VARIANT,
    bundle,
    entry,
    files,
    header,
)

import tensorkeep as tk
from tensorkeep import formats
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    MissingError,
    UnknownFormatError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.formats.tensorflow import FORMAT
from tensorkeep.formats.tensorflow.slices import slice_key
from tensorkeep.source import MemorySource
from tensorkeep.state import State
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.testing import CountingStore
from tensorkeep.wire.crc32c import crc32c, mask

DATA = Path(__file__).parent.parent / "data" / "tensorflow"
INDEXES = sorted(path.relative_to(DATA).as_posix() for path in DATA.rglob("*.index"))
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def at(data: dict[str, bytes], key: str = "model.index") -> Location:
    return Location(MemoryStore(data), key)


def opened(data: dict[str, bytes], key: str = "model.index") -> State:
    return tk.open(at(data, key))


def written(state: State, name: str) -> list[Any]:
    """Give a tensor as make_tensorflow.py writes it down."""
    tensor = state[name]
    if tensor.dtype is tk.dtype("string"):
        texts = [text.encode("utf-8", "surrogateescape").hex() for text in tensor.numpy().flat]
        return ["string", list(tensor.shape), texts]
    array = tensor.numpy()
    return [str(array.dtype), list(array.shape), array.tobytes().hex()]


@pytest.mark.parametrize("index", INDEXES)
def test_what_tensorflow_wrote(index: str) -> None:
    expected = json.loads((DATA / f"{index.replace('/', '_')}.json").read_text())
    with tk.open(DATA / index) as state:
        assert state.format == "tensorflow"
        assert list(state) == list(expected)
        assert {name: written(state, name) for name in state} == expected
    checked = tk.verify(DATA / index)
    assert checked.ok
    assert not checked.unchecked
    assert len(tk.load(DATA / index, verify=True, copy=True)) == len(expected)


def test_every_type_has_a_golden_tensor() -> None:
    with tk.open(DATA / "dtypes.index") as state:
        found = {tensor.dtype.name for tensor in state.values()}
    assert len(found) == 20
    assert {"bfloat16", "float8_e5m2", "int4", "uint4", "string", "complex128", "bool"} <= found


def test_the_places_that_mean_a_checkpoint() -> None:
    with tk.open(DATA / "run") as state:
        assert state.where.endswith("run/ckpt-2.index")
        assert state[f"step{SUFFIX}"].numpy() == 2
    with tk.open(DATA / "run" / "ckpt-1") as state:
        assert state[f"step{SUFFIX}"].numpy() == 1
    with tk.open(DATA / "saved_model") as state:
        assert state[f"kernel{SUFFIX}"][1].tolist() == [3, 4, 5]
        about = state.metadata["tensorflow"]
        assert isinstance(about, dict)
        assert about["graph"] == "not read: only the variables of a SavedModel are"
    with tk.open(DATA / "saved_model" / "variables" / "variables") as state:
        assert len(state) == 2


def test_names_in_the_program_are_metadata() -> None:
    with tk.open(DATA / "keras") as state:
        about: Any = state.metadata["tensorflow"]
    names = about["full_names"]
    assert names[f"model/optimizer/_trainable_variables/0{SUFFIX}"] == "sequential/first/kernel"
    assert set(names) <= set(state)
    assert (about["shards"], about["byte_order"], about["producer"]) == (1, "little", 1)


def test_partitioned_variables_are_joined_lazily() -> None:
    store = CountingStore(MemoryStore({p.name: p.read_bytes() for p in (DATA / "saver").iterdir()}))
    with tk.open(Location(store, "model.ckpt-7.index")) as state:
        assert state.remarks == {"columns": "4 slices", "rows": "3 slices"}
        about: Any = state.metadata["tensorflow"]
        assert about["shards"] == 2
        rows, columns = state["rows"].numpy(), state["columns"].numpy()
        assert (rows.shape, columns.shape) == ((7, 3), (3, 7))
        before = store.bytes_read
        assert np.array_equal(state["rows"][4], rows[4])
        assert store.bytes_read - before == 12
        assert np.array_equal(state["columns"][1, 2:5], columns[1, 2:5])
        assert store.bytes_read - before == 12 + 56


def test_it_converts(tmp_path: Path) -> None:
    tk.convert(DATA / "saver" / "model.ckpt-7", tmp_path / "a.safetensors")
    with (
        tk.open(DATA / "saver" / "model.ckpt-7") as old,
        tk.open(tmp_path / "a.safetensors") as new,
    ):
        assert {n: t.numpy().tolist() for n, t in new.items()} == {
            n: t.numpy().tolist() for n, t in old.items()
        }


ARRAYS: dict[str, Any] = {
    "bits": np.array([True, False]),
    "complex": np.array([[1 + 2j, -3j]], np.complex64),
    "empty": np.zeros((0, 2), np.float32),
    "half": np.array([1.5, -2], np.float16),
    "int": np.arange(300, dtype=np.int64).reshape(3, 100),
    "scalar": np.float32(2.5),
    "text": [b"", b"one", b"x" * 300],
    "wide": np.array([1e300, np.nan]),
}


@pytest.mark.parametrize("big", [False, True], ids=["little", "big"])
def test_both_byte_orders(big: bool) -> None:
    with opened(bundle(ARRAYS, big=big)) as state:
        assert list(state) == sorted(ARRAYS)
        for name, value in ARRAYS.items():
            if isinstance(value, list):
                assert state[name].numpy().tolist() == [text.decode() for text in value]
            else:
                assert state[name].numpy().tobytes() == value.tobytes()
                assert state[name].shape == value.shape
        assert state["int"][1, 5:90:7].tolist() == list(range(105, 190, 7))
        assert bytes(state["int"].source.read(state["int"].offset + 3, state["int"].offset + 12))
        for check in state.checks.values():
            check()
    assert tk.verify(at(bundle(ARRAYS, big=big))).ok


def test_plain_bytes_are_not_copied() -> None:
    data = bundle({"w": np.arange(4, dtype=np.float32)})
    store = MemoryStore(data)
    with tk.open(Location(store, "model.index")) as state:
        view = np.frombuffer(store.data["model.data-00000-of-00001"], np.float32)
        assert np.shares_memory(state["w"].numpy(), view)


def test_opening_reads_the_index_alone(tmp_path: Path) -> None:
    arrays = {f"layer/{i:04}/kernel": np.full((50, 50), i, np.float32) for i in range(400)}
    store = CountingStore(MemoryStore(bundle(arrays)))
    with tk.open(Location(store, "model.index")) as state:
        assert store.bytes_read < 100_000
        assert all(key == "model.index" for key, _, _ in store.ranges)
        before = store.bytes_read
        assert state["layer/0007/kernel"][3].tolist() == [7.0] * 50
        assert store.bytes_read - before == 200


def test_types_with_something_to_say() -> None:
    raw = bytes([1, 0xFF, 3, 0xF8, 7])
    crc = mask(crc32c(raw))
    rows = [
        (b"", header()),
        (b"four", entry(INT4, [5], 0, 5, crc)),
        (b"quantized", entry(QINT8, [5], 5, 5, crc)),
        (b"resource", entry(20, [], 10, 0)),
        (b"strange", entry(27, [5], 10, 5, crc)),
        (b"unheard", entry(99, [5], 15, 5, crc)),
        (b"variant", entry(VARIANT, [], 20, 5, crc)),
    ]
    with opened(files(rows, raw * 5)) as state:
        assert state["four"].numpy().astype(int).tolist() == [1, -1, 3, -8, 7]
        assert state["four"].nbytes == 3
        assert state["four"][1:4].astype(int).tolist() == [-1, 3, -8]
        assert state["quantized"].numpy().tolist() == [1, -1, 3, -8, 7]
        assert state.remarks == {"quantized": "qint8"}
        about: Any = state.metadata["tensorflow"]
        assert about["unread"] == {
            "resource": "a resource",
            "strange": "float8_e4m3b11fnuz",
            "unheard": "type 99",
            "variant": "a variant",
        }
    assert tk.verify(at(files(rows, raw * 5))).ok


def sliced(shape: tuple[int, ...], boxes: list[Any], big: bool = False) -> tuple[Any, Any]:
    """Give an array, and the files of a checkpoint that holds it in slices."""
    whole = np.arange(np.prod(shape), dtype=">i2" if big else "<i2").reshape(shape)
    rows, data = [(b"", header(big=big)), (b"w", entry(5, shape, slices=boxes))], bytearray()
    for box in boxes:
        part = whole[tuple(slice(a, None if n < 0 else a + n) for a, n in box)]
        raw = part.tobytes()
        crc = mask(crc32c(raw))
        rows.append((slice_key("w", box), entry(5, part.shape, len(data), len(raw), crc)))
        data += raw
    return whole, files(rows, bytes(data))


BOXES: dict[str, tuple[tuple[int, ...], list[Any]]] = {
    "one": ((2, 3), [((0, -1), (0, -1))]),
    "rows": ((5, 3), [((0, 2), (0, -1)), ((2, 0), (0, -1)), ((2, 3), (0, -1))]),
    "corners": (
        (4, 6),
        [((0, 3), (0, 2)), ((0, 3), (2, 4)), ((3, 1), (0, 5)), ((3, 1), (5, 1))],
    ),
    "deep": ((2, 3, 4), [((0, 2), (0, 3), (a, 1)) for a in range(4)]),
    "far": ((1000,), [((0, 700),), ((700, 300),)]),
}


@pytest.mark.parametrize(("shape", "boxes"), BOXES.values(), ids=BOXES)
@pytest.mark.parametrize("big", [False, True], ids=["little", "big"])
def test_slices_of_every_cut(shape: tuple[int, ...], boxes: list[Any], big: bool) -> None:
    whole, data = sliced(shape, boxes, big)
    with opened(data) as state:
        tensor = state["w"]
        assert np.array_equal(tensor.numpy(), whole)
        flat = whole.astype("<i2").tobytes()
        for start in range(0, len(flat), 7):
            stop = min(len(flat), start + 13)
            assert bytes(tensor.source.read(start, stop)) == flat[start:stop]
    assert tk.verify(at(data)).ok
    shard = bytearray(data["model.data-00000-of-00001"])
    shard[-1] ^= 1
    assert [
        name
        for name, _ in tk.verify(at({**data, "model.data-00000-of-00001": bytes(shard)})).damaged
    ] == ["w"]


@given(st.binary(max_size=8), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4))
def test_slice_keys_differ_and_sort(name: bytes, numbers: list[int]) -> None:
    text = name.decode("utf-8", "surrogateescape")
    keys = [slice_key(text, ((n, -1),)) for n in sorted(set(numbers))]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


BAD_SLICES = {
    "gap": ([((0, 2), (0, -1)), ((3, 2), (0, -1))], "hold 12 of its 15 elements"),
    "overlap": ([((0, 3), (0, -1)), ((1, 2), (0, -1))], "hold 15 of its 15 .*twice"),
    "corner overlap": (
        [((0, 5), (0, 2)), ((0, 2), (1, 2)), ((4, 1), (2, 1))],
        "hold 15 of its 15 .*twice",
    ),
}


@pytest.mark.parametrize(("boxes", "problem"), BAD_SLICES.values(), ids=BAD_SLICES)
def test_slices_that_do_not_cover(boxes: list[Any], problem: str) -> None:
    with pytest.raises(CorruptError, match=problem):
        opened(sliced((5, 3), boxes)[1])


def test_slices_that_are_others() -> None:
    box = ((0, -1), (0, -1))
    raw = bytes(12)
    part = entry(5, [2, 3], 0, 12, mask(crc32c(raw)))
    whole = (b"w", entry(5, [2, 3], slices=[box]))
    head = (b"", header())
    cases = [
        ([head, whole], "is not there"),
        ([head, (slice_key("w", box), part)], "slices of no tensor"),
        ([head, whole, (slice_key("w", box), entry(5, [3, 2], 0, 12))], "is another"),
        ([head, whole, (slice_key("w", box), entry(19, [2, 3], 0, 12))], "is another"),
        ([head, (b"w", entry(5, [2, 3], slices=[((1, 2), (0, 3))]))], "is not there"),
        (
            [
                head,
                (b"w", entry(5, [2, 3], slices=[((1, 2), (0, 3))])),
                (slice_key("w", ((1, 2), (0, 3))), part),
            ],
            "is not inside a tensor of shape",
        ),
    ]
    for rows, problem in cases:
        with pytest.raises(CorruptError, match=problem):
            opened(files(rows, raw))


def test_a_shard_that_is_missing() -> None:
    data = bundle({"w": np.ones(2, np.float32)})
    del data["model.data-00000-of-00001"]
    with pytest.raises(MissingError, match=r"needs the data file model\.data-00000-of-00001"):
        opened(data)


def test_folders_that_point_nowhere_good(tmp_path: Path) -> None:
    shutil.copytree(DATA / "run", tmp_path / "run")
    pointer = tmp_path / "run" / "checkpoint"

    def point(path: str) -> None:
        pointer.write_text(f"model_checkpoint_path: {json.dumps(path)}\n")

    point(f"{tmp_path}/elsewhere/ckpt-1")  # where it was before it was moved
    with tk.open(tmp_path / "run") as state:
        assert state.where.endswith("run/ckpt-1.index")
    shutil.copytree(DATA / "run", tmp_path / "other")
    for path in ("../other/ckpt-1", "a/../../other/ckpt-1", f"{tmp_path}/other/ckpt-9"):
        point(path)
        with pytest.raises(UnsafeError, match=r"inside its own folder|outside its own folder"):
            tk.open(tmp_path / "run")
    point("ckpt-9")
    with pytest.raises(MissingError, match="points to the checkpoint 'ckpt-9', which is not"):
        tk.open(tmp_path / "run")
    pointer.write_text('model_checkpoint_path: ""')
    with pytest.raises(CorruptError, match="points to no checkpoint"):
        tk.open(tmp_path / "run")
    pointer.write_text("model_checkpoint_path: 3")
    with pytest.raises(CorruptError):
        tk.open(tmp_path / "run")
    pointer.write_text("something else")
    with pytest.raises(UnknownFormatError):
        tk.open(tmp_path / "run")


def test_a_saved_model_without_variables() -> None:
    with pytest.raises(UnsupportedError, match="is a SavedModel without variables"):
        tk.open(MemoryStore({"saved_model.pb": b"\x08\x01"}))


def test_names_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        tk.open(tmp_path / "model.ckpt")


def test_only_its_own_files_are_accepted() -> None:
    data = bundle(ARRAYS)
    assert formats.detect(at(data)).name == "tensorflow"
    assert formats.detect(at({"w": data["model.index"]}, "w")).name == "tensorflow"
    assert not FORMAT.accepts(at({"w": bytes(100)}, "w"))
    assert not FORMAT.accepts(at({"w.index": b""}, "w.index"))
    with pytest.raises(CorruptError, match="does not end as a sorted table"):
        tk.open(at({"w.index": bytes(100)}, "w.index"))


def test_it_is_only_read(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"is read here, not written.*TensorFlow"):
        tk.save({"w": np.ones(2)}, tmp_path / "a.index", format="tensorflow")


def test_a_damaged_object_graph_leaves_the_tensors_readable() -> None:
    graph = "_CHECKPOINTABLE_OBJECT_GRAPH"
    good = bundle({graph: [b"\x0a\xff"], "w": np.ones(2, np.float32)})
    rows = [(b"", header()), (graph.encode(), entry(7, [], 0, 7, 1))]
    with opened(good) as state:  # a row of one, not a scalar
        assert len(state) == 2
    raw = b"\x02" + mask(crc32c(b"\2\0\0\0")).to_bytes(4, "little") + b"\x0a\xff"
    with opened(files(rows, raw)) as state:
        about: Any = state.metadata["tensorflow"]
        assert about["object_graph"].startswith("not read: ")
    assert MemorySource(raw).size == 7
