"""The operators of Caffe2 that become ONNX's, one row each, and how a row is written.

A row is a function that is given the operator and the ONNX graph in the making, and adds nodes
whose last ones have the names of the operator's outputs:

    @TABLE.row("LeakyRelu", becomes="LeakyRelu")
    def leaky_relu(op: Operator, to: Writer) -> None:
        to.node("LeakyRelu", [op.input(0)], op.output(), alpha=op.number("alpha", 0.01))

- `op.input(i)` and `op.output(i)` are names of ONNX values already; blobs that are written in place
  were renamed before. `op.wanted(i)` tells whether anything reads an output; one that nothing wants
  need not be made. `op.has_input(i)` tells of optional inputs.
- `op.integer / number / text / flag / integers / numbers / texts / net (name, default)` read
  arguments. Caffe2 ignores arguments that an operator does not know; those that a row never asked
  for are told to the user, so a row asks for every argument that has a meaning.
- `to.node(...)` and `to.nodes(...)` work out type and shape of what they make, as far as they can.
  `to.dims(value)` gives sizes (None for an unknown one), or None where not even the rank is known;
  `to.rank(value)` and `to.shape(value)` refuse with the cure where it is needed and not known;
  `to.type(value)` names the element type. `to.know(value, dtype, dims)` says it of what an operator
  makes that `shaping` has no rule for.
- `to.array(value)` gives a small weight or constant as an array, `None` where it is large or
  computed; `to.integers` refuses there. Change weights by nodes on them, not by reading them.
- What cannot be said raises `Refused(reason, cure)`: the reason names the argument and its value.
"""

from __future__ import annotations

from collections.abc import Callable

from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.table import Table

Translate = Callable[[Operator, Writer], None]

TABLE: Table[Translate] = Table("caffe2", "onnx")
