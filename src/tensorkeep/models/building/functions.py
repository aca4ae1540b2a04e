"""Functions of a model's own: graphs that nodes call by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tensorkeep.errors import ArgumentError
from tensorkeep.models.building.attributes import Reference, take_attribute
from tensorkeep.models.building.nodes import (
    check_formals,
    check_name,
    check_outputs,
    make_node,
    take_inputs,
)
from tensorkeep.models.building.symbols import Node, Symbol
from tensorkeep.models.building.types import Type
from tensorkeep.models.ops import Parameter

LOCAL = "local"


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """A function of a model; call it with inputs and attributes to make a node of it.

    Attributes:
        name, domain: how the model names it.
        inputs, outputs: its own values.
        output_names: what the outputs are called, if anything.
        attributes: those that nodes in it refer to.
    """

    name: str
    domain: str
    inputs: tuple[Symbol, ...]
    outputs: tuple[Symbol, ...]
    output_names: tuple[str, ...]
    attributes: Mapping[str, Reference]
    doc: str = ""

    def __call__(
        self, *inputs: Any, name: str = "", output_names: Sequence[str] = (), **attributes: Any
    ) -> Any:
        """Make a node that calls it; gives its output, or a tuple of them where it has several.

        Raises:
            ArgumentError: it has fewer inputs, no such attribute, or one that is lacking.
        """
        if len(inputs) > len(self.inputs):
            raise ArgumentError(
                f"{self.name} takes {len(self.inputs)} inputs, not {len(inputs)}",
            )
        for key in attributes:
            if key not in self.attributes:
                has = ", ".join(self.attributes) or "none"
                raise ArgumentError(f"{self.name} has no attribute {key!r}", cure=f"It has {has}.")
        for key, reference in self.attributes.items():
            if reference.default is None and key not in attributes:
                raise ArgumentError(f"{self.name} needs the attribute {key}")
        given = tuple(
            take_attribute(key, value, self.attributes[key].kind, f"{self.name}'s")
            for key, value in attributes.items()
        )
        parameters = [
            Parameter(str(each.origin.name))
            for each in self.inputs
            if not isinstance(each.origin, Node)
        ]
        symbols = take_inputs(self.name, inputs, parameters)
        return make_node(
            self.name,
            self.domain,
            symbols,
            given,
            len(self.outputs),
            name,
            output_names,
            function=self,
        )


def function(
    name: str,
    inputs: Sequence[Symbol],
    outputs: Sequence[Symbol] | Mapping[str, Symbol],
    *,
    domain: str = LOCAL,
    doc: str = "",
) -> Function:
    """Give a function of the model's own, which is called like a Python function.

    Arrays in it become constants. Attributes that its nodes pass on (see `attribute`) are its own.

    Args:
        name: what the model calls it.
        inputs: made by `input`; they need no types.
        outputs: what it gives, perhaps by names.
        domain: the domain of its name, which is not one of ONNX's.
        doc: a description for readers.

    Raises:
        ArgumentError: an input or output is none, or the domain is ONNX's.

    >>> from tensorkeep.models.building import attribute, input, node
    >>> x = input("x")
    >>> scaled = node("Sigmoid", x) * node("Constant", value_float=attribute("beta", "float", 1.0))
    >>> swish = function("Swish", [x], [scaled])
    >>> swish(input("y", "float32", [4]), beta=2.0)
    <Swish: of a type that is not known>
    """
    check_name(name, "a function")
    check_name(domain, "the domain of a function")
    if domain.startswith("ai.onnx"):
        raise ArgumentError(f"the domain {domain} is ONNX's own", cure="Give another domain=....")
    formals = check_formals(inputs, f"the function {name}")
    names, symbols = check_outputs(outputs, f"the function {name}")
    return Function(name, domain, formals, symbols, names, _references(name, symbols), doc)


def _references(name: str, outputs: tuple[Symbol, ...]) -> dict[str, Reference]:
    """Find the attributes that nodes in a function pass on."""
    found: dict[str, Reference] = {}
    seen: set[Node] = set()
    left = list(outputs)
    while left:
        origin = left.pop().origin
        if not isinstance(origin, Node) or origin in seen:
            continue
        seen.add(origin)
        left.extend(symbol for symbol in origin.inputs if symbol is not None)
        for each in origin.attributes:
            if isinstance(each.value, Reference):
                first = found.setdefault(each.value.name, each.value)
                if first != each.value:
                    raise ArgumentError(
                        f"the function {name} has two attributes called {first.name!r}"
                    )
            for inner in each.bodies():
                left.extend(inner.outputs)
    return dict(sorted(found.items()))


__all__ = ["LOCAL", "Function", "Type", "function"]
