"""external, variable, constant, update and copy: what a graph is given, and what it keeps."""

from __future__ import annotations

import numpy as np

from tensorkeep import dtypes
from tensorkeep.dtypes import DTYPES
from tensorkeep.graph import NUMBERS
from tensorkeep.models.exchange.nnef_to_onnx.reader import FLOATS, INTEGERS, MEANT, Reader
from tensorkeep.models.exchange.nnef_to_onnx.table import TABLE
from tensorkeep.models.exchange.report import Refused
from tensorkeep.tensor import Tensor
from tensorkeep.wire.nnef.operations import Operation, Reference

_MOST_WRITTEN = 1024  # elements of a constant of one value that are written out
_KINDS = {"scalar": FLOATS, "integer": INTEGERS, "logical": ("bool",)}


@TABLE.row("external", becomes="an input of the graph", note="of a fixed shape")
def _external(op: Operation, reader: Reader) -> None:
    reference = reader.reference(op)
    if reader.knows(reference.name):
        return  # the inputs were declared first, in their order
    if reference.name not in reader.document.inputs:
        raise Refused("is no parameter of the graph")
    reader.give_input(reference, _sizes(op, reader), meant_type(op, reader))


@TABLE.row("variable", becomes="an initializer", note="where its data lies, not copied")
def _variable(op: Operation, reader: Reader) -> None:
    reference = reader.reference(op)
    name = reader.document.names.get(reference.name, reader.word(op, "label"))
    if name not in reader.tensors:
        raise Refused(f"has no data: there is no tensor {name!r}")
    tensor = reader.tensors[name]
    shape = tuple(_sizes(op, reader))
    if tensor.shape != shape:
        raise Refused(f"is said to have shape {list(shape)}, but its data has {list(tensor.shape)}")
    if tensor.dtype not in NUMBERS:
        raise Refused(f"holds {tensor.dtype}, which ONNX has not")
    found, word = tensor.dtype.name, op.dtype or "scalar"
    quantized = reference.name in reader.document.quantization
    if not quantized and word in _KINDS and found not in _KINDS[word]:
        raise Refused(
            f"is {word}, but its data is {found}",
            "Say in graph.quant how it is quantized." if found in INTEGERS else "",
        )
    reader.give_variable(reference, name, tensor)


@TABLE.row("constant", becomes="an initializer, or Expand where it is large")
def _constant(op: Operation, reader: Reader) -> None:
    shape, dtype = _sizes(op, reader), meant_type(op, reader)
    values = reader.items(op, "value")
    count = dtypes.count_of(tuple(shape))
    if len(values) not in (1, count):
        raise Refused(f"has {len(values)} values for shape {shape}")
    if len(values) == 1 and count > _MOST_WRITTEN:
        axes = reader.to.constant(shape, "int64")
        reader.make(op, "Expand", [reader.value(values[0], dtype), axes], shape, dtype)
        return
    for value in values:
        wanted = bool if dtype == "bool" else (int, float)
        if not isinstance(value, wanted) or isinstance(value, bool) != (dtype == "bool"):
            raise Refused(f"has {value!r:.40} where {dtype} is expected")
        if dtype in INTEGERS and isinstance(value, float) and not value.is_integer():
            raise Refused(f"has {value!r} where {dtype} is expected")
    try:
        with np.errstate(all="ignore"):
            kept = np.array(values, dtype)
    except (OverflowError, ValueError):
        raise Refused(f"has values that are no {dtype}") from None
    filled = np.full(shape, kept[0]) if len(values) == 1 else kept.reshape(shape)
    name = reader.to.weight(reader.result(op), Tensor.of(filled, reader.to.where))
    reader.give(reader.reference(op), name, shape, dtype)


@TABLE.row("update", becomes="-", note="refused: ONNX keeps nothing from one run to the next")
def _update(op: Operation, reader: Reader) -> None:
    raise Refused(
        "sets a variable for the next run, which ONNX's graphs cannot",
        "Make the variable an external and the new value a result of the graph.",
    )


@TABLE.row("copy", becomes="Identity")
def _copy(op: Operation, reader: Reader) -> None:
    x = op.arguments.get("x")
    dtype = None if isinstance(x, Reference) else meant_type(op, reader, reader.type(x))
    reader.make(op, "Identity", [reader.value(x, dtype)], reader.shape(x), dtype or reader.type(x))


@TABLE.row("copy_n", becomes="Identity, several")
def _copy_n(op: Operation, reader: Reader) -> None:
    x = op.arguments.get("x")
    value, shape, dtype = reader.value(x), reader.shape(x), reader.type(x)
    copies = reader.references(op)
    if reader.integer(op, "times") != len(copies):
        raise Refused(f"copies {reader.integer(op, 'times')} times to {len(copies)} tensors")
    for each in copies:
        reader.give(each, value, shape, dtype)


@TABLE.row("cast", becomes="Cast")
def _cast(op: Operation, reader: Reader) -> None:
    given = op.arguments.get("input")
    dtype = meant_type(op, reader, "")
    if not dtype:
        raise Refused("does not say to what type", "Write cast<scalar>, <integer> or <logical>.")
    number = NUMBERS[DTYPES[dtype]]
    reader.make(op, "Cast", [reader.value(given)], reader.shape(given), dtype, to=number)


def meant_type(op: Operation, reader: Reader, otherwise: str = "float32") -> str:
    """Name the element type of an operation's result that its text tells."""
    told = reader.document.types.get(reader.reference(op).name)
    dtype = told or MEANT.get(op.dtype, otherwise if not op.dtype else "")
    known = dtype in DTYPES and DTYPES[dtype] in NUMBERS
    if not known and (dtype or op.dtype):
        raise Refused(f"has element type {dtype or op.dtype}, which ONNX has not")
    return dtype


def _sizes(op: Operation, reader: Reader) -> list[int]:
    sizes = reader.integers(op, "shape")
    for size in sizes:
        if size <= 0:
            raise Refused(f"has shape {sizes}, of which {size} is no size", "Write the size.")
    return sizes
