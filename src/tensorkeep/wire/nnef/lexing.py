"""Tokens of NNEF's text: words, numbers, strings, operators; comments from # to a line's end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from tensorkeep.errors import CorruptError, UnsafeError

_KEYWORDS = (
    "version extension graph fragment tensor integer scalar logical string true false for in if"
    " else yield length_of shape_of range_of"
)
KEYWORDS = frozenset(_KEYWORDS.split())
MAX_TEXT = 16 << 20
MAX_NAME = 1024
END = "the end"

_SHOWN = 40
_TOKEN = re.compile(
    r"""
    [ \t\r\f\v]*
    (?:
        (?P<word>[A-Za-z_][A-Za-z_0-9]*)
      | (?P<operator>->|<=|>=|==|!=|&&|\|\||[-+*/^<>=!?:;,()\[\]{}])
      | (?P<number>[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)
      | (?P<skipped>\n|\#[^\n]*)
      | (?P<string>'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*")
      | (?P<unknown>.)
      | (?P<end>\Z)
    )
    """,
    re.VERBOSE | re.DOTALL,
)
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z_0-9]*", re.ASCII)
_ESCAPE = re.compile(r"\\([\\'\"])")


class Token(NamedTuple):
    """A token: word, number, string or operator; its text as it stands, and where it stands."""

    kind: str
    text: str
    line: int
    column: int

    @property
    def at(self) -> tuple[int, int]:
        """Give its line and column, both from 1."""
        return self.line, self.column

    def __str__(self) -> str:
        if not self.kind:
            return END
        text = self.text if len(self.text) <= _SHOWN else f"{self.text[:_SHOWN]}..."
        return text if self.kind == "string" else f"'{text}'"


def tokens(text: str, where: str) -> Iterator[Token]:
    """Give the tokens of a text, one without a kind at its end.

    Raises:
        CorruptError: a character that starts no token, or a string without an end.
        UnsafeError: the text is longer than `MAX_TEXT` characters, or a word than `MAX_NAME`.

    >>> [token.text for token in tokens("y = relu(x); # activation", "example")]
    ['y', '=', 'relu', '(', 'x', ')', ';', '']
    """
    if len(text) > MAX_TEXT:
        problem = f"a text of {len(text):,} characters; at most {MAX_TEXT:,} are read"
        raise UnsafeError(problem, where=where)
    line, start = 1, 0
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        matched, position = match[kind], match.start(kind)
        column = position - start + 1
        if kind == "skipped":
            if matched == "\n":
                line, start = line + 1, position + 1
            continue
        if kind == "end":
            yield Token("", "", line, column)
            return
        if kind == "unknown":
            fail((line, column), _unknown(matched), where)
        if len(matched) > MAX_NAME and kind == "word":
            problem = f"an identifier of {len(matched):,} characters; at most {MAX_NAME:,} are read"
            raise UnsafeError(placed((line, column), problem), where=where)
        yield Token(kind, matched, line, column)
        if kind == "string" and (broken := matched.count("\n")):
            line += broken
            start = position + matched.rindex("\n") + 1


def _unknown(character: str) -> str:
    if character in "'\"":
        return f"a string that begins with {character} and never ends"
    return f"found {character!r}, which begins nothing in NNEF"


def fail(at: tuple[int, int], problem: str, where: str, cure: str = "") -> NoReturn:
    """Refuse a text at a line and column.

    Raises:
        CorruptError: always.
    """
    raise CorruptError(placed(at, problem), where=where, cure=cure)


def placed(at: tuple[int, int], problem: str) -> str:
    """Tell of a problem where it is: at a line and column, both from 1; 0 is nowhere."""
    line, column = at
    return f"{line}:{column}: {problem}" if line else problem


def is_identifier(text: str) -> bool:
    """Tell whether a text can name a tensor: letters, digits and _, no keyword.

    >>> is_identifier("conv1_1"), is_identifier("0.weight"), is_identifier("graph")
    (True, False, False)
    """
    return _IDENTIFIER.fullmatch(text) is not None and text not in KEYWORDS


def unquote(text: str) -> str:
    r"""Give what a string literal says; a backslash stands before a quote or another backslash.

    >>> unquote(r"'it\'s'"), unquote(r'"a\b"')
    ("it's", 'a\\b')
    """
    return _ESCAPE.sub(r"\1", text[1:-1])


def quote(text: str) -> str:
    r"""Write a string literal, escaping no more than must be: most readers know no escapes.

    >>> print(quote("conv1/filter"), quote("it's"), quote("a\\b"))
    'conv1/filter' "it's" 'a\b'
    """
    mark = '"' if "'" in text and '"' not in text else "'"
    escaped = re.sub(r"\\(?=[\\'\"]|\Z)", r"\\\\", text)
    return mark + escaped.replace(mark, f"\\{mark}") + mark
