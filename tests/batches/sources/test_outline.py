"""Records whose values take differing numbers of bytes, walked through together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.batches.record_databases import check, make

from tensorkeep.data.sources.records import RecordsDataset, open_records
from tensorkeep.errors import CorruptError, TensorKeepError, UnsupportedError
from tensorkeep.message.varints import encode_varints
from tensorkeep.wire.caffe2.protos import encode_record


def field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + encode_varints(np.array([len(data)])).tobytes() + data


def pixels_as_numbers(image: npt.NDArray[np.uint8], label: int) -> bytes:
    """As Caffe2's own serialization has it: uint8 in int32_data."""
    dims = b"".join(b"\x08" + encode_varints(np.array([axis])).tobytes() for axis in image.shape)
    values = dims + b"\x10\x06" + field(4, encode_varints(image).tobytes()) + field(7, b"image")
    return field(1, values) + encode_record({"label": np.int32(label)})


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forbid that records are read one by one."""

    def refuse(*_: object) -> None:
        raise AssertionError("a record was read by itself")

    monkeypatch.setattr(RecordsDataset, "_decode", refuse)


@pytest.mark.usefixtures("together")
def test_pixels_as_numbers(tmp_path: Path) -> None:
    """Lengths of two bytes and of three, labels of one to ten."""
    rng = np.random.default_rng(1)
    samples: list[dict[str, Any]] = [
        {
            "image": rng.integers(0, top, (3, 60, 70), np.uint8),
            "label": np.int32(label),
        }
        for top, label in [(256, 1), (100, 127), (140, 128), (256, -1), (2, 40_000), (128, 0)]
    ]
    records = [pixels_as_numbers(s["image"], int(s["label"])) for s in samples]
    assert len({len(record) for record in records}) > 3
    with open_records(make(tmp_path / "a", records)) as dataset:
        check(dataset, samples)
        check(dataset, samples, [3, 3, 0, 5])
        assert dataset.verify() == []
    with open_records(dataset.where, ["label"]) as dataset:
        check(dataset, [{"label": s["label"]} for s in samples])


@pytest.mark.usefixtures("together")
def test_image_files(tmp_path: Path) -> None:
    """As make_image_db has it: a file in string_data."""
    rng = np.random.default_rng(2)
    samples: list[dict[str, Any]] = [
        {
            "0": np.array([rng.bytes(size)], object),
            "1": np.array([label], np.int32),
        }
        for size, label in [(4000, 1), (0, 2), (90, 300), (20_000, 4), (127, 5), (128, 6)]
    ]
    records = [encode_record({"": s["0"]}) + encode_record({"": s["1"]}) for s in samples]
    with open_records(make(tmp_path / "a", records)) as dataset:
        check(dataset, samples)
        check(dataset, samples, [5, 1, 1])


@pytest.mark.usefixtures("together")
def test_every_coding(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    samples: list[dict[str, Any]] = [
        {
            "tokens": rng.integers(-(2 ** int(bits)), 2 ** int(bits), (2, 12)),
            "few": rng.integers(-300, 300, 3).astype(np.int16),
            "half": rng.normal(size=40).astype(np.float16),
            "flags": rng.integers(0, 2, 17).astype(bool),
            "floats": rng.normal(size=(2, 2)).astype(np.float32),
            "texts": np.array([b"a" * int(bits), b"", b"\xff"], object),
            "empty": np.zeros((0, 2), np.int32),
            "one": np.int64(-bits),
        }
        for bits in (3, 7, 20, 62)
    ]
    with open_records(make(tmp_path / "a", [encode_record(s) for s in samples])) as dataset:
        check(dataset, samples)


def test_records_of_several_outlines(tmp_path: Path) -> None:
    texts: list[dict[str, Any]] = [
        {"t": b"x" * (i * 7 % 40), "n": np.int32(i), **({"more": np.float32(i)} if i % 3 else {})}
        for i in range(30)
    ]
    with open_records(make(tmp_path / "a", [encode_record(s) for s in texts])) as dataset:
        for _ in range(2):
            assert dataset.samples(np.arange(30)) == texts
        with pytest.raises(UnsupportedError, match="sample 0"):
            dataset.gather(np.arange(30))
    with open_records(dataset.where, ["n", "t"]) as dataset:
        check(dataset, [{"n": s["n"], "t": s["t"]} for s in texts])


def test_a_field_that_one_record_lacks(tmp_path: Path) -> None:
    samples: list[dict[str, Any]] = [
        {"t": b"x" * i, "n": np.int32(i)} for i in range(130)
    ]  # more than are looked at
    records = [encode_record(sample) for sample in samples]
    records[1] = encode_record({"t": b"x"})
    with open_records(make(tmp_path / "a", records), ["n"]) as dataset:
        with pytest.raises(UnsupportedError, match=r"sample 1 .* has no field 'n'"):
            dataset.gather(np.array([0, 1, 2]))
        assert dataset.gather(np.array([0, 2]))["n"].tolist() == [0, 2]


def test_damage_is_found_as_it_is_one_by_one(tmp_path: Path) -> None:
    """Every byte of a record changed, beside sound ones: the same values, or the same error."""
    rng = np.random.default_rng(4)
    records = [pixels_as_numbers(rng.integers(0, 256, 18, np.uint8), n) for n in (5, 200)]
    whole = records[0]
    changed = [
        whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
        for at in range(len(whole))
        for bit in ((0, 7, 2)[at % 3],)
    ]
    with open_records(make(tmp_path / "a", [*records, *changed])) as dataset:
        dataset.gather(np.array([0, 1]))
        for row in range(len(dataset)):
            (alone,) = _attempt(lambda row=row: list(dataset._one_by_one(np.array([row]))))
            with_others = _attempt(lambda row=row: dataset.samples(np.array([0, row, 1])))
            if isinstance(alone, str):
                assert with_others == [alone]
                assert f"sample {row}" in alone
                continue
            assert with_others[1].keys() == alone.keys()
            for name, value in alone.items():
                np.testing.assert_array_equal(with_others[1][name], value)
                assert with_others[1][name].dtype == value.dtype


def _attempt(read: Any) -> list[Any]:
    try:
        return list(read())
    except TensorKeepError as error:
        return [str(error)]


def test_a_number_that_is_too_long(tmp_path: Path) -> None:
    pixels = np.arange(20, dtype=np.uint8)
    good = pixels_as_numbers(pixels, 1)
    values = encode_varints(pixels).tobytes()
    overlong = values[:10] + b"\x80" * 11 + b"\x01" + values[11:]
    tensor = b"\x08\x14\x10\x06" + field(4, overlong) + field(7, b"image")
    bad = field(1, tensor) + encode_record({"label": np.int32(1)})
    with open_records(make(tmp_path / "a", [good, good, bad])) as dataset:
        check(dataset, [{"image": pixels, "label": np.int32(1)}] * 2)
        with pytest.raises(CorruptError, match=r"sample 2 .*longer than ten bytes"):
            dataset.gather(np.arange(3))
