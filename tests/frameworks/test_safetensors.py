"""What the reference library wrote for PyTorch and JAX loads here, and the other way round."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk

pytestmark = pytest.mark.frameworks

TORCH = [
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex64"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    "float4_e2m1fn_x2",
]
FLAX = [
    *("bool", "uint8", "uint16", "uint32", "int8", "int16", "int32"),
    *("float16", "bfloat16", "float32", "complex64"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
]
INDEX = "model.safetensors.index.json"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.fixture(scope="session")
def reference(torch: Any) -> Any:
    return importlib.import_module("safetensors.torch")


@pytest.fixture(scope="session")
def flax(jax: Any) -> Any:
    return importlib.import_module("safetensors.flax")


def tensors(torch: Any) -> dict[str, Any]:
    """One of every element type and of several shapes, with every bit pattern."""
    made = {}
    for name in TORCH:
        kind = getattr(torch, name)
        codes = torch.arange(24 * kind.itemsize, dtype=torch.uint8) * 37 + 11
        made[name] = (codes % 2 if name == "bool" else codes).view(kind).reshape(2, 3, 4)
    made |= {"scalar": torch.tensor(3.5), "empty": torch.empty(0, 4, dtype=torch.bfloat16)}
    return made


def arrays(jax: Any) -> dict[str, Any]:
    made = {"scalar": jax.numpy.asarray(3.5), "empty": jax.numpy.zeros((0, 4), "bfloat16")}
    for name in FLAX:
        codes = np.arange(24 * tk.dtype(name).numpy.itemsize, dtype=np.uint8) * np.uint8(37)
        codes = codes % np.uint8(2) if name == "bool" else codes
        made[name] = jax.numpy.asarray(codes.view(tk.dtype(name).numpy).reshape(2, 3, 4))
    return made


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Compare types, shapes and bits."""
    assert found.keys() == wanted.keys()
    for name, want in wanted.items():
        got = found[name]
        assert (type(got), got.dtype, got.shape) == (type(want), want.dtype, want.shape), name
        assert raw(got) == raw(want), name


def raw(value: Any) -> bytes:
    if hasattr(value, "data_ptr"):
        import torch

        value = value.reshape(-1).view(torch.uint8).numpy()
    return bytes(np.asarray(value).tobytes())


def test_files_of_the_reference_library_load(torch: Any, reference: Any, path: Path) -> None:
    saved = tensors(torch)
    reference.save_file(saved, path, metadata={"format": "pt"})
    assert_same(tk.load(path, framework="torch"), saved)
    assert_same(tk.load(path, framework="torch", copy=True), saved)
    plain = tk.load(path)
    assert {type(array) for array in plain.values()} == {np.ndarray}
    assert plain["float32"].tobytes() == raw(saved["float32"])
    with tk.open(path) as state:
        assert state.metadata == {"format": "pt"}


@pytest.mark.parametrize("checksums", [False, True])
def test_the_reference_library_loads_ours(
    torch: Any, reference: Any, path: Path, checksums: bool
) -> None:
    saved = tensors(torch)
    tk.save(saved, path, checksums=checksums, metadata={"format": "pt"})
    assert_same(reference.load_file(path), saved)
    with reference.safe_open(path, framework="pt") as opened:
        assert opened.metadata()["format"] == "pt"
        assert torch.equal(opened.get_slice("int64")[:, 1:], saved["int64"][:, 1:])


def test_the_bytes_are_those_of_the_reference_library(
    torch: Any, reference: Any, path: Path
) -> None:
    saved = tensors(torch)
    reference.save_file(saved, path)
    theirs = path.read_bytes()
    with tk.open(path) as state:
        tk.save(state, path.with_name("ours.safetensors"), align=8, checksums=False)
    assert path.with_name("ours.safetensors").read_bytes() == theirs


def test_files_written_for_jax_load(jax: Any, flax: Any, path: Path) -> None:
    saved = arrays(jax)
    flax.save_file(dict(saved), path)
    assert_same(tk.load(path, framework="jax"), saved)


def test_ours_load_into_jax(jax: Any, flax: Any, path: Path) -> None:
    # The reference library writes float8 for JAX but does not read it there.
    saved = {name: array for name, array in arrays(jax).items() if "float8" not in name}
    tk.save(saved, path)
    assert_same(flax.load_file(path), saved)


def model_of(torch: Any) -> Any:
    torch.manual_seed(5)
    return torch.nn.Sequential(*(torch.nn.Linear(16, 16) for _ in range(4)))


@pytest.mark.parametrize("limit", [1500, "2KB"])
def test_shards_load_by_their_weight_map(
    torch: Any, reference: Any, tmp_path: Path, limit: int | str
) -> None:
    saved = dict(model_of(torch).state_dict())
    tk.save(saved, tmp_path / "model.safetensors", max_shard_size=limit)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in saved.values())
    found = {}
    for file in sorted(set(index["weight_map"].values())):
        shard = reference.load_file(tmp_path / file)
        assert {index["weight_map"][name] for name in shard} == {file}
        found.update(shard)
    assert found.keys() == index["weight_map"].keys()
    assert_same(found, saved)
    model = torch.nn.Sequential(*(torch.nn.Linear(16, 16) for _ in range(4)))
    model.load_state_dict(found, strict=True)
    assert_same(tk.load(tmp_path / INDEX), saved)
    assert_same(tk.load(tmp_path), saved)


def test_shards_go_to_and_from_hugging_face(torch: Any, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    model = model_of(torch)
    saved = dict(model.state_dict())
    (tmp_path / "ours").mkdir()
    told = {"format": "pt"}  # the loader wants to read this
    tk.save(saved, tmp_path / "ours" / "model.safetensors", max_shard_size="2KB", metadata=told)
    other = model_of(torch)
    for parameter in other.parameters():
        parameter.data.zero_()
    result = hub.load_torch_model(other, tmp_path / "ours", strict=True)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert_same(dict(other.state_dict()), saved)

    (tmp_path / "theirs").mkdir()
    hub.save_torch_model(model, tmp_path / "theirs", max_shard_size="2KB")
    assert (tmp_path / "theirs" / INDEX).exists()
    assert_same(tk.load(tmp_path / "theirs", framework="torch"), saved)
