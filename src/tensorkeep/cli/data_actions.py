"""What `tensorkeep data` does: info, verify, head, convert."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tensorkeep import dtypes
from tensorkeep.cli.progress import progress
from tensorkeep.cli.terminal import (
    bold,
    clean,
    fail,
    problem_of,
    red,
    say,
    say_json,
    several,
    shorten,
    size,
    table,
)
from tensorkeep.data.dataset import Dataset, Field, Sample
from tensorkeep.data.sources import open as open_dataset
from tensorkeep.data.sources.joined import JoinedDataset
from tensorkeep.data.writing import write
from tensorkeep.data.writing.manifest import INDEX
from tensorkeep.errors import ArgumentError, CorruptError, TensorKeepError
from tensorkeep.statistics import statistics

_SHOWN = 20  # damaged samples, or shards, to name
_WHOLE = 8  # elements that head shows one by one
_JSON_VALUES = 10_000
_TEXT = 60
_UNKNOWN = 1 << 16  # bytes that a sample is taken to have where they differ
_INDEXES = (".index.safetensors", INDEX)

Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks for."""

    paths: list[str]
    count: int
    fields: list[str] | None
    shard_samples: int | None
    shard_size: str | None
    resume: bool
    lossy: bool
    force: bool
    as_json: bool


# --- info ---------------------------------------------------------------------------------------


def info(asked: Asked) -> int:
    """Say what each is, without reading samples."""
    return _each(asked, _info_one)


def _each(asked: Asked, one: Callable[[Asked, str], dict[str, Any]]) -> int:
    """Do something with every file; one that cannot be read keeps none of the others back."""
    files: list[dict[str, Any]] = []
    for path in asked.paths:
        if not asked.as_json and any("error" not in file for file in files):
            say()
        try:
            files.append(one(asked, path))
        except TensorKeepError as error:
            fail(error)
            files.append({"path": path, "error": problem_of(error)})
    if asked.as_json:
        say_json({"files": files})
    return 2 if any("error" in file for file in files) else 0


def _info_one(asked: Asked, path: str) -> dict[str, Any]:
    with open_dataset(path) as dataset:
        described = _describe(path, dataset)
        if not asked.as_json:
            _say_info(described, dataset)
    return described


def _describe(path: str, dataset: Dataset) -> dict[str, Any]:
    sample = dataset.nbytes
    return {
        "path": path,
        "kind": dataset.kind,
        "samples": len(dataset),
        "fields": {
            name: {
                "dtype": field.dtype or None,
                "shape": None if field.shape is None else list(field.shape),
            }
            for name, field in dataset.fields.items()
        },
        "sample_bytes": sample,
        "bytes": None if sample is None else sample * len(dataset),
        "stored": _stored(path, dataset),
        "digest": dataset.digest,
        "shards": _shards(dataset),
        "index": _index(path),
    }


def _files(path: str) -> list[str]:
    if os.path.isdir(path):
        inner = (os.path.join(folder, n) for folder, _, names in os.walk(path) for n in names)
        return [file for file in inner if os.path.isfile(file)]
    return [path] if os.path.isfile(path) else []


def _stored(path: str, dataset: Dataset) -> int | None:
    """Count the bytes on the disk; None for what lies elsewhere."""
    places = [shard["path"] for shard in _shards(dataset)] or [path]
    files = [file for place in places for file in _files(place)]
    return sum(map(os.path.getsize, files)) if files else None


def _index(path: str) -> str | None:
    """Say which index lies beside the data: that of its samples, or that of its shards."""
    beside = (path + ending for ending in _INDEXES)
    return next((file for file in beside if os.path.isfile(file)), None)


def _shards(dataset: Dataset) -> list[dict[str, Any]]:
    parts = dataset.parts if isinstance(dataset, JoinedDataset) else []
    return [{"path": part.where, "samples": part.count} for part in parts]


def _say_info(found: dict[str, Any], dataset: Dataset) -> None:
    counted = several(found["samples"], "sample")
    say(f"{bold(clean(found['path']))}: {clean(found['kind'])}, {counted}")
    say()
    if dataset.fields:
        rows = [
            (clean(name), field.dtype or "any", _shape(field), _size_of(field))
            for name, field in dataset.fields.items()
        ]
        table(("FIELD", "DTYPE", "SHAPE", "SIZE"), rows, right=("SIZE",))
        say()
    facts = {
        "a sample": "of any size" if found["sample_bytes"] is None else size(found["sample_bytes"]),
        "in all": "" if found["bytes"] is None else size(found["bytes"]),
        "on the disk": "" if found["stored"] is None else size(found["stored"]),
        "digest": found["digest"],
        "index": clean(found["index"] or ""),
    }
    for name, fact in facts.items():
        if fact:
            say(f"{name:<12} {fact}")
    if shards := found["shards"]:
        say(f"{'shards':<12} {len(shards):,}")
        for shard in shards[:_SHOWN]:
            say(f"  {clean(shard['path'])}  {several(shard['samples'], 'sample')}")
        if len(shards) > _SHOWN:
            say(f"  and {len(shards) - _SHOWN:,} more")


def _shape(field: Field) -> str:
    return "any" if field.shape is None else str(field.shape)


def _size_of(field: Field) -> str:
    return "any" if field.nbytes is None else size(field.nbytes)


# --- verify -------------------------------------------------------------------------------------


def verify(asked: Asked) -> int:
    """Read everything, and name what is damaged."""
    files = [_verify_one(asked, path) for path in asked.paths]
    if asked.as_json:
        say_json({"ok": all(file["ok"] for file in files), "files": files})
    if any(not file["ok"] and not _unreadable(file) for file in files):
        return 1
    return 2 if any(map(_unreadable, files)) else 0


