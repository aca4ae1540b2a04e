"""The grammar of tar archives, against the one that Python has."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.batches.tars import tar

from tensorkeep.errors import CorruptError, TensorKeepError, UnsafeError, UnsupportedError
from tensorkeep.source import FileSource, MemorySource
from tensorkeep.wire.tar import BLOCK, FILES, looks_like_tar, members

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def files(data: bytes, **options: Any) -> list[tuple[str, bytes]]:
    found = members(MemorySource(data, "a.tar"), **options)
    return [(m.name, data[m.start : m.start + m.size]) for m in found if m.kind in FILES]


def theirs(data: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = [(member, archive.extractfile(member)) for member in archive if member.isreg()]
        return [(member.name, file.read()) for member, file in found if file is not None]


names = st.text(min_size=1, max_size=90).map(
    lambda text: text.encode("utf-8", "replace").decode().replace("\0", "_").replace("/", "_")
)
paths = st.lists(names, min_size=1, max_size=4).map("/".join)


@pytest.mark.parametrize("kind", ["gnu", "pax"])
@given(packed=st.lists(st.tuples(paths, st.binary(max_size=1100)), max_size=5))
def test_it_reads_what_python_packs(kind: str, packed: list[tuple[str, bytes]]) -> None:
    data = tar(packed, format=FORMATS[kind])
    assert files(data) == theirs(data)
    assert [content for _, content in files(data)] == [content for _, content in packed]


def test_ustar_names_are_split(tmp_path: Path) -> None:
    name = "/".join(["folder" * 4] * 6) + "/0017.cls"
    data = tar([(name, b"3")], format=tarfile.USTAR_FORMAT)
    assert files(data) == [(name, b"3")]


def test_names_that_are_no_utf8() -> None:
    data = tar([("k\udcff.cls", b"3")], format=tarfile.GNU_FORMAT)
    assert files(data) == [("k\udcff.cls", b"3")]


def test_sizes_in_pax_records_and_in_base_256() -> None:
    info = tarfile.TarInfo("a.bin")
    info.size = 3
    info.pax_headers = {"size": "3", "comment": "x"}
    data = info.tobuf(tarfile.PAX_FORMAT) + b"abc" + bytes(509) + bytes(1024)
    assert files(data) == [("a.bin", b"abc")]
    header = bytearray(tar([("b.bin", b"xyz")]))
    header[124:136] = b"\x80" + (3).to_bytes(11, "big")
    assert files(summed(bytes(header))) == [("b.bin", b"xyz")]


def summed(data: bytes, at: int = 0) -> bytes:
    """Put the right sum into a header."""
    header = data[at : at + 148] + b" " * 8 + data[at + 156 : at + BLOCK]
    return data[: at + 148] + b"%06o\0 " % sum(header) + data[at + 156 :]


def test_signed_sums_are_taken_too() -> None:
    data = tar([("k\udcff\udcfe.cls", b"3")], format=tarfile.GNU_FORMAT)
    bare = data[:148] + b" " * 8 + data[156:BLOCK]
    signed = sum(memoryview(bare).cast("b"))
    assert signed != sum(bare)
    assert files(data[:148] + b"%06o\0 " % signed + data[156:])[0][1] == b"3"


def test_links_folders_and_devices_are_told_and_hold_nothing() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE,
                     tarfile.FIFOTYPE):  # fmt: skip
            info = tarfile.TarInfo("x")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("after.txt")
        info.size = 2
        archive.addfile(info, io.BytesIO(b"ok"))
    found = list(members(MemorySource(buffer.getvalue())))
    assert [(m.kind, m.size) for m in found[:-1]] == [(kind, 0) for kind in
                                                      (b"1", b"2", b"3", b"5", b"6")]  # fmt: skip
    assert files(buffer.getvalue()) == [("after.txt", b"ok")]


@pytest.mark.skipif(shutil.which("tar") is None, reason="there is no tar program here")
@pytest.mark.parametrize("kind", ["gnu", "pax", "ustar", "v7", "oldgnu"])
def test_it_reads_what_the_program_packs(kind: str, tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a.cls").write_bytes(b"1")
    (tmp_path / "in" / "deep" / "b.bin").write_bytes(b"x" * 1000)
    subprocess.run(
        ["tar", f"--format={kind}", "--sort=name", "-cf", "a.tar", "-C", "in", "."],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    data = (tmp_path / "a.tar").read_bytes()
    assert files(data) == [("./a.cls", b"1"), ("./deep/b.bin", b"x" * 1000)]
    assert looks_like_tar(data[:BLOCK])


def test_first_bytes_come_with_each_member(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar([("a", b"x" * 600), ("b", b"yz"), ("c", b"")]))
    assert [m.head for m in members(FileSource(path), 4)] == [b"xxxx", b"yz", b""]


# --- damage ----------------------------------------------------------------------------------

SMALL = tar([("0.cls", b"1"), ("1" * 120 + ".txt", b"x" * 600), ("2.cls", b"3")])
WHOLE = theirs(SMALL)


def ending(data: bytes) -> int:
    """Find where the zeros at the end begin."""
    return -(-len(data.rstrip(b"\0")) // BLOCK) * BLOCK


@pytest.mark.parametrize("blocks", range(ending(SMALL) // BLOCK + 1))
def test_every_truncation(blocks: int) -> None:
    for size in {max(0, blocks * BLOCK - 1), blocks * BLOCK, blocks * BLOCK + 100}:
        if size < ending(SMALL) + BLOCK:
            with pytest.raises(CorruptError, match=r"a\.tar: the archive is cut short"):
                files(SMALL[:size])
    assert files(SMALL[: ending(SMALL) + BLOCK]) == WHOLE


def test_every_flipped_bit_of_a_header_is_seen() -> None:
    headers = [m.start - BLOCK for m in members(MemorySource(SMALL))]
    for at in headers:
        for bit in range(0, BLOCK * 8, 3):
            damaged = bytearray(SMALL)
            damaged[at + bit // 8] ^= 1 << bit % 8
            try:
                found = files(bytes(damaged))
            except TensorKeepError:
                continue
            # The sum itself is written in octal digits with blanks around them.
            assert found == WHOLE
            assert 148 <= bit // 8 < 156


def test_members_before_the_damage_are_given(tmp_path: Path) -> None:
    data = bytearray(tar([(f"{i}.cls", b"1") for i in range(100)]))
    data[60 * 1024 + 130] ^= 1
    found: list[str] = []
    with pytest.raises(CorruptError, match="does not fit its own checksum"):
        found.extend(member.name for member in members(MemorySource(bytes(data))))
    assert found == [f"{i}.cls" for i in range(60)]


@given(st.binary(max_size=1600))
def test_any_bytes_are_an_archive_or_an_error(data: bytes) -> None:
    looks_like_tar(data)
    with contextlib.suppress(CorruptError, UnsafeError, UnsupportedError):
        files(data)


def test_archives_joined_by_cat_are_refused_where_that_is_asked() -> None:
    data = tar([("a.cls", b"1")]) + tar([("b.cls", b"2")])
    assert [name for name, _ in files(data)] == ["a.cls"]
    with pytest.raises(UnsupportedError, match=r"another archive begins at byte 10,240.*--concat"):
        files(data, whole=True)
    assert files(tar([("a.cls", b"1")]) + b"tape" * 1000, whole=True) == [("a.cls", b"1")]


def test_no_archive_looks_like_one() -> None:
    for data in (b"", bytes(512), b"x" * 512, b"PK\3\4" + bytes(600), SMALL[:511]):
        assert not looks_like_tar(data)
