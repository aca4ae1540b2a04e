from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tensorkeep.caffe2 import Workspace, create_operator, load, save
from tensorkeep.caffe2.nets import run_net
from tensorkeep.caffe2.predictor import META_NET_DEF, load_predictor, save_predictor
from tensorkeep.errors import ArgumentError, CorruptError, MissingError, StoreError
from tensorkeep.message import Message
from tensorkeep.wire.caffe2.schema import META_NET, NET

DATA = Path(__file__).parent.parent / "data" / "caffe2"
ENTRIES: dict[str, dict[str, Any]] = {
    entry["file"]: entry for entry in json.loads((DATA / "MANIFEST.json").read_text())["entries"]
}
GOLDEN = DATA / "predictor.minidb"


def expected(entry: dict[str, Any], part: str) -> dict[str, npt.NDArray[Any]]:
    with np.load(DATA / entry["expected"]) as arrays:
        return {row["name"]: arrays[row["npz"]] for row in entry[part] if "npz" in row}


def same(found: Any, array: npt.NDArray[Any]) -> bool:
    return (found.dtype, found.shape, found.tobytes()) == (
        array.dtype,
        array.shape,
        array.tobytes(),
    )


def test_the_golden_export_is_read() -> None:
    entry = ENTRIES["predictor.minidb"]
    export = load_predictor(GOLDEN)
    arrays = expected(entry, "after_init_nets")
    assert list(export.parameters) == entry["blob_keys"]["PARAMETERS_BLOB_TYPE"]
    assert all(same(export.parameters[name], arrays[name]) for name in export.parameters)
    assert export.inputs == entry["blob_keys"]["INPUTS_BLOB_TYPE"]
    assert export.outputs == entry["blob_keys"]["OUTPUTS_BLOB_TYPE"]
    assert export.shapes == {"data": (2, 5), "y": (2, 3), "prob": (2, 3)}
    assert [op.type for op in export.predict_net.op] == ["FC", "Relu", "FC", "Softmax"]
    assert [net.key for net in export.meta.nets] == entry["net_keys"]
    assert export.predict_init_net.name == "predict-init"
    assert export.global_init_net.name == "global-init"


def test_the_init_nets_of_the_golden_export_run_on_its_reader() -> None:
    entry = ENTRIES["predictor.minidb"]
    export = load_predictor(GOLDEN)
    ws = Workspace()
    reader = "!!PREDICTOR_DBREADER"
    ws.run(create_operator("CreateDB", [], [reader], db=str(GOLDEN), db_type="minidb"))
    ws.run(create_operator("Load", [reader], [META_NET_DEF]))
    run_net(ws, export.global_init_net)
    run_net(ws, export.predict_init_net)
    arrays = expected(entry, "after_init_nets")
    assert all(same(ws.fetch(name), array) for name, array in arrays.items())


def test_the_golden_export_is_written_again_byte_for_byte(tmp_path: Path) -> None:
    export = load_predictor(GOLDEN)
    path = tmp_path / "again.minidb"
    path.write_bytes(b"before")
    save_predictor(
        path, export.predict_net, export.parameters, export.inputs, export.outputs, export.shapes
    )
    assert path.read_bytes() == GOLDEN.read_bytes()


def operator(*names: Any, **arguments: Any) -> Message:
    made = create_operator(*names, **arguments)
    made.name = ""  # as core.CreateOperator sets it
    return made


def predict_net() -> Message:
    net = Message(NET, name="pn", op=[operator("FC", ["x", "w", "b"], ["y"])])
    net.add("arg", name="model_id", i=77)
    net.add("arg", name="other", s=b"z")
    return net


PARAMETERS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2, np.float32)}
SHAPES = {"x": (4, 3), "y": (4, 2)}


def test_every_option_gives_the_bytes_that_caffe2s_exporter_gives(tmp_path: Path) -> None:
    extra = Message(NET, name="extra", external_input=["q", "x"], external_output=["tmp"])
    extra.op = [operator("ConstantFill", [], ["tmp"], shape=[1], value=2.0)]
    more = Message(NET, name="glob", external_input=["w"], external_output=["w2", "w"])
    more.op = [operator("Copy", ["w"], ["w2"])]
    path = tmp_path / "m.minidb"
    save_predictor(
        path,
        predict_net(),
        PARAMETERS,
        ["x"],
        ["y"],
        SHAPES,
        name="m",
        extra_init_net=extra,
        global_init_net=more,
        net_type="dag",
        num_workers=3,
        chunk_size=0,
    )
    assert hashlib.sha256(path.read_bytes()).hexdigest() == (
        "5db66c3ace7d2f30847ebb4cfddc0c220d61bea4d2c0bd1c609cc091f50b84b4"
    )
    export = load_predictor(path, name="m")
    assert export.shapes == SHAPES
    assert export.predict_net.type == "dag"
    with pytest.raises(MissingError, match=r"PREDICT_INIT_NET_TYPE. It has: .*_m"):
        load_predictor(path)


