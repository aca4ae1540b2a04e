from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorkeep.caffe2 import (
    Arguments,
    Device,
    Operator,
    Workspace,
    create_argument,
    create_operator,
    gradient_of,
    no_gradient,
    register,
    should_not_do_gradient,
)
from tensorkeep.caffe2.operator import OPERATORS
from tensorkeep.errors import ArgumentError, MissingError, UnsupportedError
from tensorkeep.message import Message
from tensorkeep.wire.caffe2.schema import ARGUMENT, NET, OPERATOR


@pytest.mark.parametrize(
    ("value", "field", "held"),
    [
        (3, "i", 3),
        (True, "i", 1),
        (np.int32(3), "i", 3),
        (0.5, "f", 0.5),
        (np.float64(0.5), "f", 0.5),
        ("é", "s", "é".encode()),
        (b"\xff", "s", b"\xff"),
        ("\udcff", "s", b"\xff"),
        ([1, 2], "ints", [1, 2]),
        ((1, True), "ints", [1, 1]),
        (np.array([[1, 2]], np.uint8), "ints", [1, 2]),
        (np.array(7), "ints", [7]),
        ([0.5, 1.5], "floats", [0.5, 1.5]),
        (np.array([0.5], np.float32), "floats", [0.5]),
        (["a", b"b"], "strings", [b"a", b"b"]),
        (np.array(["a"], object), "strings", [b"a"]),
    ],
)
def test_arguments_are_typed(value: Any, field: str, held: Any) -> None:
    argument = create_argument("x", value)
    assert list(argument) == ["name", field]
    found = argument[field]
    assert (found.tolist() if isinstance(found, np.ndarray) else found) == held


def test_nets_and_messages_are_arguments() -> None:
    net = Message(NET, name="inner")
    assert create_argument("x", net).n == net
    assert create_argument("x", [net, net]).nets == [net, net]
    other = create_operator("Save", ["w"])
    assert create_argument("x", other).s == other.encode()


@pytest.mark.parametrize("value", [object(), [1, 0.5], [1, "a"], [[1], [2]], 1j, {1: object()}])
def test_other_values_are_no_arguments(value: Any) -> None:
    with pytest.raises(ArgumentError, match="'x'"):
        create_argument("x", value)


def test_an_operator_def() -> None:
    definition = create_operator(
        "Save", "w", name="keep", device=Device(1, 2), db="x", absent=None, empty=[]
    )
    again = Message.parse(OPERATOR, definition.encode())
    assert (again.type, again.input, again.output, again.name) == ("Save", ["w"], [], "keep")
    assert (again.device_option.device_type, again.device_option.device_id) == (1, 2)
    assert [argument.name for argument in again.arg] == ["db", "empty"]


def test_typed_access() -> None:
    given = Arguments(
        create_operator("Load", i=3, s="text", f=0.5, ints=[1], texts=["a"], floats=[0.5], none=[])
    )
    assert given.integer("i") == 3
    assert given.flag("i") is True
    assert given.text("s") == "text"
    assert given.number("f") == 0.5
    assert given.integers("ints") == [1]
    assert given.texts("texts") == ["a"]
    assert given.numbers("floats").tolist() == [0.5]
    assert given.texts("none") == []
    assert given.integers("none") == []
    assert (given.integer("absent", 7), given.text("absent", "x")) == (7, "x")
    assert given.holds("i", "i")
    assert not given.holds("f", "i")
    assert not given.holds("absent", "i")
    for wrong in (
        lambda: given.integer("f"),
        lambda: given.text("i"),
        lambda: given.texts("s"),
        lambda: given.integers("texts"),
        lambda: given.number("i"),
    ):
        with pytest.raises(ArgumentError, match="Load operator: the argument"):
            wrong()


def test_an_argument_given_twice() -> None:
    definition = create_operator("Load", db="x")
    definition.arg.append(create_argument("db", "x"))
    assert Arguments(definition).text("db") == "x"
    definition.arg.append(Message(ARGUMENT, name="db", s=b"y"))
    with pytest.raises(ArgumentError, match="'db' is given twice"):
        Arguments(definition)


