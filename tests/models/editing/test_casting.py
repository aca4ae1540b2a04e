from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.models.editing.networks import (
    GIVEN,
    attention,
    convolutional,
    encoded,
    floats,
    info,
    model,
    proto_of,
    run,
    state_of,
)
from tests.models.editing.probe import probe

from tensorkeep import dtypes
from tensorkeep.errors import ArgumentError, LossError, UnsupportedError
from tensorkeep.models.editing import cast, expose, rename, strip
from tensorkeep.models.opening import graph_of


def test_weights_keep_their_names_and_are_half_as_large() -> None:
    state = state_of(convolutional())
    half = cast(state, "float16", threshold=1)
    assert list(half) == list(state)
    assert half["fc.w"].dtype is dtypes.FLOAT16
    assert half["fc.w"].nbytes * 2 == state["fc.w"].nbytes
    assert half["flat"].dtype is dtypes.INT64
    assert list(cast(state, "float16")["fc.b"].shape) == [10]
    assert cast(state, "float16")["fc.b"].dtype is dtypes.FLOAT32  # smaller than 1 KiB


def test_back_is_exact_but_for_the_values() -> None:
    for network in (convolutional, attention):
        state = state_of(network())
        back = cast(cast(state, "float16", threshold=1), "float32")
        rounded = {n: t.numpy().astype("f2").astype(t.dtype.numpy) for n, t in state.items()}
        assert encoded(cast(cast(back, "bfloat16"), "float16"))  # one after the other
        again = cast(cast(back, "float16", threshold=1), "float32")
        assert encoded(again) == encoded(back)
        assert graph_of(back).model.graph.node == graph_of(state).model.graph.node
        for name, tensor in back.items():
            np.testing.assert_array_equal(tensor.numpy(), rounded[name])


def test_branches_use_the_cast_back_weights() -> None:
    half = cast(state_of(attention()), "float16", threshold=1)
    branches = [row.g.node[0].input for row in graph_of(half).model.graph.node[-2].attribute]
    assert branches == [["a", "bias.float32"]] * 2


def test_what_training_changes_stays() -> None:
    half = cast(state_of(probe()), "float16", threshold=1)
    assert half["w"].dtype is dtypes.FLOAT32
    assert half["big"].dtype is dtypes.FLOAT16
    with pytest.raises(LossError, match="its training_info works on the types"):
        cast(state_of(probe()), "float16", compute=True)


def test_models_that_list_tensors_as_inputs() -> None:
    proto = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [info("x", 1, 4), info("w", 4, 4)],
        [info("y", 1, 4)],
        {"w": floats(4, 4)},
    )
    half = cast(state_of(proto), "float16", threshold=1)
    made = proto_of(half)
    assert made.graph.input[1].type.tensor_type.elem_type == TensorProto.FLOAT16
    back = cast(half, "float32")
    assert graph_of(back).model.graph.input == graph_of(state_of(proto)).model.graph.input


def test_stripped_weights_are_cast_by_type() -> None:
    half = cast(strip(state_of(convolutional())), "float16")
    assert half["fc.w"].dtype is dtypes.FLOAT16
    encoded(half)


def test_compute_keeps_what_has_no_such_type() -> None:
    state, given = state_of(convolutional()), GIVEN["convolutional"]
    half = cast(state, "float16", compute=True)
    assert half["scales"].dtype is dtypes.FLOAT32  # Resize takes no other
    assert [str(v.dtype) for v in (*graph_of(half).inputs, *graph_of(half).outputs)] == [
        "float32"
    ] * 2
    inside = cast(state, "float16", compute=True, keep_io=False)
    assert [str(v.dtype) for v in (*graph_of(inside).inputs, *graph_of(inside).outputs)] == [
        "float16"
    ] * 2
    found = run(inside, {"x": given["x"].astype("f2")})[0]
    np.testing.assert_allclose(found, run(state, given)[0], atol=1e-2)


