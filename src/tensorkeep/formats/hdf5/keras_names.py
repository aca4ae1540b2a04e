"""What variables of Keras are called here, and where in an HDF5 file they lie.

Keras 3 keeps the variables of each layer as `0`, `1`, ... in a group called `vars`, under a path of
attributes and class names that is the same for every instance of a model, unlike the layers' names:
`layers/dense_1/vars/0`. Here that is `layers.dense_1.vars.0`. A path with a dot in it keeps its
slashes. Before Keras 3 variables had names of their own, `dense/kernel:0`, which are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from tensorkeep.formats.hdf5.keras_detect import VARS

ASSETS = "assets/"  # files that a model brings along, as tensors of bytes
_NUMBERS = re.compile(r"(\d+)")


def name_of(path: str) -> str:
    """Give the name of the variable that lies at a path of a Keras 3 file.

    >>> name_of("layers/dense_1/vars/0"), name_of("layers/dense/vars/a.b")
    ('layers.dense_1.vars.0', 'layers/dense/vars/a.b')
    """
    return path if "." in path else path.replace("/", ".")


def path_of(name: str) -> str:
    """Give the path that a variable of a Keras 3 file lies at; empty where none has that name.

    >>> path_of("layers.dense_1.vars.0"), path_of("dense.kernel"), path_of("vars.0")
    ('layers/dense_1/vars/0', '', 'vars/0')
    """
    path = name if "/" in name else name.replace(".", "/")
    parts = path.split("/")
    good = len(parts) > 1 and parts[-2] == VARS and is_path(path) and name_of(path) == name
    return path if good else ""


def is_path(path: str) -> bool:
    """Say whether HDF5 keeps a path as it is: no part is empty or a dot."""
    return all(part not in ("", ".", "..") for part in path.split("/"))


def blocked(paths: Iterable[str]) -> str:
    """Find a path that another one needs as a group; empty where there is none.

    >>> blocked(["a/b", "a/b/c"]), blocked(["a/b", "a/c"])
    ('a/b', '')
    """
    taken = set(paths)
    for path in taken:
        at = path.find("/")
        while at >= 0:
            if path[:at] in taken:
                return path[:at]
            at = path.find("/", at + 1)
    return ""


def natural(path: str) -> list[tuple[int, int, str]]:
    """Give a key that sorts numbers in names as numbers.

    >>> sorted(["dense_10", "dense_9", "dense"], key=natural)
    ['dense', 'dense_9', 'dense_10']
    """
    parts = _NUMBERS.split(path)
    return [
        (0, int(p), p) if p.isdigit() and p.isascii() and len(p) < 19 else (1, 0, p) for p in parts
    ]


def layer_of(path: str, named: Mapping[str, str]) -> str:
    """Give the names that the layers around a variable have, outermost first.

    >>> layer_of("layers/sequential/layers/dense/vars/0",
    ...          {"layers/sequential": "inner", "layers/sequential/layers/dense": "deep"})
    'inner/deep'
    """
    parts = path.split("/")
    inside = ["/".join(parts[:count]) for count in range(1, len(parts) - 1)]
    return "/".join(named[group] for group in inside if group in named)