@pytest.mark.parametrize(
    ("type", "inputs", "outputs", "message"),
    [
        ("Save", [], [], "has 0 inputs, where 1 or more are taken"),
        ("Save", ["w"], ["y"], "has 1 outputs, where 0 are taken"),
        ("DBExists", [], [], "has 0 outputs, where 1 are taken"),
        ("EstimateAllBlobSizes", [], ["x"], "has 1 outputs, where 2 are taken"),
        ("CreateDB", [], [], "has 0 outputs, where 1 are taken"),
        ("Checkpoint", ["w"], ["y"], "has 1 outputs, where 0 are taken"),
        ("CreateDB", [], ["x", "y"], "has 2 outputs, where 1 are taken"),
    ],
)
def test_the_schema(type: str, inputs: list[str], outputs: list[str], message: str) -> None:
    ws = Workspace()
    ws.feed("w", b"")
    with pytest.raises(ArgumentError, match=message):
        ws.run(create_operator(type, inputs, outputs))


def test_what_does_not_run() -> None:
    ws = Workspace()
    with pytest.raises(UnsupportedError, match=r"'Conv'.*Save"):
        ws.run(create_operator("Conv", ["x"], ["y"]))
    with pytest.raises(ArgumentError, match="OperatorDef"):
        ws.run(Message(NET))
    with pytest.raises(ArgumentError, match="OperatorDef is needed, not str"):
        ws.run("Save")  # type: ignore[arg-type]
    with pytest.raises(MissingError, match="'w'"):
        ws.run(create_operator("Save", ["w"], db="x", db_type="minidb"))


@pytest.fixture
def registry() -> Iterator[None]:
    """Forget the operators that a test registers."""
    before = dict(OPERATORS)
    yield
    OPERATORS.clear()
    OPERATORS.update(before)


@pytest.mark.usefixtures("registry")
def test_an_operator_of_ones_own() -> None:
    @register("CountInputs", "CountThem")
    class CountInputsOp(Operator):
        def run(self) -> bool:
            self.workspace.feed(self.outputs[0], np.array(len(self.inputs)), self.device)
            return True

    ws = Workspace()
    ws.feed("w", b"")
    assert ws.run(create_operator("CountThem", ["w", "w"], ["n"], device=Device(1, 3)))
    assert ws.fetch("n") == 2
    assert ws.blob("n").device == Device(1, 3)


def test_gradients() -> None:
    for type in ("Load", "CreateDB"):
        assert gradient_of(create_operator(type, [], ["w"])) == []
    for type in ("Save", "Checkpoint", "Snapshot", "DBExists"):
        with pytest.raises(UnsupportedError, match=f"{type} operator: its gradient must not"):
            gradient_of(create_operator(type, ["w"]))
    for type in ("GetAllBlobNames", "EstimateAllBlobSizes"):
        with pytest.raises(UnsupportedError, match="no gradient is known"):
            gradient_of(create_operator(type))
    with pytest.raises(UnsupportedError, match="'Conv'"):
        gradient_of(create_operator("Conv"))


@pytest.mark.usefixtures("registry")
def test_gradients_are_registered() -> None:
    @register("Mine")
    class MineOp(Operator):
        pass

    definition = create_operator("Mine")
    should_not_do_gradient("Mine")
    with pytest.raises(UnsupportedError, match="must not"):
        gradient_of(definition)
    no_gradient("Mine")
    assert gradient_of(definition) == []


def test_what_an_operator_is_made_of_is_checked_at_once(tmp_path: Path) -> None:
    wrong: Any = None
    with pytest.raises(ArgumentError, match="type of an operator is text, not NoneType"):
        create_operator(wrong)
    wrongs: list[Any] = [[3], 3, [b"x"]]
    for names in wrongs:
        with pytest.raises(ArgumentError, match="inputs of an operator are names"):
            create_operator("Save", names)
        with pytest.raises(ArgumentError, match="outputs of an operator are names"):
            create_operator("Save", [], names)
    assert create_operator("Save", db=tmp_path).arg[0].s == str(tmp_path).encode()
