"""Nodes of a model that is being built, each checked against its operator when it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, overload

from tensorkeep.dtypes import DType
from tensorkeep.errors import ArgumentError
from tensorkeep.graph.graph import Axis
from tensorkeep.models.building.attributes import AttributeValue, Body, take_attribute
from tensorkeep.models.building.constants import initializer, is_array
from tensorkeep.models.building.history import is_recent, versions
from tensorkeep.models.building.meanings import refused_value
from tensorkeep.models.building.output_types import is_whole, output_types, parameter_at
from tensorkeep.models.building.symbols import Formal, Node, Symbol
from tensorkeep.models.building.types import DTypeLike, Type, named
from tensorkeep.models.building.types import tensor as tensor_type
from tensorkeep.models.ops import ONNX, Parameter
from tensorkeep.models.ops.history import Version
from tensorkeep.similar import did_you_mean


def input(
    name: str, dtype: DTypeLike | Type | None = None, axes: Iterable[Axis] | None = None
) -> Symbol:
    """Give an input of a model, of a body or of a function.

    Args:
        name: what it is called.
        dtype: its element type, or its whole type where it is no tensor; only those of bodies and
            functions may be without.
        axes: sizes, names of sizes that vary ("N"), or None where one is not known.

    Raises:
        ArgumentError: there is no such type, or an axis is neither a size nor a name.

    >>> input("x", "float32", ["N", 3])
    <x: float32[N, 3]>
    """
    check_name(name, "an input")
    if dtype is None:
        return Symbol(Formal(name))
    return Symbol(Formal(name), 0, dtype if isinstance(dtype, Type) else tensor_type(dtype, axes))


def body(
    inputs: Sequence[Symbol],
    outputs: Sequence[Symbol] | Mapping[str, Symbol],
    *,
    name: str = "",
) -> Body:
    """Give a graph that is an attribute of a node: a branch of If, the body of Loop or Scan.

    A node lies in the innermost graph that has all its uses: what only a branch uses is computed
    only where the branch is taken, what several graphs use is computed once, outside.

    Args:
        inputs: what the node gives to it, made by `input`; none for the branches of If.
        outputs: what it gives back, perhaps by names.
        name: what the graph is called.

    Raises:
        ArgumentError: an input or output is none.
    """
    formals = check_formals(inputs, "a body")
    names, symbols = check_outputs(outputs, "a body")
    return Body(formals, symbols, names, name)


@overload
def node(
    op_type: str,
    /,
    *inputs: Any,
    outputs: Literal[1] = 1,
    name: str = "",
    output_names: Sequence[str] = (),
    domain: str = "",
    doc: str = "",
    attributes: Mapping[str, Any] | None = None,
    **others: Any,
) -> Symbol: ...


@overload
def node(
    op_type: str,
    /,
    *inputs: Any,
    outputs: int,
    name: str = "",
    output_names: Sequence[str] = (),
    domain: str = "",
    doc: str = "",
    attributes: Mapping[str, Any] | None = None,
    **others: Any,
) -> tuple[Symbol, ...]: ...


def node(
    op_type: str,
    /,
    *inputs: Any,
    outputs: int = 1,
    name: str = "",
    output_names: Sequence[str] = (),
    domain: str = "",
    doc: str = "",
    attributes: Mapping[str, Any] | None = None,
    **others: Any,
) -> Any:
    """Make a node; gives its output, or a tuple of them where it has several.

    Args:
        op_type: the operator.
        inputs: values, arrays (which become initializers), numbers, or None for one left out.
            Python numbers take the element type of the input they belong with.
        outputs: how many to give. Those that nobody uses are left out where the operator lets them.
        name: what it is called; empty calls it after its operator.
        output_names: what its outputs are called.
        domain: of an operator that is not ONNX's own. Those of unknown domains are not checked.
        doc: a description for readers.
        attributes: those whose names are parameters here.
        others: all other attributes.

    Raises:
        ArgumentError: there is no such operator, attribute or element type for it, or it takes
            another number of inputs or outputs.

    >>> x = input("x", "float32", ["N", 4])
    >>> node("Relu", x)
    <Relu: float32>
    >>> a, b = node("Split", x, outputs=2, axis=1)
    """
    check_name(op_type, "an operator")
    domain = ONNX if domain == "ai.onnx" else domain
    known = versions(domain, op_type)
    given = _take_attributes(op_type, known, {**(attributes or {}), **others})
    symbols = take_inputs(op_type, inputs, known[-1].inputs if known else ())
    return make_node(op_type, domain, symbols, given, outputs, name, output_names, doc, known)


def make_node(
    op_type: str,
    domain: str,
    symbols: tuple[Symbol | None, ...],
    given: tuple[AttributeValue, ...],
    outputs: Any,
    name: str,
    output_names: Sequence[str],
    doc: str = "",
    known: tuple[Version, ...] = (),
    function: Any = None,
) -> Any:
    """Make a node of values and attributes that were taken already; see `node`.

    Raises:
        ArgumentError: no version of the operator takes them.
    """
    if type(outputs) is not int or outputs < 1:
        raise ArgumentError(f"{op_type} cannot have {outputs!r} outputs")
    output_names = (output_names,) if isinstance(output_names, str) else tuple(output_names)
    for text in (domain, name, doc, *output_names):
        if not isinstance(text, str):
            raise ArgumentError(f"names, domain and doc of {op_type} are text, not {text!r}")
    if output_names and len(output_names) != outputs:
        raise ArgumentError(
            f"{op_type} has {len(output_names)} output_names for {outputs} outputs",
            cure="Give outputs=... as many.",
        )
    problems = {version: _problem(op_type, version, symbols, given, outputs) for version in known}
    fitting = tuple(version for version, problem in problems.items() if not problem)
    if known and not fitting:
        raise ArgumentError(f"{op_type} {problems[known[-1]]}", cure=_signature(op_type, known[-1]))
    types = output_types(op_type, fitting[-1], symbols, given) if fitting else []
    made = Node(
        op_type, domain, symbols, given, outputs, name, output_names, doc, fitting, function
    )
    found = tuple(
        Symbol(made, place, types[place] if place < len(types) else None)
        for place in range(outputs)
    )
    return found[0] if outputs == 1 else found


def take_inputs(
    op_type: str, inputs: Sequence[Any], parameters: Sequence[Parameter]
) -> tuple[Symbol | None, ...]:
    """Take values, arrays and numbers as the inputs of a node, without those left out at the end.

    Raises:
        ArgumentError: one is none of these.
    """
    listed = list(inputs)
    labels = [parameter_at(parameters, place) for place in range(len(listed))]
    while listed and listed[-1] is None and not _is_variadic(labels[-1]):
        listed.pop()
        labels.pop()
    known: dict[str, DType] = {}
    taken: list[Symbol | None] = [None] * len(listed)
    for place, value in enumerate(listed):
        if isinstance(value, Symbol) or is_array(value):
            symbol = value if isinstance(value, Symbol) else initializer(value)
            taken[place] = symbol
            label = labels[place]
            if label and label.uniform and symbol.dtype:
                known.setdefault(label.type, symbol.dtype)
    for place, value in enumerate(listed):
        if value is None or taken[place] is not None:
            continue
        label = labels[place]
        wanted = None
        if label and not isinstance(value, str | bytes):
            fixed = named(label.type)
            wanted = fixed.dtype if fixed else known.get(label.type)
            if op_type == "Pow" and place == 0:  # 2 ** x is of x's type, though it need not be
                wanted = next(iter(known.values()), None)
        try:
            taken[place] = initializer(value, dtype=wanted)
        except ArgumentError as error:
            what = label.name if label else f"number {place + 1}"
            raise ArgumentError(
                f"input {what} of {op_type}: {error.problem}", cure=error.cure
            ) from None
    return tuple(taken)


def _is_variadic(parameter: Parameter | None) -> bool:
    return parameter is not None and parameter.kind == "variadic"


def check_name(name: object, of: str) -> None:
    """Refuse what is no name.

    Raises:
        ArgumentError: it is not text, or empty.
    """
    if not isinstance(name, str) or not name:
        raise ArgumentError(f"the name of {of} is text, not {name!r}")


def check_formals(inputs: Any, of: str) -> tuple[Symbol, ...]:
    """Give inputs that `input` made, each once.

    Raises:
        ArgumentError: one is something else, or there twice.
    """
    if isinstance(inputs, Symbol) or not isinstance(inputs, Iterable):
        raise ArgumentError(f"the inputs of {of} are a list of values")
    listed = tuple(inputs)
    for symbol in listed:
        if not isinstance(symbol, Symbol) or not isinstance(symbol.origin, Formal):
            raise ArgumentError(f"{symbol!r} is no input of {of}", cure="Make it with input(...).")
    names = [str(symbol.origin.name) for symbol in listed if isinstance(symbol.origin, Formal)]
    for name in names:
        if names.count(name) > 1:
            raise ArgumentError(f"two inputs of {of} are called {name!r}")
    return listed


def check_outputs(outputs: Any, of: str) -> tuple[tuple[str, ...], tuple[Symbol, ...]]:
    """Give the names of outputs, where they have such, and the values.

    Raises:
        ArgumentError: there is none, or one is no value.
    """
    if isinstance(outputs, Symbol) or not isinstance(outputs, Iterable):
        raise ArgumentError(f"the outputs of {of} are a list of values, or a dict of them by name")
    names = tuple(outputs) if isinstance(outputs, Mapping) else ()
    listed = tuple(outputs.values()) if isinstance(outputs, Mapping) else tuple(outputs)
    for name in names:
        check_name(name, "an output")
    for symbol in listed:
        if not isinstance(symbol, Symbol):
            raise ArgumentError(
                f"an output of {of} is a {type(symbol).__name__}, not a value",
                cure="Wrap arrays with initializer(...).",
            )
    if not listed:
        raise ArgumentError(f"{of} has no outputs")
    return names, listed


def _take_attributes(
    op_type: str, known: tuple[Version, ...], given: dict[str, Any]
) -> tuple[AttributeValue, ...]:
    kinds: dict[str, str] = {}
    for version in known:
        kinds.update((name, each.type) for name, each in version.attributes.items())
    taken = []
    for name, value in given.items():
        if known and name not in kinds:
            recent = {key for v in known if is_recent(v) or v is known[-1] for key in v.attributes}
            has = f"It has {', '.join(sorted(recent))}." if recent else "It has none."
            cure = did_you_mean(name, sorted(recent)) or has
            raise ArgumentError(f"{op_type} has no attribute {name!r}", cure=cure)
        if value is not None:
            taken.append(take_attribute(name, value, kinds.get(name, ""), f"{op_type}'s"))
    return tuple(taken)


def _most(parameters: Sequence[Parameter]) -> int | None:
    return None if parameters and parameters[-1].kind == "variadic" else len(parameters)


def _problem(
    op_type: str,
    version: Version,
    symbols: tuple[Symbol | None, ...],
    given: tuple[AttributeValue, ...],
    outputs: int,
) -> str:
    """Say why a version of an operator does not take inputs and attributes; empty where it does."""
    checks: list[Callable[[], str]] = [
        lambda: _count("input", len(symbols), version.least_inputs, _most(version.inputs)),
        lambda: _count("output", outputs, min(version.least_outputs, 1), _most(version.outputs)),
        lambda: _attributes_problem(version, given),
        lambda: _inputs_problem(version, symbols),
        lambda: refused_value(op_type, version.since, {a.name: a.value for a in given}, symbols),
        lambda: _output_problem(op_type, version, symbols, given),
        lambda: _bodies_problem(given, outputs),
    ]
    return next(filter(None, (check() for check in checks)), "")


def _count(what: str, found: int, least: int, most: int | None) -> str:
    if least <= found and (most is None or found <= most):
        return ""
    number = f"at least {least}" if most is None else f"{least}" if least == most else ""
    number = number or f"{least} to {most}"
    return f"takes {number} {what}{'' if number == '1' else 's'}, not {found}"


def _attributes_problem(version: Version, given: tuple[AttributeValue, ...]) -> str:
    names = {each.name for each in given}
    for each in given:
        if each.name not in version.attributes:
            return f"has no attribute {each.name!r} from opset {version.since} on"
        kind = version.attributes[each.name].type
        if kind and each.kind != kind:
            return f"has an attribute {each.name!r} that is {kind}, not {each.kind}"
    lacking = [name for name in version.required if name not in names]
    return f"needs the attribute {', '.join(lacking)}" if lacking else ""


def _inputs_problem(version: Version, symbols: tuple[Symbol | None, ...]) -> str:
    bound: dict[str, tuple[str, str]] = {}
    for place, symbol in enumerate(symbols):
        parameter = parameter_at(version.inputs, place)
        assert parameter is not None
        if symbol is None:
            if parameter.kind != "optional":
                return f"needs its input {parameter.name}"
            continue
        if symbol.type is None or not is_whole(symbol.type):
            continue
        text = symbol.type.text
        plain = text[7:-1] if text.startswith("tensor(") else text
        allowed = version.types.get(parameter.type)
        fixed = named(parameter.type)
        if (allowed and plain not in allowed) or (fixed and fixed.text != text):
            choices = sorted(allowed) if allowed else [str(fixed)]
            said = ", ".join(str(named(each) or each) for each in choices[:30])
            return f"takes {said} as its input {parameter.name}, not {symbol.type}"
        first = bound.setdefault(parameter.type, (text, parameter.name))
        if parameter.uniform and first[0] != text:
            return (
                f"takes inputs {first[1]} and {parameter.name} of one type, "
                f"not {named(first[0]) or first[0]} and {named(text) or text}"
            )
    return ""


def _output_problem(
    op_type: str,
    version: Version,
    symbols: tuple[Symbol | None, ...],
    given: tuple[AttributeValue, ...],
) -> str:
    """Say whether an output would be of a type that the version does not give."""
    for place, found in enumerate(output_types(op_type, version, symbols, given)):
        parameter = parameter_at(version.outputs, place)
        allowed = version.types.get(parameter.type) if parameter else None
        if found is None or not allowed or not is_whole(found):
            continue
        if found.text not in allowed and found.text[7:-1] not in allowed:
            return f"does not give {found} from opset {version.since} on"
    return ""


def _bodies_problem(given: tuple[AttributeValue, ...], outputs: int) -> str:
    bodies = {each.name: each.value for each in given if isinstance(each.value, Body)}
    branches = bodies.get("then_branch"), bodies.get("else_branch")
    for branch in branches:
        if branch and branch.inputs:
            return "has branches, which take no inputs: they use what is outside them"
        if branch and len(branch.outputs) != outputs:
            return f"has a branch with {len(branch.outputs)} outputs, but {outputs} itself"
    return ""


def _signature(op_type: str, version: Version) -> str:
    inputs, outputs = ", ".join(map(str, version.inputs)), ", ".join(map(str, version.outputs))
    return f"It is {op_type}({inputs}) -> {outputs}."
