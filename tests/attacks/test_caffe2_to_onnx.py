"""Nets of Caffe2's that were made to break their translation, or damaged."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models.building_checks import graph_of
from tests.models.exchange.caffe2_nets import model, net, op, translated

import tensorkeep as tk
from tensorkeep.errors import CorruptError, TensorKeepError, TranslationError
from tensorkeep.models.exchange.caffe2_to_onnx import open_caffe2, translate
from tensorkeep.models.exchange.report import Report

HUGE = (1 << 62) + 1
SHAPES = {"x": (2, 4, 6, 6)}


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        (op("FC", "x w b", "y", axis=HUGE), "its axis is 4611686018427387905"),
        (op("FC", "x w b", "y", axis=-HUGE), "its axis is -4611686018427387905"),
        (
            op("ReduceFrontSum", "x", "y", num_reduce_dim=HUGE),
            "num_reduce_dim is 4611686018427387905",
        ),
        (op("Conv", "x w", "y", kernel=HUGE), "a kernel, stride or dilation is not above zero"),
        (op("Conv", "x w", "y", kernel=1, pads=[-1] * 4), "its pads are [-1, -1, -1, -1]"),
        (op("MaxPool", "x", "y", kernel=9), "it would make 'y' of the shape [2, 4, -2, -2]"),
        (op("MaxPool", "x", "y", kernel=1, stride=0), "a kernel, stride or dilation is not above"),
        (op("UpsampleNearest", "x", "y", scale=HUGE), "it would make 'y' of the shape [2, 4,"),
        (op("ResizeNearest", "x", "y", width_scale=float("nan")), "its scales are [1.0, nan]"),
        (op("ResizeNearest", "x", "y", width_scale=3e38, height_scale=3e38), "it would make 'y'"),
        (op("Tile", "x", "y", tiles=HUGE, axis=1), "it would make 'y' of the shape"),
        (op("Tile", "x", "y", tiles=2, axis=HUGE), "its axis is 4611686018427387905"),
        (op("Concat", "x x", "y", axis=HUGE), "its axis is 4611686018427387905"),
        (op("Split", "x", "y z", axis=HUGE), "its axis is 4611686018427387905"),
        (op("ExpandDims", "x", "y", dims=[HUGE]), "its argument dims is [4611686018427387905]"),
        (op("Squeeze", "x", "y", dims=[HUGE]), "its argument dims is [4611686018427387905]"),
        (op("Squeeze", "x", "y", dims=[-1]), "its argument dims is [-1]"),
        (op("LayerNorm", "x", "y m s", axis=HUGE), "its axis is 4611686018427387905"),
        (op("Transpose", "x", "y", axes=[HUGE]), "its argument axes is [4611686018427387905]"),
        (
            op("Transpose", "x", "y", axes=[1, 0]),
            "its argument axes is [1, 0], and its input has 4",
        ),
        (op("Reshape", "x", "y old", shape=[-5, 2]), "its shape is [-5, 2]"),
        (op("Reshape", "x", "y old", shape=[-1, -1]), "its shape is [-1, -1]"),
        (op("ChannelShuffle", "x", "y", group=0), "its 4 channels are not 0 groups"),
        (op("LRN", "x", "y", size=HUGE), "its argument size is 4611686018427387905"),
        (op("Gather", "x w", "y", axis=HUGE), "its axis is 4611686018427387905"),
        (op("ReduceSum", "x", "y", axes=[HUGE]), "its axis is 4611686018427387905"),
        (op("ArgMax", "x", "y", axis=HUGE), "its axis is 4611686018427387905"),
        (op("Flatten", "x", "y", axis=HUGE), "its axis is 4611686018427387905"),
        (op("TopK", "x", "y i", k=HUGE, axis=HUGE), "its axis is 4611686018427387905"),
        (op("Glu", "x", "y", dim=HUGE), "its axis is 4611686018427387905"),
        (op("PrependDim", "x", "y", dim_size=0), "its argument dim_size is 0"),
        (op("Mod", "x", "y", divisor=HUGE), "its input is float32, where integers"),
        (op("Clip", "x", "y", min=[1, 2]), "its argument 'min' is not a float"),
        (op("Flatten", "x", "y", axis=-1), "its argument axis is -1, where Caffe2 counts from"),
        (op("TopK", "x", "y i", k=9), "its k is 9, and its axis has"),
        (op("BatchGather", "x w", "y", axis=2), "its argument axis is 2"),
        (op("PadImage", "x", "y", pad=1, stride=2), "it has a stride or a dilation"),
        (op("LayerNorm", "x", "y m s", elementwise_affine=1), "it has 1 input, and needs 2"),
    ],
)
def test_arguments_that_make_no_sense(operator: Any, words: str) -> None:
    weights = {"w": np.zeros((3, 4, 1, 1), np.float32), "b": np.zeros(3, np.float32)}
    started = time.perf_counter()
    with pytest.raises(TranslationError) as caught:
        translated(model(operator, weights=weights, outputs="y"), SHAPES)
    assert words in str(caught.value)
    assert time.perf_counter() - started < 20


def test_blobs_without_a_name() -> None:
    operator = op("Relu", "x", "y")
    operator["output"] = [""]
    with pytest.raises(TranslationError, match="one of its blobs has no name"):
        translated(model(operator))


def test_a_blob_that_is_written_many_thousand_times() -> None:
    ops = [op("Relu", "x", "x") for _ in range(5_000)]
    started = time.perf_counter()
    made, _ = translated(model(*ops, outputs="x"))
    assert len(graph_of(made)) == 5_000
    assert time.perf_counter() - started < 20


def test_many_outputs_and_arguments_take_no_long_time() -> None:
    count = 4000
    outputs = [f"y{number}" for number in range(count)]
    refused = model(*(op("Nope", "x", name) for name in outputs), outputs=" ".join(outputs))
    arguments: dict[str, Any] = {f"a{number}": number for number in range(count)}
    odd = op("Relu", "x", "y", **arguments)
    started = time.process_time()
    with pytest.raises(TranslationError, match="4,000 nodes cannot be said"):
        translated(refused)
    _, report = translated(model(odd, outputs="y"))
    assert len(report.remarks) == count
    assert time.process_time() - started < 20


def test_every_cut_and_every_changed_bit_of_a_net(tmp_path: Path) -> None:
    conv = op("Conv", "x w", "c", kernel=2, order="NHWC")
    data = net(conv, op("Concat", "c c", "y s", axis=1), outputs="y").encode()
    weights = {"w": np.zeros((3, 2, 2, 4), np.float32)}
    damaged = [data[:length] for length in range(len(data))]
    for place in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            damaged.append(bytes(changed))
    path = tmp_path / "predict_net.pb"
    for each in damaged:
        path.write_bytes(each)
        try:
            with tk.open(path, format="caffe2-net") as state:
                translate(open_caffe2(state, weights), Report("caffe2", "onnx"))
        except TensorKeepError:
            pass


def test_a_value_info_that_is_huge_or_deep(tmp_path: Path) -> None:
    (tmp_path / "predict_net.pb").write_bytes(net(op("Relu", "x", "y"), outputs="y").encode())
    beside = tmp_path / "value_info.json"
    large = '{"x": [1, [' + "1," * 200_000 + "1]]}"
    for text in ("[" * 100_000, large, " " * (5 << 20), '{"x": [1, [9223372036854775808]]}'):
        beside.write_text(text)
        with pytest.raises(TensorKeepError, match=r"value_info\.json"):
            open_caffe2(tmp_path / "predict_net.pb")


def test_a_companion_is_never_outside_of_the_folder(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "predict_net.pb").write_bytes(net(op("Relu", "x", "y"), outputs="y").encode())
    fill = op("GivenTensorFill", "", "x", shape=[1], values=[1.0])
    (tmp_path / "init_net.pb").write_bytes(net(fill).encode())
    assert len(open_caffe2(inside / "predict_net.pb")) == 0


def test_an_init_net_that_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "predict_net.pb").write_bytes(net(op("Relu", "x", "y"), outputs="y").encode())
    fill = op("GivenTensorFill", "", "w", shape=[3], values=[1.0])
    (tmp_path / "init_net.pb").write_bytes(net(fill).encode())
    with pytest.raises(CorruptError, match=r"init_net\.pb"):
        open_caffe2(tmp_path / "predict_net.pb")
