"""What can be told of a text without computing it: names, arguments, and what is said where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tensorkeep.similar import did_you_mean
from tensorkeep.wire.nnef.lexing import fail
from tensorkeep.wire.nnef.syntax import (
    GENERIC,
    Argument,
    Array,
    Binary,
    Builtin,
    Choice,
    Comprehension,
    Expression,
    Fragment,
    Invocation,
    Literal,
    Name,
    Parameter,
    Result,
    Subscript,
    Tuple,
    Unary,
    holds_tensors,
    is_generic,
    names_of,
)

FRAGMENTS = "KHR_enable_fragment_definitions"
EXPRESSIONS = "KHR_enable_operator_expressions"
_NEAR, _COMPARED, _LONGEST = 6, 2_000, 100  # names longer or further apart are not compared
_GRAPH_ONLY = frozenset(["external", "variable", "update"])


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The operations that a text may use.

    Attributes:
        fragments: those that are known, by name.
        open: whether the text has extensions of others, whose operations need no definition.
        expressions: whether it may have operators and expressions.
    """

    fragments: Mapping[str, Fragment]
    open: bool
    expressions: bool
    where: str

    def find(self, call: Invocation) -> Fragment | None:
        """Give what an invocation invokes; None for what only an extension knows."""
        found = self.fragments.get(call.name)
        if found is None and not self.open:
            cure = f"Define it as a fragment. {_meant(call.name, self.fragments)}".strip()
            fail(call.at, f"there is no operation '{call.name}'", self.where, cure)
        return found

    def bind(self, call: Invocation, fragment: Fragment) -> dict[str, Expression]:
        """Give the arguments of an invocation by the names of its parameters."""
        bound: dict[str, Expression] = {}
        named = False
        for place, argument in enumerate(call.arguments):
            name = argument.name or self._positional(call, fragment, place, argument, named)
            parameter = fragment.parameter(name)
            if parameter is None:
                known = ", ".join(each.name for each in fragment.parameters)
                problem = f"'{call.name}' has no parameter '{name}', but {known}"
                fail(argument.at, problem, self.where)
            if name in bound:
                fail(argument.at, f"'{name}' of '{call.name}' is given twice", self.where)
            named |= bool(argument.name) or not holds_tensors(parameter.type)
            bound[name] = argument.value
        for parameter in fragment.parameters:
            if parameter.required and parameter.name not in bound:
                fail(call.at, f"'{call.name}' wants '{parameter.name}'", self.where)
        return bound

    def _positional(
        self, call: Invocation, fragment: Fragment, place: int, argument: Argument, named: bool
    ) -> str:
        if place >= len(fragment.parameters):
            problem = f"'{call.name}' has only {len(fragment.parameters)} parameters"
            fail(argument.at, problem, self.where)
        parameter = fragment.parameters[place]
        if named or not holds_tensors(parameter.type):
            problem = f"found an argument of '{call.name}' without its name"
            fail(argument.at, problem, self.where, f"Write: {parameter.name} = ...")
        return parameter.name


def _meant(name: str, names: Iterable[str]) -> str:
    near = [each for each in names if abs(len(each) - len(name)) < _NEAR]
    return did_you_mean(name, near[:_COMPARED]) if len(name) <= _LONGEST else ""


def vocabulary(
    extensions: Iterable[str],
    defined: Iterable[Fragment],
    standard: Mapping[str, Fragment],
    where: str,
) -> Vocabulary:
    """Gather the operations of a text, and check the signatures of those that it defines."""
    said = {extension.split()[0] for extension in extensions}
    fragments = dict(standard)
    for fragment in defined:
        if FRAGMENTS not in said:
            cure = f"Add the line: extension {FRAGMENTS};"
            fail(fragment.at, "a fragment is defined, which is an extension", where, cure)
        if fragment.name in fragments:
            fail(fragment.at, f"the operation '{fragment.name}' is defined already", where)
        _check_signature(fragment, where)
        fragments[fragment.name] = fragment
    return Vocabulary(fragments, bool(said - {FRAGMENTS, EXPRESSIONS}), EXPRESSIONS in said, where)


def _check_signature(fragment: Fragment, where: str) -> None:
    typed: list[Parameter | Result] = [*fragment.parameters, *fragment.results]
    _check_unique([each.name for each in typed], fragment, where)
    generic = any(is_generic(each.type) for each in typed)
    if generic != bool(fragment.generic):
        problem = f"'{fragment.name}' has " + ("types of ?" if generic else "no type of ?")
        fail(fragment.at, problem, where, "A generic fragment has <?> behind its name, others not.")
    tensors = {holds_tensors(result.type) for result in fragment.results}
    if len(tensors) > 1:
        problem = f"'{fragment.name}' gives tensors and attributes; expected only one of both"
        fail(fragment.at, problem, where)
    if fragment.body is None and tensors == {False}:
        fail(fragment.at, f"'{fragment.name}' gives attributes and has no body", where)


