"""Models as protobuf's text and as JSON: files, what they cannot hold, and how they are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tests.formats.onnx import models

import tensorkeep as tk
from tensorkeep.errors import ArgumentError, CorruptError, LossError
from tensorkeep.formats import detect

FORMS = [("m.pbtxt", "onnx-text", "textproto"), ("m.onnx.json", "onnx-json", "json")]
forms = pytest.mark.parametrize(("name", "format", "theirs"), FORMS, ids=[f[1] for f in FORMS])


def model() -> onnx.ModelProto:
    weights = numpy_helper.from_array(np.arange(600, dtype=np.float32), "w")
    node = helper.make_node("Add", ["x", "w"], ["y"], name="add")
    proto: onnx.ModelProto = helper.make_model(helper.make_graph([node], "g", [], [], [weights]))
    return proto


@forms
def test_both_directions(tmp_path: Path, name: str, format: str, theirs: str) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    tk.convert(tmp_path / "m.onnx", tmp_path / name)
    assert onnx.load(tmp_path / name, format=theirs) == model()
    onnx.save(model(), tmp_path / f"their-{name}", format=theirs)
    with tk.open(tmp_path / f"their-{name}") as state:
        assert state.format == format
        tk.save(state, tmp_path / "n.onnx")
    assert onnx.load(tmp_path / "n.onnx") == model()


@forms
def test_tensors_in_other_files_come_into_the_text(
    tmp_path: Path, name: str, format: str, theirs: str
) -> None:
    with tk.open(models.at(models.encode(model()))) as state:
        tk.save(state, tmp_path / "m.onnx", external=True)
    tk.convert(tmp_path / "m.onnx", tmp_path / name)
    found = onnx.load(tmp_path / name, format=theirs, load_external_data=False)
    assert found == model()


@forms
def test_digests(tmp_path: Path, name: str, format: str, theirs: str) -> None:
    with tk.open(models.at(models.encode(model()))) as state:
        text = models.saved(state, name, checksums=True)
    assert tk.load(models.at(text, name), verify=True)["w"][7] == 7
    changed = text.replace(b"add", b"adb")
    assert changed != text
    with pytest.raises(CorruptError, match="the model is damaged"):
        tk.open(models.at(changed, name))


@forms
def test_fields_that_are_not_known(tmp_path: Path, name: str, format: str, theirs: str) -> None:
    proto = model()
    proto.graph.node[0].MergeFromString(b"\xfa\x3e\x03new")
    onnx.save(proto, tmp_path / "m.onnx")
    problem = r"6 bytes of fields that ONNX does not have in graph\.node\[0\]"
    with pytest.raises(LossError, match=problem):
        tk.convert(tmp_path / "m.onnx", tmp_path / name)
    assert not (tmp_path / name).exists()
    tk.convert(tmp_path / "m.onnx", tmp_path / name, lossy=True)
    assert onnx.load(tmp_path / name, format=theirs) == model()


def test_text_that_is_not_utf_8_in_json() -> None:
    proto = model()
    data = models.encode(proto).replace(b"add", b"a\xffd")
    with tk.open(models.at(data)) as state:
        with pytest.raises((ArgumentError, LossError), match="UTF-8"):
            models.saved(state, "m.onnx.json")
        text = models.saved(state, "m.pbtxt")
    with tk.open(models.at(text, "m.pbtxt")) as again:
        assert models.saved(again) == data


@pytest.mark.parametrize(
    ("text", "name", "format"),
    [
        ('# a model\nir_version: 7\ngraph { name: "g" }', "m", "onnx-text"),
        ('graph { name: "g" }', "m.txt", "onnx-text"),
        ('producer_name: "p" graph {}', "m.pbtxt", "onnx-text"),
        ('{"irVersion": "7", "graph": {}}', "m.onnx.json", "onnx-json"),
    ],
)
def test_it_is_recognised(text: str, name: str, format: str) -> None:
    assert detect(models.at(text.encode(), name)).name == format


@pytest.mark.parametrize(
    ("text", "name", "problem"),
    [
        ("ir_version: 7", "m.pbtxt", "holds no graph"),
        ("ir_version: 7 graph { nodes {} }", "m.pbtxt", "nodes"),
        ("graph {" * 500, "m.pbtxt", "nest|graph"),
        ('{"irVersion": "7"}', "m.onnx.json", "holds no graph"),
        ('{"irVersion": "7", "graph": {"nodes": []}}', "m.onnx.json", "nodes"),
        ('{"graph": {"node": ' + "[" * 5000, "m.onnx.json", "nest|deep|list|broken"),
    ],
)
def test_broken_text(text: str, name: str, problem: str) -> None:
    with pytest.raises(tk.TensorKeepError, match=problem):
        tk.open(models.at(text.encode(), name))


def nans() -> onnx.ModelProto:
    """Give a model whose NaNs, in lists of values, have bits of their own."""
    single = np.array([0x7FC12345, 0xFFC00000, 0x7F800001, 0x7FC00000], "<u4").view("<f4")
    double = np.array([0x7FF8000000012345, 0xFFF0000000000001], "<u8").view("<f8")
    packed = [(4, single), (10, double)]
    graph = onnx.GraphProto(name="g")
    for number, values in packed:
        tensor = graph.initializer.add(dims=values.shape, name=f"w{number}")
        tensor.data_type = 1 if number == 4 else 11
        tensor.MergeFromString(bytes([number << 3 | 2, values.nbytes]) + values.tobytes())
    return helper.make_model(graph)


@forms
def test_the_bits_of_nans_in_tensors_stay(name: str, format: str, theirs: str) -> None:
    with tk.open(models.at(models.encode(nans()))) as state:
        text = models.saved(state, name)
        with tk.open(models.at(text, name)) as again:
            for key in ("w4", "w10"):
                assert again[key].read() == state[key].read()


@forms
def test_the_bits_of_nans_in_attributes_are_told(name: str, format: str, theirs: str) -> None:
    proto = helper.make_model(
        helper.make_graph([helper.make_node("Elu", ["x"], ["y"])], "g", [], [])
    )
    bits = b"\x01\x00\x80\x7f"
    attribute = proto.graph.node[0].attribute.add(name="alpha", type=1)
    attribute.MergeFromString(b"\x15" + bits)
    with tk.open(models.at(models.encode(proto))) as state:
        assert models.saved(state).count(bits) == 1
        with pytest.raises(LossError, match=r"of a NaN in graph\.node\[0\]\.attribute\[0\]\.f\."):
            models.saved(state, name)
        models.saved(state, name, lossy=True)
    attribute.f = float("nan")  # as all libraries make it
    with tk.open(models.at(models.encode(proto))) as state:
        models.saved(state, name)
