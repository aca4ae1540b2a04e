from __future__ import annotations

import contextlib
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.batches.record_databases import ENGINES, check, images, make

import tensorkeep as tk
from tensorkeep.data.sources.records import open_records
from tensorkeep.errors import (
    CorruptError,
    TensorKeepError,
    UnsupportedError,
)
from tensorkeep.stores import open_database
from tensorkeep.wire.caffe2.protos import encode_record

# --- damage --------------------------------------------------------------------------------------


def small(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    samples: list[dict[str, Any]] = [
        {"x": np.arange(6, dtype=np.uint8), "l": np.int32(n)} for n in (1, 300, 2)
    ]
    return Path(make(tmp_path / "a.minidb", [encode_record(s) for s in samples])), samples


def read_all(path: Path) -> None:
    """Read all there is: either way gives the same, or one of our errors that names the sample."""
    try:
        dataset = open_records(str(path))
    except TensorKeepError:
        return
    with dataset:
        for row in range(len(dataset)):
            message = ""
            try:
                (sample,) = dataset.samples(np.array([row]))
                for name, values in dataset.gather(np.array([row, row])).items():
                    np.testing.assert_array_equal(values, [sample[name]] * 2)
            except TensorKeepError as error:
                message = str(error)
            assert not message or f"sample {row}" in message
        with contextlib.suppress(TensorKeepError):
            dataset.gather(np.arange(len(dataset)))
        dataset.verify()


def test_every_truncation(tmp_path: Path) -> None:
    path, samples = small(tmp_path)
    whole = path.read_bytes()
    sizes = [len(encode_record(sample)) + 16 for sample in samples]
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        if end in (0, sizes[0], sizes[0] + sizes[1]):
            with open_records(str(path)) as dataset:
                assert len(dataset) == [0, sizes[0], sizes[0] + sizes[1]].index(end)
        else:
            with pytest.raises(CorruptError, match="record"):
                open_records(str(path))


def test_every_bit(tmp_path: Path) -> None:
    path, _ = small(tmp_path)
    whole = path.read_bytes()
    for at in range(len(whole)):
        bit = 7 if at % 2 else at % 6  # the high one changes where a number ends
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        read_all(path)


def test_damage_around_the_values_is_found_in_a_batch(tmp_path: Path) -> None:
    samples = images(50)
    path = Path(make(tmp_path / "a", [encode_record(sample) for sample in samples]))
    at = path.read_bytes().index(b"00000033") + 8
    with open_records(str(path)) as dataset:
        check(dataset, samples, range(33))
        with path.open("r+b") as file:  # in place, behind its back
            file.seek(at + 1)
            file.write(b"\xff")
        for _ in range(2):
            with pytest.raises(CorruptError, match=r"sample 33 \('00000033'\).*not a TensorProtos"):
                dataset.gather(np.array([1, 33, 2]))
            check(dataset, samples, [1, 32, 34])
        (damage,) = dataset.verify()
        assert "sample 33" in damage
        with path.open("r+b") as file:
            file.truncate(100)
        with pytest.raises(CorruptError, match="shorter now"):
            dataset.gather(np.array([40]))


def test_verify_reads_what_was_read_before_again(tmp_path: Path) -> None:
    samples = images(5)
    path = Path(make(tmp_path / "a", [encode_record(sample) for sample in samples]))
    with open_records(str(path)) as dataset:
        check(dataset, samples)
        assert dataset.verify() == []
        with path.open("r+b") as file:
            file.seek(path.read_bytes().index(b"00000003") + 9)
            file.write(b"\xff")
        (damage,) = dataset.verify()
        assert "sample 3 ('00000003')" in damage


def test_a_record_of_another_name_in_a_batch(tmp_path: Path) -> None:
    records = [encode_record(sample) for sample in images(9)]
    records[4] = records[4].replace(b"label", b"lapel")
    path = make(tmp_path / "a", records)
    with open_records(path) as dataset, pytest.raises(UnsupportedError, match="sample 4"):
        dataset.gather(np.arange(9))
    with open_records(path, ["image"]) as dataset:
        assert dataset.gather(np.arange(9)).keys() == {"image"}


# --- the index -----------------------------------------------------------------------------------


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> int:
    """Give from how many samples on an index is kept: few here."""
    monkeypatch.setattr("tensorkeep.data.index._WORTH", 20)
    return 20


def numbered(count: int, first: int = 0) -> list[bytes]:
    return [encode_record({"n": np.int32(first + n), "t": np.zeros(3)}) for n in range(count)]


def check_numbers(path: str, count: int, first: int = 0) -> None:
    with open_records(path) as dataset:
        assert len(dataset) == count
        assert dataset.gather(np.arange(count))["n"].tolist() == list(range(first, first + count))


@pytest.mark.parametrize("kind", ENGINES)
def test_a_large_one_has_an_index(tmp_path: Path, kept: int, kind: str) -> None:
    path = make(tmp_path / "a", numbered(kept), kind)
    beside = Path(f"{path}.index.safetensors")
    check_numbers(path, kept)
    assert beside.exists()
    before = beside.read_bytes()
    check_numbers(path, kept)
    assert beside.read_bytes() == before
    with open_database(kind, path, "write") as database:
        for n in (kept, kept + 1):
            database.put(f"{n:08}", numbered(1, n))
        database.commit()
    check_numbers(path, kept + 2)
    if kind != "sqlite":  # whose new rows may lie in the room that there was
        assert beside.read_bytes() != before


def test_an_index_that_lies_is_made_anew(tmp_path: Path, kept: int) -> None:
    path = make(tmp_path / "a", numbered(kept))
    check_numbers(path, kept)
    beside = f"{path}.index.safetensors"
    with tk.open(beside) as state:
        about = dict(state.metadata)
        arrays = {name: state[name].numpy().copy() for name in state}
    lies: list[Callable[[dict[str, Any]], Any]] = [
        lambda a: a["starts"].__setitem__(7, 1 << 40),
        lambda a: a["starts"].__setitem__(7, -1),
        lambda a: a["sizes"].__setitem__(7, 1 << 31),
        lambda a: a["key_starts"].__setitem__(7, 1 << 62),
        lambda a: a.update(sizes=a["sizes"][:-1]),
        lambda a: a.update(starts=a["starts"].astype(np.float32)),
        lambda a: a.update(starts=a["starts"].reshape(-1, 2)),
        lambda a: a.update(starts=np.int64(3), key_starts=np.int64(3)),
        lambda a: a.pop("key_sizes"),
        lambda a: a.update(more=np.zeros(3)),
    ]
    for lie in lies:
        changed = {name: array.copy() for name, array in arrays.items()}
        lie(changed)
        tk.save(changed, beside, metadata=about)
        check_numbers(path, kept)
        with tk.open(beside) as state:
            assert np.array_equal(state["starts"].numpy(), arrays["starts"])


def test_lies_about_keys(tmp_path: Path, kept: int) -> None:
    path = make(tmp_path / "a", numbered(kept), "sqlite")
    check_numbers(path, kept)
    beside = f"{path}.index.safetensors"
    with tk.open(beside) as state:
        about = dict(state.metadata)
        arrays = {name: state[name].numpy().copy() for name in state}
    for ends in (arrays["key_ends"][::-1], arrays["key_ends"] * 2, arrays["key_ends"].astype("f4")):
        tk.save({**arrays, "key_ends": ends}, beside, metadata=about)
        check_numbers(path, kept)


def test_an_index_taken_along_with_a_copy(tmp_path: Path, kept: int) -> None:
    path = make(tmp_path / "a", numbered(kept))
    check_numbers(path, kept)
    shutil.copy(f"{path}.index.safetensors", tmp_path / "b.index.safetensors")
    check_numbers(make(tmp_path / "b", numbered(kept, 3)), kept, 3)


# --- LMDB ----------------------------------------------------------------------------------------


def test_an_lmdb_that_is_written_to(tmp_path: Path) -> None:
    samples = images(300)
    records = [encode_record(sample) for sample in samples]
    path = make(tmp_path / "a", records, "lmdb")
    with open_records(path) as dataset:
        for round_ in range(5):
            with open_database("lmdb", path, "write") as database:
                for row in range(round_, 300, 2):
                    database.put(f"{row:08}", [bytes([round_]) * 800])
                database.delete(f"{round_:08}")
                database.commit()
            check(dataset, samples)
            assert dataset.name(3) == "sample 3 ('00000003')"
    with open_database("lmdb", path) as database:
        assert len(list(database.keys())) < 300


_WRITER = """
import sys
from tensorkeep.stores import open_database
for turn in range(4):
    with open_database("lmdb", sys.argv[1], "write") as database:
        for row in range(200):
            database.put(f"{row:08}", [bytes([turn + 1]) * 900])
        database.commit()
"""


def test_an_lmdb_that_another_process_writes_to(tmp_path: Path) -> None:
    samples = images(200)
    path = make(tmp_path / "a", [encode_record(sample) for sample in samples], "lmdb")
    with open_records(path) as dataset:
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, path])
        while writer.poll() is None:
            check(dataset, samples, range(0, 200, 3))
        assert writer.returncode == 0
        check(dataset, samples)
    with pytest.raises(CorruptError, match="is not a TensorProtos"):
        open_records(path)


