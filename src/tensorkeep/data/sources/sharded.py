"""Several files as one dataset: a list, a pattern of names, or a manifest that `write` made."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from tensorkeep import checksum
from tensorkeep.data.dataset import Dataset, Field
from tensorkeep.data.fingerprint import combine
from tensorkeep.data.sources.chosen import absolute, no_field
from tensorkeep.data.sources.joined import AT_ONCE, JoinedDataset, Part
from tensorkeep.data.writing.manifest import INDEX, PARTIAL, Manifest, is_manifest, read_manifest
from tensorkeep.dtypes import UINT8
from tensorkeep.errors import ArgumentError, MissingError, UnsupportedError
from tensorkeep.source import FileSource
from tensorkeep.tensor import Tensor

Open = Callable[[str, Sequence[str] | None], Dataset]

_RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")
_MOST = 100_000  # files that a pattern may mean
_MOST_BRACES = 100
_BESIDE = ".index.safetensors"  # an index that reading makes beside a file


def paths_of(pattern: str) -> list[str]:
    """List the files that a pattern means: `*`, `?`, `[...]`, `{00000..00009}`, `{train,extra}`.

    Those of a glob come sorted by name, those in braces in their order. What lies beside the data,
    such as indexes, is left out.

    Raises:
        MissingError: there is none.
        ArgumentError: there are more than 100 braces, or they mean more than 100,000 files.

    >>> paths_of("no-{8..10}.tar")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    tensorkeep.errors.MissingError: no-8.tar: there is no such file. 3 files are named ...
    """
    if pattern.count("{") > _MOST_BRACES:
        raise ArgumentError(f"has more than {_MOST_BRACES} braces", where=pattern[:80])
    named = list(itertools.islice(_expanded(pattern), _MOST + 1))
    if len(named) > _MOST:
        raise ArgumentError(f"means more than {_MOST:,} files", where=pattern)
    found: list[str] = []
    for name in named:
        if os.path.lexists(name):
            found.append(name)
        elif glob.has_magic(name):
            found += _data_among(sorted(glob.glob(name)))
        else:
            cure = f"{len(named)} files are named by {pattern!r}." if len(named) > 1 else ""
            raise MissingError("there is no such file", where=name, cure=cure)
    if not found:
        raise MissingError("no file is named so", where=pattern)
    return found


def is_pattern(path: str) -> bool:
    """Say whether a path that does not exist is a pattern.

    >>> is_pattern("train-{000..127}.tar"), is_pattern("train.tar")
    (True, False)
    """
    return bool(glob.has_magic(path) or _RANGE.search(path) or _CHOICE.search(path))


def _expanded(pattern: str) -> Iterator[str]:
    """Expand the braces of a pattern, the first of them slowest."""
    match = min(
        filter(None, (_RANGE.search(pattern), _CHOICE.search(pattern))),
        key=lambda found: found.start(),
        default=None,
    )
    if match is None:
        yield pattern
        return
    head, tail = pattern[: match.start()], pattern[match.end() :]
    for choice in _choices(match):
        for rest in _expanded(tail):
            yield head + choice + rest


def _choices(match: re.Match[str]) -> Iterator[str]:
    if match.re is _CHOICE:
        yield from match[1].split(",")
        return
    first, last = match[1], match[2]
    width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
    step = 1 if int(first) <= int(last) else -1
    for number in range(int(first), int(last) + step, step):
        yield f"{number:0{width}}"


def _data_among(paths: list[str]) -> list[str]:
    """Leave out hidden files, indexes of others, and manifests where their shards are there."""
    given = set(paths)
    kept = [
        path
        for path in paths
        if not (path.endswith(_BESIDE) and path.removesuffix(_BESIDE) in given)
        and not os.path.basename(path).startswith(".")
    ]
    shards = [path for path in kept if not path.endswith((INDEX, PARTIAL))]
    return shards or kept


def open_several(
    paths: Sequence[str], fields: Sequence[str] | None, open_one: Open, where: str = ""
) -> Dataset:
    """Open files as one dataset, in their order; a single one as it is.

    Raises:
        UnsupportedError: their fields differ.
    """
    if len(paths) == 1:
        return open_one(paths[0], fields)
    parts: list[Part] = []
    opened: dict[int, Dataset] = {}
    try:
        for number, path in enumerate(paths):
            dataset = open_one(path, fields)
            opener = partial(open_one, absolute(path), fields)
            parts.append(
                Part(opener, len(dataset), dataset.fields, dataset.where, block=dataset.block)
            )
            if number < AT_ONCE:
                opened[number] = dataset
            else:
                dataset.close()
        return JoinedDataset(
            parts,
            where=where,
            opened=opened,
            reopen=partial(open_several, list(map(absolute, paths)), fields, open_one, where),
        )
    except BaseException:
        for dataset in opened.values():
            dataset.close()
        raise


def manifest_of(path: str) -> str:
    """Give the manifest that a path is, or that stands for it where there is no such file; or "".

    A dataset `train.tar` in several files is `train.tar.index.json` and its shards.
    """
    if os.path.isfile(path):
        return path if path.endswith((INDEX, PARTIAL)) and is_manifest(path) else ""
    beside = path + INDEX
    if not os.path.lexists(path) and os.path.isfile(beside) and is_manifest(beside):
        return beside
    return ""


def open_manifest(path: str, fields: Sequence[str] | None, open_one: Open) -> Dataset:
    """Open a dataset in several files by its manifest; each file only when it is first read.

    Raises:
        CorruptError: the manifest is damaged, or a shard is not of the size that it says.
        MissingError: a shard, or a field, is not there.
        UnsupportedError: writing it has not been finished.
    """
    if path.endswith(PARTIAL):
        raise UnsupportedError(
            "writing this dataset was not finished",
            where=path,
            cure="Finish it with resume=True; its shards can be read one by one.",
        )
    manifest = read_manifest(path)
    if not manifest.shards:
        raise UnsupportedError("holds no samples", where=path)
    known = _chosen(manifest, fields, path)
    files = [shard.find(path) for shard in manifest.shards]
    first = open_one(files[0], fields)
    parts = [
        Part(
            partial(open_one, absolute(file), fields),
            shard.samples,
            known,
            file,
            digest=combine(shard.digest, *known) if shard.digest else "",
            block=first.block,
            check=partial(_damaged, absolute(file), shard.digest) if shard.digest else None,
        )
        for shard, file in zip(manifest.shards, files, strict=True)
    ]
    reopen = partial(open_manifest, absolute(path), fields, open_one)
    return JoinedDataset(parts, where=path, opened={0: first}, reopen=reopen)


def _chosen(manifest: Manifest, fields: Sequence[str] | None, where: str) -> dict[str, Field]:
    if fields is None or not manifest.fields:
        return dict(manifest.fields)
    for name in fields:
        if name not in manifest.fields:
            raise no_field(name, list(manifest.fields), where)
    return {name: manifest.fields[name] for name in fields}


def _damaged(path: str, digest: str) -> str:
    """Hash a shard; say how it differs from what was written, empty where it does not."""
    source = FileSource(path)
    try:
        found = checksum.digest(Tensor(UINT8, (source.size,), source))
    finally:
        source.close()
    return "" if found == digest else f"its XXH3-128 is {found}, {digest} was written"
