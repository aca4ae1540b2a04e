from __future__ import annotations

import io
import shutil
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    TensorKeepError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.source import FileSource, MemorySource
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.testing import CountingStore
from tensorkeep.wire.zip import (
    CENTRAL,
    CENTRAL_SIGN,
    END,
    END_SIGN,
    Inflated,
    check_member,
    data_start,
    member_names,
    open_member,
    read_directory,
)
from tensorkeep.wire.zip_writer import Part, write_zip, zip_size

CONTENTS = {"a": b"one", "folder/b": b"", "ünï/𝄞": bytes(range(256)) * 20, "c": b"x" * 100_000}


def parts(contents: dict[str, bytes]) -> list[Part]:
    return [Part(name, len(data), lambda d=data: [d]) for name, data in contents.items()]  # type: ignore[misc]


def built(contents: dict[str, bytes] = CONTENTS, *, compress: bool = False) -> bytes:
    return b"".join(write_zip(parts(contents), compress=compress))


def contents_of(data: bytes) -> dict[str, bytes]:
    source = MemorySource(data)
    found = {}
    for name, member in read_directory(source).items():
        check_member(source, member)
        content = open_member(source, member)
        found[name] = bytes(content.read(0, content.size))
    return found


def by_zipfile(contents: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return out.getvalue()


def patched(data: bytes, at: int, form: str, *values: int | bytes) -> bytes:
    out = bytearray(data)
    struct.pack_into(form, out, at, *values)
    return bytes(out)


def refused(data: bytes, kind: type[TensorKeepError], problem: str) -> None:
    with pytest.raises(kind, match=problem):
        contents_of(data)


# --- both ways ----------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
def test_zipfile_reads_what_is_written(compress: bool) -> None:
    with zipfile.ZipFile(io.BytesIO(built(compress=compress))) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == CONTENTS
        for info in archive.infolist():
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            assert info.external_attr >> 16 == 0o100644


@pytest.mark.parametrize("compress", [False, True])
def test_what_is_written_comes_back(compress: bool) -> None:
    data = built(compress=compress)
    assert contents_of(data) == CONTENTS
    assert data == built(compress=compress)
    assert list(member_names(MemorySource(data))) == [name.encode() for name in CONTENTS]


@pytest.mark.skipif(shutil.which("unzip") is None, reason="unzip is not installed")
@pytest.mark.parametrize("compress", [False, True])
def test_unzip_finds_no_fault(tmp_path: Path, compress: bool) -> None:
    large = {**CONTENTS, "large": bytes(17 << 20)}  # is followed by its sizes
    path = tmp_path / "a.zip"
    path.write_bytes(built(large, compress=compress))
    done = subprocess.run(["unzip", "-tqq", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_zipfile_writes(method: int) -> None:
    assert contents_of(by_zipfile(CONTENTS, method)) == CONTENTS


class Pipe(io.RawIOBase):
    """A file that cannot seek, so that zipfile has to write the sizes behind the data."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.data += data
        return len(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("zip64", [False, True])
def test_archives_written_to_a_pipe(method: int, zip64: bool) -> None:
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", method) as archive:
        for name, data in CONTENTS.items():
            with archive.open(name, "w", force_zip64=zip64) as member:
                member.write(data)
    assert contents_of(bytes(pipe.data)) == CONTENTS


def test_names_of_old_archives() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("xxxx", b"1")
    data = out.getvalue().replace(b"xxxx", b"\x81\x84ok")
    assert contents_of(data) == {"üäok": b"1"}


def test_a_comment_behind_the_end() -> None:
    for comment in (b"hello", b"x" * 65535, b"PK\5\6"):
        out = io.BytesIO(built())
        with zipfile.ZipFile(out, "a") as archive:
            archive.comment = comment
        assert contents_of(out.getvalue()) == CONTENTS
    two_ends = patched(built(), len(built()) - 2, "<H", 40) + b"PK\5\6" + bytes(36)
    refused(two_ends, CorruptError, "something follows")


def test_many_members_need_zip64() -> None:
    many = {str(i): b"" for i in range(65_536)}
    data = b"".join(write_zip(parts(many), align=1))
    assert b"PK\6\6" in data[-98:]
    assert len(data) == zip_size(parts(many), align=1)
    assert list(read_directory(MemorySource(data))) == list(many)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert len(archive.infolist()) == len(many)


def test_stored_data_is_aligned() -> None:
    for align in (1, 2, 8, 64, 4096):
        many = {"n" * i: b"x" * (i % 7) for i in range(1, 200)}
        data = b"".join(write_zip(parts(many), align=align))
        assert len(data) == zip_size(parts(many), align=align)
        source = MemorySource(data)
        members = read_directory(source)
        assert all(data_start(source, m) % align == 0 for m in members.values())
        assert contents_of(data) == many


def test_members_of_more_than_4_gib(tmp_path: Path) -> None:
    block, blocks = bytes(16 << 20), 257
    sizes = {"first": 3, "huge": blocks * len(block), "the last of all": 3}

    def chunks(name: str) -> Callable[[], Iterable[bytes]]:
        return lambda: [block] * blocks if name == "huge" else [b"abc"]

    members = [Part(name, size, chunks(name)) for name, size in sizes.items()]
    path = tmp_path / "huge.zip"
    with path.open("wb") as file:
        for chunk in write_zip(members):
            if chunk is block:
                file.seek(len(block), 1)  # a hole in the file
            else:
                file.write(chunk)
    assert path.stat().st_size == zip_size(members)
    source = FileSource(path)
    found = read_directory(source)
    assert {name: member.size for name, member in found.items()} == sizes
    assert found["the last of all"].header > 1 << 32
    assert data_start(source, found["huge"]) % 64 == 0
    for name in ("first", "the last of all"):
        check_member(source, found[name])
        assert bytes(open_member(source, found[name]).read(0, 3)) == b"abc"
    with zipfile.ZipFile(path) as archive:
        assert {info.filename: info.file_size for info in archive.infolist()} == sizes
        assert archive.read("the last of all") == b"abc"
        with archive.open("huge") as huge:
            assert huge.read(10) == bytes(10)


def test_large_members_are_not_held_whole() -> None:
    longest = 0
    pulled = 0

    def chunks() -> Iterable[bytes]:
        nonlocal pulled
        for _ in range(40):
            pulled += 1
            yield bytes(1 << 20)

    for chunk in write_zip([Part("a", 40 << 20, chunks)]):
        longest = max(longest, len(chunk))
        assert pulled <= 1 or longest == 1 << 20
    assert (pulled, longest) == (40, 1 << 20)


@pytest.mark.parametrize(
    "name", ["/a", "a\\b", "../a", "a/../b", "..", "\0", "é" * 40_000, "\ud800"]
)
def test_names_that_are_not_written(name: str) -> None:
    with pytest.raises(ArgumentError, match="Rename it"):
        built({name: b""})


@given(st.dictionaries(st.text(max_size=20), st.binary(max_size=300), max_size=6), st.booleans())
def test_any_members_come_back(contents: dict[str, bytes], compress: bool) -> None:
    try:
        data = built(contents, compress=compress)
    except ArgumentError:
        return
    assert contents_of(data) == contents
    assert compress or len(data) == zip_size(parts(contents))


# --- inflating ----------------------------------------------------------------------------------


def test_inflated_once_and_kept_until_closed() -> None:
    store = CountingStore(MemoryStore({"a.zip": built(compress=True)}))
    source, reads = store.get("a.zip"), store.ranges
    member = read_directory(source)["c"]
    content = open_member(source, member)
    reads.clear()
    assert bytes(content.read(5, 8)) == b"xxx"
    assert len(reads) == 1
    assert bytes(content.read(0, 100_000)) == CONTENTS["c"]
    assert len(reads) == 1
    content.close()
    assert bytes(content.read(0, 1)) == b"x"
    assert len(reads) == 2


def test_only_the_head_is_inflated() -> None:
    source = MemorySource(built({"a": bytes(10 << 20)}, compress=True))
    member = read_directory(source)["a"]
    damaged = bytearray(source.read(0, source.size))
    damaged[member.limit - 20] ^= 1
    content = open_member(MemorySource(bytes(damaged)), member)
    assert isinstance(content, Inflated)
    assert bytes(content.head(128)) == bytes(128)
    with pytest.raises(CorruptError, match="damaged"):
        content.read(0, 1)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_sizes_around_those_of_pieces(size: int) -> None:
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    assert contents_of(built({"a": data}, compress=True)) == {"a": data}
    assert contents_of(by_zipfile({"a": data}, zipfile.ZIP_DEFLATED)) == {"a": data}


def test_output_that_is_left_when_the_input_is_used_up() -> None:
    for more in range(0, 300, 3):
        data = b"x" * ((1 << 20) + more)
        assert contents_of(built({"a": data}, compress=True)) == {"a": data}


def lying(data: bytes, size: int, crc: int | None = None) -> bytes:
    """Build an archive whose one deflated member says it has `size` bytes."""
    out = built({"a": data}, compress=True)
    crc = zlib.crc32(data) if crc is None else crc
    packed = struct.unpack_from("<I", out, 18)[0]
    out = patched(out, 14, "<III", crc, packed, size)
    return patched(out, out.index(CENTRAL_SIGN) + 16, "<III", crc, packed, size)


def test_more_or_less_than_declared() -> None:
    data = b"abc" * 1000
    assert contents_of(lying(data, 3000)) == {"a": data}
    refused(lying(data, 2999), CorruptError, "more than the 2,999 bytes declared")
    refused(lying(data, 0), CorruptError, "more than the 0 bytes declared")
    refused(lying(data, 3001), CorruptError, "3,000 bytes come out, not 3,001")
    refused(lying(data, 3000, 1), CorruptError, "its CRC-32 is [0-9a-f]{8}, 00000001 was saved")


def test_what_deflate_cannot_do() -> None:
    refused(lying(b"abc", 1 << 30), CorruptError, "which deflate cannot do")


def test_a_zip_bomb() -> None:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(1 << 20)
    squeezed = b"".join([deflater.compress(block) for _ in range(17)] + [deflater.flush()])
    # 64 members of 17 MiB each; their data does not have to be sound to be refused.
    entries = b"".join(
        CENTRAL.pack(
            *(CENTRAL_SIGN, 20, 20, 0, 8, 0, 0, 0, len(squeezed), 17 << 20),
            *(2, 0, 0, 0, 0, 0, i * (len(squeezed) + 100)),
        )
        + b"%02d" % i
        for i in range(64)
    )
    body = bytes(64 * (len(squeezed) + 100))
    end = END.pack(END_SIGN, 0, 0, 64, 64, len(entries), len(body), 0)
    refused(body + entries + end, UnsafeError, "which only a zip bomb does")


# --- damage and malice --------------------------------------------------------------------------


SMALL = {"a": b"one", "ünï": b"two"}


def test_every_truncation() -> None:
    for compress in (False, True):
        data = built(SMALL, compress=compress)
        for length in range(len(data)):
            refused(data[:length], CorruptError, "not a zip archive")


def test_every_flipped_bit() -> None:
    for compress in (False, True):
        data = built(SMALL, compress=compress)
        for at in range(len(data)):
            for bit in range(8):
                changed = patched(data, at, "B", data[at] ^ (1 << bit))
                try:
                    assert contents_of(changed) == SMALL
                except TensorKeepError:
                    continue


def central(data: bytes, index: int = 0) -> int:
    """Find an entry of the directory."""
    at = -1
    for _ in range(index + 1):
        at = data.index(CENTRAL_SIGN, at + 1)
    return at


def test_overlapping_members() -> None:
    data = built({"a": b"x" * 100, "b": b"y" * 100})
    first, second = central(data), central(data, 1)
    offset = struct.unpack_from("<I", data, second + 42)[0]
    refused(patched(data, second + 42, "<I", 0), CorruptError, "twice|does not fit")
    refused(patched(data, second + 42, "<I", 30), CorruptError, "does not fit")
    refused(patched(data, first + 42, "<I", offset), CorruptError, "twice|does not fit")
    refused(patched(data, first + 20, "<II", 400, 400), CorruptError, "does not fit")
    refused(patched(data, second + 42, "<I", 1 << 31), CorruptError, "does not fit")


def test_a_local_header_that_reaches_into_the_next_member() -> None:
    data = built({"a": b"x" * 100, "b": b"y" * 100})
    (extra,) = struct.unpack_from("<H", data, 28)
    changed = MemorySource(patched(data, 28, "<H", extra + 4))
    with pytest.raises(CorruptError, match="differs from the directory's entry"):
        data_start(changed, read_directory(changed)["a"])


def test_the_same_name_twice() -> None:
    data = built({"a": b"1", "b": b"2"}).replace(b"b", b"a")
    refused(data, CorruptError, "lists a member twice")


@pytest.mark.parametrize("name", ["/abc", "../c", "a/..", "x\\yz", "nu\0l"])
def test_names_that_lead_out(name: str) -> None:
    data = built({"abcd": b"1"}).replace(b"abcd", name.encode())
    refused(data, UnsafeError, "could lead out of a folder")


@pytest.mark.parametrize("name", ["..ab", "a..b", "a/.b", "ab/.", "a\n/b", "C:/b"])
def test_names_that_only_look_like_it(name: str) -> None:
    padded = name.ljust(4)
    assert contents_of(built({"abcd": b"1"}).replace(b"abcd", padded.encode())) == {padded: b"1"}


def test_a_name_that_is_not_utf_8() -> None:
    data = built({"ünï": b"1"}).replace("ünï".encode(), b"\xff\xfe\xfd\xfc\xfb")
    refused(data, CorruptError, "not UTF-8")


def test_the_local_header_has_to_agree() -> None:
    data = built({"ünï": b"one"})
    for at, form, value in (
        (6, "<H", 0),
        (8, "<H", 8),
        (14, "<I", 5),
        (22, "<I", 4),
        (26, "<H", 4),
    ):
        refused(patched(data, at, form, value), CorruptError, "differs from the directory's entry")
    refused(patched(data, 30, "c", b"u"), CorruptError, "differs from the directory's entry")
    refused(patched(data, 0, "c", b"Q"), CorruptError, "differs from the directory's entry")


@pytest.mark.parametrize("flag", [0x0001, 0x0040, 0x2000])
def test_encrypted_members(flag: int) -> None:
    data = built({"a": b"1"})
    refused(patched(data, central(data) + 8, "<H", flag), UnsupportedError, "is encrypted")


def test_other_methods() -> None:
    refused(by_zipfile({"a": b"1"}, zipfile.ZIP_LZMA), UnsupportedError, "compressed by method 14")


def test_stored_members_of_two_sizes() -> None:
    data = built({"a": b"12345"})
    refused(patched(data, central(data) + 24, "<I", 4), CorruptError, "has two sizes")


def test_counts_that_lie() -> None:
    data = built(SMALL)
    end = len(data) - END.size
    for count in (1, 3, 60_000):
        changed = patched(data, end + 8, "<HH", count, count)
        refused(changed, CorruptError, "too few|directory is damaged")
    refused(patched(data, end + 8, "<H", 1), UnsupportedError, "split")
    refused(patched(data, end + 4, "<H", 1), UnsupportedError, "split")


def end64(count: int, length: int, start: int) -> bytes:
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, start)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, start + length, 1)
    full = END.pack(END_SIGN, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return record + locator + full


def test_huge_counts() -> None:
    refused(bytes(100) + end64(1 << 62, 0, 100), UnsafeError, "members, over")
    refused(bytes(100) + end64(500_000, 100, 0), CorruptError, "too few")
    refused(bytes(100) + end64(1, 1 << 63, 100), CorruptError, "zip64 end|should take bytes")
    refused(bytes(100) + end64(1, 100, 0)[:-30], CorruptError, "not a zip archive|zip64")


def test_zip64_sizes_that_are_missing() -> None:
    data = built({"a": b"1"})
    refused(patched(data, central(data) + 24, "<I", 0xFFFFFFFF), CorruptError, "zip64 sizes of 'a'")


def test_bytes_around_the_archive() -> None:
    refused(b"\0" + built(), CorruptError, "stands before or inside it")
    refused(built() + b"\0", CorruptError, "something follows the end")
    refused(b"", CorruptError, "not a zip archive")
    refused(b"PK\5\6", CorruptError, "not a zip archive")
    refused(bytes(100_000), CorruptError, "not a zip archive")
    assert contents_of(built({})) == {}


@given(st.binary(max_size=200), st.integers(0, 200))
def test_any_bytes_are_an_archive_or_one_of_our_errors(noise: bytes, at: int) -> None:
    data = built(SMALL)
    for changed in (noise, data[:at] + noise + data[at + len(noise) :], noise + data[-22:]):
        try:
            contents_of(changed)
            list(member_names(MemorySource(changed)))
        except TensorKeepError:
            continue
