"""What a version of an operator takes that its signature does not tell: values of attributes.

From the changelog of ONNX's operators (docs/Changelog.md of onnx 1.23).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tensorkeep.models.building.symbols import Symbol

SPLIT_COUNTS = 18  # the opset from which on Split has to be told how many parts it gives


class _Opsets(NamedTuple):
    """The opsets that know a value of an attribute."""

    first: int
    last: int | None = None


_VALUES: Mapping[tuple[str, str], Mapping[bytes, _Opsets]] = {
    ("GridSample", "mode"): {
        b"bilinear": _Opsets(16, 19),
        b"bicubic": _Opsets(16, 19),
        b"linear": _Opsets(20),
        b"cubic": _Opsets(20),
    },
    ("Pad", "mode"): {b"wrap": _Opsets(19)},
    ("Resize", "coordinate_transformation_mode"): {
        b"tf_half_pixel_for_nn": _Opsets(11, 12),
        b"half_pixel_symmetric": _Opsets(19),
    },
    ("ScatterElements", "reduction"): {b"min": _Opsets(18), b"max": _Opsets(18)},
    ("ScatterND", "reduction"): {b"min": _Opsets(18), b"max": _Opsets(18)},
}
_FLOAT_MOD = 28  # the first opset in which Mod takes the remainder of floats as Python does
_VOLUMES = 20  # the first in which GridSample takes volumes


def refused_value(
    op_type: str, since: int, values: Mapping[str, Any], symbols: tuple[Symbol | None, ...]
) -> str:
    """Say which value a version does not know; empty where it knows all.

    >>> refused_value("Pad", 13, {"mode": b"wrap"}, ())
    "knows no mode 'wrap' from opset 13 on"
    """
    for name, value in values.items():
        known = _VALUES.get((op_type, name), {}).get(value) if isinstance(value, bytes) else None
        if known and not known.first <= since <= (known.last or since):
            return f"knows no {name} {value.decode()!r} from opset {since} on"
    first = symbols[0] if symbols else None
    if first is None or first.type is None:
        return ""
    floats = first.dtype is not None and first.dtype.kind == "float"
    if op_type == "Mod" and since < _FLOAT_MOD and floats and not values.get("fmod"):
        return f"takes floats with fmod=1 alone from opset {since} on"
    if op_type == "GridSample" and since < _VOLUMES and len(first.axes or ()) > 4:
        return f"takes images alone from opset {since} on"
    return ""
