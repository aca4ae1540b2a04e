"""Document: an NNEF model's text, parsed; its flat operations; and its canonical writing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tensorkeep.errors import ArgumentError, CorruptError, UnsafeError, UnsupportedError
from tensorkeep.wire.nnef import composing, printing
from tensorkeep.wire.nnef.checking import (
    FRAGMENTS,
    Vocabulary,
    check_fragment,
    check_graph,
    vocabulary,
)
from tensorkeep.wire.nnef.flattening import flatten
from tensorkeep.wire.nnef.fragments import standard
from tensorkeep.wire.nnef.lexing import MAX_TEXT
from tensorkeep.wire.nnef.operations import Operation, Quantization
from tensorkeep.wire.nnef.parsing import parse_document
from tensorkeep.wire.nnef.quantization import parse_quantization, quantization_lines
from tensorkeep.wire.nnef.syntax import Assignment, Fragment, Parameter, Result, TensorOf

_LEAST_BUDGET = 500_000
_SCALARS = TensorOf("scalar")


class _Flat(NamedTuple):
    """What a document consisted of, and the operations that this comes to."""

    given: tuple[object, ...]
    operations: list[Operation]


@dataclass(slots=True)
class Document:
    """An NNEF graph.

    Attributes:
        name: what the graph is called.
        inputs: the identifiers of its parameters, in order.
        outputs: the identifiers of its results.
        quantization: by the identifier of a tensor, what graph.quant says of it.
        names: by identifier, what the tensor was called where that is no identifier (or, of a
            variable, not its label).
        types: by identifier, the element type where NNEF's own words do not tell it: "float16".
        extensions: those that the text declares.
        fragments: the operations that it defines.
        body: its assignments, as they are written.
        where: what to call it in messages.

    >>> document = Document.parse('''version 1.0;
    ... graph net( x ) -> ( y ) { x = external(shape = [1, 4]); y = relu(x); }''')
    >>> [operation.name for operation in document.operations()]
    ['external', 'relu']
    >>> [operation.name for operation in document.operations(expand=["relu", "max"])]
    ['external', 'gt', 'select']
    """

    name: str
    inputs: list[str]
    outputs: list[str]
    quantization: dict[str, Quantization] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    extensions: tuple[str, ...] = ()
    fragments: tuple[Fragment, ...] = ()
    body: tuple[Assignment, ...] = ()
    where: str = field(default="", compare=False)
    size: int = field(default=0, compare=False, repr=False)
    _flat: _Flat | None = field(default=None, init=False, compare=False, repr=False)

    dialect = "nnef"

    @staticmethod
    def parse(text: str, where: str = "", quantization: str = "") -> Document:
        """Parse graph.nnef, and graph.quant.

        Raises:
            CorruptError: it is not NNEF, or contradicts itself; the message has its line:column.
            UnsupportedError: another version of NNEF, or what depends on the shapes of tensors.
            UnsafeError: it nests far too deeply, or comes to far more than what is written.
        """
        try:
            parsed = parse_document(text, where)
            document = Document(
                parsed.graph.name,
                [each.name for each in parsed.graph.parameters],
                [each.name for each in parsed.graph.results],
                extensions=parsed.extensions,
                fragments=parsed.fragments,
                body=parsed.graph.body or (),
                where=where,
                size=len(text),
            )
            words = document._words()
            for fragment in document.fragments:
                check_fragment(fragment, words)
            check_graph(parsed.graph, words)
            document.operations()
            if quantization:
                document.quantization = parse_quantization(quantization, words)
        except RecursionError:
            raise _too_deep(where) from None
        return document

    @staticmethod
    def of(
        name: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        operations: Sequence[Operation],
        fragments: Sequence[Fragment] = (),
    ) -> Document:
        """Make a document of flat operations.

        Args:
            name: what to call the graph.
            inputs: the identifiers of its parameters, each given by an operation "external".
            outputs: the identifiers of its results.
            operations: in an order in which each tensor is given before it is used; arguments
                that are missing or None are left to their defaults, and so are those equal to them.
            fragments: the definitions of operations that are no standard ones.

        Raises:
            ArgumentError: an operation or an argument is not NNEF's.
            UnsupportedError: a number that is not finite, which NNEF's text has no word for.
        """
        words = vocabulary((FRAGMENTS,), fragments, standard(), name)
        body = tuple(composing.assignment(operation, words.fragments) for operation in operations)
        extensions = (FRAGMENTS,) if fragments else ()
        document = Document(name, list(inputs), list(outputs), extensions=extensions,
                            fragments=tuple(fragments), body=body, where=name)  # fmt: skip
        document.size = sum(composing.weight(operation) for operation in operations)
        composing.check_names(document.name, document.inputs, operations)
        try:
            check_graph(document._graph(), document._words())
            document.operations()
        except CorruptError as error:
            raise ArgumentError(error.problem, where=name, cure=error.cure) from None
        return document

    def operations(self, expand: Collection[str] = ()) -> list[Operation]:
        """Give the flat operations in order; those of fragments with a body instead of these.

        Args:
            expand: the standard operations that are replaced too, by what `fragments.has_body`
                tells that they are made of.

        Raises:
            CorruptError, UnsafeError, UnsupportedError: as `parse` does.
        """
        if expand:
            return self._flatten(expand)
        lists = tuple(self.inputs), tuple(self.outputs)
        given = (self.name, self.extensions, self.fragments, self.body, *lists)
        if self._flat is None or self._flat.given != given:
            self._flat = _Flat(given, self._flatten())
        return [operation.copy() for operation in self._flat.operations]

    def _flatten(self, expand: Collection[str] = ()) -> list[Operation]:
        try:
            return flatten(self._graph(), self._words(), expand, self._budget())
        except RecursionError:
            raise _too_deep(self.where) from None

    def to_text(self) -> str:
        """Write it canonically: fragments and expressions as they are, comments dropped.

        Raises:
            UnsupportedError: it takes more characters than `parse` would read.
        """
        text = printing.document(self.extensions, self.fragments, self._graph())
        if len(text) > MAX_TEXT:
            problem = f"the graph takes {len(text):,} characters; at most {MAX_TEXT:,} are read"
            raise UnsupportedError(problem, where=self.where, cure="Keep it in another format.")
        return text

    def quantization_text(self) -> str:
        """Write graph.quant; empty where there is nothing to say."""
        return "".join(quantization_lines(self.quantization, self._words()))

    def name_of(self, identifier: str) -> str:
        """Give what a tensor is called outside of NNEF."""
        return self.names.get(identifier, identifier)

    def summary(self) -> str:
        """Say in a few words what there is."""
        count = len(self.operations())
        return f"{count:,} operation" + "s" * (count != 1)

    def parts(self) -> Iterator[tuple[str, str]]:
        """Give each part by its place: operations flat, by the tensors they give, in any order."""
        yield "graph", self.name
        yield "inputs", ", ".join(self.inputs)
        yield "outputs", ", ".join(self.outputs)
        for operation in self.operations():
            yield f"operation {', '.join(operation.outputs())}", printing.operation(operation)
        for line in quantization_lines(self.quantization, self._words()):
            name, _, text = line.rstrip().partition(": ")
            yield f"quantization of {name}", text
        for name in dict.fromkeys((*self.names, *self.types)):
            yield f"note of {name}", f"{self.name_of(name)}: {self.types.get(name, 'as written')}"

    def _graph(self) -> Fragment:
        inputs = tuple(Parameter(name, _SCALARS) for name in self.inputs)
        outputs = tuple(Result(name, _SCALARS) for name in self.outputs)
        return Fragment(self.name, "", inputs, outputs, self.body)

    def _words(self) -> Vocabulary:
        return vocabulary(self.extensions, self.fragments, standard(), self.where)

    def _budget(self) -> int:
        return _LEAST_BUDGET + 4 * self.size


def _too_deep(where: str) -> UnsafeError:
    return UnsafeError("expressions and fragments nest too deeply", where=where)
