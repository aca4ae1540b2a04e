"""The halves of a model of Caffe2's are found and put together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.models.building_checks import graph_of
from tests.models.exchange.caffe2_nets import net, op, translated

import tensorkeep as tk
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    LossError,
    MissingError,
    UnknownFormatError,
)
from tensorkeep.message import Message
from tensorkeep.models.exchange.caffe2_to_onnx import is_caffe2, open_caffe2
from tensorkeep.state import State
from tensorkeep.stores import open_database
from tensorkeep.wire.caffe2.exports import read_export
from tensorkeep.wire.caffe2.nets import Given, Nets
from tensorkeep.wire.caffe2.schema import META_NET

DATA = Path(__file__).parents[2] / "data" / "caffe2"
PAIR = DATA / "net_squeezenet_mini"
NAMES = [
    ("predict_net.pb", "init_net.pb"),
    ("squeezenet_predict_net.pb", "squeezenet_init_net.pb"),
    ("predict_net.pbtxt", "init_net.pb"),
    ("predict_net.pb", "init_net.pbtxt"),
    ("exec_net.pb", "init_net.pb"),
    ("model.pb", "model_init.pb"),
    ("m-predict.pb", "m-init.pb"),
    ("v2.predict_net.pb", "v2.init_net.pb"),
    ("anything.pb", "init_net.pb"),
]


def nets_of(state: State) -> Nets:
    """Give the net of a state that has one."""
    assert isinstance(state.document, Nets)
    return state.document


def put(folder: Path, predict: str, init: str) -> None:
    for kind, name in (("predict_net", predict), ("init_net", init)):
        ending = ".pbtxt" if name.endswith(".pbtxt") else ".pb"
        shutil.copy(PAIR / f"{kind}{ending}", folder / name)


@pytest.mark.parametrize(("predict", "init"), NAMES)
def test_a_pair_is_found_from_either_half_and_its_folder(
    tmp_path: Path, predict: str, init: str
) -> None:
    put(tmp_path, predict, init)
    for target in (predict, init, ""):
        if target == init and predict == "anything.pb":
            continue
        with open_caffe2(tmp_path / target) as state:
            assert isinstance(state.document, Nets), target
            assert state["conv1_w"].shape == (8, 3, 3, 3), target
            made, _ = translated(state)
            assert len(graph_of(made)) == 22


def test_an_opened_half_is_completed() -> None:
    for name in ("predict_net.pb", "init_net.pb"):
        with tk.open(PAIR / name) as half:
            assert is_caffe2(half)
            assert "conv1_w" in open_caffe2(half)
    whole = open_caffe2(PAIR)
    assert open_caffe2(whole)["conv1_w"].shape == (8, 3, 3, 3)
    assert not is_caffe2(tk.open(DATA / "scalars.minidb"))


def test_weights_come_from_anywhere(tmp_path: Path) -> None:
    put(tmp_path, "predict_net.pb", "init_net.pb")
    arrays = tk.load(tmp_path / "init_net.pb")
    del arrays["data"]
    (tmp_path / "init_net.pb").unlink()
    tk.save(arrays, tmp_path / "weights.safetensors")
    tk.save(arrays, tmp_path / "weights.minidb")
    lone = tmp_path / "predict_net.pb"
    for weights in (arrays, tmp_path / "weights.safetensors", tmp_path / "weights.minidb"):
        state = open_caffe2(lone, weights)
        made, report = translated(state)
        assert made["conv1_w"].numpy().tolist() == arrays["conv1_w"].tolist()
        assert not report.remarks
    with tk.open(tmp_path / "weights.safetensors") as opened:
        assert "conv1_w" in open_caffe2(lone, opened)
    less = {name: array for name, array in arrays.items() if name != "conv1_w"}
    with pytest.raises(MissingError, match="the weight 'conv1_w' is not in the weights that were"):
        translated(open_caffe2(lone, less))
    tk.save(less, tmp_path / "less.npz")
    with pytest.raises(MissingError, match=r"the weight 'conv1_w' is not in .*less\.npz"):
        translated(open_caffe2(lone, tmp_path / "less.npz"))
    with pytest.raises(ArgumentError, match="weights has the key 3"):
        open_caffe2(lone, {3: arrays["conv1_w"]})  # type: ignore[dict-item]


def test_a_predict_net_alone_says_what_it_lacks(tmp_path: Path) -> None:
    put(tmp_path, "predict_net.pb", "other.pb")
    (tmp_path / "other.pb").unlink()
    state = open_caffe2(tmp_path / "predict_net.pb")
    with pytest.raises(MissingError) as caught:
        translated(state)
    assert (
        "and 11 more are not in the net, and there is no init_net.pb or init_net.pbtxt beside it."
        in (str(caught.value))
    )
    assert "Give the file that has them with weights=." in str(caught.value)


def test_an_init_net_alone_says_what_it_lacks(tmp_path: Path) -> None:
    shutil.copy(PAIR / "init_net.pb", tmp_path)
    with pytest.raises(MissingError, match="there is no predict net beside this init net"):
        open_caffe2(tmp_path / "init_net.pb")


def test_folders_without_a_net_or_with_several(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormatError, match="holds no predict net of Caffe2's"):
        open_caffe2(tmp_path)
    put(tmp_path, "a_predict_net.pb", "a_init_net.pb")
    put(tmp_path, "b_predict_net.pb", "b_init_net.pb")
    with pytest.raises(ArgumentError, match=r"several predict nets: a_predict.*, b_predict"):
        open_caffe2(tmp_path)
    shutil.copy(DATA / "scalars.minidb", tmp_path / "x.minidb")
    with pytest.raises(ArgumentError, match="is no net of Caffe2's"):
        open_caffe2(tmp_path / "x.minidb")
    with pytest.raises(MissingError):
        open_caffe2(tmp_path / "none.pb")


def test_value_info_tells_types_and_shapes(tmp_path: Path) -> None:
    put(tmp_path, "predict_net.pb", "init_net.pb")
    beside = tmp_path / "value_info.json"
    beside.write_text(json.dumps({"data": [1, [1, 3, 32, 32]]}))
    state = open_caffe2(tmp_path)
    assert nets_of(state).given == {"data": Given("float32", (1, 3, 32, 32))}
    made, _ = translated(state)
    assert str(made.graph).endswith(
        "data: float32[1, 3, 32, 32] -> softmaxout: float32[1, 9, 1, 1])"
    )
    for wrong in ('{"data": [99, [1]]}', '{"data": [1, [-1]]}', '{"data": 3}', "[1]"):
        beside.write_text(wrong)
        with pytest.raises(CorruptError, match=r"value_info\.json"):
            open_caffe2(tmp_path)


def test_an_init_net_that_computes_runs_first(tmp_path: Path) -> None:
    fill = op("GivenTensorFill", "", "half", shape=[2], values=[1.0, 2.0])
    init = net(fill, op("Scale", "half", "w", scale=2.0))
    init["name"] = "init"
    (tmp_path / "init_net.pb").write_bytes(init.encode())
    (tmp_path / "predict_net.pb").write_bytes(net(op("Mul", "x w", "y"), outputs="y").encode())
    made, _ = translated(open_caffe2(tmp_path))
    y = tk.run(made, {"x": np.array([3, 4], np.float32)})["y"]
    assert y.tolist() == [6, 16]


def test_a_net_in_a_store_of_memory() -> None:
    from tensorkeep.store import Location
    from tensorkeep.stores.memory import MemoryStore

    store = MemoryStore()
    for name in ("predict_net.pb", "init_net.pb"):
        store.put(name, [(PAIR / name).read_bytes()])
    store.commit()
    assert "conv1_w" in open_caffe2(Location(store, "predict_net.pb"))


def test_a_predict_net_is_not_lost_silently(tmp_path: Path) -> None:
    with (
        tk.open(PAIR / "predict_net.pb") as state,
        pytest.raises(LossError, match="a Caffe2 net of 22 operators, is left out"),
    ):
        tk.save(state, tmp_path / "x.npz")


def test_a_predictors_export_in_a_database_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "model.sqlite"
    source = DATA / "predictor.minidb"
    with tk.open(source) as export, open_database("sqlite", path, "new") as database:
        tk.save(export, database)
    with open_caffe2(path) as state:
        made, _ = translated(state)
        assert [value.name for value in graph_of(made).inputs] == ["data"]
        assert made["h_w"].shape == (4, 5)


def test_a_pair_is_not_saved_as_weights_alone_silently(tmp_path: Path) -> None:
    with open_caffe2(PAIR) as state:
        for name in ("x.minidb", "x.npz"):
            with pytest.raises(LossError, match="a Caffe2 net of 22 operators, is left out"):
                tk.save(state, tmp_path / name)
    with tk.open(DATA / "predictor.minidb") as export:
        tk.save(export, tmp_path / "again.minidb")
    assert nets_of(open_caffe2(tmp_path / "again.minidb")).inputs == ["data"]


def test_what_an_export_computes_before_it_predicts(tmp_path: Path) -> None:
    fill = op("GivenTensorFill", "", "shift", shape=[2], values=[1.0, 2.0])
    zeros = op("ConstantFill", "", "x", shape=[3, 2])
    meta = Message(META_NET)
    for key, value in (("INPUTS_BLOB_TYPE", "x"), ("OUTPUTS_BLOB_TYPE", "y")):
        meta.add("blobs", key=f"{key}_m", value=[value])
    meta.add("nets", key="PREDICT_NET_TYPE_m", value=net(op("Add", "x shift", "y")))
    meta.add("nets", key="PREDICT_INIT_NET_TYPE_m", value=net(zeros, fill))
    export = read_export(meta.encode(), "here")
    assert export.given == {"x": Given("float32", (3, 2))}
    made, _ = translated(State({}, document=export))
    x = np.zeros((3, 2), np.float32)
    assert tk.run(made, {"x": x})["y"].tolist() == [[1, 2]] * 3
    meta.add("nets", key="PREDICT_NET_TYPE_other", value=net())
    with pytest.raises(ArgumentError, match="holds several models: _m, _other"):
        read_export(meta.encode(), "here")
    with pytest.raises(MissingError, match="there is no PREDICT_NET_TYPE among its nets"):
        read_export(b"", "here")


def mul(folder: Path, *operators: Message, init: list[Message] | None = None) -> Path:
    """Put down a net that gives x * w, with operators before it or in an init net."""
    folder.mkdir()
    predict = net(*operators, op("Mul", "x w", "y"), inputs="x w", outputs="y")
    (folder / "predict_net.pb").write_bytes(predict.encode())
    if init:
        (folder / "init_net.pb").write_bytes(net(*init).encode())
    return folder


def test_weights_that_are_given_come_before_those_that_are_made(tmp_path: Path) -> None:
    given = {"w": np.array([10.0], np.float32)}
    two = op("GivenTensorFill", "", "w", shape=[1], values=[2.0])
    random = op("XavierFill", "", "w", shape=[1])
    thrice = op("Scale", "w", "w", scale=3.0)
    other = op("GivenTensorFill", "", "v", shape=[1], values=[2.0])
    targets = [
        mul(tmp_path / "own", two),
        mul(tmp_path / "random", random),
        mul(tmp_path / "computed", init=[two, thrice]),
        mul(tmp_path / "half", init=[two, thrice]) / "init_net.pb",
        mul(tmp_path / "drawn", init=[random, thrice, other]) / "init_net.pb",
    ]
    x = np.ones(1, np.float32)
    for target in targets:
        made, _ = translated(open_caffe2(target, given))
        assert tk.run(made, {"x": x})["y"] == 10, target
    made, _ = translated(open_caffe2(mul(tmp_path / "later", two, thrice), given))
    assert tk.run(made, {"x": x})["y"] == 6  # what the net writes several times is its own


def test_a_net_that_belongs_to_another_one_is_not_taken(tmp_path: Path) -> None:
    put(tmp_path, "predict_net.pb", "init_net.pb")
    shutil.copy(tmp_path / "predict_net.pb", tmp_path / "b_predict_net.pb")
    shutil.copy(tmp_path / "init_net.pb", tmp_path / "c_init_net.pb")
    with pytest.raises(MissingError, match=r"there is no b_init_net\.pb or b_init_net"):
        translated(open_caffe2(tmp_path / "b_predict_net.pb"))
    with pytest.raises(MissingError, match="no predict net beside this init net"):
        open_caffe2(tmp_path / "c_init_net.pb")
    with open_caffe2(tmp_path / "b_predict_net.pb", tmp_path / "c_init_net.pb") as state:
        assert "conv1_w" in state


def test_what_a_net_keeps_for_its_next_run_is_told(tmp_path: Path) -> None:
    zero = op("GivenTensorFill", "", "w", shape=[1], values=[0.0])
    folder = mul(tmp_path / "state", init=[zero])
    predict = net(op("Add", "x w", "y"), op("Copy", "y", "w"), inputs="x w", outputs="y")
    (folder / "predict_net.pb").write_bytes(predict.encode())
    _, report = translated(open_caffe2(folder))
    assert "changed w: the net writes over it for its next run" in "\n".join(
        map(str, report.remarks)
    )
    drawn = mul(tmp_path / "drawn", init=[op("GaussianFill", "", "w", shape=[1])])
    _, report = translated(open_caffe2(drawn))
    assert "changed w: it is an input, which the init net draws at random (GaussianFill)" in [
        str(remark) for remark in report.remarks
    ]


def test_a_fill_of_the_net_itself_comes_out(tmp_path: Path) -> None:
    fill = op("GivenTensorFill", "", "w", shape=[1], values=[2.0])
    folder = mul(tmp_path / "own", fill)
    predict = net(fill, op("Mul", "x w", "y"), inputs="x", outputs="w y")
    (folder / "predict_net.pb").write_bytes(predict.encode())
    made, _ = translated(open_caffe2(folder))
    found = tk.run(made, {"x": np.full(1, 3, np.float32)})
    assert (found["w"], found["y"]) == (2, 6)
