"""What TensorFlow writes is read as TensorFlow reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk

pytestmark = pytest.mark.frameworks

DTYPES = [
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("int4", "uint4", "float8_e5m2", "float8_e4m3fn"),
]


def assert_read_alike(tensorflow: Any, prefix: Path) -> None:
    """Compare with what TensorFlow itself reads, tensor by tensor."""
    reader = tensorflow.train.load_checkpoint(str(prefix))
    with tk.open(prefix) as state:
        assert list(state) == sorted(reader.get_variable_to_shape_map())
        for name, tensor in state.items():
            expected = reader.get_tensor(name)
            if tensor.dtype.name == "string":
                texts = [text.encode("utf-8", "surrogateescape") for text in tensor.numpy().flat]
                assert texts == np.array(expected, object).reshape(-1).tolist()
            else:
                assert tensor.numpy().dtype == expected.dtype, name
                assert tensor.numpy().tobytes() == expected.tobytes(), name
            assert tensor.shape == np.shape(expected)
    found = tk.verify(prefix)
    assert found.ok
    assert not found.unchecked


def values(rng: np.random.Generator, name: str) -> Any:
    shape = tuple(rng.integers(0, 6, rng.integers(0, 4)))
    kind = tk.dtype(name)
    if kind.kind == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if kind.kind == "complex":
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(kind.numpy)
    return rng.integers(0 if kind.kind == "uint" else -8, 8, shape).astype("f4").astype(kind.numpy)


@pytest.mark.parametrize("seed", range(5))
def test_random_states(tensorflow: Any, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = rng.choice(DTYPES, 12)
    held = {f"v{i}": tensorflow.Variable(values(rng, name)) for i, name in enumerate(names)}
    texts = [rng.bytes(int(rng.integers(0, 300))) for _ in range(rng.integers(1, 200))]
    held["texts"] = tensorflow.Variable(texts)
    held["list"] = [tensorflow.Variable(1.0), {"a/b": tensorflow.Variable(2.0)}]
    prefix = tmp_path / "model.ckpt"
    tensorflow.train.Checkpoint(**held).write(str(prefix))
    assert_read_alike(tensorflow, prefix)


def test_a_checkpoint_in_shards(tensorflow: Any, tmp_path: Path) -> None:
    """A policy of a greatest size cuts variables into slices in several files."""
    policy = tensorflow.train.experimental.MaxShardSizePolicy(max_shard_size=2000)
    options = tensorflow.train.CheckpointOptions(experimental_sharding_callback=policy)
    rng = np.random.default_rng(0)
    held = {
        "tall": tensorflow.Variable(rng.normal(size=(100, 7)).astype("f4")),
        "wide": tensorflow.Variable(rng.normal(size=(7, 300))),
        "small": tensorflow.Variable(rng.normal(size=(3,)).astype("f4")),
    }
    prefix = tmp_path / "model.ckpt"
    tensorflow.train.Checkpoint(**held).write(str(prefix), options)
    assert len(list(tmp_path.glob("model.ckpt.data-*"))) > 2
    assert_read_alike(tensorflow, prefix)
    with tk.open(prefix) as state:
        assert any("slices" in remark for remark in state.remarks.values())


def test_partitioned_variables(tensorflow: Any, tmp_path: Path) -> None:
    v1 = tensorflow.compat.v1
    prefix = tmp_path / "model.ckpt"
    with tensorflow.Graph().as_default(), v1.Session() as run:
        normal = v1.random_normal_initializer(seed=1)
        for axis, parts in [(0, 5), (1, 3), (2, 4)]:
            cut = v1.fixed_size_partitioner(parts, axis=axis)
            v1.get_variable(f"cut_{axis}", (6, 7, 8), initializer=normal, partitioner=cut)
        run.run(v1.global_variables_initializer())
        v1.train.Saver().save(run, str(prefix), write_meta_graph=False)
    assert_read_alike(tensorflow, prefix)
    with tk.open(tmp_path) as state:  # by its pointer
        whole = state["cut_2"].numpy()
        assert np.array_equal(state["cut_2"][3, 1:4, 2:7], whole[3, 1:4, 2:7])


def test_a_model_of_modules(tensorflow: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = tensorflow.Module()
    model.layers = [tensorflow.Module() for _ in range(2)]  # Keras may be over another library
    for layer, shape in zip(model.layers, [(4, 3), (3, 2)], strict=True):
        layer.kernel = tensorflow.Variable(rng.standard_normal(shape, "float32"))
        layer.bias = tensorflow.Variable(rng.standard_normal(shape[1], "float32"))
    prefix = tmp_path / "weights" / "model"
    tensorflow.train.Checkpoint(model=model).write(str(prefix))
    assert_read_alike(tensorflow, prefix)
    found = tk.load(prefix)
    for at, layer in enumerate(model.layers):
        for name in ("kernel", "bias"):
            array = found[f"model/layers/{at}/{name}/.ATTRIBUTES/VARIABLE_VALUE"]
            assert np.array_equal(array, getattr(layer, name).numpy())


def test_a_saved_model(tensorflow: Any, tmp_path: Path) -> None:
    module = tensorflow.Module()
    module.kernel = tensorflow.Variable(np.arange(6.0).reshape(2, 3), name="kernel")
    tensorflow.saved_model.save(module, str(tmp_path / "saved"))
    with tk.open(tmp_path / "saved") as state:
        about: Any = state.metadata["tensorflow"]
        assert about["full_names"] == {"kernel/.ATTRIBUTES/VARIABLE_VALUE": "kernel"}
        assert state["kernel/.ATTRIBUTES/VARIABLE_VALUE"].numpy().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert_read_alike(tensorflow, tmp_path / "saved" / "variables" / "variables")
