"""What is written as files of Keras: laid out as Keras does, lossless, refused where it is not."""

from __future__ import annotations

import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tensorkeep as tk
from tensorkeep.errors import ArgumentError, CorruptError, LossError, TensorKeepError
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.testing import CountingStore, assert_equal_states

GOLDEN = Path(__file__).parents[1] / "data" / "keras"
FILES = {
    "nested.keras": ".keras",
    "recurrent.keras": ".keras",
    "assets.keras": ".keras",
    "coded.keras": ".keras",
    "keras2.keras": ".keras",
    "nested.weights.h5": ".weights.h5",
    "sharded.weights.json": ".weights.h5",
    "recurrent.weights.h5": ".weights.h5",
    "nested.h5": ".keras.h5",
    "recurrent.h5": ".keras.h5",
    "coded.h5": ".keras.h5",
    "keras2.h5": ".keras.h5",
    "keras2_weights.h5": ".keras.h5",
}
DENSE = {
    "layers.dense.vars.0": np.ones((2, 3), np.float32),
    "layers.dense.vars.1": np.zeros(3, np.float32),
}


def at(data: bytes, key: str) -> Location:
    return Location(MemoryStore({key: data}), key)


def saved(value: Any, key: str, **options: Any) -> bytes:
    store = MemoryStore()
    tk.save(value, Location(store, key), **options)
    return store.data[key]


def equal(left: tk.State, right: tk.State) -> None:
    assert list(left) == list(right)
    for name in left:
        assert left[name].dtype is right[name].dtype, name
        assert left[name].shape == right[name].shape, name
        assert left[name].read() == right[name].read(), name
    assert left.metadata == right.metadata


@pytest.mark.parametrize(("file", "suffix"), FILES.items())
@pytest.mark.parametrize("checksums", [True, False])
def test_a_file_of_keras_comes_back(file: str, suffix: str, checksums: bool) -> None:
    with tk.open(GOLDEN / file) as state:
        data = saved(state, f"a{suffix}", checksums=checksums)
        with tk.open(at(data, "model.bin")) as again:
            equal(again, state)
            assert again.remarks == state.remarks
            assert saved(again, f"a{suffix}", checksums=checksums) == data
    assert tk.load(at(data, "model.bin"), verify=checksums or suffix == ".keras")


@pytest.mark.parametrize(("file", "suffix"), FILES.items())
def test_by_way_of_safetensors(file: str, suffix: str, tmp_path: Path) -> None:
    tk.convert(GOLDEN / file, tmp_path / "a.safetensors")
    tk.convert(tmp_path / "a.safetensors", tmp_path / f"b{suffix}")
    with tk.open(GOLDEN / file) as state, tk.open(tmp_path / f"b{suffix}") as again:
        equal(again, state)


def test_a_model_keeps_its_architecture_among_bare_weights(tmp_path: Path) -> None:
    tk.convert(GOLDEN / "nested.keras", tmp_path / "a.weights.h5")
    tk.convert(tmp_path / "a.weights.h5", tmp_path / "b.keras")
    with tk.open(GOLDEN / "nested.keras") as state, tk.open(tmp_path / "b.keras") as again:
        equal(again, state)


