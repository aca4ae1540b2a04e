"""ONNX's own textual syntax (`.onnxtxt`), which the `onnx` library parses and prints.

    <ir_version: 10, opset_import: ["" : 18]>
    graph (float[N, 3] x) => (float[N, 3] y) <float[3] bias = {1, 2, 3}> {
       y = Add (x, bias)
    }

It has no place for much of a model. What is lost is found by reading back what was printed.

Facts: docs/Syntax.md of onnx 1.23.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tensorkeep.dtypes import DTYPES
from tensorkeep.errors import ArgumentError, CorruptError, UnsafeError
from tensorkeep.format import Stream
from tensorkeep.formats.onnx.building import build
from tensorkeep.formats.onnx.differing import differing
from tensorkeep.formats.onnx.reading import state_of
from tensorkeep.formats.onnx.texts import hold_all, read_text, unknown_losses
from tensorkeep.graph import Graph
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.optional import require
from tensorkeep.state import State
from tensorkeep.store import Location

ENDING = ".onnxtxt"
_MOST_PRINTED = (1 << 30) - 1  # bytes of a model, which take several times as much as text
_MOST_DEPTH = 200  # the parser calls itself at each bracket
_NO_VALUES = ("complex64", "complex128", "int4", "uint4", "int2", "uint2")
_NO_VALUES_EITHER = ("float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn")
HOLDS = frozenset(
    kind for name, kind in DTYPES.items() if name not in _NO_VALUES + _NO_VALUES_EITHER
)

_SPACE = rb"(?:\s|#[^\n]*\n)*"
_HEAD = re.compile(_SPACE + rb"<" + _SPACE + rb"(?:ir_version|opset_import|producer_name)\s*:")
_NAMED = re.compile(_SPACE + rb"(?:<|\w[\w.]*\s*\()")
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|#[^\n]*|=>|[(<{\[\])}>]', re.DOTALL)


def accepts_syntax(location: Location) -> bool:
    """A header in angle brackets, or what the name says to be such text."""
    if not location.key:
        return False
    head = location.head
    if location.name.lower().endswith(ENDING) and b"\0" not in head and _NAMED.match(head):
        return True
    return _HEAD.match(head) is not None


def decode_syntax(location: Location) -> State:
    """Read a model from ONNX's textual syntax.

    Raises:
        CorruptError: it is not such text; says the line and the column.
        MissingDependencyError: `onnx` is not installed.
    """
    data = read_text(location)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise CorruptError(f"is no UTF-8 at byte {error.start:,}", where=location.where) from None
    return state_of(_parse(text, location.where), location, "onnx-syntax")


def encode_syntax(state: State, location: Location) -> Iterator[Stream]:
    """Write a model in ONNX's textual syntax.

    Args:
        state: what to write.
        location: where to.
    """
    yield Stream(location.key, [_print(_prepared(state).model, location.where).encode()])


def syntax_losses(state: State) -> list[str]:
    """Say what of a state does not come back from the text, by printing and parsing it."""
    graph = _prepared(state)
    unprinted = Counter(
        tensor.dtype.name for tensor in graph.tensors.values() if tensor.dtype not in HOLDS
    )
    losses = [
        f"{count:,} tensor{'' if count == 1 else 's'} of {name}, whose values are not printed"
        for name, count in unprinted.items()
    ]
    text = _print(graph.model, state.where)
    try:
        found = _parse(text, "the text")
    except CorruptError as error:
        return [*losses, *unknown_losses(state), f"no tool can read it back, as it {error.problem}"]
    places = Counter(differing(graph.model, found))
    losses += [
        f"{path} is lost or changed" + (f" in {count:,} places" if count > 1 else "")
        for path, count in places.items()
    ]
    return [*losses, *unknown_losses(state)]


def _prepared(state: State) -> Graph:
    graph = build(state, checksums=False)
    hold_all(graph)
    size = graph.model.size()
    if size > _MOST_PRINTED:
        raise ArgumentError(
            f"a model of {size:,} bytes is not written as text, of which {_MOST_PRINTED:,} are "
            "the most",
            where=state.where,
            cure="Save it as .onnx.",
        )
    return graph


def _onnx(part: str, where: str) -> Any:
    return require(f"onnx{part}", "ONNX's syntax needs onnx", "Install tensorkeep[onnx].", where)


def _print(model: Message, where: str) -> str:
    printer = _onnx(".printer", where)
    try:
        return str(printer.to_text(_theirs(model, where)))
    except UnicodeDecodeError:
        shown = model.copy()
        _escape(shown)
        return str(printer.to_text(_theirs(shown, where)))


def _theirs(model: Message, where: str) -> Any:
    """Give a model as the library's own message.

    Raises:
        CorruptError: it is damaged, perhaps where nobody has looked yet.
    """
    data = model.encode()
    try:
        return _onnx("", where).ModelProto.FromString(data)
    except Exception as error:  # protobuf's, which is not ours to import
        raise CorruptError(f"onnx cannot read it: {error}", where=where) from None


def _escape(message: Message) -> None:
    """Write the bytes of text that are not UTF-8 as escapes, in a message and all in it."""
    for name in list(message):
        value = message[name]
        if isinstance(value, list):
            if value and isinstance(value[0], Message):
                for item in value:
                    _escape(item)
            elif value != (fresh := [_escaped(item) for item in value]):
                message[name] = fresh
        elif isinstance(value, Message):
            _escape(value)
        elif isinstance(value, str) or (isinstance(value, bytes) and name == "s"):
            fresh_value = _escaped(value)
            if fresh_value != value:
                message[name] = fresh_value


def _escaped(value: str | bytes) -> str | bytes:
    raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    text = raw.decode("utf-8", "backslashreplace")
    return text if isinstance(value, str) else text.encode()


def _parse(text: str, where: str) -> Message:
    """Have the library parse a text, and take the message that it gives.

    Raises:
        CorruptError: it is not such text.
        UnsafeError: it nests too deeply.
    """
    parser = _onnx(".parser", where)
    _check_depth(text, where)
    try:
        parsed = parser.parse_model(text)
    except parser.ParseError as error:
        raise CorruptError(_reason(error), where=where) from None
    except (ValueError, LookupError, RuntimeError, MemoryError, OverflowError) as error:
        raise CorruptError(f"holds a number that is none: {error}", where=where) from None
    return Message.parse(MODEL, parsed.SerializeToString(), where=where)


def _check_depth(text: str, where: str) -> None:
    depth = 0
    for found in _BRACKETS.finditer(text):
        token = found[0]
        if token in "([{<":
            depth += 1
            if depth > _MOST_DEPTH:
                problem = f"nests brackets more than {_MOST_DEPTH} levels deep"
                raise UnsafeError(problem, where=where)
        elif token in ")]}>":
            depth = max(depth - 1, 0)


_PLACE = re.compile(r"\(line: (\d+) column: (\d+)\)")


def _reason(error: Exception) -> str:
    """Say what the parser said, and where, in one line."""
    said = error.args[0] if error.args else ""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    place = _PLACE.search(text)
    reason = text.strip().rpartition("\n")[2].rstrip(".")
    line, column = place.groups() if place else ("?", "?")
    return f"is not ONNX's syntax at line {line}, column {column}: {reason[:200]}"


__all__ = ["ENDING", "HOLDS", "accepts_syntax", "decode_syntax", "encode_syntax", "syntax_losses"]
