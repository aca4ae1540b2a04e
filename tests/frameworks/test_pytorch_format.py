"""What torch saves, in every layout of file and of tensor, is what is read without it."""

from __future__ import annotations

import argparse
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tensorkeep as tk
from tensorkeep import errors

pytestmark = pytest.mark.frameworks

LAYOUTS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}
every_layout = pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS)
_NAMES = """
bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 bfloat16 float32 float64 complex64
complex128 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu
"""
TYPES = _NAMES.split()


def bits(torch: Any, tensor: Any) -> bytes:
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous().clone().reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def same(torch: Any, found: Any, saved: Any) -> None:
    """Compare a tensor of a State with the one that torch saved."""
    assert found.dtype.name == str(saved.dtype).removeprefix("torch.")
    assert found.shape == tuple(saved.shape)
    assert bytes(found.read()) == bits(torch, saved)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[str, list[tuple[Any, ...]]]:
    """Give a type and steps that make a view of a tensor."""
    steps: list[tuple[Any, ...]] = []
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["transpose", "slice", "expand", "select", "diagonal", "flip"]))
        steps.append(
            (kind, draw(st.integers(0, 3)), draw(st.integers(0, 3)), draw(st.integers(1, 3)))
        )
    return draw(st.sampled_from(TYPES)), steps


def viewed(torch: Any, name: str, steps: list[tuple[Any, ...]]) -> Any:
    tensor = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5).to(getattr(torch, name))
    for kind, one, other, step in steps:
        axes = tensor.ndim
        if not axes:
            break
        one, other = one % axes, other % axes
        if kind == "transpose":
            tensor = tensor.transpose(one, other)
        elif kind == "slice":
            length = tensor.shape[one]
            tensor = tensor.narrow(one, min(step, length), length - min(step, length))
            tensor = tensor[(slice(None),) * one + (slice(None, None, step),)]
        elif kind == "expand" and axes < 5:
            tensor = tensor.unsqueeze(one).expand(*tensor.shape[:one], step, *tensor.shape[one:])
        elif kind == "select" and tensor.shape[one]:
            tensor = tensor.select(one, step % tensor.shape[one])
        elif kind == "diagonal" and axes > 1 and one != other:
            tensor = tensor.diagonal(0, one, other)
        elif kind == "flip" and tensor.is_complex():
            tensor = tensor.conj()
            tensor = tensor if step == 1 else tensor.imag
    return tensor


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=layouts(), legacy=st.booleans())
def test_any_view_of_any_type(
    torch: Any, tmp_path: Path, chosen: tuple[str, list[tuple[Any, ...]]], legacy: bool
) -> None:
    name, steps = chosen
    tensor = viewed(torch, name, steps)
    path = tmp_path / "a.pt"
    torch.save(
        {"w": tensor, "plain": torch.ones(2)}, path, _use_new_zipfile_serialization=not legacy
    )
    with tk.open(path) as state:
        assert state.refused == ()
        same(torch, state["w"], tensor)
        if tensor.ndim and tensor.shape[0]:
            row = state["w"][-1:]
            assert np.asarray(row).tobytes() == bits(torch, tensor[-1:])
    for copy in (False, True):
        found = tk.load(path, framework="torch", copy=copy)["w"]
        assert found.dtype is tensor.dtype
        assert bits(torch, found) == bits(torch, tensor)


@every_layout
def test_a_whole_training_state(torch: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    schedule.step()
    saved = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": {k: v for k, v in schedule.state_dict().items() if not callable(v)},
        "rng": torch.get_rng_state(),
        "numpy": np.random.default_rng(0).random(5),
        "counts": Counter("aab"),
        "default": defaultdict(int, a=1),
        "queue": deque([1, 2], 4),
        "dtype": torch.float16,
        "device": torch.device("cuda", 1),
        "size": torch.Size([1, 2]),
        "set": {1, 2},
        "bytes": b"\0\1",
        "big": 2**100,
    }
    path = tmp_path / "a.pt"
    torch.save(saved, path, **options)
    found = tk.load(path, framework="torch")
    other = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    other.load_state_dict(found["model"])
    for one, two in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    fresh = torch.optim.AdamW(other.parameters())
    fresh.load_state_dict(found["optimizer"])
    torch.set_rng_state(found["rng"])
    for key in ("counts", "default", "queue", "dtype", "device", "size", "set", "bytes", "big"):
        assert found[key] == saved[key]
        assert type(found[key]) is type(saved[key])
    assert found["queue"].maxlen == 4
    assert found["numpy"].tolist() == saved["numpy"].tolist()
    assert found["schedule"]["last_epoch"] == 1


