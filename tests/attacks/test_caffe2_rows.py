"""Operators of Caffe2 with the wrong inputs and arguments: a model or our errors, nothing else."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import pytest
from tests.models.exchange.caffe2_nets import model, net, op, translated

from tensorkeep.errors import TensorKeepError, TranslationError
from tensorkeep.message import Message
from tensorkeep.models.exchange.caffe2_to_onnx import nested
from tensorkeep.models.exchange.caffe2_to_onnx.rows import TABLE
from tensorkeep.wire.caffe2.nets import Given, Nets

TOPICS = ("quantized", "detecting", "proposing", "pyramids", "recurring", "controlling", "sparse")
ROWS = [row.operator for row in TABLE if row.translate.__module__.rpartition(".")[2] in TOPICS]
SHAPES: dict[str, tuple[str, list[int | str]]] = {
    "a": ("float32", [2, 3, 8, 8]),
    "b": ("float32", [5, 5]),
    "c": ("float32", [2, "n", 4]),
    "d": ("int32", [7]),
    "e": ("int64", []),
    "f": ("bool", [1]),
    "g": ("uint8", [2, 4, 4, 3]),
    "h": ("float32", [0, 4]),
}
WORDS = """
    axis axes kernel kernels pad stride order group Y_scale Y_zero_point shape dims starts ends dim
    start_idx end_idx height_scale width_scale pooled_h pooled_w spatial_scale sampling_ratio
    aligned weights nms score_thresh detections_per_im legacy_plus_one pre_nms_topN min_size
    roi_min_level roi_max_level rpn_min_level rpn_max_level num_segments output_first_dim mode
    radius fill_val forget_bias sequence_lengths step_net recurrent_states link_internal
    link_external link_offset link_window initial_recurrent_state_ids alias_src alias_dst
    alias_offset timestep then_net else_net loop_net cond_net body has_cond has_trip_count
    num_loop_carried_deps values alpha input_boxes_include_bg_cls cls_agnostic_bbox_reg
    roi_canonical_scale should_output_softmax
"""
NAMES = WORDS.split()


NEEDED = {
    "If": ("then_net", "else_net"),
    "While": ("loop_net", "cond_net"),
    "ONNXWhile": ("body",),
    "RecurrentNetwork": ("step_net",),
}
INNER = [*NEEDED, *NEEDED, "Relu", "Exp", "Sum", "Shape", "Not", "LSTMUnit", "Concat", "Int8Relu"]
RECURRENT: dict[str, Any] = {
    "recurrent_states": ["s"],
    "initial_recurrent_state_ids": [0],
    "link_internal": ["a", "x", "b"],
    "link_external": ["s", "s", "c"],
    "link_offset": [0, 1, 0],
    "alias_src": ["s", "s"],
    "alias_dst": ["x", "y"],
    "alias_offset": [1, -1],
}


def value(chance: random.Random, depth: int = 0) -> Any:
    whole = chance.choice([0, 1, -1, 2, 3, 255, 2**31, 2**63 - 1, -(2**63)])
    number = chance.choice([0.0, 1.0, -1.5, 0.05, float("inf"), float("nan"), 1e38])
    match chance.randrange(7 if depth < 2 else 6):
        case 0 | 1:
            return whole
        case 2:
            return number
        case 3:
            return chance.choice(["", "NHWC", "NCHW", "sequence", "upper", "a", "op {"])
        case 4:
            return [chance.choice([0, 1, 2, -1, 4, 2**62]) for _ in range(chance.randrange(5))]
        case 5:
            return chance.choice([["a", "b"], [1.0] * 4, ["a"], ["x", "y", "z"], [0.0] * 4])
        case _:
            kind = chance.choice([*ROWS, *INNER])
            return net(operator(chance, kind, depth + 1), inputs="a b c", outputs="x y z")


def operator(chance: random.Random, kind: str, depth: int = 0) -> Any:
    inputs = " ".join(chance.choices([*SHAPES, "x"] if depth else [*SHAPES], k=chance.randrange(7)))
    outputs = " ".join(chance.sample(["x", "y", "z", "a"], chance.randrange(1, 4)))
    words = {name: value(chance, depth) for name in chance.sample(NAMES, chance.randrange(12))}
    for name in NEEDED.get(kind, ()):
        if chance.random() < 0.8:
            words[name] = net(operator(chance, chance.choice(INNER), depth + 1), outputs="x y z")
    if depth > 1:
        words = {name: each for name, each in words.items() if not isinstance(each, Message)}
    if kind == "RecurrentNetwork" and chance.random() < 0.8:
        words |= RECURRENT
    if kind.startswith("Int8") and chance.random() < 0.8:
        words |= {"Y_scale": 0.5, "Y_zero_point": 3, "order": "NHWC"}
    return op(kind, inputs, outputs, **words)


def test_loops_within_loops_whose_shapes_never_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    grows = op("Concat", "x x", "x sizes", axis=0)
    inner = net(*[op("Relu", "x", "x")] * 100, grows)
    for _ in range(4):
        inner = net(op("While", "f x", "x", loop_net=inner), grows)
    shapes = {"x": (2, 2), "f": (1,)}
    monkeypatch.setattr(nested, "_MOST", 300)
    with pytest.raises(TranslationError, match="make more than 300 operators"):
        translated(model(*inner.op, outputs="x"), shapes)
    for _ in range(2):
        inner = net(op("While", "f x", "x", loop_net=inner))
    with pytest.raises(TranslationError, match="nets lie within it more than 5 deep"):
        translated(model(*inner.op, outputs="x"), shapes)


@pytest.mark.parametrize("kind", ROWS)
def test_wrong_inputs_and_arguments(kind: str) -> None:
    chance = random.Random(kind)
    for _ in range(20):
        made = operator(chance, kind)
        given = dict.fromkeys(made.input)
        start = [op("Int8Quantize", "a", "g", Y_scale=0.5, Y_zero_point=3)] * ("g" in given)
        known = {name: SHAPES[name] for name in [*given, *("a" for _ in start)]}
        state = model(*start, made)
        assert isinstance(state.document, Nets)
        state.document.given = {name: Given(kind) for name, (kind, _) in known.items()}
        shapes = {name: shape for name, (_, shape) in known.items() if name != "g" or not start}
        with suppress(TensorKeepError):
            translated(state, shapes)
