"""Damaged databases: an error of ours, or values; and a failing Load changes nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.caffe2.golden_cases import DATA

from tensorkeep.caffe2 import Workspace, create_operator
from tensorkeep.errors import TensorKeepError

FILES = ["cases/whole.minidb", "cases/chunked.minidb", "cases/content_chunks.minidb"]
LARGER = ["other_blobs.minidb", "legacy.minidb", "int8_tensors.minidb", "bfloat16_chunked.minidb"]
LOAD = create_operator("Load", load_all=1, db="x.minidb", db_type="minidb", keep_device=1)


def load_damaged(folder: Path, data: bytes, *, strict: bool) -> bool:
    """Load a file of these bytes and look at all that comes of it; tell whether it was accepted."""
    (folder / "x.minidb").write_bytes(data)
    ws = Workspace(str(folder), strict=strict)
    ws.feed("before", b"1")
    accepted = True
    try:
        ws.run(LOAD)
    except TensorKeepError:
        accepted = False
    if strict and not accepted:
        assert ws.blobs() == ["before"]
    for name in ws.blobs():
        try:
            ws.fetch(name)
        except TensorKeepError:
            assert not strict
    return accepted


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("file", FILES)
def test_every_bit(tmp_path: Path, file: str, strict: bool) -> None:
    whole = (DATA / file).read_bytes()
    for place in range(8 * len(whole)):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        load_damaged(tmp_path, bytes(data), strict=strict)


@pytest.mark.parametrize("file", FILES)
def test_every_truncation(tmp_path: Path, file: str) -> None:
    whole = (DATA / file).read_bytes()
    accepted = [load_damaged(tmp_path, whole[:n], strict=True) for n in range(len(whole))]
    # Only a file that ends behind a whole blob is taken for a shorter one.
    assert sum(accepted) < 4


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("file", LARGER)
def test_all_sorts_of_damage(tmp_path: Path, file: str, strict: bool) -> None:
    chance = random.Random(f"{file} {strict}")
    whole = (DATA / file).read_bytes()
    for _ in range(400):
        data = bytearray(whole)
        at = chance.randrange(len(data))
        match chance.randrange(3):
            case 0:
                data[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 1:
                del data[at : at + chance.randrange(1, 9)]
            case _:
                data[at:at] = chance.randbytes(chance.randrange(1, 9))
        load_damaged(tmp_path, bytes(data), strict=strict)
