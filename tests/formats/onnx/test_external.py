"""Tensors in files beside a model, in both directions with `onnx`, `onnx-ir` and `safetensors`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import TensorProto, helper, numpy_helper
from tests.formats.onnx import models

import tensorkeep as tk
from tensorkeep import dtypes
from tensorkeep.errors import ArgumentError, CorruptError, MissingError
from tensorkeep.graph import KINDS, NUMBERS
from tensorkeep.testing.samples import sample

KEPT = [kind for kind in KINDS.values() if kind is not dtypes.STRING]


def model() -> Any:
    """Make a model whose tensors are initializers, attributes, in a subgraph and in a function."""
    inner = helper.make_graph(
        [helper.make_node("Identity", ["s"], ["o"])],
        "then",
        [],
        [helper.make_tensor_value_info("o", 1, [300])],
        [tensor("s", 300)],
    )
    nodes = [
        helper.make_node("Constant", [], ["c"], name="const", value=tensor("", 500)),
        helper.make_node("If", ["b"], ["i"], name="if", then_branch=inner, else_branch=inner),
        helper.make_node("F", ["x"], ["y"], domain="own"),
    ]
    body = helper.make_node("Constant", [], ["k"], name="k", value=tensor("", 400))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "F", ["x"], ["k"], [body], opsets[:1])
    text = helper.make_tensor("text", TensorProto.STRING, [1], [b"x" * 5000])
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, [1]), helper.make_tensor_value_info("b", 9, [])],
        [helper.make_tensor_value_info("y", 1, [400])],
        [tensor("w", 1000), tensor("tiny", 2), text],
    )
    return helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)


def tensor(name: str, size: int) -> Any:
    return numpy_helper.from_array(np.arange(size, dtype=np.float32) + len(name), name)


def loaded(path: Path) -> Any:
    """Load a model with `onnx`, without its notes of where the tensors were."""
    proto = onnx.load(path)
    for found in models.tensors_of(proto):
        found.ClearField("data_location")
    return proto


def arrays(path: Path) -> dict[str, Any]:
    with tk.open(path) as state:
        return {name: tensor.numpy().tolist() for name, tensor in state.items()}


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    (tmp_path / "plain").mkdir()
    path = tmp_path / "plain" / "m.onnx"
    onnx.save(model(), path)
    return path


FORMS: dict[str, dict[str, Any]] = {
    "one file": {"external": True},
    "a file of another name": {"external": "weights.bin"},
    "in a folder": {"external": "data/weights.bin"},
    "safetensors": {"external": "m.safetensors"},
    "a file each": {"external": True, "per_tensor": True},
    "a safetensors file each": {"external": "w.safetensors", "per_tensor": True},
    "aligned to 64 KiB": {"external": True, "align": "64KiB"},
    "dense": {"external": True, "align": 1},
    "all of them": {"external": True, "threshold": 1},
}
forms = pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)


@forms
def test_onnx_loads_what_is_written(plain: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "m.onnx"
    with tk.open(plain) as state:
        tk.save(state, path, **options)
    assert loaded(path) == model()
    assert arrays(path) == arrays(plain)
    onnx.checker.check_model(path)
    with tk.open(path) as state:
        tk.save(state, plain.with_name("again.onnx"), external=False)
    assert onnx.load(plain.with_name("again.onnx"), load_external_data=False) == model()


@forms
def test_offsets_are_as_asked(plain: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "m.onnx"
    tk.convert(plain, path, **options)
    least = options.get("threshold", 1024)
    step = {"64KiB": 65536, 1: 1}.get(options.get("align", 4096), 4096)
    files = set()
    for found in _tensors(onnx.load(path, load_external_data=False)):
        external = found.data_location == TensorProto.EXTERNAL
        about = onnx.external_data_helper.ExternalDataInfo(found) if external else None
        size = int(np.prod(found.dims)) * 4
        assert external == (size >= least and found.data_type != TensorProto.STRING)
        if about is not None:
            files.add(about.location)
            assert about.length == size
            aligned = not about.location.endswith(".safetensors")
            assert about.offset % (step if aligned else 4) == 0
    assert len(files) == (5 if options.get("per_tensor") else 1)


def _tensors(proto: Any) -> list[Any]:
    return list(onnx.external_data_helper._get_all_tensors(proto))


def test_a_safetensors_file_is_one(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "a": np.arange(300, dtype=np.float32),
        "b": np.arange(600, dtype=np.int16),
    }
    tk.save(values, tmp_path / "m.onnx", external="m.safetensors")
    found = safetensors.numpy.load_file(tmp_path / "m.safetensors")
    assert {key: value.tolist() for key, value in found.items()} == {
        key: value.tolist() for key, value in values.items()
    }
    with tk.open(tmp_path / "m.safetensors") as state:
        assert state.format == "safetensors"
        assert state["b"][7] == 7
    loaded = {
        t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "m.onnx").graph.initializer
    }
    assert loaded["a"].tolist() == values["a"].tolist()


@pytest.mark.parametrize("ending", ["data", "safetensors"])
def test_every_type_in_a_file(tmp_path: Path, ending: str) -> None:
    tensors = {str(kind): sample(kind, (3, 7)) for kind in KEPT}
    tk.save(tk.State(tensors), tmp_path / "m.onnx", external=f"m.{ending}", threshold=1)
    loaded = {t.name: t for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
    with tk.open(tmp_path / "m.onnx") as state:
        for name, expected in tensors.items():
            assert numpy_helper.to_array(loaded[name]).tobytes() == expected.numpy().tobytes()
            assert state[name].read() == expected.read()
    if ending == "safetensors":
        with tk.open(tmp_path / "m.safetensors") as beside:
            assert set(beside) == set(tensors)


def _by_onnx(path: Path, **options: Any) -> None:
    onnx.save_model(model(), path, save_as_external_data=True, size_threshold=256, **options)


def onnx_ir() -> Any:
    return pytest.importorskip("onnx_ir", reason="onnx-ir is not installed")


def _by_ir(path: Path, save: str, **options: Any) -> None:
    """Leave out what onnx-ir fails on: text, and names that come in two graphs."""
    proto = model()
    del proto.graph.initializer[2], proto.graph.node[1]
    made = onnx_ir().serde.deserialize_model(proto)
    getattr(onnx_ir(), save)(made, path, size_threshold_bytes=100, **options)


WRITERS: dict[str, Callable[[Path], None]] = {
    "onnx": lambda path: _by_onnx(path, location="w.bin"),
    "onnx, attributes too": lambda path: _by_onnx(path, convert_attribute=True),
    "onnx, a file each": lambda path: _by_onnx(path, all_tensors_to_one_file=False),
    "onnx-ir": lambda path: _by_ir(path, "save", external_data="w.bin"),
    "onnx-ir, safetensors": lambda path: _by_ir(path, "save_safetensors"),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_others_write_is_read(
    plain: Path, tmp_path: Path, write: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "m.onnx"
    write(path)
    assert len(list(tmp_path.iterdir())) > 2
    before = path.read_bytes()
    found, expected = arrays(path), arrays(plain)
    assert found == {name: expected[name] for name in found}
    assert {"w", "tiny", "const.value", "own::F/k.value"} <= found.keys()
    with tk.open("m.onnx") as state:
        assert state.remarks["w"].startswith("in ")
        tk.save(state, tmp_path / "one.onnx")
        tk.save(state, "m.onnx")  # nothing changed, so the files stay as they are
    assert path.read_bytes() == before
    assert arrays(path) == found
    assert loaded(tmp_path / "one.onnx") == loaded(path)


@pytest.mark.parametrize("ending", ["data", "safetensors"])
def test_onnx_ir_reads_what_is_written(tmp_path: Path, ending: str) -> None:
    tensors = {
        str(kind): sample(kind, (3, 7))
        for kind in KEPT
        if NUMBERS[kind] <= max(member.value for member in onnx_ir().DataType)
    }
    assert len(tensors) > 20
    tk.save(tk.State(tensors), tmp_path / "m.onnx", external=f"m.{ending}", threshold=1)
    found = onnx_ir().load(tmp_path / "m.onnx").graph.initializers
    for name, expected in tensors.items():
        assert found[name].const_value.numpy().tobytes() == expected.numpy().tobytes(), name


def test_a_missing_file_is_told_when_its_tensor_is_read(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    tk.convert(plain, path, external=True)
    (tmp_path / "m.onnx.data").unlink()
    with tk.open(path) as state:
        assert state.remarks["w"] == "in m.onnx.data, which is missing"
        assert state["w"].shape == (1000,)
        assert state["tiny"].numpy().tolist() == [4, 5]
        with pytest.raises(
            MissingError, match=r"m.onnx: w: is in 'm.onnx.data': there is no such file"
        ):
            state["w"].numpy()
        with pytest.raises(MissingError, match="no such file"):
            tk.save(state, tmp_path / "other.onnx")
        assert not (tmp_path / "other.onnx").exists()
        before = path.read_bytes()
        tk.save(state, path)  # in its own place, nothing of it is read
        assert path.read_bytes() == before
    with pytest.raises(MissingError, match="no such file"):
        tk.load(path, copy=True)


def test_a_model_without_its_weights_is_kept(tmp_path: Path) -> None:
    """As `onnx` leaves it when the external data are not loaded, with the bytes taken out."""
    proto = model()
    proto.graph.initializer[0].ClearField("raw_data")
    onnx.save(proto, tmp_path / "m.onnx")
    with tk.open(tmp_path / "m.onnx") as state:
        assert state.remarks["w"] == "no data"
        tk.save(state, tmp_path / "n.onnx", external=True)
        with pytest.raises(MissingError, match="w: holds no data"):
            state["w"].numpy()
    assert loaded(tmp_path / "n.onnx") == proto


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ({}, "does not say in which"),
        ({"location": ""}, "does not say in which"),
        ({"location": "w.bin", "length": "8"}, "takes 12 bytes, but is said to take 8 of 'w.bin'"),
        ({"location": "w.bin", "length": "16"}, "is said to take 16"),
        ({"location": "w.bin", "offset": "9"}, "bytes 9 to 21 of 'w.bin', which has 20"),
        ({"location": "w.bin", "offset": "-1"}, "its offset in another file is '-1', no count"),
        ({"location": "w.bin", "length": "-12"}, "its length in another file is '-12'"),
        ({"location": "w.bin", "offset": "9" * 19}, "which has 20"),
        ({"location": "w.bin", "offset": "1" * 5000}, "its offset in another file is '1111"),
        ({"location": "w.bin", "offset": "\uff10"}, "no count"),
        ({"location": "w.bin", "offset": "1_0"}, "no count"),
        ({"location": "w.bin", "offset": " 1"}, "no count"),
        ({"location": "w.bin", "offset": "0x1"}, "no count"),
        ({"location": "w.bin", "offset": ""}, "no count"),
    ],
    ids=str,
)
def test_places_that_contradict_themselves(
    tmp_path: Path, entries: dict[str, str], problem: str
) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(20))
    proto = TensorProto(name="w", data_type=1, dims=[3], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        proto.external_data.add(key=key, value=value)
    onnx_model = helper.make_model(helper.make_graph([], "g", [], [], [proto]))
    (tmp_path / "m.onnx").write_bytes(onnx_model.SerializeToString())
    with pytest.raises(CorruptError, match=rf"m\.onnx: w: .*{problem}"):
        tk.open(tmp_path / "m.onnx")


def test_a_length_and_an_offset_may_be_left_out(tmp_path: Path) -> None:
    np.arange(5, dtype=np.float32).tofile(tmp_path / "w.bin")
    proto = TensorProto(name="w", data_type=1, dims=[3], data_location=TensorProto.EXTERNAL)
    proto.external_data.add(key="location", value="w.bin")
    proto.external_data.add(key="checksum", value="0" * 40)  # which nobody writes or reads
    onnx_model = helper.make_model(helper.make_graph([], "g", [], [], [proto]))
    (tmp_path / "m.onnx").write_bytes(onnx_model.SerializeToString())
    assert tk.load(tmp_path / "m.onnx")["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"external": ""}, "external cannot be ''"),
        ({"external": 7}, "external cannot be 7"),
        ({"external": Path("w")}, "external cannot be"),
        ({"external": True, "align": 3}, "align cannot be 3. Give a power of two"),
        ({"external": True, "align": 0}, "0 is not a size"),
        ({"external": True, "align": "2MiB"}, "align cannot be '2MiB'"),
        ({"external": "m.onnx"}, "cannot be the model's and its tensors' file"),
        ({"outside": True}, "onnx has no option 'outside'"),
    ],
    ids=str,
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ArgumentError, match=problem):
        tk.save({"w": np.zeros(1000)}, tmp_path / "m.onnx", **options)
    assert list(tmp_path.iterdir()) == []
