"""What a pickle can hold beyond plain values: names, objects of unknown classes, and containers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Known:
    """A name that a pickle may use, with the function of ours that is called in its place."""

    __slots__ = ("make", "module", "name")

    def __init__(self, module: str, name: str, make: Callable[..., Any]) -> None:
        self.module = module
        self.name = name
        self.make = make

    @property
    def path(self) -> str:
        """The name as one would import it."""
        return f"{self.module}.{self.name}"

    def __repr__(self) -> str:
        return f"Known({self.path:.100})"


class Buildable:
    """What may take a state after it was made; it is kept or looked at, never run."""

    __slots__ = ()

    def build(self, state: Any) -> None:
        raise NotImplementedError


class Opaque(Buildable):
    """A name that is not allowed, or what calling it would have given: its parts, as data.

    Args:
        module: the module that would have been imported.
        name: what would have been taken out of it, dots included.
        args: what it would have been called with; None for the name itself.
        kwargs: the same by keyword.
    """

    __slots__ = ("args", "items", "kwargs", "module", "name", "pairs", "state")

    def __init__(
        self,
        module: str,
        name: str,
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.module = module
        self.name = name
        self.args = args
        self.kwargs = kwargs or {}
        self.state: Any = None  # what it would have been given as its attributes
        self.items: list[Any] = []  # what would have been appended to it
        self.pairs: list[tuple[Any, Any]] = []  # what would have been set in it

    @property
    def path(self) -> str:
        """The name as one would import it."""
        return f"{self.module}.{self.name}"

    def build(self, state: Any) -> None:
        self.state = state

    def __repr__(self) -> str:
        return f"Opaque({self.path:.100})"


def shown(value: Any) -> str:
    """Spell a value for a message: text cut short, and containers, but shapes, by their type.

    >>> shown("weights"), shown(["weights"])
    ("'weights'", 'a list')
    """
    if isinstance(value, str | bytes):
        return repr(value[:60])
    small = type(value) is not int or value.bit_length() <= 64
    if small and isinstance(value, int | float | Known | Opaque | None):
        return repr(value)
    if type(value) is tuple and len(value) <= 8 and all(type(n) is int for n in value):
        return f"({', '.join(map(shown, value))}{',' * (len(value) == 1)})"
    return f"a {type(value).__name__}"


class OrderedMap(dict[Any, Any], Buildable):
    """A collections.OrderedDict, and the attributes that it carried."""

    attributes: Any = None

    def build(self, state: Any) -> None:
        self.attributes = state


class DefaultMap(dict[Any, Any]):
    """A collections.defaultdict; its factory is a name and never called."""

    __slots__ = ("factory",)

    def __init__(self, factory: Any = None) -> None:
        super().__init__()
        self.factory: Any = factory


class CounterMap(dict[Any, Any]):
    """A collections.Counter."""

    __slots__ = ()
