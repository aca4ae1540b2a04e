"""The task of converting an item, and the plan of which target each of many gets."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from tensorkeep import formats
from tensorkeep.bulk.items import Item, is_url, modified
from tensorkeep.convert import conversion
from tensorkeep.errors import ArgumentError
from tensorkeep.formats.table import endings
from tensorkeep.hidden import failed_write
from tensorkeep.state import Json
from tensorkeep.stores.object.addresses import parse_address

_SPLIT = re.compile(r"-00001-of-[0-9]{5}$")


def plan(items: Iterable[Item], folder: str, to: str) -> list[Item]:
    """Give each item a target in a folder (or below an URL): its name, with another ending.

    Items that lie in that folder themselves are left out: an earlier run has put them there.

    Raises:
        ArgumentError: two items would have one target, or one is its own; or the format or the
            address is not written to.

    >>> plan([Item("in/a/x.npz", "a/x.npz")], "out", "safetensors")[0].target
    'out/a/x.safetensors'
    """
    chosen = formats.by_name(to)
    if to not in formats.WRITTEN:
        problem = f"{to} is read only"
        raise ArgumentError(problem, cure=f"Use one of {', '.join(formats.WRITTEN)}.")
    if is_url(folder) and parse_address(folder).http:
        problem = "is read over HTTP, which cannot be written to"
        raise ArgumentError(problem, where=folder, cure="Give a bucket (s3://...) or a folder.")
    base = folder.rstrip("/") or "/"
    home = _place(base)
    planned: dict[str, Item] = {}
    taken: dict[str, Item] = {}
    for item in items:
        place = _place(item.where)
        root = _place(item.where.removesuffix(item.name) or ".")  # where it was found from
        if f"{place}/".startswith(f"{home}/") and not f"{root}/".startswith(f"{home}/"):
            continue
        name = (item.name or posixpath.basename(item.where.rstrip("/"))).lstrip("/")
        target = posixpath.join(base, bare(name) + chosen.suffixes[0])
        other = taken.get(_place(target))
        if other is not None:
            raise ArgumentError(
                f"would be the target of both {other.where} and {item.where}",
                where=target,
                cure="Rename one, or convert them to different folders.",
            )
        taken[_place(target)] = item
        planned[place] = replace(item, target=target)
    for target, item in taken.items():
        if target in planned:
            raise ArgumentError(
                f"would be replaced by what {item.where} is converted to",
                where=planned[target].where,
                cure="Give another folder.",
            )
    return list(planned.values())


def bare(name: str) -> str:
    """Take the ending off a name.

    >>> bare("a/model.safetensors.index.json"), bare("m-00001-of-00002.gguf"), bare("step-00000100")
    ('a/model', 'm', 'step-00000100')
    """
    lower = name.lower()
    fitting = [suffix for suffix, _ in endings() if lower.endswith(suffix)]
    stem = name[: -len(max(fitting, key=len))] if fitting else name
    stem = _SPLIT.sub("", stem) if lower.endswith(".gguf") else stem
    return stem if posixpath.basename(stem) else name


def convert(item: Item, *, to: str, force: bool = False, **options: Any) -> dict[str, Json]:
    """Convert an item to its target, unless that is newer than its source already.

    Args:
        item: what to read, and its target.
        to: the format to write.
        force: replace the target whatever is there.
        options: what `tensorkeep.convert` takes.

    Returns:
        "target", "format", "tensors", "bytes", "lost" (sentences); "skipped" where it was up to
        date.

    Raises:
        ArgumentError: an older target is there.
        LossError: the target cannot hold everything.

    >>> import tempfile, numpy as np, tensorkeep as tk
    >>> path = f"{tempfile.mkdtemp()}/a"
    >>> tk.save({"w": np.ones(3)}, f"{path}.safetensors")
    >>> item = Item(f"{path}.safetensors", target=f"{path}.npz")
    >>> convert(item, to="npz")["bytes"], convert(item, to="npz")["skipped"]
    (24, 'its target is up to date')
    """
    if not force and (written := modified(item.target)) is not None:
        if written >= (modified(item.where) or 0.0):
            return {"skipped": "its target is up to date", "target": item.target}
        raise ArgumentError(
            "is there already, and older than its source",
            where=item.target,
            cure="Replace it by --force.",
        )
    if not is_url(item.target):
        try:
            os.makedirs(os.path.dirname(item.target) or ".", exist_ok=True)
        except (OSError, ValueError) as error:
            raise failed_write(error, item.target) from error
    files, lost, _ = conversion(item.where, item.target, format=to, **options)
    return {
        "target": item.target,
        "format": to,
        "tensors": sum(file.tensors for file in files),
        "bytes": sum(file.nbytes for file in files),
        "lost": list(lost),
    }


def _place(path: str) -> str:
    return path.rstrip("/") if is_url(path) else os.path.realpath(path)
