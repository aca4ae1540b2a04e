"""PyTorch tensors are saved without a copy and come back as they were."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.errors import ArgumentError, MissingError, UnsupportedError
from tensorkeep.frameworks import reader
from tensorkeep.tree import flatten

pytestmark = pytest.mark.frameworks

DTYPES = [
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    "float4_e2m1fn_x2",
]
SHAPES = [(3, 4), (1,), (0, 3), ()]


def example(torch: Any, name: str, shape: tuple[int, ...] = (3, 4)) -> Any:
    """Every bit pattern, NaN among them, in turn."""
    kind = getattr(torch, name)
    count = int(np.prod(shape))
    codes = torch.arange(count * kind.itemsize, dtype=torch.uint8) * 37 + 11
    return (codes % 2 if name == "bool" else codes).view(kind).reshape(shape)


def bits(torch: Any, tensor: Any) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def same(torch: Any, left: Any, right: Any) -> bool:
    described = [(type(t), t.dtype, t.shape, t.device, t.requires_grad) for t in (left, right)]
    return described[0] == described[1] and bits(torch, left) == bits(torch, right)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.safetensors"


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_comes_back(torch: Any, path: Path, name: str, copy: bool) -> None:
    shapes = SHAPES[:3] if name == "float4_e2m1fn_x2" else SHAPES
    saved = {str(shape): example(torch, name, shape) for shape in shapes}
    tk.save(saved, path)
    loaded = tk.load(path, copy=copy)
    assert loaded.keys() == saved.keys()
    for shape, tensor in saved.items():
        assert same(torch, tensor, loaded[shape]), shape


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float8_e5m2", "complex64", "bool"])
def test_any_strides_are_saved(torch: Any, path: Path, name: str) -> None:
    base = example(torch, name, (4, 6))
    image = example(torch, name, (2, 3, 4, 5)).contiguous(memory_format=torch.channels_last)
    saved = {
        "transposed": base.T,
        "every other": base[::2, 1::2],
        "expanded": base[:1].expand(5, 6),
        "from the middle": base[2:, 3:],
        "channels last": image,
        "permuted": image.permute(3, 0, 2, 1),
    }
    tk.save(saved, path)
    loaded = tk.load(path)
    for place, tensor in saved.items():
        assert same(torch, tensor, loaded[place]), place
        assert loaded[place].is_contiguous()


def test_conjugates_and_negatives_are_resolved(torch: Any, path: Path) -> None:
    z = example(torch, "complex128").nan_to_num(1)
    saved = {"conj": z.conj(), "neg": z.conj().imag, "adjoint": z.mH, "real": z.real}
    assert saved["conj"].is_conj()
    assert saved["neg"].is_neg()
    tk.save(saved, path)
    loaded = tk.load(path)
    for place, tensor in saved.items():
        assert same(torch, tensor.resolve_conj().resolve_neg(), loaded[place]), place


def test_float4_pairs_are_the_element_type_of_half_a_byte(torch: Any, path: Path) -> None:
    tk.save({"w": example(torch, "float4_e2m1fn_x2", (2, 3))}, path)
    with tk.open(path) as state:
        assert (state["w"].dtype.name, state["w"].shape) == ("float4_e2m1fn", (2, 6))
        values = state["w"].numpy()
    codes = example(torch, "uint8", (2, 3)).numpy()
    low, high = values.view(np.uint8)[:, 0::2], values.view(np.uint8)[:, 1::2]
    assert np.array_equal(low, codes & 15)
    assert np.array_equal(high, codes >> 4)


def test_a_parameter_comes_back_as_a_plain_tensor(torch: Any, path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    tk.save({"weight": weight, "leaf": torch.zeros(2, requires_grad=True) * 2}, path)
    loaded = tk.load(path)
    assert same(torch, loaded["weight"], weight.detach())
    assert same(torch, loaded["leaf"], torch.zeros(2))


def test_tied_parameters_are_kept_once_and_tied_again(torch: Any, path: Path) -> None:
    nn = torch.nn
    embed, head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
    head.weight = embed.weight
    model = nn.ModuleDict({"embed": embed, "head": head})
    tk.save(model.state_dict(), path)
    with tk.open(path) as state:
        assert len(state) == 1
    loaded = tk.load(path)
    first, second = loaded["embed.weight"], loaded["head.weight"]
    assert first is second
    assert first.data_ptr() == second.data_ptr()
    assert torch.equal(first, embed.weight)


def test_tied_values_that_have_to_be_copied_are_kept_once(torch: Any, path: Path) -> None:
    z = torch.tensor([1 + 2j, 3j])
    tk.save({"a": z.conj(), "b": z.conj(), "z": z}, path)  # as tied tensors on a GPU are
    with tk.open(path) as state:
        assert len(state) == 2
    loaded = tk.load(path)
    assert loaded["a"] is loaded["b"]
    assert torch.equal(loaded["a"], z.conj())
    assert torch.equal(loaded["z"], z)


def test_views_of_one_memory_that_differ_are_not_tied(torch: Any, path: Path) -> None:
    square = torch.arange(9.0).reshape(3, 3)
    z = torch.tensor([1 + 2j])
    saved = {
        "w": square,
        "transposed": square.T,
        "bits": square.view(torch.int32),
        "z": z,
        "conj": z.conj(),
    }
    tk.save(saved, path)
    loaded = tk.load(path)
    for place, tensor in saved.items():
        assert torch.equal(loaded[place], tensor), place


def test_values_that_have_to_be_copied_stay_tied(torch: Any) -> None:
    read = reader()
    z = torch.tensor([1 + 2j, 3j])
    first, again, other = read(z.conj(), "a"), read(z.conj(), "b"), read(z, "c")
    assert first is not None
    assert again is not None
    assert other is not None
    assert first[1] is again[1]
    assert other[1].tolist() == z.tolist()
    assert first[1].tolist() == z.conj().tolist()


@pytest.mark.parametrize("name", [name for name in DTYPES if name != "float4_e2m1fn_x2"])
def test_saving_shares_the_memory(torch: Any, name: str) -> None:
    tensor = example(torch, name)
    tensors, _ = flatten({"w": tensor}, reader())
    shared = np.frombuffer(tensors["w"].read(), np.uint8)
    assert shared.ctypes.data == tensor.data_ptr()
    found = reader()(tensor.T, "w")
    assert found is not None
    assert found[1].ctypes.data == tensor.data_ptr()


def test_saving_and_loading_take_no_memory_of_the_size_of_the_state(torch: Any, path: Path) -> None:
    saved = {"w": torch.ones(8 << 20), "b": torch.ones(8 << 20, dtype=torch.bfloat16)}
    tk.save({"warm": torch.ones(3)}, path)
    tracemalloc.start()
    try:
        tk.save(saved, path, durable=False)
        loaded = tk.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
    assert torch.equal(loaded["w"], saved["w"])


@pytest.mark.parametrize("copy", [False, True])
def test_loaded_tensors_are_writable_and_apart_from_the_file(
    torch: Any, path: Path, copy: bool
) -> None:
    tk.save({"w": torch.ones(4, 5), "h": torch.ones(3, dtype=torch.bfloat16)}, path)
    before = path.read_bytes()
    loaded = tk.load(path, copy=copy)
    loaded["w"].add_(1)
    loaded["h"].zero_()
    assert loaded["w"].sum() == 40
    assert path.read_bytes() == before
    assert tk.load(path)["w"].sum() == 20
    path.unlink()
    assert loaded["w"].sum() == 40


def test_training_goes_on_as_if_never_stopped(torch: Any, path: Path) -> None:
    nn = torch.nn

    def build() -> tuple[Any, Any, Any]:
        seen = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten()]
        model = nn.Sequential(*seen, nn.Dropout(0.5), nn.Linear(3 * 4 * 4, 5))
        adam = torch.optim.AdamW(model.parameters(), lr=0.01, amsgrad=True)
        return model, adam, torch.optim.lr_scheduler.OneCycleLR(adam, 0.1, total_steps=10)

    def step(model: Any, adam: Any, schedule: Any) -> None:
        loss = model(torch.randn(4, 1, 6, 6)).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()

    torch.manual_seed(3)
    first = build()
    step(*first)
    names = ("model", "optimizer", "schedule")
    saved = {name: part.state_dict() for name, part in zip(names, first, strict=True)}
    saved |= {"rng": torch.get_rng_state(), "step": 1}
    tk.save(saved, path)
    step(*first)

    loaded = tk.load(path)
    assert type(loaded["model"]) is OrderedDict
    assert list(loaded["model"]) == list(saved["model"])
    assert loaded["optimizer"]["state"].keys() == saved["optimizer"]["state"].keys()
    assert loaded["optimizer"]["param_groups"] == saved["optimizer"]["param_groups"]
    assert loaded["schedule"] == saved["schedule"]
    assert loaded["step"] == 1
    second = build()
    for part, name in zip(second, names, strict=True):
        part.load_state_dict(loaded[name])
    torch.set_rng_state(loaded["rng"])
    step(*second)
    for left, right in zip(first[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(left, right)
    assert first[2].get_last_lr() == second[2].get_last_lr()


def test_each_array_comes_back_in_its_own_framework(torch: Any, path: Path) -> None:
    saved = {"t": torch.ones(2), "nested": [(np.arange(3), torch.zeros(1))], "n": np.float32(2)}
    tk.save(saved, path)
    loaded = tk.load(path)
    assert same(torch, loaded["t"], saved["t"])
    assert type(loaded["nested"][0]) is tuple
    assert type(loaded["nested"][0][0]) is np.ndarray
    assert same(torch, loaded["nested"][0][1], torch.zeros(1))
    assert type(loaded["n"]) is np.float32
    chosen = tk.load(path, names="t")
    assert same(torch, chosen["t"], saved["t"])


def test_framework_is_forced_both_ways(torch: Any, path: Path) -> None:
    tk.save({"w": np.arange(6.0).reshape(2, 3), "text": np.array(["a", "b"])}, path)
    loaded = tk.load(path, framework="torch", device="cpu")
    assert same(torch, loaded["w"], torch.arange(6, dtype=torch.float64).reshape(2, 3))
    assert type(loaded["text"]) is np.ndarray
    assert loaded["text"].tolist() == ["a", "b"]
    tk.save({"w": torch.arange(3, dtype=torch.bfloat16)}, path)
    forced = tk.load(path, framework="numpy")["w"]
    assert (type(forced), str(forced.dtype), forced.tolist()) == (np.ndarray, "bfloat16", [0, 1, 2])


def test_dtype_casts_floats_alone(torch: Any, path: Path) -> None:
    tk.save({"w": torch.tensor([1.5, 3.14159]), "step": torch.tensor([3])}, path)
    for name in ("bfloat16", "float16", "float64", "float8_e4m3fn"):
        loaded = tk.load(path, dtype=name)
        assert same(torch, loaded["w"], torch.tensor([1.5, 3.14159]).to(getattr(torch, name)))
        assert same(torch, loaded["step"], torch.tensor([3]))


@pytest.mark.parametrize("name", ["int4", "uint4", "int2", "float6_e2m3fn"])
def test_types_that_torch_lacks_are_refused(torch: Any, path: Path, name: str) -> None:
    tk.save({"w": np.ones((2, 2), tk.dtype(name).numpy)}, path)
    with pytest.raises(UnsupportedError, match=rf"{name}.*framework=\"numpy\"") as caught:
        tk.load(path, framework="torch")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("shape", [(2, 3), ()])
def test_float4_that_cannot_be_paired_is_refused(
    torch: Any, path: Path, shape: tuple[int, ...]
) -> None:
    tk.save({"w": np.ones(shape, tk.dtype("float4_e2m1fn").numpy)}, path)
    with pytest.raises(UnsupportedError, match="float4_e2m1fn"):
        tk.load(path, framework="torch")


@pytest.mark.parametrize("device", ["nowhere", "cuda:99", "", 3.5])
def test_devices_that_are_not_there(torch: Any, path: Path, device: Any) -> None:
    for state in ({"w": torch.ones(2)}, [torch.ones(2), 3]):
        tk.save(state, path)
        with pytest.raises(ArgumentError, match="cannot place"):
            tk.load(path, framework="torch", device=device)
        with pytest.raises(ArgumentError, match="cannot place"):
            tk.load(path, device=device)


def test_a_device_may_be_torchs_own(torch: Any, path: Path) -> None:
    tk.save({"w": torch.ones(2)}, path)
    assert tk.load(path, framework="torch", device=torch.device("cpu"))["w"].sum() == 2


def test_tensors_of_ours_go_to_torch_through_numpy_and_dlpack(torch: Any, path: Path) -> None:
    tk.save({"w": torch.arange(6.0).reshape(2, 3)}, path)
    with tk.open(path) as state:
        ours = state["w"]
        want = torch.arange(6.0).reshape(2, 3)
        assert torch.equal(torch.from_dlpack(ours), want)
        assert torch.equal(torch.as_tensor(np.array(ours)), want)
        assert np.array_equal(np.from_dlpack(ours), want.numpy())
        torch.from_dlpack(ours).add_(1)  # its own copy
        assert torch.equal(torch.as_tensor(np.array(ours)), want)


def test_missing_files_and_names(torch: Any, path: Path) -> None:
    with pytest.raises(MissingError):
        tk.load(path, framework="torch")
    tk.save({"w": torch.ones(2)}, path)
    with pytest.raises(MissingError, match="has no tensor called 'v'"):
        tk.load(path, names="v")


def test_nothing_imports_torch_or_jax_unasked(torch: Any, path: Path) -> None:
    tk.save({"n": np.ones(2), "text": np.array(["x"])}, path)
    code = (
        "import sys, tensorkeep as tk\n"
        "state = tk.load(sys.argv[1]); tk.save([state, 1.5], sys.argv[1])\n"
        "tk.load(sys.argv[1], framework='numpy', device='cpu', dtype='float32')\n"
        "print([m for m in ('torch', 'jax', 'tensorflow', 'keras') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
