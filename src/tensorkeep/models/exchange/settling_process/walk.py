"""Goes through the nodes of a model, in the order in which they run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import (
    AttributeProto,
    FunctionProto,
    NodeProto,
    TensorProto,
    TypeProto,
    numpy_helper,
    shape_inference,
)

from .constants import COMPUTED, constant_of, evaluate
from .messages import (
    ProblemError,
    agree,
    alive,
    all_names,
    defaults,
    defined,
    in_order,
    is_whole,
    named,
    nbytes,
    plain,
    schema_of,
    type_of,
)
from .renaming import Names
from .stand_ins import given_shape, stand_in
from .unrolling import body_of, goes_on, unroll_loop, unroll_scan

MOST_NODES = 250_000  # with those of functions in place of their calls
DEEPEST = 64  # functions within functions
READ = 1 << 16  # bytes of a constant that inference may look into

Opsets = Mapping[str, int]
_SCAN = 9  # the opset from which on a Scan has no batches
_FIRST_WITH_OPSETS = 3  # an older format of models means opset 1
# Nodes that give something else each time.
_RANDOM = ("Random", "Bernoulli", "Multinomial")
# Those that give no more elements for each axis than they take.
_BOUNDED = ("NonZero", "Compress", "Unique")


class Walk:
    """Goes through the nodes of a model.

    Attributes:
        types: of the values so far; there is none where it is not known.
        constants: what is known of them, with its values.
        held: the names of values that are constant, though their values are not here.
        nodes: what remains, each with the versions of its operator and opset; None for what was
            computed.
    """

    def __init__(self, model: onnx.ModelProto, keeps: Iterable[str]) -> None:
        self.model = model
        self.keeps = frozenset(keeps)
        self.functions = {(plain(f.domain), f.name, f.overload): f for f in model.functions}
        self.declared = {row.name: row.type for row in model.graph.value_info}
        self.declared |= {row.name: row.type for row in model.graph.output}
        self.types: dict[str, TypeProto] = {}
        self.constants: dict[str, TensorProto] = {}
        self.held: set[str] = set()
        self.late: dict[str, int] = {}  # what waits to be computed: the places of the nodes
        self.waiting: list[tuple[int, int]] = []  # those places, and the opsets
        self.known: set[str] = set()
        self.nodes: list[tuple[NodeProto, int, int] | None] = []
        self.expanded: Counter[str] = Counter()
        self.faults: dict[str, str] = {}
        self.folded = 0
        self.dropped = 0
        self.seen = 0
        self.names = Names(all_names(model.graph))

    def run(self) -> None:
        """Go through all nodes.

        Raises:
            ProblemError: a value is there twice or not at all, or the functions never end.
        """
        graph = self.model.graph
        for row in graph.input:
            self._define(row.name)
            self.types[row.name] = row.type
        for tensor in graph.initializer:
            self._define(tensor.name)
            self._constant(tensor.name, tensor)
        imported = {plain(row.domain): row.version for row in self.model.opset_import}
        if self.model.ir_version < _FIRST_WITH_OPSETS:
            imported.setdefault("", 1)
        nodes = alive(in_order(graph.node, self.known), [row.name for row in graph.output])
        self.dropped = len(graph.node) - len(nodes)
        self._take(nodes, imported, 0)
        self._compute()
        for row in graph.output:
            if row.name not in self.known:
                raise ProblemError(f"nothing gives the output {row.name!r}")

    def result(self) -> tuple[onnx.ModelProto, dict[str, Any]]:
        """Give the model as it is now, and what was done."""
        made = onnx.ModelProto(ir_version=10)
        made.graph.input.extend(self.model.graph.input)
        made.graph.output.extend(self.model.graph.output)
        rows = [row for row in self.nodes if row is not None]
        made.graph.node.extend(row[0] for row in rows)
        made.graph.initializer.extend(self.constants.values())
        for name, kind in self.types.items():
            made.graph.value_info.add(name=name).type.CopyFrom(kind)
        return made, {
            "versions": [row[1:] for row in rows],
            "expanded": dict(self.expanded),
            "folded": self.folded,
            "dropped": self.dropped,
            "faults": self.faults,
        }

    def _take(self, nodes: Sequence[NodeProto], opsets: Opsets, depth: int) -> None:
        if depth > DEEPEST:
            raise ProblemError(f"its functions call one another more than {DEEPEST} deep")
        for node in nodes:
            self.seen += 1
            if self.seen > MOST_NODES:
                raise ProblemError(f"with its functions it has more than {MOST_NODES:,} nodes")
            lacking = [name for name in node.input if name and name not in self.known]
            if lacking:
                raise ProblemError(f"{named(node)} takes {lacking[0]!r}, which nothing gives")
            self._one(node, opsets, depth)

    def _one(self, node: NodeProto, opsets: Opsets, depth: int) -> None:
        domain = plain(node.domain)
        node = self._simpler(node) if domain == "" else node
        function = self.functions.get((domain, node.op_type, node.overload))
        if function is not None:
            self.expanded[f"{domain}::{node.op_type}" if domain else node.op_type] += 1
            self._call(function, node, {}, depth)
            return
        version = opsets.get(domain, 0)
        schema = schema_of(node.op_type, version, domain)
        if domain == "":
            if node.op_type == "Constant" and (value := constant_of(node)) is not None:
                self._define(node.output[0])
                self._constant(node.output[0], value)
                return
            if node.op_type == "If" and self._branch(node, opsets, depth):
                return
            if node.op_type in ("Loop", "Scan") and self._unroll(node, opsets, depth):
                return
            if (
                schema is not None
                and node.op_type not in self.keeps
                and not self._is_constant(node)
            ):
                body = self._body(schema, node, version)
                if body is not None:
                    self.expanded[node.op_type] += 1
                    self._call(body, node, defaults(schema), depth)
                    return
        for name in filter(None, node.output):
            self._define(name)
        self._infer(node, schema, opsets)
        self._place(node, schema.since_version if schema else 1, version)

    def _simpler(self, node: NodeProto) -> NodeProto:
        """Give a node that needs less than another, whose input only tells a type or a shape."""
        kinds = [self.types.get(name, TypeProto()).tensor_type for name in node.input]
        if node.op_type == "CastLike" and len(kinds) == 2 and kinds[1].elem_type:
            made = _changed(node, [node.input[0]], "Cast")
            made.attribute.append(onnx.helper.make_attribute("to", kinds[1].elem_type))
            return made
        if node.op_type == "EyeLike" and 0 <= nbytes(self.types.get(node.input[0])) <= COMPUTED:
            kind = onnx.helper.tensor_dtype_to_np_dtype(kinds[0].elem_type)
            zeros = np.zeros([axis.dim_value for axis in kinds[0].shape.dim], kind)
            return _changed(node, [self._fresh_constant(f"{node.output[0]}/like", zeros)])
        if node.op_type == "Range" and any(len(kind.shape.dim) for kind in kinds):
            values = [self._value(name) for name in node.input]
            if all(value is not None and value.size == 1 for value in values):
                scalars = [value.reshape(()) for value in values]  # as ONNX wants them
                return _changed(node, [self._fresh_constant(node.output[0], n) for n in scalars])
        return node

    def _fresh_constant(self, hint: str, value: Any) -> str:
        name = self.names.fresh(hint)
        self._define(name)
        self._constant(name, numpy_helper.from_array(value))
        return name

    def _define(self, name: str) -> None:
        if name in self.known:
            raise ProblemError(f"the value {name!r} is there twice")
        self.known.add(name)
        self.names.taken.add(name)

    def _constant(self, name: str, tensor: TensorProto) -> None:
        if tensor.name != name:
            named = TensorProto()
            named.CopyFrom(tensor)
            named.name = name
            tensor = named
        self.constants[name] = tensor
        if tensor.data_location == TensorProto.EXTERNAL:
            self.held.add(name)
        self.types[name] = type_of(tensor)

    # Functions, and branches.

    def _body(self, schema: Any, node: NodeProto, version: int) -> FunctionProto | None:
        try:
            if schema.has_function:
                found = schema.get_function_with_opset_version(version)
            elif schema.has_context_dependent_function:
                kinds = [self.types.get(name, TypeProto()) for name in node.input]
                found = schema.get_context_dependent_function_with_opset_version(
                    version, node.SerializeToString(), [kind.SerializeToString() for kind in kinds]
                )
            else:
                return None
        except Exception:  # whatever onnx raises where there is none for this case
            return None
        if not found:
            return None
        return FunctionProto.FromString(found) if isinstance(found, bytes) else found

    def _call(
        self,
        function: FunctionProto,
        node: NodeProto,
        defaults: Mapping[str, AttributeProto],
        depth: int,
    ) -> None:
        attributes = {**defaults, **{row.name: row for row in function.attribute_proto}}
        attributes |= {row.name: row for row in node.attribute}
        names = dict.fromkeys(function.input, "") | dict(
            zip(function.input, node.input, strict=False)
        )
        outputs = dict(zip(function.output, node.output, strict=False))
        wanted = {inner: outer for inner, outer in outputs.items() if outer}
        passed = [inner for inner in wanted if inner in names]  # an input that is given back
        names |= {inner: outer for inner, outer in wanted.items() if inner not in passed}
        hint = f"{node.name or next(filter(None, node.output), node.op_type)}/"
        opsets = {plain(row.domain): row.version for row in function.opset_import}
        self._splice(function.node, names, attributes, hint, opsets, depth)
        self._same({names[inner]: wanted[inner] for inner in passed}, opsets)

    def _branch(self, node: NodeProto, opsets: Opsets, depth: int) -> bool:
        condition = node.input[0] if node.input else ""
        value = self._value(condition)
        if value is None:
            return False
        wanted = "then_branch" if np.asarray(value).reshape(-1)[:1].any() else "else_branch"
        branch = next((row.g for row in node.attribute if row.name == wanted), None)
        if branch is None or branch.sparse_initializer or len(branch.output) != len(node.output):
            return False
        names: dict[str, str] = {}
        own = defined(branch)
        outer: dict[str, str] = {}
        for row, name in zip(branch.output, node.output, strict=True):
            computed = row.name in own and row.name not in names
            if computed and not any(t.name == row.name for t in branch.initializer):
                names[row.name] = name
            else:
                outer[name] = row.name
        hint = f"{node.name or node.output[0]}/"
        for tensor in branch.initializer:
            names[tensor.name] = self.names.fresh(hint + tensor.name)
            self._define(names[tensor.name])
            self._constant(names[tensor.name], tensor)
        self.expanded["If"] += 1
        names |= {name: self.names.fresh(hint + name) for name in own if name not in names}
        self._splice(branch.node, names, {}, hint, opsets, depth)
        self._same({names.get(inner, inner): name for name, inner in outer.items()}, opsets)
        return True

    def _unroll(self, node: NodeProto, opsets: Opsets, depth: int) -> bool:
        version = opsets.get("", 0)
        made = None
        if node.op_type == "Loop" and (body := body_of(node)) is not None and goes_on(body):
            rounds = self._value(node.input[0]) if node.input else None
            starts = self._value(node.input[1]) if len(node.input) > 1 and node.input[1] else True
            if rounds is not None and starts is not None and np.size(rounds) == 1:
                count = int(np.reshape(rounds, -1)[0]) if np.all(starts) else 0
                made = unroll_loop(node, max(count, 0), self.names, version)
        elif node.op_type == "Scan" and version >= _SCAN and node.input:
            kind = self.types.get(node.input[-1])
            axes = next((row.ints for row in node.attribute if row.name == "scan_input_axes"), ())
            if kind is not None and is_whole(kind):
                sizes = [axis.dim_value for axis in kind.tensor_type.shape.dim]
                axis = axes[-1] if axes else 0
                rounds = sizes[axis] if -len(sizes) <= axis < len(sizes) else 0
                made = unroll_scan(node, rounds, self.names, version)
        if made is None:
            return False
        self.expanded[node.op_type] += 1
        self._take(made, opsets, depth + 1)
        return True

    def _same(self, pairs: Mapping[str, str], opsets: Opsets) -> None:
        for inner, outer in pairs.items():
            made = onnx.helper.make_node("Identity", [inner], [outer])
            self._one(made, {"": max(opsets.get("", 1), 1)}, DEEPEST)

    def _splice(
        self,
        nodes: Iterable[NodeProto],
        names: dict[str, str],
        attributes: Mapping[str, AttributeProto],
        hint: str,
        opsets: Opsets,
        depth: int,
    ) -> None:
        for each in nodes:
            for name in filter(None, each.output):
                if name not in names:
                    names[name] = self.names.fresh(hint + name)
            made = NodeProto()
            made.CopyFrom(each)
            made.name = hint + each.name if each.name else ""
            self.names.rename(made, names, attributes)
            self._take([made], opsets, depth + 1)

    # Types.

    def _infer(self, node: NodeProto, schema: Any, opsets: Opsets) -> None:
        found: dict[str, TypeProto] = {}
        if schema is not None:
            found = self._ask(node, schema, opsets)
            waits = [name for name in node.input if name in self.late]
            if waits and not all(is_whole(found.get(name)) for name in node.output if name):
                self._compute()
                found = self._ask(node, schema, opsets)
        for name in filter(None, node.output):
            kind, declared = found.get(name), self.declared.get(name)
            if name in self.faults:  # so that what is declared of it may be as wrong
                continue
            if declared is not None and not is_whole(kind) and is_whole(declared):
                kind = declared if kind is None or agree(kind, declared) else kind
            if kind is not None:
                self.types[name] = kind

    def _ask(self, node: NodeProto, schema: Any, opsets: Opsets) -> dict[str, TypeProto]:
        asked, schema = node, schema
        if not schema.has_type_and_shape_inference_function:
            asked, version = stand_in(node)
            if version == 0:
                kind = self.types.get(node.input[0]) if node.input else None
                return {node.output[0]: kind} if kind is not None else {}
            schema = schema_of(asked.op_type, version, "") if version > 0 else schema
        try:
            kinds = {name: self.types[name] for name in node.input if name}
            if any(row.HasField("g") for row in node.attribute):
                kinds = self.types
            data = {name: self.constants[name] for name in node.input if self._is_read(name)}
            if (shape := given_shape(node, asked)) is not None:
                kinds[shape.name], data[shape.name] = type_of(shape), shape
            imports = [onnx.helper.make_opsetid(*row) for row in opsets.items()]
            found: dict[str, TypeProto] = shape_inference.infer_node_outputs(
                schema, asked, kinds, data, opset_imports=imports
            )
            return found
        except KeyError:
            return {}
        except Exception as error:  # InferenceError, and what else onnx raises
            for name in filter(None, node.output):
                self.faults[name] = f"{named(node)}: {error}"
            return {}

    def _is_read(self, name: str) -> bool:
        tensor = self.constants.get(name)
        return tensor is not None and name not in self.held and tensor.ByteSize() <= READ

    # What is constant.

    def _place(self, node: NodeProto, since: int, version: int) -> None:
        place = len(self.nodes)
        self.nodes.append((node, since, version))
        if plain(node.domain) or not node.output:
            return
        if node.op_type in ("Shape", "Size") and self._measure(node):
            self.nodes[place] = None
            self.folded += 1
            return
        if not self._is_constant(node):
            return
        outputs = [name for name in node.output if name]
        sizes = [nbytes(self.types.get(name)) for name in outputs]
        held = any(name in self.held for name in node.input)
        bounded = node.op_type in _BOUNDED
        if not held and all((size <= COMPUTED) if size >= 0 else bounded for size in sizes):
            self.waiting.append((place, version))
            self.late |= dict.fromkeys(outputs, place)
            if min(sizes) < 0:
                self._compute()
        else:
            self.held.update(outputs)

    def _is_constant(self, node: NodeProto) -> bool:
        if node.op_type.startswith(_RANDOM) or any(
            row.HasField("g") or row.graphs for row in node.attribute
        ):
            return False
        if node.op_type == "DequantizeLinear" and node.op_type in self.keeps:
            return False  # what it says of a weight is worth more than its values
        return all(
            name in self.constants or name in self.late or name in self.held
            for name in node.input
            if name
        )

    def _measure(self, node: NodeProto) -> bool:
        kind = self.types.get(node.input[0])
        if not is_whole(kind) or kind is None:
            return False
        axes = [axis.dim_value for axis in kind.tensor_type.shape.dim]
        if node.op_type == "Size":
            value = np.array(int(np.prod(axes, dtype=np.int64)), np.int64)
        else:
            given = {row.name: row.i for row in node.attribute}
            value = np.array(axes[given.get("start", 0) : given.get("end")], np.int64)
        self._constant(node.output[0], numpy_helper.from_array(value))
        return True

    def _value(self, name: str) -> Any:
        if name in self.late:
            self._compute()
        if name not in self.constants or name in self.held:
            return None
        return numpy_helper.to_array(self.constants[name])

    def _compute(self) -> None:
        """Have ONNX Runtime compute what waits for it; what it cannot stays as it is."""
        waiting, self.waiting, self.late = self.waiting, [], {}
        while waiting:
            version = waiting[0][1]
            count = next((i for i, row in enumerate(waiting) if row[1] != version), len(waiting))
            now, waiting = waiting[:count], waiting[count:]
            places = [place for place, _ in now]
            if not self._run(places, version):
                for place in places:
                    if len(places) == 1 or not self._run([place], version):
                        row = self.nodes[place]
                        self.held.update(filter(None, row[0].output if row else ()))

    def _run(self, places: Sequence[int], version: int) -> bool:
        nodes = [row[0] for place in places if (row := self.nodes[place]) is not None]
        used = {name for node in nodes for name in node.input if name in self.constants}
        if self.held.intersection(name for node in nodes for name in node.input):
            return False
        try:
            values = evaluate(nodes, [self.constants[name] for name in used], version)
        except Exception:  # whatever ONNX Runtime raises
            return False
        for name, value in values.items():
            self._constant(name, value)
        for place in places:
            self.nodes[place] = None
        self.folded += len(places)
        return True


def _changed(node: NodeProto, inputs: Sequence[str], operator: str = "") -> NodeProto:
    made = NodeProto()
    made.CopyFrom(node)
    made.op_type = operator or node.op_type
    del made.input[:]
    made.input.extend(inputs)
    return made
