"""Make the golden Keras files: `python make_keras.py`, then `python make_keras.py 2` for Keras 2.

Each model has an .npz with what Keras itself says the values are, in the order of Keras:
`weights-N` of the model and `optimizer-N` of its optimizer; `paths.json` holds their names.
Made with Keras 3.15.1 on PyTorch 2.13, and tf_keras 2.21.0.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent
PATHS: dict[str, dict[str, list[str]]] = {}


def note(name: str, weights: list[Any], optimizer: list[Any]) -> None:
    """Write down what a model holds, bfloat16 as the bits of it."""
    arrays: dict[str, Any] = {}
    for kind, variables in (("weights", weights), ("optimizer", optimizer)):
        for place, variable in enumerate(variables):
            value = np.asarray(variable)
            arrays[f"{kind}-{place}"] = value.view("u2") if value.dtype.kind == "V" else value
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)


def keras_3() -> None:
    os.environ["KERAS_BACKEND"] = "torch"
    import keras
    from keras.src.saving import saving_lib

    layers = keras.layers
    keras.utils.set_random_seed(7)

    def note_model(name: str, model: Any) -> None:
        convert = keras.ops.convert_to_numpy
        slots = model.optimizer.variables if model.compiled else []
        note(name, [convert(v) for v in model.weights], [convert(v) for v in slots])
        PATHS[name] = {
            "weights": [v.path for v in model.weights],
            "optimizer": [v.path for v in slots],
        }

    inner = keras.Sequential(
        [layers.Input((4,)), layers.Dense(3, name="deep"), layers.BatchNormalization()],
        name="inner",
    )
    given = keras.Input((4,), name="given")
    shared = layers.Dense(4, name="shared", activation="relu")
    head = layers.Dense(2, name="head")
    model = keras.Model(given, head(inner(shared(shared(given)))), name="nested")
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model.fit(np.ones((8, 4), "float32"), np.ones((8, 2), "float32"), verbose=0)
    model.save(FOLDER / "nested.keras")
    model.save_weights(FOLDER / "nested.weights.h5")
    model.save(FOLDER / "nested.h5")
    model.save_weights(FOLDER / "sharded.weights.json", max_shard_size=3e-7)
    note_model("nested", model)

    given = keras.Input((3, 4), name="given")
    flow = layers.MultiHeadAttention(2, 2, name="attend")(given, given)
    flow = layers.Bidirectional(layers.GRU(2), name="both")(flow)
    flow = layers.Dense(2, dtype="bfloat16", name="narrow")(flow)
    model = keras.Model(given, flow, name="recurrent")
    model.save(FOLDER / "recurrent.keras")
    model.save_weights(FOLDER / "recurrent.weights.h5")
    model.save(FOLDER / "recurrent.h5")
    note_model("recurrent", model)
    saving_lib.save_model(model, FOLDER / "pickled.keras", weights_format="npz")

    layers_of_code = [layers.Embedding(3, 2, name="embed"), layers.Lambda(_twice, name="twice")]
    layers_of_code.append(layers.Lambda(eval("lambda x: 2 * x"), name="again"))
    model = keras.Sequential([layers.Input((2,)), *layers_of_code], name="coded")
    model.save(FOLDER / "coded.keras")
    model.save(FOLDER / "coded.h5")

    words = layers.StringLookup(name="words")
    words.adapt(["dog", "cat", "dog"])
    embed = layers.Embedding(3, 2, name="embed")
    model = keras.Sequential([layers.Input((2,), dtype="string"), words, embed], name="spoken")
    model.save(FOLDER / "assets.keras")


def _twice(values: Any) -> Any:
    return 2 * values


def keras_2() -> None:
    import tf_keras as keras

    layers = keras.layers
    keras.utils.set_random_seed(7)
    inner = keras.Sequential(
        [layers.Input((4,)), layers.Dense(3, name="deep"), layers.BatchNormalization()],
        name="inner",
    )
    given = keras.Input((4,), name="given")
    flow = layers.Dense(2, name="head")(inner(layers.Dense(4, name="first")(given)))
    model = keras.Model(given, flow, name="nested")
    model.compile(keras.optimizers.legacy.Adam(0.1), "mse")
    model.fit(np.ones((8, 4), "float32"), np.ones((8, 2), "float32"), verbose=0)
    model.save(FOLDER / "keras2.h5")
    model.save_weights(FOLDER / "keras2_weights.h5", save_format="h5")
    model.save(FOLDER / "keras2.keras")
    slots = model.optimizer.weights
    note("keras2", [v.numpy() for v in model.weights], [v.numpy() for v in slots])
    PATHS["keras2"] = {
        "weights": [v.name for v in model.weights],
        "optimizer": [v.name for v in slots],
    }


if __name__ == "__main__":
    if "2" in sys.argv[1:]:
        keras_2()
    else:
        keras_3()
    target = FOLDER / "paths.json"
    known = json.loads(target.read_text()) if target.exists() else {}
    target.write_text(json.dumps(known | PATHS, indent=1) + "\n")
