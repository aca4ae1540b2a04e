"""The catalogue agrees with the onnx package, and needs it for nothing."""

from __future__ import annotations

import subprocess
import sys

import onnx
import onnx.defs
import pytest

from tensorkeep.errors import MissingError
from tensorkeep.models import ops

DOMAINS = ("", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training")


def test_every_operator_of_onnx() -> None:
    mine = {(each.domain, each.name) for each in ops.catalogue().values() if each.standard}
    theirs = {(each.domain, each.name) for each in onnx.defs.get_all_schemas_with_history()}
    if onnx.__version__ == "1.23.2":
        assert mine == theirs
    assert {domain for domain, _ in mine} == set(DOMAINS)


def test_version_in_effect() -> None:
    for (domain, name), each in ops.catalogue().items():
        if not each.standard or each.versions[-1] > onnx.defs.onnx_opset_version():
            continue
        for opset in range(1, min(ops.newest_opset(), onnx.defs.onnx_opset_version()) + 1):
            try:
                theirs = onnx.defs.get_schema(name, opset, domain).since_version
            except onnx.defs.SchemaError:
                continue
            assert ops.since(domain, name, opset) == theirs
    assert ops.since("ai.onnx", "Relu", 13) == 13
    assert ops.since("", "Relu", 0) is None
    assert ops.since("", "Erfc", 20) is None
    assert ops.since("org.example", "Relu", 20) is None


def test_operator() -> None:
    conv = ops.operator("conv")
    assert conv.name == "Conv"
    assert conv.versions == (1, 11, 22)
    assert conv.signature == "Conv(X, W, B?) -> Y"
    assert [str(each) for each in conv.attributes][:3] == [
        "auto_pad: string = NOTSET",
        "dilations: ints = none",
        "group: int = 1",
    ]
    assert dict(conv.types)["T"] == ("bfloat16", "double", "float", "float16")
    assert "Conv2D" in conv.caffe2
    assert ops.operator("Upsample").deprecated_at == 10
    assert ops.operator("GroupNormalization").deprecated == (18,)
    assert ops.operator("GroupNormalization").deprecated_at is None
    assert ops.operator("Adam").domain == "ai.onnx.preview.training"
    assert str(ops.operator("Concat").inputs[0]) == "inputs..."
    qr = ops.operator("QR")
    assert not qr.standard
    assert (qr.domain, qr.lowest_opset, qr.signature) == (ops.OURS, 15, "QR(A) -> Q, R")
    shape = ops.operator("RangeFill").attributes[0]
    assert (str(shape), shape.required) == ("shape: ints", True)


def test_operator_that_is_not_there() -> None:
    with pytest.raises(MissingError, match=r"no operator called 'Cnov'\. Did you mean Conv"):
        ops.operator("Cnov")
    with pytest.raises(MissingError, match=r"'Conv' in the domain ai\.onnx\.ml"):
        ops.operator("Conv", "ai.onnx.ml")


def test_find() -> None:
    names = [each.name for each in ops.find("conv")]
    assert {"Conv", "ConvTranspose", "QLinearConv", "ConvInteger"} <= set(names)
    assert "BatchNormalization" in [each.name for each in ops.find("spatialbn")]  # Caffe2's name
    assert "GlobalAveragePool" in [each.name for each in ops.find("mean_reduce")]  # NNEF's
    assert {each.domain for each in ops.find("", "ai.onnx.ml")} == {"ai.onnx.ml"}
    assert len(ops.find("", "ai.onnx")) == len(ops.find("", ""))
    assert ops.find("nothing at all") == []


def test_relatives() -> None:
    assert "ConvTranspose" in ops.relatives(ops.operator("Conv"))
    assert "Triu" in ops.relatives(ops.operator("Trilu"))
    known = {each.name for each in ops.catalogue().values()}
    assert all(near in known for each in ops.catalogue().values() for near in ops.relatives(each))


def test_needs_no_onnx() -> None:
    code = (
        "import sys; sys.modules['onnx'] = sys.modules['onnxruntime'] = None\n"
        "from tensorkeep.models import ops\n"
        "print(ops.since('', 'Conv', 12), len(ops.find('conv')) > 3, ops.operator('QR').kind)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "11 True fictional\n"
