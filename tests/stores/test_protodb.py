"""A protodb file: tensors by name, real Caffe2's file, and what it cannot hold."""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from tensorkeep import errors, testing
from tensorkeep.database import Mode
from tensorkeep.message import scan
from tensorkeep.message.schema import encode_varint
from tensorkeep.message.varints import decode_varints
from tensorkeep.source import Source, Window
from tensorkeep.store import Chunks, Progress, Store, join
from tensorkeep.stores.protodb import ProtodbStore

GOLDEN = Path(__file__).parents[1] / "data" / "caffe2"
TENSORS = GOLDEN / "tensors.protodb"

Pairs = list[tuple[str, bytes]]


def field(number: int, data: bytes) -> bytes:
    return encode_varint(number << 3 | 2) + encode_varint(len(data)) + data


def tensor(name: str, raw: bytes = b"") -> bytes:
    return b"\x10\x01" + field(7, name.encode("utf-8", "surrogateescape")) + field(13, raw)


def pack(*names: str) -> bytes:
    return b"".join(field(1, tensor(name)) for name in names)


def contents(store: Store) -> Pairs:
    return [(key, bytes(source.read(0, source.size))) for key, source in store.records()]


def save(path: Path, mode: Mode, *names: str) -> None:
    with ProtodbStore(path, mode) as store:
        for name in names:
            store.put(name, [tensor(name)])
        store.commit()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.protodb"


class Packed(Store):
    """Keep arbitrary bytes in a protodb: each value is the raw data of a tensor of its key.

    A protodb holds nothing but tensors of the name of their key, so the checks of stores, which
    put any bytes under any key, are run over this.
    """

    def __init__(self, path: Path, mode: Mode) -> None:
        self.inner = ProtodbStore(path, mode)
        self.where = self.inner.where

    def keys(self, prefix: str = "") -> Iterator[str]:
        return self.inner.keys(prefix)

    def get(self, key: str) -> Source:
        source = self.inner.get(key)
        start, stop = next((a, b) for number, _, a, b in scan(source) if number == 13)
        return Window(source, start, stop - start)

    def put(
        self,
        key: str,
        chunks: Chunks,
        *,
        size: int | None = None,
        durable: bool = True,
        progress: Progress | None = None,
    ) -> None:
        data = join(chunks)
        self.inner.put(key, [tensor(key, data)], durable=durable)
        if progress is not None:
            progress(len(data))

    def delete(self, key: str) -> None:
        self.inner.delete(key)

    def commit(self) -> None:
        self.inner.commit()

    def rollback(self) -> None:
        self.inner.rollback()

    def close(self) -> None:
        self.inner.close()


def make_in(folder: Path, mode: Mode) -> Store:
    return Packed(Path(tempfile.mkdtemp(dir=folder)) / "x.protodb", mode)


@pytest.mark.parametrize("mode", ["write", "new"])
@pytest.mark.parametrize("check", testing.STORE_CHECKS.values(), ids=testing.STORE_CHECKS)
def test_contract(check: Callable[[Store], None], mode: Mode, tmp_path: Path) -> None:
    store = make_in(tmp_path, mode)
    check(store)
    store.close()


def test_any_order_of_operations(tmp_path: Path) -> None:
    quick = settings(max_examples=20, stateful_step_count=20)
    machine = testing.store_machine(partial(make_in, tmp_path, "write"))
    run_state_machine_as_test(machine, settings=quick)


def test_the_golden_file() -> None:
    arrays = np.load(GOLDEN / "tensors_protodb.npz")
    (first, one), (second, other) = contents(ProtodbStore(TENSORS))
    assert (first, second) == ("first", "second")
    places = {number: (start, stop) for number, _, start, stop in scan(one)}
    numbers = decode_varints(one[slice(*places[4])], np.dtype(np.int32))
    assert np.array_equal(numbers, arrays[first].ravel())
    places = {number: (start, stop) for number, _, start, stop in scan(other)}
    assert other[slice(*places[3])] == arrays[second].tobytes()


def test_the_golden_file_is_written_again(path: Path) -> None:
    with ProtodbStore(path, "new") as store:
        for key, source in ProtodbStore(TENSORS).records():
            store.put(key, [source.read(0, source.size)], size=source.size)
        store.commit()
    assert path.read_bytes() == TENSORS.read_bytes()


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=9)


