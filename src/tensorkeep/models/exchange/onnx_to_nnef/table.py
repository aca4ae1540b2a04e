"""The operators of ONNX that are translated to NNEF.

A row is a function that takes a node and the Writer, and emits what the node means:

    @TABLE.row("Exp", becomes="exp")
    def exp(node: Node, to: Writer) -> None:
        to.need(node.input(0), *NUMBERS)
        to.apply("exp", to.tensor(node.input(0)), output=node.output())

The last operation gives `output=node.output()`, those before it nothing: what lies between gets an
identifier of its own. `to.aligned(...)` refers to operands that are broadcast, `to.model.array`
reads what has to be a constant, and `Refused(reason, cure)` says what NNEF cannot. A module of rows
is imported by the package's `__init__`.
"""

from __future__ import annotations

from collections.abc import Callable

from tensorkeep.models.exchange.onnx_to_nnef.writer import Writer
from tensorkeep.models.exchange.settled import Node
from tensorkeep.models.exchange.table import Table

Translate = Callable[[Node, Writer], None]
TABLE: Table[Translate] = Table("onnx", "nnef")
