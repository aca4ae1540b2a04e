"""The weights and the optimizer of a Keras model go through a file as NumPy arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.errors import UnsupportedError

pytestmark = [
    pytest.mark.frameworks,
    # Keras's own variables do not know NumPy 2's `copy` yet.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.safetensors"


def build(keras: Any) -> Any:
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(3, 3),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    return model


def images(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(7).standard_normal((count, 6, 6, 1)).astype(np.float32)


def test_weights_are_set_again(keras: Any, path: Path) -> None:
    model = build(keras)
    saved = model.get_weights()
    tk.save(saved, path)
    loaded = tk.load(path)
    assert type(loaded) is list
    assert [(w.dtype, w.shape) for w in loaded] == [(w.dtype, w.shape) for w in saved]
    other = build(keras)
    other.set_weights(loaded)
    for left, right in zip(other.get_weights(), saved, strict=True):
        assert np.array_equal(left, right)
    assert np.array_equal(other.predict(images(3), verbose=0), model.predict(images(3), verbose=0))


def test_training_goes_on_as_if_never_stopped(keras: Any, path: Path) -> None:
    def state_of(model: Any) -> dict[str, Any]:
        parts = {"model": model.variables, "optimizer": model.optimizer.variables}
        return {name: [v.numpy() for v in part] for name, part in parts.items()}

    first = build(keras)
    first.train_on_batch(images(8), np.ones((8, 4), np.float32))
    tk.save(state_of(first), path)
    second = build(keras)
    second.optimizer.build(second.trainable_variables)
    loaded = tk.load(path)
    for variable, value in zip(second.variables, loaded["model"], strict=True):
        variable.assign(value)
    for variable, value in zip(second.optimizer.variables, loaded["optimizer"], strict=True):
        variable.assign(value)
    for model in (first, second):
        model.train_on_batch(images(8), np.zeros((8, 4), np.float32))
    left, right = state_of(first), state_of(second)
    for name in left:
        for one, other in zip(left[name], right[name], strict=True):
            assert np.array_equal(one, other)


def test_variables_and_models_are_refused_with_a_cure(keras: Any, path: Path) -> None:
    model = build(keras)
    with pytest.raises(UnsupportedError, match=r"^layers\.0\.w: is a .*Keep its \.numpy\(\)"):
        tk.save({"layers": [{"w": model.variables[0]}]}, path)
    with pytest.raises(UnsupportedError, match=r"^the state: is a keras\..*Sequential"):
        tk.save(model, path)
    assert not path.exists()
