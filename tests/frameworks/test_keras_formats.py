"""Both ways with Keras itself: what it saves is read, and what is written it loads."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.filterwarnings("ignore"),  # Keras's own, of many kinds
]


def dense(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, activation="relu"),
            layers.Dropout(0.1),
            layers.Dense(2),
        ]
    )


def nested(keras: Any) -> Any:
    layers = keras.layers
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.BatchNormalization()])
    given = keras.Input((4,))
    shared = layers.Dense(4, name="shared")
    return keras.Model(given, layers.Dense(2)(inner(shared(shared(given)))))


def recurrent(keras: Any) -> Any:
    layers = keras.layers
    given = keras.Input((3, 4))
    flow = layers.MultiHeadAttention(2, 2, name="attend")(given, given)
    flow = layers.LSTM(3, return_sequences=True)(flow)
    return keras.Model(given, layers.Bidirectional(layers.GRU(2))(flow))


def images(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.SeparableConv2D(3, 3),
            layers.LayerNormalization(),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )


def many(keras: Any) -> Any:
    """Over ten layers of one class, whose paths sort otherwise than their numbers."""
    return keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(4) for _ in range(12))])


def narrow(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, dtype="bfloat16"), layers.Dense(2, dtype="float16")]
    )


MODELS: list[Callable[[Any], Any]] = [dense, nested, recurrent, images, many]
every = pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)


def trained(keras: Any, build: Callable[[Any], Any]) -> Any:
    keras.utils.set_random_seed(7)
    model = build(keras)
    model.compile(keras.optimizers.Adam(0.01), keras.losses.MeanSquaredError())
    shape = (8, *model.input_shape[1:])
    given = np.random.default_rng(7).standard_normal(shape).astype(np.float32)
    model.fit(given, np.zeros((8, *model.output_shape[1:]), np.float32), verbose=0)
    return model


def fresh(keras: Any, build: Callable[[Any], Any]) -> Any:
    keras.utils.set_random_seed(8)
    model = build(keras)
    model.compile(keras.optimizers.Adam(0.01), keras.losses.MeanSquaredError())
    model.optimizer.build(model.trainable_variables)
    return model


def values(keras: Any, variables: list[Any]) -> list[bytes]:
    return [np.asarray(keras.ops.convert_to_numpy(v)).tobytes() for v in variables]


def same(keras: Any, left: Any, right: Any, *, optimizer: bool = True) -> bool:
    if values(keras, left.weights) != values(keras, right.weights):
        return False
    slots = (model.optimizer.variables for model in (left, right))
    return not optimizer or len({tuple(values(keras, each)) for each in slots}) == 1


def check_values(keras: Any, model: Any, path: Path) -> None:
    """All that the model holds is in the file, with the same bits."""
    found = sorted(bytes(tensor.read()) for tensor in tk.open(path).values())
    held = values(keras, [*model.weights, *model.optimizer.variables])
    seeds = [bytes(t.read()) for n, t in tk.open(path).items() if "seed_generator" in n]
    assert sorted([*held, *seeds]) == found or sorted(held) == found


@every
def test_a_whole_model(keras: Any, tmp_path: Path, build: Any) -> None:
    model = trained(keras, build)
    model.save(tmp_path / "a.keras")
    check_values(keras, model, tmp_path / "a.keras")
    with tk.open(tmp_path / "a.keras") as state:
        tk.save(state, tmp_path / "b.keras")
    assert same(keras, keras.saving.load_model(tmp_path / "b.keras"), model)
    tk.convert(tmp_path / "a.keras", tmp_path / "c.safetensors")
    tk.convert(tmp_path / "c.safetensors", tmp_path / "c.keras")
    loaded = keras.saving.load_model(tmp_path / "c.keras")
    assert same(keras, loaded, model)
    shape = (2, *model.input_shape[1:])
    given = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    assert np.array_equal(loaded.predict(given, verbose=0), model.predict(given, verbose=0))
    assert tk.load(tmp_path / "c.keras", verify=True)


@every
def test_weights(keras: Any, tmp_path: Path, build: Any) -> None:
    model = trained(keras, build)
    model.save_weights(tmp_path / "a.weights.h5")
    check_values(keras, model, tmp_path / "a.weights.h5")
    tk.convert(tmp_path / "a.weights.h5", tmp_path / "b.weights.h5")
    tk.save(tk.load(tmp_path / "a.weights.h5"), tmp_path / "c.weights.h5")  # arrays and names alone
    for file in ("b.weights.h5", "c.weights.h5"):
        other = fresh(keras, build)
        assert not same(keras, other, model)
        other.load_weights(tmp_path / file)
        assert same(keras, other, model)


@every
def test_legacy_files(keras: Any, tmp_path: Path, build: Any) -> None:
    model = trained(keras, build)
    model.save(tmp_path / "a.h5")
    check_values(keras, model, tmp_path / "a.h5")
    tk.convert(tmp_path / "a.h5", tmp_path / "b.safetensors")
    tk.convert(tmp_path / "b.safetensors", tmp_path / "b.keras.h5")
    # Keras does not restore all of an optimizer from its own file either.
    files = (tmp_path / "a.h5", tmp_path / "b.keras.h5")
    theirs, ours = (keras.saving.load_model(file) for file in files)
    assert same(keras, ours, theirs)
    assert same(keras, ours, model, optimizer=False)
    other = fresh(keras, build)
    other.load_weights(tmp_path / "b.keras.h5")
    assert same(keras, other, model, optimizer=False)
    weights = {
        n: a for n, a in tk.load(tmp_path / "a.h5").items() if not n.startswith("optimizer.")
    }
    tk.save(weights, tmp_path / "c.h5", format="keras-legacy")
    other = fresh(keras, build)
    other.load_weights(tmp_path / "c.h5")
    assert same(keras, other, model, optimizer=False)


@pytest.mark.parametrize("size", [2e-7, 5e-7, 1])
def test_shards(keras: Any, tmp_path: Path, size: float) -> None:
    model = trained(keras, nested)
    model.save_weights(tmp_path / "a.weights.json", max_shard_size=size)
    check_values(keras, model, tmp_path / "a.weights.json")
    tk.convert(tmp_path / "a.weights.json", tmp_path / "b.weights.h5")
    other = fresh(keras, nested)
    other.load_weights(tmp_path / "b.weights.h5")
    assert same(keras, other, model)


def test_narrow_floats(keras: Any, tmp_path: Path) -> None:
    model = trained(keras, narrow)
    model.save(tmp_path / "a.keras")
    with tk.open(tmp_path / "a.keras") as state:
        assert [state[f"layers.dense{n}.vars.0"].dtype.name for n in ("", "_1")] == [
            "bfloat16",
            "float16",
        ]
    check_values(keras, model, tmp_path / "a.keras")
    tk.convert(tmp_path / "a.keras", tmp_path / "b.keras")
    assert same(keras, keras.saving.load_model(tmp_path / "b.keras"), model)
    model.save(tmp_path / "a.h5")
    check_values(keras, model, tmp_path / "a.h5")


def test_mixed_precision(keras: Any, tmp_path: Path) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = trained(keras, dense)
        model.save(tmp_path / "a.keras")
        check_values(keras, model, tmp_path / "a.keras")
        tk.convert(tmp_path / "a.keras", tmp_path / "b.keras")
        assert same(keras, keras.saving.load_model(tmp_path / "b.keras"), model)
    finally:
        keras.config.set_dtype_policy("float32")


def test_an_edited_model(keras: Any, tmp_path: Path) -> None:
    model = trained(keras, dense)
    model.save(tmp_path / "a.keras")
    with tk.open(tmp_path / "a.keras") as state:
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        arrays["layers.dense_1.vars.1"] = np.array([3, 4], np.float32)
        tk.save(arrays, tmp_path / "b.keras", metadata=state.metadata)
    loaded = keras.saving.load_model(tmp_path / "b.keras")
    assert loaded.layers[-1].get_weights()[1].tolist() == [3, 4]
    assert np.array_equal(loaded.layers[0].get_weights()[0], model.layers[0].get_weights()[0])


def test_assets(keras: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="StringLookup needs TensorFlow")
    words = keras.layers.StringLookup()
    words.adapt(["dog", "cat", "dog"])
    model = keras.Sequential([keras.Input((1,), dtype="string"), words])
    model.save(tmp_path / "a.keras")
    tk.convert(tmp_path / "a.keras", tmp_path / "b.safetensors")
    tk.convert(tmp_path / "b.safetensors", tmp_path / "b.keras")
    loaded = keras.saving.load_model(tmp_path / "b.keras")
    assert loaded.layers[0].get_vocabulary() == ["[UNK]", "dog", "cat"]


def test_large_configs_in_attributes(keras: Any, tmp_path: Path) -> None:
    """Over 64 KB, the most that HDF5 keeps in an object's header."""
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((4,)), *(layers.Dense(1, name=f"l{i}") for i in range(120))]
    )
    model.compile("sgd", keras.losses.MeanSquaredError())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model.save(tmp_path / "a.h5")
        except (OSError, RuntimeError):
            pytest.skip("this h5py does not write such attributes by default")
    tk.convert(tmp_path / "a.h5", tmp_path / "b.keras.h5")
    assert same(keras, keras.saving.load_model(tmp_path / "b.keras.h5"), model, optimizer=False)
