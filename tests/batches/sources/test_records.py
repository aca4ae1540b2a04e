from __future__ import annotations

import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.batches.record_databases import ENGINES, check, images, make

from tensorkeep.data.dataset import Field
from tensorkeep.data.sources.records import RecordsDataset, open_records, recognises
from tensorkeep.errors import (
    ArgumentError,
    ClosedError,
    CorruptError,
    MissingError,
    UnknownFormatError,
    UnsupportedError,
)
from tensorkeep.wire.caffe2.protos import encode_record

GOLDEN = Path(__file__).parents[2] / "data" / "caffe2"


@pytest.mark.parametrize("kind", ENGINES)
def test_all_engines(tmp_path: Path, kind: str) -> None:
    samples = images(40)
    path = make(tmp_path / "train", [encode_record(sample) for sample in samples], kind)
    assert recognises(path)
    assert recognises(f"{kind}:{path}")
    with open_records(path) as dataset:
        assert dataset.kind == kind
        assert len(dataset) == 40
        assert dataset.fields == {"image": Field("uint8", (3, 11, 10)), "label": Field("int32", ())}
        check(dataset, samples)
        check(dataset, samples, [7, 7, 0, 39])
        assert dataset.name(17) == "sample 17 ('00000017')"
        assert dataset[-1]["label"] == samples[-1]["label"]
        empty = dataset.gather(np.zeros(0, np.int64))
        assert {name: (v.shape, str(v.dtype)) for name, v in empty.items()} == {
            "image": ((0, 3, 11, 10), "uint8"),
            "label": ((0,), "int32"),
        }
        assert dataset.verify() == []
        again = pickle.loads(pickle.dumps(dataset))
        assert again.digest == dataset.digest
        check(again, samples)
        again.close()
    with pytest.raises(ClosedError):
        dataset.check([0])
    with pytest.raises((ClosedError, ValueError), match="closed"):
        dataset.gather(np.array([0]))


@pytest.mark.parametrize("kind", ["lmdb", "sqlite"])
def test_one_digest_for_the_same_records(tmp_path: Path, kind: str) -> None:
    records = [encode_record(sample) for sample in images(100)]
    with open_records(make(tmp_path / "a", records, "minidb")) as one:
        assert open_records(make(tmp_path / "b", records, kind)).digest == one.digest
        records[0] = records[0].replace(b"label", b"lapel")
        for name, others in (("c", records), ("d", records[1:])):
            with open_records(make(tmp_path / name, others, kind)) as other:
                assert one.digest != other.digest


def test_only_some_fields(tmp_path: Path) -> None:
    samples = images(5)
    path = make(tmp_path / "a", [encode_record(sample) for sample in samples])
    with open_records(path, ["label"]) as dataset:
        assert list(dataset.fields) == ["label"]
        assert dataset.digest == open_records(path).digest
        check(dataset, [{"label": sample["label"]} for sample in samples])
        assert pickle.loads(pickle.dumps(dataset)).gather(np.array([0])).keys() == {"label"}
    with pytest.raises(MissingError, match=r"no field 'lable'. Did you mean label\?"):
        open_records(path, ["lable"])


def test_golden() -> None:
    """What Caffe2 itself read from a database that it wrote."""
    arrays = np.load(GOLDEN / "tensorprotos.npz")
    entries = json.loads((GOLDEN / "MANIFEST.json").read_text())["entries"]
    (entry,) = (entry for entry in entries if entry["file"] == "tensorprotos.minidb")
    (whole,) = (run for run in entry["runs"] if run["batch_size"] == 0 and run["num_shards"] == 1)
    with open_records(str(GOLDEN / "tensorprotos.minidb")) as dataset:
        for row, tensors in enumerate(whole["batches"]):
            sample = dataset[row % len(dataset)]
            batch = dataset.gather(np.array([row % len(dataset)] * 2))
            for tensor, value, values in zip(tensors, sample.values(), batch.values(), strict=True):
                if "hex" in tensor:
                    assert value.tolist() == [bytes.fromhex(text) for text in tensor["hex"]]
                    assert values.tolist() == [value.tolist()] * 2
                    continue
                expected = arrays[tensor["npz"]]
                assert value.dtype == values.dtype == expected.dtype
                assert np.array_equal(value, expected)
                assert np.array_equal(values, [expected] * 2)
        (batches,) = (run for run in entry["runs"] if run["batch_size"] == 4)
        for step, tensors in enumerate(batches["batches"]):
            rows = (np.arange(4) + 4 * step) % len(dataset)
            batch = dataset.gather(rows)
            for tensor, values in zip(tensors, batch.values(), strict=True):
                if "npz" in tensor:
                    assert np.array_equal(values, arrays[tensor["npz"]])


