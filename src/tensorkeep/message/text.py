"""Messages as protobuf's text format, the `.pbtxt` that people read and edit.

Facts: protobuf.dev/reference/protobuf/textformat-spec; written as protobuf's Python library does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from tensorkeep.errors import ArgumentError, CorruptError
from tensorkeep.message.printing import fields_of, join_texts, read_pieces, rows_of, shortest
from tensorkeep.message.scanning import MAX_DEPTH
from tensorkeep.message.schema import Field, Schema

if TYPE_CHECKING:
    from tensorkeep.message.message import Message

_SHOWN = 40  # characters of a token in a message
_PIECE = 1 << 20  # bytes that are escaped together
_FEW = 64  # bytes that are escaped faster one by one

_ESCAPES = {code: f"\\{code:03o}" for code in (*range(32), 127)}
_ESCAPES |= {ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r"}
_ESCAPES |= {ord('"'): '\\"', ord("'"): "\\'", ord("\\"): "\\\\"}
_TEXT_ESCAPES = _ESCAPES | {0xDC00 + byte: f"\\{byte:03o}" for byte in range(128, 256)}
_BYTE_ESCAPES = _ESCAPES | {byte: f"\\{byte:03o}" for byte in range(128, 256)}

# The same as rows of four characters, and which of those count.
_ROWS = [_BYTE_ESCAPES.get(byte, chr(byte)) for byte in range(256)]
_ESCAPED_BYTES = np.array([list(row.ljust(4).encode()) for row in _ROWS], np.uint8)
_IS_ESCAPE = np.array([[place < len(row) for place in range(4)] for row in _ROWS])


def write_text(message: Message) -> str:
    """Write the fields that the schema has; where others lie, a comment says so."""
    return "".join(_write_fields(message, "", MAX_DEPTH))


def text_chunks(message: Message) -> Iterator[bytes]:
    """Write the text format piece by piece; bytes that were not read are read in pieces too.

    Raises:
        ArgumentError: messages nest too deeply.
    """
    return join_texts(_write_fields(message, "", MAX_DEPTH))


def _write_fields(message: Message, indent: str, depth: int) -> Iterator[str]:
    if depth < 0:
        raise ArgumentError(f"messages nest more than {MAX_DEPTH} levels deep")
    for field, values in fields_of(message):
        head = f"{indent}{field.name}"
        if field.message is not None:
            for inner in values:
                yield f"{head} {{\n"
                yield from _write_fields(inner, indent + "  ", depth - 1)
                yield f"{indent}}}\n"
        elif field.scalar.name == "bytes":
            for value in values:
                yield f'{head}: "'
                for data in read_pieces(message._piece, value, _PIECE):
                    yield _escape(data)
                yield '"\n'
        else:
            for row in rows_of(values):
                yield "".join([f"{head}: {text}\n" for text in _texts(field, row)])
    for data in message.unknown():
        yield f"{indent}# {len(data)} bytes of unknown fields\n"


def _escape(data: bytes | memoryview) -> str:
    if len(data) < _FEW:
        return str(data, "latin-1").translate(_BYTE_ESCAPES)
    codes = np.frombuffer(data, np.uint8)
    return str(_ESCAPED_BYTES[codes][_IS_ESCAPE[codes]].data, "ascii")


def _texts(field: Field, values: list[Any]) -> Iterable[str]:
    if field.scalar.name == "string":
        return [f'"{value.translate(_TEXT_ESCAPES)}"' for value in values]
    if field.enum is not None:
        names = field.enum.names
        return [names.get(number, str(number)) for number in values]
    if field.scalar.name == "bool":
        return ["true" if number else "false" for number in values]
    return map(str, shortest(values).tolist() if field.scalar.name == "float" else values)


class _Token(NamedTuple):
    kind: str  # "word", "number", "string", "mark", or "end"
    text: str
    start: int
    stop: int


# No part of these can match in two ways, and none gives back what it took: long texts stay fast.
_GAP = r"(?>\s+|\#[^\n]*+)*+"
_NUMBER = r"[\d.][\w.]*+(?>(?<=[eE])[+-]\d++)?+\w?+"
_SPECIAL = r"(?i:inf(?:inity)?+f?+|nanf?+)\b"
_TOKEN = re.compile(
    rf"""{_GAP}(?:
    (?P<word>[A-Za-z_]\w*+)
    | (?P<number>-?+[ ]*+(?>{_NUMBER}|{_SPECIAL}))
    | (?P<string>"(?>[^"\\\n]++|\\.)*+"|'(?>[^'\\\n]++|\\.)*+')
    | (?P<mark>[{{}}<>\[\]:,;])
    | (?P<end>\Z)
    )""",
    re.VERBOSE | re.ASCII,
)
_PLAIN_INTEGER = r"-?+(?>0|[1-9]\d{0,18}+)"
_PLAIN_FLOAT = r"-?+(?>0|[1-9]\d*+)(?>\.\d++)?+(?>[eE][+-]?+\d++)?+"
_INTEGER = re.compile(r"(-?) *(?:0[xX]([0-9a-fA-F]+)|0([0-7]+)|(0|[1-9][0-9]*))")
_FLOAT = re.compile(r"-? *(?:(?!0\d)\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_BOOLS = {"true": True, "True": True, "t": True, "1": True}
_BOOLS |= {"false": False, "False": False, "f": False, "0": False}
_ESCAPED = re.compile(
    rb"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.S
)
_PLAIN_ESCAPES = re.compile(rb"(?>[^\\]++|\\(?>[0-3][0-7]{2}|[nrt'\"\\]))*+")
_CONTROLS = dict(zip(b"abfnrtv\\'\"?", b"\a\b\f\n\r\t\v\\'\"?", strict=True))


def parse_text(message: Message, text: str | bytes, where: str = "") -> None:
    """Fill an empty message with what a text says.

    Raises:
        CorruptError: the text is not of this kind of message; says line and column.
    """
    if not isinstance(text, str):
        try:
            text = str(text, "utf-8")
        except UnicodeDecodeError as error:
            problem = f"the text is not UTF-8 at byte {error.start}"
            raise CorruptError(problem, where=where) from None
    _Reader(text.removeprefix("\ufeff"), where).read_fields(message, "", MAX_DEPTH)


class _Reader:
    """Reads tokens from left to right; `token` is the one that comes next."""

    def __init__(self, text: str, where: str) -> None:
        self.text = text
        self.where = where
        self.token = _Token("mark", "", 0, 0)
        self.step()

    def step(self) -> _Token:
        """Go on to the next token; gives the one that was."""
        token = self.token
        found = _TOKEN.match(self.text, token.stop)
        if found is None:
            gap = re.compile(_GAP, re.VERBOSE).match(self.text, token.stop)
            at = gap.end() if gap else token.stop
            quote = self.text[at] in "\"'"
            self.fail("does not end on its line" if quote else "cannot be read", at)
        kind = found.lastgroup or ""
        self.token = _Token(kind, found[kind], found.start(kind), found.end())
        return token

    def fail(self, problem: str, at: int | None = None) -> NoReturn:
        """Say what is wrong with the next token, or with what stands at `at`."""
        if at is None:
            at = self.token.start
        line = self.text.count("\n", 0, at) + 1
        column = at - (self.text.rfind("\n", 0, at) + 1) + 1
        shown = re.compile(rf"\S{{0,{_SHOWN}}}").match(self.text, at)
        what = repr(shown[0]) if shown and shown[0] else "the end"
        place = f"line {line}, column {column}"
        raise CorruptError(
            f"{what} {problem}", where=f"{self.where}, {place}" if self.where else place
        ) from None

    def take(self, mark: str) -> bool:
        """Step over a mark, if that comes next."""
        if self.token.kind == "mark" and self.token.text == mark:
            self.step()
            return True
        return False

    def expect(self, mark: str) -> None:
        """Step over a mark that has to come next."""
        if not self.take(mark):
            self.fail(f"stands where {mark!r} belongs")

    def read_fields(self, message: Message, end: str, depth: int) -> None:
        """Read fields up to the mark that ends the message, or to the end of the text."""
        if depth < 0:
            self.fail(f"nests messages more than {MAX_DEPTH} levels deep")
        lists: dict[str, list[Any]] = {}
        while not (self.take(end) if end else self.token.kind == "end"):
            field = self.read_name(message.schema, end)
            if field.message is not None:
                self.take(":")
            else:
                self.expect(":")
            if not field.repeated and field.name in message:
                self.fail(f"is a second value of {field.name}")
            if not field.repeated:
                self.read_item(message, field, depth)
            elif field.message is not None:
                self.read_list(partial(self.read_item, message, field, depth))
            else:
                items = lists.setdefault(field.name, [])
                self.read_list(partial(self.read_into, items, field))
                self.read_more(field, items)
            if not self.take(","):
                self.take(";")
        for name, items in lists.items():
            message[name] = items

    def read_name(self, schema: Schema, end: str) -> Field:
        """Read the name of a field."""
        if self.token.kind != "word":
            self.fail(f"stands where a field of {schema.name}{f' or {end!r}' * bool(end)} belongs")
        field = schema.by_text.get(self.token.text)
        if field is None:
            self.fail(f"is no field of {schema.name}, which has {', '.join(schema.by_name)}")
        self.step()
        return field

    def read_list(self, read: Callable[[], None]) -> None:
        """Read one value, or any number of them in brackets."""
        if not self.take("["):
            read()
        elif not self.take("]"):
            read()
            while not self.take("]"):
                self.expect(",")
                read()

    def read_item(self, message: Message, field: Field, depth: int) -> None:
        """Read one value into a message."""
        if field.message is None:
            message[field.name] = self.read_value(field)
            return
        end = ">" if self.take("<") else "}"
        if end == "}":
            self.expect("{")
        inner = message.add(field.name) if field.repeated else message.make(field.name)
        self.read_fields(inner, end, depth - 1)

    def read_into(self, items: list[Any], field: Field) -> None:
        """Read one scalar of many."""
        items.append(self.read_value(field))

    def read_more(self, field: Field, items: list[Any]) -> None:
        """Read many plain numbers under the same name at once."""
        plain, convert = _PLAIN.get(field.scalar.name, ("", None))
        if convert is None or self.token.text != field.name or len(items) < 4:
            return
        row = rf"\s*+{field.name}\s*+:\s*+{plain}(?=\s)"
        start = self.token.start
        found = re.compile(rf"(?>{row})*+").match(self.text, start)
        if found is None or found.end() == start:
            return
        numbers = list(map(convert, re.findall(r":\s*+(\S++)", found[0])))
        low, high = field.scalar.low, field.scalar.high
        if low < high and not low <= min(numbers) <= max(numbers) <= high:
            return  # the slow way says which one
        items += numbers
        self.token = _Token("mark", "", start, found.end())
        self.step()

    def read_value(self, field: Field) -> Any:
        """Read one scalar."""
        token = self.token
        if field.scalar.name in ("string", "bytes"):
            data = self.read_string()
            return data if field.scalar.name == "bytes" else str(data, "utf-8", "surrogateescape")
        value: Any = None
        if token.kind in ("word", "number"):
            value = _parse_scalar(field, token.text)
        if value is None:
            self.fail(f"is no value of {field.scalar.name} {field.name}")
        self.step()
        return value

    def read_string(self) -> bytes:
        """Read strings; those next to one another are one."""
        if self.token.kind != "string":
            self.fail("stands where a string belongs")
        parts = []
        while self.token.kind == "string":
            try:
                raw = self.token.text[1:-1].encode("utf-8", "surrogateescape")
                parts.append(_unescape(raw) if b"\\" in raw else raw)
            except (ValueError, OverflowError) as error:
                self.fail(f"is no string: {error}")
            self.step()
        return b"".join(parts)


def _unescape(raw: bytes) -> bytes:
    if _PLAIN_ESCAPES.fullmatch(raw):  # those that Python has as well
        return str(raw, "unicode_escape").encode("latin-1")
    return _ESCAPED.sub(_unescape_one, raw)


def _unescape_one(found: re.Match[bytes]) -> bytes:
    octal, hexadecimal, short, long, other = found.groups()
    if octal:
        return bytes([int(octal, 8)])
    if hexadecimal:
        return bytes([int(hexadecimal, 16)])
    if other:
        if other[0] not in _CONTROLS:
            raise ValueError(f"\\{chr(other[0])} is no escape")
        return bytes([_CONTROLS[other[0]]])
    return chr(int(short or long, 16)).encode()


def _parse_scalar(field: Field, text: str) -> Any:
    """Give the value, or None where the text is none."""
    scalar = field.scalar
    if scalar.name == "bool":
        return _BOOLS.get(text)
    if isinstance(scalar.zero, float):
        return _parse_float(text)
    if field.enum is not None and text in field.enum.numbers:
        return field.enum.numbers[text]
    found = _INTEGER.fullmatch(text)
    if found is None or len(text) > 40:
        return None
    sign, hexadecimal, octal, plain = found.groups()
    value = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(plain)
    value = -value if sign else value
    return value if scalar.low <= value <= scalar.high else None


def _parse_float(text: str) -> float | None:
    low = text.lower().replace(" ", "")
    if low.lstrip("-").startswith(("inf", "nan")):
        known = low.removesuffix("f") if low.lstrip("-") not in ("inf", "nan") else low
        return float(known) if known.lstrip("-") in ("inf", "infinity", "nan") else None
    if low.endswith("f"):
        low = low[:-1]
    return float(low) if _FLOAT.fullmatch(low) else None


_PLAIN: dict[str, tuple[str, Callable[[str], Any]]] = {
    "float": (_PLAIN_FLOAT, float),
    "double": (_PLAIN_FLOAT, float),
    "int32": (_PLAIN_INTEGER, int),
    "int64": (_PLAIN_INTEGER, int),
}
