"""Operators that change nothing, as nets are tested: copies between devices, Dropout, and such."""

from __future__ import annotations

from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator
from tensorkeep.models.exchange.caffe2_to_onnx.table import TABLE
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.report import Refused


@TABLE.row(
    "Copy",
    "Alias",
    "StopGradient",
    "EnsureDense",
    "EnsureCPUOutput",
    "CopyGPUToCPU",
    "CopyCPUToGPU",
    "CopyFromCPUInput",
    "CopyOnDeviceLike",
    "CopyCPUToMKL",
    "CopyMKLToCPU",
    "CopyCPUToIDEEP",
    "CopyIDEEPToCPU",
    "CopyToOpenGL",
    "CopyFromOpenGL",
    "CopyToMPSCNN",
    "CopyFromMPSCNN",
    becomes="Identity",
)
def copy(op: Operator, to: Writer) -> None:
    """The same."""
    op.refuse_outputs(1)
    to.node("Identity", [op.input(0)], op.output())


@TABLE.row("Dropout", becomes="Identity", note="with is_test=1; its mask is never written then")
def dropout(op: Operator, to: Writer) -> None:
    """What is dropped while training, and kept while testing."""
    op.has("ratio")
    if not op.flag("is_test"):
        raise Refused(
            "it is in training mode (is_test is not 1), and drops elements at random",
            "Set its argument is_test to 1.",
        )
    to.node("Identity", [op.input(0)], op.output())
