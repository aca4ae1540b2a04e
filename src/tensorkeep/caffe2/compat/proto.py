"""Messages with the methods of protobuf's Python classes, over tensorkeep.message.

The differences to protobuf: what repeats is a list, whose items are checked when the message is
used rather than when they are put in; and errors are those of tensorkeep, which are TypeErrors and
ValueErrors too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Self, SupportsIndex

import numpy as np

from tensorkeep.errors import ArgumentError, CorruptError
from tensorkeep.message import Enum, Field, Message, Schema
from tensorkeep.wire.caffe2.schema import SCHEMAS


class Proto:
    """A message: its fields as attributes, and the methods that protobuf gives it.

    A subclass names its schema. A message inside becomes present once anything in it is set.
    """

    __slots__ = ("_inner", "_message", "_present")

    _schema: ClassVar[Schema]
    _kinds: ClassVar[dict[str, type[Proto]]] = {}

    def __init_subclass__(cls, schema: str) -> None:
        cls._schema = SCHEMAS[schema]
        Proto._kinds[schema] = cls

    def __init__(self, **values: Any) -> None:
        self._bind(Message(self._schema))
        for name, value in values.items():
            field = self._field(name)
            if value is None:  # as not given at all
                continue
            if field.repeated:
                getattr(self, name).extend(_made(field, item) for item in value)
            elif field.message is not None:
                getattr(self, name).CopyFrom(_made(field, value))
            elif field.enum is not None and isinstance(value, str):
                setattr(self, name, field.enum[value])
            else:
                setattr(self, name, value)

    @classmethod
    def of(cls, message: Message) -> Self:
        """Wrap a Message of tensorkeep; the two share their fields."""
        if message.schema is not cls._schema:
            raise ArgumentError(f"a {cls._schema.name} is needed, not a {message.schema.name}")
        wrapped = cls()
        wrapped._bind(message)
        return wrapped

    @property
    def message(self) -> Message:
        """The Message of tensorkeep, with all that was changed."""
        message: Message = self._message
        for name, inner in self._inner.items():
            if isinstance(inner, Proto):
                held = inner.message
                if inner._present or any(True for _ in held):
                    message[name] = held
            elif isinstance(inner, RepeatedMessages):
                message[name] = [item.message for item in inner]
            else:
                message[name] = _items(self._schema[name], inner)
        return message

    def _bind(self, message: Message) -> None:
        object.__setattr__(self, "_message", message)
        object.__setattr__(self, "_inner", {})
        object.__setattr__(self, "_present", False)

    def _field(self, name: str) -> Field:
        if name not in self._schema.by_name:
            raise ArgumentError(f"{self._schema.name} has no field {name!r}")
        return self._schema[name]

    def __getattr__(self, name: str) -> Any:
        if name not in self._schema.by_name:
            raise AttributeError(f"{self._schema.name} has no field {name!r}")
        if name not in self._inner:
            field = self._schema[name]
            if not field.repeated and field.message is None:
                return self._message[name]
            self._inner[name] = self._open(field)
        return self._inner[name]

    def _open(self, field: Field) -> Any:
        """Give a field that can be changed in place."""
        value = self._message[field.name]
        if field.message is None:
            return value.tolist() if isinstance(value, np.ndarray) else list(value)
        kind = self._kinds[field.message.name]
        if field.repeated:
            return RepeatedMessages(kind, (kind.of(item) for item in value))
        there = field.name in self._message
        inner = kind.of(value) if there else kind()
        object.__setattr__(inner, "_present", there)
        return inner

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._schema.by_name:
            raise AttributeError(f"{self._schema.name} has no field {name!r}")
        field = self._schema[name]
        if field.repeated or field.message is not None:
            how = "extend" if field.repeated else "CopyFrom"
            raise AttributeError(f"{name!r} cannot be assigned: use {name}.{how}(...)")
        self._message[name] = _item(field, value)
        self.SetInParent()

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{name!r} cannot be deleted: use ClearField({name!r})")

    def SetInParent(self) -> None:
        """Have the message that holds this one hold it even where it is empty."""
        object.__setattr__(self, "_present", True)

    def HasField(self, name: str) -> bool:
        """Tell whether a field that does not repeat is there."""
        if self._field(name).repeated:
            raise ArgumentError(f"{name!r} of {self._schema.name} repeats: ask for its length")
        return name in self.message

    def ClearField(self, name: str) -> None:
        """Remove a field."""
        self._field(name)
        self._inner.pop(name, None)
        self._message.drop(name)

    def Clear(self) -> None:
        """Remove all fields."""
        self._bind(Message(self._schema))
        self.SetInParent()

    def CopyFrom(self, other: Proto) -> None:
        """Have the same fields as another message of this kind, apart from it."""
        copied = self._same(other).message.copy()
        self._bind(copied)
        self.SetInParent()

    def MergeFrom(self, other: Proto) -> None:
        """Take over what another message of this kind has; what repeats is appended."""
        self.MergeFromString(self._same(other).SerializeToString())

    def ParseFromString(self, serialized: bytes) -> int:
        """Have the fields that bytes say; gives the number of bytes.

        Raises:
            CorruptError: they are no message of this kind.
        """
        if not isinstance(serialized, bytes | bytearray | memoryview):
            raise ArgumentError(f"bytes are needed, not {type(serialized).__name__}")
        message = Message.parse(self._schema, bytes(serialized), where=self._schema.name)
        message.check_required()
        self._bind(message)
        self.SetInParent()
        return len(serialized)

    def MergeFromString(self, serialized: bytes) -> int:
        """Take over the fields that bytes say."""
        self.ParseFromString(self.SerializeToString() + bytes(serialized))
        return len(serialized)

    @classmethod
    def FromString(cls, serialized: bytes) -> Self:
        """Make a message of bytes."""
        made = cls()
        made.ParseFromString(serialized)
        return made

    def SerializeToString(self, **options: Any) -> bytes:
        """Give the bytes."""
        return self.message.encode()

    SerializePartialToString = SerializeToString

    def ByteSize(self) -> int:
        """Give how many bytes it serializes to."""
        return self.message.size()

    def IsInitialized(self) -> bool:
        """Tell whether all required fields are there, in the messages inside too."""
        try:
            self.message.check_required()
        except CorruptError:
            return False
        return True

    def ListFields(self) -> list[tuple[Field, Any]]:
        """Give the fields that are there, each with its value."""
        return [(self._schema[name], getattr(self, name)) for name in self.message]

    def _same(self, other: Proto) -> Proto:
        if not isinstance(other, type(self)):
            found = type(other).__name__
            raise ArgumentError(f"a {type(self).__name__} is needed, not {found}")
        return other

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Proto):
            return NotImplemented
        return self.message == other.message

    __hash__ = None  # type: ignore[assignment]

    def __copy__(self) -> Self:
        return self.FromString(self.SerializeToString())

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).FromString, (self.SerializeToString(),)

    def __repr__(self) -> str:
        return self.message.to_text()


class RepeatedMessages(list[Any]):
    """The messages of a field that repeats: a list that takes copies, as protobuf's does."""

    def __init__(self, kind: type[Proto], items: Iterable[Proto] = ()) -> None:
        super().__init__(items)
        self._kind = kind

    def add(self, **values: Any) -> Any:
        """Append a new message, and give it."""
        super().append(self._kind(**values))
        return self[-1]

    def append(self, value: Proto) -> None:
        """Append a copy of a message."""
        copied = self._kind()
        copied.CopyFrom(value)
        super().append(copied)

    def extend(self, values: Iterable[Proto]) -> None:
        """Append copies of messages."""
        for value in list(values):
            self.append(value)

    MergeFrom = extend

    def insert(self, index: SupportsIndex, value: Proto) -> None:
        """Insert a copy of a message."""
        self.append(value)
        super().insert(index, self.pop())


