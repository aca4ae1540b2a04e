"""Numbers of bytes as people write them."""

from __future__ import annotations

import re

from tensorkeep.errors import ArgumentError

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}


def size_of(value: int | str | None) -> int | None:
    """Read a number of bytes such as "5GB" or "512MiB"; None stands for no limit.

    Raises:
        ArgumentError: it is no size.

    >>> size_of("1.5KB"), size_of("2 MiB")
    (1500, 2097152)
    """
    if value is None or (type(value) is int and value > 0):
        return value
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*([A-Za-z]*)", str(value).strip())
    size = int(float(match[1]) * _UNITS.get(match[2].upper(), 0)) if match else 0
    if type(value) is bool or not size:
        raise ArgumentError(f"{value!r} is not a size", cure='Use a number, or such as "5GB".')
    return size
