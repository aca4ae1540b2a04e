"""Models as two nets of Caffe2's: a predict net, and beside it the init net that fills it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models.exchange.caffe2_trips import predict_of, to_caffe2, to_onnx
from tests.models.exchange.onnx_nodes import array, floats

import tensorkeep as tk
from tensorkeep import caffe2
from tensorkeep.cli import main
from tensorkeep.errors import ArgumentError, CorruptError, LossError
from tensorkeep.message import Message
from tensorkeep.models.exchange.caffe2_to_onnx import open_caffe2
from tensorkeep.models.exchange.emitting import Emitter
from tensorkeep.state import State
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.wire.caffe2.nets import Given, Nets
from tensorkeep.wire.caffe2.schema import NET

X, PICK = floats(2, 3), np.array([1, -1])


def net(scale: float = 2.0, names: tuple[str, str, str] = ("x", "i", "y")) -> State:
    """Make a net that takes two inputs, one of them integers, and has two weights."""
    to = Emitter("tiny", where="tiny")
    x = to.input(names[0], "float32", (2, 3))
    i = to.input(names[1], "int64", (2,))
    moved = to.node("Add", [x, to.constant([[0.0]], "float32", hint="zero")])
    scaled = to.node("Mul", [moved, to.constant([scale] * 3, "float32", hint="scale")])
    to.output(to.node("Gather", [scaled, i], names[2]), "float32", (2, 3))
    made = to_caffe2(to.state())
    return made.replace(metadata={"author": "someone", "deep": {"list": [1, None]}})


def result(target: Any, names: tuple[str, str, str] = ("x", "i", "y")) -> Any:
    return tk.run(target, {names[0]: X, names[1]: PICK})[names[2]]


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("predict_net.pb", "init_net.pb"),
        ("lenet_predict_net.pb", "lenet_init_net.pb"),
        ("lenet.predict_net.pb", "lenet.init_net.pb"),
        ("ä ö/predict_net.pbtxt", "ä ö/init_net.pbtxt"),
    ],
)
def test_both_nets_are_written_and_read(tmp_path: Path, name: str, beside: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    tk.save(net(), tmp_path / name)
    assert sorted(os.listdir((tmp_path / name).parent)) == sorted(
        [Path(beside).name, Path(name).name]
    )
    np.testing.assert_array_equal(result(tmp_path / name), (X * 2)[PICK])
    with tk.open(tmp_path / name) as predict:
        assert isinstance(predict.document, Nets)
        assert predict.document.predict == predict_of(net())
        assert predict.document.given == {
            "x": Given("float32", (2, 3)),
            "i": Given("int64", (2,)),
        }
    with tk.open(tmp_path / beside) as init:
        assert list(init) == ["zero", "scale", "x", "i"]
        assert init["x"].numpy().tolist() == init["i"].numpy().tolist() == [[0.0]]


def test_what_is_noted_comes_back(tmp_path: Path) -> None:
    """A weight that looks like a stand-in, the types of inputs, metadata, digests."""
    tk.save(net(), tmp_path / "predict_net.pb")
    with open_caffe2(tmp_path / "predict_net.pb") as opened:
        assert {"author": "someone", "deep": {"list": [1, None]}}.items() <= opened.metadata.items()
        assert set(opened.digests) >= {"zero", "scale"}
        back = to_onnx(opened)
        assert back.metadata == {"author": "someone", "deep": {"list": [1, None]}}
        assert set(back.digests) == {"zero", "scale"}
    assert back.graph is not None
    assert [(value.name, value.dtype, value.axes) for value in back.graph.inputs] == [
        ("x", "float32", (2, 3)),
        ("i", "int64", (2,)),
    ]


def test_plain_nets_hold_nothing_of_ours(tmp_path: Path) -> None:
    plain = net().replace(metadata={})
    with pytest.raises(LossError, match="the metadata author, deep in plain form"):
        tk.save(net(), tmp_path / "predict_net.pb", plain=True)
    tk.save(plain, tmp_path / "predict_net.pb", plain=True)
    for name in ("predict_net.pb", "init_net.pb"):
        assert b"tensorkeep" not in (tmp_path / name).read_bytes()
    assert (tmp_path / "predict_net.pb").read_bytes() == predict_of(plain).encode()


def test_the_workspace_runs_the_init_net(tmp_path: Path) -> None:
    tk.save(net(), tmp_path / "predict_net.pb")
    workspace = caffe2.Workspace()
    workspace.run_net(Message.parse(NET, (tmp_path / "init_net.pb").read_bytes()))
    needed = predict_of(net()).external_input
    assert sorted(workspace.blobs()) == sorted(needed)
    assert workspace.fetch("scale").tolist() == [2, 2, 2]


def test_a_pair_is_replaced_whole(tmp_path: Path) -> None:
    tk.save(net(), tmp_path / "predict_net.pb")
    tk.save(net(5.0), tmp_path / "predict_net.pb")
    np.testing.assert_array_equal(result(tmp_path / "predict_net.pb"), (X * 5)[PICK])
    with open_caffe2(tmp_path / "predict_net.pb") as opened:
        tk.save(opened, tmp_path / "predict_net.pb")
    np.testing.assert_array_equal(result(tmp_path / "predict_net.pb"), (X * 5)[PICK])
    assert sorted(os.listdir(tmp_path)) == ["init_net.pb", "predict_net.pb"]


def test_a_save_that_fails_leaves_the_old_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tk.save(net(), tmp_path / "predict_net.pb")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = net(5.0)

    def fails(*_: object) -> None:
        raise OSError(28, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Message, "chunks", fails)  # of the predict net, after the init net is there
        with pytest.raises(OSError, match="no space left"):
            tk.save(other, tmp_path / "predict_net.pb")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["init_net.pb", "net.init_net.pb", "PREDICT_NET.PB"])
def test_names_that_are_of_no_predict_net(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArgumentError, match=r"two nets, .* Name it predict_net\.pb"):
        tk.save(net(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_other_formats_say_that_they_lose_it(tmp_path: Path) -> None:
    with pytest.raises(LossError, match="the model, a Caffe2 net of 3 operators, is left out"):
        tk.save(net(), tmp_path / "net.safetensors")


def test_in_memory() -> None:
    store = MemoryStore({})
    tk.save(net(), Location(store, "models/a_predict_net.pb"))
    assert sorted(store.keys()) == ["models/a_init_net.pb", "models/a_predict_net.pb"]
    found = result(Location(store, "models/a_predict_net.pb"))
    np.testing.assert_array_equal(found, (X * 2)[PICK])


@pytest.mark.parametrize(
    "names", [("0", "1", "2"), ("ä ö", "a/b", "#%0"), ("x\n", '"', "\\"), ("x" * 3000, "i", "y")]
)
@pytest.mark.parametrize("ending", ["pb", "pbtxt"])
def test_odd_names(tmp_path: Path, names: tuple[str, str, str], ending: str) -> None:
    path = tmp_path / f"predict_net.{ending}"
    tk.save(net(names=names), path)
    np.testing.assert_array_equal(result(path, names), (X * 2)[PICK])


def test_doubles_are_told_or_refused(tmp_path: Path) -> None:
    """Whoever puts them into a net; what is translated has none."""
    made = net()
    doubles = made.replace(
        tensors={**dict(made.items()), "scale": tk.Tensor.of(array([0.1] * 3, "float64"))}
    )
    with pytest.raises(LossError, match=r"float64 \(scale\) becomes float32"):
        tk.save(doubles, tmp_path / "predict_net.pb")
    tk.save(doubles, tmp_path / "predict_net.pb", lossy=True)
    np.testing.assert_array_equal(result(tmp_path / "predict_net.pb"), (X * np.float32(0.1))[PICK])


def test_a_net_without_weights_or_inputs(tmp_path: Path) -> None:
    to = Emitter("bare", where="bare")
    to.output(to.node("Relu", [to.input("x", "float32", (2, 3))], "y"), "float32", (2, 3))
    tk.save(to_caffe2(to.state()), tmp_path / "predict_net.pb")
    found = tk.run(tmp_path / "predict_net.pb", {"x": X})
    np.testing.assert_array_equal(found["y"], np.maximum(X, 0))
    to = Emitter("held", where="held")
    to.output(to.constant([1, 2], "int64", hint="y"), "int64", (2,))
    tk.save(to_caffe2(to.state()), tmp_path / "predict_net.pb")
    assert tk.run(tmp_path / "predict_net.pb", {})["y"].tolist() == [1, 2]


def convert(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["convert", *arguments])
    return int(end.value.code or 0)


@pytest.mark.parametrize("there", ["predict_net.pb", "init_net.pb"])
def test_convert_replaces_neither_net_unasked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    there: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    tk.save(to_onnx(net()), "model.onnx")
    Path(there).write_bytes(b"precious")
    assert convert("model.onnx", "predict_net.pb") == 2
    assert f"{there}: is there already. Replace it by --force." in capsys.readouterr().err
    assert Path(there).read_bytes() == b"precious"
    assert convert("model.onnx", "predict_net.pb", "--force") == 0
    np.testing.assert_array_equal(result("predict_net.pb"), (X * 2)[PICK])
    assert convert("predict_net.pb", "back.onnx") == 0
    np.testing.assert_array_equal(result("back.onnx"), (X * 2)[PICK])


def test_halves_of_two_models_are_told_apart(tmp_path: Path) -> None:
    predict = tmp_path / "predict_net.pb"
    tk.save(net(2.0), predict)
    old = predict.read_bytes()
    tk.save(net(3.0, ("x", "i", "z")), predict)
    predict.write_bytes(old)  # as a kill between the two files leaves them
    with pytest.raises(CorruptError, match=r"is not the net that .*init_net\.pb was saved with"):
        open_caffe2(predict)
    with pytest.raises(CorruptError, match="is not the net that"):
        tk.run(predict, {"x": X, "i": PICK})
    with open_caffe2(predict, weights=tmp_path / "init_net.pb") as state:
        assert len(state) == 4


def test_a_plain_pair_says_nothing_of_itself(tmp_path: Path) -> None:
    made = net().replace(metadata={})
    tk.save(made, tmp_path / "predict_net.pb", plain=True)
    with tk.open(tmp_path / "init_net.pb") as state:
        assert set(state.metadata) == {"caffe2"}
