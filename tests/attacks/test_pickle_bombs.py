"""Small pickles made to work for ever: values shown in messages, hashed, spelt and walked."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.errors import CorruptError, TensorKeepError, UnsafeError
from tensorkeep.formats.pytorch.dcp_metadata import read_metadata
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.wire.pickle.machine import read_pickle
from tensorkeep.wire.pickle.plain import PLAIN
from tensorkeep.wire.zip_writer import Part, write_zip

START = b"\x80\x02"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def put(number: int) -> bytes:
    return b"r" + struct.pack("<I", number)


def got(number: int) -> bytes:
    return b"j" + struct.pack("<I", number)


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def doubling(push: bytes, pair: bytes) -> bytes:
    """Give the instructions for a value that holds another twice, and so on, 40 levels deep."""
    body = push + put(1000)
    for level in range(1000, 1040):
        body += b"0" + (b"(" if pair == b"l" else b"") + got(level) * 2 + pair + put(level + 1)
    return body


LISTS = doubling(b"]", b"l")
TUPLES = doubling(b")", b"\x86")
HUGE = b"\x8b" + struct.pack("<I", 1 << 20) + b"\x01" * (1 << 20)


def at(data: bytes, key: str) -> Location:
    return Location(MemoryStore({key: data}), key)


def archive(program: bytes, storage: bytes = b"") -> bytes:
    members = {"data.pkl": program, "data/0": storage, "version": b"3\n"}
    parts = [Part(f"a/{n}", len(d), lambda d=d: [d]) for n, d in members.items()]  # type: ignore[misc]
    made: Iterator[Any] = iter(write_zip(parts))
    return b"".join(bytes(piece) for piece in made)


def storage(kind: str, numel: int, view: bytes = b"") -> bytes:
    fields = text("storage") + named("torch", kind) + text("0") + text("cpu")
    return b"(" + fields + b"K" + bytes([numel]) + view + b"tQ"


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    start = time.process_time()
    yield
    assert time.process_time() - start < 20


# --- the machine ----------------------------------------------------------------------------------


BOMBS: dict[str, tuple[bytes, type[TensorKeepError], str]] = {
    "a key of an unknown object that has no hash": (
        named("x", "Y") + b")R]Ns",
        CorruptError,
        "has a list for a key",
    ),
    "keys of an unknown object that hash alike": (
        named("x", "Y")
        + b")R("
        + b"".join(
            b"\x8a\x0a" + ((2**61 - 1) * n).to_bytes(10, "little") + b"N" for n in range(1, 9000)
        )
        + b"u",
        UnsafeError,
        "chosen to hash alike",
    ),
    "a key of an unknown object that takes for ever to hash": (
        named("x", "Y") + b")R" + TUPLES + b"Ns",
        UnsafeError,
        "a key of over",
    ),
    "a huge integer for a key": (b"}" + HUGE + b"Ns", UnsafeError, "a key of over"),
    "a huge integer in a key": (b"}" + HUGE + b"\x85Ns", UnsafeError, "a key of over"),
    "huge integers in a set": (
        named("builtins", "set") + b"](" + HUGE + b"e\x85R",
        UnsafeError,
        "a key of over",
    ),
    "the same long arguments": (
        b"(" + b"K\1" * 300_000 + b"t" + put(1) + b"0]" + (named("x", "Y") + got(1) + b"Ra") * 90,
        UnsafeError,
        "again and again",
    ),
    "the same many keywords": (
        b"}("
        + b"".join(text(str(n)) + b"N" for n in range(20_000))
        + b"u"
        + put(1)
        + b"0]"
        + (named("x", "Y") + b")" + got(1) + b"\x92a") * 2000,
        UnsafeError,
        "again and again",
    ),
}


@pytest.mark.parametrize(("body", "kind", "problem"), BOMBS.values(), ids=BOMBS)
def test_bombs(body: bytes, kind: type[TensorKeepError], problem: str) -> None:
    with pytest.raises(kind, match=problem):
        read_pickle(START + body + b".", "a.pkl", allowed=PLAIN)


WALKS: dict[str, bytes] = {
    "a huge integer in many places": HUGE + put(1) + b"0](" + got(1) * 1000 + b"e",
    "a long name around much": (
        b"}" + text("a" * (1 << 20)) + b"](" + named("x", "y") + put(1) + got(1) * 1000 + b"es"
    ),
    "a long key in many places": (
        b"}" + text("ä" * (1 << 20)) + b"Ns" + put(1) + b"0](" + got(1) * 1000 + b"e"
    ),
}


@pytest.mark.parametrize("key", ["a.pkl", "a.pt"])
@pytest.mark.parametrize("body", WALKS.values(), ids=WALKS)
def test_what_is_spelt_again_and_again(body: bytes, key: str) -> None:
    program = START + body + b"."
    with pytest.raises(UnsafeError, match="letters, since it repeats"):
        tk.open(at(archive(program) if key == "a.pt" else program, key))


def test_a_small_pickle_grows_little() -> None:
    with pytest.raises(UnsafeError, match=r"would grow to over 52\d,\d+ values"):
        tk.open(at(START + LISTS + b".", "a.pkl"))


# --- what messages show ---------------------------------------------------------------------------


def joblib(align: bytes, code: bytes = text("f4")) -> bytes:
    rows = {
        "subclass": named("numpy", "ndarray"),
        "shape": b"K\1\x85",
        "dtype": named("numpy", "dtype") + code + b"\x85R",
        "numpy_array_alignment_bytes": align,
    }
    state = b"".join(text(name) + value for name, value in rows.items())
    made = named("joblib.numpy_pickle", "NumpyArrayWrapper") + b")\x81"
    return START + made + b"}(" + state + b"ub" + bytes(8) + b"."


def paddle(name: bytes, slices: bytes, shape: bytes) -> bytes:
    told = b"}(" + text("slices") + slices + text("OriginShape") + shape + b"u"
    return START + b"}" + text("UnpackBigParamInfor@@") + b"}" + name + told + b"ss."


def deep(count: int = 9000) -> bytes:
    return b"]" * count + b"a" * (count - 1)


SHOWN: dict[str, tuple[bytes, str, str]] = {
    "a class of a storage": (
        archive(START + b"(" + text("storage") + LISTS + text("0") + text("cpu") + b"K\1tQ."),
        "a.pt",
        "unknown class a list",
    ),
    "a deep one": (
        archive(START + b"(" + text("storage") + deep() + text("0") + text("cpu") + b"K\1tQ."),
        "a.pt",
        "unknown class a list",
    ),
    "an alignment": (joblib(LISTS), "a.joblib", "aligns an array to a list"),
    "an element type": (joblib(b"K\1", LISTS), "a.joblib", "array of type a list"),
    "a slice": (paddle(text("w"), b"]" + LISTS + b"a", b")"), "a.pdparams", "the slice a list"),
    "a shape": (paddle(text("w"), b"]", TUPLES), "a.pdparams", "do not make its shape a tuple"),
}


@pytest.mark.parametrize(("data", "key", "problem"), SHOWN.values(), ids=SHOWN)
def test_no_message_spells_a_bomb(data: bytes, key: str, problem: str) -> None:
    with pytest.raises(TensorKeepError, match=problem):
        tk.open(at(data, key))


def test_bombs_in_a_distributed_checkpoint() -> None:
    package = "torch.distributed.checkpoint"
    made = START + named(f"{package}.metadata", "Metadata") + b")\x81"
    ignored = named("pathlib", "PosixPath") + LISTS + b"\x85R"
    with pytest.raises(CorruptError, match="state_dict_metadata is not a dict"):
        read_metadata(memoryview(made + b"}" + text("x") + ignored + b"sb."), "a")
    index = named(f"{package}.metadata", "MetadataIndex") + b")\x81}" + text("fqn") + text("w")
    info = named(f"{package}.filesystem", "_StorageInfo") + b")\x81}" + text("relative_path")
    places = b"}" + index + b"sb" + info + LISTS + b"sbs"
    told = text("state_dict_metadata") + b"}" + text("storage_data") + places
    with pytest.raises(CorruptError, match="'w' lies at a list, None, None"):
        read_metadata(memoryview(made + b"}(" + told + b"ub."), "a")
    names = [
        (f"w{n}", b"\x8a\x0a" + ((2**61 - 1) * n).to_bytes(10, "little")) for n in range(2, 99)
    ]
    kept = named(f"{package}.metadata", "BytesStorageMetadata") + b")\x81"
    rows = b"}(" + b"".join(text(name) + kept for name, _ in names) + b"u"
    plan = b"}(" + b"".join(text(name) + key + b"\x85" for name, key in names) + b"u"
    place = info + text("f") + text("offset") + b"K\0" + text("length") + b"K\0ub"
    place = place.replace(b")\x81}", b")\x81}(")
    at_ = [index[: -len(text("w"))] + text(name) + b"sb" + place for name, _ in names]
    told = text("state_dict_metadata") + rows + text("planner_data") + plan
    told += text("storage_data") + b"}(" + b"".join(at_) + b"u"
    with pytest.raises(UnsafeError, match="chosen to hash alike"):
        read_metadata(memoryview(made + b"}(" + told + b"ub."), "a")


def test_paddles_nesting_is_walked_once() -> None:
    with pytest.raises(UnsafeError, match="since it repeats"):
        tk.open(at(START + LISTS + b".", "a.pdparams"))
    with tk.open(at(START + b"]" + put(1) + got(1) * 2 + b"aa.", "b.pdparams")) as state:
        assert state.refused


# --- PyTorch's older files ------------------------------------------------------------------------


def test_many_storages_are_found_quickly() -> None:
    count = 20_000
    empty = b"".join(
        b"(" + text("storage") + named("torch", "FloatStorage") + text(str(n)) + text("cpu")
        + b"K\0NtQ" for n in range(count)
    )  # fmt: skip
    system = pickle.dumps({"little_endian": True}, 2)
    magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
    keys = pickle.dumps([str(n) for n in range(count)], 2)
    data = magic + system + START + b"](" + empty + b"e." + keys + bytes(8 * count)
    before = time.process_time()
    with tk.open(at(data, "a.pt")) as state:
        assert len(state) == count
    assert time.process_time() - before < 10


def tar(tensors: bytes, storages: bytes, program: bytes) -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w", format=tarfile.USTAR_FORMAT) as file:
        for name, data in {"pickle": program, "tensors": tensors, "storages": storages}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return memory.getvalue()


def row(kind: str, views: bytes) -> bytes:
    entry = START + b"K\1" + text("cpu") + named("torch", kind) + b"\x87."
    size = 16 if kind == "UntypedStorage" else 4
    return START + b"K\1." + entry + struct.pack("<Q", size) + bytes(16) + views


def seen(storage: bytes) -> bytes:
    entry = START + b"K\2" + storage + named("torch", "FloatTensor") + b"\x87."
    return START + b"K\1." + entry + struct.pack("<IIqqq", 1, 0, 4, 1, 0)


def test_lies_in_tar_archives() -> None:
    none, good = START + b"].", START + b"}" + text("w") + b"K\2Qs."
    with tk.open(at(tar(seen(b"K\1"), row("FloatStorage", none), good), "a.pt")) as state:
        assert state["w"].shape == (4,)
    with pytest.raises(CorruptError, match="a tensor that cannot be"):
        tk.open(at(tar(seen(b"]"), row("FloatStorage", none), good), "a.pt"))
    for program in (LISTS, deep()):
        data = tar(seen(b"K\1"), row("FloatStorage", none), START + program + b"Q.")
        with pytest.raises(CorruptError, match="names the object a list, which is not there"):
            tk.open(at(data, "a.pt"))
    view = START + b"](K\5K\1K\4K\x08ta."
    data = tar(seen(b"K\5"), row("UntypedStorage", view), good)
    with tk.open(at(data, "a.pt")) as state:
        assert state["w"].dtype.name == "uint8"


# --- values that cannot be ------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "flag"), [("BoolStorage", "neg"), ("FloatStorage", "conj")])
def test_views_that_the_type_does_not_have(kind: str, flag: str) -> None:
    flags = b"}" + text(flag) + b"\x88s"
    seen = storage(kind, 4) + b"K\0K\4\x85K\1\x85\x89N" + flags
    program = START + named("torch._utils", "_rebuild_tensor_v2") + b"(" + seen + b"tR."
    with pytest.raises(CorruptError, match="as conjugated or negated"):
        tk.open(at(archive(program, bytes(4 if kind == "BoolStorage" else 16)), "a.pt"))


def test_a_version_without_an_end_is_told_of() -> None:
    huge = b"\x8b" + struct.pack("<I", 5000) + b"\x01" * 5000
    row = b"}" + text("version") + huge + b"s"
    carried = b"}" + text("_metadata") + b"}" + text("m") + row + b"ss"
    program = START + named("collections", "OrderedDict") + b")R" + carried + b"b."
    with tk.open(at(archive(program), "a.pt")) as state:
        assert state.metadata == {}
        assert state.refused == ("'the whole' carries metadata, which is not kept",)


def test_text_of_what_is_no_character() -> None:
    text = np.array([0x110000], np.uint32).view("U1")
    with pytest.raises(CorruptError, match=r"a\.pkl: its strings are damaged"):
        tk.open(at(pickle.dumps({"a": text}, 2), "a.pkl"))
    with pytest.raises(CorruptError, match="its strings are damaged"):
        tk.save({"a": text}, at(b"", "b.npz"))
