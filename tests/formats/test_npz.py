from __future__ import annotations

import gc
import io
import json
import resource
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tensorkeep as tk
from tensorkeep import formats
from tensorkeep.checksum import digest
from tensorkeep.dtypes import DTYPES, INT4, STRING, UINT8, DType
from tensorkeep.errors import (
    CorruptError,
    TensorKeepError,
    UnknownFormatError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.formats import npz
from tensorkeep.source import MemorySource
from tensorkeep.store import Late, Location, join
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.testing import CountingStore, assert_equal_states, sample, states

SHAPES: list[tuple[int, ...]] = [(), (0,), (3,), (2, 3, 4), (0, 3)]


def at(data: bytes, key: str = "a.npz") -> Location:
    return Location(MemoryStore({key: data}), key)


def saved(value: Any, **options: Any) -> bytes:
    store = MemoryStore()
    tk.save(value, Location(store, "a.npz"), **options)
    return store.data["a.npz"]


def numpy_saved(arrays: dict[str, Any], *, compress: bool = False) -> bytes:
    out = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(out, **arrays)
    return out.getvalue()


def numpy_loaded(data: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return dict(archive)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def npy(array: npt.NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array)
    return out.getvalue()


def names_in(data: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(data)).namelist()


def refused(data: bytes, kind: type[TensorKeepError], problem: str) -> None:
    assert not npz.accepts(at(data)) or kind is not UnknownFormatError
    with pytest.raises(kind, match=problem):
        tk.load(at(data))


FLAT = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "layer.0/b": np.array(7, np.int64),
    "ünï": np.zeros((0, 3), bool),
    "c": np.array([1 + 2j]),
    "a": np.ones(3, np.uint8),
    "a.npy": np.ones(2, np.float16),
    "tensorkeep.json": np.zeros(1),
    "$": np.zeros(2),
}


# --- both ways ----------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
def test_a_flat_dict_is_what_savez_writes(compress: bool) -> None:
    data = saved(FLAT, compress=compress)
    reference = numpy_saved(FLAT, compress=compress)
    assert names_in(data) == names_in(reference) == [f"{name}.npy" for name in FLAT]
    with (
        zipfile.ZipFile(io.BytesIO(data)) as ours,
        zipfile.ZipFile(io.BytesIO(reference)) as theirs,
    ):
        for name in ours.namelist():
            assert ours.read(name) == theirs.read(name)
            assert ours.getinfo(name).compress_type == theirs.getinfo(name).compress_type
    clear = {name: array for name, array in FLAT.items() if name != "a.npy"}  # which NumPy mistakes
    assert_equal_states(numpy_loaded(saved(clear, compress=compress)), clear)
    for file in (data, reference):
        assert_equal_states(tk.load(at(file), verify=True), FLAT)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("kind", DTYPES.values(), ids=str)
def test_every_type_and_shape(kind: DType, compress: bool) -> None:
    arrays = {str(shape): sample(kind, shape).numpy() for shape in SHAPES}
    data = saved(arrays, compress=compress)
    assert_equal_states(tk.load(at(data), verify=True), arrays)
    with tk.open(at(data)) as state:
        assert all(tensor.dtype is kind for tensor in state.values())


@pytest.mark.parametrize("compress", [False, True])
def test_orders_that_numpy_saves(compress: bool) -> None:
    base = np.arange(24).reshape(2, 3, 4)
    arrays = {
        "fortran": np.asfortranarray(base),
        "big": base.astype(">i2"),
        "both": np.asfortranarray(base.astype(">f8")),
        "text": np.asfortranarray(base.astype("<U3")[0]),
    }
    found = tk.load(at(numpy_saved(arrays, compress=compress)), verify=True)
    assert_equal_states(found, arrays)


def test_strings_of_numpy_need_no_notes() -> None:
    arrays = {"u": np.array(["ab", "c"], "<U5"), "s": np.array([b"x\xff"]), "w": np.ones(2)}
    data = saved(arrays)
    assert_equal_states(tk.load(at(data)), arrays)
    assert_equal_states(tk.load(at(numpy_saved(arrays))), arrays)
    assert names_in(data) == ["u.npy", "s.npy", "w.npy"]
    assert_equal_states(numpy_loaded(data), arrays)


def test_strings_beside_names_that_the_skeleton_keeps_for_itself() -> None:
    arrays = {"$a": np.array(["x"]), "": np.array(["y"]), "$": np.ones(1)}
    assert_equal_states(tk.load(at(numpy_saved(arrays))), arrays)
    assert_equal_states(tk.load(at(saved(arrays))), arrays)


STRINGS = {
    "objects": np.array(["a", "ü"], object),
    "NUL at the end": np.array(["a\0", "b"], object),
    "NUL inside": np.array(["a\0b"], object),
    "very long": np.array(["x" * 100_000, *[""] * 100], object),
    "variable": np.array(["a", "bc\0"], np.dtypes.StringDType()),
    "not UTF-8": np.array(["\udcff"], object),
    "none": np.zeros((0, 2), object),
}


@pytest.mark.parametrize("strings", STRINGS.values(), ids=STRINGS)
def test_other_strings(strings: npt.NDArray[Any]) -> None:
    for value in ({"s": strings, "w": np.ones(2)}, {"a": [strings]}, strings):
        data = saved(value)
        assert len(data) < 3_000_000
        assert_equal_states(tk.load(at(data)), value)


@given(value=states())
@settings(max_examples=20)
def test_any_nesting_compressed(value: Any) -> None:
    data = saved([value], compress=True)
    assert_equal_states(tk.load(at(data), verify=True), [value])
    for name, array in numpy_loaded(data).items():
        assert name == npz.NOTES or isinstance(array, np.ndarray)


def test_notes_only_where_they_are_needed() -> None:
    assert npz.NOTES not in names_in(saved(FLAT))
    data = saved({"layer": {"w": np.ones(2)}}, metadata={"epoch": 3})
    assert names_in(data) == ["layer.w.npy", npz.NOTES]
    notes = json.loads(zipfile.ZipFile(io.BytesIO(data)).read(npz.NOTES))
    assert notes == {"version": 1, "metadata": {"epoch": 3}, "tree": {"layer": {"w": "$"}}}
    with tk.open(at(data)) as state:
        assert state.metadata == {"epoch": 3}


def test_states_without_arrays() -> None:
    values: list[Any] = [{}, [], None, 3, {"a": {}, "b": "text"}]
    for value in values:
        assert_equal_states(tk.load(at(saved(value))), value)
    assert saved({}) == numpy_saved({})


def test_saving_again_gives_the_same_bytes(tmp_path: Path) -> None:
    value = {"a": [np.arange(5), np.array(["x"])], "b": 2}
    for compress in (False, True):
        tk.save(value, tmp_path / "a.npz", compress=compress)
        first = (tmp_path / "a.npz").read_bytes()
        tk.save(tk.open(tmp_path / "a.npz"), tmp_path / "a.npz", compress=compress)
        assert (tmp_path / "a.npz").read_bytes() == first


# --- laziness -----------------------------------------------------------------------------------


def test_elements_are_mapped_where_they_are(tmp_path: Path) -> None:
    names = ["w" * length for length in range(1, 70)]
    tk.save({name: np.arange(5, dtype=np.float64) for name in names}, tmp_path / "a.npz")
    with tk.open(tmp_path / "a.npz") as state:
        sources = {tensor.source for tensor in state.values()}
        assert len(sources) == 1
        assert sources.pop().mapped
        assert all(tensor.offset % 64 == 0 for tensor in state.values())
    loaded = tk.load(tmp_path / "a.npz")
    loaded["w"][:] = -1
    assert np.array_equal(np.load(tmp_path / "a.npz")["w"], np.arange(5))


@pytest.mark.parametrize("compress", [False, True])
def test_opening_reads_headers_only(compress: bool) -> None:
    rng = np.random.default_rng(0)
    arrays = {str(i): rng.random((100, 1000)) for i in range(5)}
    store = CountingStore(MemoryStore({"a.npz": numpy_saved(arrays, compress=compress)}))
    with tk.open(Location(store, "a.npz")) as state:
        assert store.bytes_read < 20_000
        before = store.bytes_read
        assert np.array_equal(state["3"][7], arrays["3"][7])
        read = store.bytes_read - before
        assert read == 8000 if not compress else 700_000 < read < 800_000
        assert np.array_equal(state["3"][8], arrays["3"][8])
        assert compress is False or store.bytes_read - before == read


def test_the_size_is_known_before_writing() -> None:
    values: list[Any] = [FLAT, {"a": [np.array(["x"])]}, {"s": STRINGS["very long"]}, {}]
    for value in values:
        state = tk.api._state_of(value)
        (stream,) = npz.encode(state, at(b""))
        assert stream.size == len(join(stream.chunks or []))
        (stream,) = npz.encode(state, at(b""), compress=True)
        assert stream.size is None


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is in other units elsewhere")
def test_writing_a_large_array_holds_pieces_of_it(tmp_path: Path) -> None:
    large = np.broadcast_to(np.float32(1), (300, 1 << 20))  # 1.2 GiB that take no memory
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    state = tk.State({"large": tk.Tensor.of(large)})
    (stream,) = npz.encode(state, at(b""))
    total = sum(len(c) for c in stream.chunks or [] if not isinstance(c, Late))
    assert total == stream.size
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000


def test_closing(tmp_path: Path) -> None:
    for arrays in ({"w": np.ones(3)}, {"w": np.asfortranarray(np.ones((2, 3)))}):
        for compress in (False, True):
            (tmp_path / "a.npz").write_bytes(numpy_saved(arrays, compress=compress))
            state = tk.open(tmp_path / "a.npz")
            tensor = state["w"]
            tensor.numpy()
            state.close()
            with pytest.raises(TensorKeepError, match="closed"):
                tensor.numpy()


# --- what is accepted ---------------------------------------------------------------------------


def test_acceptance() -> None:
    assert npz.accepts(at(numpy_saved(FLAT)))
    assert npz.accepts(at(saved([])))
    assert formats.detect(at(saved(FLAT), "anything.bin")).name == "npz"
    for data in (
        b"",
        b"PK\3\4",
        b"PK\5\6" + bytes(18),
        saved(FLAT)[:-1],
        zipped({"a.npy": b"", "data.pkl": b""}),
        zipped({"readme.txt": b""}),
        bytes(100_000),
    ):
        assert not npz.accepts(at(data))


def test_the_ending_routes_damaged_archives_here() -> None:
    refused(saved(FLAT)[:-1], CorruptError, "is not a zip archive, or its end is missing")
    refused(zipped({"a.npy": npy(np.ones(1)), "b.txt": b""}), UnknownFormatError, "'b.txt'")
    assert tk.load(at(numpy_saved({}))) == {}


NAMES = ["/etc/passwd", "a\\b", "tensorkeep-name/x", "tensorkeep-name/%2F", "/%2e%2e", "%5C", "//"]


def test_names_that_no_member_should_have() -> None:
    arrays = {name: np.full(2, i) for i, name in enumerate(NAMES)}
    data = saved(arrays)
    assert_equal_states(tk.load(at(data)), arrays)
    assert names_in(data)[:2] == [
        "tensorkeep-name/%2Fetc%2Fpasswd.npy",
        "tensorkeep-name/a%5Cb.npy",
    ]
    assert "%5C.npy" in names_in(data)


def test_names_that_lead_out_when_unquoted() -> None:
    refused(zipped({"tensorkeep-name/%2e%2e%2Fx.npy": npy(np.ones(1))}), UnsafeError, "as a folder")
    twice = {"tensorkeep-name/x.npy": npy(np.ones(1)), "x.npy": npy(np.ones(1))}
    refused(zipped(twice), CorruptError, "'x' twice")
    broken = tk.load(at(zipped({"tensorkeep-name/%ff%.npy": npy(np.ones(1))})))
    assert list(broken) == ["\ufffd%"]


def test_an_empty_name() -> None:
    arrays = {"": np.ones(1), "a": np.zeros(1)}
    assert_equal_states(tk.load(at(numpy_saved(arrays))), arrays)
    state = tk.State({name: tk.Tensor.of(array) for name, array in arrays.items()})
    assert_equal_states(tk.load(at(saved(state))), arrays)


@given(st.dictionaries(st.text(min_size=1, max_size=30), st.integers(0, 3), max_size=5))
def test_any_names(counts: dict[str, int]) -> None:
    arrays = {name: np.arange(count) for name, count in counts.items()}
    assert_equal_states(tk.load(at(saved(arrays))), arrays)


# --- damage and malice --------------------------------------------------------------------------


def test_a_flipped_bit_is_found_by_verify(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    tk.save({"w": np.ones(1000), "v": np.zeros(10)}, path)
    with tk.open(path) as state:
        at_byte = state["w"].offset + 5000
    data = bytearray(path.read_bytes())
    data[at_byte + 7] ^= 1
    path.write_bytes(data)
    assert tk.load(path)["w"].sum() != 1000
    assert_equal_states(tk.load(path, names="v", verify=True), {"v": np.zeros(10)})
    with pytest.raises(CorruptError, match=r"'w\.npy' is damaged: its CRC-32 is"):
        tk.load(path, verify=True)


DAMAGED = {
    "stored": saved({"w": np.arange(3, dtype=np.int16), "é": np.ones(1)}),
    "compressed": saved({"w": np.arange(9), "t": np.array(["x"])}, compress=True),
    "numpy's": numpy_saved({"w": np.arange(3, dtype=np.int16), "s": np.array(["ab"])}),
    "noted": saved({"w": [np.array(["a\0"], object)], "i": 3}),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_every_flipped_bit(data: bytes) -> None:
    expected = tk.load(at(data))
    for byte in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[byte] ^= 1 << bit
            try:
                found = tk.load(at(bytes(changed)), verify=True)
            except TensorKeepError:
                continue
            assert_equal_states(found, expected, f"bit {bit} of byte {byte}")


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_every_truncation(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(TensorKeepError):
            tk.load(at(data[:length]))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_that_are_no_arrays(method: int) -> None:
    good = npy(np.ones(3))
    cases = {
        b"": (CorruptError, r"a\.npz: x\.npy: is not a NumPy array"),
        b"text": (CorruptError, "is not a NumPy array"),
        good[:-1]: (CorruptError, "takes 24 bytes, but 23 follow"),
        good + b"\0": (CorruptError, "takes 24 bytes, but 25 follow"),
        good[:20]: (CorruptError, "should be 128 bytes long, but there are 20"),
        good[:50]: (CorruptError, "should be 128 bytes long"),
        good.replace(b"(3,)", b"(9" + b"9" * 18 + b",)")[:200]: (CorruptError, "beyond any"),
        good.replace(b"(3,), }        ", b"(99999999999,)}")[:160]: (CorruptError, "its header"),
    }
    for data, (kind, problem) in cases.items():
        refused(zipped({"x.npy": data}, method), kind, problem)
        refused(zipped({"ok.npy": good, "x.npy": data}, method), kind, problem)


def test_object_arrays_are_refused() -> None:
    out = io.BytesIO()
    np.savez(out, allow_pickle=True, w=np.ones(2), o=np.array([{}], object))
    refused(out.getvalue(), UnsupportedError, r"o\.npy: holds Python objects.*pickle")


def test_headers_of_every_length() -> None:
    rng = np.random.default_rng(0)
    arrays = {str(i): rng.random((1,) * i) for i in range(40)}
    for compress in (False, True):
        assert_equal_states(tk.load(at(numpy_saved(arrays, compress=compress))), arrays)
        assert_equal_states(tk.load(at(saved(arrays, compress=compress))), arrays)


def noted(notes: Any, **arrays: npt.NDArray[Any]) -> bytes:
    members = {f"{name}.npy": npy(array) for name, array in arrays.items()}
    text = notes if isinstance(notes, bytes) else json.dumps(notes).encode()
    return zipped({**members, npz.NOTES: text})


def test_notes_that_lie() -> None:
    raw = np.zeros(16, np.uint8)
    refused(noted(b"[]"), CorruptError, "not a JSON object")
    refused(noted(b"[" * 100_000), CorruptError, "nested too deeply")
    refused(noted({"version": 9}), UnsupportedError, "Update tensorkeep")
    for stored, problem in (
        ({"x": ["string", [1]]}, "speak of 'x', which is not there"),
        ({"w": ["string", [2]]}, "takes 24 bytes"),
        ({"w": ["string", [1 << 40]]}, "takes"),
        ({"w": ["float32", [5]]}, "takes 20 bytes, not 16"),
        ({"w": ["string", "x"]}, "not an element type"),
    ):
        refused(noted({"version": 1, "stored": stored}, w=raw), CorruptError, problem)
    stored = {"w": ["int4", [32]]}
    with tk.open(at(noted({"version": 1, "stored": stored}, w=raw))) as state:
        assert state["w"].dtype is INT4
    raw[8] = 1  # the text ends before it is long enough
    refused(noted({"version": 1, "stored": {"w": ["string", [1]]}}, w=raw), CorruptError, "offsets")


def test_notes_are_limited() -> None:
    blanks = zipped({npz.NOTES: b" " * ((64 << 20) + 1)}, zipfile.ZIP_DEFLATED)
    refused(blanks, UnsafeError, "its notes of 67,108,865 bytes are over the limit")


def test_a_huge_array_of_nothing() -> None:
    """What 200 bytes say is 373 GiB is refused before anything is allocated."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (100000000000,), }"
    data = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        refused(zipped({"w.npy": data}, method), CorruptError, "takes 400,000,000,000 bytes")


def test_many_members(tmp_path: Path) -> None:
    arrays = {f"layer.{i}.w": np.full(4, i, np.float32) for i in range(3000)}
    tk.save(arrays, tmp_path / "a.npz")
    assert_equal_states(tk.load(tmp_path / "a.npz"), arrays)
    assert_equal_states(numpy_loaded((tmp_path / "a.npz").read_bytes()), arrays)
    assert list(tk.load(tmp_path / "a.npz")) == list(arrays)


def test_a_digest_of_another_format_is_not_needed() -> None:
    tensor = tk.Tensor(UINT8, (2,), MemorySource(b"ab"))
    state = tk.State({"w": tensor}, digests={"w": digest(tensor)}, format="x")
    assert tk.load(at(saved(state)), verify=True)["w"].tobytes() == b"ab"
    assert STRING in npz.FORMAT.holds
