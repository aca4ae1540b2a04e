"""The syntax tree of NNEF's text: types, expressions, assignments, fragments.

Positions tell where something stands and are no part of what it is: trees compare without them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tensorkeep.wire.nnef.operations import Value

Position = tuple[int, int]
NOWHERE: Position = (0, 0)
PRIMITIVES = ("integer", "scalar", "logical", "string")
GENERIC = "?"


@dataclass(frozen=True, slots=True)
class Primitive:
    """integer, scalar, logical, string; or ? in a generic fragment."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class TensorOf:
    """tensor<scalar>; tensor<> takes a tensor of any type."""

    item: str

    def __str__(self) -> str:
        return f"tensor<{self.item}>"


@dataclass(frozen=True, slots=True)
class ArrayOf:
    """An array of any length: integer[]."""

    item: Type

    def __str__(self) -> str:
        return f"{self.item}[]"


@dataclass(frozen=True, slots=True)
class TupleOf:
    """A tuple: (integer,integer)."""

    items: tuple[Type, ...]

    def __str__(self) -> str:
        return f"({','.join(map(str, self.items))})"


Type = Primitive | TensorOf | ArrayOf | TupleOf


def is_generic(kind: Type) -> bool:
    """Tell whether a type depends on what ? stands for."""
    if isinstance(kind, ArrayOf):
        return is_generic(kind.item)
    if isinstance(kind, TupleOf):
        return any(is_generic(item) for item in kind.items)
    return (kind.name if isinstance(kind, Primitive) else kind.item) == GENERIC


def holds_tensors(kind: Type) -> bool:
    """Tell whether it is a tensor or an array of such; all else is an attribute."""
    if isinstance(kind, ArrayOf):
        return holds_tensors(kind.item)
    if isinstance(kind, TupleOf):
        return any(holds_tensors(item) for item in kind.items)
    return isinstance(kind, TensorOf)


@dataclass(frozen=True, slots=True)
class Literal:
    """A number, string or logical."""

    value: bool | int | float | str
    at: Position = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Name:
    """An identifier."""

    name: str
    at: Position = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Array:
    """[a, b]."""

    items: tuple[Expression, ...]
    at: Position = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Tuple:
    """(a, b)."""

    items: tuple[Expression, ...]
    at: Position = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Subscript:
    """a[i], or a[begin:end] where it is a range."""

    sequence: Expression
    begin: Expression | None
    end: Expression | None = None
    ranges: bool = False
    at: Position = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Unary:
    """+a, -a, !a."""

    operator: str
    operand: Expression
    at: Position = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Binary:
    """a + b, a < b, a in b."""

    operator: str
    left: Expression
    right: Expression
    at: Position = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Choice:
    """a if condition else b."""

    condition: Expression
    yes: Expression
    no: Expression
    at: Position = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Comprehension:
    """[for a in x, b in y if condition yield item]; its loops pair a target with an array."""

    loops: tuple[tuple[Expression, Expression], ...]
    condition: Expression | None
    item: Expression
    at: Position = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Builtin:
    """length_of(a), range_of(a), shape_of(a), or a conversion such as scalar(a)."""

    name: str
    operand: Expression
    at: Position = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument; without a name it is known by its place."""

    name: str
    value: Expression
    at: Position = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Invocation:
    """conv<scalar>(x, filter, stride = [2, 2])."""

    name: str
    dtype: str
    arguments: tuple[Argument, ...]
    at: Position = field(default=NOWHERE, compare=False, repr=False)


Expression = (
    Literal
    | Name
    | Array
    | Tuple
    | Subscript
    | Unary
    | Binary
    | Choice
    | Comprehension
    | Builtin
    | Invocation
)


@dataclass(frozen=True, slots=True)
class Assignment:
    """A line of a body; its target is a name, or an array or tuple of targets."""

    target: Expression
    value: Expression


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a fragment; one that is not required has a default."""

    name: str
    type: Type
    required: bool = True
    default: Value = None


@dataclass(frozen=True, slots=True)
class Result:
    """A result of a fragment."""

    name: str
    type: Type


@dataclass(frozen=True, slots=True)
class Fragment:
    """An operation: its signature, and what it is made of; a body of None is a mere declaration.

    Attributes:
        generic: "" where it is not; "?" where it is; the type that ? stands for by default.
    """

    name: str
    generic: str
    parameters: tuple[Parameter, ...]
    results: tuple[Result, ...]
    body: tuple[Assignment, ...] | None = None
    at: Position = field(default=NOWHERE, compare=False, repr=False)

    def parameter(self, name: str) -> Parameter | None:
        """Give a parameter by its name."""
        return next((each for each in self.parameters if each.name == name), None)


def names_of(target: Expression) -> list[Name]:
    """Give the names in a target, in order."""
    if isinstance(target, Name):
        return [target]
    if isinstance(target, Array | Tuple):
        return [name for item in target.items for name in names_of(item)]
    return []
