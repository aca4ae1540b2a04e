"""GetAllBlobNames and EstimateAllBlobSizes: what a workspace holds.

Facts: caffe2/operators/load_save_op.h, caffe2/operators/utility_ops.h and
caffe2/core/blob_serialization.cc (EstimateSerializedBlobSize).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorkeep.caffe2.operator import Operator, register
from tensorkeep.caffe2.options import parse_options
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.encode import estimate_size
from tensorkeep.wire.caffe2.options import choose_options
from tensorkeep.wire.caffe2.values import Blob


@register("GetAllBlobNames")
class GetAllBlobNamesOp(Operator):
    """Write the names of all blobs, its own output among them, as a 1-D string tensor.

    Argument: include_shared (1), the blobs of parent workspaces too.
    """

    takes = (0, 0)
    gives = (1, 1)

    def run(self) -> bool:
        self.write(0, Blob("Tensor", _text_tensor(_names(self)), self.device))
        return True


@register("EstimateAllBlobSizes")
class EstimateAllBlobSizesOp(Operator):
    """Write the names of all blobs and roughly the bytes that Save would write for each.

    Arguments: include_shared (1), options (a serialized SerializationOptions). Outputs: the names
    (string, 1-D) and the sizes (int64, 1-D), in the same order; both count themselves. The sizes
    follow Caffe2's formula, which takes varints for shorter than they can be.
    """

    takes = (0, 0)
    gives = (2, 2)

    def run(self) -> bool:
        rows = parse_options(self.arguments.bytes("options"), self.where)
        names = _names(self)
        sizes = np.zeros(len(names), np.int64)
        outputs = [_text_tensor(names), Tensor.of(sizes)]
        own = {
            name: Blob("Tensor", tensor, self.device)
            for name, tensor in zip(self.outputs, outputs, strict=True)
        }
        for row, name in enumerate(names):
            blob = own.get(name) or self.workspace.blob(name)
            options = choose_options(name, rows, self.workspace.save_options)
            sizes[row] = estimate_size(name, blob, options)
        for index, name in enumerate(self.outputs):
            self.write(index, own[name])
        return True


def _names(operator: Operator) -> list[str]:
    shared = operator.arguments.flag("include_shared", True)
    workspace = operator.workspace
    names = workspace.blobs() if shared else workspace.local_blobs()
    return list(dict.fromkeys([*names, *operator.outputs]))


def _text_tensor(names: Sequence[str]) -> Tensor:
    return Tensor.of(np.array(names, object))
