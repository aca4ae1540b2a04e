"""Parser of NNEF's text; what it gives is a tree that has yet to be checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from tensorkeep.errors import UnsafeError, UnsupportedError
from tensorkeep.wire.nnef.lexing import KEYWORDS, Token, fail, placed, tokens, unquote
from tensorkeep.wire.nnef.operations import Value
from tensorkeep.wire.nnef.syntax import (
    GENERIC,
    PRIMITIVES,
    Argument,
    Array,
    ArrayOf,
    Assignment,
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
    Position,
    Primitive,
    Result,
    Subscript,
    TensorOf,
    Tuple,
    TupleOf,
    Type,
    Unary,
    names_of,
)

T = TypeVar("T")

PRECEDENCE = {
    "in": 1, "&&": 2, "||": 2,
    "<": 3, ">": 3, "<=": 3, ">=": 3, "==": 3, "!=": 3,
    "+": 4, "-": 4, "*": 5, "/": 5, "^": 6,
}  # fmt: skip
_OLD = {"lengthof": "length_of", "rangeof": "range_of", "shapeof": "shape_of"}
_BUILTINS = frozenset(["length_of", "range_of", "shape_of", *PRIMITIVES])
_ENDS = frozenset([",", "]", ")", ";"])
_MAX_LEVELS = 64
_MAX_CHAIN = 200
_MAX_PARAMETERS = 256
_MAX_DIGITS = 20
_TENSOR = TensorOf("scalar")


@dataclass(frozen=True, slots=True)
class Text:
    """A parsed graph.nnef."""

    extensions: tuple[str, ...]
    fragments: tuple[Fragment, ...]
    graph: Fragment


def parse_document(text: str, where: str) -> Text:
    """Parse a graph.nnef.

    Raises:
        CorruptError: the text is not NNEF.
        UnsupportedError: another version of it.
        UnsafeError: it is too long, or nests too deeply.
    """
    parser = Parser(text, where)
    parser.version()
    extensions = tuple(parser.extensions())
    fragments = []
    while parser.now.text == "fragment":
        fragments.append(parser.fragment())
    graph = parser.graph()
    if parser.now.kind:
        parser.unexpected("nothing after the graph")
    return Text(extensions, tuple(fragments), graph)


def parse_fragments(text: str, where: str) -> Iterator[Fragment]:
    """Parse definitions of fragments alone."""
    parser = Parser(text, where)
    while parser.now.kind:
        yield parser.fragment()


class Parser:
    """The parts of NNEF's text, each by a method that reads it and what belongs to it."""

    def __init__(self, text: str, where: str) -> None:
        self.where = where
        self._tokens = tokens(text, where)
        self._levels = 0
        self.now = next(self._tokens)
        self.then = next(self._tokens, self.now)
        self._later = next(self._tokens, self.then)

    def unexpected(self, expected: str) -> NoReturn:
        """Refuse the token that is next."""
        fail(self.now.at, f"found {self.now}, expected {expected}", self.where)

    def advance(self) -> Token:
        """Give the token that is next, and go on."""
        token = self.now
        self.now, self.then = self.then, self._later
        self._later = next(self._tokens, self._later)
        return token

    def at(self, text: str) -> bool:
        """Tell whether a word or operator is next."""
        return self.now.text == text and self.now.kind != "string"

    def take(self, text: str) -> bool:
        """Go past a word or operator, where it is next."""
        if self.at(text):
            self.advance()
            return True
        return False

    def expect(self, text: str) -> Token:
        """Go past a word or operator, which must be next."""
        if not self.at(text):
            self.unexpected(f"'{text}'")
        return self.advance()

    def identifier(self, what: str) -> Token:
        """Read an identifier."""
        if self.now.kind != "word" or self.now.text in KEYWORDS:
            self.unexpected(what)
        return self.advance()

    def string(self, what: str) -> tuple[str, Position]:
        """Read a string literal."""
        if self.now.kind != "string":
            self.unexpected(what)
        token = self.advance()
        return unquote(token.text), token.at

    def listed(self, item: Callable[[], T], end: str) -> Iterator[T]:
        """Read items between commas up to what ends them, at least one."""
        yield item()
        while self.take(","):
            yield item()
        self.expect(end)

    def version(self) -> None:
        """Read the version, which is to be 1.0."""
        self.expect("version")
        token = self.advance()
        if token.kind != "number":
            fail(token.at, f"found {token}, expected a version: 1.0", self.where)
        if token.text != "1.0":
            problem = placed(token.at, f"version {token.text} of NNEF")
            raise UnsupportedError(problem, where=self.where, cure="Version 1.0 is read.")
        self.expect(";")

    def extensions(self) -> Iterator[str]:
        """Read the extensions, each with what it may say behind its name."""
        while self.take("extension"):
            words = [self.identifier("the name of an extension").text]
            while not self.at(";"):
                if self.take(","):
                    yield " ".join(words)
                    words = [self.identifier("the name of an extension").text]
                elif self.now.kind in ("word", "number"):
                    words.append(self.advance().text)
                else:
                    self.unexpected("';'")
            self.advance()
            yield " ".join(words)

    def fragment(self) -> Fragment:
        """Read a fragment."""
        at = self.expect("fragment").at
        name = self.identifier("the name of a fragment").text
        generic = ""
        if self.take("<"):
            self.expect(GENERIC)
            generic = self.primitive() if self.take("=") else GENERIC
            self.expect(">")
        self.expect("(")
        parameters = tuple(self.listed(self._parameter, ")"))
        self.expect("->")
        self.expect("(")
        results = tuple(self.listed(self._result, ")"))
        if len(parameters) + len(results) > _MAX_PARAMETERS:
            problem = placed(at, f"over {_MAX_PARAMETERS} parameters and results")
            raise UnsafeError(problem, where=self.where)
        body = None if self.take(";") else self._body()
        return Fragment(name, generic, parameters, results, body, at)

    def graph(self) -> Fragment:
        """Read the graph; its parameters and results are tensors."""
        at = self.expect("graph").at
        name = self.identifier("the name of the graph").text
        self.expect("(")
        inputs = [] if self.at(")") else list(self.listed(self._input, ")"))
        if not inputs:
            self.expect(")")
        self.expect("->")
        self.expect("(")
        outputs = tuple(self.listed(self._output, ")"))
        return Fragment(name, "", tuple(inputs), outputs, self._body(), at)

    def _input(self) -> Parameter:
        return Parameter(self.identifier("the name of a graph's input").text, _TENSOR)

    def _output(self) -> Result:
        return Result(self.identifier("the name of a graph's output").text, _TENSOR)

    def _parameter(self) -> Parameter:
        name = self.identifier("the name of a parameter").text
        self.expect(":")
        kind = self.type()
        if self.take("="):
            return Parameter(name, kind, False, self.constant())
        return Parameter(name, kind)

    def _result(self) -> Result:
        name = self.identifier("the name of a result").text
        self.expect(":")
        return Result(name, self.type())

    def primitive(self) -> str:
        """Read the name of a primitive type."""
        if self.now.text not in PRIMITIVES or self.now.kind != "word":
            self.unexpected("a type: integer, scalar, logical, string")
        return self.advance().text

    def type(self) -> Type:
        """Read a type."""
        with_level = self._enter()
        kind: Type
        if self.take("("):
            kind = TupleOf(tuple(self.listed(self.type, ")")))
        elif self.take("tensor"):
            self.expect("<")
            kind = TensorOf("" if self.at(">") else self._item())
            self.expect(">")
        else:
            kind = Primitive(self._item())
        while self.at("["):
            with_level += self._enter()
            self.advance()
            self.expect("]")
            kind = ArrayOf(kind)
        self._levels -= with_level
        return kind

    def _item(self) -> str:
        return GENERIC if self.take(GENERIC) else self.primitive()

    def _enter(self) -> int:
        self._levels += 1
        if self._levels > _MAX_LEVELS:
            problem = placed(self.now.at, f"nested over {_MAX_LEVELS} levels deep")
            raise UnsafeError(problem, where=self.where)
        return 1

    def constant(self) -> Value:
        """Read a literal, or an array or tuple of such."""
        at = self.now.at
        return self._constant(self.expression(), at)

    def _constant(self, value: Expression, at: Position) -> Value:
        if isinstance(value, Literal):
            return value.value
        if isinstance(value, Array):
            return [self._constant(item, item.at) for item in value.items]
        if isinstance(value, Tuple):
            return tuple(self._constant(item, item.at) for item in value.items)
        return fail(at, "found an expression, expected a literal", self.where)

    def _body(self) -> tuple[Assignment, ...]:
        self.expect("{")
        lines = []
        while not self.at("}"):
            lines.append(self._assignment())
        self.advance()
        return tuple(lines)

    def _assignment(self) -> Assignment:
        at = self.now.at
        first = self._target()
        if self.at(","):
            items = [first]
            while self.take(","):
                items.append(self._target())
            first = Tuple(tuple(items), at)
        self.expect("=")
        value = self.expression()
        self.expect(";")
        return Assignment(first, value)

    def _target(self) -> Expression:
        at = self.now.at
        level = self._enter()
        target: Expression
        if self.take("["):
            target = Array(tuple(self.listed(self._target, "]")), at)
        elif self.take("("):
            items = tuple(self.listed(self._target, ")"))
            target = items[0] if len(items) == 1 else Tuple(items, at)
        else:
            target = Name(self.identifier("an identifier to assign to").text, at)
        self._levels -= level
        return target

    def expression(self, choice: bool = True) -> Expression:
        """Read an expression."""
        if self.then.text in _ENDS:  # as nearly all of a text is
            if self.now.kind == "number":
                return Literal(self._number(self.now), self.advance().at)
            if self.now.kind == "word" and self.now.text not in KEYWORDS:
                return Name(self.now.text, self.advance().at)
        level = self._enter()
        value = self._binary(0)
        if choice and self.at("if"):
            at = self.advance().at
            condition = self.expression()
            self.expect("else")
            value = Choice(condition, value, self.expression(), at)
        self._levels -= level
        return value

    def _binary(self, least: int) -> Expression:
        signed = self.now
        left = self._unary()
        for _ in range(_MAX_CHAIN):
            rank = -1 if self.now.kind == "string" else PRECEDENCE.get(self.now.text, -1)
            if rank < least:
                return left
            token = self.advance()
            if token.text == "^" and signed.kind == "operator" and signed.text in "+-!":
                cure = "Put what is meant first in parentheses."
                fail(signed.at, f"{signed.text}a ^ b can be read in two ways", self.where, cure)
            left = Binary(token.text, left, self._binary(rank + 1), token.at)
        problem = placed(self.now.at, f"over {_MAX_CHAIN} operators in one expression")
        raise UnsafeError(problem, where=self.where)

    def _unary(self) -> Expression:
        if self.now.kind == "operator" and self.now.text in "+-!":
            level = self._enter()
            token = self.advance()
            operand = self._unary()
            self._levels -= level
            number = operand.value if isinstance(operand, Literal) else None
            if token.text == "!" or not isinstance(number, int | float) or isinstance(number, bool):
                return Unary(token.text, operand, token.at)
            return Literal(-number if token.text == "-" else number, token.at)
        return self._postfix()

    def _postfix(self) -> Expression:
        value = self._primary()
        for _ in range(_MAX_LEVELS):
            if not self.at("["):
                return value
            value = self._subscript(value)
        return self.unexpected("fewer subscripts")

    def _subscript(self, sequence: Expression) -> Expression:
        at = self.advance().at
        begin = None if self.at(":") else self.expression()
        if self.take(":"):
            end = None if self.at("]") else self.expression()
            self.expect("]")
            return Subscript(sequence, begin, end, True, at)
        self.expect("]")
        return Subscript(sequence, begin, None, False, at)

    def _primary(self) -> Expression:
        token = self.now
        if token.kind == "number":
            return Literal(self._number(self.advance()), token.at)
        if token.kind == "string":
            return Literal(*self.string("a string"))
        if self.take("true"):
            return Literal(True, token.at)
        if self.take("false"):
            return Literal(False, token.at)
        if self.take("["):
            return self._array(token.at)
        if self.take("("):
            items = tuple(self.listed(self.expression, ")"))
            return items[0] if len(items) == 1 else Tuple(items, token.at)
        if token.kind == "word":
            old = _OLD.get(token.text, token.text) if self.then.text == "(" else token.text
            if old in _BUILTINS:
                self.advance()
                self.expect("(")
                operand = self.expression()
                self.expect(")")
                return Builtin(old, operand, token.at)
            if token.text not in KEYWORDS:
                return self._named()
        return self.unexpected("an expression")

    def _number(self, token: Token) -> int | float:
        if token.text.isdigit():
            if len(token.text) > _MAX_DIGITS or int(token.text) >= 1 << 64:
                fail(token.at, f"{token} takes more than 64 bits", self.where)
            return int(token.text)
        value = float(token.text)
        if not math.isfinite(value):
            fail(token.at, f"{token} is more than a float64 can be", self.where)
        return value

    def _named(self) -> Expression:
        token = self.advance()
        dtype = ""
        if self.at("<") and self.then.text in (*PRIMITIVES, GENERIC) and self._later.text == ">":
            self.advance()
            dtype = self._item()
            self.expect(">")
            if not self.at("("):
                self.unexpected("'('")
        if not self.take("("):
            return Name(token.text, token.at)
        arguments: tuple[Argument, ...] = ()
        if self.at(")"):
            self.advance()
        else:
            arguments = tuple(self.listed(self._argument, ")"))
        return Invocation(token.text, dtype, arguments, token.at)

    def _argument(self) -> Argument:
        token = self.now
        name = ""
        if token.kind == "word" and self.then.kind == "operator" and self.then.text == "=":
            name = self.identifier("the name of a parameter").text
            self.advance()
        return Argument(name, self.expression(), token.at)

    def _array(self, at: Position) -> Expression:
        if self.take("]"):
            return Array((), at)
        if not self.take("for"):
            numbers = tuple(self._numbers(at))
            return Array((*numbers, *self.listed(self.expression, "]")), at)
        loops = [self._loop()]
        while self.take(","):
            loops.append(self._loop())
        condition = self.expression() if self.take("if") else None
        self.expect("yield")
        item = self.expression()
        self.expect("]")
        return Comprehension(tuple(loops), condition, item, at)

    def _numbers(self, at: Position) -> Iterator[Expression]:
        """Read the numbers that an array begins with, of which it may have a great many."""
        while self.now.kind == "number" and self.then.text == ",":
            yield Literal(self._number(self.advance()), at)
            self.advance()

    def _loop(self) -> tuple[Expression, Expression]:
        at = self.now.at
        target = self._target()
        if not names_of(target):
            fail(at, "found no identifier, expected one to loop with", self.where)
        self.expect("in")
        return target, self.expression(choice=False)
