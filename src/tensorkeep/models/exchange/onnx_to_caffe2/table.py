"""The operators of ONNX that are translated to Caffe2's.

A row is a function that takes a node and the Writer, and adds the operators that do the same:

    @TABLE.row("Exp", becomes="Exp")
    def exp(node: Node, to: Writer) -> None:
        to.add("Exp", [to.blob(node.input(0))], node.output())

`Refused(reason, cure)` says what Caffe2 cannot. A module of rows is imported by the package's
`__init__`.
"""

from __future__ import annotations

from collections.abc import Callable

from tensorkeep.models.exchange.onnx_to_caffe2.writer import Writer
from tensorkeep.models.exchange.settled import Node
from tensorkeep.models.exchange.table import Table

Translate = Callable[[Node, Writer], None]
TABLE: Table[Translate] = Table("onnx", "caffe2")