@every_layout
def test_tied_and_shared(torch: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    base = torch.arange(12.0)
    saved = {"a": base, "b": base, "c": base[3:], "d": base.view(3, 4).T, "e": base.clone()}
    torch.save(saved, tmp_path / "a.pt", **options)
    with tk.open(tmp_path / "a.pt") as state:
        assert list(state) == ["a", "c", "d", "e"]
        for name, tensor in state.items():
            same(torch, tensor, saved[name])
    found = tk.load(tmp_path / "a.pt")
    assert found["a"] is found["b"]


@every_layout
def test_parameters_attributes_and_storages(
    torch: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    path = tmp_path / "a.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = {
            "p": parameter,
            "s": torch.ones(3).untyped_storage(),
            "t": torch.arange(3).storage(),
        }
        torch.save(saved, path, **options)
    found = tk.load(path)
    assert found["p"].tolist() == [1, 1]
    assert found["s"].dtype == np.uint8
    assert found["s"].size == 12
    assert found["t"].tolist() == [0, 1, 2]
    marked = torch.ones(2)
    marked.note = "mine"
    torch.save({"m": marked, "w": torch.zeros(1)}, path, **options)
    with tk.open(path) as state:
        assert state.refused == ("'m' is a tensor with attributes of its own, or of a class",)
        assert state["m"].numpy().tolist() == [1, 1]


@every_layout
def test_made_of_several(torch: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    dense = torch.eye(4) * torch.arange(4.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = {
            "coo": dense.to_sparse_coo(),
            "csr": dense.to_sparse_csr(),
            "csc": dense.to_sparse_csc(),
            "bsr": dense.to_sparse_bsr((2, 2)),
            "bsc": dense.to_sparse_bsc((2, 2)),
            "q": torch.quantize_per_tensor(dense, 0.5, 1, torch.quint8),
            "nested": torch.nested.nested_tensor([torch.ones(2), torch.zeros(3)]),
        }
        path = tmp_path / "a.pt"
        torch.save(saved, path, **options)
        found = tk.load(path, framework="torch")
        coo = torch.sparse_coo_tensor(
            found["coo"]["indices"], found["coo"]["values"], tuple(found["coo"]["size"])
        )
        assert torch.equal(coo.to_dense(), dense)
        csr = found["csr"]
        parts = (csr["crow_indices"], csr["col_indices"], csr["values"])
        assert torch.equal(torch.sparse_csr_tensor(*parts, size=(4, 4)).to_dense(), dense)
        bsc = found["bsc"]
        parts = (bsc["ccol_indices"], bsc["row_indices"], bsc["values"])
        assert torch.equal(torch.sparse_bsc_tensor(*parts, size=(4, 4)).to_dense(), dense)
    quantized = found["q"]
    assert torch.equal(quantized["int_repr"], saved["q"].int_repr())
    assert (quantized["scale"], quantized["zero_point"]) == (0.5, 1)
    assert found["nested"]["values"].tolist() == [1, 1, 0, 0, 0]


@every_layout
def test_what_has_no_values_or_no_equal(
    torch: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    path = tmp_path / "a.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = {"m": torch.ones(2, device="meta"), "h": torch.ones(2, dtype=torch.complex32)}
        torch.save(saved | {"w": torch.ones(1)}, path, **options)
    with tk.open(path) as state:
        assert list(state) == ["w"]
        assert state.refused == (
            "'m' is a tensor on the meta device, without values",
            "'h' is a tensor of torch.complex32, which is not kept",
        )


class Net:
    """Stands at the top of the file so that it can be pickled."""

    def __init__(self, torch: Any) -> None:
        self.model = torch.nn.TransformerEncoderLayer(8, 2, 16)
        self.args = argparse.Namespace(lr=0.1)


@every_layout
def test_objects_pickled_whole(torch: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    net = Net(torch)
    path = tmp_path / "a.pt"
    torch.save(net, path, **options)
    expected = net.model.state_dict()
    with tk.open(path) as state:
        assert set(state) == {f"model.{name}" for name in expected}
        for name, tensor in expected.items():
            same(torch, state[f"model.{name}"], tensor)
        told = " ".join(state.refused)
        assert "TransformerEncoderLayer" in told
        assert "argparse.Namespace" in told
    with pytest.raises(errors.UnsafeError, match="TransformerEncoderLayer"):
        tk.load(path)


def test_programs(torch: Any, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(model).save(str(tmp_path / "script.pt"))
    with tk.open(tmp_path / "script.pt") as state:
        assert set(state) == {"0.weight", "0.bias"}
        same(torch, state["0.weight"], model[0].weight)
    exported = torch.export.export(model, (torch.ones(1, 3),))
    torch.export.save(exported, tmp_path / "exported.pt2")
    with pytest.raises(errors.UnsupportedError, match=r"torch\.export wrote"):
        tk.open(tmp_path / "exported.pt2")


@pytest.mark.parametrize("mode", ["no checksums", "old protocol", "last protocol"])
def test_ways_to_save(torch: Any, tmp_path: Path, mode: str) -> None:
    saved = OrderedDict(w=torch.arange(6.0).reshape(2, 3), text="ü" * 300)
    path = tmp_path / "a.pt"
    options = {"old protocol": {"pickle_protocol": 1}, "last protocol": {"pickle_protocol": 5}}
    before = torch.serialization.get_crc32_options()
    try:
        if mode == "no checksums":
            torch.serialization.set_crc32_options(False)
        torch.save(saved, path, **options.get(mode, {}))
    finally:
        torch.serialization.set_crc32_options(before)
    found = tk.load(path)
    assert found["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["text"] == saved["text"]
    if mode == "no checksums":
        assert tk.load(path, names="w", framework="torch")["w"].shape == (2, 3)
    else:
        assert tk.load(path, verify=True)["w"].shape == (2, 3)


def test_conversion_is_exact(torch: Any, tmp_path: Path) -> None:
    saved = {name: torch.ones(3).to(getattr(torch, name)) for name in TYPES}
    torch.save(saved, tmp_path / "a.pt")
    assert tk.convert(tmp_path / "a.pt", tmp_path / "b.safetensors") == []
    found = tk.load(tmp_path / "b.safetensors", framework="torch")
    for name, tensor in saved.items():
        assert bits(torch, found[name]) == bits(torch, tensor)
