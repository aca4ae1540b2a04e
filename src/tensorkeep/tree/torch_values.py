"""Values of torch's that are not tensors: element types, devices and sizes.

Torch is never imported for them, so they come back as torch's own only where it already is.
"""

from __future__ import annotations

import re
import sys
from typing import Any

# A device's index is a signed byte to torch, which takes larger ones for others.
_TEXTS = {
    "dtype": re.compile(r"[a-z][a-z0-9_]{0,31}"),
    "device": re.compile(r"[a-z][a-z0-9_]{0,31}(:([0-9]|[1-9][0-9]|1[01][0-9]|12[0-7]))?"),
}


def describe(value: Any) -> tuple[str, str | list[int]] | None:
    """Give the kind of a value of torch's and what tells it; None for anything else.

    >>> describe("float32")
    """
    kind = type(value)
    if kind is _torchs("Size"):
        return ("size", list(value)) if _is_size(list(value)) else None
    for name, pattern in _TEXTS.items():
        if kind is _torchs(name):
            text = str(value).removeprefix("torch.")
            return (name, text) if pattern.fullmatch(text) else None
    return None


def build(kind: str, told: Any) -> Any:
    """Give a value of torch's; text, or a tuple, where torch is not imported or knows it not.

    Raises:
        ValueError: it is not what `describe` gives.

    >>> build("dtype", "float1024")
    'float1024'
    """
    if kind == "size" and _is_size(told):
        return (_torchs("Size") or tuple)(told)
    if kind not in _TEXTS or type(told) is not str or not _TEXTS[kind].fullmatch(told):
        raise ValueError(f"it holds what is no size, dtype or device of torch: {kind!r:.40}")
    return _dtype(told) if kind == "dtype" else _device(told)


def _dtype(name: str) -> Any:
    found = _torchs(name)
    return found if type(found) is _torchs("dtype") else name


def _device(text: str) -> Any:
    device = _torchs("device")
    try:
        return text if device is None else device(text)
    except RuntimeError:  # a backend that this torch was built without
        return text


def _torchs(name: str) -> Any:
    """Give what torch calls so; None where it does not, or is not imported."""
    # Not by getattr, which would run code of torch's that imports more of it.
    return getattr(sys.modules.get("torch"), "__dict__", {}).get(name)


def _is_size(told: Any) -> bool:
    return type(told) is list and all(type(n) is int and -(2**63) <= n < 2**63 for n in told)
