"""Names of tensors and paths of datasets: `encoder.0.weight` is `weight` in the group `encoder/0`.

A dot in the name of a dataset or group stays as it is, so `a/b` and `a.b` could both be `a.b`: then
both are called by their whole path, slashes included. Writing, a name that cannot be cut at its
dots (two in a row, or `a.b` beside `a`) is the name of one dataset in the root. What reading would
make another name of is listed in an attribute of the root, by path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from urllib.parse import quote

_MAX_LEVELS = 32
_QUOTED = "tensorkeep-name:"


def names_of(paths: Iterable[str]) -> dict[str, str]:
    """Give the name of each path's tensor.

    >>> names_of(["a/w", "a.b/w", "a/b.w"])
    {'a/w': 'a.w', 'a.b/w': 'a.b/w', 'a/b.w': 'a/b.w'}
    """
    plain = {path: path.replace("/", ".") for path in paths}
    count = Counter(plain.values())
    return {path: name if count[name] == 1 else path for path, name in plain.items()}


def paths_of(names: Iterable[str]) -> dict[str, str]:
    """Give the path that each name's tensor is stored at.

    >>> paths_of(["a.w", "b", "b.c", "x/y:0", ""])
    {'a.w': 'a/w', 'b': 'b', 'b.c': 'b.c', 'x/y:0': 'x/y:0', '': 'tensorkeep-name:'}
    """
    listed = list(names)
    taken: set[str] = set()
    groups: set[str] = set()
    found: dict[str, str] = {}
    # Names without groups first: they are what others have to stand beside.
    for name in sorted(listed, key=lambda name: (name.count(".") + name.count("/"), name)):
        for path in (name.replace(".", "/"), name, _QUOTED + quote(name, safe="")):
            above = _above(path)
            if _is_path(path) and path not in taken | groups and taken.isdisjoint(above):
                break
        found[name] = path
        taken.add(path)
        groups.update(above)
    return {name: found[name] for name in listed}


def renamed(names: Iterable[str], paths: dict[str, str]) -> dict[str, str]:
    """List by path the names that reading would not find by itself."""
    default = names_of(paths.values())
    return {paths[name]: name for name in names if default[paths[name]] != name}


def _is_path(path: str) -> bool:
    parts = path.split("/")
    return len(parts) <= _MAX_LEVELS and all(part not in ("", ".", "..") for part in parts)


def _above(path: str) -> list[str]:
    """List the groups that hold a path."""
    return [path[:at] for at, letter in enumerate(path) if letter == "/"]
