"""Files that Keras itself wrote: Keras 3's two formats and shards, and `.h5` of Keras 2 and 3."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import formats
from tensorkeep.dtypes import BFLOAT16, UINT8
from tensorkeep.errors import CorruptError, MissingError, UnsafeError, UnsupportedError
from tensorkeep.stores import locate

GOLDEN = Path(__file__).parents[1] / "data" / "keras"
PATHS: dict[str, dict[str, list[str]]] = json.loads((GOLDEN / "paths.json").read_text())

# Which variable of Keras's a name of a Keras 3 file stands for.
NESTED = {
    "layers.dense": ("shared", ["kernel", "bias"]),
    "layers.sequential.layers.dense": ("inner/deep", ["kernel", "bias"]),
    "layers.sequential.layers.batch_normalization": (
        "inner/batch_normalization",
        ["gamma", "beta", "moving_mean", "moving_variance"],
    ),
    "layers.dense_1": ("head", ["kernel", "bias"]),
}
GRU = ["kernel", "recurrent_kernel", "bias"]
RECURRENT = {
    **{
        f"layers.multi_head_attention.{attribute}_dense": (f"attend/{name}", ["kernel", "bias"])
        for attribute, name in (
            ("key", "key"),
            ("output", "attention_output"),
            ("query", "query"),
            ("value", "value"),
        )
    },
    "layers.bidirectional.backward_layer.cell": ("both/backward_gru/gru_cell", GRU),
    "layers.bidirectional.forward_layer.cell": ("both/forward_gru/gru_cell", GRU),
    "layers.dense": ("narrow", ["kernel", "bias"]),
}


def values(name: str) -> dict[str, np.ndarray[Any, Any]]:
    """What Keras says a model holds, by its own names for variables."""
    with np.load(GOLDEN / f"{name}.npz") as archive:
        return {
            path: archive[f"{kind}-{place}"]
            for kind, paths in PATHS[name].items()
            for place, path in enumerate(paths)
        }


def same(tensor: tk.Tensor, expected: np.ndarray[Any, Any]) -> bool:
    assert tensor.shape == expected.shape
    if tensor.dtype is not BFLOAT16:
        assert tensor.numpy().dtype == expected.dtype
    return bytes(tensor.read()) == expected.tobytes()


def check_variables(state: tk.State, model: str, layers: dict[str, Any]) -> None:
    expected = values(model)
    wanted = [f"{group}.vars.{i}" for group, row in layers.items() for i in range(len(row[1]))]
    slots = PATHS[model]["optimizer"]
    assert list(state) == wanted + [f"optimizer.vars.{i}" for i in range(len(slots))]
    for group, (layer, variables) in layers.items():
        for place, variable in enumerate(variables):
            name = f"{group}.vars.{place}"
            assert same(state[name], expected[f"{layer}/{variable}"]), name
            assert state.remarks[name] == layer
    for place, slot in enumerate(slots):
        assert same(state[f"optimizer.vars.{place}"], expected[slot]), slot


@pytest.mark.parametrize(
    ("file", "format"),
    [
        ("nested.weights.h5", "keras-weights"),
        ("sharded.weights.json", "keras-weights"),
        ("nested.keras", "keras"),
    ],
)
def test_a_nested_model_of_keras_3(file: str, format: str) -> None:
    with tk.open(GOLDEN / file) as state:
        assert state.format == format
        check_variables(state, "nested", NESTED)
        layers = state.metadata["keras"]["layers"]  # type: ignore[index,call-overload]
        assert layers["layers/dense_1"] == "head"  # type: ignore[index,call-overload]


@pytest.mark.parametrize("file", ["recurrent.weights.h5", "recurrent.keras"])
def test_attention_recurrence_and_bfloat16(file: str) -> None:
    with tk.open(GOLDEN / file) as state:
        check_variables(state, "recurrent", RECURRENT)
        assert state["layers.dense.vars.0"].dtype is BFLOAT16
    assert tk.load(GOLDEN / file, verify=file.endswith(".keras"))


@pytest.mark.parametrize(
    ("file", "model"),
    [("nested.h5", "nested"), ("recurrent.h5", "recurrent"), ("keras2.h5", "keras2")],
)
def test_legacy_models(file: str, model: str) -> None:
    expected = values(model)
    with tk.open(GOLDEN / file) as state:
        assert state.format == "keras-legacy"
        weights = [name for name in state if not name.startswith("optimizer.")]
        inner = "inner/" if model == "keras2" else ""
        paths = PATHS[model]["weights"]
        named = [f"{inner}{p}" if p.startswith(("deep", "batch")) else p for p in paths]
        assert sorted(weights) == sorted(named)
        for name, path in zip(named, paths, strict=True):
            assert same(state[name], expected[path]), name
        for slot in PATHS[model]["optimizer"]:
            assert same(state[f"optimizer.{slot}"], expected[slot]), slot
        assert [n for n in state if n.startswith("optimizer.")] == [
            f"optimizer.{slot}" for slot in PATHS[model]["optimizer"]
        ]
        keras = state.metadata["keras"]
        assert isinstance(keras, dict)
        assert keras["model_config"]["class_name"] == "Functional"  # type: ignore[index,call-overload]
        assert list(keras["layers"])[-1] in ("head", "narrow")  # type: ignore[arg-type,operator]
        assert "code" not in keras


def test_legacy_weights_alone() -> None:
    with tk.open(GOLDEN / "keras2_weights.h5") as state, tk.open(GOLDEN / "keras2.h5") as whole:
        assert list(state) == [name for name in whole if not name.startswith("optimizer.")]
        assert all(same(state[name], whole[name].numpy()) for name in state)
        assert state.metadata["keras"] == {
            "keras_version": "2.21.0",
            "backend": "tensorflow",
            "layers": whole.metadata["keras"]["layers"],  # type: ignore[index,call-overload]
            "top_level": [],
        }


def test_a_model_of_keras_2_in_the_new_format() -> None:
    """Keras 2 wrote `.keras` too, without the names of layers, with the state of metrics."""
    with tk.open(GOLDEN / "keras2.keras") as state:
        assert list(state)[:4] == [
            "metrics.mean.vars.0",
            "metrics.mean.vars.1",
            "layers.dense.vars.0",
            "layers.dense.vars.1",
        ]
        assert state.remarks == {}
        assert "layers" not in state.metadata["keras"]  # type: ignore[operator]


def test_an_archive_tells_how_the_model_is_built() -> None:
    with tk.open(GOLDEN / "nested.keras") as state:
        keras = state.metadata["keras"]
        assert isinstance(keras, dict)
        archive = zipfile.ZipFile(GOLDEN / "nested.keras")
        assert keras["config"] == json.loads(archive.read("config.json"))
        assert keras["metadata"] == json.loads(archive.read("metadata.json"))
        assert "code" not in keras


def test_assets_are_tensors_of_bytes() -> None:
    with tk.open(GOLDEN / "assets.keras") as state:
        name = "assets/layers/string_lookup/vocabulary.txt"
        assert state.metadata["keras"]["assets"] == {name: 13}  # type: ignore[index,call-overload]
        assert state[name].dtype is UINT8
        assert bytes(state[name].read()) == b"[UNK]\ndog\ncat"


@pytest.mark.parametrize("file", ["coded.keras", "coded.h5"])
def test_code_is_listed(file: str) -> None:
    with tk.open(GOLDEN / file) as state:
        assert state.metadata["keras"]["code"] == [  # type: ignore[index,call-overload]
            "twice: the function _twice of the module builtins",
            "again: a lambda of Python bytecode",
        ]


def test_weights_in_a_pickle_are_refused() -> None:
    assert formats.detect(locate(GOLDEN / "pickled.keras")).name == "keras"
    with pytest.raises(UnsupportedError, match=r"in model\.weights\.npz, as pickles"):
        tk.open(GOLDEN / "pickled.keras")


def test_any_name_will_do(tmp_path: Path) -> None:
    for file, format in (
        ("nested.keras", "keras"),
        ("nested.h5", "keras-legacy"),
        ("nested.weights.h5", "keras-weights"),
    ):
        shutil.copy(GOLDEN / file, tmp_path / "model.bin")
        with tk.open(tmp_path / "model.bin") as state:
            assert state.format == format


# --- shards -------------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for file in GOLDEN.glob("sharded*"):
        shutil.copy(file, tmp_path)
    return tmp_path / "sharded.weights.json"


def edit(index: Path, change: Any) -> None:
    document = json.loads(index.read_text())
    change(document["weight_map"])
    index.write_text(json.dumps(document))


def test_a_missing_shard(shards: Path) -> None:
    (shards.parent / "sharded_00001.weights.h5").unlink()
    with pytest.raises(MissingError, match="sharded_00001"):
        tk.open(shards)


def test_shards_of_another_save(shards: Path) -> None:
    edit(shards, lambda groups: groups.pop("/optimizer/vars"))
    with pytest.raises(CorruptError, match=r"'optimizer\.vars\.0', which the index does not place"):
        tk.open(shards)
    edit(shards, lambda groups: groups.update({"/optimizer/vars": ["sharded_00000.weights.h5"]}))
    with pytest.raises(CorruptError, match="hold 308 bytes, where the index says 424"):
        tk.open(shards)


def test_a_group_that_is_not_there(shards: Path) -> None:
    edit(shards, lambda groups: groups.update({"/x/vars": "sharded_00000.weights.h5"}))
    with pytest.raises(CorruptError, match=r"variables of '/x/vars' in sharded_00000.*are none"):
        tk.open(shards)


def test_two_shards_with_the_same_variables(shards: Path) -> None:
    shutil.copy(shards.parent / "sharded_00000.weights.h5", shards.parent / "more.weights.h5")
    edit(
        shards,
        lambda groups: groups.update(
            {
                k: [*(v if isinstance(v, list) else [v]), "more.weights.h5"]
                for k, v in groups.items()
            }
        ),
    )
    with pytest.raises(CorruptError, match="as another shard does"):
        tk.open(shards)


@pytest.mark.parametrize("file", ["../other.h5", "/etc/x.h5", "a\\b.h5", ""])
def test_an_index_that_leads_out(shards: Path, file: str) -> None:
    edit(shards, lambda groups: groups.update({"/x/vars": [file]}))
    with pytest.raises(UnsafeError, match=r"not inside its own folder|no file of Keras weights"):
        tk.open(shards)


@pytest.mark.parametrize("value", [3, [], [3], None, {}])
def test_an_index_of_other_things(shards: Path, value: Any) -> None:
    edit(shards, lambda groups: groups.update({"/x/vars": value}))
    with pytest.raises(CorruptError, match="as the files of '/x/vars'"):
        tk.open(shards)
