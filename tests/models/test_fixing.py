"""Mending models: what can be told without guessing is mended, and all else stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper
from tests.models.faulty import FIVE_FAULTS, sound

import tensorkeep as tk
from tensorkeep.errors import CorruptError
from tensorkeep.models.checking import check
from tensorkeep.models.fixing import fix
from tensorkeep.state import State


def mended(
    model: onnx.ModelProto, folder: Path, **options: bool
) -> tuple[onnx.ModelProto, set[str]]:
    """Save, mend and save a model; gives it and the kinds of what was mended."""
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    state, findings = fix(folder / "model.onnx", **options)
    with state:
        tk.save(state, folder / "mended.onnx")
    return onnx.load(folder / "mended.onnx"), {finding.code for finding in findings}


def test_worked_example(tmp_path: Path) -> None:
    state, findings = fix(FIVE_FAULTS)
    assert {each.code for each in findings} == {
        "no-opset-import",
        "no-graph-name",
        "attribute-without-type",
    }
    remaining = [each.code for each in check(state) if each.severity == "error"]
    assert remaining == ["input-count", "declared-shape"]
    tk.save(state, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    assert model.opset_import[0].version == 18
    assert model.graph.output[0].type.tensor_type.shape.dim[2].dim_value == 26

    whole = model.graph.initializer.add(name="w", data_type=1, dims=[8, 1, 3, 3])
    whole.raw_data = bytes(8 * 9 * 4)
    model.graph.node[0].input.append("w")
    model, codes = mended(model, tmp_path)
    assert codes == {"declared-shape"}
    assert [each.dim_value for each in model.graph.output[0].type.tensor_type.shape.dim] == [
        1, 8, 28, 28,
    ]  # fmt: skip
    onnx.checker.check_model(model, full_check=True)


def _sort(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))


def _twice(model: onnx.ModelProto) -> None:
    for _ in range(2):
        model.metadata_props.add(key="by", value="us")
    model.graph.initializer.append(model.graph.initializer[0])
    model.opset_import.append(helper.make_opsetid("ai.onnx", 17))


SPOIL: list[tuple[Callable[[onnx.ModelProto], object], set[str]]] = [
    (lambda m: m.ClearField("opset_import"), {"no-opset-import"}),
    (lambda m: m.ClearField("ir_version"), {"no-ir-version"}),
    (lambda m: setattr(m, "ir_version", 3), {"ir-version-too-low"}),
    (lambda m: m.graph.ClearField("name"), {"no-graph-name"}),
    (_sort, {"unsorted-node"}),
    (_twice, {"duplicate-metadata", "duplicate-initializer", "duplicate-opset"}),
    (lambda m: m.graph.output[0].ClearField("type"), {"value-without-type"}),
    (lambda m: setattr(m.graph.node[1], "domain", "ai.onnx"), {"domain-spelling"}),
]


@pytest.mark.parametrize(("spoil", "codes"), SPOIL)
def test_mended(
    spoil: Callable[[onnx.ModelProto], object], codes: set[str], tmp_path: Path
) -> None:
    model = sound()
    spoil(model)
    model, found = mended(model, tmp_path)
    assert found == codes
    onnx.checker.check_model(model, full_check=True)
    expected = sound()
    assert [node.name for node in model.graph.node] == ["conv", "add", "if"]
    assert model.graph.node == expected.graph.node
    assert model.graph.initializer == expected.graph.initializer


def test_a_sound_model_stays_byte_for_byte(tmp_path: Path) -> None:
    raw = sound().SerializeToString() + b"\xfa\x7f\x03abc"  # and a field that nobody knows
    (tmp_path / "m.onnx").write_bytes(raw)
    state, findings = fix(tmp_path / "m.onnx")
    tk.save(state, tmp_path / "n.onnx")
    assert (findings, (tmp_path / "n.onnx").read_bytes()) == ([], raw)


def test_the_state_given_is_not_changed() -> None:
    with tk.open(FIVE_FAULTS) as state:
        before = check(state, official=False)
        fix(state)
        assert check(state, official=False) == before
        assert isinstance(state, State)


def test_what_training_and_annotations_use_stays(tmp_path: Path) -> None:
    model = sound()
    graph = model.graph
    for name in ("lr", "step", "scale", "dead"):
        graph.initializer.add(name=name, data_type=1, float_data=[0.5])
    row = graph.quantization_annotation.add(tensor_name=graph.input[0].name)
    row.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    training = model.training_info.add()
    training.initialization_binding.add(key="step", value="zero")
    nodes = [helper.make_node("Neg", ["lr"], ["lower"])]
    lower = helper.make_tensor_value_info("lower", 1, [])
    training.algorithm.CopyFrom(helper.make_graph(nodes, "step", [], [lower]))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    found = [each.problem for each in check(tmp_path / "model.onnx", official=False)]
    assert "nothing uses the initializer 'dead'" in found
    kept, _ = mended(model, tmp_path, unused=True)
    assert {"lr", "step", "scale"} <= {row.name for row in kept.graph.initializer}
    assert "dead" not in {row.name for row in kept.graph.initializer}


def test_what_is_unused_goes_only_when_asked(tmp_path: Path) -> None:
    model = sound()
    model.graph.initializer.append(helper.make_tensor("spare", 1, [1], [0.0]))
    kept, codes = mended(model, tmp_path)
    assert (len(kept.graph.initializer), codes) == (3, set())
    kept, codes = mended(model, tmp_path, unused=True)
    assert (len(kept.graph.initializer), codes) == (2, {"unused-initializer"})
    assert kept == sound()


def test_what_would_be_a_guess_is_left(tmp_path: Path) -> None:
    model = sound()
    for value in "ab":
        model.metadata_props.add(key="by", value=value)
    model.graph.node[0].attribute[0].i = 3
    kept, codes = mended(model, tmp_path)
    assert codes == set()
    assert len(kept.metadata_props) == 2


def test_functions_import_what_they_lack(tmp_path: Path) -> None:
    model = sound()
    node = helper.make_node("Relu", ["x"], ["y"])
    model.functions.append(helper.make_function("f", "F", ["x"], ["y"], [node], []))
    model.opset_import.append(helper.make_opsetid("f", 1))
    kept, codes = mended(model, tmp_path)
    assert codes == {"no-opset-import"}
    assert [row.version for row in kept.functions[0].opset_import] == [17]


def test_a_tensor_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    model = sound()
    model.graph.initializer[0].dims[0] = 3
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CorruptError, match="takes 108 bytes, not 72"):
        fix(tmp_path / "m.onnx")
