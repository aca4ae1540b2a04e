"""TensorFlow's graphs and saved models, written by TensorFlow, are called what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.errors import UnsupportedError

pytestmark = pytest.mark.frameworks


def test_models_of_tensorflow_are_named(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")

    weights = tf.Variable(np.ones((64, 64), np.float32))
    module = tf.Module()
    module.weights = weights
    module.call = tf.function(
        lambda x: tf.matmul(x, weights), input_signature=[tf.TensorSpec([None, 64], tf.float32)]
    )
    tf.saved_model.save(module, str(tmp_path / "saved"))
    with pytest.raises(UnsupportedError, match="is a TensorFlow SavedModel, which is not read"):
        tk.open(tmp_path / "saved" / "saved_model.pb")

    graph = module.call.get_concrete_function().graph.as_graph_def()
    with tf.Graph().as_default() as large:
        tf.constant(np.arange(9000, dtype=np.float32), name="w")
    texts = {"graph.pb": graph, "large.pb": large.as_graph_def()}
    for name, message in texts.items():
        (tmp_path / name).write_bytes(message.SerializeToString())
        with pytest.raises(UnsupportedError, match="is a TensorFlow GraphDef, which is not read"):
            tk.open(tmp_path / name)
    (tmp_path / "graph.pbtxt").write_text(str(graph))
    with pytest.raises(UnsupportedError, match="is a TensorFlow GraphDef as text"):
        tk.open(tmp_path / "graph.pbtxt")

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.call.get_concrete_function()], module
    )
    (tmp_path / "model.tflite").write_bytes(converter.convert())
    with pytest.raises(UnsupportedError, match="is a TensorFlow Lite model"):
        tk.open(tmp_path / "model.tflite")