class EnumNames(Mapping[str, int]):
    """The values of an enum by name, as protobuf's wrapper of an enum gives them."""

    def __init__(self, enum: Enum) -> None:
        self._enum = enum

    def Name(self, number: int) -> str:
        """Give the name of a value."""
        if isinstance(number, bool) or not isinstance(number, int):
            raise ArgumentError(f"{self._enum.name} has numbers, not {type(number).__name__}")
        if number not in self._enum.names:
            raise ArgumentError(f"{self._enum.name} has no value {number!r}")
        return self._enum.names[number]

    def Value(self, name: str) -> int:
        """Give the value of a name."""
        return self._enum[name]

    def keys(self) -> list[str]:  # type: ignore[override]
        """List the names."""
        return list(self._enum.numbers)

    def values(self) -> list[int]:  # type: ignore[override]
        """List the values."""
        return list(self._enum.numbers.values())

    def items(self) -> list[tuple[str, int]]:  # type: ignore[override]
        """List the names with their values."""
        return list(self._enum.numbers.items())

    def __getitem__(self, name: str) -> int:
        return self._enum[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._enum.numbers)

    def __len__(self) -> int:
        return len(self._enum.numbers)


def _item(field: Field, value: Any) -> Any:
    """Give a value as the field takes it: text as str, whatever it was given as."""
    if field.scalar.name == "string" and isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if value is None:
        raise ArgumentError(f"{field.name} is {field.scalar.name}, not None")
    if field.enum is not None and value not in field.enum.names:
        raise ArgumentError(f"{field.name} is a {field.enum.name}, which has no value {value!r}")
    return value


def _made(field: Field, value: Any) -> Any:
    """Make a message of a dict, where the field holds one."""
    if field.message is None or not isinstance(value, Mapping):
        return value
    return Proto._kinds[field.message.name](**value)


def _items(field: Field, values: list[Any]) -> list[Any]:
    if field.numeric and field.enum is None:
        return values
    return [_item(field, value) for value in values]
