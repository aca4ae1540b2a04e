from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.viewer.graph_checks import check, digits_classifier, loose, save, sources

import tensorkeep as tk
from tensorkeep.errors import TensorKeepError
from tensorkeep.message import Message
from tensorkeep.models.exchange.caffe2_to_onnx.opening import open_caffe2
from tensorkeep.state import State
from tensorkeep.viewer.answers import Graph
from tensorkeep.viewer.graphs import graph
from tensorkeep.viewer.graphs.bounds import Budget
from tensorkeep.wire.caffe2.nets import Given, Nets
from tensorkeep.wire.caffe2.schema import NET

DATA = Path(__file__).parents[1] / "data" / "caffe2"
NETS = sorted(path.parent.name for path in DATA.glob("net_*/predict_net.pb"))


def net(*operators: tuple[str, str, str], **more: object) -> Message:
    """Make a net of (type, inputs, outputs)."""
    made = Message(NET, **more)
    for kind, read, written in operators:
        made.add("op", type=kind, input=read.split(), output=written.split())
    return made


def drawn(predict: Message, *weights: str, inputs: tuple[str, ...] = ()) -> Graph:
    """Draw a net, and check what holds of every graph."""
    tensors = {name: tk.Tensor.of(np.zeros(2, np.float32)) for name in weights}
    state = State(tensors, document=Nets(predict, list(inputs)))
    found = graph(state)
    check(found, state)
    for part in found.parts:
        sources(part)
    return found


@pytest.mark.parametrize("name", NETS)
def test_nets_that_caffe2_wrote(name: str) -> None:
    with open_caffe2(DATA / name / "predict_net.pb") as state:
        found = graph(state)
        check(found, state)
        assert isinstance(state.document, Nets)
        operators = state.document.predict.op
    part = found.parts[0]
    assert loose(part) == set()
    assert [value.name.rpartition("/")[2] for value in part.inputs] in (["data"], ["x"])
    assert [node.op for node in part.nodes] == [operator.type for operator in operators]
    now: dict[str, int] = {}
    known = sources(part)
    for place, (node, operator) in enumerate(zip(part.nodes, operators, strict=True)):
        for shown, blob in zip(node.inputs, operator.input, strict=True):
            assert known[shown] == (f"node {now[blob]}" if blob in now else known[blob])
            assert shown.startswith(blob)
        now.update(dict.fromkeys(operator.output, place))
    assert len(part.tensors) > 0


def test_a_predict_net_without_weights_has_them_as_inputs() -> None:
    with tk.open(DATA / "net_alexnet_mini" / "predict_net.pb") as state:
        (part,) = graph(state).parts
    assert [value.name for value in part.inputs][:3] == ["data", "conv1_w", "conv1_b"]
    assert loose(part) == set()


def test_the_digits_classifier(tmp_path: Path) -> None:
    path = save(digits_classifier(), tmp_path / "digits.onnx")
    tk.convert(path, tmp_path / "digits_predict_net.pb", format="caffe2-net")
    with open_caffe2(tmp_path / "digits_predict_net.pb") as state:
        found = graph(state)
        check(found, state)
    part = found.parts[0]
    assert loose(part) == set()
    assert [value.name for value in part.inputs] == ["image"]
    assert {"conv.weight", "hidden.weight", "output.bias"} <= set(part.tensors)
    assert part.values["conv.weight"] == "float32[16, 1, 3, 3]"


def test_a_blob_that_is_written_again_has_a_value_for_each_time() -> None:
    found = drawn(
        net(
            ("Conv", "data w", "c"),
            ("Relu", "c", "c"),
            ("Dropout", "c", "c mask"),
            ("Sum", "c data", "data"),
            ("Iter", "w", "w"),
            ("Softmax", "data", "y"),
            external_input=["data", "w"],
            external_output=["y", "c"],
        ),
        "w",
    )
    (part,) = found.parts
    assert [(node.inputs, node.outputs) for node in part.nodes] == [
        (["data", "w"], ["c"]),
        (["c"], ["c (2)"]),
        (["c (2)"], ["c (3)", "mask"]),
        (["c (3)", "data"], ["data (2)"]),
        (["w"], ["w (2)"]),
        (["data (2)"], ["y"]),
    ]
    assert [value.name for value in part.outputs] == ["y", "c (3)"]
    assert part.tensors == {"w": 0}


