"""What LMDB alone does: a map that grows, limits, databases of other tools, pages that lie."""

from __future__ import annotations

import os
import random
import struct
import threading
from pathlib import Path
from typing import Any

import lmdb
import pytest
from tests.stores.engines import contents, fill, output, python, stop

from tensorkeep import errors
from tensorkeep.stores.lmdb import LmdbDatabase
from tensorkeep.wire.lmdb import check_pages


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "db"


def test_a_database_of_another_tool(path: Path) -> None:
    values = {f"{i:08}".encode(): bytes([i % 256]) * (i % 3000) for i in range(1000)}
    with lmdb.open(str(path), map_size=1 << 30) as other, other.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)
    found = contents(LmdbDatabase, path)
    assert {key.encode(): value for key, value in found.items()} == values
    fill(LmdbDatabase, path, new=b"1")
    with lmdb.open(str(path), readonly=True) as other, other.begin() as transaction:
        assert transaction.get(b"new") == b"1"
        assert transaction.stat()["entries"] == 1001


def test_a_database_without_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "data.lmdb"
    with lmdb.open(str(path), subdir=False) as other, other.begin(write=True) as transaction:
        transaction.put(b"a", b"1")
    assert LmdbDatabase.recognises(path)
    fill(LmdbDatabase, path, b=b"2")
    assert contents(LmdbDatabase, path) == {"a": b"1", "b": b"2"}


def test_a_full_map_grows_while_it_is_read(path: Path) -> None:
    fill(LmdbDatabase, path, a=b"old" * 1000)
    with LmdbDatabase(path, "write", map_size=1 << 20) as database:
        source = database.get("a")
        walk = database.records()
        assert next(walk)[0] == "a"
        for i in range(4):
            database.put(f"k{i}", [os.urandom(1_500_000)])
        database.put("a", [b"new"])
        database.commit()
        assert bytes(source.read(0, source.size)) == b"old" * 1000
        assert list(walk) == []
        assert list(database.keys()) == ["a", "k0", "k1", "k2", "k3"]
    assert contents(LmdbDatabase, path)["a"] == b"new"


def test_a_map_that_grows_while_threads_read(path: Path) -> None:
    values = {f"k{i}": bytes([i]) * 100_000 for i in range(8)}
    fill(LmdbDatabase, path, **values)
    done = threading.Event()
    wrong: list[str] = []
    with LmdbDatabase(path, "write", map_size=1 << 20) as database:

        def read() -> None:
            while not done.is_set():
                for key, value in values.items():
                    source = database.get(key)
                    if source.read(0, source.size) != value:
                        wrong.append(key)

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for i in range(6):
            database.put(f"new{i}", [os.urandom(1_000_000 << i % 3)])
            database.commit()
        done.set()
        for reader in readers:
            reader.join()
    assert not wrong


GROW = """
import sys, os
from tensorkeep.stores.lmdb import LmdbDatabase
with LmdbDatabase(sys.argv[1], "write", map_size=1 << 22) as database:
    database.put("large", [os.urandom(12_000_000)])
    database.commit()
"""


def test_a_map_that_another_process_let_grow(path: Path) -> None:
    fill(LmdbDatabase, path, a=b"1")
    with LmdbDatabase(path, "write", map_size=1 << 22) as database:
        source = database.get("a")
        output(python(GROW, path))
        assert database.get("large").size == 12_000_000
        with pytest.raises(errors.StoreError, match="changed by another process"):
            source.read(0, 1)
        assert bytes(database.get("a").read(0, 1)) == b"1"
        database.put("b", [b"2"])
        database.commit()
    assert sorted(contents(LmdbDatabase, path)) == ["a", "b", "large"]


LIMITED = """
import resource, sys, os
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
from tensorkeep.stores.lmdb import LmdbDatabase
from tensorkeep.errors import StoreError
with LmdbDatabase(sys.argv[1], "write") as database:
    database.put("a", [b"1"])
    database.commit()
    print(list(database.keys()))
"""


def test_little_address_space(path: Path) -> None:
    assert output(python(LIMITED, path)).strip() == "['a']"
    assert contents(LmdbDatabase, path) == {"a": b"1"}


@pytest.mark.parametrize("size", [0, -1, 1.5, "1G", True, 1 << 70])
def test_map_sizes_that_are_none(size: Any, path: Path) -> None:
    with pytest.raises(errors.ArgumentError, match="map_size is a number of bytes"):
        fill_with(path, size)
    assert os.listdir(path.parent) == []


def fill_with(path: Path, size: Any) -> None:
    with LmdbDatabase(path, "write", map_size=size) as database:
        database.commit()


def test_a_range_of_a_large_value(path: Path) -> None:
    value = os.urandom(3_000_000)
    fill(LmdbDatabase, path, a=value)
    with LmdbDatabase(path) as database:
        source = database.get("a")
        for start, stop in ((0, 10), (1_234_567, 1_234_600), (2_999_999, 3_000_000), (5, 5)):
            assert source.read(start, stop) == value[start:stop]


HOLD = """
import sys
from tensorkeep.stores.lmdb import LmdbDatabase
database = LmdbDatabase(sys.argv[1])
source = database.get("a")
print("ready", flush=True)
sys.stdin.readline()
print(bytes(source.read(0, 3)))
"""


