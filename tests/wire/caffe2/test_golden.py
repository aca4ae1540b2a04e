"""What Caffe2 wrote is read bit for bit, and written again byte for byte."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.wire.caffe2 import golden

from tensorkeep.errors import CorruptError, TensorKeepError, UnsupportedError
from tensorkeep.source import MemorySource
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.decode import parse_part
from tensorkeep.wire.caffe2.encode import SaveOptions, choose_options, encode_blob, estimate_size
from tensorkeep.wire.caffe2.states import Assembly, blob_name_of
from tensorkeep.wire.caffe2.values import (
    COUNTER,
    INDEX,
    MUTEX,
    STRING,
    TENSOR,
    TREE_CURSOR,
    Blob,
    DBReaderState,
    Index,
    Int8Tensor,
    Map,
    NestedBlobs,
    TreeCursor,
)

CASES = json.loads((golden.FOLDER / "cases" / "cases.json").read_text())
NUMBERS = ["float32", "float64", "float16", "bool"]
NUMBERS += [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16)] + ["int32", "int64"]
DAMAGED = [
    case
    for case in CASES
    if case["op"] == "Load" and case["id"].endswith("/all") and set(case["args"]) >= {"db"}
]


def test_the_golden_files_are_there() -> None:
    assert len(golden.blob_files()) >= 40
    assert len(golden.saved_files()) > 25
    assert len(DAMAGED) > 25


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("file", golden.blob_files())
def test_every_file_loads_as_caffe2_loaded_it(file: str, strict: bool) -> None:
    entry = golden.entries()[file]
    expected = np.load(golden.FOLDER / entry["expected"]) if entry.get("expected") else {}
    assembly = golden.load(file, strict=strict)
    rows = {row["name"]: row for row in entry["blobs"]}
    assert set(assembly) == set(rows)
    for name, row in rows.items():
        blob = assembly.result(name)
        if row["kind"] == "tensor":
            same(blob.value, expected[row["npz"]], row)
        elif row["kind"] == "string_tensor":
            assert blob.value.numpy().tolist() == golden.strings(row).tolist()
        elif row["kind"] == "std_string":
            assert (blob.kind, blob.value.hex()) == (STRING, row["hex"])
        elif row["kind"] == "int8_tensor":
            assert isinstance(blob.value, Int8Tensor)
            same(blob.value.data, expected[row["npz"]], row)
            assert (blob.value.scale, blob.value.zero_point) == (row["scale"], row["zero_point"])


def same(tensor: Tensor, expected: Any, row: golden.Entry) -> None:
    array = tensor.numpy()
    assert (str(array.dtype), list(array.shape)) == (row["dtype"], row["shape"])
    assert array.dtype == expected.dtype
    assert array.shape == expected.shape
    assert array.tobytes() == expected.tobytes()


@pytest.mark.parametrize("file", golden.saved_files())
def test_every_file_is_written_again(file: str) -> None:
    entry = golden.entries()[file]
    written = []
    for name, blob, options in golden.saved_in_order(entry):
        for key, chunks, size in encode_blob(name, blob, options):
            data = b"".join(chunks)
            assert len(data) == size
            written.append((key, size, hashlib.sha256(data).hexdigest()))
    stored = [(key_of(row), row["len"], row["sha256"]) for row in entry["records"]]
    if not entry["byte_exact"]:  # threads wrote its chunks in any order
        written, stored = sorted(written), sorted(stored)
    assert written == stored


def key_of(row: golden.Entry) -> str:
    if "key" in row:
        return str(row["key"])
    return bytes.fromhex(row["key_hex"]).decode("utf-8", "surrogateescape")


@pytest.mark.parametrize("file", ["other_blobs.minidb", "checkpoint_manager/trainer.1"])
def test_other_blobs_are_written_again_from_what_was_read(file: str) -> None:
    for part in golden.parts(file):
        assembly = Assembly()
        assert assembly.add("blob", part)
        name = part.name
        ((key, chunks, _),) = encode_blob(name, assembly.result("blob"))
        assert key == part.key
        stored = part.source.read(part.start, part.start + part.size)
        assert b"".join(chunks) == bytes(stored)


def test_other_blobs_hold_what_was_put_in() -> None:
    contents = golden.entries()["other_blobs.minidb"]["contents"]
    assembly = golden.load("other_blobs.minidb")
    values = {name: assembly.result(name).value for name in assembly}
    for name in ("map_64_32", "map_64_64", "map_32_32", "map_32_64"):
        found = values[name]
        assert isinstance(found, Map)
        pairs = zip(found.keys.numpy().tolist(), found.values.numpy().tolist(), strict=True)
        assert sorted(map(list, pairs)) == contents[name]
        assert found.keys.dtype.name == f"int{name[4:6]}"
        assert found.values.dtype.name == f"int{name[7:9]}"
    assert values["counter"] == contents["counter"] == 42
    for name in ("long_index", "int_index", "string_index"):
        found = values[name]
        assert isinstance(found, Index)
        assert found.keys.numpy().tolist() == contents[name]["stored_from_1"]
    assert (values["string_index"].max_elements, values["string_index"].frozen) == (9, True)
    assert isinstance(values["cursor"], TreeCursor)
    assert values["cursor"].offsets is None
    assert values["cursor"].fields == ["a:lengths", "a:values", "b"]
    assert values["cursor_moved"].offsets.numpy().tolist() == contents["cursor_moved"]["offsets"]
    assert values["mutex"] is None
    assert isinstance(values["packed"], NestedBlobs)
    assert values["packed"].shape == (3,)
    assert values["reader"] == DBReaderState("reader", "dtypes.minidb", "minidb", "")
    kinds = [assembly.result(name).kind for name in ("counter", "mutex", "int_index", "cursor")]
    assert kinds == [COUNTER, MUTEX, INDEX, TREE_CURSOR]


@pytest.mark.parametrize("file", ["estimate.json", "bytes_holder_estimate.json"])
def test_sizes_are_estimated_as_caffe2_did(file: str) -> None:
    holder = bool(golden.entries()[file].get("flags"))
    values = {f"v_{name}": Blob(TENSOR, Tensor.of(np.zeros(23, name))) for name in NUMBERS}
    values |= {
        "strs": Blob(TENSOR, Tensor.of(np.array(["a", "b", "c"], object))),
        "stdstr": Blob(STRING, b"hello"),
        "none": Blob(TENSOR, Tensor.of(np.zeros((0, 4), "float32"))),
        "scalar": Blob(TENSOR, Tensor.of(np.zeros((), "float32"))),
        "cnt": Blob(COUNTER, 0),
        "names": Blob(TENSOR, Tensor.of(np.array(["x"] * 17, object))),
        "sizes": Blob(TENSOR, Tensor.of(np.zeros(17, "int64"))),
    }
    runs = json.loads((golden.FOLDER / file).read_text())
    for run in runs:
        rows = golden.serialization_options(run["options"])
        default = SaveOptions(byte_holder=holder)
        found = {
            name: estimate_size(name, blob, choose_options(name, rows, default))
            for name, blob in values.items()
        }
        assert found == run["sizes"]


@pytest.mark.parametrize("case", DAMAGED, ids=lambda case: case["id"])
def test_damaged_files_give_what_caffe2_gave_unless_strict(case: golden.Entry) -> None:
    assembly = Assembly(strict=False, thorough=True)
    failed = False
    try:
        for part in golden.parts(case["args"]["db"], strict=False):
            assembly.add(blob_name_of(part.key, strict=False), part)
        assembly.validate()
    except TensorKeepError:
        failed = True
    assert failed is not case["ok"]
    for row in case["after"]:
        if "sha256" in row or (row["kind"] == "std_string" and case["ok"]):
            value = assembly.result(row["name"]).value
            if row["kind"] == "std_string":
                assert value.hex() == row["hex"]
            else:
                array = value.numpy()
                assert (str(array.dtype), list(array.shape)) == (row["dtype"], row["shape"])
                assert hashlib.sha256(array.tobytes()).hexdigest() == row["sha256"]


# Damage that Caffe2 took for whole, or noticed without saying where, and what we say of it.
SAID = {
    "missing_chunk": r"'a' has . of 10 elements: elements . to .* missing",
    "repeated_last_chunk": r"'a' has elements 0 to 3 in 'a#%.' too",
    "chunk_replaced_by_copy": r"'a' has elements . to . in 'a#%.' too",
    "string_twice": "'s' is there twice",
    "garbage_value": "'a#%0': is not a BlobProto",
    "unknown_type": "'s' has the type",
    "no_type": "'a' has no type",
    "no_data_type": "'a' has no data_type",
    "unknown_data_format": r"elements 0 to 10: .*'a' has data_format 9",
    "bfloat16_without_raw": r"elements 0 to 10: .*'a' has 0 bytes of raw_data for 10",
    "segment_past_end": r"'a' holds elements .* of 10",
    "short_data": r"elements 0 to 10: .*'a' has .* bytes of float_data for 10",
    "part_without_segment": "'a' ",
    "int8_slack_bytes": r"elements 0 to 6: .*'b' has 8 bytes of byte_data for 6",
    "content_chunks": "'s' is in 2 pieces",
    "content_chunks_missing": "'s' has 2 of 3 pieces",
    "content_chunks_repeated": "'s' has the piece 0 twice",
    "content_chunk_id_range": "'s' has a piece 5 of 2",
    "content_chunks_extra": "'s' has the piece 1 twice",
}


@pytest.mark.parametrize("name", SAID)
def test_damage_is_refused_by_blob_and_segment(name: str) -> None:
    with pytest.raises((CorruptError, UnsupportedError), match=SAID[name]) as caught:
        read_strictly(f"cases/{name}.minidb")
    assert f"{name}.minidb" in str(caught.value)


def read_strictly(file: str) -> None:
    assembly = Assembly(thorough=True)
    for part in golden.parts(file):
        assembly.add(part.name, part)
    assembly.validate()
    for name in assembly:
        assembly.result(name)


def test_names_with_the_separator_survive() -> None:
    names = {part.name for part in golden.parts("cases/hash_name.minidb")}
    lax = {blob_name_of(part.key, strict=False) for part in golden.parts("cases/hash_name.minidb")}
    assert lax == {"a"}
    assert all("#%" in name for name in names)


def test_nan_safe_is_the_only_difference_of_bfloat16() -> None:
    values = np.array([1.0, np.nan, -np.nan, np.inf, 3.4e38], "float32")
    values.view(np.uint32)[1] = 0x7F800001
    plain = SaveOptions(bfloat16=True)
    sizes = []
    for options in (plain, replace(plain, nan_safe=True)):
        ((_, chunks, size),) = encode_blob("w", Blob(TENSOR, Tensor.of(values)), options)
        sizes.append(size)
        found = read_back(b"".join(chunks))
        assert np.isnan(found[1]) == options.nan_safe
        assert found[[0, 3, 4]].tolist() == [1.0, np.inf, np.inf]
    assert sizes[0] == sizes[1]


def read_back(data: bytes) -> Any:
    assembly = Assembly()
    assembly.add("w", parse_part("w#%0", MemorySource(data)))
    return assembly.result("w").value.numpy()
