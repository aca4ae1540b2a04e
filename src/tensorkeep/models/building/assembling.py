"""A model of the values that it gives: nodes placed, named, written, and checked as a whole."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence

from tensorkeep.errors import ArgumentError
from tensorkeep.graph import KINDS, Graph, value_of
from tensorkeep.graph.elements import SINCE_IR
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.models.building.attributes import Reference
from tensorkeep.models.building.emitting import write_function, write_graph
from tensorkeep.models.building.functions import Function
from tensorkeep.models.building.history import choose_opset, is_lacking
from tensorkeep.models.building.naming import Names
from tensorkeep.models.building.nodes import check_formals, check_name, check_outputs
from tensorkeep.models.building.placing import Placed, place
from tensorkeep.models.building.symbols import Formal, Node, Symbol
from tensorkeep.models.building.types import Type
from tensorkeep.models.checking import check as run_checks
from tensorkeep.models.checks.findings import Finding
from tensorkeep.models.describing import set_metadata
from tensorkeep.models.opening import graph_of
from tensorkeep.models.ops import ONNX, expand_graph
from tensorkeep.models.shapes import infer_shapes
from tensorkeep.state import Json, State
from tensorkeep.version import __version__

# That of ONNX 1.8, the first with opset 13; functions, their defaults and optional types
# came later.
LOWEST_IR, _FUNCTIONS_IR, _OPTIONAL_IR, _DEFAULTS_IR = 7, 8, 8, 9
_OLDEST_IR = 4  # the first in which initializers need not be inputs


def model(
    outputs: Sequence[Symbol] | Mapping[str, Symbol],
    *,
    inputs: Sequence[Symbol] | None = None,
    name: str = "model",
    opset: int | Mapping[str, int] | None = None,
    ir_version: int | None = None,
    metadata: Mapping[str, Json] | None = None,
    doc: str = "",
    check: bool = True,
) -> State:
    """Give the model that computes values, to be saved, run or changed.

    The opset is the lowest, from 13 on, that has every operator with the attributes, inputs and
    element types it is used with; the IR version likewise, from 7 on. Both are what the oldest
    runtimes that are still in use read.

    What outputs are is inferred by the onnx package, where it is installed; without, their element
    types follow from the operators, and `typed` has to give their axes (or, without `check`, they
    stay open).

    Args:
        outputs: the values, perhaps by the names that they shall have.
        inputs: its inputs in order; None takes those that are used, in the order they were made.
        name: what its graph is called.
        opset: that of ONNX's own operators, or the opsets by domain.
        ir_version: the version of the file format.
        metadata: facts about it, as `set_metadata` takes them.
        doc: a description for readers.
        check: refuse it where `tensorkeep.models.check` finds an error in it.

    Raises:
        ArgumentError: an input is lacking, a name is there twice, no opset fits all nodes, or the
            check finds an error.

    >>> from tensorkeep.models.building import input, node
    >>> x = input("x", "float32", ["N", 4])
    >>> built = model({"y": node("Relu", x).typed("float32", ["N", 4])}, name="tiny")
    >>> built.graph, built.graph.opsets
    (Graph(1 node: x: float32[N, 4] -> y: float32[N, 4]), {'': 13})
    """
    check_name(name, "a model")
    output_names, symbols = check_outputs(outputs, "a model")
    listed = () if inputs is None else check_formals(inputs, "a model")
    placed = place(listed, symbols, output_names)
    _take_inputs(placed, inputs is None)
    local = _functions(placed)
    everything = [*placed.nodes(), *(node for each in local.values() for node in each.nodes())]
    _refuse_references(placed)
    opsets = _opsets(everything, opset)
    names = Names(placed)
    written = Message(MODEL, producer_name="tensorkeep", producer_version=__version__)
    written["graph"] = write_graph(placed, names, name, opsets[ONNX])
    for domain, version in opsets.items():
        written.add("opset_import", domain=domain, version=version)
    written["functions"] = [
        write_function(function, inner, Names(inner), opsets) for function, inner in local.items()
    ]
    written.ir_version = _ir_version(written, placed, list(local), ir_version)
    if doc:
        written.graph.doc_string = doc
    graph = Graph(written, where=f"the model {name}")
    if any(map(is_lacking, everything)):
        expand_graph(graph)
    _infer_outputs(graph, placed)
    state = State.of_graph(graph)
    if metadata:
        state = set_metadata(state, metadata)
    if check:
        _check(state)
    else:
        _refuse_unknown(state, rank=False)
    return state


def _take_inputs(placed: Placed, found: bool) -> None:
    if placed.free and not found:
        names = ", ".join(str(getattr(symbol.origin, "name", "")) for symbol in placed.free)
        raise ArgumentError(f"uses {names}, which its inputs lack", cure="Give them in inputs=....")
    root = placed.root
    root.inputs = (*root.inputs, *placed.free)
    placed.free = []
    for symbol in root.inputs:
        if symbol.type is None and isinstance(symbol.origin, Formal):
            raise ArgumentError(
                f"the input {symbol.origin.name!r} is of no known type",
                cure='Give input(name, dtype, axes), such as input("x", "float32", ["N", 3]).',
            )


def _functions(placed: Placed) -> dict[Function, Placed]:
    """Place the functions that nodes call, and those that these call."""
    found: dict[Function, Placed] = {}
    names: dict[tuple[str, str], Function] = {}
    waiting = [node.function for node in placed.nodes() if node.function]
    while waiting:
        function = waiting.pop(0)
        if function in found:
            continue
        if names.setdefault((function.domain, function.name), function) is not function:
            raise ArgumentError(f"two functions are called {function.domain}::{function.name}")
        inner = place(function.inputs, function.outputs, function.output_names)
        if inner.free:
            what = inner.free[0].origin
            raise ArgumentError(
                f"the function {function.name} uses {getattr(what, 'name', '')!r}, which is no "
                "input of it",
                cure="Functions see their own inputs alone.",
            )
        found[function] = inner
        waiting.extend(node.function for node in inner.nodes() if node.function)
    return found


def _refuse_references(placed: Placed) -> None:
    for node in placed.nodes():
        for each in node.attributes:
            if isinstance(each.value, Reference):
                raise ArgumentError(
                    f"{node} takes the attribute {each.value.name!r} of a function, but is in none"
                )


def _opsets(nodes: list[Node], given: int | Mapping[str, int] | None) -> dict[str, int]:
    if given is not None and not isinstance(given, int | Mapping):
        raise ArgumentError(
            f"the opset is a number, or a dict of them by domain, not {given!r}",
            cure='Give opset=17, or opset={"": 17, "ai.onnx.ml": 3}.',
        )
    wanted = {ONNX: given} if isinstance(given, int) else dict(given or {})
    wanted = {ONNX if domain == "ai.onnx" else domain: v for domain, v in wanted.items()}
    for domain, version in wanted.items():
        if type(version) is not int or version < 1:
            raise ArgumentError(f"the opset of {domain or 'ONNX'} cannot be {version!r}")
    domains = sorted({ONNX, *(node.domain for node in nodes), *wanted})
    return {
        domain: choose_opset(domain, (n for n in nodes if n.domain == domain), wanted.get(domain))
        for domain in domains
    }


def _ir_version(
    written: Message, placed: Placed, functions: list[Function], given: int | None
) -> int:
    found = {SINCE_IR.get(KINDS[p.message.data_type], 0) for p in Graph(written).places().values()}
    needed = max(LOWEST_IR, *found, *map(_ir_of, _types(placed)))
    if functions:
        needed = max(needed, _FUNCTIONS_IR)
    if any(r.default is not None for f in functions for r in f.attributes.values()):
        needed = max(needed, _DEFAULTS_IR)
    if given is None:
        return needed
    if type(given) is not int or given < (needed if needed > LOWEST_IR else _OLDEST_IR):
        raise ArgumentError(f"ir_version cannot be {given!r}, since it needs {needed}")
    return given


def _types(placed: Placed) -> Iterator[Type | None]:
    for scope in placed.scopes():
        for value in (*scope.inputs, *scope.outputs):
            yield value.type
        for node in scope.nodes:
            for symbol in node.inputs:
                yield symbol.type if symbol is not None else None


def _ir_of(kind: Type | None) -> int:
    """Give the IR version that a type and what it holds came with."""
    needed = 0
    while kind is not None:
        needed = max(needed, SINCE_IR.get(kind.dtype, 0) if kind.dtype else 0)
        if kind.kind == "optional":
            needed = max(needed, _OPTIONAL_IR)
        kind = kind.of
    return needed


def _infer_outputs(graph: Graph, placed: Placed) -> None:
    """Fill in what is not known of the outputs, by the onnx package where that is installed."""
    outputs = graph.model.graph.output
    open_ones = [
        value
        for value, symbol in zip(outputs, placed.root.outputs, strict=True)
        if symbol.type is None or (symbol.type.kind == "tensor" and symbol.type.axes is None)
    ]
    if open_ones and _installed():
        types = _inferred(graph)
        for value in open_ones:
            if value.name in types and value_of(types[value.name]).kind != "unknown":
                value["type"] = types[value.name].type.copy()


def _inferred(graph: Graph) -> dict[str, Message]:
    """Give the outputs with what the onnx package finds of them."""
    model = graph_of(infer_shapes(State.of_graph(graph))).model
    for value in model.graph.output:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param.startswith(_MADE_UP):
                dimension.drop("dim_param")
    return {value.name: value for value in model.graph.output}


_MADE_UP = "unk__"  # how names of sizes begin that inference makes up


def _check(state: State) -> None:
    """Refuse a model with errors; first those of nodes, which may be the cause of others."""
    faults = [each for each in run_checks(state, contents=False) if each.severity == "error"]
    faults.sort(key=lambda each: each.where.startswith("graph.output"))
    if faults and not faults[0].where.startswith("graph.output"):
        raise _refused(faults)
    _refuse_unknown(state, rank=True)
    if faults:
        raise _refused(faults)


def _refused(faults: list[Finding]) -> ArgumentError:
    more = f" ({len(faults) - 1} more)" if len(faults) > 1 else ""
    return ArgumentError(f"{faults[0].where}: {faults[0].problem}{more}", cure=faults[0].cure)


def _refuse_unknown(state: State, *, rank: bool) -> None:
    """Refuse outputs of no known type; with `rank` also tensors of no known number of axes.

    ONNX's checker asks for the second, runtimes for the first.
    """
    for value in graph_of(state).outputs:
        if value.kind == "unknown" or (rank and value.kind == "tensor" and value.axes is None):
            what = "type" if value.kind == "unknown" else "number of axes"
            other = "" if _installed() else ", or install tensorkeep[onnx] to infer it"
            cure = f'Give it with typed(dtype, axes), such as y.typed("float32", ["N"]){other}.'
            raise ArgumentError(f"the {what} of the output {value.name!r} is not known", cure=cure)


def _installed() -> bool:
    return importlib.util.find_spec("onnx") is not None