def test_names_that_look_like_later_values_stay_apart() -> None:
    predict = Message(NET)
    for written in ("x", "x (2)", "x", "x (2)"):
        predict.add("op", type="Relu", input=["x"], output=[written])
    (part,) = drawn(predict).parts
    assert [node.outputs for node in part.nodes] == [["x (3)"], ["x (2)"], ["x (4)"], ["x (2) (2)"]]


def test_nets_in_arguments_are_parts_and_read_what_is_around_them() -> None:
    then = net(("Relu", "x", "t"), ("Add", "t x", "x"), name="then", external_output=["x"])
    inner = net(("Abs", "x w", "e"), external_input=["k"], external_output=["e", "w"])
    predict = net(("Relu", "x", "x"), ("If", "c", "x"), ("Softmax", "x", "y"))
    predict.op[1].add("arg", name="then_net", n=then)
    predict.op[1].add("arg", name="else_net", nets=[inner])
    found = drawn(predict, "w")
    assert [(part.kind, part.name) for part in found.parts] == [
        ("net", ""), ("net", "then"), ("net", "else_net"),
    ]  # fmt: skip
    assert found.parts[0].nodes[1].parts == [1, 2]
    assert found.parts[0].nodes[1].outputs == ["x (3)"]
    assert [(node.inputs, node.outputs) for node in found.parts[1].nodes] == [
        (["x (2)"], ["t"]),
        (["t", "x (2)"], ["x (3)"]),
    ]
    assert [value.name for value in found.parts[1].outputs] == ["x (3)"]
    assert loose(found.parts[2]) == {"x (2)"}
    assert found.parts[0].tensors == found.parts[2].tensors == {"w": 0}
    assert found.parts[2].values == {"w": "float32[2]"}


def test_a_step_net_that_is_text() -> None:
    step = net(("FC", "h w", "h_next"), name="step", external_input=["h", "w"])
    predict = net(("RecurrentNetwork", "x", "y"))
    predict.op[0].add("arg", name="step_net", s=step.to_text().encode())
    predict.op[0].add("arg", name="backward_step_net", s=b"no net { at all")
    found = drawn(predict, "w")
    assert found.parts[1].name == "step"
    assert [value.name for value in found.parts[1].inputs] == ["h"]
    assert found.parts[1].tensors == {"w": 0}
    shown = {a.name: (a.kind, a.part) for a in found.parts[0].nodes[0].attributes}
    assert shown == {"step_net": ("net", 1), "backward_step_net": ("string", None)}


def test_arguments_devices_and_facts_are_text() -> None:
    predict = net(("Custom", "x", "y"), name="n", type="dag", num_workers=4)
    predict.add("arg", name="moment", f=0.1)
    operator = predict.op[0]
    operator["engine"], operator["name"] = "CUDNN", "op1"
    operator.make("device_option", device_type=1, device_id=3)
    operator["control_input"] = ["z"]
    given_: dict[str, dict[str, Any]] = {
        "f": {"f": 0.1}, "i": {"i": 0}, "s": {"s": b"NCHW"}, "b": {"s": b"\xff\x00"},
        "floats": {"floats": [0.5] * 100}, "ints": {"ints": [3, 3]}, "empty": {},
        "strings": {"strings": [b"a", b"b"]},
    }  # fmt: skip
    for name, values in given_.items():
        operator.add("arg", name=name, **values)
    found = drawn(predict)
    (node,) = found.parts[0].nodes
    shown = {a.name: (a.kind, a.text) for a in node.attributes}
    assert shown["floats"][1].endswith(", ... 100 in all]")
    del shown["floats"]
    assert shown == {
        "f": ("float", "0.1"), "i": ("int", "0"), "s": ("string", "NCHW"),
        "b": ("string", "2 bytes: ff 00"), "ints": ("ints", "[3, 3]"), "empty": ("empty", ""),
        "strings": ("strings", "[a, b]"), "engine": ("string", "CUDNN"),
        "device": ("device", "CUDA 3"), "control inputs": ("blobs", "[z]"),
    }  # fmt: skip
    assert found.about == {"net": "n", "type": "dag", "workers": "4", "argument: moment": "0.1"}


def test_a_stand_in_for_an_input_is_no_weight() -> None:
    predict = net(("Relu", "data", "r"), ("Add", "r one", "y"), external_input=["data", "one"])
    zero = tk.Tensor.of(np.zeros((1, 1), np.float32))
    state = State({"data": zero, "one": zero}, document=Nets(predict))
    (part,) = graph(state).parts
    assert [value.name for value in part.inputs] == ["data"]
    assert part.tensors == {"one": 1}


