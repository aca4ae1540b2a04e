"""NNEF to ONNX: each operation by a row of TABLE, in the order of the document."""

from __future__ import annotations

from tensorkeep.errors import ArgumentError, TensorKeepError
from tensorkeep.models.exchange.emitting import Emitter
from tensorkeep.models.exchange.nnef_to_onnx import (
    activating,
    convolution,
    declaring,
    elementwise,
    joining,
    multiplying,
    normalizing,
    pooling,
    quantizing,
    reducing,
    regions,
    resizing,
    sampling,
    shaping,
)
from tensorkeep.models.exchange.nnef_to_onnx.reader import FLOATS, Reader
from tensorkeep.models.exchange.nnef_to_onnx.table import TABLE
from tensorkeep.models.exchange.report import Refusal, Refused, Report, refuse
from tensorkeep.state import State
from tensorkeep.wire.nnef.document import Document
from tensorkeep.wire.nnef.fragments import has_body, standard
from tensorkeep.wire.nnef.operations import Operation, Reference, references

# The files whose rows TABLE is made of.
TOPICS = (
    activating,
    convolution,
    declaring,
    elementwise,
    joining,
    multiplying,
    normalizing,
    pooling,
    quantizing,
    reducing,
    regions,
    resizing,
    sampling,
    shaping,
)


def translate(state: State, report: Report) -> State:
    """Give the ONNX model that an NNEF document means, with its variables as they lie.

    Args:
        state: whose document is NNEF's.
        report: where to note what was done.

    Raises:
        ArgumentError: it has no NNEF document.
        TranslationError: operations that ONNX cannot say, all of them.
        CorruptError: the document contradicts itself.
    """
    document = state.document
    if not isinstance(document, Document):
        raise ArgumentError("has no NNEF document", where=state.where)
    operations = document.operations(expand=_taken_apart())
    to = Emitter(document.name, where=state.where)
    reader = Reader(document, state, to, report)
    _name_all(reader, operations)
    refusals = _translate_all(reader, operations)
    if refusals:
        raise refuse(refusals, "ONNX", state.where)
    _give_outputs(reader)
    reader.finish()
    made = to.state().graph
    assert made is not None
    return State.of_graph(made, state).replace(format="onnx", document=None)


def _taken_apart() -> list[str]:
    """Name the standard operations that have no row, but are made of others."""
    return [name for name in standard() if name not in TABLE and has_body(name)]


def _name_all(reader: Reader, operations: list[Operation]) -> None:
    """Settle the names of all values: those of variables first, then of inputs and outputs."""
    document = reader.document
    variables = {name for op in operations if op.name == "variable" for name in op.outputs()}
    reader.to.reserve(list(reader.tensors))
    shown = [*document.inputs, *document.outputs]
    for identifier in (*shown, *(name for op in operations for name in op.outputs())):
        if identifier in variables:
            continue
        name, wanted = reader.name_of(identifier), document.name_of(identifier)
        if name != wanted and identifier in document.inputs:
            reader.report.add("renamed", wanted, f"is the input {name!r}")


def _translate_all(reader: Reader, operations: list[Operation]) -> list[Refusal]:
    """Translate operations in order, inputs before all; gives what was refused."""
    given = {op.outputs()[0]: op for op in operations if op.name == "external" and op.outputs()}
    first = [given[name] for name in dict.fromkeys(reader.document.inputs) if name in given]
    refusals: list[Refusal] = []
    for op in (*first, *operations):
        if refusals and not all(reader.knows(name) for name in op.inputs()):
            continue  # what it takes was refused already
        try:
            _translate(op, reader)
        except Refused as refused:
            refusals.append(_refusal(op, reader, refused.reason, refused.cure))
        except TensorKeepError as error:
            refusals.append(_refusal(op, reader, error.problem, error.cure))
    return list(dict.fromkeys(refusals))


def _refusal(op: Operation, reader: Reader, reason: str, cure: str) -> Refusal:
    outputs = op.outputs()
    return Refusal(op.name, reader.document.name_of(outputs[0]) if outputs else "", reason, cure)


def _translate(op: Operation, reader: Reader) -> None:
    if op.name not in TABLE:
        raise Refused(
            "is no operation of NNEF's own, and the document does not say what it is made of",
            "Define it as a fragment with a body.",
        )
    quantized = [
        each
        for each in references(list(op.results.values()))
        if each.name in reader.document.quantization
    ]
    if not quantized:
        TABLE[op.name].translate(op, reader)
        return
    _translate_quantized(op, reader, quantized)


def _translate_quantized(op: Operation, reader: Reader, quantized: list[Reference]) -> None:
    """Translate an operation, and have what graph.quant says done to its results."""
    if op.name == "external" and reader.knows(quantized[0].name):
        return
    kept = {}
    if op.name not in ("external", "variable"):
        for each in quantized:  # whose name is for what comes after
            kept[each.name] = reader.name_of(each.name)
            reader.call(each.name, reader.to.fresh(f"{kept[each.name]}_exact"))
    TABLE[op.name].translate(op, reader)
    for each in quantized:
        value, dtype = reader.value(each), reader.type(each)
        if each.name in kept and dtype not in FLOATS:
            raise Refused(f"is quantized, but gives {dtype}")
        done = quantizing.fake_quantize(reader, value, reader.document.quantization[each.name])
        if each.name in kept:
            done = reader.to.node("Identity", [done], kept[each.name])
            reader.call(each.name, kept[each.name])
        reader.replace(each, done)


def _give_outputs(reader: Reader) -> None:
    """Declare the outputs, each under a name of its own."""
    used: set[str] = set()
    for identifier in reader.document.outputs:
        reference = Reference(identifier)
        wanted = reader.document.name_of(identifier)
        if not reader.knows(identifier):
            unknown = Refusal("graph", wanted, "is never assigned")
            raise refuse([unknown], "ONNX", reader.to.where)
        name = value = reader.value(reference)
        if value in used or not reader.is_named(reference, value):
            name = reader.to.node("Identity", [value], reader.to.fresh(wanted))
        if name != wanted:
            reader.report.add("renamed", wanted, f"is the output {name!r}")
        used.add(name)
        reader.to.output(name, reader.type(reference), reader.shape(reference))


__all__ = ["TABLE", "translate"]
