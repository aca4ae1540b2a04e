"""Nets of Caffe2's become ONNX models: the whole direction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from tensorkeep.errors import ArgumentError, TensorKeepError
from tensorkeep.models.exchange.caffe2_to_onnx.interface import Interface, tell_interface
from tensorkeep.models.exchange.caffe2_to_onnx.opening import is_caffe2, open_caffe2
from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator, Program, read_program
from tensorkeep.models.exchange.caffe2_to_onnx.rows import TABLE
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.report import Refusal, Refused, Report, refuse
from tensorkeep.state import State
from tensorkeep.wire.caffe2.nets import Nets

# What the arithmetic of a row can raise where a net's arguments contradict its shapes.
_CONTRADICTIONS = (ArithmeticError, LookupError, TypeError, ValueError)


def translate(
    state: State, report: Report, *, shapes: Mapping[str, Sequence[int | str]] | None = None
) -> State:
    """Translate a net of Caffe2's to an ONNX model.

    Args:
        state: the weights, and `Nets` as the document, as `open_caffe2` gives them.
        report: takes what was done beside the plain replacing of operators.
        shapes: the shapes of inputs; a name for a size that varies.

    Raises:
        TranslationError: operators have no translation; all of them are listed.
        MissingError: weights are not there.
        ArgumentError: it holds no net; a shape is given for what is no input.
    """
    nets = state.document
    if not isinstance(nets, Nets):
        raise ArgumentError("holds no net of Caffe2's", where=state.where)
    outputs = nets.outputs or list(nets.predict.external_output)
    program = read_program(nets.predict, outputs, frozenset(state))
    interface = tell_interface(program, state, nets, shapes or {})
    to = Writer(nets.predict.name, where=state.where)
    details = state.metadata.get("caffe2")
    found = details.get("details") if isinstance(details, dict) else None
    to.details = found if isinstance(found, dict) else {}
    to.reserve(_values(program))
    _declare(interface, to)
    refusals = _emit(program.operators, to, report)
    if refusals:
        raise refuse(refusals, "ONNX", state.where)
    _come_out(program, to, report)
    _tell(program, interface, report)
    return to.state().replace(
        metadata={key: value for key, value in state.metadata.items() if key != "caffe2"},
        digests={name: text for name, text in state.digests.items() if name in interface.weights},
        checks={name: check for name, check in state.checks.items() if name in interface.weights},
        close=state.close,
        where=state.where,
    )


def _values(program: Program) -> list[str]:
    found = [*program.read, *program.outputs.values()]
    for operator in program.operators:
        found += operator.outputs
    return found


def _declare(interface: Interface, to: Writer) -> None:
    for blob, (dtype, axes) in interface.inputs.items():
        to.input(blob, dtype, axes)
    for blob, tensor in interface.weights.items():
        to.weight(blob, tensor)


def _come_out(program: Program, to: Writer, report: Report) -> None:
    """Declare the outputs; what no operator makes while testing is left out and told."""
    made = 0
    for blob, value in program.outputs.items():
        if not to.has(value):
            report.add("dropped", blob, "nothing writes this external output, as nets are tested")
            continue
        made += 1
        try:
            to.come_out(value)
        except Refused as refused:
            raise refuse([Refusal("output", blob, refused.reason)], "ONNX", to.where) from None
        if value != blob:
            report.add("renamed", blob, f"what comes out of it is {value}")
    if not made:
        raise ArgumentError("nothing comes out of the net", where=to.where)


def _emit(operators: Sequence[Operator], to: Writer, report: Report) -> list[Refusal]:
    """Translate operators one by one; gives what could not be said."""
    refusals: list[Refusal] = []
    lost: set[str] = set()  # values of operators that were refused, which others then lack
    unknown: Counter[tuple[str, str]] = Counter()
    for operator in operators:
        if operator.type not in TABLE:
            reason = f"there is no translation of this operator{operator.said()}"
            refusals.append(Refusal(operator.type, str(operator), reason))
            lost.update(operator.outputs)
            continue
        if not lost.isdisjoint(operator.inputs):  # it lacks what a refused one would have made
            lost.update(operator.outputs)
            continue
        try:
            _check_names(operator, to)
            TABLE[operator.type].translate(operator, to)
        except Refused as refused:
            lost.update(operator.outputs)
            refusals.append(Refusal(operator.type, str(operator), refused.reason, refused.cure))
            continue
        except TensorKeepError as error:
            lost.update(operator.outputs)
            refusals.append(Refusal(operator.type, str(operator), error.problem, error.cure))
            continue
        except _CONTRADICTIONS as error:
            lost.update(operator.outputs)
            reason = f"its arguments contradict what it is given ({error})"
            refusals.append(Refusal(operator.type, str(operator), reason))
            continue
        unknown.update((operator.type, name) for name in operator.unknown())
    for (kind, name), count in unknown.items():
        several = "1 operator has" if count == 1 else f"{count:,} operators have"
        text = f"{several} the argument {name}, which {kind} does not know and Caffe2 ignores"
        report.add("dropped", kind, text)
    return refusals


def _check_names(operator: Operator, to: Writer) -> None:
    if "" in operator.message.input or "" in operator.message.output:
        raise Refused("one of its blobs has no name")
    for value in operator.inputs:
        if not to.has(value):
            raise Refused(f"nothing writes its input {value!r}, such as a Dropout's mask in tests")


def _tell(program: Program, interface: Interface, report: Report) -> None:
    for blob in program.unwritten:
        report.add("dropped", blob, "it is an external output that no operator writes")
    for blob in interface.stand_ins:
        report.add("changed", blob, "it is an input; its values [[0]] in the init net stand for it")
    for blob, kind in interface.drawn.items():
        report.add("changed", blob, f"it is an input, which the init net draws at random ({kind})")
    for blob in program.carried:
        if blob in interface.weights:
            text = (
                "the net writes over it for its next run; here each run begins with what is given"
            )
            report.add("changed", blob, text)
    counted = Counter(message.type for message in program.dropped)
    for kind, count in counted.items():
        several = "1 operator" if count == 1 else f"{count:,} operators"
        report.add("dropped", kind, f"{several} on which nothing that comes out depends")


__all__ = ["TABLE", "is_caffe2", "open_caffe2", "translate"]