EVERY_TYPE: list[Any] = [
    *(np.arange(-3, 3).astype(dtype) for dtype in "bhilefd"),
    *(np.arange(6).astype(dtype) for dtype in "BH"),
    np.array([True, False, True]),
    np.array([b"", b"\xff\0", b"abc"], object),
    np.array(b"one", object)[()],
    np.zeros((0, 3), np.float32),
    np.zeros((0,), np.int64),
    np.arange(600, dtype=np.float32).reshape(2, 300),
    np.arange(300, dtype=np.int64) - 150,
    np.arange(500, dtype=np.int16) - 250,
    np.float32(0.5),
    np.int64(-(2**63)),
    np.bool_(True),
]


@pytest.mark.parametrize("value", EVERY_TYPE, ids=str)
def test_every_type(tmp_path: Path, value: Any) -> None:
    samples = [{"a": value, "b": np.int32(row)} for row in (0, 1, 200, 3)]
    records = [encode_record(sample) for sample in samples]
    with open_records(make(tmp_path / "a", records)) as dataset:
        check(dataset, samples)
        text = not isinstance(value, np.ndarray | np.generic) or value.dtype.hasobject
        assert dataset.fields["a"].shape == np.shape(value)
        assert (dataset.fields["a"].dtype == "string") is text


LABELS = [0, 1, 127, 128, 16383, 16384, 2**31, 2**40, 2**63 - 1, -1, -(2**31), -(2**63)]


def test_labels_of_all_widths(tmp_path: Path) -> None:
    samples: list[dict[str, Any]] = [
        {"x": np.zeros(300, np.uint8), "label": np.int64(label)} for label in LABELS
    ]
    with open_records(make(tmp_path / "a", [encode_record(s) for s in samples])) as dataset:
        check(dataset, samples)
        check(dataset, samples, [3, 9, 9, 0])


def test_an_int32_keeps_the_low_bits_of_what_stands_there(tmp_path: Path) -> None:
    record = encode_record({"label": np.int32(5)}).replace(
        b'"\x01\x05', b'"\x0a' + b"\xff" * 9 + b"\x01"
    )
    record = record[:1] + bytes([len(record) - 2]) + record[2:]
    with open_records(
        make(tmp_path / "a", [record, encode_record({"label": np.int32(-2)})])
    ) as dataset:
        assert dataset.gather(np.array([0, 1]))["label"].tolist() == [-1, -2]


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_any_labels(labels: list[int]) -> None:
    path = Path(f"/tmp/tensorkeep-labels-{os.getpid()}.minidb")
    try:
        samples: list[dict[str, Any]] = [
            {"l": np.int64(label), "pair": np.array([label, 1])} for label in labels
        ]
        with open_records(make(path, [encode_record(s) for s in samples])) as dataset:
            check(dataset, samples)
    finally:
        path.unlink()


def bytes_field(number: int, data: bytes) -> bytes:
    """A field of bytes, of up to 2 MiB."""
    size = len(data)
    parts = [size & 127 | 128, size >> 7 & 127 | 128, size >> 14]
    return bytes([number << 3 | 2, *parts]) + data


