"""What all databases of sorted keys do alike: modes, keys and places."""

from __future__ import annotations

import os
import random
import shutil
import tracemalloc
from pathlib import Path

import pytest
from tests.stores.engines import (
    KINDS,
    Kind,
    contents,
    every_folder,
    every_kind,
    files,
    fill,
    output,
    python,
)

from tensorkeep import errors
from tensorkeep.database import Mode, key_bytes, key_text, staging
from tensorkeep.database.engine import SMALL

MODES: tuple[Mode, ...] = ("read", "write", "new")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "db"


# --- modes --------------------------------------------------------------------------------------


@every_kind
def test_new_appears_whole_at_the_first_commit(kind: Kind, path: Path) -> None:
    with kind(path, "new") as database:
        database.put("a", [b"1"])
        assert not database.exists
        assert list(database.keys()) == []
        with pytest.raises(errors.MissingError):
            kind(path)
        database.commit()
        assert database.exists
        assert contents(kind, path) == {"a": b"1"}
        database.put("b", [b"2"])
        database.delete("a")
        assert contents(kind, path) == {"a": b"1"}
        database.commit()
    assert contents(kind, path) == {"b": b"2"}
    assert os.listdir(path.parent) == ["db"]


@every_kind
def test_many_values_at_once(kind: Kind, path: Path) -> None:
    records = {f"{n:04}": bytes([n % 256]) * (n % 7 * 1000) for n in range(600)}
    with kind(path, "new") as database:
        for key, value in records.items():
            database.put(key, [value])
        database.commit()
    with kind(path) as database:
        keys = [*reversed(records), "0003", "0003"]
        assert [bytes(value) for value in database.values(keys)] == [records[key] for key in keys]
        assert database.values([]) == []
        with pytest.raises(errors.MissingError, match="there is no key 'gone'"):
            database.values(["0001", "gone"])


@every_kind
def test_new_that_is_not_committed_leaves_nothing(kind: Kind, path: Path) -> None:
    database = kind(path, "new")
    database.put("a", [b"1"])
    database.close()
    assert os.listdir(path.parent) == []


@every_kind
def test_an_empty_one_is_made(kind: Kind, path: Path) -> None:
    with kind(path, "new") as database:
        database.commit()
    assert contents(kind, path) == {}