def test_an_lmdb_whose_map_grows(tmp_path: Path) -> None:
    pytest.importorskip("lmdb")
    samples = images(30)
    path = str(tmp_path / "a")
    with open_database("lmdb", path, "new", map_size=1 << 20) as database:
        for row, sample in enumerate(samples):
            database.put(f"{row:08}", [encode_record(sample)])
        database.commit()
    small_map = open_database("lmdb", path, "write", map_size=1 << 20)
    with small_map as database, open_records(path) as dataset:
        database.put("x", [bytes(8 << 20)])
        database.commit()
        check(dataset, samples)


@pytest.mark.parametrize("empty", [True, False])
def test_an_lmdb_of_few_values(tmp_path: Path, empty: bool) -> None:
    path = make(tmp_path / "a", [] if empty else [encode_record({"n": np.int32(1)})], "lmdb")
    with open_records(path) as dataset:
        assert len(dataset) == (0 if empty else 1)
        assert dataset.verify() == []
    with open_records(f"{path}/data.mdb") as dataset:
        assert len(dataset) == (0 if empty else 1)


def test_damage_to_an_lmdb(tmp_path: Path) -> None:
    samples = images(40)
    path = Path(make(tmp_path / "a", [encode_record(sample) for sample in samples], "lmdb"))
    file = path / "data.mdb"
    whole = file.read_bytes()
    rng = np.random.default_rng(3)
    for end in [0, 1, 100, 4096, 4200, 8192, len(whole) // 2, len(whole) - 4096]:
        file.write_bytes(whole[:end])
        with pytest.raises(TensorKeepError):
            open_records(str(path))
    for at in [*range(1, 200, 19), *rng.integers(0, len(whole), 20).tolist()]:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        read_all(path)


def test_a_writer_is_told_of_damage_that_records_are_read_past(tmp_path: Path, kept: int) -> None:
    path = Path(make(tmp_path / "a", numbered(kept), "lmdb"))
    check_numbers(str(path), kept)
    with open_records(str(path)):  # by its index: no page of the tree was looked at
        data = (path / "data.mdb").read_bytes()
        page = struct.unpack_from("<Q", data, 128 + 4096 * (data[4096 + 144] > data[144]))[0]
        with (path / "data.mdb").open("r+b") as file:
            file.seek(page * 4096 + 10)
            file.write(b"\x07")
        for mode in ("read", "write"):
            with (
                pytest.raises(CorruptError, match="is damaged"),
                open_database("lmdb", path, mode) as database,
            ):
                list(database.keys())
