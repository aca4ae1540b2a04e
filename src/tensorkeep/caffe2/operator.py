"""Operator: what runs in a workspace, made from an OperatorDef and found by its type.

Facts: caffe2/proto/caffe2.proto (OperatorDef, Argument), caffe2/core/operator.h and
operator_schema.h for what a constructor checks, caffe2/python/utils.py for how a Python value
becomes an Argument.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from tensorkeep.caffe2.device import device_of
from tensorkeep.errors import ArgumentError, MissingError, UnsupportedError
from tensorkeep.message import Message, Schema
from tensorkeep.wire.caffe2.schema import ARGUMENT, BLOB, NET, OPERATOR
from tensorkeep.wire.caffe2.values import Blob, Device

if TYPE_CHECKING:
    from tensorkeep.caffe2.workspace import Workspace

MANY = 2**31
OPERATORS: dict[str, type[Operator]] = {}


class Arguments:
    """The arguments of an operator, by name and of the type that is asked for.

    Raises:
        ArgumentError: a name is given twice with different values, or, when it is asked for, an
            argument holds another type than the operator needs.

    >>> given = Arguments(create_operator("Load", db="x", load_all=1, dbs=["a", "b"]))
    >>> given.text("db"), given.integer("load_all"), given.texts("dbs"), given.flag("absent")
    ('x', 1, ['a', 'b'], False)
    """

    def __init__(self, definition: Message) -> None:
        self.where = describe(definition)
        self._given: dict[str, Message] = {}
        for argument in definition.arg:
            name = argument.name
            if name in self._given and self._given[name] != argument:
                problem = f"the argument {name!r} is given twice with different values"
                raise ArgumentError(problem, where=self.where, cure="Give it once.")
            self._given[name] = argument

    def __contains__(self, name: object) -> bool:
        return name in self._given

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __getitem__(self, name: str) -> Message:
        if name not in self._given:
            raise ArgumentError(f"the argument {name!r} is needed", where=self.where)
        return self._given[name]

    def holds(self, name: str, field: str) -> bool:
        """Tell whether an argument is given and holds this field of an Argument (i, f, s ...)."""
        return name in self._given and field in self._given[name]

    def integer(self, name: str, default: int = 0) -> int:
        """Give an integer argument."""
        return int(self._single(name, "i", default))

    def flag(self, name: str, default: bool = False) -> bool:
        """Give a bool argument, which is stored as an integer; any but 0 is true."""
        return bool(self.integer(name, default))

    def number(self, name: str, default: float = 0.0) -> float:
        """Give a float argument."""
        return float(self._single(name, "f", default))

    def text(self, name: str, default: str = "") -> str:
        """Give a text argument; bytes that are not UTF-8 come as surrogate escapes."""
        return self.bytes(name, default.encode()).decode("utf-8", "surrogateescape")

    def bytes(self, name: str, default: bytes = b"") -> bytes:
        """Give a text argument as its bytes."""
        return bytes(self._single(name, "s", default))

    def integers(self, name: str) -> list[int]:
        """Give a list of integers; empty where the argument is absent."""
        return [int(value) for value in self._several(name, "ints")]

    def numbers(self, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Give a list of floats as a 1-D float32 array; empty where the argument is absent."""
        return np.asarray(self._several(name, "floats"), np.float32)

    def texts(self, name: str) -> list[str]:
        """Give a list of texts; empty where the argument is absent."""
        return [bytes(v).decode("utf-8", "surrogateescape") for v in self._several(name, "strings")]

    def _single(self, name: str, field: str, default: Any) -> Any:
        argument = self._given.get(name)
        if argument is None:
            return default
        if field not in argument:
            raise self._wrong(name, f"holds {_held(argument)}", _KINDS[field])
        return argument[field]

    def _several(self, name: str, field: str) -> Any:
        argument = self._given.get(name)
        if argument is None:
            return []
        values = argument[field]
        if not len(values) and _held(argument) != "nothing":
            raise self._wrong(name, f"holds {_held(argument)}", _KINDS[field])
        return values

    def _wrong(self, name: str, found: str, expected: str) -> ArgumentError:
        return ArgumentError(
            f"the argument {name!r} {found}, where {expected} is expected", where=self.where
        )


_KINDS = {
    "i": "an integer",
    "f": "a float",
    "s": "a text",
    "n": "a net",
    "t": "a tensor",
    "ints": "a list of integers",
    "floats": "a list of floats",
    "strings": "a list of texts",
    "nets": "a list of nets",
    "tensors": "a list of tensors",
    "qtensors": "a list of quantized tensors",
}


