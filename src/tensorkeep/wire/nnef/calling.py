"""Calls: invocations made into operations, or into what their fragments are made of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from tensorkeep.errors import CorruptError, UnsafeError, UnsupportedError
from tensorkeep.wire.nnef.checking import Vocabulary
from tensorkeep.wire.nnef.computing import type_of
from tensorkeep.wire.nnef.fragments import standard
from tensorkeep.wire.nnef.lexing import fail, is_identifier, placed
from tensorkeep.wire.nnef.matching import Dtypes, MistypedError
from tensorkeep.wire.nnef.operations import Operation, Reference, Value, references
from tensorkeep.wire.nnef.syntax import (
    ArrayOf,
    Fragment,
    Parameter,
    Position,
    TensorOf,
    Type,
    holds_tensors,
)

_MAX_CALLS = 64
_MAX_HINT = 48
_COST = 16  # of an operation or tensor, as many values
_ANY = TensorOf("")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a tensor is to be called; where that is a mere hint, a name like it."""

    name: str
    exact: bool = False


Target = Wanted | list[Any] | tuple[Any, ...] | None  # nested as what is assigned to


@dataclass(slots=True)
class Scope:
    """A body that is being taken apart.

    Attributes:
        values: what its identifiers stand for.
        results: what the results of it are to be called.
        numbers: whether a result that is a number has to become a tensor.
        generic: what ? stands for.
        prefix: what the names of tensors begin with that the text does not name.
        depth: how many fragments it is within.
    """

    values: dict[str, Value] = field(default_factory=dict)
    results: dict[str, Target] = field(default_factory=dict)
    numbers: bool = False
    generic: str = ""
    prefix: str = ""
    depth: int = 0

    def hint(self, name: str) -> Wanted:
        """Give what to call a tensor that the text does not name."""
        return Wanted(f"{self.prefix}_{name}" if self.prefix else name)


