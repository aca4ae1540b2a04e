"""A protobuf message as data: read lazily by a field table, changed, and written."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from tensorkeep.errors import ArgumentError, CorruptError, TensorKeepError
from tensorkeep.message.checking import check_value
from tensorkeep.message.encoding import Chunk, Parts, gather_message, is_default, join_parts
from tensorkeep.message.json import parse_json, write_json
from tensorkeep.message.parsing import Span, parse_level
from tensorkeep.message.scanning import MAX_DEPTH, Piece, open_bytes
from tensorkeep.message.schema import Field, Schema
from tensorkeep.message.text import parse_text, write_text
from tensorkeep.message.values import NumberSpans, decode_numbers
from tensorkeep.source import MemorySource, Source

_NOWHERE = Piece(MemorySource(b""), "")
_ABSENT = -1  # the depth of the messages that stand for absent ones


class Message:
    r"""The fields of a message, as attributes and by name.

    A field that is absent gives its default: an empty list, array or message too. Numbers that
    repeat are a read-only array, other things that repeat a list. Bytes that are not read yet stay
    on their source, and a message that nobody changed is written as it was. Bytes may be set to a
    Source, which is read when they are written.

    >>> from tensorkeep.message import schemas
    >>> table = schemas("Point\n  1 x float\n  2 label string\n  3 tags repeated int32")
    >>> point = Message(table["Point"], x=1.5, tags=[1, 2])
    >>> point.encode().hex(" ")
    '0d 00 00 c0 3f 18 01 18 02'
    >>> again = Message.parse(table["Point"], point.encode())
    >>> again.x, again.tags.tolist(), again.label, "label" in again
    (1.5, [1, 2], '', False)
    """

    __slots__ = (
        "_also",
        "_changed",
        "_depth",
        "_origin",
        "_schema",
        "_seen",
        "_start",
        "_stop",
        "_unknown",
        "_values",
    )

    _schema: Schema
    _origin: Piece | None  # None: it was made here
    _start: int
    _stop: int
    _also: list[Span] | None  # where it goes on, if it stood several times
    _depth: int
    _values: dict[str, Any] | None  # None: not looked at yet
    _unknown: tuple[Span, ...]
    _seen: dict[str, tuple[Any, ...]] | None  # lists that were handed out, as they were
    _changed: bool

    def __init__(self, schema: Schema, /, **values: Any) -> None:
        _fill(self, schema, None, 0, 0, 0, {}, True)
        for name, value in values.items():
            self[name] = value

    @staticmethod
    def parse(
        schema: Schema,
        source: Source | bytes | bytearray | memoryview,
        start: int = 0,
        stop: int | None = None,
        where: str = "",
    ) -> Message:
        """Read a message from bytes or from a range of a source; what is in it is read later.

        Raises:
            CorruptError: the bytes are not whole fields.
        """
        source = open_bytes(source)
        stop = source.size if stop is None else stop
        if not 0 <= start <= stop:
            raise ArgumentError(f"bytes {start} to {stop} are no range")
        message: Message = Message.__new__(Message)
        _fill(message, schema, Piece(source, where or source.where), start, stop, 0, None, False)
        message._read()
        return message

    @property
    def schema(self) -> Schema:
        """The fields that it can have."""
        return self._schema

    def __getitem__(self, name: str) -> Any:
        values = self._values
        if values is None:
            values = self._read()
        value = values.get(name)
        if value is None:
            return self._absent(self._schema[name])
        kind = type(value)
        if kind in _AS_IT_IS:
            return value
        if kind is list:
            return self._hand_out(name, value)
        if kind is Span:
            return self._bytes(self._schema[name], value)
        if kind is NumberSpans:
            if value.array is None:
                value.array = decode_numbers(self._schema[name], value, self._piece)
            return value.array
        if kind is memoryview:
            return bytes(value)
        if isinstance(value, Source):
            return bytes(value.read(0, value.size))
        return float(value) if isinstance(value, np.floating) else value

    def __getattr__(self, name: str) -> Any:
        if name not in self._schema.by_name:
            names = ", ".join(self._schema.by_name)
            raise AttributeError(f"{self._schema.name} has no field {name!r}; it has {names}")
        return self[name]

    def __setitem__(self, name: str, value: Any) -> None:
        field = self._schema[name]
        if value is None:
            self.drop(name)
            return
        checked = check_value(field, value)
        if type(checked) is Message and checked._depth == _ABSENT:
            checked = checked.copy()
        values = self._change()
        values[name] = checked
        if self._seen:
            self._seen.pop(name, None)
        if field.oneof:
            for other in self._schema.oneofs[name]:
                self.drop(other)

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(Message, name):
            raise ArgumentError(f"{name!r} is a method here", cure=f"Set message[{name!r}].")
        self[name] = value

    def __contains__(self, name: str) -> bool:
        field = self._schema[name]
        value = self._fields.get(name)
        if value is None:
            return False
        if not field.repeated:
            return not field.implicit or not is_default(field, value)
        return bool(self[name].size) if field.numeric else bool(value)

    def __iter__(self) -> Iterator[str]:
        """Give the names of the fields that are there, by ascending number."""
        return (field.name for field in self._schema.fields if field.name in self)

    def get(self, name: str, default: Any = None) -> Any:
        """Give the value of a field that is there, or else `default`."""
        if name not in self:
            return default
        return self[name]

    def drop(self, name: str) -> None:
        """Remove a field, if it is there."""
        self._schema[name]
        self._change().pop(name, None)
        if self._seen:
            self._seen.pop(name, None)

    def make(self, name: str, /, **values: Any) -> Message:
        """Give the message of a field to change it; where it is absent, a new one is put there."""
        schema = self._message_schema(name, repeated=False)
        if name not in self:
            self[name] = Message(schema)
        message: Message = self[name]
        for key, value in values.items():
            message[key] = value
        return message

    def add(self, name: str, /, **values: Any) -> Message:
        """Append a new message to a repeated field, and give it."""
        message = Message(self._message_schema(name, repeated=True), **values)
        self._change().setdefault(name, []).append(message)
        return message

    def window(self, name: str) -> tuple[Source, int, int] | None:
        """Give where bytes, a packed array or a message lie as they are; None where they do not.

        They then lie on the source from the second up to the third of these.
        """
        self._schema[name]
        value = self._fields.get(name)
        if isinstance(value, Message):
            if value._origin is None or value._also or not value._intact():
                return None
            return value._origin.source, value._start, value._stop
        if isinstance(value, Source):
            return value, 0, value.size
        if isinstance(value, NumberSpans):
            if len(value.spans) != 1 or value.spans[0][0]:
                return None
            value = Span(*value.spans[0][1:])
        return (self._piece.source, *value) if isinstance(value, Span) else None

    def glance(self, most: int) -> bytes | memoryview | None:
        """Give its bytes, where nobody has looked into it yet and they are no more than `most`."""
        if self._values is not None or self._also or self._stop - self._start > most:
            return None
        return self._piece.read(self._start, self._stop)

    def unknown(self) -> list[bytes]:
        """Give the fields that the schema has not, each stretch of them as it is encoded."""
        _ = self._fields
        return [bytes(self._piece.read(*span)) for span in self._unknown]

    def check_required(self) -> None:
        """Read all of the message, and all in it.

        Raises:
            CorruptError: a required field is missing, or a message in it is damaged.
        """
        for field in self._schema.fields:
            value = self.get(field.name)
            if value is None and field.label == "required":
                problem = f"a {self._schema.name} has no {field.name}"
                raise CorruptError(problem, where=self._piece.where)
            if value is not None and field.message is not None:
                for message in value if field.repeated else (value,):
                    message.check_required()

    def size(self) -> int:
        """Give the bytes that it takes encoded, without encoding its arrays."""
        return gather_message([], self)

    def encode(self) -> bytes:
        """Write it as bytes: those that it was parsed from, unless something changed.

        Raises:
            ArgumentError: messages nest too deeply, or a list holds what its field cannot.
        """
        return b"".join(self.chunks())

    def chunks(self) -> Iterator[Chunk]:
        """Write it as bytes piece by piece; large values are views rather than copies."""
        parts: Parts = []
        gather_message(parts, self)
        return join_parts(parts)

    def to_text(self) -> str:
        """Write it in protobuf's text format.

        Raises:
            ArgumentError: messages nest too deeply.
        """
        return write_text(self)

    @staticmethod
    def from_text(schema: Schema, text: str | bytes, where: str = "") -> Message:
        r"""Read a message in protobuf's text format.

        Raises:
            CorruptError: the text is not of this kind of message; says line and column.

        >>> from tensorkeep.message import schemas
        >>> point = schemas("Point\n  1 x float\n  2 y float")["Point"]
        >>> Message.from_text(point, "x: 1.5  # the rest is left out").to_text()
        'x: 1.5\n'
        """
        message = Message(schema)
        parse_text(message, text, where)
        return message

    def to_json(self) -> str:
        """Write it in protobuf's JSON mapping, without the fields that the schema has not.

        Raises:
            ArgumentError: messages nest too deeply, or a string is not UTF-8; says which.
        """
        return write_json(self)

    @staticmethod
    def from_json(schema: Schema, text: str | bytes, where: str = "") -> Message:
        r"""Read a message in protobuf's JSON mapping.

        Raises:
            CorruptError: it is not JSON of this kind of message; says which part of it.
            UnsafeError: it takes far more memory than its length accounts for.

        >>> from tensorkeep.message import schemas
        >>> point = schemas("Point\n  1 x_min float\n  2 y_min float")["Point"]
        >>> Message.from_json(point, '{"xMin": 1.5, "y_min": "2"}').to_text()
        'x_min: 1.5\ny_min: 2.0\n'
        """
        message = Message(schema)
        parse_json(message, text, where)
        return message

    def copy(self) -> Message:
        """Give a message of the same fields, which is changed on its own."""
        fresh: Message = Message.__new__(Message)
        place = (self._schema, self._origin, self._start, self._stop, max(self._depth, 0))
        if self._origin and self._intact():
            _fill(fresh, *place, None, False)
        else:
            values = {name: _copy(value) for name, value in self._fields.items()}
            _fill(fresh, *place, values, True)
            _SET["_unknown"](fresh, self._unknown)
        _SET["_also"](fresh, self._also)
        return fresh

    def __copy__(self) -> Message:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Message:
        return self.copy()

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a Message cannot be pickled; pickle its encode() and parse that")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message) or other._schema is not self._schema:
            return NotImplemented
        return self._canonical() == other._canonical()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        try:
            shown = ", ".join(f"{name}={_brief(self[name])}" for name in self)
        except TensorKeepError as error:  # a debugger shows what is damaged, too
            shown = f"<{error}>"
        return f"{self._schema.name}({shown})"

    @property
    def _piece(self) -> Piece:
        return self._origin or _NOWHERE

    @property
    def _fields(self) -> dict[str, Any]:
        return self._read() if self._values is None else self._values

    def _read(self) -> dict[str, Any]:
        """Look at the fields of this level."""
        depth = self._depth + 1
        if self._depth > MAX_DEPTH:
            problem = f"messages nest more than {MAX_DEPTH} levels deep"
            raise CorruptError(problem, where=self._piece.where)

        def place(schema: Schema, piece: Piece, start: int, stop: int, known: Any) -> Message:
            if known is not None:
                known._go_on(start, stop)
                return known  # type: ignore[no-any-return]
            message: Message = Message.__new__(Message)
            _fill(message, schema, piece, start, stop, depth, None, False)
            return message

        values, unknown = parse_level(self._schema, self._piece, self._ranges, place)
        _SET["_unknown"](self, unknown)
        _SET["_values"](self, values)
        return values

    def _go_on(self, start: int, stop: int) -> None:
        """Have it go on in another range, as protobuf merges a message that stands twice."""
        if self._also is None:
            _SET["_also"](self, [])
        self._also.append(Span(start, stop))  # type: ignore[union-attr]

    def _change(self) -> dict[str, Any]:
        if self._depth == _ABSENT:
            raise ArgumentError(
                f"this {self._schema.name} is absent, so it cannot be changed",
                cure="Put one in its place with make(name).",
            )
        fields = self._fields
        _SET["_changed"](self, True)
        return fields

    def _absent(self, field: Field) -> Any:
        if field.message is not None and not field.repeated:
            return _absent_message(field.message)
        if not field.repeated:
            return field.default
        if field.numeric:
            return np.zeros(0, field.scalar.dtype)
        if self._depth == _ABSENT:
            return []
        return self._hand_out(field.name, self._fields.setdefault(field.name, []))

    def _hand_out(self, name: str, values: list[Any]) -> list[Any]:
        """Note how a list was before anyone can change it."""
        if self._seen is None:
            _SET["_seen"](self, {})
        seen: dict[str, tuple[Any, ...]] = self._seen  # type: ignore[assignment]
        if name not in seen:
            for i, value in enumerate(values):
                if type(value) is Span:
                    values[i] = self._bytes(self._schema[name], value)
            seen[name] = tuple(values)
        return values

    def _bytes(self, field: Field, span: Span) -> bytes | str:
        data = self._piece.read(*span)
        return bytes(data) if field.scalar.name == "bytes" else str(data, "utf-8", _ESCAPE)

    def _message_schema(self, name: str, *, repeated: bool) -> Schema:
        field = self._schema[name]
        if field.message is None or field.repeated != repeated:
            kind = "a list of messages" if repeated else "one message"
            raise ArgumentError(f"{self._schema.name}.{name} is not {kind}")
        return field.message

    def _intact(self) -> bool:
        """Whether it still is what lies where it was read."""
        if self._changed:
            return False
        values = self._values or {}
        for name, before in (self._seen or {}).items():
            now = values[name]
            if len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True)):
                return False
        for value in values.values():
            inner = value if type(value) is list else (value,)
            if inner and type(inner[0]) is Message and not all(m._intact() for m in inner):
                return False
        return True

    def _canonical(self) -> bytes:
        parts: Parts = []
        gather_message(parts, self, canonical=True)
        return b"".join(join_parts(parts))

    @property
    def _ranges(self) -> tuple[Span, ...]:
        """Where it lies, if it was read."""
        return (Span(self._start, self._stop), *(self._also or ())) if self._origin else ()


_AS_IT_IS = frozenset((Message, int, str, bool, bytes, float))
_ESCAPE = "surrogateescape"  # keeps bytes that are not UTF-8

# Its own fields are attributes, so what it keeps is set through the slots.
_SET = {name: Message.__dict__[name].__set__ for name in Message.__slots__}
_SETTERS = tuple(
    _SET[name]
    for name in ("_schema", "_origin", "_start", "_stop", "_depth", "_values", "_changed")
)
_SET_ALSO, _SET_SEEN, _SET_UNKNOWN = _SET["_also"], _SET["_seen"], _SET["_unknown"]


def _fill(message: Message, *values: Any) -> None:
    """Set schema, origin, start, stop, depth, values, and whether it was changed."""
    for set_slot, value in zip(_SETTERS, values, strict=True):
        set_slot(message, value)
    _SET_ALSO(message, None)
    _SET_SEEN(message, None)
    _SET_UNKNOWN(message, ())


@cache
def _absent_message(schema: Schema) -> Message:
    message = Message(schema)
    _SET["_depth"](message, _ABSENT)
    return message


def _copy(value: Any) -> Any:
    if type(value) is list:
        return [_copy(item) for item in value]
    return value.copy() if type(value) is Message else value


def _brief(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"[{value.size} of {value.dtype}]" if value.size > 8 else str(value.tolist())
    if isinstance(value, list) and len(value) > 4:
        return f"[{len(value)} items]"
    if isinstance(value, str | bytes) and len(value) > 60:
        return f"{value[:60]!r}..."
    return repr(value)
