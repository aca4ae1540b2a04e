"""Databases of blobs: what real Caffe2 wrote, and what we write beside its records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import formats, testing
from tensorkeep.checksum import digest
from tensorkeep.errors import (
    ArgumentError,
    ClosedError,
    CorruptError,
    LossError,
    MissingError,
    TensorKeepError,
    UnsupportedError,
)
from tensorkeep.message import Message
from tensorkeep.source import MemorySource
from tensorkeep.state import State
from tensorkeep.store import Location
from tensorkeep.stores import open_database
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.tensor import Tensor
from tensorkeep.testing import CountingStore, assert_equal_states
from tensorkeep.wire.caffe2.schema import BLOB, SEGMENT, TENSOR
from tensorkeep.wire.minidb import read_records, record_header

DATA = Path(__file__).parents[1] / "data" / "caffe2"
ENTRIES = [
    entry
    for entry in json.loads((DATA / "MANIFEST.json").read_text())["entries"]
    if "blobs" in entry and "expected" in entry and (DATA / entry["file"]).is_file()
]
GOLDEN = [e for e in ENTRIES if "strip_prefix" not in e.get("load_args", {})]
SAVED = [e for e in ENTRIES if "save_args" in e and "options" not in e["save_args"]]
ENGINES = ("lmdb", "leveldb", "rocksdb", "sqlite", "protodb")
VALUE = {
    "layer": {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.array([-1, 7], np.int8)},
    "types": [np.ones(2, np.complex64), np.arange(3, dtype=np.uint64), np.array(["a", "ü"])],
    "step": 7,
}


def at(data: bytes, key: str = "a.minidb") -> Location:
    return Location(MemoryStore({key: data}), key)


def saved(value: Any, **options: Any) -> bytes:
    store = MemoryStore()
    tk.save(value, Location(store, "a.minidb"), **options)
    return store.data["a.minidb"]


def records(data: bytes) -> dict[str, bytes]:
    return {key: data[start:stop] for key, start, stop in read_records(MemorySource(data))}


def rebuilt(kept: dict[str, bytes]) -> bytes:
    return b"".join(record_header(key, len(value)) + value for key, value in kept.items())


def blob_bytes(text: Any) -> bytes:
    return str(text).encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("entry", GOLDEN, ids=lambda entry: entry["file"])
def test_what_caffe2_wrote_loads_as_it_read_it(entry: dict[str, Any]) -> None:
    expected = np.load(DATA / entry["expected"])
    with tk.open(DATA / entry["file"]) as state:
        for blob in entry["blobs"]:
            name, kind = blob["name"], blob["kind"]
            if kind in ("tensor", "int8_tensor"):
                assert_equal_states(state[name].numpy(), expected[blob["npz"]], name)
            elif kind in ("string_tensor", "std_string"):
                texts = state[name].numpy()
                found = [blob_bytes(text).hex() for text in texts.reshape(-1)]
                assert found == (blob["hex"] if kind == "string_tensor" else [blob["hex"]])
                assert list(state[name].shape) == blob.get("shape", [])


def _options(entry: dict[str, Any]) -> dict[str, Any]:
    flags = " ".join(entry.get("flags", ()))
    chunk_size = entry["save_args"].get("chunk_size")
    if chunk_size in (None, -1):
        chunk_size = 6 if "chunk_size=6" in flags else 1_000_000
    return {
        "chunk_size": chunk_size or -1,
        "byte_holder": "bytes_as_holder=1" in flags,
        "fp16_as_bytes": "fp16_as_bytes=1" in flags,
    }


@pytest.mark.parametrize("entry", SAVED, ids=lambda entry: entry["file"])
def test_plain_saves_write_the_records_that_caffe2_wrote(entry: dict[str, Any]) -> None:
    golden = (DATA / entry["file"]).read_bytes()
    with tk.open(DATA / entry["file"]) as state:
        again = saved(state, plain=True, **_options(entry))
    assert records(again) == records(golden)
    if entry["byte_exact"]:
        assert again == golden


@pytest.mark.parametrize("entry", SAVED, ids=lambda entry: entry["file"])
def test_nothing_is_lost_on_the_way_through_another_format(entry: dict[str, Any]) -> None:
    golden = (DATA / entry["file"]).read_bytes()
    store = MemoryStore()
    with tk.open(DATA / entry["file"]) as state:
        tk.save(state, Location(store, "a.safetensors"))
        with tk.open(Location(store, "a.safetensors")) as through:
            assert_equal_states(through.metadata, state.metadata)
            again = saved(through, plain=True, **_options(entry))
    assert records(again) == records(golden)


def test_a_checkpoint_without_a_suffix_is_told_by_its_bytes() -> None:
    with tk.open(DATA / "checkpoint_manager" / "trainer.2") as state:
        assert state.format == "caffe2"
        caffe2: Any = state.metadata["caffe2"]
        assert "std::unique_ptr<Counter<int64_t>>" in caffe2["types"].values()
        assert state["epoch_counter_init/CreateCounter"].shape == ()


def test_remarks_name_chunks_and_devices() -> None:
    with tk.open(DATA / "chunked.minidb") as state:
        assert set(state.remarks.values()) == {"4 chunks"}
    with tk.open(DATA / "legacy.minidb") as state:
        assert state.remarks["cuda_made"] == "CUDA:3"
        assert state.metadata["caffe2"] == {"devices": {"cuda_made": "CUDA:3"}}


def test_a_device_is_saved_again() -> None:
    with tk.open(DATA / "legacy.minidb") as state:
        again = saved({"cuda_made": state["cuda_made"].numpy()}, metadata=state.metadata)
    with tk.open(at(again)) as state:
        assert state.remarks["cuda_made"] == "CUDA:3"
    assert bytes.fromhex("42 04 08 01 10 03") in records(again)["cuda_made#%0"]


def test_a_predictor_is_summed_up() -> None:
    with tk.open(DATA / "predictor.minidb") as state:
        assert list(state) == ["!!META_NET_DEF", "h_w", "h_b", "y_w", "y_b"]
        caffe2: Any = state.metadata["caffe2"]
        summary = caffe2["predictor"]
        assert (summary["inputs"], summary["outputs"]) == (["data"], ["y", "prob"])
        assert summary["parameters"] == ["h_w", "h_b", "y_w", "y_b"]
        operators = summary["nets"]["GLOBAL_INIT_NET_TYPE"]["operators"]
        assert operators == {"Load": 1}
        again = saved(state, plain=True)
    assert again == (DATA / "predictor.minidb").read_bytes()


def test_every_type_of_blob_keeps_its_parts() -> None:
    with tk.open(DATA / "other_blobs.minidb") as state:
        caffe2: Any = state.metadata["caffe2"]
        assert state["map_64_32/keys"].numpy().tolist() != []
        pairs = zip(state["map_64_32/keys"].numpy(), state["map_64_32/values"].numpy(), strict=True)
        assert sorted(pairs) == [(-9, 90), (1, 10), (3, 30)]
        assert state["counter"].numpy() == 42
        assert state["long_index"].numpy().tolist() == [5, 7, 11]
        assert state["cursor_moved"].numpy().tolist() == [2, 3]
        assert caffe2["details"]["cursor"] == {"fields": ["a:lengths", "a:values", "b"]}
        assert caffe2["types"]["mutex"] == "std::unique_ptr<std::mutex>"
        assert caffe2["details"]["reader"]["db_type"] == "minidb"
        golden = records((DATA / "other_blobs.minidb").read_bytes())
        assert records(saved(state, plain=True)) == golden


@pytest.mark.parametrize(
    ("types", "details"),
    [
        ({"w": "std::string"}, {}),
        ({"w": "Int8TensorCPU"}, {"w": {"scale": 1.0}}),
        ({"w": "Int8TensorCPU"}, {"w": {"scale": [], "zero_point": 1}}),
        ({"w": "no such type"}, {}),
        ({"w": []}, {}),
        ({"w": "(std::unordered_map<int64_t, int64_t>)"}, {"w": {"keys": "w", "values": "x"}}),
        ({"w": "Tensor"}, {"w": {"elements": "blobs"}}),
        ({"gone": "std::unique_ptr<TreeCursor>"}, {"gone": {"fields": 5}}),
        ({"w": "Tensor"}, 5),
        (5, {}),
    ],
)
def test_metadata_that_does_not_fit_is_refused(types: Any, details: Any) -> None:
    state = {"w": np.ones(2, np.float32)}
    with pytest.raises(ArgumentError):
        saved(state, metadata={"caffe2": {"types": types, "details": details}})


def test_a_device_that_is_none_is_refused() -> None:
    with pytest.raises(ArgumentError, match="CUDA:1"):
        saved({"w": np.ones(1)}, metadata={"caffe2": {"devices": {"w": "nowhere"}}})


def test_metadata_of_that_name_that_is_not_ours_is_kept() -> None:
    several: list[Any] = [5, {"version": [1, 2]}, {"types": {}}, {"types": {"b": "std::string"}}]
    for mine in several:
        with tk.open(at(saved({"w": np.ones(1)}, metadata={"caffe2": mine}))) as state:
            assert state.metadata == {"caffe2": mine}


def test_strings_with_a_chunk_like_name_keep_it() -> None:
    state = State({"a#%5": Tensor.of(np.array("text", object)), "b#%5": Tensor.of(np.ones(1))})
    metadata = {"caffe2": {"types": {"a#%5": "std::string"}}}
    data = saved(state, metadata=metadata)
    assert set(records(data)) == {"!!tensorkeep", "a#%5", "b#%5#%0"}
    with tk.open(at(data)) as found:
        assert list(found) == ["a#%5", "b#%5"]


def test_what_is_missing_is_listed_and_an_error_when_read() -> None:
    with tk.open(DATA / "cases" / "missing_chunk.minidb") as state:
        assert "elements 3 to 6 missing" in state.remarks["a"]
        assert state["a"].shape == (10,)
        assert_equal_states(state["a"][6:8], np.load(DATA / "cases" / "fixtures.npz")["a"][6:8])
        assert_equal_states(state["b"].numpy(), np.load(DATA / "cases" / "fixtures.npz")["b"])
        with pytest.raises(CorruptError, match="elements 3 to 6"):
            state["a"].numpy()
        with pytest.raises(CorruptError, match="elements 3 to 6"):
            _ = state["a"][5:6]
    with pytest.raises(CorruptError, match="elements 3 to 6"):
        tk.load(DATA / "cases" / "missing_chunk.minidb")


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("cut_in_value", "59 are missing.*'a#%0'"),
        ("cut_in_key", "missing"),
        ("cut_3_bytes_in", "cut short"),
        ("chunk_replaced_by_copy", "elements"),
        ("repeated_last_chunk", "'a' has elements 0 to 3 in 'a#%0' too"),
        ("string_twice", "twice"),
        ("garbage_value", "field|type|BlobProto"),
        ("negative_length", "above zero"),
    ],
)
def test_damage_to_the_records_is_an_error_that_names_them(file: str, what: str) -> None:
    with pytest.raises(CorruptError, match=what):
        tk.open(DATA / "cases" / f"{file}.minidb")


def test_an_empty_file_is_no_database() -> None:
    with pytest.raises(CorruptError, match="empty"):
        tk.open(at(b""))


def test_training_data_is_named() -> None:
    with pytest.raises(UnsupportedError, match="training data"):
        tk.open(DATA / "tensorprotos.minidb")


def test_a_lost_record_is_noticed_on_opening() -> None:
    data = saved({"a": np.arange(9), "b": np.arange(3), "c": np.array("x")}, chunk_size=4)
    kept = records(data)
    for lost in kept:
        if lost == "!!tensorkeep":
            continue
        without = rebuilt({key: value for key, value in kept.items() if key != lost})
        with pytest.raises(CorruptError), tk.open(at(without)) as state:
            state["a"].numpy()


def test_a_changed_text_is_noticed_on_opening() -> None:
    state = State({"s": Tensor.of(np.array("text", object))})
    data = saved(state, metadata={"caffe2": {"types": {"s": "std::string"}}})
    with pytest.raises(CorruptError, match="not what was saved"):
        tk.open(at(data.replace(b"text", b"tent")))


def test_the_parts_of_a_map_give_way_to_other_names() -> None:
    kept = records((DATA / "other_blobs.minidb").read_bytes())
    kept |= records(saved({"map_64_32/keys": np.ones(2, np.float32)}, plain=True))
    with tk.open(at(rebuilt(kept))) as state:
        assert state["map_64_32/keys"].numpy().tolist() == [1, 1]
        assert sorted(state["map_64_32/keys_"].numpy().tolist()) == [-9, 1, 3]
        assert records(saved(state, plain=True)) == kept


def test_the_order_of_records_does_not_matter() -> None:
    value = {"b": np.arange(9), "a": np.arange(3)}
    kept = records(saved(value, chunk_size=2))
    shuffled = rebuilt(dict(sorted(kept.items(), key=lambda row: row[1][::-1])))
    found = tk.load(at(shuffled), verify=True)
    assert_equal_states(found, value)
    assert list(found) == ["b", "a"]


def test_plain_saves_refuse_what_only_notes_could_keep() -> None:
    weights = np.ones(2, np.float32)
    for value, options in (
        ({"w": weights.astype(np.complex64)}, {}),
        ({"layer": {"w": weights}}, {}),
        ({"w": weights}, {"metadata": {"epoch": 3}}),
    ):
        with pytest.raises(LossError, match="plain"):
            saved(value, plain=True, **options)
    with pytest.raises(ArgumentError, match="nothing to save"):
        saved({}, plain=True)
    assert set(records(saved({"w": weights}, plain=True))) == {"w#%0"}


def test_the_name_of_the_notes_is_refused() -> None:
    with pytest.raises(ArgumentError, match="!!tensorkeep"):
        saved({"!!tensorkeep": np.ones(1)})


def test_byte_holders_are_smaller() -> None:
    value = {"m": np.full(1000, 200, np.uint8), "h": -np.ones(1000, np.float16)}
    plain = saved(value)
    small = saved(value, byte_holder=True)
    half = saved(value, fp16_as_bytes=True)
    assert len(small) < len(half) < len(plain)
    for data in (plain, small, half):
        assert_equal_states(tk.load(at(data), verify=True), value)
    with pytest.raises(ArgumentError, match="chunk_size"):
        saved(value, chunk_size=0)


def test_a_slice_reads_the_chunks_that_it_touches() -> None:
    large = np.arange(200_000, dtype=np.float32)
    store = CountingStore(MemoryStore({"a.minidb": saved({"w": large}, chunk_size=20_000)}))
    with tk.open(Location(store, "a.minidb")) as state:
        assert state.remarks["w"] == "10 chunks"
        assert store.bytes_read < 100_000
        before = store.bytes_read
        assert_equal_states(state["w"][19_990:20_010], large[19_990:20_010])
        assert store.bytes_read - before < 2_000


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("a.minidb", {}),
        ("a.minidb", {"plain": True}),
        ("a.blobproto", {}),
        ("a.blobproto", {"plain": True}),
        ("a.init_net.pb", {"plain": True}),
        ("a.init_net.pb", {}),
        ("a.init_net.pbtxt", {}),
    ],
)
def test_damage_that_came_before_is_not_saved(key: str, options: dict[str, Any]) -> None:
    tensor = Tensor.of(np.arange(4, dtype=np.float32))
    state = State({"w": tensor}, digests={"w": digest(Tensor.of(np.zeros(4, np.float32)))})
    store = MemoryStore({key: b"old"})
    with pytest.raises(CorruptError, match="damaged"):
        tk.save(state, Location(store, key), **options)
    assert store.data == {key: b"old"}


@pytest.fixture(params=ENGINES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    for library in {"lmdb": ["lmdb"], "leveldb": ["plyvel"], "rocksdb": ["rocksdict"]}.get(
        request.param, []
    ):
        pytest.importorskip(library)
    return f"{request.param}:{tmp_path / 'db'}"


def test_whole_databases_keep_everything(path: str) -> None:
    tk.save(VALUE, path, metadata={"epoch": 3}, chunk_size=5)
    assert_equal_states(tk.load(path, verify=True), VALUE)
    with tk.open(path) as state:
        assert (state.format, state.metadata) == ("caffe2", {"epoch": 3})
        assert list(state) == ["layer.w", "layer.b", "types.0", "types.1", "types.2"]
        assert_equal_states(state["layer.w"][1:2], np.arange(4, 8, dtype=np.float32)[None])


def test_whole_databases_keep_every_type_and_shape(path: str) -> None:
    value = {name: tensor.numpy() for name, tensor in testing.samples().items()}
    tk.save(value, path)
    assert_equal_states(tk.load(path, verify=True), value)


def test_a_save_replaces_what_the_database_held(path: str) -> None:
    tk.save(VALUE, path)
    tk.save({"only": np.ones(2, np.float32)}, path, plain=True)
    kind, _, place = path.partition(":")
    with open_database(kind, place) as database:
        assert len(list(database.keys())) == 1
    assert_equal_states(tk.load(path), {"only": np.ones(2, np.float32)})


def test_a_failing_save_leaves_the_database_as_it_was(path: str) -> None:
    tk.save(VALUE, path)
    state = State({"w": Tensor.of(np.ones(9))}, digests={"w": "0" * 32})
    with pytest.raises(CorruptError, match="damaged"):
        tk.save(state, path)
    assert_equal_states(tk.load(path, verify=True), VALUE)


def test_conversion_between_databases_and_files(path: str, tmp_path: Path) -> None:
    tk.convert(DATA / "dtypes.minidb", path)
    tk.convert(path, tmp_path / "b.safetensors")
    tk.convert(tmp_path / "b.safetensors", tmp_path / "c.minidb", plain=True)
    assert (tmp_path / "c.minidb").read_bytes() == (DATA / "dtypes.minidb").read_bytes()


def test_another_database_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "images.sqlite"
    with open_database("sqlite", path, "new") as database:
        database.put("0001", [b"a picture"])
        database.commit()
    with pytest.raises(UnsupportedError, match="something else"):
        tk.save(VALUE, path)
    with open_database("sqlite", path) as database:
        assert list(database.keys()) == ["0001"]
    with pytest.raises(TensorKeepError):
        tk.open(path)


def test_a_missing_or_empty_database_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        tk.open(f"sqlite:{tmp_path / 'none.sqlite'}")
    with open_database("sqlite", tmp_path / "empty.sqlite", "new") as database:
        database.commit()
    with pytest.raises(MissingError, match="no records"):
        tk.open(f"sqlite:{tmp_path / 'empty.sqlite'}")


def test_a_tensor_that_claims_more_than_the_file_holds() -> None:
    for dims, count in ((2**40, 3), (2**62, 3), (3, 2**40)):
        tensor = Message(TENSOR, dims=[dims, 1], data_type=1, float_data=[1.0, 2.0, 3.0])
        tensor.segment = Message(SEGMENT, begin=0, end=count)
        blob = Message(BLOB, name="w", type="Tensor", tensor=tensor).encode()
        with pytest.raises(TensorKeepError):
            tk.load(at(record_header("w#%0", len(blob)) + blob))
        with pytest.raises(TensorKeepError), tk.open(at(rebuilt({"w#%0": blob}))) as state:
            _ = state["w"][:10]


def test_a_plain_folder_is_no_database(tmp_path: Path) -> None:
    tk.save(VALUE, tmp_path / "a.minidb")
    with pytest.raises(UnsupportedError, match="folder"):
        tk.open(tmp_path, format="caffe2")
    with pytest.raises(ArgumentError, match="folder"):
        tk.save(VALUE, tmp_path, format="caffe2")


def test_a_database_of_the_caller_stays_open(tmp_path: Path) -> None:
    tk.save(VALUE, tmp_path / "a.sqlite")
    with open_database("sqlite", tmp_path / "a.sqlite") as database:
        for _ in range(2):
            assert_equal_states(tk.load(database), VALUE)
    with pytest.raises(ClosedError):
        tk.load(database)


def test_damage_inside_a_whole_database(tmp_path: Path) -> None:
    value = {"w": np.arange(3, dtype=np.float32), "s": "text"}
    data = saved(value)
    kept = records(data)
    for key, whole in kept.items():
        for at_byte in range(len(whole)):
            changed = bytearray(whole)
            changed[at_byte] ^= 1
            store = _in_memory(tmp_path, {**kept, key: bytes(changed)})
            try:
                found = tk.load(store, verify=True)
            except TensorKeepError:
                continue
            assert_equal_states(found, value, f"{key}, byte {at_byte}")


def _in_memory(folder: Path, kept: dict[str, bytes]) -> Location:
    """Give a whole minidb, which is quick to make."""
    (folder / "damaged").write_bytes(rebuilt(kept))
    return Location(open_database("minidb", folder / "damaged"))


def test_many_truncations_of_a_chunked_file() -> None:
    value = {"w": np.arange(30, dtype=np.int64), "b": np.array(["x", "yz"])}
    assert testing.check_truncations(formats.FORMATS["caffe2"], value, chunk_size=7) > 300
    assert testing.check_bit_flips(formats.FORMATS["caffe2"], value, chunk_size=7) > 2000
