"""Checkpoints beside the one that is copied, which may have files in common with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tensorkeep.copying.content import Content, listed
from tensorkeep.errors import TensorKeepError
from tensorkeep.formats.safetensors.manifest import read_manifest
from tensorkeep.store import Location


def shareable(
    name: str, parent: str | None, names: Iterable[str], folder_of: Callable[[str], Location]
) -> dict[Content, Location]:
    """Find files of tensors that a checkpoint may have in common with others of its run.

    Args:
        name: the checkpoint that is copied.
        parent: the one that its manifest names as such.
        names: of the folders beside it.
        folder_of: gives one of them.
    """
    found: dict[Content, Location] = {}
    for other in _near(name, parent, names):
        folder = folder_of(other)
        try:
            manifest = read_manifest(folder)
        except TensorKeepError:
            continue
        for file, content in listed(manifest).items():
            if file.endswith(".safetensors"):
                found.setdefault(content, Location(folder.store, manifest.key(file)))
    return found


def _near(name: str, parent: str | None, names: Iterable[str]) -> list[str]:
    """Choose the parent, the one before and the one after."""
    steps = sorted((n for n in names if n.startswith("step-")), key=lambda n: (len(n), n))
    lower = [n for n in steps if (len(n), n) < (len(name), name)]
    upper = [n for n in steps if (len(n), n) > (len(name), name)]
    return list(dict.fromkeys([*(n for n in steps if n == parent), *lower[-1:], *upper[:1]]))
