"""The small operators that init nets mix with fills: copies, counters and the iteration.

Facts: caffe2/operators/{copy_op,stop_gradient,alias_with_name,counter_ops}.cc,
ensure_cpu_output_op.cc, atomic_ops.cc and caffe2/sgd/iter_op.h of PyTorch 1.10, read and run.
"""

from __future__ import annotations

import numpy as np

from tensorkeep import dtypes
from tensorkeep.caffe2.gradient import no_gradient, should_not_do_gradient
from tensorkeep.caffe2.operator import Operator, register
from tensorkeep.errors import ArgumentError
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.values import COUNTER, MUTEX, TENSOR, Blob


@register("Copy", "StopGradient", "Alias", "EnsureCPUOutput")
class CopyOp(Operator):
    """Write a tensor under another name; tensors do not change, so the two may share its bytes."""

    takes = (1, 1)
    gives = (1, 1)

    def run(self) -> bool:
        if self.inputs == self.outputs and self.type != "StopGradient":
            raise ArgumentError(f"cannot write its input {self.inputs[0]!r}", where=self.where)
        blob = self.input(0)
        if not isinstance(blob.value, Tensor):
            problem = f"the input {self.inputs[0]!r} is a {blob.kind}, where a Tensor is needed"
            raise ArgumentError(problem, where=self.where)
        self.write(0, Blob(TENSOR, blob.value, self.device))
        return True


@register("Iter")
class IterOp(Operator):
    """Count: write 1 (int64, shape (1,)), or one more than the output holds.

    The input, where there is one, is the output itself.

    Raises:
        ArgumentError: the input is another blob; the output holds numbers of another type, several
            of them, a negative one or the largest.
    """

    takes = (0, 1)
    gives = (1, 1)

    def run(self) -> bool:
        if self.inputs and self.inputs != self.outputs:
            raise ArgumentError(
                f"counts in place, but reads {self.inputs[0]!r} and writes {self.outputs[0]!r}",
                where=self.where,
            )
        name = self.outputs[0]
        before = self.workspace.blob(name).value if self.workspace.has(name) else None
        if not isinstance(before, Tensor) or before.dtype is not dtypes.INT64:
            if self.inputs or isinstance(before, Tensor):
                problem = f"{name!r} is not an int64 tensor, which it counts in"
                raise ArgumentError(problem, where=self.where)
            before = Tensor.of(np.zeros(1, np.int64))
        if before.size != 1 or not 0 <= before.numpy().item() < 2**63 - 1:
            problem = f"{name!r} does not hold one count that can go on"
            raise ArgumentError(problem, where=self.where)
        self.write(0, Blob(TENSOR, Tensor.of(before.numpy() + 1), self.device))
        return True


@register("CreateCounter")
class CreateCounterOp(Operator):
    """Write a counter that starts at `init_count` (0)."""

    takes = (0, 0)
    gives = (1, 1)

    def run(self) -> bool:
        count = self.arguments.integer("init_count")
        if count < 0:
            raise ArgumentError(f"cannot start at {count}, which is negative", where=self.where)
        self.write(0, Blob(COUNTER, count, self.device))
        return True


@register("CreateMutex")
class CreateMutexOp(Operator):
    """Write a mutex, which has no value."""

    takes = (0, 0)
    gives = (1, 1)

    def run(self) -> bool:
        self.write(0, Blob(MUTEX, None, self.device))
        return True


no_gradient("Iter", "StopGradient", "EnsureCPUOutput")
should_not_do_gradient("CreateCounter", "CreateMutex")
