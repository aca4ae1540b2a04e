"""Which element types operators take and give, by the versions that a model uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tensorkeep.dtypes import DType
from tensorkeep.message import Message
from tensorkeep.models.ops import Parameter
from tensorkeep.models.ops.history import Version, version_at

# How operators name element types.
_NAMES = {"float32": "float"}


class Operators:
    """The operators of a model, in the versions that it uses."""

    def __init__(self, opsets: Mapping[str, int], model: Message) -> None:
        self._opsets = opsets
        self._functions = {(row.domain, row.name) for row in model.functions}

    def knows(self, node: Message) -> bool:
        """Whether a node's operator is one of ONNX."""
        return self._version(node) is not None

    def takes(self, node: Message, dtype: DType) -> Callable[[int], bool]:
        """Give what says whether a node takes a type as its input of some place."""
        version = self._version(node)
        return _allows(version, version.inputs if version else (), dtype)

    def gives(self, node: Message, dtype: DType) -> Callable[[int], bool]:
        """Give what says whether a node gives a type as its output of some place."""
        version = self._version(node)
        return _allows(version, version.outputs if version else (), dtype)

    def says(self, node: Message, dtype: DType) -> bool:
        """Whether an attribute of a node may name a type for its first output."""
        return self.gives(node, dtype)(0)

    def _version(self, node: Message) -> Version | None:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (domain, node.op_type) in self._functions or domain not in self._opsets:
            return None
        return version_at(domain, node.op_type, self._opsets[domain])


def _allows(
    version: Version | None, parameters: tuple[Parameter, ...], dtype: DType
) -> Callable[[int], bool]:
    name = _NAMES.get(dtype.name, dtype.name)
    # Operators that take sequences take those of the tensors that they take.
    wanted = {
        name,
        f"seq(tensor({name}))",
        f"optional(tensor({name}))",
        f"optional(seq(tensor({name})))",
    }

    def allows(place: int) -> bool:
        if version is None or not parameters:
            return False
        parameter = parameters[min(place, len(parameters) - 1)]
        return not wanted.isdisjoint(version.allowed(parameter))

    return allows