def export_to(path: Path, **changes: Any) -> None:
    given: dict[str, Any] = {
        "predict_net": predict_net(),
        "parameters": PARAMETERS,
        "inputs": ["x"],
        "outputs": ["y"],
        "shapes": SHAPES,
    }
    save_predictor(path, **(given | changes))


@pytest.mark.parametrize("db_type", ["minidb", "lmdb", "leveldb", "rocksdb", "sqlite"])
def test_exports_go_to_every_database(db_type: str, tmp_path: Path) -> None:
    export_to(tmp_path / "export", db_type=db_type, durable=False)
    export = load_predictor(tmp_path / "export")
    assert load_predictor(tmp_path / "export", db_type).meta == export.meta
    assert all(same(export.parameters[name], array) for name, array in PARAMETERS.items())
    assert export.predict_net.external_input == ["x", "w", "b"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"inputs": ["x", "x"]}, "'x' is named twice"),
        ({"inputs": ["w"]}, "'w' is both a parameter and an input"),
        ({"outputs": ["b"]}, "'b' is both a parameter and an output"),
        ({"shapes": {"x": (1,)}}, "'y' has no shape"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    changes: dict[str, Any], match: str, tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match=match):
        export_to(tmp_path / "x.minidb", **changes)
    assert not list(tmp_path.iterdir())


def test_a_failing_export_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x.minidb"
    export_to(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        export_to(path, parameters={"w": np.zeros(1, np.complex64)})
    assert path.read_bytes() == before
    with pytest.raises((MissingError, StoreError)):
        export_to(tmp_path / "nowhere" / "x.minidb")


def test_of_repeated_keys_the_first_wins(tmp_path: Path) -> None:
    first, second = predict_net(), predict_net()
    second.name = "second"
    meta = Message(META_NET)
    meta.add("blobs", key="PARAMETERS_BLOB_TYPE", value=["w", "w"])
    meta.add("blobs", key="PARAMETERS_BLOB_TYPE", value=["gone"])
    for part in ("PREDICT_INIT", "GLOBAL_INIT", "PREDICT"):
        for net in (first, second):
            meta.add("nets", key=f"{part}_NET_TYPE", value=net)
    path = tmp_path / "x.minidb"
    save({META_NET_DEF: meta.encode(), "w": np.ones(1)}, path)
    export = load_predictor(path)
    assert export.predict_net.name == "pn"
    assert list(export.parameters) == ["w"]
    assert export.inputs == []


def test_what_is_no_export_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        load_predictor(tmp_path / "nothing.minidb")
    with pytest.raises((MissingError, CorruptError), match="META_NET_DEF"):
        load_predictor(DATA / "dtypes.minidb")
    path = tmp_path / "x.minidb"
    for content in (np.zeros(3), b"\x12\x05ab"):
        save({META_NET_DEF: content}, path)
        with pytest.raises(CorruptError, match="META_NET_DEF"):
            load_predictor(path)
    export_to(path)
    blobs = load(path)
    save({name: value for name, value in blobs.items() if name != "b"}, path)
    with pytest.raises((MissingError, CorruptError), match="b"):
        load_predictor(path)


@pytest.mark.parametrize("epoch", range(4))
def test_files_of_caffe2s_checkpoint_manager_load(epoch: int) -> None:
    entry = ENTRIES[f"checkpoint_manager/trainer.{epoch}"]
    path = DATA / entry["file"]
    blobs = load(path)
    assert sorted(blobs) == [row["name"] for row in entry["blobs"]]
    with np.load(DATA / entry["expected"]) as arrays:
        for row in entry["blobs"]:
            if row["kind"] == "tensor":
                assert same(blobs[row["name"]], arrays[row["npz"]]), row["name"]
    names = [name.decode() for name in blobs["blob_names"]]
    assert sorted(names) == sorted(blobs)
    assert isinstance(blobs["epoch_counter_init/CreateCounter"], int)

    ws = Workspace()  # and as the manager does it: the names first, then those blobs
    database: dict[str, Any] = {"db": str(path), "db_type": "minidb", "absolute_path": 1}
    ws.run(create_operator("Load", [], ["blob_names"], **database))
    listed = [name.decode() for name in ws.fetch("blob_names")]
    ws.run(create_operator("Load", [], listed, keep_device=1, **database))
    assert sorted(ws.blobs()) == sorted(listed)


def test_a_plain_database_is_no_predictor_export(tmp_path: Path) -> None:
    save({"w": np.zeros(2)}, tmp_path / "x.minidb")
    with pytest.raises(MissingError, match=r"no predictor export.*caffe2\.load"):
        load_predictor(tmp_path / "x.minidb")
