"""What each of NNEF's operations becomes in ONNX: a function for each, in files by topic.

How to write a row. A function takes the operation and the reader; it adds nodes to `reader.to`
and gives every result of the operation, or raises Refused. Names of fragments' parameters are the
keys of `op.arguments`.

    @TABLE.row("relu", becomes="Relu")
    def relu(op: Operation, reader: Reader) -> None:
        x = op.arguments["x"]
        reader.make(op, "Relu", [reader.number(x)], reader.shape(x))

`reader.make` adds the node whose output is the operation's (first) result and registers its shape
and element type. Where several nodes are needed, those between come from `reader.to.node`, the
last from `reader.make`; a value that is computed already is handed over by `reader.give`.

    reader.value(argument)       the ONNX name of a tensor, as it is; a literal becomes a constant
    reader.number(argument)      the same, but refused where it is not floating point
    reader.aligned(a, b)         operands of one type, with 1-axes at their ends (NNEF broadcasts
                                 from the left), and reader.broadcast(a, b) their common shape
    reader.reshaped(a, shape)    in another shape, such as a bias of [1, C] as [C]: a variable
                                 becomes an initializer of that shape, without a node
    reader.shape(a), .type(a)    shape, () for literals; element type, such as "float32"
    reader.scalar(3.0, like=x)   a constant of the element type of another tensor
    reader.axes(op, rank), .integers(op, "size"), .flag(op, "normalize"), .word(op, "border"),
    .pairs(op, "padding"), .float(op, "epsilon")
                                 attributes, refused where they are of another kind
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tensorkeep.models.exchange.table import Table
from tensorkeep.wire.nnef.operations import Operation

if TYPE_CHECKING:
    from tensorkeep.models.exchange.nnef_to_onnx.reader import Reader

Translate = Callable[[Operation, "Reader"], None]

TABLE: Table[Translate] = Table("nnef", "onnx")