def test_inputs_have_the_types_that_are_known() -> None:
    nets = Nets(net(("Relu", "x", "y")), ["x"], ["y"], {"x": Given("float32", (1, 3))})
    (part,) = graph(State({}, document=nets)).parts
    assert [(v.name, v.type) for v in part.inputs] == [("x", "float32[1, 3]")]
    assert [value.name for value in part.outputs] == ["y"]


def test_five_thousand_operators_are_quick() -> None:
    names = ["x", *(f"v{i % 50}" for i in range(5_000))]
    predict = net(*(("Relu", f"{a} w", b) for a, b in pairwise(names)))
    predict = Message.parse(NET, predict.encode())
    start = time.process_time()
    found = drawn(predict, "w")
    assert time.process_time() - start < 10
    assert len(found.parts[0].nodes) == 5_000


def test_what_is_too_much_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tensorkeep.viewer.graphs.caffe2.Budget", partial(Budget, nodes=200))
    found = drawn(net(*(("Relu", "x", "x") for _ in range(250))))
    assert len(found.parts[0].nodes) == 200
    assert found.left_out == 50
    assert found.parts[0].nodes[-1].outputs == ["x (201)"]


def test_nets_within_nets_are_bounded() -> None:
    inner = net(("Abs", "x", "y"))
    for _ in range(80):
        outer = net(("While", "x", "y"))
        outer.op[0].add("arg", name="loop_net", n=inner)
        inner = outer
    found = drawn(inner)
    assert len(found.parts) == 65
    assert found.left_out == 1


@pytest.mark.parametrize("name", ["<b>", "__proto__", "x" * 9_000, "\u202e", "a\nb"])
def test_hostile_names_are_text(name: str) -> None:
    predict = Message(NET, name=name)
    predict.add("op", type=name, name=name, input=[name], output=[name], engine=name)
    predict.add("op", type="Relu", input=[name], output=[name])
    found = drawn(predict)
    first, second = found.parts[0].nodes
    assert first.outputs == second.inputs != first.inputs


def test_names_that_are_no_utf8() -> None:
    data = net(("Relu", "zz~~", "zz~~"), name="zz~~").encode().replace(b"zz~~", b"zz\xff\xfe")
    found = drawn(Message.parse(NET, data))
    assert found.parts[0].nodes[0].outputs == ["zz\\xff\\xfe (2)"]


_BLOBS = st.lists(st.sampled_from(["a", "b", "c", "a (2)", "w"]), max_size=3)
_OPERATORS = st.lists(st.tuples(_BLOBS, _BLOBS), max_size=12)


@settings(deadline=None)
@given(_OPERATORS, _OPERATORS, st.lists(st.sampled_from(["a", "w"]), max_size=1))
def test_every_value_comes_from_the_latest_writer(
    outer: list[tuple[list[str], list[str]]],
    inner: list[tuple[list[str], list[str]]],
    inputs: list[str],
) -> None:
    predict, step = Message(NET), Message(NET)
    for made, rows in ((predict, outer), (step, inner)):
        for read, written in rows:
            made.add("op", type="Any", input=read, output=written)
    predict.add("op", type="If").add("arg", name="then_net", n=step)
    found = drawn(predict, "w", inputs=tuple(inputs))
    main, within = found.parts
    now: dict[str, str] = {}
    for node, (read, written) in zip(main.nodes, outer, strict=False):
        for shown, blob in zip(node.inputs, read, strict=True):
            assert shown == now.setdefault(blob, shown)
        now.update(zip(written, node.outputs, strict=True))
    assert loose(main) == set()
    known, loose_ = sources(main), loose(within)
    own = dict[str, str]()
    for node, (read, written) in zip(within.nodes, inner, strict=True):
        for shown, blob in zip(node.inputs, read, strict=True):
            expected = own.setdefault(blob, shown)
            assert shown == expected
            if shown in loose_ and blob in now:
                assert shown == now[blob]
                assert shown in known
        own.update(zip(written, node.outputs, strict=True))


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_damage_gives_a_graph_or_one_of_our_errors(data: st.DataObject) -> None:
    predict = net(("Relu", "x w", "x"), ("If", "x", "y"), name="n", external_input=["x"])
    predict.op[1].add("arg", name="then_net", n=net(("Abs", "x", "y")))
    predict.op[1].add("arg", name="k", ints=[1, 2, 3])
    whole = bytearray(predict.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with suppress(TensorKeepError):
        drawn(Message.parse(NET, bytes(whole)), "w")
