"""Checkpoint: Save at every n-th iteration, into a database named after it.

Facts: caffe2/operators/load_save_op.h (CheckpointOp).
"""

from __future__ import annotations

from typing import Any

from tensorkeep import dtypes
from tensorkeep.caffe2.gradient import should_not_do_gradient
from tensorkeep.caffe2.operator import MANY, Operator, register
from tensorkeep.caffe2.operators.save import SaveOp
from tensorkeep.caffe2.patterns import format_string
from tensorkeep.errors import ArgumentError
from tensorkeep.message import Message
from tensorkeep.tensor import Tensor


@register("Checkpoint")
class CheckpointOp(Operator):
    """Save all inputs when the first of them, the iteration, is a multiple of `every`.

    Arguments: db (a printf pattern for the iteration, see `format_string`), every (1), and those
    of Save. The iteration is the first element of an int64 tensor; it is saved too. Older
    checkpoints stay.

    Raises:
        ArgumentError: an empty or unsafe pattern, an `every` below 1, an iteration that is no
            int64 tensor.

    >>> import tempfile, numpy as np
    >>> from tensorkeep.caffe2 import Workspace, create_operator
    >>> ws = Workspace(tempfile.mkdtemp())
    >>> ws.feed("iter", np.array([20]))
    >>> ws.run(create_operator("Checkpoint", ["iter"], db="%d", db_type="minidb", every=10))
    True
    >>> ws.run(create_operator("Load", load_all=1, db="20", db_type="minidb"))
    True
    """

    takes = (1, MANY)
    gives = (0, 0)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.every = self.arguments.integer("every", 1)
        self.pattern = self.arguments.text("db")
        if not self.pattern:
            raise ArgumentError("needs a pattern as its db", where=self.where)
        if self.every < 1:
            problem = f"the argument 'every' is {self.every}; 1 or more is expected"
            raise ArgumentError(problem, where=self.where)
        format_string(self.pattern, 0)

    def run(self) -> bool:
        iteration = self._iteration()
        if iteration % self.every:
            return True
        definition = save_definition(self.definition, format_string(self.pattern, iteration))
        return SaveOp(definition, self.workspace, strict=self.strict, durable=self.durable).run()

    def _iteration(self) -> int:
        value = self.input(0).value
        if not isinstance(value, Tensor) or value.dtype is not dtypes.INT64 or not value.size:
            found = f"{value.dtype} of shape {value.shape}" if isinstance(value, Tensor) else "none"
            raise ArgumentError(
                f"the iteration {self.inputs[0]!r} has to be an int64 tensor; it is {found}",
                where=self.where,
            )
        return int(value.numpy().flat[0])


@register("Snapshot")
class SnapshotOp(CheckpointOp):
    """The old name of Checkpoint; its outputs, of which it may have any, are not written."""

    gives = (0, MANY)


def save_definition(checkpoint: Message, path: str) -> Message:
    """Turn the definition of a Checkpoint into that of the Save it runs."""
    definition = checkpoint.copy()
    definition.type = "Save"
    definition.drop("arg")
    definition.drop("output")
    for argument in checkpoint.arg:
        if argument.name == "db":
            definition.add("arg", name="db", s=path.encode("utf-8", "surrogateescape"))
        elif argument.name != "every":
            definition.arg.append(argument)
    return definition


should_not_do_gradient("Checkpoint", "Snapshot")
