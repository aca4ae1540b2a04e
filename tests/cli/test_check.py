from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from tests.cli.running import ESCAPE, Run, is_safe
from tests.models.faulty import FIVE_FAULTS, sound


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(sound().SerializeToString())
    return path


def test_sound_model(run: Run, model: Path) -> None:
    ran = run("check", model)
    assert (ran.code, ran.out, ran.err) == (0, f"ok  {model}: nothing is wrong\n", "")


def test_faults_are_explained(run: Run) -> None:
    ran = run("check", FIVE_FAULTS)
    assert (ran.code, ran.err) == (1, "")
    lines = ran.out.splitlines()
    assert lines[0] == f"{FIVE_FAULTS}: 7 errors"
    at = lines.index("error  graph.node[0] Conv 'conv1'  [input-count]")
    assert lines[at + 1].startswith("  has 1 input, where Conv-11 takes 2 to 3; it lacks W")
    at = lines.index("error  opset_import  [no-opset-import]")
    assert lines[at + 2].endswith("(--fix does it)")


def test_json(run: Run, model: Path) -> None:
    said = run("check", FIVE_FAULTS, "--json", "--quick").json
    assert (said["ok"], said["errors"], said["warnings"], said["written"]) == (False, 7, 0, None)
    assert said["findings"][0] == {
        "severity": "error",
        "code": "no-graph-name",
        "where": "graph",
        "problem": "the graph has no name",
        "cure": 'Set its name, such as name: "graph".',
        "fixable": True,
    }
    assert run("check", model, "--json").json["findings"] == []


def test_fix(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "mended.onnx"
    ran = run("check", FIVE_FAULTS, "--fix", out, "--quick")
    assert ran.code == 1
    assert f"Mended in {out}\n  graph: the graph has no name\n" in ran.out
    assert "What remains: 2 errors\n  error  graph.node[0] Conv 'conv1': has 1 input" in ran.out
    assert onnx.load(out).opset_import[0].version == 18


def test_fix_everything(run: Run, tmp_path: Path) -> None:
    spoilt = sound()
    spoilt.ClearField("opset_import")
    (tmp_path / "m.onnx").write_bytes(spoilt.SerializeToString())
    ran = run("check", tmp_path / "m.onnx", "--fix", tmp_path / "n.onnx", "--json")
    assert (ran.code, ran.json["ok"], len(ran.json["mended"])) == (0, True, 1)
    ran = run("check", tmp_path / "n.onnx", "--fix", tmp_path / "o.onnx")
    assert ran.out.splitlines()[-1] == "no error remains"
    assert "Nothing could be mended" in ran.out
    assert (tmp_path / "n.onnx").read_bytes() == (tmp_path / "o.onnx").read_bytes()


def test_warnings_count_only_when_strict(run: Run, tmp_path: Path) -> None:
    spare = sound()
    spare.graph.initializer.append(onnx.helper.make_tensor("spare", 1, [1], [0.0]))
    (tmp_path / "m.onnx").write_bytes(spare.SerializeToString())
    assert run("check", tmp_path / "m.onnx", "--quick").code == 0
    assert run("check", tmp_path / "m.onnx", "--quick", "--strict").code == 1


def test_what_cannot_be_read(run: Run, tmp_path: Path, model: Path) -> None:
    assert run("check", tmp_path / "none.onnx").code == 2
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08:\x7f")
    ran = run("check", tmp_path / "m.onnx", "--json")
    assert (ran.code, "error" in ran.json) == (2, True)
    assert run("check", model, "--unused").code == 2


def test_names_cannot_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    hostile = sound()
    hostile.graph.node[1].name = hostile.graph.node[1].op_type = f"n{ESCAPE}"
    hostile.graph.node[1].input[0] = f"i{ESCAPE}"
    (tmp_path / "m.onnx").write_bytes(hostile.SerializeToString())
    ran = run("check", tmp_path / "m.onnx", "--quick")
    assert ran.code == 1
    assert is_safe(ran.out)


def test_mending_into_what_is_no_model(run: Run, model: Path) -> None:
    ran = run("check", model, "--quick", "--fix", model.with_name("m.npz"), "--json")
    assert ran.json["error"]["cure"] == "Give the name of a model, such as mended.onnx."
    assert not model.with_name("m.npz").exists()
