"""What differs between models of the dialects that are no graphs of ONNX's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import tensorkeep as tk
from tensorkeep.diff import Change, diff
from tensorkeep.message import Message
from tensorkeep.state import State
from tensorkeep.wire.caffe2.nets import Nets
from tensorkeep.wire.caffe2.schema import NET
from tensorkeep.wire.nnef.document import Document

NNEF = """version 1.0;
graph net( x ) -> ( y )
{
    x = external(shape = [1, 4]);
    y = {call};
}
"""


def nnef(folder: Path, name: str, call: str) -> Path:
    (folder / name).write_text(NNEF.replace("{call}", call))
    return folder / name


def test_operations_of_nnef(tmp_path: Path) -> None:
    a = nnef(tmp_path, "a.nnef", "leaky_relu(x, alpha = 0.5)")
    same = nnef(tmp_path, "b.nnef", "leaky_relu(alpha=0.5, x = x)")
    other = nnef(tmp_path, "c.nnef", "leaky_relu(x, alpha = 0.25)")
    assert diff(a, same).equal
    assert diff(a, other).values == [
        Change(
            "model: operation y",
            "leaky_relu(x = x, alpha = 0.5)",
            "leaky_relu(x = x, alpha = 0.25)",
        )
    ]
    tk.save({}, tmp_path / "none.safetensors")
    (found,) = diff(a, tmp_path / "none.safetensors").values
    assert found == Change("model: dialect", "nnef: 2 operations", "absent")


def test_names_types_and_quantization_of_nnef() -> None:
    text = NNEF.replace("{call}", "relu(x)")
    bare = Document.parse(text)
    line = '"y": linear_quantize(min = 0.0, max = 1.0, bits = 8);'
    noted = Document.parse(text, quantization=line)
    noted.names["x"], noted.types["x"] = "a name", "float16"
    added = dict(noted.parts()).items() - dict(bare.parts()).items()
    assert {place for place, _ in added} == {'quantization of "y"', "note of x"}


def net(*operators: str, values: float = 0.0) -> State:
    made = Message(NET, name="net")
    for operator in operators:
        kind, taken, given = operator.split()
        row = made.add("op", type=kind, input=[taken], output=[given])
        row.add("arg", name="values", floats=np.full(1000, values, np.float32))
    return State({}, document=Nets(made))


def changed(a: State, b: State) -> list[str]:
    assert a.document is not None
    assert b.document is not None
    left, right = dict(a.document.parts()), dict(b.document.parts())
    return [place for place in {**left, **right} if left.get(place) != right.get(place)]


def test_operators_of_caffe2() -> None:
    one = net("Relu x x", "Abs x y", "Exp z u")
    assert changed(one, net("Relu x x", "Exp z u", "Abs x y")) == []  # the same all the same
    assert changed(one, net("Abs x y", "Relu x x", "Exp z u")) == ["operator y"]
    assert changed(one, net("Relu x x", "Abs x y")) == ["operator u"]
    long = net("Relu x x", "Abs x y", "Exp z u", values=1.0)
    assert changed(one, long) == ["operator x~2", "operator y", "operator u"]
    assert one.document is not None
    assert max(len(text) for _, text in one.document.parts()) < 300