def test_a_reader_keeps_what_it_opened_while_others_write(path: Path) -> None:
    fill(LmdbDatabase, path, a=b"old")
    child = python(HOLD, path, wait=False)
    for i in range(50):
        fill(LmdbDatabase, path, a=str(i).encode() * 3000)
    said, _ = child.communicate("\n", timeout=60)
    assert said.strip() == "b'old'"


def test_killed_readers_do_not_hold_pages(path: Path) -> None:
    fill(LmdbDatabase, path, a=b"old")
    stop(python(HOLD, path, wait=False))
    for i in range(60):
        fill(LmdbDatabase, path, a=bytes([i]) * 100_000)
    assert (path / "data.mdb").stat().st_size < 1_500_000


FORK = """
import os, sys
from tensorkeep.stores.lmdb import LmdbDatabase
from tensorkeep.errors import StoreError
database = LmdbDatabase(sys.argv[1])
child = os.fork()
try:
    print(list(LmdbDatabase(sys.argv[1]).keys()), flush=True)
except StoreError as error:
    print(error, flush=True)
if not child:
    os._exit(0)
os.waitpid(child, 0)
"""


def test_a_process_that_is_forked_is_told(path: Path) -> None:
    fill(LmdbDatabase, path, a=b"1")
    said = output(python(FORK, path))
    assert "['a']" in said
    assert "open it after the fork" in said


def test_databases_that_keep_keys_in_another_way(path: Path) -> None:
    fill(LmdbDatabase, path, a=b"1")
    data = bytearray((path / "data.mdb").read_bytes())
    for page in (0, 4096):
        data[page + 92] = 4  # the flag of duplicates, in what both first pages say of the main tree
    (path / "data.mdb").write_bytes(data)
    with pytest.raises(errors.UnsupportedError, match="duplicates"):
        LmdbDatabase(path)


def test_named_databases_are_records_of_the_unnamed_one(path: Path) -> None:
    with lmdb.open(str(path), map_size=1 << 24, max_dbs=2) as other:
        named = other.open_db(b"named")
        with other.begin(write=True) as transaction:
            transaction.put(b"a", b"1", db=named)
            transaction.put(b"plain", b"2")
    found = contents(LmdbDatabase, path)
    assert found["plain"] == b"2"
    assert len(found["named"]) == 48


# --- pages --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file with a branch, leaves, large values and free pages."""
    path = tmp_path_factory.mktemp("lmdb") / "db"
    for step in range(3):
        with LmdbDatabase(path, "write") as database:
            for i in range(step, 300, step + 1):
                database.put(f"k{i:04}", [bytes([i % 256]) * (i * 7 % 900)])
            database.put(f"large{step}", [bytes(70_000)])
            database.delete("large0" if step else "none")
            database.commit()
    return (path / "data.mdb").read_bytes()


def test_sound_files_pass(whole: bytes, path: Path) -> None:
    """Files of every shape that LMDB makes are not taken for damaged ones."""
    check_pages(memoryview(whole), "db")
    draw = random.Random(3)
    sizes = (0, 1, 7, 500, 2030, 2040, 2041, 2042, 3000, 4070, 4080, 4096, 20_000)
    with lmdb.open(str(path), map_size=1 << 30, sync=False) as other:
        for _ in range(40):
            with other.begin(write=True) as transaction:
                for _ in range(draw.choice([1, 5, 300])):
                    key = draw.randbytes(draw.choice([1, 2, 3, 200, 511]))
                    transaction.put(key, bytes(draw.choice(sizes)))
                    if draw.random() < 0.4:
                        transaction.delete(key)
                if draw.random() < 0.2:
                    cursor = transaction.cursor()
                    while cursor.first() and draw.random() < 0.99:
                        cursor.delete()
            data = (path / "data.mdb").read_bytes()
            check_pages(memoryview(data), "db")


def _spots(data: bytes) -> list[int]:
    """Give the places of a file that steer the library."""
    spots = [at + 16 for at in (*range(136), *range(4096, 4096 + 136))]
    for page in range(2, len(data) // 4096):
        at = page * 4096
        number, _, flags, lower, _ = struct.unpack_from("<QHHHH", data, at)
        if number == page and flags in (1, 2):
            spots += [*range(at, at + lower)] * 2
            for pointer in range(at + 16, at + lower, 2):
                node = at + struct.unpack_from("<H", data, pointer)[0]
                spots += range(node, node + 8)
        elif number == page and flags == 4:
            spots += range(at, at + 16)
    return spots


def test_pages_that_lie(whole: bytes, path: Path) -> None:
    """LMDB itself dies of about one in a hundred of these."""
    draw = random.Random(11)
    spots = _spots(whole)
    refused = 0
    path.mkdir()
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 1, 2])):
            at = draw.choice(spots)
            damaged[at] ^= 1 << draw.randrange(8)
        (path / "data.mdb").write_bytes(damaged)
        try:
            contents(LmdbDatabase, path)
            fill(LmdbDatabase, path, k0003=b"x" * 5000, new=b"1")
        except errors.TensorKeepError:
            refused += 1
        (path / "data.mdb").unlink()
    assert refused > 30


def test_a_file_that_is_cut_short(whole: bytes, path: Path) -> None:
    path.mkdir()
    for size in (0, 1, 100, 4096, 8191, 8192, 8193, len(whole) // 2, len(whole) - 1):
        (path / "data.mdb").write_bytes(whole[:size])
        with pytest.raises(errors.CorruptError):
            LmdbDatabase(path)
    (path / "data.mdb").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(errors.CorruptError, match=r"cut short: it has [\d,]+ bytes of"):
        LmdbDatabase(path)
