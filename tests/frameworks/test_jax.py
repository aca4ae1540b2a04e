"""JAX arrays are saved without a copy and come back as they were, never narrowed."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.errors import ArgumentError, LossError, UnsupportedError
from tensorkeep.frameworks import reader
from tensorkeep.tree import flatten

pytestmark = pytest.mark.frameworks

NARROW = [
    *("bool", "uint2", "uint4", "uint8", "uint16", "uint32", "int2", "int4", "int8", "int16"),
    *("int32", "float4_e2m1fn", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2"),
    *("float8_e5m2fnuz", "float8_e8m0fnu", "bfloat16", "float16", "float32", "complex64"),
]
WIDE = ["uint64", "int64", "float64", "complex128"]
SHAPES = [(3, 4), (1,), (0, 3), ()]


def example(name: str, shape: tuple[int, ...] = (3, 4)) -> np.ndarray[Any, Any]:
    """Every bit pattern, NaN among them, in turn."""
    kind = tk.dtype(name)
    count = int(np.prod(shape))
    codes = np.arange(count * kind.numpy.itemsize, dtype=np.uint8) * np.uint8(37) + np.uint8(11)
    if kind.bits < 8 or name == "bool":
        codes = codes % np.uint8(2)
    return codes.view(kind.numpy).reshape(shape)


def same(left: Any, right: Any) -> bool:
    """Also of the same library, placed alike."""
    described = [(type(a), a.dtype, a.shape, a.devices()) for a in (left, right)]
    return (
        described[0] == described[1] and np.asarray(left).tobytes() == np.asarray(right).tobytes()
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.safetensors"


@pytest.fixture
def x64(jax: Any) -> Iterator[None]:
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


def _round_trip(jax: Any, path: Path, name: str, copy: bool) -> None:
    saved = {str(shape): jax.numpy.asarray(example(name, shape)) for shape in SHAPES}
    assert {str(array.dtype) for array in saved.values()} == {name}
    tk.save(saved, path)
    loaded = tk.load(path, copy=copy)
    assert loaded.keys() == saved.keys()
    for shape, array in saved.items():
        assert same(loaded[shape], array), shape


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("name", NARROW)
def test_every_dtype_comes_back(jax: Any, path: Path, name: str, copy: bool) -> None:
    _round_trip(jax, path, name, copy)


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("name", WIDE)
def test_every_wide_dtype_comes_back(
    jax: Any, x64: None, path: Path, name: str, copy: bool
) -> None:
    _round_trip(jax, path, name, copy)


@pytest.mark.parametrize("name", WIDE)
def test_wide_values_are_not_narrowed(jax: Any, path: Path, name: str) -> None:
    for state in ({"w": example(name)}, [example(name), 3]):
        tk.save(state, path)
        with pytest.raises(LossError, match=rf"^{path}: JAX would narrow {name} to .*enable_x64"):
            tk.load(path, framework="jax")


def test_wide_values_saved_from_jax_are_not_narrowed(jax: Any, path: Path) -> None:
    jax.config.update("jax_enable_x64", True)
    try:
        tk.save({"w": jax.numpy.arange(3, dtype="float64")}, path)
    finally:
        jax.config.update("jax_enable_x64", False)
    with pytest.raises(LossError, match="narrow float64"):
        tk.load(path)
    assert tk.load(path, framework="numpy")["w"].dtype == np.float64
    assert tk.load(path, dtype="float32")["w"].dtype == np.float32


@pytest.mark.parametrize("name", ["float6_e2m3fn", "float6_e3m2fn"])
def test_types_that_jax_lacks_are_refused(jax: Any, path: Path, name: str) -> None:
    tk.save({"w": example(name)}, path)
    with pytest.raises(UnsupportedError, match=rf"JAX cannot hold {name}.*framework=\"numpy\""):
        tk.load(path, framework="jax")


def test_types_that_nobody_else_has_are_refused_on_saving(jax: Any, path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"^a\.w: .*float8_e3m4"):
        tk.save({"a": {"w": jax.numpy.ones(3, "float8_e3m4")}}, path)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "int8", "complex64", "bool"])
def test_saving_shares_the_memory(jax: Any, name: str) -> None:
    array = jax.numpy.asarray(example(name))
    tensors, _ = flatten({"w": array}, reader())
    shared = np.frombuffer(tensors["w"].read(), np.uint8)
    assert shared.ctypes.data == array.unsafe_buffer_pointer()


def test_loading_shares_the_map(jax: Any, path: Path) -> None:
    tk.save({"w": jax.numpy.ones(1 << 20)}, path)
    loaded = tk.load(path)["w"]
    address = loaded.unsafe_buffer_pointer()
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    inside = [
        line[-1]
        for line in maps
        if int(line[0].split("-")[0], 16) <= address < int(line[0].split("-")[1], 16)
    ]
    assert inside == [str(path)]


@pytest.mark.parametrize("copy", [False, True])
def test_loaded_arrays_keep_their_memory(jax: Any, path: Path, copy: bool) -> None:
    want = np.arange(1 << 16, dtype=np.float32)
    tk.save({"w": want, "v": want + 1}, path)
    w, v = (tk.load(path, framework="jax", copy=copy)[name] for name in "wv")
    for _ in range(3):  # what was let go of is handed out again here
        tk.load(path, copy=True)["w"].fill(-1)
        tk.load(path)["w"].fill(-1)
        gc.collect()
    tk.save({"w": want * 0, "v": want * 0}, path)
    path.unlink()
    assert np.array_equal(w, want)
    assert np.array_equal(v, want + 1)


def test_donating_a_loaded_array_does_not_reach_the_file(jax: Any, path: Path) -> None:
    want = np.arange(4096, dtype=np.float32)
    tk.save({"w": want, "v": want.copy()}, path)
    loaded = tk.load(path, framework="jax")
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    assert np.array_equal(add(loaded["w"]), want + 1)
    assert np.array_equal(loaded["v"], want)
    assert np.array_equal(tk.load(path)["w"], want)
    with pytest.raises(UnsupportedError, match=r"^w: .*deleted or donated"):
        tk.save({"w": loaded["w"]}, path)


def test_writing_to_the_numpy_array_of_the_same_memory_leaves_jax_alone(
    jax: Any, path: Path
) -> None:
    weights = jax.numpy.arange(4096.0)
    tk.save({"jax": weights, "numpy": np.asarray(weights)}, path)
    loaded = tk.load(path)
    loaded["numpy"][:] = -1
    assert np.array_equal(loaded["jax"], weights)
    assert loaded["numpy"].sum() == -4096


def test_training_state_comes_back(jax: Any, path: Path) -> None:
    key = jax.random.PRNGKey(3)
    weights = [(jax.random.normal(key, (3, 4)), jax.numpy.zeros(4)) for _ in range(2)]
    saved = {"params": weights, "rng": key, "step": 3, "seen": np.arange(2), "tied": weights[0][0]}
    tk.save(saved, path)
    loaded = tk.load(path)
    assert jax.tree.structure(loaded) == jax.tree.structure(saved)
    for left, right in zip(jax.tree.leaves(loaded), jax.tree.leaves(saved), strict=True):
        assert type(left) is type(right)
        assert np.array_equal(left, right)
    assert loaded["tied"] is loaded["params"][0][0]
    assert jax.random.uniform(loaded["rng"]) == jax.random.uniform(key)


def test_frameworks_are_forced_and_casts_are_made(jax: Any, path: Path) -> None:
    tk.save({"w": np.ones((2, 3), np.float32), "text": np.array(["a"])}, path)
    loaded = tk.load(path, framework="jax", dtype="bfloat16", device="cpu:0")
    assert same(loaded["w"], jax.numpy.ones((2, 3), "bfloat16"))
    assert type(loaded["text"]) is np.ndarray
    tk.save({"w": jax.numpy.ones(2, "bfloat16")}, path)
    assert type(tk.load(path, framework="numpy")["w"]) is np.ndarray


def test_torch_and_jax_hand_over_to_each_other(jax: Any, torch: Any, path: Path) -> None:
    tk.save({"w": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).T}, path)
    loaded = tk.load(path, framework="jax")
    assert same(loaded["w"], jax.numpy.arange(6, dtype="bfloat16").reshape(2, 3).T)
    tk.save(loaded, path)
    assert torch.equal(
        tk.load(path, framework="torch")["w"], torch.arange(6).reshape(2, 3).T.bfloat16()
    )
    tk.save({"t": torch.ones(2), "j": jax.numpy.zeros(2), "n": np.ones(1)}, path)
    loaded = tk.load(path)
    assert isinstance(loaded["t"], torch.Tensor)
    assert isinstance(loaded["j"], jax.Array)
    assert type(loaded["n"]) is np.ndarray


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "key": (lambda jax: jax.random.key(0), "key<fry>.*key_data"),
    "keys": (lambda jax: jax.random.split(jax.random.key(0)), "key<fry>.*wrap_key_data"),
    "struct": (lambda jax: jax.ShapeDtypeStruct((2,), "float32"), "ShapeDtypeStruct"),
    "reference": (lambda jax: jax.new_ref(jax.numpy.ones(2)), "Ref"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_place_with_a_cure(jax: Any, path: Path, case: str) -> None:
    build, message = REFUSED[case]
    with pytest.raises(UnsupportedError, match=rf"^opt\.0\.k: .*{message}"):
        tk.save({"opt": [{"k": build(jax)}]}, path)
    assert not path.exists()


@pytest.mark.parametrize("transform", ["jit", "grad", "vmap", "eval_shape"])
def test_values_inside_a_transformation_are_refused(jax: Any, path: Path, transform: str) -> None:
    def inside(x: Any) -> Any:
        with pytest.raises(UnsupportedError, match=r"^w: .*Save outside jit"):
            tk.save({"w": x}, path)
        return x.sum()

    x = jax.numpy.ones(3)
    if transform == "eval_shape":
        jax.eval_shape(inside, x)
    else:
        getattr(jax, transform)(inside)(x)
    assert not path.exists()


@pytest.mark.parametrize("device", ["nowhere", "cpu:99", "cpu:one", 3.5])
def test_devices_that_are_not_there(jax: Any, path: Path, device: Any) -> None:
    tk.save({"w": np.ones(2, np.float32)}, path)
    with pytest.raises(ArgumentError, match=r"^JAX "):
        tk.load(path, framework="jax", device=device)


def test_arrays_on_several_devices_are_gathered_and_placed(jax: Any, path: Path) -> None:
    code = """
import sys, jax, numpy as np, tensorkeep as tk
from jax.sharding import Mesh, NamedSharding, PartitionSpec
assert len(jax.devices()) == 2
spread = NamedSharding(Mesh(np.array(jax.devices()), "d"), PartitionSpec("d"))
want = np.arange(8, dtype=np.float32).reshape(4, 2)
tk.save({"w": jax.device_put(want, spread)}, sys.argv[1])
loaded = tk.load(sys.argv[1])["w"]
assert np.array_equal(loaded, want) and len(loaded.devices()) == 1
second = tk.load(sys.argv[1], framework="jax", device="cpu:1")["w"]
assert np.array_equal(second, want) and second.devices() == {jax.devices()[1]}
again = tk.load(sys.argv[1], framework="jax", device=spread)["w"]
assert np.array_equal(again, want) and again.sharding == spread
print("done")
"""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
    )
    assert run.stdout.strip() == "done", run.stderr
