"""Functions of standard operators that stand for what ONNX lacks, as the texts that they ship in.

    functions/NAME.onnxtxt              for nodes of ONNX's own domain, in the domain tensorkeep.ops
    functions/NAME.VARIANT.onnxtxt      a variant of it, which is its overload
    functions/DOMAIN/NAME.onnxtxt       for nodes of a vendor's domain, where its meaning differs

A text is a FunctionProto in ONNX's textual syntax. The opset that it imports is the lowest that its
body is right for; it is right for all later ones too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from tensorkeep.models.ops.operators import OURS, Attribute, Parameter, Value

_HEAD = re.compile(
    r'<domain: "(?P<domain>[^"]*)"(?:, overload: "(?P<overload>[^"]*)")?'
    r', opset_import: \["" : (?P<opset>\d+)\]>\s*'
    r"(?P<name>\w+)\s*(?:<(?P<attributes>[^>]*)>)?\s*"
    r"\((?P<inputs>[^)]*)\)\s*=>\s*\((?P<outputs>[^)]*)\)"
)
_REFERENCE = re.compile(r"(\w+): (\w+) = @(\w+)")
_CONSTANT = re.compile(r"Constant <\w+: \w+ = @(\w+)>")


@dataclass(frozen=True, slots=True)
class Function:
    """A function: who it stands for, the lowest opset it needs, its signature and its text."""

    name: str
    domain: str
    overload: str
    lowest_opset: int
    inputs: tuple[Parameter, ...]
    outputs: tuple[Parameter, ...]
    attributes: tuple[Attribute, ...]
    text: str


@cache
def functions() -> dict[tuple[str, str, str], Function]:
    """Give all functions by domain, name and overload.

    >>> functions()["tensorkeep.ops", "Erfc", ""].lowest_opset
    15
    """
    folder = files("tensorkeep.models.ops") / "functions"
    found = [
        _read(file.read_text(encoding="utf-8"))
        for entry in folder.iterdir()
        for file in (entry.iterdir() if entry.is_dir() else [entry])
        if file.name.endswith(".onnxtxt")
    ]
    found.sort(key=lambda function: (function.domain != OURS, function.name, function.overload))
    return {(each.domain, each.name, each.overload): each for each in found}


def variants(name: str, domain: str = OURS) -> tuple[str, ...]:
    """Give the overloads that a function has, "" being the default one.

    >>> variants("IdentityLoss")
    ('', 'none', 'sum')
    """
    return tuple(key[2] for key in functions() if key[:2] == (domain, name))


def _read(text: str) -> Function:
    head = _HEAD.match(text)
    assert head is not None, text[:200]
    body = text[head.end() :]
    optional = _optional(head["name"], head["domain"])
    inputs = (
        Parameter(n, "", "optional" if n in optional else "single") for n in _names(head["inputs"])
    )
    return Function(
        name=head["name"],
        domain=head["domain"],
        overload=head["overload"] or "",
        lowest_opset=int(head["opset"]),
        inputs=tuple(inputs),
        outputs=tuple(map(Parameter, _names(head["outputs"]))),
        attributes=tuple(_attributes(head["attributes"] or "", body)),
        text=text,
    )


def _names(listed: str) -> list[str]:
    return [name for name in map(str.strip, listed.split(",")) if name]


def _attributes(listed: str, body: str) -> list[Attribute]:
    kinds = {of: kind for _, kind, of in _REFERENCE.findall(body)}
    needed = set(_CONSTANT.findall(body))
    found = []
    for each in _names(listed):
        name, _, rest = each.partition(":")
        kind, _, text = (part.strip() for part in rest.partition("="))
        kind = kind or kinds.get(name, "string" if name == "reduction" else "")
        required = not text and (name in needed or (name == "kernel_shape" and "Pool" in body))
        found.append(Attribute(name, kind, required, _value(kind, text) if text else None))
    return found


def _value(kind: str, text: str) -> Value:
    match kind:
        case "int":
            return int(text)
        case "float":
            return float(text)
    return text.strip('"')


_OPTIONAL = {
    "QLinearAdd": ("A_zero_point", "B_zero_point", "C_zero_point"),
    "QLinearMul": ("A_zero_point", "B_zero_point", "C_zero_point"),
    "DynamicClip": ("min", "max"),
    "ConvTransposeWithDynamicPadding": ("B",),
    "Triu": ("k",),
    "Tril": ("k",),
}
_RECURRENT = ("B", "sequence_lens", "initial_h", "initial_c", "P")


def _optional(name: str, domain: str) -> tuple[str, ...]:
    if name in ("DynamicRNN", "DynamicGRU", "DynamicLSTM", "DynamicQuantizeLSTM"):
        return _RECURRENT
    if name == "DynamicSlice" and domain == OURS:
        return ("axes",)
    return _OPTIONAL.get(name, ())