class Calls:
    """The operations of a graph that is being taken apart, and what is known of their tensors.

    Args:
        words: the operations that there are.
        expand: the standard ones that give way to what they are made of.
        budget: how many values and operations there may be.
        taken: identifiers that the graph itself assigns.
        run: evaluates the body of a fragment in a scope.
    """

    def __init__(
        self,
        words: Vocabulary,
        expand: Collection[str],
        budget: int,
        taken: set[str],
        run: Callable[[Fragment, Scope], None],
    ) -> None:
        self.operations: list[Operation] = []
        self.shapes: dict[str, list[Value]] = {}
        self._words = words
        self._expand = expand
        self._budget = budget
        self._taken = taken
        self._run = run
        self._dtypes = Dtypes()
        self._counts: dict[str, int] = {}

    def spend(self, values: int, at: Position) -> None:
        """Count values.

        Raises:
            UnsafeError: there are far more than what is written calls for.
        """
        self._budget -= values
        if self._budget < 0:
            problem = placed(at, "what is written comes to millions of values")
            raise UnsafeError(problem, where=self._words.where)

    def foreign(
        self, name: str, given: dict[str, Value], dtype: str, wanted: Target, at: Position,
        scope: Scope,
    ) -> Value:  # fmt: skip
        """Keep an operation that only an extension knows; what it gives is what is assigned."""
        wants = wanted if isinstance(wanted, tuple) else (wanted,)
        results: dict[str, Value] = {
            str(place): self._result(each, _kind(each), name, scope, None, at)
            for place, each in enumerate(wants)
        }
        for each in references(list(results.values())):
            self._dtypes.declare(each, TensorOf(dtype), "")
        self.operations.append(Operation(name, given, results, dtype, *at))
        return tuple(results.values()) if isinstance(wanted, tuple) else results["0"]

    def call(
        self, name: str, given: Mapping[str, Value], dtype: str, wanted: Target, at: Position,
        scope: Scope,
    ) -> Value:  # fmt: skip
        """Give what an operation gives; several results are a tuple.

        Raises:
            CorruptError: an argument is of another type, or the results are not as many.
        """
        fragment = self._words.fragments[name]
        values = {
            each.name: given[each.name] if each.name in given else _default(each)
            for each in fragment.parameters
        }
        try:
            dtype = self._dtypes.check(fragment, values, dtype)
        except MistypedError as error:
            fail(at, f"'{name}': {error}", self._words.where)
        wants = self._wants(fragment, wanted, at)
        if fragment.body is None or (fragment is standard().get(name) and name not in self._expand):
            results = self._operation(fragment, values, dtype, wants, at, scope)
        else:
            results = self._expanded(fragment, values, dtype, wants, at, scope)
        return tuple(results.values()) if len(results) > 1 else next(iter(results.values()))

    def _wants(self, fragment: Fragment, wanted: Target, at: Position) -> dict[str, Target]:
        names = [each.name for each in fragment.results]
        if len(names) == 1:
            return {names[0]: wanted}
        if not isinstance(wanted, tuple):
            base = wanted.name if isinstance(wanted, Wanted) else fragment.name
            return {name: Wanted(f"{base}_{name}") for name in names}
        if len(wanted) != len(names):
            problem = f"'{fragment.name}' gives {len(names)} results, found {len(wanted)} to assign"
            fail(at, problem, self._words.where)
        return dict(zip(names, wanted, strict=True))

    def _operation(
        self, fragment: Fragment, values: dict[str, Value], dtype: str,
        wants: Mapping[str, Target], at: Position, scope: Scope,
    ) -> dict[str, Value]:  # fmt: skip
        self.spend(_COST + len(values), at)
        length = _length(fragment.name, values)
        results = {
            each.name: self._result(wants[each.name], each.type, fragment.name, scope, length, at)
            for each in fragment.results
        }
        self.operations.append(Operation(fragment.name, values, results, dtype, *at))
        for each in fragment.results:
            self._dtypes.declare(results[each.name], each.type, dtype)
        shape = values.get("shape")
        if fragment.name in ("external", "variable", "constant") and isinstance(shape, list):
            self.shapes.update((each.name, shape) for each in references([*results.values()]))
        return results

    def _result(
        self, wanted: Target, kind: Type, name: str, scope: Scope, length: int | None, at: Position
    ) -> Value:
        if isinstance(kind, ArrayOf):
            wants = wanted
            if not isinstance(wanted, list):
                self.spend(_COST * (length or 0), at)
                base = wanted.name if isinstance(wanted, Wanted) else scope.hint(name).name
                wants = [Wanted(f"{base}_{place}") for place in range(length or 0)]
                if length is None:
                    problem = placed(at, f"nothing tells how many tensors '{name}' gives")
                    cure = "Assign it to an array of identifiers: [a, b] = ..."
                    raise UnsupportedError(problem, where=self._words.where, cure=cure)
            assert isinstance(wants, list)
            if length not in (None, len(wants)):
                problem = f"'{name}' gives {length} tensors, found {len(wants)} to assign"
                fail(at, problem, self._words.where)
            return [self._result(each, kind.item, name, scope, None, at) for each in wants]
        if isinstance(wanted, list | tuple):
            problem = f"'{name}' gives a tensor, found {len(wanted)} identifiers to assign"
            fail(at, problem, self._words.where)
        wanted = wanted or scope.hint(name)
        return Reference(wanted.name if wanted.exact else self._fresh(wanted.name))

    def _fresh(self, hint: str) -> str:
        hint = hint[-_MAX_HINT:].lstrip("_0123456789")
        name = hint = hint if is_identifier(hint) else "tensor"
        while name in self._taken:
            self._counts[hint] = self._counts.get(hint, 0) + 1
            name = f"{hint}_{self._counts[hint]}"
        self._taken.add(name)
        return name

    def _expanded(
        self, fragment: Fragment, values: dict[str, Value], dtype: str,
        wants: dict[str, Target], at: Position, scope: Scope,
    ) -> dict[str, Value]:  # fmt: skip
        if scope.depth >= _MAX_CALLS:
            problem = placed(at, f"fragments within fragments, over {_MAX_CALLS} levels deep")
            cure = f"Does '{fragment.name}' ever come to an end?"
            raise UnsafeError(problem, where=self._words.where, cure=cure)
        inner = Scope(values, {}, False, dtype, scope.hint(fragment.name).name, scope.depth + 1)
        for result in fragment.results:
            if holds_tensors(result.type):
                inner.results[result.name] = wants[result.name] or scope.hint(fragment.name)
                inner.numbers = True
        first = next(iter(inner.results.values()), None)
        inner.prefix = first.name if isinstance(first, Wanted) else inner.prefix
        self._run_within(fragment, inner, at)
        results = {each.name: inner.values[each.name] for each in fragment.results}
        for each in fragment.results:
            if not self._dtypes.fits(results[each.name], each.type, dtype):
                problem = f"the result '{each.name}' of '{fragment.name}' is {each.type}, found "
                fail(at, problem + type_of(results[each.name]), self._words.where)
        return results

    def _run_within(self, fragment: Fragment, scope: Scope, at: Position) -> None:
        if fragment is not standard().get(fragment.name):
            self._run(fragment, scope)
            return
        try:
            self._run(fragment, scope)
        except CorruptError as error:  # whose line is not one of the text
            problem = error.problem.partition(": ")[2]
            fail(at, f"in '{fragment.name}': {problem}", self._words.where)


def _default(parameter: Parameter) -> Value:
    default = parameter.default
    return list(default) if isinstance(default, list) else default


def _kind(wanted: Target) -> Type:
    return ArrayOf(_kind(wanted[0] if wanted else None)) if isinstance(wanted, list) else _ANY


def _length(name: str, values: Mapping[str, Value]) -> int | None:
    """Tell how many tensors an operation gives whose arguments tell it."""
    if name == "split" and isinstance(values["ratios"], list):
        return len(values["ratios"])
    if name == "copy_n" and isinstance(values["times"], int):
        return max(values["times"], 0)
    return None
