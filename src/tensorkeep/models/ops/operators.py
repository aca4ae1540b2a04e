"""Operator: what is known of one, as data that does not change."""

from __future__ import annotations

from dataclasses import dataclass

Value = None | int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]

ONNX = ""  # the domain that onnx also spells ai.onnx
OURS = "tensorkeep.ops"  # the domain of the functions that stand for operators which ONNX lacks


@dataclass(frozen=True, slots=True)
class Parameter:
    """An input or output: its name, its type or the label of one, and how often it is there.

    `kind` is "single", "optional" or "variadic"; those that are many are `uniform` where all are of
    one type.
    """

    name: str
    type: str = ""
    kind: str = "single"
    uniform: bool = True

    def __str__(self) -> str:
        return {"optional": f"{self.name}?", "variadic": f"{self.name}..."}.get(
            self.kind, self.name
        )


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute: its name, the kind of its value, whether it has to be given, its default."""

    name: str
    type: str = ""
    required: bool = False
    default: Value = None

    def __str__(self) -> str:
        if self.required:
            return f"{self.name}: {self.type}"
        kind = f": {self.type}" if self.type else ""
        return f"{self.name}{kind} = {'none' if self.default is None else self.default}"


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator of ONNX, or a name that is taken for one.

    Attributes:
        name: its op_type.
        domain: "" for ONNX's own; for what ONNX lacks, that of the function standing for it.
        versions: the opsets at which its contract changed; none for what ONNX lacks.
        deprecated: those of the versions that say not to use it any more.
        has_function: whether it is defined by other operators.
        inputs, outputs, attributes: those of the newest version.
        types: what the labels of types stand for.
        kind: "standard", or what a name that ONNX lacks is: "removed-experimental", "ort-contrib",
            "ort-training", "popart", "caffe2", "caffe2-detectron", "tensorflow",
            "framework-alias" or "fictional".
        what: where such a name comes from, in a sentence.
        caffe2, nnef: the names for the same thing there, and what differs.
        nearest: what is nearest to it in ONNX.
        remark: what to know before using it.
        lowest_opset: the opset that the function standing for it needs.
    """

    name: str
    domain: str
    versions: tuple[int, ...]
    deprecated: tuple[int, ...]
    has_function: bool
    inputs: tuple[Parameter, ...]
    outputs: tuple[Parameter, ...]
    attributes: tuple[Attribute, ...]
    types: tuple[tuple[str, tuple[str, ...]], ...] = ()
    kind: str = "standard"
    what: str = ""
    caffe2: tuple[str, ...] = ()
    caffe2_note: str = ""
    nnef: tuple[str, ...] = ()
    nnef_note: str = ""
    nearest: tuple[str, ...] = ()
    remark: str = ""
    lowest_opset: int | None = None

    @property
    def standard(self) -> bool:
        """Whether it is an operator of ONNX."""
        return self.kind == "standard"

    @property
    def deprecated_at(self) -> int | None:
        """The opset from which on it is not to be used, if there is one."""
        newest = self.versions[-1] if self.versions else None
        return newest if newest in self.deprecated else None

    @property
    def signature(self) -> str:
        """Its name, inputs and outputs, as a line.

        >>> from tensorkeep.models import ops
        >>> ops.operator("Conv").signature
        'Conv(X, W, B?) -> Y'
        """
        inputs = ", ".join(map(str, self.inputs))
        outputs = ", ".join(map(str, self.outputs)) or "nothing"
        return f"{self.name}({inputs}) -> {outputs}"