def test_uint8_as_numbers_and_names_that_are_absent(tmp_path: Path) -> None:
    """As most writers in Python did it: pixels in int32_data, packed or not, and no names."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (20, 2, 200), np.uint8)
    records = []
    for row in range(20):
        one = b"".join(
            bytes([p & 127 | 128, 1]) if p > 127 else bytes([p]) for p in pixels[row].flat
        )
        packed = bytes_field(4, one)
        single = b"".join(
            b"\x20" + (bytes([p & 127 | 128, 1]) if p > 127 else bytes([p]))
            for p in pixels[row].flat
        )
        image = b"\x08\x02\x08\xc8\x01\x10\x06" + (packed if row % 2 else single)
        records.append(bytes_field(1, image) + bytes_field(1, bytes([0x10, 2, 0x20, row])))
    with open_records(make(tmp_path / "a", records)) as dataset:
        assert dataset.fields == {"0": Field("uint8", (2, 200)), "1": Field("int32", ())}
        check(dataset, [{"0": pixels[row], "1": np.int32(row)} for row in range(20)])


def test_bool_in_bytes_and_bfloat16(tmp_path: Path) -> None:
    records = []
    for byte in (0, 1, 2, 255):
        flag = b"\x08\x02\x10\x05" + bytes_field(5, bytes([byte, 1]))
        brain = b"\x08\x02\x10\x01\x78\x01" + bytes_field(13, bytes([0, byte, 0x80, 0x3F]))
        records.append(bytes_field(1, flag) + bytes_field(1, brain))
    with open_records(make(tmp_path / "a", records)) as dataset:
        together = dataset.gather(np.arange(4))
        assert together["0"].tolist() == [[b > 0, True] for b in (0, 1, 2, 255)]
        one_by_one = list(dataset._one_by_one(np.arange(4)))
        for row in range(4):
            np.testing.assert_array_equal(together["1"][row], one_by_one[row]["1"])
        assert together["1"].dtype == np.float32


def test_samples_of_different_shapes(tmp_path: Path) -> None:
    samples: list[dict[str, Any]] = [
        {"x": np.arange(n, dtype=np.float32), "n": np.int32(n)} for n in (3, 400, 3, 0)
    ]
    with open_records(make(tmp_path / "a", [encode_record(s) for s in samples])) as dataset:
        assert dataset.fields == {"x": Field("float32", None), "n": Field("int32", ())}
        for got, sample in zip(dataset.samples(np.arange(4)), samples, strict=True):
            assert np.array_equal(got["x"], sample["x"])
        check(dataset, samples, [0, 2])
        with pytest.raises(
            UnsupportedError, match=r"'x' has shape \(3,\) in sample 0 \('00000000'\)"
        ):
            dataset.gather(np.arange(4))
        assert open_records(dataset.where, ["n"]).gather(np.arange(4))["n"].tolist() == [
            3,
            400,
            3,
            0,
        ]


def test_samples_of_different_fields(tmp_path: Path) -> None:
    samples: list[dict[str, Any]] = [{"a": np.int32(1), "b": np.int32(2)}, {"a": np.int32(3)}]
    with open_records(make(tmp_path / "a", [encode_record(s) for s in samples])) as dataset:
        assert list(dataset.fields) == ["a"]
        assert [sorted(s) for s in dataset.samples(np.arange(2))] == [["a", "b"], ["a"]]
        with pytest.raises(UnsupportedError, match="sample 0"):
            dataset.gather(np.arange(2))


def test_many_layouts(tmp_path: Path) -> None:
    """More shapes of one size, and more sizes, than are learned."""
    rng = np.random.default_rng(2)
    samples = [{f"n{i % 40}": np.int32(i)} for i in range(100)]
    with open_records(make(tmp_path / "a", [encode_record(s) for s in samples])) as dataset:
        for _ in range(2):
            assert dataset.samples(np.arange(100)) == samples
    texts: list[dict[str, Any]] = [
        {"t": bytes(rng.integers(1, 256, n, np.uint8))} for n in range(1, 300)
    ]
    with open_records(make(tmp_path / "b", [encode_record(s) for s in texts])) as dataset:
        check(dataset, texts)


def test_no_records(tmp_path: Path) -> None:
    path = tmp_path / "a.minidb"
    path.write_bytes(b"")
    with open_records(str(path)) as dataset:
        assert len(dataset) == 0
        assert dataset.gather(np.zeros(0, np.int64)) == {}
        assert dataset.verify() == []
        assert len(dataset.digest) == 32
    assert not recognises(str(path))


def test_what_is_none(tmp_path: Path) -> None:
    assert not recognises(str(tmp_path))
    assert not recognises(str(tmp_path / "absent"))
    assert not recognises(str(GOLDEN / "dtypes.minidb"))
    assert not recognises(str(GOLDEN / "MANIFEST.json"))
    with pytest.raises(MissingError, match="no such file"):
        open_records(str(tmp_path / "absent"))
    with pytest.raises(UnknownFormatError, match="is no database"):
        open_records(str(tmp_path))
    with pytest.raises(ArgumentError, match="db_type 'mdb'"):
        RecordsDataset(str(tmp_path), "mdb")
    with pytest.raises(UnsupportedError, match="BlobProtos: saved weights"):
        open_records(str(GOLDEN / "dtypes.minidb"))


@pytest.mark.parametrize("kind", ["minidb", "lmdb"])
def test_on_a_network_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    samples = images(60)
    path = make(tmp_path / "a", [encode_record(sample) for sample in samples], kind)
    monkeypatch.setattr("tensorkeep.syscalls.network_filesystem", lambda fd: "nfs")
    with open_records(path) as dataset:
        check(dataset, samples)
        check(dataset, samples, [3, 59, 3])
        assert dataset.verify() == []


def test_threads_share_one(tmp_path: Path) -> None:
    samples = images(300)
    path = make(tmp_path / "a", [encode_record(sample) for sample in samples], "lmdb")
    rows = np.random.default_rng(5).integers(0, 300, (40, 50))
    with open_records(path) as dataset, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda some: check(dataset, samples, some), rows))


def datum(pixels: np.ndarray[Any, Any], label: int, *, rest: bytes = b"") -> bytes:
    """What Caffe's tools write: the shape, the pixels, the label."""
    shape = b"".join(bytes([number << 3, axis]) for number, axis in enumerate(pixels.shape, 1))
    tag = bytes([0x28, label & 127 | 128, label >> 7]) if label > 127 else bytes([0x28, label])
    return shape + bytes_field(4, pixels.tobytes()) + tag + rest


