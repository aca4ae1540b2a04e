from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorkeep as tk
from tensorkeep.dtypes import DTYPES, STRING, DType
from tensorkeep.errors import (
    CorruptError,
    LossError,
    TensorKeepError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.testing import CountingStore, arrays, assert_equal_states, sample
from tensorkeep.wire.npy import MAGIC

SHAPES: list[tuple[int, ...]] = [(), (0,), (3,), (2, 3, 4), (0, 3)]
PLAIN = [kind for kind in DTYPES.values() if kind.numpy.isbuiltin == 1 and kind is not STRING]
EXTENDED = [kind for kind in DTYPES.values() if kind.numpy.isbuiltin != 1]


def at(data: bytes) -> Location:
    return Location(MemoryStore({"a.npy": data}), "a.npy")


def saved(value: Any, **options: Any) -> bytes:
    store = MemoryStore()
    tk.save(value, Location(store, "a.npy"), **options)
    return store.data["a.npy"]


def numpy_saved(array: npt.NDArray[Any], version: tuple[int, int] | None = None) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, version)
    return out.getvalue()


def file(text: str, data: bytes = b"", version: int = 1) -> bytes:
    """Build a file around any header text."""
    raw = text.encode("latin-1" if version < 3 else "utf-8")
    length = len(raw).to_bytes(2 if version == 1 else 4, "little")
    return MAGIC + bytes([version, 0]) + length + raw + data


