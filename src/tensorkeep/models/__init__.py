"""Models: check, run, edit, build and translate them, look into their operators.

Each name is imported when it is first asked for, so that a program pays for what it uses.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tensorkeep.models import ops
    from tensorkeep.models.building import (
        Body,
        Function,
        Reference,
        Sparse,
        Symbol,
        Type,
        attribute,
        body,
        function,
        initializer,
        input,
        map_of,
        model,
        node,
        optional,
        sequence,
        tensor,
    )
    from tensorkeep.models.checking import check
    from tensorkeep.models.checks.findings import Finding
    from tensorkeep.models.describing import metadata, set_metadata
    from tensorkeep.models.editing import (
        attach,
        batch,
        cast,
        convert_opset,
        cut,
        expose,
        merge,
        rename,
        strip,
    )
    from tensorkeep.models.exchange.comparing import Agreement, compare
    from tensorkeep.models.exchange.translating import Translated, translate
    from tensorkeep.models.fixing import fix
    from tensorkeep.models.ops import expand
    from tensorkeep.models.running import Session, run, session
    from tensorkeep.models.shapes import infer_shapes

_NAMES = {
    "building": (
        *("Body", "Function", "Reference", "Sparse", "Symbol", "Type", "attribute", "body"),
        *("function", "initializer", "input", "map_of", "model", "node", "optional", "sequence"),
        "tensor",
    ),
    "checking": ("check",),
    "checks.findings": ("Finding",),
    "describing": ("metadata", "set_metadata"),
    "editing": (
        *("attach", "batch", "cast", "convert_opset", "cut", "expose", "merge", "rename", "strip"),
    ),
    "exchange.comparing": ("Agreement", "compare"),
    "exchange.translating": ("Translated", "translate"),
    "fixing": ("fix",),
    "ops": ("expand",),
    "running": ("Session", "run", "session"),
    "shapes": ("infer_shapes",),
}
_PLACES = {name: place for place, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "ops":
        return import_module(f"{__name__}.ops")
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "Agreement",
    "Body",
    "Finding",
    "Function",
    "Reference",
    "Session",
    "Sparse",
    "Symbol",
    "Translated",
    "Type",
    "attach",
    "attribute",
    "batch",
    "body",
    "cast",
    "check",
    "compare",
    "convert_opset",
    "cut",
    "expand",
    "expose",
    "fix",
    "function",
    "infer_shapes",
    "initializer",
    "input",
    "map_of",
    "merge",
    "metadata",
    "model",
    "node",
    "ops",
    "optional",
    "rename",
    "run",
    "sequence",
    "session",
    "set_metadata",
    "strip",
    "tensor",
    "translate",
]
