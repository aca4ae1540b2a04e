"""Where in a store each tensor of a state goes, and what of that has to be noted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tensorkeep.dtypes import STRING, UINT8, DType
from tensorkeep.formats.zarr.hierarchy import ATTRIBUTES, ROOTS
from tensorkeep.notes import KEY
from tensorkeep.state import Json, State
from tensorkeep.tensor import Tensor
from tensorkeep.tree import ROOT
from tensorkeep.tree.leaves import mapping, skeleton_of

Path = tuple[str, ...]

_NAME = "name"
_LONGEST = 200  # bytes of a file's name
_LONGEST_PATH = 2000  # bytes; systems take 4096, the folder's own path included


@dataclass(frozen=True, slots=True)
class Node:
    """An array: the name of its tensor, its path, what is kept, and what that was instead of."""

    name: str
    path: str
    tensor: Tensor
    was: tuple[DType, tuple[int, ...]] | None
    attributes: dict[str, Any]


class Layout:
    """The groups and arrays that a state becomes.

    Dicts become groups. A tensor whose name, or whose dict's, no file should have is called
    `tensor-N`, with its name noted in the array's attributes.
    """

    def __init__(self, state: State) -> None:
        skeleton = state.skeleton or {}
        tree = skeleton.get("tree")
        self.alone = _leaf(tree) and set(state) == {ROOT}
        self.groups: list[str] = []
        self.nodes: list[Node] = []
        wanted = {} if self.alone else dict(_paths(tree, ()))
        empty = [] if self.alone else [path for path in _groups(tree, ()) if path]
        taken: dict[Path, str] = {}  # by the path of each array
        groups: dict[Path, None] = {}
        for name in state:
            path = () if self.alone else wanted.get(name, (name,))
            above = [path[:depth] for depth in range(1, len(path))]
            if (
                not _is_path(path)
                or path in taken
                or path in groups
                or any(group in taken for group in above)
            ):
                path, above = (self._spare(state, taken, groups),), []
            taken[path] = name
            groups |= dict.fromkeys(above)
            self.nodes.append(_node(name, path, state[name]))
        for path in empty:
            if _is_path(path) and not any(
                path[:depth] in taken for depth in range(1, len(path) + 1)
            ):
                groups |= {path[:depth]: None for depth in range(1, len(path) + 1)}
        self.groups = ["/".join(path) for path in sorted(groups, key=len)]
        self.strange = any(_is_strange(node.tensor) for node in self.nodes)
        self.noted = self._noted(state, taken, groups)

    def _spare(self, state: State, taken: dict[Path, str], groups: dict[Path, None]) -> str:
        number = len(taken)
        while True:
            name = f"tensor-{number}"
            if (name,) not in taken and (name,) not in groups and name not in state:
                return name
            number += 1

    def _noted(
        self, state: State, taken: dict[Path, str], groups: dict[Path, None]
    ) -> dict[str, Json] | None:
        """Give what of the skeleton has to be noted: nothing where reading finds it by itself."""
        skeleton = state.skeleton or {}
        if self.alone:
            found: Json = "$"
        else:
            nesting: dict[str, Any] = {}
            for path, name in taken.items():
                node = nesting
                for part in path[:-1]:
                    node = node.setdefault(part, _Branch())
                node[path[-1]] = "$" if ".".join(path) == name else f"$:{name}"
            for path in groups:
                node = nesting
                for part in path:
                    node = node.setdefault(part, _Branch())
            found = _tree(nesting)
        if (state.skeleton or None) == skeleton_of(found):
            return None
        if "tree" in skeleton or skeleton_of(found) is None:
            return skeleton
        return {**skeleton, "tree": mapping((name, f"$:{name}") for name in state)}


class _Branch(dict[str, Any]):
    """A group."""


def _tree(nesting: dict[str, Any]) -> Json:
    return mapping((k, _tree(v) if isinstance(v, _Branch) else v) for k, v in nesting.items())


def _node(name: str, path: Path, tensor: Tensor) -> Node:
    attributes: dict[str, Any] = {}
    if path and ".".join(path) != name:
        attributes = {KEY: {_NAME: name}}
    was = None
    if tensor.dtype is STRING and not _is_text(tensor):
        was = tensor.dtype, tensor.shape
        tensor = Tensor(UINT8, (tensor.nbytes,), tensor.source, tensor.offset)
    return Node(name, "/".join(path), tensor, was, attributes)


def _is_strange(tensor: Tensor) -> bool:
    """Say whether an element type is none that zarr-python knows."""
    return tensor.dtype is not STRING and tensor.dtype.numpy.isbuiltin != 1


def _is_text(tensor: Tensor) -> bool:
    try:
        for text in tensor.numpy().reshape(-1).tolist():
            text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _leaf(tree: Any) -> bool:
    if isinstance(tree, dict) and "$array" in tree:
        tree = tree["$array"]
    return isinstance(tree, str) and tree in ("$", f"$:{ROOT}")


def _paths(tree: Any, path: Path) -> Iterator[tuple[str, Path]]:
    """Give the names of tensors with their paths, where nothing but dicts lies around them."""
    if _leaf(tree):
        yield ".".join(path), path
    elif _is_dict(tree):
        for key, child in tree.items():
            yield from _paths(child, (*path, key))


def _groups(tree: Any, path: Path) -> Iterator[Path]:
    if _is_dict(tree):
        yield path
        for key, child in tree.items():
            yield from _groups(child, (*path, key))


def _is_dict(tree: Any) -> bool:
    return isinstance(tree, dict) and not next(iter(tree), "").startswith("$")


def _is_path(path: Path) -> bool:
    return all(map(_is_file_name, path)) and len("/".join(path).encode()) <= _LONGEST_PATH


def _is_file_name(part: str) -> bool:
    """Say whether a file, and a node of zarr's, can be called so everywhere."""
    return (
        part.isprintable()
        and not part.startswith((".", "__"))
        and not set(part) & set('/\\:*?"<>|')
        and part not in ("", ATTRIBUTES, *ROOTS)
        and len(part.encode()) <= _LONGEST
    )