def header(descr: str = "'<f4'", fortran: str = "False", shape: str = "(3,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


def refused(data: bytes, kind: type[TensorKeepError], problem: str) -> None:
    with pytest.raises(kind, match=problem):
        tk.open(at(data), format="npy")


@pytest.mark.parametrize("kind", PLAIN, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_bytes_are_those_of_numpy_save(kind: DType, shape: tuple[int, ...]) -> None:
    array = sample(kind, shape).numpy()
    data = saved(array)
    assert data == numpy_saved(array)
    assert_equal_states(tk.load(at(data)), array)
    assert np.load(io.BytesIO(data), allow_pickle=False).tobytes() == array.tobytes()


@pytest.mark.parametrize("length", [9, 10, 10**6])
def test_numpy_leaves_room_for_the_first_axis_to_grow(length: int) -> None:
    array = np.zeros((length, 2), np.int8)
    assert saved(array) == numpy_saved(array)


def test_the_padding_is_that_of_numpy_for_every_length_of_header() -> None:
    for ndim in range(65):
        array = np.zeros((1,) * ndim, np.int8)
        assert saved(array) == numpy_saved(array)
        assert_equal_states(tk.load(at(saved(array))), array)


@pytest.mark.parametrize("array", [np.array(["aé", "", "𝄞"]), np.array([[b"a\xff", b"\0b"]])])
def test_strings_are_numpys_own(array: npt.NDArray[Any]) -> None:
    data = saved(array)
    assert data == numpy_saved(array)
    assert_equal_states(tk.load(at(data)), array)


def test_strings_wider_than_they_need_to_be() -> None:
    array = np.array(["a", "b"], "<U7")
    assert saved(array) == numpy_saved(array)
    assert_equal_states(tk.load(at(numpy_saved(array))), array)


@pytest.mark.parametrize("kind", EXTENDED, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_numpy_reads_the_bits_of_the_types_it_does_not_know(
    kind: DType, shape: tuple[int, ...]
) -> None:
    array = sample(kind, shape).numpy()
    data = saved(array)
    bits = np.load(io.BytesIO(data), allow_pickle=False)
    assert bits.dtype.names == (kind.name,)
    mask = (1 << kind.bits) - 1
    codes = array.view(bits.dtype[0]) & mask
    assert np.array_equal(bits[kind.name], codes)
    assert numpy_saved(bits) == data
    assert_equal_states(tk.load(at(data)), array)
    assert tk.open(at(data))["array"].dtype is kind


@pytest.mark.filterwarnings("ignore:Custom dtypes are saved")
def test_what_ml_dtypes_writes() -> None:
    for name in ("bfloat16", "float8_e5m2"):
        array = np.arange(6).astype(getattr(ml_dtypes, name)).reshape(2, 3)
        assert_equal_states(tk.load(at(numpy_saved(array))), array)
    lost = numpy_saved(np.zeros(3, ml_dtypes.float8_e4m3fn))
    refused(lost, UnsupportedError, "without saying which")


ORDERS = {
    "big endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "fortran": np.asfortranarray,
    "both": lambda a: np.asfortranarray(a.astype(a.dtype.newbyteorder(">"))),
    "transposed": lambda a: a.T,
}


@pytest.mark.parametrize("change", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("kind", ["<i2", "<f4", "<c8", "|u1", "<U3", "|S2", "|b1"])
def test_other_orders(change: Any, kind: str) -> None:
    array = change(np.arange(24).astype(kind).reshape(2, 3, 4))
    data = numpy_saved(array)
    assert np.array_equal(tk.load(at(data)), array)
    with tk.open(at(data)) as state:
        tensor = state["array"]
        expected = np.ascontiguousarray(array)
        for index in (1, (slice(None), 2), (0, 1, slice(1, 3)), (..., -1)):
            part = expected[index].astype("U" if kind == "|S2" else expected.dtype)
            assert tensor[index].tolist() == part.tolist()
        if tensor.dtype is not STRING:
            whole = expected.astype(kind).tobytes()
            assert b"".join(tensor.pieces(5)) == whole == bytes(tensor.read())


def test_packed_types_in_fortran_order() -> None:
    array = sample(DTYPES["float6_e2m3fn"], (4, 3)).numpy()
    text = header("[('float6_e2m3fn', '|u1')]", "True", "(3, 4)")
    assert_equal_states(tk.load(at(file(text, array.tobytes()))), array.T.copy())


@pytest.mark.parametrize("name", ["int4", "uint2", "float6_e3m2fn"])
def test_packed_types_are_read_in_parts(name: str) -> None:
    tensor = sample(DTYPES[name], (1000,))
    with tk.open(at(saved(tensor.numpy()))) as state:
        source, size = state["array"].source, tensor.nbytes
        parts = [source.read(start, min(start + 7, size)) for start in range(0, size, 7)]
        assert b"".join(parts) == bytes(tensor.read())
        assert state["array"][501:777].tolist() == tensor.numpy()[501:777].tolist()


@pytest.mark.parametrize("name", ["uint4", "float6_e2m3fn"])
def test_packed_types_are_written_in_parts(name: str) -> None:
    kind = DTYPES[name]
    codes = (np.arange(9_000_001) % (1 << kind.bits)).astype(np.uint8)
    data = saved(codes.view(kind.numpy))
    assert data[-len(codes) :] == codes.tobytes()


def test_a_file_is_mapped(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32)
    np.save(tmp_path / "a.npy", array)
    with tk.open(tmp_path / "a.npy") as state:
        tensor = state["array"]
        assert tensor.source.mapped
        assert tensor.offset == 128
    loaded = tk.load(tmp_path / "a.npy")
    loaded[:] = 0
    assert np.array_equal(np.load(tmp_path / "a.npy"), array)


def test_open_memmap(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    mapped = np.lib.format.open_memmap(path, "w+", np.float64, (5, 4))
    mapped[:] = np.arange(20).reshape(5, 4)
    mapped.flush()
    assert np.array_equal(tk.load(path), mapped)


@pytest.mark.parametrize("order", ["C", "big endian"])
def test_a_slice_reads_its_own_bytes(order: str) -> None:
    array = np.arange(10**6, dtype="<f4" if order == "C" else ">f4").reshape(1000, 1000)
    store = CountingStore(MemoryStore({"a.npy": numpy_saved(array)}))
    with tk.open(Location(store, "a.npy")) as state:
        before = store.bytes_read
        assert before < 10_000
        assert np.array_equal(state["array"][10:12], array[10:12])
        assert store.bytes_read - before == 8000


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_versions(version: tuple[int, int]) -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert_equal_states(tk.load(at(numpy_saved(array, version))), array)


FOREIGN = [
    '{"shape": (3,), "fortran_order": False, "descr": "<i2"}',
    "{'descr':'<i2','fortran_order':False,'shape':(3,)}",
    "{ 'descr' : '<i2' ,\n 'fortran_order' : True , 'shape' : ( 3L , ) , }   \n",
    "{'descr': '=i2', 'fortran_order': False, 'shape': (3, ), }",
]


@pytest.mark.parametrize("text", FOREIGN)
def test_headers_of_other_writers(text: str) -> None:
    found = tk.load(at(file(text, b"\1\0\2\0\3\0")))
    assert_equal_states(found, np.array([1, 2, 3], np.int16))


BROKEN = {
    "empty": "",
    "not a dict": "['<f4', False, (3,)]",
    "an expression": header(shape="(1 + 2,)"),
    "a call": header(shape="(int(3),)"),
    "negative": header(shape="(-3,)"),
    "a float": header(shape="(3.0,)"),
    "a number": header(shape="(3)"),
    "two commas": header(shape="(3,,)"),
    "only a comma": header(shape="(,)"),
    "two numbers": header(shape="(3 3,)"),
    "other digits": header(shape="(\xb2,)"),
    "a list": header(shape="[3]"),
    "flag is a number": header(fortran="0"),
    "flag is text": header(fortran="'False'"),
    "descr is a tuple": header("('<f4',)"),
    "descr is a flag": header("False"),
    "unknown type": header("'<z4'"),
    "type without a width": header("'<f'"),
    "unknown width": header("'<i3'"),
    "text for a type": header("'<f4; import os'"),
    "no text type": header("'<U0'"),
    "wide text type": header("'<U999999999'"),
    "missing key": "{'descr': '<f4', 'shape': (3,), }",
    "key too many": header().replace("}", "'more': 1, }"),
    "key twice": header().replace("}", "'shape': (3,), }"),
    "unclosed": header().replace("}", ""),
    "text behind": header().replace("}", "} + {}"),
    "nested": "(" * 10_000,
    "nested shape": header(shape="(" * 10_000 + ")" * 10_000),
    "nested closing": header(shape="()" * 10_000),
    "blanks": header().replace(" ", " " * 8000).replace("}", ""),
    "blanks in a shape": header(shape=f"(3{' ' * 60_000}"),
    "minus signs": header(shape="-" * 60_000),
    "non-ASCII": header(shape="(3,)é"),
    "too many axes": header(shape="(3," + "1," * 64 + ")"),
    "very many axes": header(shape="(" + "9999999999999999999," * 3000 + ")"),
    "beyond memory": header(shape=f"({2**40}, {2**40})"),
    "beyond memory times zero": header(shape=f"(0, {2**40}, {2**40})"),
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("version", [1, 3])
def test_broken_headers(text: str, version: int) -> None:
    if len(text) < 65_000:
        refused(file(text, bytes(12), version), CorruptError, r"a\.npy")


UNSUPPORTED = {
    "'|O'": "pickle",
    "'O'": "pickle",
    "'<M8[ns]'": "dates",
    "'<m8'": "dates",
    "'|V1'": "raw bytes",
    "'|V2'": "raw bytes",
    "'>V2'": "raw bytes",
    "'|V16'": "raw bytes",
    "'<f16'": "differs between machines",
    "'<c32'": "differs between machines",
    "[('a', '<f4'), ('b', '<i4')]": "structures",
    "[('a', '<f4')]": "structures",
    "[('bfloat16', '<u4')]": "structures",
    "[('bfloat16', '>u2')]": "structures",
    "[('bfloat16', '<u2', (2,))]": "structures",
    "[('x', [('y', '<f4')])]": "structures",
    "[" + " " * 60_000: "",
    "[('a'" + " " * 60_000 + "]": "structures",
}


@pytest.mark.parametrize(("descr", "problem"), UNSUPPORTED.items(), ids=range(len(UNSUPPORTED)))
def test_types_that_no_tensor_holds(descr: str, problem: str) -> None:
    data = file(header(descr), bytes(48))
    if problem:
        refused(data, UnsupportedError, problem)
    else:
        refused(data, CorruptError, "its header is")


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was run",)


def test_pickles_are_never_run() -> None:
    out = io.BytesIO()
    np.save(out, np.array([Bomb()], object), allow_pickle=True)
    with pytest.raises(UnsupportedError, match=r"can run code when it is read.*array\.astype"):
        tk.load(at(out.getvalue()))


@pytest.mark.parametrize("shape", ["(100000000000,)", f"({2**31}, 46)", f"({2**61},)"])
@pytest.mark.parametrize("descr", ["'<f4'", "'<U1'", "[('int4', '|u1')]", "'>f4'"])
@pytest.mark.parametrize("fortran", ["False", "True"])
def test_shapes_that_lie(shape: str, descr: str, fortran: str) -> None:
    with pytest.raises(CorruptError):
        tk.load(at(file(header(descr, fortran, shape), bytes(100))))


def test_a_header_that_is_longer_than_the_file() -> None:
    refused(MAGIC + b"\1\0\xff\xff" + header().encode(), CorruptError, "65,545 bytes long")
    refused(MAGIC + b"\2\0\xff\xff\xff\xff" + bytes(20), UnsafeError, "over the limit")
    refused(file(header() + " " * 70_000, bytes(12), 2), UnsafeError, "over the limit")
    refused(MAGIC, CorruptError, "not a NumPy array")
    refused(b"", CorruptError, "not a NumPy array")


def test_another_version() -> None:
    data = bytearray(saved(np.ones(1)))
    data[6] = 4
    refused(bytes(data), UnsupportedError, r"4\.0, not 1\.0")


def test_bytes_behind_the_array() -> None:
    data = saved(np.ones(3, np.float32))
    refused(data + b"\0", CorruptError, "takes 12 bytes, but 13 follow.*written behind")
    refused(data + data, CorruptError, "written behind")
    refused(data[:-1], CorruptError, "cut short")


def test_strings_that_are_none() -> None:
    for code in (0x110000, 0xFFFFFFFF, 0xD800):
        data = file(header("'<U1'", shape="(1,)"), code.to_bytes(4, "little"))
        with pytest.raises(TensorKeepError, match=r"a\.npy"):
            tk.load(at(data))


def test_only_one_array_fits() -> None:
    with pytest.raises(LossError, match=r"one array, not 2, which \.npz does"):
        saved({"a": np.ones(1), "b": np.ones(1)})
    for count in (0, 2):
        with pytest.raises(UnsupportedError, match=f"has {count}. Save it as .npz"):
            saved({str(i): np.ones(1) for i in range(count)}, lossy=True)


@pytest.mark.parametrize(
    ("value", "metadata", "lost"),
    [
        (np.ones(1), {"epoch": 3}, "the metadata (epoch) is lost"),
        ({"w": np.ones(1)}, None, "the name 'w' is lost"),
        ({"array": np.ones(1)}, None, "the name 'array' is lost"),
        ([np.ones(1)], None, "the nesting"),
        ({"w": np.ones(1), "step": 3}, None, "the nesting"),
        (np.float32(3), None, "the nesting"),
        (np.array(["a"], object), None, "its strings"),
    ],
)
def test_losses(value: Any, metadata: dict[str, Any] | None, lost: str) -> None:
    with pytest.raises(LossError, match=re.escape(lost)):
        saved(value, metadata=metadata)
    assert isinstance(tk.load(at(saved(value, metadata=metadata, lossy=True))), np.ndarray)


def test_strings_that_numpy_cannot_hold() -> None:
    for texts, problem in ((["a\0"], "NUL"), (["a" * 10**6, *[""] * 100], "404,000,000")):
        with pytest.raises(UnsupportedError, match=f"{problem}.*npz"):
            saved(np.array(texts, object), lossy=True)


def test_there_is_nothing_to_verify() -> None:
    with pytest.raises(UnsupportedError, match="no digest"):
        tk.load(at(saved(np.ones(1))), verify=True)


def test_closing(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(np.ones((3, 4))))
    state = tk.open(tmp_path / "a.npy")
    state.close()
    with pytest.raises(TensorKeepError, match="closed"):
        state["array"].numpy()


@given(array=arrays())
def test_numpy_agrees(array: npt.NDArray[Any]) -> None:
    if array.dtype.kind in "OT" or array.dtype.isbuiltin == 2:
        return
    assert np.load(io.BytesIO(saved(array)), allow_pickle=False).tolist() == array.tolist() or (
        array.dtype.kind in "fc"
    )
    assert (
        tk.load(at(numpy_saved(array))).tobytes()
        == np.array(array, array.dtype.newbyteorder("<"), order="C").tobytes()
    )


_TEXT = st.text("{}()[],:'\" \\\nLTrueFalsdcfotn_rhp<>|=0123456789", max_size=40)


@given(descr=_TEXT, fortran=_TEXT, shape=_TEXT, rest=_TEXT)
def test_any_text_is_a_header_or_one_of_our_errors(
    descr: str, fortran: str, shape: str, rest: str
) -> None:
    texts = (rest, header(descr), header(fortran=fortran), header(shape=shape), header() + rest)
    for text in texts:
        try:
            tk.load(at(file(text, bytes(12))))
        except TensorKeepError:
            continue
