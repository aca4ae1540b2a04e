"""The pieces that Caffe2 has by name, and reading part of a blob."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep.caffe2 as c2
from tensorkeep import dtypes
from tensorkeep.caffe2 import Assembly, Blob, BlobState, Device, TensorInfo, Workspace
from tensorkeep.errors import ArgumentError, CorruptError, MissingError
from tensorkeep.message import Message
from tensorkeep.source import FileSource, Source, Window
from tensorkeep.stores import open_database
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.encode import encode_blob
from tensorkeep.wire.caffe2.options import SaveOptions
from tensorkeep.wire.caffe2.schema import BLOB
from tensorkeep.wire.minidb import read_records

NAMES = """
    BlobState build_blob_name_from_db_key prepare_blob process_blob update_blob_states
    validate_blob_states format_string get_blob_options load_tensor_inference extract extract_all
    extract_from no_gradient should_not_do_gradient set_current_device save_op_example
    load_op_example db_exists_op_example LoadOp SaveOp CheckpointOp DBExistsOp
"""


@pytest.mark.parametrize("name", NAMES.split())
def test_names(name: str) -> None:
    assert name in c2.__all__
    assert getattr(c2, name).__doc__


def test_what_is_public_is_there() -> None:
    assert len(set(c2.__all__)) == len(c2.__all__)
    for name in c2.__all__:
        assert getattr(c2, name) is not None


def chunks(name: str, array: Any, size: int, device: Device | None = None) -> list[Message]:
    """Make the BlobProtos of an array."""
    blob = Blob("Tensor", Tensor.of(array), device or Device())
    records = encode_blob(name, blob, SaveOptions(chunk_size=size))
    return [Message.parse(BLOB, b"".join(parts)) for _, parts, _ in records]


@pytest.mark.parametrize(
    ("key", "strip", "add", "strict", "lax"),
    [
        ("w#%0", "", "", "w", "w"),
        ("w", "", "", "w", "w"),
        ("w#%12", "", "p/", "p/w", "p/w"),
        ("gpu_0/w#%0", "gpu_0/", "", "w", "w"),
        ("x/gpu_0/w#%0", "gpu_0/", "q/", "q/w", "q/w"),
        ("w#%0", "gpu_0/", "", "w", "w"),
        ("a#%b#%0", "", "", "a#%b", "a"),
        ("a#%b", "", "", "a#%b", "a"),
        ("a#%", "", "", "a#%", "a"),
        ("w#%0", "w", "", "", ""),
        ("aba#%0", "a", "", "ba", "ba"),
    ],
)
def test_names_from_keys(key: str, strip: str, add: str, strict: str, lax: str) -> None:
    assert c2.build_blob_name_from_db_key(key, strip, add) == strict
    assert c2.build_blob_name_from_db_key(key, strip, add, strict=False) == lax


def test_a_blob_in_parts() -> None:
    ws = Workspace()
    ws.feed("w", b"old")
    array = np.arange(10, dtype=np.float32).reshape(2, 5)
    assembly = Assembly()
    protos = chunks("other", array, 4, Device(1, 2))
    done = [c2.process_blob(ws, proto, assembly, "w") for proto in reversed(protos[1:])]
    assert done == [False, False]
    assert not ws.has("w")
    state = assembly.states["w"]
    assert (state.current_size, state.total_size, state.is_tensor) == (6, 10, True)
    assert (state.shape, state.dtype, state.device) == ((2, 5), dtypes.FLOAT32, Device(1, 2))
    with pytest.raises(CorruptError, match="'w' has 6 of 10 elements"):
        c2.validate_blob_states(assembly.states)
    assert c2.process_blob(ws, protos[0].encode(), assembly, "w")
    assert np.array_equal(ws.fetch("w"), array)
    assert ws.blob("w").device == Device(1, 2)
    c2.validate_blob_states(assembly.states)


def test_states_count_as_caffe2_does() -> None:
    states: dict[str, BlobState] = {}
    first, second, third = chunks("w", np.arange(10), 4)
    assert not c2.update_blob_states(first, states, "w")
    assert not c2.update_blob_states(first, states, "w")  # only elements are counted
    with pytest.raises(CorruptError, match="12 elements where 10"):
        c2.update_blob_states(second, states, "w")
    states.clear()
    for proto, done in ((first, False), (second, False), (third, True)):
        assert c2.update_blob_states(proto, states, "w") is done
    with pytest.raises(CorruptError, match="'w' has a part more"):
        c2.update_blob_states(third, states, "w")
    text = c2.serialize_blob("s", "text")
    assert c2.update_blob_states(text, states, "s")
    with pytest.raises(CorruptError, match="'s' is there twice"):
        c2.update_blob_states(text, states, "s")


def test_expected_states() -> None:
    states: dict[str, BlobState] = {}
    c2.update_blob_states(c2.serialize_blob("w", np.zeros((2, 3))), states, "w")
    sound = TensorInfo((2, 3), dtypes.FLOAT64, Device())
    c2.validate_blob_states(states, {"w": sound})
    c2.validate_blob_states(states, {"w": TensorInfo()})
    for info, what in (
        (TensorInfo((3, 2)), r"shape \(2, 3\), where \(3, 2\)"),
        (TensorInfo(dtype=dtypes.FLOAT32), "dtype float64, where float32"),
        (TensorInfo(device=Device(1, 1)), "device CPU, where CUDA:1"),
    ):
        with pytest.raises(CorruptError, match=f"'w' has the {what}"):
            c2.validate_blob_states(states, {"w": info})
    with pytest.raises(MissingError, match="'v'"):
        c2.validate_blob_states(states, {"v": sound})


@pytest.mark.parametrize("proto", [b"\xff\xff", b"plain text"])
def test_records_that_are_none(proto: bytes) -> None:
    with pytest.raises(CorruptError):
        c2.process_blob(Workspace(), proto, Assembly(), "w")
    with pytest.raises(CorruptError):
        c2.deserialize_blob(proto)


def test_bare_blobs() -> None:
    for value in (np.arange(6, dtype=np.uint8).reshape(2, 3), np.array(["a", "b"], object)):
        blob = c2.deserialize_blob(c2.serialize_blob("x", value))
        assert blob.value.numpy().tolist() == value.tolist()
    with pytest.raises(CorruptError, match="2 of 3"):
        c2.deserialize_blob(chunks("w", np.arange(3), 2)[0].encode())


def test_the_device_of_a_record() -> None:
    (proto,) = chunks("w", np.arange(3), 4, Device(1, 2))
    c2.set_current_device(proto)
    assert proto.tensor.device_detail.device_type == 0
    assert "device_id" not in proto.tensor.device_detail
    c2.set_current_device(proto, Device(1, 5))
    assert (proto.tensor.device_detail.device_type, proto.tensor.device_detail.device_id) == (1, 5)
    assert c2.deserialize_blob(proto.encode()).device == Device(1, 5)
    text = Message.parse(BLOB, c2.serialize_blob("s", "text"))
    c2.set_current_device(text, Device(1, 5))
    assert text.encode() == c2.serialize_blob("s", "text")


def test_options_by_name() -> None:
    rows = c2.serialization_options(
        {"blob_name_regex": "a.*", "chunk_size": 5},
        {"blob_name_regex": "ab", "chunk_size": 7, "float_format": 2},
        {"blob_name_regex": "b", "float_format": 2},
        {"chunk_size": -1},
    )
    default = SaveOptions(chunk_size=100, byte_holder=True)
    assert c2.get_blob_options("ab", rows, default).chunk_size == 5
    assert not c2.get_blob_options("ab", rows, default).bfloat16
    found = c2.get_blob_options("b", rows, default)
    assert (found.chunk_size, found.bfloat16, found.byte_holder) == (100, True, True)
    assert c2.get_blob_options("bb", rows, default).chunk_size == -1
    assert c2.get_blob_options("c", rows.options[:3], default) == default
    with pytest.raises(ArgumentError, match="blob_name_regex"):
        c2.get_blob_options("c", c2.serialization_options({"blob_name_regex": "("}))


class Counted(Source):
    """A file that counts the bytes that are read of it."""

    def __init__(self, path: Path) -> None:
        self.inner = FileSource(path, mapping=False)
        self.touched = 0
        super().__init__(self.inner.size, str(path))

    def _read(self, start: int, stop: int) -> memoryview:
        self.touched += stop - start
        return self.inner.read(start, stop)


@pytest.mark.parametrize("kind", ["float32", "int64", "uint8"])
def test_a_section_reads_little(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.minidb"
    array = (np.arange(1_000_000) * 3).astype(kind).reshape(1000, 1000)
    c2.save({"w": array, "v": array}, path, chunk_size=100_000)
    counted = Counted(path)
    found = [
        (key, Window(counted, start, stop - start)) for key, start, stop in read_records(counted)
    ]
    index = np.s_[5, 10:13]
    blobs = c2.extract(found, ["w"], section={"w": index})
    assert np.array_equal(blobs["w"].value.numpy(), array[index])
    assert list(blobs) == ["w"]
    assert counted.touched < counted.size // 8


@pytest.mark.parametrize("db_type", ["minidb", "lmdb", "sqlite"])
def test_extracting(tmp_path: Path, db_type: str) -> None:
    path = tmp_path / "x"
    array = np.arange(12).reshape(3, 4)
    c2.save({"p/w": array, "p/s": b"text"}, path, db_type, chunk_size=5)
    with open_database(db_type, path, "read") as database:
        for source in (path, str(path), database):
            assert sorted(c2.extract_all(source)) == ["p/s", "p/w"]
            found = c2.extract_from(source, ["q/w"], strip_prefix="p/", add_prefix="q/")
            assert np.array_equal(found["q/w"].value.numpy(), array)
            found = c2.extract(source, ["p/w"], section={"p/w": (1, 2)}, device=Device(1, 3))
            assert found["p/w"].value.numpy() == 6
            assert found["p/w"].value.shape == ()
            assert found["p/w"].device == Device(1, 3)
            for names in (["p/w", "absent"], ["absent"]):
                with pytest.raises(MissingError, match="'absent'"):
                    c2.extract_from(source, names)
            with pytest.raises(MissingError, match="'absent'"):
                c2.extract_all(source, section={"absent": 0})
            with pytest.raises(ArgumentError, match="'p/s' is a std::string"):
                c2.extract_all(source, section={"p/s": 0})
            with pytest.raises(ArgumentError):
                c2.extract_all(source, section={"p/w": 99})
            with pytest.raises(ArgumentError, match="list of names"):
                c2.extract_from(source, "p/w")
    assert c2.extract(path, []) == {}


def test_examples(tmp_path: Path) -> None:
    assert c2.db_exists_op_example(tmp_path) is False
    assert sorted(c2.save_op_example(tmp_path)) == ["x_scores", "y_scores", "z_scores"]
    assert c2.db_exists_op_example(tmp_path) is True
    assert sorted(c2.load_op_example(tmp_path)) == ["X", "Y"]


def test_importing_the_package_registers_all_operators() -> None:
    wanted = ["Load", "Save", "Checkpoint", "Snapshot", "DBExists", "CreateDB"]
    wanted += ["EstimateAllBlobSizes", "GetAllBlobNames", "GivenTensorFill", "XavierFill", "Iter"]
    script = (
        "import tensorkeep.caffe2\n"
        "from tensorkeep.caffe2.operator import OPERATORS\n"
        f"assert set({wanted!r}) <= OPERATORS.keys()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_what_is_expected_of_a_tensor_is_made_comparable() -> None:
    states: dict[str, BlobState] = {}
    c2.update_blob_states(chunks("w", np.zeros((2, 3)), -1)[0], states, "w")
    given: list[tuple[Any, Any]] = [([2, 3], "float64"), (np.array([2, 3]), np.float64)]
    for shape, dtype in given:
        info = TensorInfo(shape, dtype)
        assert info == TensorInfo((2, 3), dtypes.FLOAT64)
        c2.validate_blob_states(states, {"w": info})


def test_a_blob_state_begins_empty() -> None:
    state = BlobState()
    assert (state.total_size, state.current_size, state.is_tensor) == (0, 0, False)
    assert (state.shape, state.dtype, state.device, state.complete) == (None, None, Device(), True)
    c2.validate_blob_states({"w": state})
    with pytest.raises(CorruptError, match="2 of 6 elements"):
        c2.validate_blob_states({"w": BlobState(6, 2, True)})
    with pytest.raises(ArgumentError, match="nothing was read"):
        _ = state.last


def test_preparing_in_a_child_resets_the_blob_of_the_parent() -> None:
    ws = Workspace()
    ws.feed("w", b"old")
    child = ws.child()
    c2.prepare_blob(child, {}, "w")
    assert ws.fetch("w") is None
    first, second = chunks("w", np.arange(4), 2)
    assembly = Assembly()
    assert not c2.process_blob(child, first, assembly, "w")
    assert c2.process_blob(child, second, assembly, "w")
    assert ws.fetch("w").tolist() == [0, 1, 2, 3]
    assert child.local_blobs() == []


def test_records_of_any_kind_are_extracted(tmp_path: Path) -> None:
    c2.save({"a": b"1", "b": b"2"}, tmp_path / "x.minidb")
    with c2.create_db("minidb", tmp_path / "x.minidb") as db:
        assert {name: blob.value for name, blob in c2.extract(db).items()} == {"a": b"1", "b": b"2"}
    pairs = [(name, c2.serialize_blob(name, name)) for name in "ab"]
    assert list(c2.extract(pairs)) == ["a", "b"]
    assert list(c2.extract_from(dict(pairs).items(), ["b"])) == ["b"]
    with pytest.raises(MissingError, match=r"^records: there is no blob 'c'"):
        c2.extract(pairs, ["c"])
    with pytest.raises(ArgumentError, match="extract_from"):
        c2.extract_all(pairs, names=["a"])


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        ("conv[[:digit:]]+", "conv12", "conv"),
        ("[[:alpha:]_]+", "a_B", "a1"),
        ("[^[:space:][:punct:]]+", "a1", "a-1"),
        ("[[:xdigit:]]{2,3}", "aF1", "ag"),
        ("[a[]+", "a[[", "a]"),
        ("[a&&b]+", "a&b", "c"),
        ("a[*+]+b{1}c{2,}?", "a+*bcc", "abc"),
        (r"[\]\-a]+", "]-a", "b"),
        (r"a\+b(?:c|d)*(?!x).?", "a+bcd", "aab"),
        (r"\d+\x41\w", "12Ab", "12B"),
    ],
)
def test_patterns_are_those_of_ecmascript(
    pattern: str, fits: str, fits_not: str, recwarn: pytest.WarningsRecorder
) -> None:
    rows = c2.serialization_options({"blob_name_regex": pattern, "chunk_size": 7})
    assert c2.get_blob_options(fits, rows).chunk_size == 7
    assert c2.get_blob_options(fits_not, rows).chunk_size == 1_000_000
    assert not recwarn.list


@pytest.mark.parametrize(
    "pattern",
    [
        *(r"w\Z", r"\Aw", r"\a", "(?i)w", "(?P<n>w)", "(?<=a)w", "(?#x)w", "(?>w)", "w*+", "w++"),
        *("w?+", "w{2}+", "w{,3}", "w{x", "[]w]", "[^]w]", "[[:nothing:]]", "[[.a.]]", "[a--b]"),
        *("w(", "[w", "w**", "é(?u)"),
    ],
)
def test_patterns_that_python_reads_otherwise_are_refused(
    pattern: str, recwarn: pytest.WarningsRecorder
) -> None:
    rows = c2.serialization_options({"blob_name_regex": pattern})
    with pytest.raises(ArgumentError, match="blob_name_regex"):
        c2.get_blob_options("w", rows)
    assert not recwarn.list