def test_groups_and_attributes_are_those_of_keras(tmp_path: Path) -> None:
    def layout(path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def look(name: str, thing: Any) -> None:
            if isinstance(thing, h5py.Dataset):
                found[name] = thing.shape, thing.dtype.str, dict(thing.attrs)
            else:
                found[name] = {
                    k: v if isinstance(v, str) else [str(n) for n in np.asarray(v).astype(str)]
                    for k, v in thing.attrs.items()
                }

        with h5py.File(path) as file:
            file.visititems(look)
        return found

    for file in ("nested.weights.h5", "recurrent.weights.h5", "nested.h5", "keras2_weights.h5"):
        suffix = FILES[file]
        tk.convert(GOLDEN / file, tmp_path / f"a{suffix}")
        assert layout(tmp_path / f"a{suffix}") == layout(GOLDEN / file), file


def test_the_architecture_is_written_as_it_was(tmp_path: Path) -> None:
    tk.convert(GOLDEN / "coded.keras", tmp_path / "a.keras")
    with (
        zipfile.ZipFile(GOLDEN / "coded.keras") as theirs,
        zipfile.ZipFile(tmp_path / "a.keras") as ours,
    ):
        assert ours.testzip() is None
        assert ours.namelist() == theirs.namelist()
        for name in ("config.json", "metadata.json"):
            assert json.loads(ours.read(name)) == json.loads(theirs.read(name))
            assert list(json.loads(ours.read(name))) == list(json.loads(theirs.read(name)))


def test_arrays_by_name_alone() -> None:
    data = saved(DENSE, "a.weights.h5")
    assert_equal_states(tk.load(at(data, "a.weights.h5"), verify=True), DENSE)
    with h5py.File(io.BytesIO(data)) as file:
        assert list(file["layers/dense/vars"]) == ["0", "1"]
        assert "vars" in file
    nested = {"layers": {"dense": {"vars": list(DENSE.values())}}, "epoch": 3}
    data = saved(nested, "a.weights.h5")
    assert_equal_states(tk.load(at(data, "a.weights.h5")), nested)


def test_weights_of_layers_by_name_alone() -> None:
    value = {"dense/kernel": np.ones((2, 3)), "out/a/b": np.ones(1), "dense/bias": np.zeros(3)}
    data = saved(value, "a.keras.h5")
    assert_equal_states(tk.load(at(data, "a.h5"), verify=True), value)
    with h5py.File(io.BytesIO(data)) as file:
        assert file.attrs["layer_names"].tolist() == [b"dense", b"out"]
        assert file["dense"].attrs["weight_names"].tolist() == [b"dense/kernel", b"dense/bias"]
        assert "dense/dense/kernel" in file
    value["optimizer.adam/iteration"] = np.array(3)
    with h5py.File(io.BytesIO(saved(value, "a.keras.h5"))) as file:
        assert file["optimizer_weights"].attrs["weight_names"].tolist() == [b"adam/iteration"]
        assert "model_weights/dense/dense/kernel" in file


def test_metadata_and_nesting_are_noted() -> None:
    metadata = {"epoch": 3, "keras": {"layers": {"layers/dense": "first"}, "note": "ünï"}}
    data = saved(DENSE, "a.weights.h5", metadata=metadata)
    with tk.open(at(data, "a.weights.h5")) as state:
        assert state.metadata == metadata
        assert state.remarks["layers.dense.vars.0"] == "first"
    for odd in ({"layers/dense/vars/0": "x"}, {"a//b": "x"}, {"a": 3}, ["a"], {"a": "\0"}, "x"):
        keras = {"keras": {"layers": odd}}
        data = saved(DENSE, "a.weights.h5", metadata=keras)
        with tk.open(at(data, "a.weights.h5")) as state:
            assert state.metadata == keras
    data = saved(DENSE, "a.weights.h5", metadata={"keras": "text"})
    with tk.open(at(data, "a.weights.h5")) as state:
        assert state.metadata == {"keras": "text"}


REFUSED = {
    "names of torch": ({"a.weight": np.ones(1)}, "'a.weight' is one; it takes the names"),
    "one array": (np.ones(1), "are not called as Keras 3 calls variables"),
    "a group": (
        {"a.vars.0": np.ones(1), "a.vars.0.vars.1": np.ones(1)},
        "'a/vars/0' would be both a variable and a group",
    ),
    "twice": ({"a.vars.0": np.ones(1), "a.vars.0.": np.ones(1)}, "not called as Keras 3"),
}


@pytest.mark.parametrize(("value", "problem"), REFUSED.values(), ids=REFUSED)
def test_states_that_are_no_model(value: Any, problem: str) -> None:
    for key in ("a.weights.h5", "a.keras"):
        with pytest.raises(LossError, match=problem):
            saved(value, key)


def test_an_archive_needs_an_architecture() -> None:
    with pytest.raises(LossError, match=r"do not say how the model is built: keras\.config"):
        saved(DENSE, "a.keras")
    with (
        tk.open(GOLDEN / "keras2.h5") as state,
        pytest.raises(LossError, match="are not called as Keras 3 calls variables"),
    ):
        saved(state, "a.keras")


def test_old_files_take_layers_and_weights() -> None:
    with pytest.raises(LossError, match=r"'w' is one; it takes LAYER/WEIGHT, such as dense/kern"):
        saved({"w": np.ones(1)}, "a.keras.h5")
    with (
        tk.open(GOLDEN / "nested.keras") as state,
        pytest.raises(LossError, match="are not called as layers' weights are"),
    ):
        saved(state, "a.keras.h5")
    for names in (["a/b", "a/a/b/c"], ["a/b/c", "a/b"]):
        value = {name: np.ones(1) for name in names}
        data = saved(value, "a.keras.h5") if names[0] != "a/b/c" else None
        if data is None:
            with pytest.raises(LossError, match="both a weight and a group"):
                saved(value, "a.keras.h5")


def test_assets_have_no_place_in_weights() -> None:
    with tk.open(GOLDEN / "assets.keras") as state:
        for key in ("a.weights.h5", "a.keras.h5"):
            with pytest.raises(LossError, match=r"vocabulary\.txt', which are kept in"):
                saved(state, key)


def test_shards_are_not_written() -> None:
    with pytest.raises(ArgumentError, match="shards, which are read but not written"):
        saved(DENSE, "a.weights.json")


def test_part_of_a_model() -> None:
    with tk.open(GOLDEN / "keras2.h5") as state:
        names = state.match("first/*")
        part = state.replace(tensors={name: state[name] for name in names}, digests={})
        data = saved(part, "a.keras.h5")
        with tk.open(at(data, "a.h5")) as found:
            assert list(found) == ["first/kernel:0", "first/bias:0"]
            keras = found.metadata["keras"]
            assert isinstance(keras, dict)
            assert keras["layers"] == {
                "given": [],
                "first": ["first/kernel:0", "first/bias:0"],
                "inner": [],
                "head": [],
            }


@given(
    st.dictionaries(
        st.lists(st.text("ab.:-é1", min_size=1, max_size=4), min_size=2, max_size=3).map("/".join),
        st.integers(0, 3),
        max_size=5,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_layers(counts: dict[str, int]) -> None:
    value = {name: np.arange(count) for name, count in counts.items()}
    try:
        data = saved(value, "a.keras.h5")
    except LossError:
        return
    assert_equal_states(tk.load(at(data, "a.h5"), verify=bool(value)), value)


# --- reading little, and damage -----------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_opening_reads_the_structure_only(suffix: str) -> None:
    large = {f"layers.dense_{i}.vars.0": np.ones((256, 1024), np.float32) for i in range(8)}
    metadata = {"keras": {"config": {"class_name": "Sequential"}}}
    store = CountingStore(MemoryStore({"a": saved(large, f"a{suffix}", metadata=metadata)}))
    with tk.open(Location(store, "a")) as state:
        assert store.bytes_read < 200_000
        before = store.bytes_read
        assert state["layers.dense_3.vars.0"][7].sum() == 1024
        assert store.bytes_read - before == 4096


def test_variables_are_mapped_where_they_are(tmp_path: Path) -> None:
    tk.convert(GOLDEN / "nested.keras", tmp_path / "a.keras")
    for path in (tmp_path / "a.keras", GOLDEN / "nested.keras"):
        with tk.open(path) as state:
            assert all(tensor.source.mapped for tensor in state.values())
    loaded = tk.load(tmp_path / "a.keras")
    loaded["layers.dense.vars.0"][:] = -1
    assert not np.array_equal(tk.load(tmp_path / "a.keras")["layers.dense.vars.0"], -1)


def test_closing() -> None:
    for file in FILES:
        state = tk.open(GOLDEN / file)
        tensor = next(iter(state.values()))
        state.close()
        state.close()
        with pytest.raises(TensorKeepError, match="closed"):
            tensor.numpy()


def test_a_flipped_bit_is_found() -> None:
    config: dict[str, Any] = {"keras": {"config": {}}}
    cases: tuple[tuple[str, dict[str, Any]], ...] = (("a.weights.h5", {}), ("a.keras", config))
    for key, metadata in cases:
        data = bytearray(saved(DENSE, key, metadata=metadata))
        place = data.find(np.ones((2, 3), np.float32).tobytes())
        data[place + 5] ^= 1
        assert tk.load(at(bytes(data), key))["layers.dense.vars.0"].sum() != 6
        with pytest.raises(CorruptError, match="layers"):
            tk.load(at(bytes(data), key), verify=True)


@pytest.mark.parametrize("file", [file for file in FILES if not file.endswith(".json")])
def test_damage_to_files_of_keras(file: str) -> None:
    """Their HDF5 has no checksums: any state may come of damage, but no error of others'."""
    data = (GOLDEN / file).read_bytes()
    chance = random.Random(file)
    damaged = [data[: chance.randrange(len(data))] for _ in range(10)]
    for _ in range(40):
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 4))):
            changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        damaged.append(bytes(changed))
    for each in damaged:
        try:
            tk.load(at(each, file))
        except TensorKeepError:
            continue
