"""Faults of models, each found at its place and with its cure, all of them at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from tests.models.faulty import FIVE_FAULTS, found, only, sound, told

import tensorkeep as tk
from tensorkeep.errors import ArgumentError, CorruptError, MissingError
from tensorkeep.models.checking import check

Spoil = Callable[[onnx.ModelProto], object]


def test_sound_model_has_no_findings(tmp_path: Path) -> None:
    assert found(sound(), tmp_path) == []


def test_worked_example_is_explained_fault_by_fault() -> None:
    findings = check(FIVE_FAULTS)
    by_code = {finding.code: finding for finding in findings}
    assert {finding.severity for finding in findings} == {"error"}
    assert sorted(finding.code for finding in findings) == [
        "attribute-without-type",
        "attribute-without-type",
        "attribute-without-type",
        "declared-shape",
        "input-count",
        "no-graph-name",
        "no-opset-import",
    ]
    conv = "graph.node[0] Conv 'conv1'"
    assert by_code["no-opset-import"].where == "opset_import"
    assert by_code["no-opset-import"].cure == 'Add opset_import { domain: "" version: 18 }.'
    assert by_code["no-graph-name"].where == "graph"
    places = {each.where for each in findings if each.code == "attribute-without-type"}
    assert places == {f"{conv}.{name}" for name in ("kernel_shape", "pads", "strides")}
    assert by_code["attribute-without-type"].cure == "Set type: INTS."
    assert by_code["input-count"].where == conv
    assert "it lacks W" in by_code["input-count"].problem
    assert by_code["declared-shape"].where == "graph.output[0] 'features'"
    assert "over 28x28 gives 28x28, not 26x26" in by_code["declared-shape"].problem
    assert "set pads to 0" in by_code["declared-shape"].cure


ADD, CONV = "graph.node[1] Add 'add'", "graph.node[0] Conv 'conv'"
THEN = "graph.node[2] If 'if'.then_branch"


def _set(path: str, value: object) -> Spoil:
    def spoil(model: onnx.ModelProto) -> None:
        *parts, last = path.split(".")
        at: object = model
        for part in parts:
            at = at[int(part)] if part.isdigit() else getattr(at, part)  # type: ignore[index]
        if last.isdigit():
            at[int(last)] = value  # type: ignore[index]
        else:
            setattr(at, last, value)

    return spoil


CASES: list[tuple[str, Spoil, str, str, str]] = [
    ("newer operator", _set("graph.node.1.op_type", "Gelu"), "operator-newer-than-opset",
     "graph.node[1] Gelu 'add'", "came with opset 20 of ai.onnx, and the model imports 17"),
    ("misspelt operator", _set("graph.node.1.op_type", "add"), "unknown-operator",
     "graph.node[1] add 'add'", "Did you mean Add"),
    ("lacking operator", _set("graph.node.1.op_type", "Erfc"), "unknown-operator",
     "graph.node[1] Erfc 'add'", "`tensorkeep ops Erfc` says what it is"),
    ("deprecated operator", _set("graph.node.1.op_type", "Upsample"), "deprecated-operator",
     "graph.node[1] Upsample 'add'", "Use Resize instead"),
    ("no operator", _set("graph.node.1.op_type", ""), "no-op-type", "graph.node[1]  'add'", ""),
    ("unknown domain", _set("graph.node.1.domain", "com.example"), "unknown-domain", ADD,
     "no function defines it"),
    ("domain not imported", _set("graph.node.1.domain", "com.example"), "domain-not-imported",
     "opset_import", 'Add opset_import { domain: "com.example" version: 1 }.'),
    ("other spelling", _set("graph.node.1.domain", "ai.onnx"), "domain-spelling", ADD, ""),
    ("unknown input", _set("graph.node.1.input.1", "bais"), "unknown-input", ADD,
     "which nothing makes. Did you mean bias?"),
    ("unknown output", _set("graph.output.0.name", "z"), "unknown-output", "graph.output[0]", ""),
    ("missing input", _set("graph.node.0.input.1", ""), "missing-input", CONV, "the input W"),
    ("value twice", _set("graph.node.1.output.0", "a"), "duplicate-value", ADD, CONV),
    ("hides input", _set("graph.node.1.output.0", "x"), "duplicate-value", ADD,
     "an input of the graph"),
    ("in a subgraph", lambda m: _branch(m).node[0].input.__setitem__(0, "q"), "unknown-input",
     f"{THEN}.node[0] Relu", "which nothing makes"),
    ("shadowing", lambda m: _branch(m).node[0].output.__setitem__(0, "a"), "shadowed-name",
     f"{THEN}.node[0] Relu", "hides a value"),
    ("circle", _set("graph.node.0.input.0", "b"), "cyclic-graph", "graph", f"{CONV}, {ADD}"),
    ("unsorted", lambda m: m.graph.node.insert(0, m.graph.node.pop(1)), "unsorted-node",
     "graph.node[0] Add 'add'", "makes only later"),
    ("unnamed initializer", _set("graph.initializer.0.name", ""), "initializer-without-name",
     "graph.initializer[0]", ""),
    ("unused initializer", lambda m: m.graph.initializer.append(_tensor("spare")),
     "unused-initializer", "graph", "'spare'"),
    ("initializer twice", lambda m: m.graph.initializer.append(_tensor("w")),
     "duplicate-initializer", "graph.initializer[2]", "Rename"),
    ("unreachable", lambda m: m.graph.node.append(helper.make_node("Neg", ["a"], ["n"], "neg")),
     "unreachable-node", "graph.node[3] Neg 'neg'", ""),
    ("names twice", _set("graph.node.1.name", "conv"), "duplicate-node-name", "graph", "'conv'"),
    ("unknown attribute", lambda m: _attribute(m, "pad", [1]), "unknown-attribute", CONV,
     "Did you mean pads?"),
    ("attribute kind", lambda m: _attribute(m, "group", [1]), "attribute-kind", CONV,
     "is INTS, where Conv takes INT"),
    ("attribute twice", lambda m: _attribute(m, "pads", [1, 1, 1, 1]), "repeated-attribute", CONV,
     ""),
    ("attribute type", _set("graph.node.0.attribute.0.type", 1), "attribute-type", f"{CONV}.pads",
     "says to be FLOAT, but its value stands in `ints`"),
    ("several values", _set("graph.node.0.attribute.0.i", 1), "several-values", f"{CONV}.pads",
     "i, ints"),
    ("stray reference", _set("graph.node.0.attribute.0.ref_attr_name", "p"), "stray-reference",
     CONV, ""),
    ("wrong declaration", _set("graph.value_info.0.type.tensor_type.shape.dim.2.dim_value", 6),
     "declared-shape", "graph.value_info[0] 'a'", "8x8, not 6x8"),
    ("wrong output", _set("graph.output.0.type.tensor_type.elem_type", 7), "declared-shape",
     "graph.output[0] 'y'", "the element type is int64 and float32"),
    ("wrong initializer", lambda m: m.graph.value_info.append(_value("w", [2, 1, 5, 5])),
     "declared-initializer", "graph.value_info[1] 'w'", "axis 2 is 5 and 3"),
    ("declared twice", lambda m: m.graph.value_info.append(_value("y", ["N", 3, 8, 8])),
     "declared-twice", "graph.value_info[1] 'y'", "axis 1 is 2 and 3"),
    ("stray value", lambda m: m.graph.value_info.append(_value("q", [1])), "stray-value-info",
     "graph.value_info[1] 'q'", ""),
    ("no type", lambda m: m.graph.output[0].ClearField("type"), "value-without-type",
     "graph.output[0] 'y'", ""),
    ("no version", lambda m: m.ClearField("ir_version"), "no-ir-version", "ir_version",
     "such as 8"),
    ("old version", _set("ir_version", 3), "ir-version-too-low", "graph.initializer[0]",
     "came with IR version 4; the model says 3"),
    ("new version", _set("ir_version", 99), "ir-version-newer", "ir_version", ""),
    ("no opset", _set("opset_import.0.version", 0), "impossible-opset", "opset_import[0]", ""),
    ("newer opset", _set("opset_import.0.version", 99), "opset-newer", "opset_import[0]", ""),
    ("opset twice", lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 13)),
     "duplicate-opset", "opset_import[1]", "as opset 17 and 13"),
    ("metadata twice", lambda m: _entries(m, "a", "b"), "duplicate-metadata",
     "metadata_props", "with different values"),
    ("annotation", lambda m: m.graph.quantization_annotation.add(tensor_name="q"),
     "stray-annotation", "graph.quantization_annotation[0]", "'q'"),
    ("shapes clash", lambda m: m.graph.initializer[1].dims.__setitem__(slice(None), [1, 2, 1]),
     "shape-inference", ADD, "onnx says: Incompatible dimensions"),
]  # fmt: skip


def _branch(model: onnx.ModelProto) -> onnx.GraphProto:
    return next(each.g for each in model.graph.node[2].attribute if each.name == "then_branch")


def _attribute(model: onnx.ModelProto, name: str, value: object) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute(name, value))


def _tensor(name: str) -> onnx.TensorProto:
    return helper.make_tensor(name, TensorProto.FLOAT, [1], [0.0])


def _value(name: str, axes: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, axes)


def _entries(model: onnx.ModelProto, *values: str) -> None:
    for value in values:
        model.metadata_props.add(key="by", value=value)


@pytest.mark.parametrize(
    ("spoil", "code", "where", "text"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_a_fault_is_found_at_its_place(
    spoil: Spoil, code: str, where: str, text: str, tmp_path: Path
) -> None:
    model = sound()
    spoil(model)
    findings = found(model, tmp_path, official="onnx" in text or ".output" in where)
    assert (code, where) in told(findings), list(map(str, findings))
    [finding] = [each for each in findings if (each.code, each.where) == (code, where)]
    assert text in str(finding)
    assert finding.cure


def test_all_faults_are_found_at_once(tmp_path: Path) -> None:
    model = sound()
    chosen = [case for case in CASES if case[0] in ("no version", "unknown attribute", "no type")]
    chosen += [case for case in CASES if case[0] in ("in a subgraph", "stray value", "opset twice")]
    for case in chosen:
        case[1](model)
    assert {(case[2], case[3]) for case in chosen} <= told(found(model, tmp_path, official=False))


def test_what_onnx_says_too_is_said_once(tmp_path: Path) -> None:
    model = sound()
    model.graph.node[0].input.pop()
    finding = only([each for each in found(model, tmp_path) if each.severity == "error"])
    assert finding.code == "input-count"


def test_a_state_is_checked_like_its_file(tmp_path: Path) -> None:
    with tk.open(FIVE_FAULTS) as state:
        assert check(state, official=False) == check(FIVE_FAULTS, official=False)


def test_json_and_binary_give_the_same(tmp_path: Path) -> None:
    with tk.open(FIVE_FAULTS) as state:
        for name in ("m.onnx", "m.onnx.json"):
            tk.save(state, tmp_path / name)
            assert check(tmp_path / name, official=False) == check(FIVE_FAULTS, official=False)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        check(tmp_path / "none.onnx")
    tk.save({"w": 1.0}, tmp_path / "w.safetensors")
    with pytest.raises(ArgumentError, match="no graph of a model"):
        check(tmp_path / "w.safetensors")
    (tmp_path / "cut.onnx").write_bytes(sound().SerializeToString()[:-3])
    with pytest.raises(CorruptError, match="ModelProto"):
        check(tmp_path / "cut.onnx")


def test_without_onnx_the_own_checks_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = check(FIVE_FAULTS)
    model = sound()
    with monkeypatch.context() as patched:
        patched.setitem(__import__("sys").modules, "onnx", None)
        finding = only(found(model, tmp_path))
        assert (finding.severity, finding.code) == ("warning", "official-not-asked")
        assert "pip install 'tensorkeep[onnx]'" in finding.cure
        assert [each for each in check(FIVE_FAULTS) if each.severity == "error"] == expected
