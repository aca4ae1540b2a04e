"""Files whose every text tries to be more than text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import tensorkeep as tk
from tensorkeep.checkpoint import Checkpointer

PWN = "<img src=x onerror=window.pwned=1>"
TEXTS = (
    PWN,
    "<script>window.pwned=1</script>",
    "</script><script>window.pwned=1</script>",
    '"><svg onload=window.pwned=1>',
    "' onmouseover='window.pwned=1",
    "javascript:window.pwned=1",
    "{{constructor.constructor('window.pwned=1')()}}",
    "<iframe srcdoc='<script>parent.pwned=1</script>'>",
    "<style>*{display:none}</style>",
    "<base href=//example.com/><link rel=stylesheet href=//example.com/x.css>",
    "__proto__",
    "constructor",
    "toString",
    "\u202egnp.exe\u202c",
    "\u2028\u2029\u0085\x07\x1b[31m",
    "&lt;b&gt;&amp;&#60;",
    "${window.pwned=1}`",
    "a/%2e%2e/..%2f?of=0#/graph/0",
    "x" * 4_000,
    "<" * 3_000,
)


def states(folder: Path) -> tuple[Path, Path]:
    """Write two files of tensors with such names, metadata and a file name."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    for offset, name in enumerate(("a<img src=x onerror=window.pwned=1>.npz", "b'\"&.npz")):
        tensors = dict.fromkeys(TEXTS, array + offset)
        tk.save(tensors, folder / name, metadata={text: [text, {text: text}] for text in TEXTS})
    return folder / "a<img src=x onerror=window.pwned=1>.npz", folder / "b'\"&.npz"


def model(folder: Path) -> Path:
    """Write a model whose nodes, attributes, values, documentation and domains are such texts."""
    graph = onnx.GraphProto(name=PWN, doc_string=PWN)
    graph.input.append(helper.make_tensor_value_info(PWN + "in", TensorProto.FLOAT, [PWN, 3]))
    last = PWN + "in"
    for number, text in enumerate(TEXTS):
        weight = f"{text}{number}weight"
        graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), weight))
        node = helper.make_node("Mul", [last, weight], [f"{text}{number}"], name=text)
        node.doc_string = text
        node.op_type = text if number % 2 else "Mul"
        node.domain = text if number % 3 == 0 else ""
        node.attribute.append(helper.make_attribute(text or "a", text))
        graph.node.append(node)
        last = f"{text}{number}"
    graph.output.append(helper.make_tensor_value_info(last, TensorProto.FLOAT, [PWN, 3]))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.producer_name = made.domain = made.doc_string = PWN
    made.metadata_props.add(key=PWN, value=PWN)
    path = folder / "hostile.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def run(folder: Path) -> Path:
    """Keep checkpoints whose metrics, metadata and tensors have such names."""
    with Checkpointer(folder / "run", every_steps=1, rng=False) as checkpointer:
        for step in range(1, 4):
            metrics = {text: float(step) for text in TEXTS if len(text) < 200} | {"note": PWN}
            state = {text: np.full((2, 2), step, np.float32) for text in TEXTS}
            checkpointer.save(step, state, metrics=metrics, metadata={PWN: PWN})
    return folder / "run"
