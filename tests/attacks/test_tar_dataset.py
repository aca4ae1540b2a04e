"""Tar shards that lie about sizes, lead elsewhere, hold programs or take far more than they are."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.batches.tars import npy, npz, numbered, shard, tar

from tensorkeep.data import index
from tensorkeep.data.index import Index
from tensorkeep.data.members import is_sound, read_members
from tensorkeep.data.sources import tar as tar_source
from tensorkeep.data.sources.tar import open_tar
from tensorkeep.errors import (
    CorruptError,
    TensorKeepError,
    UnknownFormatError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.source import FileSource, MemorySource

BLOCK = 512


def summed(header: bytes) -> bytes:
    """Put the right sum into a header."""
    bare = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(bare) + header[156:]


def header(name: str = "0.cls", size: bytes = b"00000000001\0", kind: bytes = b"0") -> bytes:
    info = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT)[:BLOCK])
    info[124:136] = size
    info[156:157] = kind
    return summed(bytes(info))


def member(data: bytes, **options: Any) -> bytes:
    size = b"%011o\0" % len(data)
    return header(size=size, **options) + data + bytes(-len(data) % BLOCK)


END = bytes(2 * BLOCK)


def refused(folder: Path, data: bytes, message: str, kind: type[TensorKeepError]) -> None:
    path = folder / "a.tar"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(kind, match=message) as caught:
            open_tar(path)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(str(path))
    assert os.listdir(folder) == ["a.tar"]


SIZES = {
    "huge": (b"77777777777\0", "cut short"),
    "huge in base 256": (b"\x80" + bytes(5) + b"\xff" * 6, "cut short"),
    "beyond any file": (b"\x80" + b"\xff" * 11, "has no size"),
    "negative": (b"-0000000001\0", "has no size"),
    "negative in base 256": (b"\xff" * 12, "has no size"),
    "empty": (bytes(12), "has no size"),
    "digits that are not octal": (b"00000000009\0", "has no size"),
    "python's own spelling": (b"0000000_001\0", "has no size"),
}


@pytest.mark.parametrize("size", SIZES)
def test_sizes(size: str, tmp_path: Path) -> None:
    field, message = SIZES[size]
    data = header(size=field) + b"1".ljust(BLOCK) + END
    refused(tmp_path, data, message, CorruptError)


def test_a_sparse_file_of_the_size_that_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(header(size=b"04000000000\0"))
    os.truncate(tmp_path / "a.tar", (512 << 20) + 2048)
    tracemalloc.start()
    try:
        dataset = open_tar(tmp_path / "a.tar")
        with pytest.raises(CorruptError, match="where a whole number is needed"):
            dataset[0]
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [b"x", b"L"])
def test_long_extended_headers(kind: bytes, tmp_path: Path) -> None:
    refused(tmp_path, member(b"x" * 70_000, kind=kind) + END, "over the limit of", UnsafeError)
    huge = header(size=b"77777777777\0", kind=kind)
    refused(tmp_path, huge + END, "extended header of 8,589,934,591 bytes", UnsafeError)


RECORDS = [b"9 path=a", b"99 path=a\n", b"0 path=a\n", b"5 path=a\n", b"x path=a\n", b"7 patha\n"]


@pytest.mark.parametrize("record", RECORDS)
def test_damaged_pax_records(record: bytes, tmp_path: Path) -> None:
    refused(tmp_path, member(record, kind=b"x") + member(b"1") + END, "is damaged", CorruptError)


@pytest.mark.parametrize("size", [b"-1", b"9" * 30, b"1e3", b"\xd9\xa1"])
def test_pax_sizes(size: bytes, tmp_path: Path) -> None:
    record = b" size=" + size + b"\n"
    length = len(record) + 2
    data = member(b"%d" % length + record, kind=b"x") + member(b"1") + END
    refused(tmp_path, data, "has the size", CorruptError)
    liar = member(b"17 size=99999999\n", kind=b"x") + member(b"1") + END
    refused(tmp_path, liar, "cut short", CorruptError)


def test_chains_of_extended_headers_end(tmp_path: Path) -> None:
    data = member(b"9 path=a\n", kind=b"x") * 2000 + member(b"n", kind=b"L") * 2000
    refused(tmp_path, data, "cut short", CorruptError)
    (tmp_path / "a.tar").write_bytes(data + member(b"1") + END)
    assert len(open_tar(tmp_path / "a.tar")) == 0  # the name "a" has no ending


def test_names_lead_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    os.utime(secret, (1, 1))
    names = ["../secret.txt", str(secret), "/etc/passwd.txt", "a/../../secret.txt", "a\nb.txt"]
    (tmp_path / "in").mkdir()
    dataset = open_tar(shard(tmp_path / "in", [(name, b"own") for name in names]))
    assert [sample["txt"] for sample in dataset.samples(np.arange(5))] == ["own"] * 5
    assert dataset.name(4) == r"sample 4 ('a\nb')"
    assert secret.stat().st_atime == 1
    assert os.listdir(tmp_path / "in") == ["a.tar"]


def test_links_are_passed_over(tmp_path: Path) -> None:
    links = [header(f"{i}.txt", kind=kind) for i, kind in enumerate((b"1", b"2", b"3", b"6"))]
    links = [summed(each[:157] + b"/etc/passwd".ljust(100, b"\0") + each[257:]) for each in links]
    (tmp_path / "a.tar").write_bytes(b"".join(links) + member(b"own", name="5.txt") + END)
    dataset = open_tar(tmp_path / "a.tar")
    assert [dict(dataset[i]) for i in range(len(dataset))] == [{"txt": "own"}]


def test_files_with_holes_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, header(kind=b"S") + END, "has holes. Pack it without", UnsupportedError)
    record = member(b"22 GNU.sparse.major=1\n", kind=b"x")
    refused(tmp_path, record + member(b"1") + END, "has holes", UnsupportedError)


# --- members ------------------------------------------------------------------------------------


def reads(folder: Path, name: str, data: bytes, message: str, kind: type[TensorKeepError]) -> None:
    """Check that a member is refused when it is read, by the name of its sample, without memory."""
    path = shard(folder, [(name, data)])
    tracemalloc.start()
    try:
        with pytest.raises(kind, match=f"a.tar: sample 0 .'0'.*({message})"):
            open_tar(path).gather(np.array([0]))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def npy_of(descr: str, shape: str, data: bytes = b"") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + data


ARRAYS = {
    "pickle": (
        npy(np.array([print], object), allow_pickle=True),
        "Python objects",
        UnsupportedError,
    ),
    "huge": (npy_of("'<f8'", "(1000000000000,)"), "but 0 follow the header", CorruptError),
    "overflow": (npy_of("'<f8'", "(9223372036854775807, 3)"), "beyond any array", CorruptError),
    "negative": (npy_of("'<f8'", "(-1,)"), "its header is", CorruptError),
    "code": (npy_of("__import__('os').abort()", "(1,)"), "its header is", CorruptError),
    "short": (b"\x93NUMPY\1\0\xff\xff", "not a NumPy array", CorruptError),
    "none": (b"", "not a NumPy array", CorruptError),
    "trailing": (npy(np.zeros(3)) + b"x", "25 follow the header", CorruptError),
    "cut": (npy(np.zeros(3))[:100], "header should be 128 bytes", CorruptError),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_that_are_none(case: str, tmp_path: Path) -> None:
    data, message, kind = ARRAYS[case]
    reads(tmp_path, "0.x.npy", data, message, kind)


def test_a_header_that_differs_in_one_sample_is_not_taken_for_the_others(tmp_path: Path) -> None:
    files, arrays = numbered(6)
    files[6] = ("0003.image.npy", npy(arrays[3].view(np.int8)))
    files[8] = ("0004.image.npy", npy(arrays[4].reshape(4, 3, 5)))
    dataset = open_tar(shard(tmp_path, files))
    assert dataset[3]["image"].dtype == np.int8
    assert dataset[4]["image"].shape == (4, 3, 5)
    with pytest.raises(UnsupportedError, match="make no batch"):
        dataset.gather(np.array([0, 4]))


def test_pickles_are_never_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    bomb = pickle.dumps(Bomb())
    objects = npy(np.array([Bomb()], object), allow_pickle=True)
    files = [("0.a.pkl", bomb), ("0.b.pyd", bomb), ("0.c.pth", bomb), ("0.d.pickle", bomb)]
    dataset = open_tar(shard(tmp_path, files))
    assert set(dataset[0].values()) == {bomb}
    reads(tmp_path, "0.x.npy", objects, "can run code", UnsupportedError)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("a.npy", objects)
    reads(tmp_path, "0.x.npz", archive.getvalue(), "can run code", UnsupportedError)
    assert not (tmp_path / "exploded").exists()


def png_of(wide: int, high: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(100_000)))
    return b"\x89PNG\r\n\x1a\n" + head + pixels + chunk(b"IEND", b"")


def test_pictures_that_unpack_to_far_more(tmp_path: Path) -> None:
    reads(tmp_path, "0.png", png_of(60_000, 60_000), "too many pixels", UnsafeError)
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    reads(tmp_path, "0.png", script, "is no picture", CorruptError)


def test_zips_that_unpack_to_far_more(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("a.npy", npy(np.zeros(1)))
    data = bytearray(archive.getvalue())
    at = data.index(b"PK\1\2")
    data[at + 24 : at + 28] = struct.pack("<I", 3 << 30)
    message = "which deflate cannot do"
    reads(tmp_path, "0.x.npz", bytes(data), message, TensorKeepError)


def test_json_that_nests_or_counts_too_far(tmp_path: Path) -> None:
    reads(tmp_path, "0.json", b"[" * 100_000, "nested too deeply", CorruptError)
    reads(tmp_path, "0.json", b"9" * 10_000, "cannot be read", CorruptError)
    reads(tmp_path, "0.json", b'{"a": 1, "a": 2}', "gives 'a' twice", CorruptError)


@pytest.mark.parametrize("number", [b"", b"1e3", b"0x10", b"9" * 5000, b"9223372036854775808"])
def test_numbers_that_are_none(number: bytes, tmp_path: Path) -> None:
    reads(tmp_path, "0.cls", number, "where a whole number is needed", CorruptError)


# --- many -----------------------------------------------------------------------------------------


def test_a_hundred_thousand_members_open_quickly(tmp_path: Path) -> None:
    one = member(b"1", name="a.cls") + member(b"2", name="b.cls")
    (tmp_path / "a.tar").write_bytes(one * 50_000 + END)
    start = time.perf_counter()
    dataset = open_tar(tmp_path / "a.tar")
    assert time.perf_counter() - start < 5
    assert len(dataset) == 100_000
    assert int(dataset.gather(np.arange(100_000))["cls"].sum()) == 150_000


def test_every_member_of_another_kind(tmp_path: Path) -> None:
    data = b"".join(member(b"1", name=f"a.{i:05}") for i in range(3000)) + END
    refused(tmp_path, data, "over 1,000 fields .* a sample's key ends at the first dot",
            UnsupportedError)  # fmt: skip


def test_upper_and_lower_case_are_counted_as_well(tmp_path: Path) -> None:
    names = [f"{i}.{bin(i)[2:].zfill(11).translate({48: 'a', 49: 'A'})}" for i in range(2000)]
    data = b"".join(member(b"1", name=name) for name in names) + END
    refused(tmp_path, data, "over 1,000 fields", UnsupportedError)


# --- damage --------------------------------------------------------------------------------------


def test_every_truncation(tmp_path: Path) -> None:
    files, _ = numbered(4)
    data = tar(files)
    path = tmp_path / "a.tar"
    whole = len(data.rstrip(b"\0")) // BLOCK * BLOCK + BLOCK
    for size in range(0, whole + BLOCK, 128):
        path.write_bytes(data[:size])
        with pytest.raises((CorruptError, UnknownFormatError)):
            open_tar(path)
    path.write_bytes(data[: whole + BLOCK])
    assert len(open_tar(path)) == 4


def test_every_flipped_bit_is_right_or_an_error(tmp_path: Path) -> None:
    """A tar has no sums of what members hold: only their headers are sure."""
    files = [("0.x.npy", npy(np.arange(3.0))), ("0.cls", b"1"), ("0.m.npz", npz(a=np.arange(3)))]
    data = tar(files)[: 7 * BLOCK]
    path = tmp_path / "a.tar"
    for bit in range(0, len(data) * 8, 131):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            with open_tar(path) as dataset:
                assert list(dataset.fields)[:2] == ["x", "cls"]
                sample = dataset[0]
        except TensorKeepError:
            continue
        assert sample["m.a"].tolist() == [0, 1, 2]


# --- indexes --------------------------------------------------------------------------------------

CHANGES = {
    "starts": lambda array: array + (1 << 40),
    "sizes": lambda array: array - 1000,
    "kinds": lambda array: array + 7,
    "firsts": lambda array: array[::-1].copy(),
    "stops": lambda array: array * 3,
    "keys": lambda array: array[:, :-1],
    "numbers.1": lambda array: array[:-1],
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_index_that_lies_is_not_believed(name: str, tmp_path: Path) -> None:
    files, _ = numbered(8)
    path = shard(tmp_path, files)
    source = FileSource(path)
    made = read_members(source).index()
    assert is_sound(made, source.size)
    lying = Index("tar", made.arrays | {name: CHANGES[name](made.arrays[name])}, made.notes)
    assert not is_sound(lying, source.size)
    for without in (made.arrays.keys() - {name}, set()):
        left = {key: made.arrays[key] for key in without}
        if name != "numbers.1" or not without:
            assert not is_sound(Index("tar", left, made.notes), source.size)
    assert not is_sound(Index("tar", made.arrays, {}), source.size)
    assert not is_sound(Index("tar", made.arrays, {"suffixes": 3, "heads": {}}), source.size)
    floats: dict[str, Any] = {key: array.astype(np.float64) for key, array in made.arrays.items()}
    assert not is_sound(Index("tar", floats, made.notes), source.size)


def test_a_lying_index_in_the_folder_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, arrays = numbered(8)
    path = shard(tmp_path, files)
    monkeypatch.setattr(index, "_WORTH", 1)
    real = read_members(FileSource(path)).index()
    starts: Any = real.arrays["starts"]
    lying = Index("tar", real.arrays | {"starts": starts + (1 << 40)}, real.notes)
    sampled = open_tar(path).digest
    name = f"{path}.index.safetensors"
    assert os.path.exists(name)
    from tensorkeep.data import fingerprint

    os.remove(name)
    tar_source._KNOWN.__init__()  # type: ignore[misc]
    index.find(str(path), "tar", fingerprint.sampled(FileSource(path)).hex(), lambda: lying)
    assert os.path.exists(name)
    dataset = open_tar(path)
    assert dataset.digest == sampled
    assert dataset.gather(np.arange(8))["image"].tolist() == arrays.tolist()


def test_a_header_length_that_lies(tmp_path: Path) -> None:
    files, arrays = numbered(4)
    source = MemorySource(tar(files))
    made = read_members(source).index()
    for length in (-1, 0, 5, 10**9):
        tar_source._KNOWN.__init__()  # type: ignore[misc]
        notes = made.notes | {"heads": {"image.npy": length}}
        path = shard(tmp_path, files)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(index, "find", lambda *_, notes=notes: Index("tar", made.arrays, notes))
            dataset = open_tar(path)
            assert dataset.gather(np.arange(4))["image"].tolist() == arrays.tolist()
