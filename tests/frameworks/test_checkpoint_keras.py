"""Keras's fit goes on from a Checkpointer, over each library that it computes with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.errors import MismatchError
from tensorkeep.integrations import keras as integration

pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[2]


def model_of(keras: Any) -> Any:
    keras.utils.clear_session()  # so that layers get the names that they had
    keras.utils.set_random_seed(1)
    layers = keras.layers
    rows = [layers.Dense(8), layers.BatchNormalization(), layers.Dropout(0.3), layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *rows])
    rate = keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.9)
    model.compile(optimizer=keras.optimizers.Adam(rate), loss="mse", metrics=["mae"])
    return model


def fit(keras: Any, model: Any, *callbacks: Any) -> Any:
    x = np.random.default_rng(0).standard_normal((24, 4)).astype("float32")
    y = x.sum(1, keepdims=True)
    return model.fit(x, y, batch_size=4, epochs=4, verbose=0, callbacks=list(callbacks))


def weights(keras: Any, model: Any) -> list[bytes]:
    values = map(keras.ops.convert_to_numpy, model.variables)
    return [np.asarray(value).tobytes() for value in values]


def stopper(keras: Any, count: int) -> Any:
    base: Any = keras.callbacks.Callback

    class Stop(base):  # type: ignore[misc]
        left = count

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if self.left == 0:
                raise InterruptedError
            self.left -= 1

    return Stop()


def check(keras: Any, folder: Path, stop: int, **options: Any) -> None:
    """Interrupt a training, go on with it, and compare with one that ran through."""
    whole = model_of(keras)
    fit(keras, whole)
    with tk.Checkpointer(folder, **options) as checkpointer:
        with pytest.raises(InterruptedError):
            fit(keras, model_of(keras), integration.callback(checkpointer), stopper(keras, stop))
        checkpointer.wait()
        kept = checkpointer.checkpoints()
        assert [row.step for row in kept] == list(range(6, stop + 1, 6))
        assert kept[-1].metrics.keys() == {"loss", "mae"}
        model = model_of(keras)
        history = fit(keras, model, integration.callback(checkpointer))
    assert history.epoch == list(range(len(kept), 4))
    assert weights(keras, model) == weights(keras, whole)


@pytest.mark.parametrize("fenced", [False, True])
def test_it_ends_as_if_never_stopped(keras: Any, tmp_path: Path, fenced: bool) -> None:
    check(keras, tmp_path, 14 if fenced else 6, background=fenced, fenced=fenced)


@pytest.mark.parametrize("backend", ["torch", "tensorflow"])  # that of the tests here is jax
def test_over_the_other_libraries(backend: str, tmp_path: Path) -> None:
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    code = (
        "import keras, pathlib, sys; from tests.frameworks.test_checkpoint_keras import check; "
        "check(keras, pathlib.Path(sys.argv[1]), 14, background=True, fenced=True)"
    )
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_batches_and_signals_save_too(keras: Any, tmp_path: Path) -> None:
    base: Any = keras.callbacks.Callback

    class Ask(base):  # type: ignore[misc]
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if batch == 4:
                os.kill(os.getpid(), 12)

    with tk.Checkpointer(tmp_path, every_steps=4, signals={"SIGUSR2": "stop"}) as checkpointer:
        callback = integration.callback(checkpointer, every_epochs=0)
        history = fit(keras, model_of(keras), callback, Ask())
        rows = [row.step for row in checkpointer.checkpoints()]
        restored = checkpointer.restore()
    assert rows == [4, 5]
    assert history.epoch == [0]
    assert restored is not None
    assert (restored.state["epoch"], restored.state["batches"]) == (0, 5)
    assert "sequential/dense/kernel" in restored.state["model"]


def test_another_model_is_refused(keras: Any, tmp_path: Path) -> None:
    with tk.Checkpointer(tmp_path) as checkpointer:
        fit(keras, model_of(keras), integration.callback(checkpointer))
        other = keras.Sequential([keras.layers.Dense(1, name="other")])
        other.compile(optimizer="sgd", loss="mse")
        with pytest.raises(MismatchError, match="other/kernel"):
            fit(keras, other, integration.callback(checkpointer))