def test_compute_casts_around_operators() -> None:
    nodes = [
        helper.make_node("Constant", [], ["k"], value_float=2.0),
        helper.make_node("Mul", ["x", "k"], ["m"]),
        helper.make_node("Det", ["m"], ["d"]),
        helper.make_node("ConstantOfShape", ["s"], ["z"]),
        helper.make_node("Range", ["zero", "two", "one"], ["range"]),
        helper.make_node("Cast", ["i"], ["ci"], to=1),
        helper.make_node("Sum", ["d", "z", "range", "ci"], ["y"]),
    ]
    tensors = {
        "s": np.array([2], "i8"), "i": np.array([1, 2], "i4"), "zero": np.array(0, "f4"),
        "one": np.array(1, "f4"), "two": np.array(2, "f4"),
    }  # fmt: skip
    proto = model(nodes, [info("x", 2, 3, 3)], [info("y", 2)], tensors)
    state, given = state_of(proto), {"x": floats(2, 3, 3)}
    half = cast(state, "float16", compute=True)
    proto_of(half)
    np.testing.assert_allclose(run(half, given)[0], run(state, given)[0], rtol=1e-2, atol=1e-1)
    casts = [
        n.name for n in graph_of(half).model.graph.node if n.name.startswith("tensorkeep.compute")
    ]
    assert "tensorkeep.compute:range" in casts  # Range has no float16
    back = cast(half, "float32", compute=True)
    proto_of(back)
    assert run(back, given)[0].dtype == np.float32


def test_output_that_an_operator_gives_in_the_old_type_alone() -> None:
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"])
    outputs = [info("q", 4, kind=TensorProto.UINT8), info("scale")]
    state = state_of(model([node], [info("x", 4)], outputs, {}))
    half, given = cast(state, "float16", compute=True), {"x": floats(4)}
    np.testing.assert_allclose(run(half, given)[1], run(state, given)[1], rtol=1e-2)


def test_compute_needs_types() -> None:
    node = helper.make_node("Strange", ["x"], ["h"], domain="my")
    last = helper.make_node("Abs", ["h"], ["y"])
    graph = helper.make_graph([node, last], "g", [info("x", 1)], [info("y", 1)])
    sets = [helper.make_opsetid("my", 1), helper.make_opsetid("", 13)]
    with pytest.raises(UnsupportedError, match="the type of 'h' is not known"):
        cast(state_of(helper.make_model(graph, opset_imports=sets)), "float16", compute=True)


def test_refusals() -> None:
    state = state_of(convolutional())
    with pytest.raises(ArgumentError, match="weights are not cast to int8"):
        cast(state, "int8")
    with pytest.raises(ArgumentError, match="no weights that were cast"):
        cast(state, "float32")
    old = convolutional()
    copied = onnx.ModelProto()
    copied.CopyFrom(old)
    copied.opset_import[0].version = 12
    with pytest.raises(UnsupportedError, match="operator set 12 of ONNX, which cannot cast"):
        cast(state_of(copied), "bfloat16")


def test_renaming_a_cast_weight_leaves_it_castable() -> None:
    half = rename(cast(state_of(convolutional()), "float16"), {"fc.w": "head"})
    assert cast(half, "float32")["head"].dtype is dtypes.FLOAT32


def shown(*, whole: bool) -> onnx.ModelProto:
    """Make a model; a whole one gives out its tensor and its input too."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="tensorkeep.cast:w")
    x, w, y = info("x", 2, 4), info("w", 4, 300), info("y", 2, 300)
    outputs = [y, *((x, w) if whole else ())]
    return model([node], [x], outputs, {"w": floats(4, 300)})


def test_computing_keeps_outputs_that_are_not_computed() -> None:
    proto, given = shown(whole=True), {"x": floats(2, 4)}
    changed = cast(state_of(proto), "float16", compute=True)
    rows = onnx.load_from_string(encoded(changed)).graph
    assert {r.type.tensor_type.elem_type for r in (*rows.input, *rows.output)} == {1}
    for now, was in zip(run(changed, given), run(state_of(proto), given), strict=True):
        assert now.dtype == was.dtype
        np.testing.assert_allclose(now, was, rtol=0.01, atol=0.01)


def test_casts_that_are_given_out_stay() -> None:
    proto, given = shown(whole=False), {"x": floats(2, 4)}
    narrow = cast(state_of(proto), "float16")
    names = [node.name for node in onnx.load_from_string(encoded(narrow)).graph.node]
    assert names == ["tensorkeep.cast:w~2", "tensorkeep.cast:w"]
    np.testing.assert_allclose(run(narrow, given)[0], run(state_of(proto), given)[0], atol=0.01)
    given_out = expose(narrow, "w.float32")
    with pytest.raises(ArgumentError, match="no weights that were cast"):
        cast(given_out, "float32")