def _check_unique(names: list[str], fragment: Fragment, where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            fail(fragment.at, f"'{fragment.name}' has '{name}' twice", where)
        seen.add(name)


def check_graph(graph: Fragment, words: Vocabulary) -> None:
    """Check the graph: its inputs are external, and nothing else is.

    Raises:
        CorruptError: it contradicts itself.
    """
    inputs = [each.name for each in graph.parameters]
    _check_unique(inputs, graph, words.where)
    _check_unique([each.name for each in graph.results], graph, words.where)
    scope = _Scope(words, generic=False, graph=True)
    externals = set(inputs)
    for line in graph.body or ():
        scope.check(line.value, nested=False)
        for name, value in _pairs(line.target, line.value):
            external = isinstance(value, Invocation) and value.name == "external"
            if external != (name.name in externals):
                what = "is external and no input" if external else "is an input and not external"
                fail(name.at, f"'{name.name}' {what} of the graph", words.where)
            if isinstance(value, Invocation) and value.name == "variable":
                scope.variables.add(name.name)
        scope.declare(line.target)
    for needed in [*inputs, *(each.name for each in graph.results)]:
        if needed not in scope.names:
            fail(graph.at, f"'{needed}' of the graph is never assigned", words.where)


def _pairs(target: Expression, value: Expression) -> list[tuple[Name, Expression]]:
    if isinstance(target, Array | Tuple) and type(value) is type(target):
        items = zip(target.items, value.items, strict=False)
        return [pair for each in items for pair in _pairs(*each)]
    return [(name, value) for name in names_of(target)]


def check_fragment(fragment: Fragment, words: Vocabulary) -> None:
    """Check the body of a fragment.

    Raises:
        CorruptError: it contradicts itself.
    """
    if fragment.body is None:
        return
    scope = _Scope(words, generic=bool(fragment.generic), graph=False)
    scope.names.update(each.name for each in fragment.parameters)
    for line in fragment.body:
        scope.check(line.value, nested=False)
        scope.declare(line.target)
    for result in fragment.results:
        if result.name not in scope.names:
            problem = f"the result '{result.name}' of '{fragment.name}' is never assigned"
            fail(fragment.at, problem, words.where)


@dataclass(slots=True)
class _Scope:
    words: Vocabulary
    generic: bool
    graph: bool
    names: set[str] = field(default_factory=set)
    variables: set[str] = field(default_factory=set)

    def declare(self, target: Expression) -> None:
        for name in names_of(target):
            if name.name in self.names:
                problem = f"'{name.name}' is assigned again"
                fail(name.at, problem, self.words.where, "Each identifier is assigned once.")
            self.names.add(name.name)

    def check(self, value: Expression, nested: bool = True) -> None:
        if isinstance(value, Invocation):
            self._check_call(value)
            return
        extended = not nested or isinstance(
            value, Unary | Binary | Choice | Comprehension | Subscript | Builtin
        )
        if extended and not self.words.expressions:
            cure = f"Add the line: extension {EXPRESSIONS};"
            fail(value.at, "an expression is used, which is an extension", self.words.where, cure)
        if isinstance(value, Name) and value.name not in self.names:
            problem = f"'{value.name}' is used, but not assigned before"
            fail(value.at, problem, self.words.where, _meant(value.name, self.names))
        if isinstance(value, Comprehension):
            self._check_loops(value)
            return
        for part in _parts(value):
            self.check(part)

    def _check_loops(self, value: Comprehension) -> None:
        for _, items in value.loops:
            self.check(items)
        for target, _ in value.loops:
            self.declare(target)
        for part in (value.condition, value.item):
            if part is not None:
                self.check(part)
        for target, _ in value.loops:
            self.names.difference_update(name.name for name in names_of(target))

    def _check_call(self, call: Invocation) -> None:
        if call.dtype == GENERIC and not self.generic:
            fail(call.at, "found <?> where there is nothing generic", self.words.where)
        if call.name in _GRAPH_ONLY and not self.graph:
            fail(call.at, f"'{call.name}' belongs into a graph", self.words.where)
        fragment = self.words.find(call)
        arguments = [each.value for each in call.arguments]
        if fragment is not None:
            bound = self.words.bind(call, fragment)
            if call.name == "update":
                self._check_update(bound["variable"])
            if call.dtype and not fragment.generic:
                problem = f"'{call.name}' is not generic, found <{call.dtype}>"
                fail(call.at, problem, self.words.where)
        for value in arguments:
            self.check(value)

    def _check_update(self, value: Expression) -> None:
        if not isinstance(value, Name) or value.name not in self.variables:
            fail(value.at, "what 'update' updates has to be a variable", self.words.where)


def _parts(value: Expression) -> list[Expression]:
    if isinstance(value, Array | Tuple):
        return [item for item in value.items if not isinstance(item, Literal)]
    parts: tuple[Expression | None, ...] = ()
    if isinstance(value, Subscript):
        parts = (value.sequence, value.begin, value.end)
    elif isinstance(value, Unary | Builtin):
        parts = (value.operand,)
    elif isinstance(value, Binary):
        parts = (value.left, value.right)
    elif isinstance(value, Choice):
        parts = (value.condition, value.yes, value.no)
    return [part for part in parts if part is not None]
