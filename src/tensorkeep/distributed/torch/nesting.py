"""How a state dict nests, as PyTorch's planners tell it and as a checkpoint's skeleton does.

A planner flattens a nesting to names: `{"model": {"w": ...}}` to `model.w`, with the path
`("model", "w")`. Mappings are taken apart, lists where there are mappings or tensors in them, and
nothing else. The skeleton of the checkpoint is that nesting, so that the paths need no place of
their own in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tensorkeep.errors import CorruptError, UnsupportedError
from tensorkeep.state import Json
from tensorkeep.tree import unflatten

Path = tuple[str | int, ...]
Paths = Mapping[str, Path]

WHOLE = "whole"  # in the skeleton: the top-level entries were not taken apart
_MAPPINGS = ("$dict", "$ordereddict", "$defaultdict", "$counter")
_MAX_ITEMS = 1 << 20


@dataclass(frozen=True, slots=True)
class Leaf:
    """A node of a skeleton that stands for one value of the planner's."""

    node: Json


def name_of(path: Path) -> str:
    """Give the name that planners make of a path."""
    return ".".join(map(str, path))


def paths_of(planner_data: Any, names: list[str]) -> dict[str, Path]:
    """Take the paths out of what a planner keeps with a plan; the names alone where it keeps none.

    Raises:
        UnsupportedError: it keeps something else.

    >>> paths_of({"model.w": ("model", "w")}, ["model.w"]), paths_of(None, ["w"])
    ({'model.w': ('model', 'w')}, {'w': ('w',)})
    """
    if planner_data is None:
        return {name: (name,) for name in names}
    wanted = set(names)
    try:
        found = {name: tuple(planner_data[name]) for name in planner_data if name in wanted}
        plain = all(type(part) in (str, int) for path in found.values() for part in path)
        if plain and len(found) == len(names) and all(found.values()):
            return found
    except (TypeError, KeyError):
        pass
    raise UnsupportedError(
        "the planner keeps data of its own with the plan, which is not kept",
        cure="Use a planner whose planner_data is None, or the paths of a flattened state dict.",
    )


def nest(paths: Paths, nodes: Mapping[str, Json]) -> Json:
    """Build the tree of a skeleton: tensors at the paths of their names, `nodes` at theirs.

    >>> nest({"model.w": ("model", "w"), "lr.0": ("lr", 0)}, {"lr.0": 0.1})
    {'model': {'w': '$'}, 'lr': [0.1]}
    """
    root: dict[str, Any] = {}
    for name, path in paths.items():
        own: Json = "$" if name == name_of(path) else f"$:{name}"
        _set(root, path, Leaf(nodes.get(name, own)))
    return _encode(root)


def _set(root: Any, path: Path, leaf: Leaf) -> None:
    here: Any = root
    part: Any
    for part, following in zip(path, [*path[1:], None], strict=True):
        if isinstance(here, list):
            if not isinstance(part, int) or not 0 <= part < _MAX_ITEMS:
                raise UnsupportedError("lies in a list at no number", where=name_of(path))
            here.extend([Leaf(None)] * (part + 1 - len(here)))
        elif not isinstance(here, dict):
            raise UnsupportedError("lies below another value", where=name_of(path))
        if following is None:
            here[part] = leaf
            return
        there = here[part] if isinstance(here, list) else here.get(part)
        if there is None or (isinstance(there, Leaf) and there.node is None):
            there = here[part] = [] if isinstance(following, int) else {}
        here = there


def _encode(value: Any) -> Json:
    if isinstance(value, Leaf):
        return value.node
    if isinstance(value, list):
        return [_encode(child) for child in value]
    rows = {str(key): _encode(child) for key, child in value.items()}
    if any(key.startswith("$") for key in rows):
        return {"$dict": [[f"${k}" if k[:1] == "$" else k, child] for k, child in rows.items()]}
    return rows


def leaves(tree: Json, *, whole: bool = False) -> Iterator[tuple[Path, Json]]:
    """Walk a skeleton's tree as planners walk a state dict: each value's path and node.

    Args:
        tree: of the skeleton.
        whole: give the top-level entries as they are.

    >>> list(leaves({"model": {"w": "$"}, "groups": [{"lr": 0.1, "betas": [0.9, 0.99]}]}))
    [(('model', 'w'), '$'), (('groups', 0, 'lr'), 0.1), (('groups', 0, 'betas'), [0.9, 0.99])]
    """
    rows = _pairs(tree)
    if rows is None:
        return
    for key, child in rows:
        if whole:
            yield (key,), child
        else:
            yield from _walk((key,), child)


def _walk(path: Path, node: Json) -> Iterator[tuple[Path, Json]]:
    rows = _pairs(node)
    if rows is not None:
        for key, child in rows:
            yield from _walk((*path, key), child)
    elif isinstance(node, list) and not _is_terminal(node):
        for i, child in enumerate(node):
            yield from _walk((*path, i), child)
    else:
        yield path, node


def _is_terminal(items: list[Json]) -> bool:
    for item in items:
        if is_tensor(item) or _pairs(item) is not None:
            return False
        if isinstance(item, list) and not _is_terminal(item):
            return False
    return True


def _pairs(node: Json) -> list[tuple[str, Json]] | None:
    """Give the entries of a node that is a mapping, keys as text."""
    if not isinstance(node, dict):
        return None
    tag = next(iter(node), "")
    if not tag.startswith("$"):
        return list(node.items())
    rows = node[tag]
    if tag not in _MAPPINGS or not isinstance(rows, list):
        return None
    pairs = [(row[0], row[1]) for row in rows if isinstance(row, list) and len(row) == 2]
    return [(_key(key), child) for key, child in pairs]


def _key(node: Json) -> str:
    if isinstance(node, str):
        return node.removeprefix("$")
    return str(unflatten({"tree": node}, {}, _no_tensor, "a key"))


def _no_tensor(name: str, framework: str, numpy: str) -> Any:
    raise CorruptError(f"a key is the tensor {name!r}")


def is_tensor(node: Json) -> bool:
    """Say whether a node is a tensor of the usual framework."""
    return isinstance(node, str) and node.startswith("$") and not node.startswith("$$")


def tensor_name(node: Json, path: Path) -> str:
    """Give the name of the tensor that a node at a path stands for."""
    return name_of(path) if node == "$" else str(node).removeprefix("$:")


def wrapped(path: Path, node: Json) -> Json:
    """Give the tree that holds one node at its path, so that its tensors find their names."""
    inner: Any = Leaf(node)
    for part in reversed(path):
        inner = {str(part): inner}
    return _encode(inner)
