"""What a minidb alone does: bytes as Caffe2's, modes, order, repeats, refusals and damage."""

from __future__ import annotations

import gc
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
from tests.stores.minidb_records import contents, hidden, pack, save

from tensorkeep import errors, testing
from tensorkeep.database import Mode
from tensorkeep.store import Chunk, Late, Store
from tensorkeep.stores.minidb import MinidbStore

GOLDEN = Path(__file__).parents[1] / "data" / "caffe2"
CASES = GOLDEN / "cases"
FILES = sorted(str(path.relative_to(GOLDEN)) for path in GOLDEN.glob("*.minidb"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.minidb"


# --- the contract ----------------------------------------------------------------------------


def make_in(folder: Path, mode: Mode) -> Store:
    return MinidbStore(Path(tempfile.mkdtemp(dir=folder)) / "x.minidb", mode)


@pytest.mark.parametrize("mode", ["write", "new"])
@pytest.mark.parametrize("check", testing.STORE_CHECKS.values(), ids=testing.STORE_CHECKS)
def test_contract(check: Callable[[Store], None], mode: Mode, tmp_path: Path) -> None:
    store = make_in(tmp_path, mode)
    check(store)
    store.close()


@pytest.mark.parametrize("mode", ["write", "new"])
def test_any_order_of_operations(mode: Mode, tmp_path: Path) -> None:
    quick = settings(max_examples=30, stateful_step_count=20)
    machine = testing.store_machine(partial(make_in, tmp_path, mode))
    run_state_machine_as_test(machine, settings=quick)


# --- bytes as Caffe2's -----------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("sized", [True, False])
def test_golden_files_are_written_again(name: str, sized: bool, path: Path) -> None:
    with MinidbStore(path, "new", repeats=True) as store:
        for key, source in MinidbStore(GOLDEN / name).records():
            size = source.size if sized else None
            store.put(key, [source.read(0, source.size)], size=size, durable=False)
        store.commit()
    assert path.read_bytes() == (GOLDEN / name).read_bytes()


large = st.binary(min_size=1, max_size=9).map(lambda value: value * 9000)
values = st.one_of(st.binary(min_size=1, max_size=30), large)


@given(st.dictionaries(st.text(min_size=1, max_size=9), values, max_size=8), st.data())
def test_what_is_put_lies_one_behind_the_other(pairs: dict[str, bytes], data: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.minidb"
        with MinidbStore(path, "new") as store:
            for key, value in pairs.items():
                cut = data.draw(st.integers(0, len(value)))
                size = data.draw(st.sampled_from([None, len(value)]))
                first: Late | Chunk = value[:cut]
                if data.draw(st.booleans()):
                    first = Late(cut, partial(bytes, value[:cut]))
                store.put(key, iter([first, value[cut:]]), size=size, durable=False)
            store.commit()
            assert contents(store) == list(pairs.items())
        assert path.read_bytes() == pack(list(pairs.items()))


def test_a_key_that_is_not_utf_8_survives(path: Path) -> None:
    path.write_bytes(b"\x02\0\0\0\x01\0\0\0\xff\xfe1")
    (key,) = MinidbStore(path).keys()
    assert key == "\udcff\udcfe"
    save(path, pairs=[("b", b"2")])
    assert path.read_bytes() == b"\x02\0\0\0\x01\0\0\0\xff\xfe1" + pack([("b", b"2")])
    save(path, pairs=[(key, b"3")])
    assert path.read_bytes() == b"\x02\0\0\0\x01\0\0\0\xff\xfe3" + pack([("b", b"2")])


# --- modes -----------------------------------------------------------------------------------


def test_reading_needs_a_file(path: Path) -> None:
    with pytest.raises(errors.MissingError, match=r"x\.minidb"):
        MinidbStore(path)
    assert list(path.parent.iterdir()) == []


def test_reading_changes_nothing(path: Path) -> None:
    save(path, pairs=[("a", b"1")])
    store = MinidbStore(path)
    with pytest.raises(errors.StoreError, match="for reading only"):
        store.put("b", [b"2"])
    with pytest.raises(errors.StoreError, match="for reading only"):
        store.delete("a")
    store.commit()
    assert path.read_bytes() == pack([("a", b"1")])
    with pytest.raises(errors.MissingError, match="there is no key 'b'"):
        store.get("b")


def test_writing_adds_to_what_is_there(path: Path) -> None:
    save(path, pairs=[("a", b"1"), ("b", b"2" * 100_000)])
    old = path.read_bytes()
    save(path, pairs=[("c", b"3"), ("d", b"4")])
    assert path.read_bytes() == old + pack([("c", b"3"), ("d", b"4")])


def test_writing_makes_the_file_at_commit(path: Path) -> None:
    store = MinidbStore(path, "write")
    assert contents(store) == []
    assert list(store.keys()) == []
    assert not path.exists()
    store.commit()
    assert path.read_bytes() == b""
    assert list(MinidbStore(path).keys()) == []
    store.close()


def test_a_new_file_replaces_the_old_one_at_commit(path: Path) -> None:
    save(path, pairs=[("a", b"1"), ("b", b"2")])
    old = path.read_bytes()
    with MinidbStore(path, "new") as store:
        assert list(store.keys()) == []
        store.put("c", [b"3"])
        assert path.read_bytes() == old
        assert list(store.keys()) == []
        store.commit()
        assert contents(store) == [("c", b"3")]
        store.put("d", [b"4"])
        store.commit()
        assert contents(store) == [("c", b"3"), ("d", b"4")]
    assert path.read_bytes() == pack([("c", b"3"), ("d", b"4")])


def test_a_new_file_that_is_not_committed_leaves_the_old_one(path: Path) -> None:
    save(path, pairs=[("a", b"1")])
    for end in (MinidbStore.rollback, MinidbStore.close):
        store = MinidbStore(path, "new")
        store.put("b", [b"2" * 200_000])
        assert len(hidden(path.parent)) == 1
        end(store)
        assert hidden(path.parent) == []
        assert path.read_bytes() == pack([("a", b"1")])


def test_a_new_file_of_nothing_is_empty(path: Path) -> None:
    save(path, pairs=[("a", b"1")])
    save(path, "new", pairs=[])
    assert path.read_bytes() == b""


def test_a_forgotten_store_leaves_nothing(path: Path) -> None:
    store = MinidbStore(path, "new")
    store.put("a", [b"1"])
    del store
    gc.collect()
    assert list(path.parent.iterdir()) == []


def test_writers_of_a_new_store_make_it(path: Path) -> None:
    save(path, pairs=[("old", b"1")])
    store = MinidbStore(path, "new")
    writer = store.writer()
    writer.put("a", [b"1"])
    writer.commit()
    assert contents(store) == [("a", b"1")]
    again = store.writer()
    again.put("b", [b"2"])
    again.commit()
    assert contents(store) == [("a", b"1"), ("b", b"2")]


def test_a_reader_sees_what_a_writer_commits(path: Path) -> None:
    save(path, pairs=[("a", b"1")])
    store = MinidbStore(path)
    source = store.get("a")
    writer = store.writer()
    writer.put("a", [b"2"])
    assert bytes(store.get("a").read(0, 1)) == b"1"
    writer.commit()
    assert bytes(store.get("a").read(0, 1)) == b"2"
    assert bytes(source.read(0, 1)) == b"1"
    path.unlink()
    with pytest.raises(errors.MissingError):
        store.get("a")


def test_a_closed_store_says_so(path: Path) -> None:
    store = MinidbStore(path, "write")
    store.close()
    for use in (store.keys, store.commit, partial(store.get, "a"), partial(store.put, "a", [b"1"])):
        with pytest.raises(errors.ClosedError):
            use()


def test_options_are_checked(path: Path) -> None:
    with pytest.raises(errors.ArgumentError, match="strict, repeats"):
        MinidbStore(path, "new", stricter=True)
    save(path, pairs=[("a", b"1")])
    with pytest.raises(errors.UnsupportedError, match="not sorted"):
        MinidbStore(path).records(start="a")


# --- order and repeats -----------------------------------------------------------------------


def test_a_key_that_is_put_again_keeps_its_place(path: Path) -> None:
    save(path, pairs=[("a", b"1"), ("b", b"2"), ("c", b"3")])
    save(path, pairs=[("b", b"new"), ("d", b"4")])
    assert path.read_bytes() == pack([("a", b"1"), ("b", b"new"), ("c", b"3"), ("d", b"4")])


def test_a_key_that_is_deleted_and_put_again_goes_to_the_end(path: Path) -> None:
    save(path, pairs=[("a", b"1"), ("b", b"2")])
    with MinidbStore(path, "write") as store:
        store.delete("a")
        store.put("a", [b"3"])
        store.commit()
    assert path.read_bytes() == pack([("b", b"2"), ("a", b"3")])


def test_repeated_keys_are_given_each_time(path: Path) -> None:
    path.write_bytes(pack([("a", b"1"), ("b", b"2"), ("a", b"3")]))
    store = MinidbStore(path)
    assert contents(store) == [("a", b"1"), ("b", b"2"), ("a", b"3")]
    assert list(store.keys()) == ["a", "b"]
    assert bytes(store.get("a").read(0, 1)) == b"3"
    assert [key for key, _ in store.records("a")] == ["a", "a"]
    save(path, pairs=[("c", b"4")])
    assert contents(store) == [("a", b"1"), ("b", b"2"), ("a", b"3"), ("c", b"4")]
    save(path, pairs=[("a", b"5")])
    assert contents(store) == [("a", b"5"), ("b", b"2"), ("c", b"4")]


def test_repeats_are_kept_where_asked(path: Path) -> None:
    pairs = [("a", b"1"), ("b", b"2"), ("a", b"3"), ("a", b"3")]
    save(path, "new", pairs=pairs, repeats=True)
    assert path.read_bytes() == pack(pairs)
    save(path, pairs=[("b", b"4")], repeats=True)
    assert path.read_bytes() == pack([*pairs, ("b", b"4")])
    with MinidbStore(path, "write", repeats=True) as store:
        store.delete("a")
        store.commit()
    assert path.read_bytes() == pack([("b", b"2"), ("b", b"4")])


keys = st.sampled_from("abcd")
steps = st.lists(st.tuples(keys, st.one_of(st.none(), values)), max_size=12)


@given(st.lists(steps, max_size=3))
def test_order_is_that_of_a_dict(commits: list[list[tuple[str, bytes | None]]]) -> None:
    expected: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = MinidbStore(Path(folder) / "x.minidb", "new")
        for commit in commits:
            for key, value in commit:
                if value is None:
                    store.delete(key)
                    expected.pop(key, None)
                else:
                    store.put(key, [value], durable=False)
                    expected[key] = value
            store.commit()
            assert contents(store) == list(expected.items())
            assert hidden(Path(folder)) == []
        store.close()


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "size"), [("w", 0), ("w", None), ("", None)])
def test_empty_values_and_keys_are_refused(key: str, size: int | None, path: Path) -> None:
    save(path, pairs=[("a", b"1")])
    with MinidbStore(path, "write") as store:
        store.put("b", [b"2"])
        with pytest.raises(errors.UnsupportedError, match="minidb"):
            store.put(key, [b"", b""] if key else [b"1"], size=size)
        store.put("c", [b"3"])
        store.commit()
    assert path.read_bytes() == pack([("a", b"1"), ("b", b"2"), ("c", b"3")])


def test_a_record_of_two_gibibytes_is_refused_before_it_is_written(path: Path) -> None:
    piece = bytes(1 << 20)
    taken = 0

    def chunks() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield piece

    with MinidbStore(path, "new") as store:
        store.put("a", [b"1"])
        with pytest.raises(errors.UnsupportedError, match="give a chunk_size"):
            store.put("w", chunks(), size=1 << 31)
        store.commit()
    assert taken == 1
    assert path.read_bytes() == pack([("a", b"1")])


@pytest.mark.parametrize("unit", [b"12", b"12" * 50_000])
def test_a_wrong_size_is_refused(unit: bytes, path: Path) -> None:
    with MinidbStore(path, "new") as store:
        store.put("a", [b"1"])
        with pytest.raises(errors.StoreError, match="bytes came for 'w', not"):
            store.put("w", [unit], size=len(unit) + 1)
        with pytest.raises(errors.StoreError, match="bytes"):
            store.put("w", [unit, Late(2, lambda: b"123")])
        store.put("b", [b"2"])
        store.commit()
    assert path.read_bytes() == pack([("a", b"1"), ("b", b"2")])


def test_places_that_hold_no_file(tmp_path: Path) -> None:
    modes: tuple[Mode, ...] = ("read", "write", "new")
    for mode in modes:
        with pytest.raises((errors.StoreError, errors.UnsupportedError), match="is a folder"):
            MinidbStore(tmp_path, mode)
    with pytest.raises(errors.MissingError, match="Create it first"):
        MinidbStore(tmp_path / "nowhere" / "x.minidb", "new")
    store = MinidbStore(tmp_path / "nowhere" / "x.minidb", "write")
    with pytest.raises(errors.MissingError, match="Create it first"):
        store.put("a", [b"1"])
    os.mkfifo(tmp_path / "pipe")
    for mode in modes:
        with pytest.raises((errors.StoreError, errors.UnsupportedError), match="pipe or device"):
            MinidbStore(tmp_path / "pipe", mode)
    with pytest.raises(errors.StoreError):
        MinidbStore(tmp_path / "\ud800", "read")


def test_a_place_that_may_not_be_written_to(unprivileged: Path) -> None:
    path = unprivileged / "x.minidb"
    save(path, pairs=[("a", b"1")])
    unprivileged.chmod(0o500)
    with MinidbStore(path, "write") as store, pytest.raises(errors.StoreError, match="ermission"):
        store.put("b", [b"2"])
    assert contents(MinidbStore(path)) == [("a", b"1")]
    unprivileged.chmod(0o700)


# --- damage ----------------------------------------------------------------------------------


def test_records_before_the_damage_are_given() -> None:
    store = MinidbStore(CASES / "cut_in_value.minidb")
    found = store.records()
    assert next(found)[0] == "a#%0"
    with pytest.raises(errors.CorruptError, match="record 1 at byte 86"):
        next(found)
    with pytest.raises(errors.CorruptError, match="record 1 at byte 86"):
        store.get("a#%0")


def test_a_damaged_file_is_not_added_to(path: Path) -> None:
    old = (CASES / "cut_1_byte_in.minidb").read_bytes()
    path.write_bytes(old)
    with MinidbStore(path, "write") as store:
        store.put("b", [b"2"])
        with pytest.raises(errors.CorruptError, match="record 1 at byte 86"):
            store.commit()
    assert path.read_bytes() == old
    assert hidden(path.parent) == []


def test_stray_bytes_are_dropped_where_that_is_asked(path: Path) -> None:
    old = (CASES / "cut_3_bytes_in.minidb").read_bytes()
    path.write_bytes(old)
    save(path, pairs=[("b", b"2")], strict=False)
    assert path.read_bytes() == old[:-3] + pack([("b", b"2")])


def test_what_is_recognised(tmp_path: Path) -> None:
    assert all(MinidbStore.recognises(GOLDEN / name) for name in FILES)
    path = tmp_path / "x.minidb"
    assert not MinidbStore.recognises(path)
    path.write_bytes(b"")
    assert MinidbStore.recognises(path)
    path.rename(tmp_path / "x.bin")
    for name in (tmp_path / "x.bin", tmp_path, GOLDEN / "MANIFEST.json", GOLDEN / "metanet.pb"):
        assert not MinidbStore.recognises(name)
    os.mkfifo(tmp_path / "pipe")
    assert not MinidbStore.recognises(tmp_path / "pipe")
    assert not MinidbStore.recognises(tmp_path / "\ud800")


def test_the_manifest_names_the_files() -> None:
    named = {
        entry["file"] for entry in json.loads((GOLDEN / "MANIFEST.json").read_text())["entries"]
    }
    assert set(FILES) <= named