def _unreadable(file: dict[str, Any]) -> bool:
    return "error" in file and file["error"]["kind"] != CorruptError.__name__


def _verify_one(asked: Asked, path: str) -> dict[str, Any]:
    try:
        with open_dataset(path, fields=asked.fields) as dataset, progress("verifying") as report:
            damaged = _damage(dataset, report)
            kind, count = dataset.kind, len(dataset)
    except TensorKeepError as error:
        if not isinstance(error, CorruptError):
            fail(error)
        elif not asked.as_json:
            say(f"{red('DAMAGED')}  {clean(str(error))}")
        return {"path": path, "ok": False, "error": problem_of(error)}
    if not asked.as_json:
        _say_verified(path, several(count, "sample"), damaged)
    return {"path": path, "ok": not damaged, "kind": kind, "samples": count, "damaged": damaged}


def _damage(dataset: Dataset, report: Report | None) -> list[str]:
    if report is None:
        return dataset.verify()
    each = dataset.nbytes or _UNKNOWN
    return dataset.verify(lambda done, total: report(done * each, total * each))


def _say_verified(path: str, total: str, damaged: list[str]) -> None:
    where = clean(path)
    if not damaged:
        say(f"ok       {where}: {total} can be read")
        return
    say(f"{red('DAMAGED')}  {where}: {len(damaged):,} of {total}")
    for sentence in damaged[:_SHOWN]:
        say(f"         {clean(sentence)}")
    if len(damaged) > _SHOWN:
        say(f"         and {len(damaged) - _SHOWN:,} more")


# --- head ---------------------------------------------------------------------------------------


def head(asked: Asked) -> int:
    """Show the first samples."""
    return _each(asked, _head_one)


def _head_one(asked: Asked, path: str) -> dict[str, Any]:
    with open_dataset(path, fields=asked.fields) as dataset:
        kind, count = dataset.kind, len(dataset)
        if not asked.as_json:
            say(f"{bold(clean(path))}: {clean(kind)}, {several(count, 'sample')}")
        shown = []
        for row in range(min(asked.count, count)):
            name, sample = dataset.name(row), dataset[row]
            if asked.as_json:
                shown.append({"name": name, "fields": {n: _value(v) for n, v in sample.items()}})
            else:
                say(f"\n{bold(clean(name))}")
                _say_sample(sample)
    return {"path": path, "kind": kind, "samples": count, "head": shown}


def _say_sample(sample: Sample) -> None:
    names = [clean(name) for name in sample]
    widest = max(map(len, names), default=0)
    for name, value in zip(names, sample.values(), strict=True):
        say(f"  {name.ljust(widest)}  {_shown(value)}")


def _shown(value: Any) -> str:
    """Say a value in a line: small arrays whole, of large ones the range, text cut short."""
    if isinstance(value, str):
        return f"text  {shorten(repr(value), _TEXT)}"
    if isinstance(value, bytes):
        return f"{several(len(value), 'byte')}  {shorten(repr(value[:_TEXT]), _TEXT)}"
    array = np.asarray(value)
    kind = f"{_kind(array)}  {array.shape}"
    if array.size <= _WHOLE or array.dtype == object:
        return f"{kind}  {shorten(str(array.tolist()))}"
    numbers = statistics(array, dtypes.dtype(array.dtype))
    facts = (f"{name} {numbers[name]:.6g}" for name in ("min", "max", "mean") if name in numbers)
    return f"{kind}  {'  '.join(facts)}".rstrip()


def _kind(array: np.ndarray[Any, Any]) -> str:
    return "text" if array.dtype == object else dtypes.dtype(array.dtype).name


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, str | bytes):
        kind = "string" if isinstance(value, str) else "bytes"
        whole = len(value) <= _JSON_VALUES
        return {"dtype": kind, "shape": [], "values": value if whole else None}
    array = np.asarray(value)
    told = {
        "dtype": "string" if array.dtype == object else _kind(array),
        "shape": list(array.shape),
        "values": array.tolist() if array.size <= _JSON_VALUES else None,
    }
    if array.size and array.dtype != object:
        numbers = statistics(array, dtypes.dtype(array.dtype))
        told |= {name: numbers[name] for name in ("min", "max", "mean") if name in numbers}
    return told


# --- convert ------------------------------------------------------------------------------------


def convert(asked: Asked) -> int:
    """Write the samples of one form in another."""
    source, target = asked.paths
    if not asked.force and not asked.resume:
        _refuse_existing(target)
    with open_dataset(source, fields=asked.fields) as dataset:
        each = dataset.nbytes or _UNKNOWN
        with progress("converting") as report:

            def tell(done: int, total: int) -> None:
                if report is not None:
                    report(done * each, total * each)

            options: dict[str, Any] = {"lossy": True} if asked.lossy else {}
            written = write(
                dataset,
                target,
                shard_samples=asked.shard_samples,
                shard_size=asked.shard_size,
                resume=asked.resume,
                progress=tell,
                **options,
            )
    if asked.as_json:
        say_json({"source": source, "target": target, **asdict(written)})
        return 0
    told = f"{several(written.samples, 'sample')}, {size(written.bytes)}"
    if len(written.files) > 1:
        told += f", in {len(written.files):,} files"
    if written.skipped:
        told += f"; {written.skipped:,} of them were there"
    say(f"{clean(target)}: {told}")
    return 0


def _refuse_existing(target: str) -> None:
    for path in (target, target + INDEX):
        if os.path.lexists(path):
            raise ArgumentError("is there already", where=path, cure="Replace it with --force.")