def _held(argument: Message) -> str:
    for field, kind in _KINDS.items():
        if field in argument:
            return kind
    return "nothing"


class Operator:
    """An operator of one workspace; a subclass says what it takes and runs it.

    Args:
        definition: the OperatorDef.
        workspace: where its inputs are and its outputs go.
        strict: refuse what Caffe2 read wrongly without a word; by default as the workspace does.
        durable: have what is written on the disk when `run` returns; likewise.

    Raises:
        ArgumentError: the number of inputs or outputs, or an argument, is not what it takes.
        MissingError: an input is not in the workspace.
    """

    takes: ClassVar[tuple[int, int]] = (0, MANY)
    gives: ClassVar[tuple[int, int]] = (0, MANY)

    def __init__(
        self,
        definition: Message,
        workspace: Workspace,
        *,
        strict: bool | None = None,
        durable: bool | None = None,
    ) -> None:
        self.definition = definition
        self.workspace = workspace
        self.strict = workspace.strict if strict is None else strict
        self.durable = workspace.durable if durable is None else durable
        self.type: str = definition.type
        self.inputs: list[str] = list(definition.input)
        self.outputs: list[str] = list(definition.output)
        self.device: Device = device_of(definition)
        self.where = describe(definition)
        self.arguments = Arguments(definition)
        self._check_count("inputs", len(self.inputs), self.takes)
        self._check_count("outputs", len(self.outputs), self.gives)
        for name in self.inputs:
            if not workspace.has(name):
                raise MissingError(
                    f"the input blob {name!r} is not in the workspace",
                    where=self.where,
                    cure="Feed it, or run the operator that writes it, first.",
                )

    def run(self) -> bool:
        """Run once; True, as Caffe2's operators answer."""
        raise NotImplementedError

    def input(self, index: int) -> Blob:
        """Give an input blob."""
        return self.workspace.blob(self.inputs[index])

    def write(self, index: int, blob: Blob) -> None:
        """Put a blob under the name of an output."""
        self.workspace.set(self.outputs[index], blob)

    def _check_count(self, what: str, count: int, allowed: tuple[int, int]) -> None:
        least, most = allowed
        if not least <= count <= most:
            expected = f"{least}" if least == most else f"{least} or more"
            if least != most < MANY:
                expected = f"{least} to {most}"
            raise ArgumentError(f"has {count} {what}, where {expected} are taken", where=self.where)


Class = TypeVar("Class", bound=type[Operator])


def register(*types: str) -> Callable[[Class], Class]:
    """Have a class run the operators of these types.

    >>> @register("DoNothing")
    ... class DoNothingOp(Operator):
    ...     def run(self):
    ...         return True
    >>> OPERATORS.pop("DoNothing") is DoNothingOp
    True
    """

    def decorate(kind: Class) -> Class:
        for name in types:
            OPERATORS[name] = kind
        return kind

    return decorate


def operator_of(
    definition: Message,
    workspace: Workspace,
    *,
    strict: bool | None = None,
    durable: bool | None = None,
) -> Operator:
    """Make the operator that an OperatorDef describes.

    Raises:
        UnsupportedError: no operator has this type.
    """
    definition = check_type(definition)
    return OPERATORS[definition.type](definition, workspace, strict=strict, durable=durable)


def check_type(definition: object) -> Message:
    """Give an OperatorDef, unless nothing here runs it.

    Raises:
        ArgumentError: it is no OperatorDef.
        UnsupportedError: no operator has its type.
    """
    definition = check_message(definition, OPERATOR)
    if definition.type not in OPERATORS:
        raise UnsupportedError(
            f"no operator of type {definition.type!r} runs here",
            where=describe(definition),
            cure=f"These do: {', '.join(sorted(OPERATORS))}.",
        )
    return definition


def check_message(given: object, schema: Schema) -> Message:
    """Give a message of this kind, also of what wraps one, as those of `compat` do.

    Raises:
        ArgumentError: it is something else.
    """
    message = given if isinstance(given, Message) else getattr(given, "message", given)
    if not isinstance(message, Message) or message.schema is not schema:
        raise ArgumentError(
            f"a {schema.name} is needed, not {_called(message)}",
            cure=_MAKERS.get(schema.name, "Parse its bytes with Message.parse."),
        )
    return message