@given(st.dictionaries(names, st.binary(max_size=300), max_size=6))
def test_round_trip(values: dict[str, bytes]) -> None:
    pairs = [(name, tensor(name, raw)) for name, raw in values.items()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.protodb"
        with ProtodbStore(path, "new") as store:
            for name, value in pairs:
                store.put(name, [value], durable=False)
            store.commit()
            assert contents(store) == pairs
        assert path.read_bytes() == b"".join(field(1, value) for _, value in pairs)


def test_modes(path: Path) -> None:
    with pytest.raises(errors.MissingError):
        ProtodbStore(path)
    save(path, "write", "a", "b")
    assert path.read_bytes() == pack("a", "b")
    save(path, "write", "c")
    assert path.read_bytes() == pack("a", "b", "c")
    save(path, "new", "d")
    assert path.read_bytes() == pack("d")
    save(path, "new")
    assert path.read_bytes() == b""
    assert list(ProtodbStore(path).keys()) == []


def test_a_name_that_is_put_again_keeps_its_place(path: Path) -> None:
    save(path, "new", "a", "b", "c")
    with ProtodbStore(path, "write") as store:
        store.put("b", [tensor("b", b"new")])
        store.put("d", [tensor("d")])
        store.delete("c")
        store.commit()
    expected = [tensor("a"), tensor("b", b"new"), tensor("d")]
    assert path.read_bytes() == b"".join(field(1, value) for value in expected)


def test_the_last_of_several_names_counts(path: Path) -> None:
    value = field(7, b"first") + tensor("last")
    with ProtodbStore(path, "new") as store:
        store.put("last", [value])
        store.commit()
        assert contents(store) == [("last", value)]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("a", tensor("b"), "but of 'b'"),
        ("a", b"", "but of ''"),
        ("", b"\x10\x01", "but of ''"),
        ("a", b"\xff", "the value is no TensorProto: .*cut short"),
        ("a", tensor("a")[:-1] + b"\x0f", "the value is no TensorProto"),
        # A blob, which is what Save writes: its first field is its name, its second its type.
        ("a", field(1, b"a") + field(2, b"Tensor") + field(3, tensor("a")), "but of ''"),
    ],
)
def test_what_is_no_tensor_of_that_name_is_refused(
    key: str, value: bytes, message: str, path: Path
) -> None:
    with ProtodbStore(path, "new") as store:
        store.put("x", [tensor("x")])
        with pytest.raises(errors.UnsupportedError, match=message):
            store.put(key, [value])
        store.commit()
    assert path.read_bytes() == pack("x")


def test_a_wrong_size_is_refused(path: Path) -> None:
    with ProtodbStore(path, "new") as store, pytest.raises(errors.StoreError, match="came for 'a'"):
        store.put("a", [tensor("a")], size=3)


def test_a_file_that_protobuf_cannot_read_is_refused(path: Path) -> None:
    with path.open("wb") as file:  # sparse: one tensor of nearly 2 GiB
        size = (1 << 31) - 100
        raw = size - len(tensor("w", b"")) - 4
        value = tensor("w")[:-1] + encode_varint(raw)
        file.write(encode_varint(10) + encode_varint(len(value) + raw) + value)
        file.truncate(file.tell() + raw)
    before = path.stat()
    tracemalloc.start()
    assert list(ProtodbStore(path).keys()) == ["w"]
    assert tracemalloc.get_traced_memory()[1] < 1 << 20  # the tensor is not read for its name
    tracemalloc.stop()
    with ProtodbStore(path, "write") as store:
        store.put("a", [tensor("a", bytes(200))])
        with pytest.raises(errors.UnsupportedError, match="holds up to 2,147,483,647"):
            store.commit()
    assert path.stat() == before


def test_every_truncation(path: Path) -> None:
    data = TENSORS.read_bytes()
    whole = contents(ProtodbStore(TENSORS))
    boundaries = {0: 0, 2 + len(whole[0][1]): 1}
    for size in range(len(data)):
        path.write_bytes(data[:size])
        if size in boundaries:
            assert contents(ProtodbStore(path)) == whole[: boundaries[size]]
        else:
            with pytest.raises(errors.CorruptError, match=r"x\.protodb"):
                contents(ProtodbStore(path))


@given(st.binary(max_size=60))
def test_any_bytes_are_tensors_or_corrupt(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.protodb"
        path.write_bytes(data)
        ProtodbStore.recognises(path)
        try:
            found = contents(ProtodbStore(path))
        except errors.CorruptError:
            return
        assert sum(len(value) for _, value in found) <= len(data)


def test_other_messages_are_refused(path: Path) -> None:
    for name in ("metanet.pb", "plan.pb", "serialize_blob_t.blobproto"):
        with pytest.raises(errors.CorruptError):
            contents(ProtodbStore(GOLDEN / name))


def test_what_is_recognised(tmp_path: Path, path: Path) -> None:
    claimed = [
        file.name for file in GOLDEN.rglob("*") if file.is_file() and ProtodbStore.recognises(file)
    ]
    assert claimed == ["tensors.protodb"]
    assert not ProtodbStore.recognises(path)
    path.write_bytes(b"")
    assert ProtodbStore.recognises(path)
    path.rename(tmp_path / "x.bin")
    assert not ProtodbStore.recognises(tmp_path / "x.bin")
    assert not ProtodbStore.recognises(tmp_path)
    path.write_bytes(pack("a") + b"behind")
    assert not ProtodbStore.recognises(path)