@pytest.mark.parametrize("kind", ["minidb", "lmdb"])
def test_databases_of_caffe(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(6)
    samples: list[dict[str, Any]] = [
        {"data": rng.integers(0, 256, (3, 9, 20), np.uint8), "label": np.int32(label)}
        for label in (0, 1, 300, 5, 127, 128)
    ]
    records = [datum(sample["data"], int(sample["label"])) for sample in samples]
    path = make(tmp_path / "a", records, kind)
    assert recognises(path)
    with open_records(path) as dataset:
        assert dataset.fields == {"data": Field("uint8", (3, 9, 20)), "label": Field("int32", ())}
        check(dataset, samples)
        check(dataset, samples, [2, 0])
        assert next(dataset._one_by_one(np.array([4])))["label"] == 127


def test_image_files_and_floats_of_caffe(tmp_path: Path) -> None:
    image = np.frombuffer(b"\xff\xd8 and so on", np.uint8).reshape(1, 1, -1)
    with open_records(make(tmp_path / "a", [datum(image, 3, rest=b"\x38\x01")] * 2)) as dataset:
        batch = dataset.gather(np.array([0, 1]))
        assert batch["data"].tolist() == [image.tobytes()] * 2
        assert batch["label"].tolist() == [3, 3]
    floats = np.array([[[0.5], [-2]]], np.float32)
    spread = b"".join(b"\x35" + value.tobytes() for value in floats.flat)
    record = b"\x08\x01\x10\x02\x18\x01" + spread
    with open_records(make(tmp_path / "b", [record])) as dataset:
        check(dataset, [{"data": floats, "label": np.int32(0)}])
    wrong = datum(image, 3)[:4] + b"\x18\x05" + datum(image, 3)[6:]
    with pytest.raises(CorruptError, match=r"12 bytes of data .* for the shape \(1, 1, 5\)"):
        open_records(make(tmp_path / "c", [wrong]))
