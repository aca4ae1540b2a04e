"""The whole of a model as an NNEF document: its inputs, operations, variables and outputs."""

from __future__ import annotations

from tensorkeep.errors import TensorKeepError
from tensorkeep.models.exchange.onnx_to_nnef.table import TABLE
from tensorkeep.models.exchange.onnx_to_nnef.writer import KINDS, Writer
from tensorkeep.models.exchange.report import Refusal, Refused, Report, refuse
from tensorkeep.models.exchange.settled import Node, Settled
from tensorkeep.state import State
from tensorkeep.wire.nnef.document import Document
from tensorkeep.wire.nnef.operations import Operation, Reference, Value, references

# What reading a malformed node raises where its translation expects a sound one.
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError)


def write(model: Settled, report: Report) -> State:
    """Write a settled model as an NNEF document.

    Raises:
        TranslationError: it has nodes that NNEF cannot say; all of them are listed.
    """
    to = Writer(model, report)
    refusals: list[Refusal] = []
    inputs = [made for name in model.inputs if (made := _input(name, to))]
    for node in model.nodes:
        if _gives_nothing(node, model):
            continue  # what takes it may leave it out, or is refused
        try:
            _translate(node, to)
        except Refused as refused:
            refusals.append(Refusal(node.operator, str(node), refused.reason, refused.cure))
    outputs = [] if refusals else _outputs(to, refusals)
    refusals += [] if refusals else _undefined(to, outputs)
    if not refusals and not inputs:
        reason = "it takes nothing, where an NNEF graph takes one tensor at least"
        refusals.append(Refusal("graph", model.name, reason))
    if refusals:
        raise refuse(refusals, "NNEF", model.where)
    return _state(to, inputs, outputs)


def _translate(node: Node, to: Writer) -> None:
    if node.domain not in ("", "ai.onnx"):
        raise Refused(f"it is an operator of {node.domain!r}, which NNEF knows nothing of")
    if node.operator not in TABLE:
        raise Refused("NNEF has nothing that does the same")
    try:
        TABLE[node.operator].translate(node, to)
    except TensorKeepError:
        raise
    except _MALFORMED as error:
        raise Refused(f"it is not as ONNX has it ({type(error).__name__}: {error})") from None


def _gives_nothing(node: Node, model: Settled) -> bool:
    """Whether all that a node gives has no elements."""
    shapes = [model.shapes.get(name, ()) for name in node.outputs if name]
    return bool(shapes) and all(0 in shape for shape in shapes)


def _input(name: str, to: Writer) -> str:
    """Declare an input; what NNEF cannot hold is left out, and refused where something takes it."""
    try:
        made = to.give(name)
    except Refused as refused:
        to.report.add("dropped", name, refused.reason)
        return ""
    kind = KINDS[to.model.type(name)]
    arguments: dict[str, Value] = {"shape": list(to.model.shape(name))}
    to.operations.append(Operation("external", arguments, {"output": made}, kind))
    return made.name


def _outputs(to: Writer, refusals: list[Refusal]) -> list[str]:
    """Have every output be a result of the graph's own: an input, or one given twice, is copied."""
    outputs: list[str] = []
    for name in to.model.outputs:
        try:
            value = to.tensor(name)
        except Refused as refused:
            refusals.append(Refusal("output", name, refused.reason, refused.cure))
            continue
        if value.name != to.identifier(name):  # which stands for another value
            value = to.emit("copy", {"x": value}, name)
        if name in to.model.inputs or value.name in outputs:
            value = _copied(name, value, to)
        outputs.append(value.name)
    return outputs


def _undefined(to: Writer, outputs: list[str]) -> list[Refusal]:
    """Refuse what is taken, or given by the graph, but by no operation."""
    operations = [*to.declarations, *to.operations]
    given = {name for operation in operations for name in operation.outputs()}
    taken = [*(name for operation in operations for name in operation.inputs()), *outputs]
    names = to.names()
    missing = [names.get(name, name) for name in dict.fromkeys(taken) if name not in given]
    return [Refusal("graph", name, "what gives it does not do so in NNEF") for name in missing]


def _copied(name: str, value: Reference, to: Writer) -> Reference:
    made = Reference(to.fresh(f"{name}_output"))
    to.operations.append(Operation("copy", {"x": value}, {"y": made}))
    to.report.add("renamed", name, f"is an input, or given twice, and so the output {made.name}")
    return made


def _state(to: Writer, inputs: list[str], outputs: list[str]) -> State:
    operations = _needed(to, outputs)
    name = to.fresh(to.model.name or "model")
    document = Document.of(name, inputs, outputs, operations)
    used = {each for operation in operations for each in operation.outputs()}
    document.names = {key: name for key, name in to.names().items() if key in used}
    told = _told(operations)
    document.types = {key: kind for key, kind in to.types.items() if key in told}
    document.quantization = {key: of for key, of in to.quantization.items() if key in used}
    tensors = {}
    for operation in operations:
        if operation.name == "variable":
            (identifier,) = operation.outputs()
            label = str(operation.arguments["label"])
            if document.names.get(identifier) == label:
                del document.names[identifier]  # which its label tells
            tensors[document.names.get(identifier, label)] = to.variables[identifier]
    _tell_names(to, document)
    return State(
        tensors, metadata=to.model.metadata, document=document, format="nnef", where=to.model.where
    )


def _told(operations: list[Operation]) -> set[str]:
    """Give the results whose element type does not follow from what their operations take."""
    beginning = [each for each in operations if each.name in ("external", "constant", "cast")]
    return {name for operation in beginning for name in operation.outputs()}


def _needed(to: Writer, outputs: list[str]) -> list[Operation]:
    """Give the operations that outputs depend on, and the inputs."""
    needed = set(outputs)
    for quantization in to.quantization.values():
        needed.update(each.name for each in references(list(quantization.arguments.values())))
    kept = []
    for operation in reversed([*to.declarations, *to.operations]):
        if operation.name == "external" or needed.intersection(operation.outputs()):
            needed.update(operation.inputs())
            kept.append(operation)
    kept.reverse()
    inputs = [operation for operation in kept if operation.name == "external"]
    return [*inputs, *(operation for operation in kept if operation.name != "external")]


def _tell_names(to: Writer, document: Document) -> None:
    """Note what is called otherwise: inputs and outputs each, the others together."""
    outside = {*document.inputs, *document.outputs}
    for identifier in outside & document.names.keys():
        name = document.names[identifier]
        to.report.add("renamed", name, f"is {identifier} in NNEF, which has no such names")
    others = len(document.names.keys() - outside)
    if others:
        text = (
            f"{others:,} names of values inside are no identifiers of NNEF's; a comment keeps them"
        )
        to.report.add("renamed", "graph", text)


__all__ = ["write"]
