"""Table: which operators of one dialect are translated to another, and by what function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

F = TypeVar("F", bound=Callable[..., None])


class Row(NamedTuple):
    """A translated operator: its name, what translates it, what it becomes, and what to know."""

    operator: str
    translate: Callable[..., None]
    becomes: str
    note: str


class Table(Generic[F]):
    """The operators that one direction translates; each by one function."""

    def __init__(self, source: str, target: str) -> None:
        self.source = source
        self.target = target
        self._rows: dict[str, Row] = {}

    def row(self, *operators: str, becomes: str, note: str = "") -> Callable[[F], F]:
        """Have a function translate operators.

        Args:
            operators: what the source calls them.
            becomes: what they become, as the table in the documentation says it.
            note: what a reader has to know: a limit, a condition.
        """

        def register(translate: F) -> F:
            for operator in operators:
                if operator in self._rows:
                    raise ValueError(f"{operator} has two translations")
                self._rows[operator] = Row(operator, translate, becomes, note)
            return translate

        return register

    def __contains__(self, operator: object) -> bool:
        return operator in self._rows

    def __getitem__(self, operator: str) -> Row:
        return self._rows[operator]

    def __iter__(self) -> Iterator[Row]:
        return iter(sorted(self._rows.values()))

    def __len__(self) -> int:
        return len(self._rows)
