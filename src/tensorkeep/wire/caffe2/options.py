"""How tensors are written: chunk sizes and encodings, chosen by name.

Facts: SerializationOptions of caffe2.proto and Caffe2's blob serialization (PyTorch 1.10).
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from numbers import Integral

from tensorkeep.errors import ArgumentError
from tensorkeep.message import Message

DEFAULT_CHUNK = 1_000_000  # elements: Caffe2's flag caffe2_tensor_chunk_size
NEVER = -1

_FLOAT_BFLOAT16 = 2


@dataclass(frozen=True, slots=True)
class SaveOptions:
    """How tensors are written.

    Args:
        chunk_size: elements per record; -1 for all of a tensor in one.
        bfloat16: write float32 with 16 bits, rounded as Caffe2 does.
        byte_holder: write bool and 8- and 16-bit numbers as plain bytes, not varints.
        fp16_as_bytes: the same for float16 alone.
        nan_safe: keep NaN a NaN in bfloat16, where Caffe2 may make zeros or infinities of it.

    Raises:
        ArgumentError: a chunk_size that is neither positive nor -1.

    >>> SaveOptions(chunk_size=1000).bfloat16
    False
    """

    chunk_size: int = DEFAULT_CHUNK
    bfloat16: bool = False
    byte_holder: bool = False
    fp16_as_bytes: bool = False
    nan_safe: bool = False

    def __post_init__(self) -> None:
        size: object = self.chunk_size
        if isinstance(size, bool) or not isinstance(size, Integral) or (size < 1 and size != NEVER):
            raise ArgumentError(
                f"chunk_size {size!r} is not a number of elements",
                cure="Give 1 or more, or -1 for every tensor in one record.",
            )
        object.__setattr__(self, "chunk_size", int(size))


DEFAULT = SaveOptions()


def choose_options(
    name: str, rows: Sequence[Message], default: SaveOptions = DEFAULT
) -> SaveOptions:
    """Choose how to write a blob: the first BlobSerializationOptions row that fits its name.

    A row fits if its blob_name_regex is empty or matches all of the name; it wins entirely, so one
    without a chunk_size means the default's, whatever rows follow. Without any, the default.

    Raises:
        ArgumentError: a pattern that is no regular expression, or a senseless chunk_size.
    """
    letters = name.encode("utf-8", "surrogateescape")  # Caffe2 matches bytes
    for row in rows:
        pattern: str = row.blob_name_regex
        if not pattern or _compiled(pattern).fullmatch(letters) is not None:
            return replace(
                default,
                chunk_size=int(row.chunk_size) or default.chunk_size,
                bfloat16=int(row.float_format) == _FLOAT_BFLOAT16,
            )
    return default


_LETTERS = string.ascii_letters
_CLASSES = {
    "alnum": _LETTERS + string.digits,
    "alpha": _LETTERS,
    "blank": " \t",
    "cntrl": "".join(map(chr, range(32))) + "\x7f",
    "digit": string.digits,
    "graph": _LETTERS + string.digits + string.punctuation,
    "lower": string.ascii_lowercase,
    "print": " " + _LETTERS + string.digits + string.punctuation,
    "punct": string.punctuation,
    "space": string.whitespace,
    "upper": string.ascii_uppercase,
    "xdigit": string.hexdigits,
}
_SET = rb"\[\^?(?:\[:\w*:\]|\\.|[^\]\\])*\]"
_COUNT = rb"(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})(?P<possessive>\+)?"
_TOKEN = re.compile(
    rb"(?P<set>%b)|\\(?P<escape>.)|(?P<group>\(\?.?)|%b|(?P<brace>\{)|." % (_SET, _COUNT),
    re.DOTALL,
)
_IN_SET = re.compile(rb"\[:(?P<name>\w*):\]|\\(?P<escape>.)|(?P<odd>--|\[[.=])|.", re.DOTALL)
_ESCAPES = b"bBdDsSwWfnrtvx0123456789"


@cache
def _compiled(pattern: str) -> re.Pattern[bytes]:
    """Compile an ECMAScript pattern, as std::regex reads it, where Python can mean the same.

    Raises:
        ArgumentError: it is none, or Python would read it otherwise.
    """
    try:
        return re.compile(_translated(pattern.encode("utf-8", "surrogateescape")))
    except (re.error, RecursionError, OverflowError, ValueError) as error:
        raise ArgumentError(
            f"blob_name_regex {pattern!r}: {error}",
            cure="It is an ECMAScript pattern, such as conv[[:digit:]]+_w.",
        ) from None


def _translated(regex: bytes) -> bytes:
    return b"".join(_translated_token(found) for found in _TOKEN.finditer(regex))


def _translated_token(found: re.Match[bytes]) -> bytes:
    token = found[0]
    if found["set"] is not None:
        return _translated_set(token)
    if found["escape"] is not None:
        _check_escape(found["escape"])
    if found["group"] is not None and token not in (b"(?:", b"(?=", b"(?!"):
        raise ValueError(f"{token.decode('latin-1')!r} begins no group")
    if found["possessive"] is not None:
        raise ValueError(f"{token.decode()!r} repeats what repeats")
    if found["brace"] is not None:
        raise ValueError("a brace begins no count")
    return token


def _translated_set(token: bytes) -> bytes:
    start = 2 if token.startswith(b"[^") else 1
    content = token[start:-1]
    if not content:
        raise ValueError("a set is empty")
    return token[:start] + b"".join(map(_translated_item, _IN_SET.finditer(content))) + b"]"


def _translated_item(found: re.Match[bytes]) -> bytes:
    item = found[0]
    if found["odd"] is not None:
        raise ValueError(f"{item.decode()!r} is in a set: write a backslash before each sign")
    if found["escape"] is not None:
        _check_escape(found["escape"])
    if found["name"] is not None:
        name = found["name"].decode()
        if name not in _CLASSES:
            raise ValueError(f"there is no class [:{name}:]")
        return re.escape(_CLASSES[name].encode())
    return b"\\" + item if item in b"[&~|" else item  # of which Python keeps two to itself


def _check_escape(letter: bytes) -> None:
    if letter.isalnum() and letter not in _ESCAPES:
        raise ValueError(f"there is no escape \\{letter.decode()}")