_MAKERS = {
    OPERATOR.name: "Make one with create_operator(...).",
    NET.name: "Read one with read_net(path).",
    BLOB.name: "Make its bytes with serialize_blob(name, value).",
}


def describe(definition: Message) -> str:
    """Name an operator for messages: its type, and its own name where it has one."""
    name = definition.name
    return f"{definition.type} operator {name!r}" if name else f"{definition.type} operator"


def create_operator(
    type: str,
    inputs: str | Iterable[str] = (),
    outputs: str | Iterable[str] = (),
    *,
    name: str = "",
    device: Device | Message | None = None,
    **arguments: Any,
) -> Message:
    """Describe an operator as an OperatorDef.

    Args:
        type: the type, such as "Save".
        inputs: the names of its inputs; one may be given alone.
        outputs: the names of its outputs, likewise.
        name: its own name, for messages.
        device: where it runs and, for Load, where blobs go.
        arguments: one Argument each: bools and integers as i, floats as f, text, bytes and paths
            as s, nets as n, other messages as their bytes, lists and arrays likewise; None is
            left out.

    Raises:
        ArgumentError: a value that no Argument holds, or a type or name that is no text.

    >>> save = create_operator("Save", ["w"], db="w.minidb", db_type="minidb", chunk_size=2)
    >>> save.type, save.input, save.arg[2].i
    ('Save', ['w'], 2)
    """
    if not isinstance(type, str):
        raise ArgumentError(f"the type of an operator is text, not {_called(type)}")
    definition = Message(OPERATOR, type=type)
    definition.input = _names("inputs", inputs)
    definition.output = _names("outputs", outputs)
    if name:
        definition.name = name
    if isinstance(device, Message):
        definition.device_option = device
    elif device is not None:
        option = definition.make("device_option")
        option.device_type = device.type
        option.device_id = device.id
    for key, value in arguments.items():
        if value is not None:
            definition.add("arg", name=key, **_fields(key, value))
    return definition


def _names(what: str, given: Any) -> list[str]:
    names = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    for name in names:
        if not isinstance(name, str):
            raise ArgumentError(f"the {what} of an operator are names, not {_called(name)}")
    return names


def create_argument(name: str, value: Any) -> Message:
    """Describe one value as an Argument, as `create_operator` does.

    >>> create_argument("shape", [2, 3]).ints.tolist()
    [2, 3]
    """
    return Message(ARGUMENT, name=name, **_fields(name, value))


def _fields(name: str, value: Any) -> dict[str, Any]:
    """Choose the field of an Argument that holds a value."""
    if isinstance(value, np.generic):
        value = value.item()
    single = _field(value)
    if single is not None:
        return single
    if isinstance(value, np.ndarray):
        value = value.reshape(-1) if value.dtype.kind in "biuf" else value.reshape(-1).tolist()
    elif isinstance(value, Iterable) and not isinstance(value, Mapping):
        value = [item.item() if isinstance(item, np.generic) else item for item in value]
    else:
        raise ArgumentError(f"the argument {name!r} cannot hold {_called(value)}")
    return _list_field(name, value)


def _field(value: Any) -> dict[str, Any] | None:
    match value:
        case bool() | int():
            return {"i": int(value)}
        case float():
            return {"f": value}
        case str():
            return {"s": value.encode("utf-8", "surrogateescape")}
        case bytes():
            return {"s": value}
        case os.PathLike():
            return {"s": os.fsencode(value)}
        case Message():
            return {"n": value} if value.schema is NET else {"s": value.encode()}
    return None


def _list_field(name: str, values: Any) -> dict[str, Any]:
    if isinstance(values, np.ndarray):
        return {"floats": values} if values.dtype.kind == "f" else {"ints": values.astype(np.int64)}
    fields = [_field(value) for value in values]
    kinds = {kind for field in fields for kind in field or ("?",)}
    if "?" in kinds or len(kinds) > 1:
        listed = ", ".join(sorted({_called(value) for value in values}))
        problem = f"the argument {name!r} cannot hold a list of {listed}"
        raise ArgumentError(problem, cure="Give integers only, floats only or texts only.")
    if not kinds:
        return {}
    kind = kinds.pop()
    plural = {"i": "ints", "f": "floats", "s": "strings", "n": "nets"}[kind]
    return {plural: [field[kind] for field in fields if field]}


def _called(value: object) -> str:
    return value.schema.name if isinstance(value, Message) else type(value).__name__
