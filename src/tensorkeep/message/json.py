"""Messages as JSON, in protobuf's mapping.

    {"irVersion": "8", "graph": {"node": [{"opType": "Relu"}], "name": "net"}}

Names are in lowerCamelCase, and read as they are in the table as well. Integers of 64 bits stand
in quotes, bytes are base64, enums go by name, and floats that JSON lacks are "NaN", "Infinity" and
"-Infinity". What is null is absent. A map is a repeated message here, and is written as one.

Facts: protobuf.dev/programming-guides/json; written as protobuf's Python library does.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterator, Mapping
from functools import cache
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from tensorkeep.errors import ArgumentError, CorruptError, TensorKeepError, UnsafeError
from tensorkeep.message.json_scalars import name_kind, take_numbers, take_scalar
from tensorkeep.message.printing import (
    fields_of,
    has_own_nan,
    join_texts,
    read_pieces,
    rows_of,
    shortest,
)
from tensorkeep.message.scanning import MAX_DEPTH
from tensorkeep.message.schema import Field, Schema

if TYPE_CHECKING:
    from tensorkeep.message.message import Message

_PIECE = 3 << 20  # bytes that are encoded together: whole groups of three
_SHOWN = 40  # characters of a value in a message
_MANY = 1 << 16  # objects that a text may hold, however short it is
_LEAST = 8  # characters that more of them take on average
_LARGEST = float(np.finfo(np.float32).max)

_QUOTED = {"nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"'}


def write_json(message: Message) -> str:
    """Write the fields that the schema has; `find_unknown` tells where others lie.

    Raises:
        ArgumentError: messages nest too deeply, or a string is not UTF-8; says which.
    """
    return "".join(_write_message(message, "", "\n  ", MAX_DEPTH))


def json_chunks(message: Message) -> Iterator[bytes]:
    r"""Write JSON piece by piece; bytes that were not read are read in pieces too.

    Raises:
        ArgumentError: messages nest too deeply, or a string is not UTF-8; says which.

    >>> from tensorkeep.message import Message, schemas
    >>> table = schemas("Blob\n  1 raw_data bytes")
    >>> print(b"".join(json_chunks(Message(table["Blob"], raw_data=b"abc"))).decode())
    {
      "rawData": "YWJj"
    }
    """
    return join_texts(_write_message(message, "", "\n  ", MAX_DEPTH))


def find_unknown(
    message: Message, path: str = "", depth: int = MAX_DEPTH
) -> Iterator[tuple[str, int]]:
    """Give the messages that hold fields which the schema has not: path, and bytes of those.

    The path of the message itself is `path`.

    Raises:
        ArgumentError: messages nest too deeply.
    """
    _check_depth(depth)
    if size := sum(map(len, message.unknown())):
        yield path, size
    for field, values in fields_of(message):
        if field.message is not None:
            for place, inner in _places(path, field, values):
                yield from find_unknown(inner, place, depth - 1)


def find_own_nans(message: Message, path: str = "", depth: int = MAX_DEPTH) -> Iterator[str]:
    """Give the paths of the fields that hold a NaN with bits of its own, which text loses.

    Raises:
        ArgumentError: messages nest too deeply.
    """
    _check_depth(depth)
    for field, values in fields_of(message):
        if field.message is not None:
            for place, inner in _places(path, field, values):
                yield from find_own_nans(inner, place, depth - 1)
        elif has_own_nan(field, values):
            yield f"{path}.{field.name}" if path else field.name


def _places(path: str, field: Field, values: Any) -> Iterator[tuple[str, Any]]:
    """Give each value of a field and where it stands, as in `graph.node[3]`."""
    whole = f"{path}.{field.name}" if path else field.name
    if not field.repeated:
        return iter([(whole, values[0])])
    return ((f"{whole}[{i}]", value) for i, value in enumerate(values))


def _write_message(message: Message, path: str, line: str, depth: int) -> Iterator[str]:
    """Write an object whose fields each stand on a new `line`."""
    _check_depth(depth)
    before = "{"
    for field, values in fields_of(message):
        yield f'{before}{line}"{camel_case(field.name)}": '
        before = ","
        inner = line + "  " if field.repeated else line
        between = f",{inner}"
        if field.repeated:
            yield f"[{inner}"
        if field.numeric:
            for i, row in enumerate(rows_of(values)):
                yield between * bool(i) + between.join(_number_texts(field, row))
        else:
            for i, (place, value) in enumerate(_places(path, field, values)):
                if i:
                    yield between
                if field.message is not None:
                    yield from _write_message(value, place, inner + "  ", depth - 1)
                elif field.scalar.name == "string":
                    yield _quote(value, place)
                else:
                    yield '"'
                    for data in read_pieces(message._piece, value, _PIECE):
                        yield str(binascii.b2a_base64(data, newline=False), "ascii")
                    yield '"'
        if field.repeated:
            yield f"{line}]"
    yield "{}" if before == "{" else f"{line[:-2]}}}"


def _check_depth(depth: int) -> None:
    if depth < 0:
        raise ArgumentError(f"messages nest more than {MAX_DEPTH} levels deep")


def _quote(text: str, place: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ArgumentError(
                f"{place} holds bytes that are not UTF-8, which JSON cannot hold",
                cure="Write it in protobuf's binary or text format.",
            ) from None
    return encode_basestring_ascii(text)


def _number_texts(field: Field, numbers: list[Any]) -> list[str]:
    scalar = field.scalar
    if field.enum is not None:
        names = field.enum.names
        return [f'"{names[n]}"' if n in names else str(n) for n in numbers]
    if scalar.name == "bool":
        return ["true" if number else "false" for number in numbers]
    if isinstance(scalar.zero, float):
        if scalar.name == "float":
            # The largest in few digits is above itself, which protobuf's own reader refuses.
            short = shortest(numbers)
            rounded = np.isfinite(short) & (np.abs(short) > _LARGEST)
            short[rounded] = np.copysign(_LARGEST, short[rounded])
            numbers = short.tolist()
        return [_QUOTED.get(text, text) for text in map(repr, numbers)]
    return [f'"{n}"' for n in numbers] if scalar.dtype.itemsize == 8 else list(map(str, numbers))


@cache
def camel_case(name: str) -> str:
    """Give the name of a field in JSON.

    >>> camel_case("raw_data"), camel_case("f16_Ab_2c")
    ('rawData', 'f16Ab2c')
    """
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)


@cache
def _by_key(schema: Schema) -> Mapping[str, Field]:
    """Give the fields by what JSON may call them."""
    return {**schema.by_name, **{camel_case(row.name): row for row in schema.fields}}


def parse_json(message: Message, text: str | bytes, where: str = "") -> None:
    """Fill an empty message with what JSON says.

    Raises:
        CorruptError: it is not JSON, or not of this kind of message; says which part of it.
        UnsafeError: it takes far more memory than its length accounts for.
    """
    reader = _Reader(where)
    reader.read_message(message, reader.load(text), "", MAX_DEPTH)


class _Reader:
    """Reads values that `json` made of a text."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.room = _MANY

    def load(self, text: str | bytes) -> Any:
        """Parse the text."""
        try:
            text = (text if isinstance(text, str) else str(text, "utf-8")).removeprefix("\ufeff")
            self.room = max(_MANY, len(text) // _LEAST)
            return json.loads(
                text, object_pairs_hook=self.read_object, parse_constant=self.refuse_constant
            )
        except TensorKeepError:
            raise
        except UnicodeDecodeError as error:
            problem = f"the text is not UTF-8 at byte {error.start}"
        except json.JSONDecodeError as error:
            problem = f"line {error.lineno}, column {error.colno}: the JSON is broken: {error.msg}"
        except RecursionError:
            problem = "the JSON is nested too deeply"
        except ValueError:
            problem = "the JSON holds an integer of thousands of digits"
        except MemoryError:
            raise UnsafeError(
                "the JSON takes more memory than there is", where=self.where
            ) from None
        raise CorruptError(problem, where=self.where)

    def read_object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Make a dict of what an object holds, and count it."""
        self.room -= 1
        if self.room < 0:
            raise UnsafeError(
                "the JSON is almost nothing but empty objects",
                where=self.where,
                cure="It was made to fill the memory.",
            )
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise CorruptError(f"the JSON gives {_show(key)} twice", where=self.where)
            found[key] = value
        return found

    def refuse_constant(self, name: str) -> NoReturn:
        """Refuse what Python's `json` would take for a number."""
        raise CorruptError(f"{name} is not JSON without quotes", where=self.where)

    def fail(self, place: str, value: Any, expected: str) -> NoReturn:
        """Say that something else belongs where a value stands."""
        problem = f"{_show(value)} stands where {expected} belongs"
        place = place or "the top"
        raise CorruptError(problem, where=f"{self.where}, {place}" if self.where else place)

    def read_message(self, message: Message, value: Any, path: str, depth: int) -> None:
        """Fill a message with what an object says."""
        schema = message.schema
        if type(value) is not dict:
            self.fail(path, value, f"an object with the fields of {schema.name}")
        if depth < 0:
            self.fail(path, value, f"nothing, {MAX_DEPTH} levels deep,")
        known = _by_key(schema)
        taken: dict[str, str] = {}
        for key, item in value.items():
            field = known.get(key)
            if field is None:
                self.fail(path, key, f"a field of {schema.name} ({', '.join(schema.by_name)})")
            if field.name in taken:
                self.fail(path, key, f"no second value of {field.name}")
            taken[field.name] = ""
            if item is None:
                continue
            for other in schema.oneofs[field.name]:
                if taken.get(other):
                    self.fail(path, key, f"nothing more than the {other} of the same choice")
            taken[field.name] = key
            self.read_field(message, field, item, f"{path}.{key}" if path else key, depth)

    def read_field(self, message: Message, field: Field, value: Any, path: str, depth: int) -> None:
        """Set a field to what a value says."""
        if field.repeated and type(value) is not list:
            self.fail(path, value, f"a list, {field.name} being repeated,")
        if field.message is not None:
            if not field.repeated:
                self.read_message(message.make(field.name), value, path, depth - 1)
                return
            for i, item in enumerate(value):
                self.read_message(message.add(field.name), item, f"{path}[{i}]", depth - 1)
            return
        if not field.repeated:
            message[field.name] = self.read_scalar(field, value, path)
            return
        many: Any = take_numbers(field, value) if field.numeric else None
        if many is None:
            many = [self.read_scalar(field, item, f"{path}[{i}]") for i, item in enumerate(value)]
        message[field.name] = many

    def read_scalar(self, field: Field, value: Any, path: str) -> Any:
        """Give what a value says."""
        found = take_scalar(field, value)
        if found is None:
            half = field.scalar.name == "string" and type(value) is str
            self.fail(
                path, value, "text without half a surrogate pair" if half else name_kind(field)
            )
        return found


def _show(value: Any) -> str:
    if isinstance(value, list | dict):
        return (
            f"a list of {len(value)}" if isinstance(value, list) else f"an object of {len(value)}"
        )
    shown = json.dumps(value[:_SHOWN] if isinstance(value, str) else value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
