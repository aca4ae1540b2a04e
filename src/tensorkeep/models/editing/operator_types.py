"""Which element types operators take and give, by the type constraints of their schemas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from tensorkeep.dtypes import DType
from tensorkeep.message import Message
from tensorkeep.models.apart import INSTALL
from tensorkeep.optional import require

# How schemas name element types.
_NAMES = {"float32": "float"}


class Operators:
    """The schemas of a model's operators in the versions that it uses."""

    def __init__(self, opsets: Mapping[str, int], model: Message) -> None:
        self._defs = require("onnx.defs", "the types of operators are known by onnx", INSTALL)
        self._opsets = opsets
        self._functions = {(row.domain, row.name) for row in model.functions}
        self._known: dict[tuple[str, str], Any] = {}

    def knows(self, node: Message) -> bool:
        """Whether there is a schema of a node's operator."""
        return self._schema(node) is not None

    def takes(self, node: Message, dtype: DType) -> Callable[[int], bool]:
        """Give what says whether a node takes a type as its input of some place."""
        schema = self._schema(node)
        return _allows(schema.inputs if schema else [], dtype)

    def gives(self, node: Message, dtype: DType) -> Callable[[int], bool]:
        """Give what says whether a node gives a type as its output of some place."""
        schema = self._schema(node)
        return _allows(schema.outputs if schema else [], dtype)

    def says(self, node: Message, dtype: DType) -> bool:
        """Whether an attribute of a node may name a type for its first output."""
        return self.gives(node, dtype)(0)

    def _schema(self, node: Message) -> Any:
        domain = "" if node.domain == "ai.onnx" else node.domain
        key = (domain, node.op_type)
        if key not in self._known:
            self._known[key] = None
            if key not in self._functions and domain in self._opsets:
                with suppress(self._defs.SchemaError):
                    self._known[key] = self._defs.get_schema(
                        node.op_type, self._opsets[domain], domain
                    )
        return self._known[key]


def _allows(formals: Any, dtype: DType) -> Callable[[int], bool]:
    listed = list(formals)
    name = _NAMES.get(dtype.name, dtype.name)
    # Operators that take sequences take those of the tensors that they take.
    wanted = {
        f"{head}tensor({name}){tail}"
        for head, tail in (("", ""), ("seq(", ")"), ("optional(", ")"), ("optional(seq(", "))"))
    }

    def allows(place: int) -> bool:
        if not listed:
            return False
        formal = listed[min(place, len(listed) - 1)]
        return not wanted.isdisjoint(formal.types)

    return allows