@every_kind
def test_more_than_fits_in_memory_goes_to_the_disk_as_it_comes(
    kind: Kind, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tensorkeep.database.sorted._BATCH", 100_000)
    monkeypatch.setattr(staging, "SPOOL_LIMIT", 100_000)
    values = {f"k{i}": bytes([i]) * 30_000 * (1 + i % 5) for i in range(20)}
    with kind(path, "new") as database:
        for key, value in values.items():
            database.put(key, [value[:100], value[100:]])
        assert len(os.listdir(path.parent)) == 1
        assert os.listdir(path.parent)[0].startswith(".db.")
        assert list(database.keys()) == []
        database.put("k1", [b"short"])
        database.delete("k2")
        database.commit()
    del values["k2"]
    values["k1"] = b"short"
    assert contents(kind, path) == values
    fill(kind, path, **{key: value + b"!" for key, value in values.items()})
    assert contents(kind, path) == {key: value + b"!" for key, value in values.items()}


@every_kind
def test_a_large_one_that_is_given_up_leaves_nothing(
    kind: Kind, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tensorkeep.database.sorted._BATCH", 1000)
    with kind(path, "write") as database:
        for i in range(5):
            database.put(f"k{i}", [bytes(500)])
        database.rollback()
        assert os.listdir(path.parent) == []
        database.put("a", [b"1"])
        database.commit()
    assert contents(kind, path) == {"a": b"1"}


@every_folder
def test_a_folder_that_exists_is_not_new(kind: Kind, path: Path) -> None:
    path.mkdir()
    with pytest.raises(errors.StoreError, match="exists already"):
        kind(path, "new")
    fill(kind, path, a=b"1")
    with pytest.raises(errors.StoreError, match="exists already"):
        kind(path, "new")
    assert contents(kind, path) == {"a": b"1"}


@every_kind
def test_two_that_make_the_same_one(kind: Kind, path: Path) -> None:
    with kind(path, "write") as one, kind(path, "write") as other:
        one.put("a", [b"1"])
        other.put("b", [b"2"])
        one.commit()
        other.commit()  # which now adds to what is there
    assert contents(kind, path) == {"a": b"1", "b": b"2"}


@every_kind
def test_write_makes_it_or_adds_to_it(kind: Kind, path: Path) -> None:
    fill(kind, path, a=b"1", b=b"2")
    fill(kind, path, b=b"two", c=b"3")
    assert contents(kind, path) == {"a": b"1", "b": b"two", "c": b"3"}


@every_kind
def test_read_changes_nothing(kind: Kind, path: Path) -> None:
    fill(kind, path, **{f"k{i}": bytes(1000 * i) for i in range(50)})
    before = files(path)
    with kind(path) as database:
        for key, source in database.records():
            assert database.get(key).size == source.size
        with pytest.raises(errors.StoreError, match="for reading only"):
            database.put("a", [b"1"])
        with pytest.raises(errors.StoreError, match="for reading only"):
            database.delete("k1")
        database.commit()
    assert files(path) == before


@every_kind
def test_a_writer_of_a_reader(kind: Kind, path: Path) -> None:
    fill(kind, path, a=b"old")
    with kind(path) as reader:
        source = reader.get("a")
        with reader.writer() as writer:
            writer.put("a", [b"new"])
            assert bytes(reader.get("a").read(0, 3)) == b"old"
            writer.commit()
        assert bytes(reader.get("a").read(0, 3)) == b"new"
        assert bytes(source.read(0, 3)) == b"old"


@every_kind
def test_a_writer_of_one_that_is_new(kind: Kind, path: Path) -> None:
    with kind(path, "new") as database:
        writer = database.writer()
        writer.put("a", [b"1"])
        writer.commit()
        writer.close()
        assert list(database.keys()) == ["a"]
        database.put("b", [b"2"])
        database.commit()
    assert contents(kind, path) == {"a": b"1", "b": b"2"}


@pytest.mark.parametrize("kind", [KINDS["leveldb"], KINDS["rocksdb"]], ids=lambda kind: kind.kind)
def test_open_sources_do_not_hold_their_values(kind: Kind, path: Path) -> None:
    fill(kind, path, **{f"k{i}": bytes([i]) * 1_000_000 for i in range(40)})
    with kind(path) as database:
        tracemalloc.start()
        try:
            sources = [database.get(key) for key in database.keys()]
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 10_000_000
        assert sorted(bytes(source.read(0, 1)) for source in sources) == [
            bytes([i]) for i in range(40)
        ]


# --- keys ---------------------------------------------------------------------------------------


@every_kind
def test_records_come_in_the_order_of_their_bytes(kind: Kind, path: Path) -> None:
    keys = [
        "w#%0",
        "w#%1",
        "w#%10",
        "w#%2",
        "!!META",
        "Z",
        "a",
        "é",
        "模",
        "b\udcff",
        "b\udc80",
        "b",
    ]
    fill(kind, path, **{key: key_bytes(key) for key in keys})
    expected = sorted(keys, key=key_bytes)
    with kind(path) as database:
        assert [key for key, _ in database.records()] == list(database.keys()) == expected
        assert all(
            source.read(0, source.size) == key_bytes(key) for key, source in database.records()
        )
        assert [key for key, _ in database.records("w#%1")] == ["w#%1", "w#%10"]
        assert [key for key, _ in database.records(start="w#%1")] == expected[
            expected.index("w#%1") :
        ]
        assert next(database.records(start="aa"))[0] == "b"
        assert [key for key, _ in database.records("w", start="w#%10")] == ["w#%10", "w#%2"]
        assert list(database.records("w", start="x")) == []
        assert list(database.records(start="\udcff")) == []
    assert [key_text(key_bytes(key)) for key in keys] == keys


@every_kind
def test_many_keys_come_page_by_page(kind: Kind, path: Path) -> None:
    values = {f"{i:05}": str(i).encode() for i in range(5000)}
    fill(kind, path, **values)
    with kind(path) as database:
        found = database.keys()
        assert next(found) == "00000"
        assert list(found) == sorted(values)[1:]
        assert [key for key, _ in database.records("049", "04950")] == sorted(values)[4950:]
    assert contents(kind, path) == values


@every_kind
def test_small_and_large_values_among_each_other(kind: Kind, path: Path) -> None:
    draw = random.Random(5)
    sizes = (0, 1, 1000, SMALL - 1, SMALL, SMALL + 1, 100_000, 1 << 20, (1 << 20) + 1)
    values = {f"k{i:03}": draw.randbytes(draw.choice(sizes)) for i in range(300)}
    fill(kind, path, **values)
    assert list(contents(kind, path).items()) == list(values.items())
    with kind(path) as database:
        assert [key for key, _ in database.records("k1")] == sorted(values)[100:200]
        small = next(source for _, source in database.records() if 0 < source.size <= SMALL)
    assert bytes(small.read(0, 1))  # it came along with its key


@every_kind
def test_keys_that_cannot_be_kept(kind: Kind, path: Path) -> None:
    with kind(path, "write") as database:
        database.put("a", [b"1"])
        with pytest.raises(errors.UnsupportedError, match=r"has \d.* bytes.*takes keys of 1 to"):
            database.put("x" * (kind.key_limit + 1), [b"1"])
        with pytest.raises(errors.UnsupportedError, match="empty"):
            database.put("", [b"1"])
        with pytest.raises(errors.ArgumentError, match="cannot be encoded"):
            database.put("\ud800", [b"1"])
        longest = "k" * kind.key_limit
        database.put(longest, [b"2"])
        database.commit()
        for key in ("", "x" * (kind.key_limit + 1)):
            with pytest.raises(errors.MissingError):
                database.get(key)
    assert contents(kind, path) == {"a": b"1", longest: b"2"}


@every_kind
def test_values_that_are_too_long(kind: Kind, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind, "value_limit", 10)
    with kind(path, "write") as database:
        database.put("a", [b"1"])
        with pytest.raises(errors.UnsupportedError, match="smaller chunks") as failure:
            database.put("a", [bytes(11)], size=11)
        assert failure.value.where == f"{path}/a"
        with pytest.raises(errors.UnsupportedError):
            database.put("a", iter([bytes(6), bytes(5)]))
        database.put("b", [bytes(10)])
        database.commit()
    assert contents(kind, path) == {"a": b"1", "b": bytes(10)}


# --- places -------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("mode", MODES)
def test_places_that_are_no_database(kind: Kind, mode: Mode, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "weights.npy").write_bytes(b"precious")
    (tmp_path / "file").write_bytes(b"precious")
    before = files(tmp_path / "folder"), (tmp_path / "file").read_bytes()
    for name in ("folder", "file"):
        if (mode, name, kind.folder) == ("new", "file", False):
            continue  # one file takes the place of another
        with pytest.raises((errors.StoreError, errors.UnknownFormatError)) as failure:
            kind(tmp_path / name, mode)
        assert failure.value.where == str(tmp_path / name)
    with pytest.raises(errors.MissingError):
        kind(tmp_path / "missing" / "db", mode)
    assert (files(tmp_path / "folder"), (tmp_path / "file").read_bytes()) == before


@every_kind
def test_a_path_that_is_missing_or_no_path(kind: Kind, path: Path) -> None:
    with pytest.raises(errors.MissingError, match=f"there is no {kind.kind} database"):
        kind(path)
    for bad in ("\ud800", "a\0b", "x" * 300):
        with pytest.raises((errors.StoreError, errors.MissingError)):
            kind(path.parent / bad, "write").commit()
    assert os.listdir(path.parent) == []


@every_folder
def test_an_empty_folder_is_a_place_for_one(kind: Kind, path: Path) -> None:
    path.mkdir()
    with pytest.raises(errors.UnknownFormatError, match="empty"):
        kind(path)
    fill(kind, path, a=b"1")
    assert contents(kind, path) == {"a": b"1"}


@every_kind
def test_a_link_to_one(kind: Kind, path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to("db")
    fill(kind, link, a=b"1")
    assert link.is_symlink()
    assert contents(kind, path) == contents(kind, link) == {"a": b"1"}


@every_kind
def test_one_that_goes_and_comes_again(kind: Kind, path: Path) -> None:
    fill(kind, path, a=b"1")
    with kind(path) as database:
        source = database.get("a")
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        with pytest.raises(errors.MissingError):
            database.get("a")
        fill(kind, path, a=b"2")
        assert bytes(database.get("a").read(0, 1)) == b"2"
        source.close()


def test_wrong_modes_and_options(path: Path) -> None:
    for kind in KINDS.values():
        with pytest.raises(errors.ArgumentError, match="no mode 'append'"):
            kind(path, "append")  # type: ignore[arg-type]
        with pytest.raises(errors.ArgumentError, match="no option 'colour'"):
            kind(path, "write", colour="red")


READ_ONLY = """
import sys, os, importlib, numpy.testing
from tensorkeep.stores import DATABASES
from tensorkeep.errors import TensorKeepError
kind, path = DATABASES[sys.argv[1]], sys.argv[2]
libraries = {"leveldb": "plyvel", "lmdb": "lmdb", "rocksdb": "rocksdict", "sqlite": "sqlite3"}
importlib.import_module(libraries[sys.argv[1]])  # which others may not read
os.setgid(65534)
os.setuid(65534)
with kind(path) as database:
    print({key: bytes(source.read(0, source.size)) for key, source in database.records()})
for mode in ("write", "new"):
    try:
        with kind(path if mode == "write" else path + "2", mode) as database:
            database.put("b", [b"2"])
            database.commit()
    except TensorKeepError as error:
        print(type(error).__name__, error)
"""


@every_kind
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_folder_that_may_only_be_read(kind: Kind, path: Path) -> None:
    fill(kind, path, a=b"1")
    shared = Path("/tmp") / f"tensorkeep-{os.getpid()}"
    shared.mkdir()
    try:
        shutil.move(path, shared / "db")
        before = files(shared / "db")
        shared.chmod(0o755)
        child = python(READ_ONLY, kind.kind, shared / "db")
        said = output(child).splitlines()
        assert files(shared / "db") == before
    finally:
        shutil.rmtree(shared)
    assert said[0] == "{'a': b'1'}"
    assert [line.split()[0] for line in said[1:]] == ["StoreError", "StoreError"]
