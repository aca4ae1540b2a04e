"""Write the checkpoints in this folder, with TensorFlow 2.21, and what they hold as .npz files.

Run it with the folder to write to: python make_tensorflow.py tests/data/tensorflow
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import tensorflow as tf

DTYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("int4", "uint4", "float8_e5m2", "float8_e4m3fn"),
)


def numbers(name: str, seed: int) -> Any:
    kind = tf.as_dtype(name).as_numpy_dtype
    rng = np.random.default_rng(seed)
    if name == "bool":
        return rng.integers(0, 2, (3, 5)).astype(bool)
    if name.startswith("complex"):
        return (rng.normal(size=(3, 5)) + 1j * rng.normal(size=(3, 5))).astype(kind)
    low = 0 if name.startswith("u") else -8
    return rng.integers(low, 8, (3, 5)).astype(np.float32).astype(kind)


def every_dtype(folder: Path) -> None:
    """One variable of each type, scalars, empty ones and strings, by tf.train.Checkpoint."""
    values = {name: tf.Variable(numbers(name, seed)) for seed, name in enumerate(DTYPES)}
    values["scalar"] = tf.Variable(2.5)
    values["empty"] = tf.Variable(np.zeros((0, 3), np.float32))
    values["text"] = tf.Variable([[b"", b"weights"], [b"\xff\x00", "gewichte \u00fc".encode()]])
    values["word"] = tf.Variable(b"one")
    values["long"] = tf.Variable([b"x" * 200, b"y" * 128])
    tf.train.Checkpoint(values=values).write(str(folder / "dtypes"))


def latest(folder: Path) -> None:
    """Two checkpoints by a manager, and the pointer to the second."""
    step = tf.Variable(1, dtype=tf.int64)
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(step=step), str(folder / "run"), 2)
    for _ in range(2):
        manager.save(step)
        step.assign_add(1)


def saver(folder: Path) -> None:
    """Names of TensorFlow 1, partitioned variables, and several shards."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session(config=v1.ConfigProto(device_count={"CPU": 2})) as run:
        normal = v1.random_normal_initializer(seed=1)
        cut = v1.fixed_size_partitioner
        with tf.device("/cpu:0"):
            v1.get_variable("layer/kernel", (4, 3), initializer=normal)
            v1.get_variable("rows", (7, 3), initializer=normal, partitioner=cut(3))
        with tf.device("/cpu:1"):
            v1.get_variable("layer/bias", (3,), initializer=normal)
            v1.get_variable("columns", (3, 7), tf.float64, normal, partitioner=cut(4, axis=1))
        run.run(v1.global_variables_initializer())
        saver = v1.train.Saver(sharded=True)
        saver.save(run, str(folder / "saver" / "model.ckpt"), write_meta_graph=False, global_step=7)
    (folder / "saver" / "checkpoint").unlink()


def keras(folder: Path) -> None:
    """The variables of a model as a SavedModel, and by tf.train.Checkpoint with an optimizer."""
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.Sequential(
        [tf.keras.Input((4,)), tf.keras.layers.Dense(3, name="first"), tf.keras.layers.Dense(2)]
    )
    model.compile("adam", "mse")
    model.fit(np.ones((2, 4)), np.ones((2, 2)), verbose=0)
    tf.train.Checkpoint(model=model).write(str(folder / "keras"))
    module = tf.Module()
    module.kernel = tf.Variable(np.arange(6, dtype=np.float32).reshape(2, 3), name="kernel")
    module.__call__ = tf.function(lambda x: x @ module.kernel, [tf.TensorSpec((None, 2))])
    tf.saved_model.save(module, str(folder / "saved_model"))


def expected(folder: Path) -> None:
    """Write down what TensorFlow itself reads of each checkpoint."""
    for index in sorted(folder.rglob("*.index")):
        reader = tf.train.load_checkpoint(str(index).removesuffix(".index"))
        tensors = {}
        for name in reader.get_variable_to_shape_map():
            value = reader.get_tensor(name)
            value = np.array(value, object) if isinstance(value, bytes) else np.asarray(value)
            hexes = [v.hex() for v in value.reshape(-1)] if value.dtype == object else None
            kind = "string" if hexes is not None else str(value.dtype)
            tensors[name] = [kind, list(value.shape), hexes or value.tobytes().hex()]
        path = folder / f"{index.relative_to(folder).as_posix().replace('/', '_')}.json"
        path.write_text(json.dumps(dict(sorted(tensors.items())), indent=0) + "\n")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    for old in ("run", "saver", "saved_model"):
        shutil.rmtree(target / old, ignore_errors=True)
    (target / "saver").mkdir(parents=True)
    for make in (every_dtype, latest, saver, keras, expected):
        make(target)
