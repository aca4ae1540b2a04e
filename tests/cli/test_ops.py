from __future__ import annotations

import json

import pytest
import typer
from tests.cli.running import Ran, is_safe
from typer.testing import CliRunner

from tensorkeep.cli.ops import ops
from tensorkeep.errors import MissingError

app = typer.Typer()
app.command()(ops)


def run(*arguments: str) -> Ran:
    done = CliRunner().invoke(app, arguments, standalone_mode=False)
    if done.exception:
        raise done.exception
    return Ran(done.exit_code, done.stdout, "")


def test_all_of_them() -> None:
    ran = run()
    lines = ran.out.splitlines()
    assert lines[0].split() == ["NAME", "DOMAIN", "VERSIONS", "CAFFE2", "NNEF"]
    assert lines[-1] == "269 operators"
    assert any(line.split()[:3] == ["Conv", "ai.onnx", "1..22"] for line in lines)
    assert any(line.split()[:3] == ["QR", "tensorkeep.ops", "fictional"] for line in lines)
    assert is_safe(ran.out)


def test_a_word_and_a_domain() -> None:
    found = run("conv", "--json").json
    names = [each["name"] for each in found["operators"]]
    assert found["count"] == len(names)
    assert {"Conv", "QLinearConv", "ConvTransposeWithDynamicPadding"} <= set(names)
    trees = run("tree", "--domain", "ai.onnx.ml", "--json").json["operators"]
    assert {each["domain"] for each in trees} == {"ai.onnx.ml"}


def test_one() -> None:
    out = run("Conv").out
    assert out.startswith("Conv: ai.onnx, since 1\n\n  Conv(X, W, B?) -> Y\n")
    assert "    group: int = 1\n" in out
    assert "Versions: 1, 11, 22\n" in out
    assert "NNEF: conv\n" in out
    assert "Y = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (X, W, B)" in out


def test_one_that_onnx_lacks() -> None:
    out = run("Erfc").out
    assert out.startswith("Erfc: tensorkeep.ops, not in ONNX (fictional)\n\n  Erfc(X) -> Y\n")
    assert "Runs as: a function of standard operators, from opset 15 on\n" in out
    assert "Remark: 1 - Erf(X)" in out


def test_one_as_json() -> None:
    found = run("Upsample", "--json").json
    assert found["deprecated"] == [10]
    assert found["inputs"][1] == {"name": "scales", "type": "float", "kind": "single"}
    assert found["attributes"][0]["default"] == "nearest"
    assert found["relatives"] == ["Resize"]
    assert found["example"].startswith("<ir_version: 8")


def test_example_alone() -> None:
    assert run("Triu", "--example").out.startswith(
        '<ir_version: 10, opset_import: ["" : 22]>\nTriu ('
    )


def test_nothing_found() -> None:
    with pytest.raises(MissingError, match="Did you mean Softmax"):
        run("Sofmtax")
    with pytest.raises(MissingError, match="no operators of that domain"):
        run("--domain", "org.example")


def test_an_example_as_json() -> None:
    document = json.loads(run("Gemm", "--example", "--json").out)
    assert document == {"name": "Gemm", "example": run("Gemm", "--example").out.rstrip("\n")}
