"""Every example runs from any folder, leaves nothing behind and shows what it is there to show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

# Lines that each has to print, besides others that vary from machine to machine.
SHOWN = {
    "build_lenet": [
        "Graph(13 nodes: image: float32[N, 1, 28, 28] -> probabilities: float32[N, 10])",
        "lenet by the examples, opset {'ai.onnx': 13}",
        "the same numbers as NumPy: True",
    ],
    "build_lstm": [
        "operator: the same numbers as NumPy: True",
        "scan: the same numbers as NumPy: True",
    ],
    "build_transformer": [
        "Graph(22 nodes: x: float32[N, T, 16] -> y: float32[N, T, 16])",
        "opset 17, for LayerNormalization",
        "the same numbers as NumPy: True",
    ],
    "checkpoint_training": [
        "interrupted at step 33",
        "the same weights as without the stop: True",
        "kept: 20, 40, 55, 60",
    ],
    "convert_and_compare": [
        "encoder.bias     bfloat16   identical: True",
        "vocabulary       string     identical: True",
        "equal: True",
        "written: model.json, model.npz, model.safetensors",
        "encoder.weight differs by 0.25 at (3, 5)",
    ],
    "data_resume": [
        "1,000 samples, number, x, y",
        "the same sample in LMDB and in the tar: True",
        "epoch 1, sample 576: goes on with 4 ranks",
        "the same samples in the same order as without the stop: True",
        "each of them once in an epoch: True",
        "the same weights: True",
    ],
    "exchange": [
        "NNEF   the same numbers: True",
        "Caffe2 the same weights under their names: True",
        "JSON   the same numbers: True",
        "TranslationError: 1 node cannot be said in NNEF:",
    ],
    "inspect_lazily": [
        "metadata: {'trained on': 'noise', 'epochs': 3}",
        "  layers.3.weight    float32 (256, 256)      262,144 bytes",
        "it is what was saved: True",
        "layers alone, as float16: 4 tensors, 524,288 bytes",
    ],
    "resume_training": [
        "resumed at step 40, keys model, optimizer, rng, step",
        "the same weights as without the stop: True",
    ],
    "sharded_save": [
        "State(6 tensors, 6,291,456 bytes, safetensors)",
        "equal: True",
        "still tied: True",
    ],
}

# Those that need a large library, which may warn for reasons of its own, and what they print.
RESUMED = [
    "resumed at step 30: epoch 1, sample 320",
    "the same weights as without the stop: True",
]
WITH = {
    "data_jax_loop": ("jax", RESUMED),
    "data_torch_loop": (
        "torch",
        [*RESUMED, "batches of a DataLoader: 20", "shape of a batch: (32, 4)"],
    ),
}


def test_every_example_is_checked() -> None:
    assert {file.stem for file in EXAMPLES.glob("*.py")} == SHOWN.keys() | WITH.keys()


@pytest.mark.parametrize("name", SHOWN)
def test_it_runs(name: str, tmp_path: Path) -> None:
    _run(name, SHOWN[name], tmp_path, "-W", "error")


@pytest.mark.frameworks
@pytest.mark.parametrize("name", WITH)
def test_it_runs_with_its_library(name: str, tmp_path: Path) -> None:
    library, shown = WITH[name]
    pytest.importorskip(library)
    _run(name, shown, tmp_path)


def _run(name: str, shown: list[str], tmp_path: Path, *options: str) -> None:
    done = subprocess.run(
        [sys.executable, *options, EXAMPLES / f"{name}.py"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    # ONNX Runtime and PyTorch keep something of their own among the temporary files, whatever they
    # are used for.
    left = {file.name for file in tmp_path.iterdir()}
    assert all(name == ".ses" or name.startswith("torchinductor_") for name in left)
    printed = done.stdout.splitlines()
    for line in shown:
        assert line in printed
