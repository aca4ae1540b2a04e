"""The verb: write."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from tensorkeep.data.writing.kinds import kind_of, make_writer
from tensorkeep.data.writing.manifest import INDEX, Manifest, is_manifest
from tensorkeep.data.writing.records import Given, open_records
from tensorkeep.data.writing.shards import Series, paths, size_on_disk
from tensorkeep.data.writing.writer import File, Packed, Writer
from tensorkeep.errors import ArgumentError, StoreError, UnsupportedError
from tensorkeep.stores import is_url
from tensorkeep.wire.sizes import size_of
from tensorkeep.wire.text import dump_json

# Called with the samples done so far and all that there are, 0 where nobody knows.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Written:
    """What a dataset consists of once it is written.

    Args:
        samples: how many it has.
        files: the paths of its files, or of the folders of its databases.
        bytes: what they take.
        skipped: how many of the samples were there before.
    """

    samples: int
    files: tuple[str, ...]
    bytes: int
    skipped: int = 0


def write(
    records: Given,
    target: str | os.PathLike[str],
    *,
    format: str | None = None,
    shard_samples: int | None = None,
    shard_size: int | str | None = None,
    resume: bool = False,
    durable: bool = True,
    progress: Progress | None = None,
    **options: Any,
) -> Written:
    """Write samples: to a database, a .tar as WebDataset has it, or a file of arrays.

    A file appears whole or not at all: a failure, a full disk or a kill leaves what was there. In
    several files, the dataset appears with its index, `train.tar.index.json`, when all are there;
    with `resume` a write that was killed goes on behind the shards that it has finished.

    Args:
        records: dicts, one for each sample: from an iterable, a dataset, a list; or a dict of
            arrays that are equally long; or a function that is given how many samples to leave
            out. They are taken one at a time and not kept.
        target: a path; its ending tells the format: .lmdb, .leveldb, .rocksdb, .sqlite and .minidb
            (databases of Caffe2's TensorProtos), .tar, or any that `tensorkeep.save` writes.
        format: the format, where the name does not tell.
        shard_samples: start another file after this many samples.
        shard_size: start another file before one has more than this many bytes of samples, such
            as "256MB".
        resume: go on with what was begun, by the same arguments.
        durable: return only once it is on the disk, safe from a power cut.
        progress: called with the samples done and the total, 0 where nobody knows it.
        options: what the format takes: `map_size` for LMDB, `endings={"image": "jpg"}` for bytes
            in a .tar, or what `tensorkeep.save` takes.

    Raises:
        UnsupportedError: a sample cannot be kept; the message names it and its field.
        LossError: the format cannot hold what the first sample has.
        StoreError: the disk is full or failed, or something else has the name.
        MissingError: the folder does not exist; with `resume`, a shard is gone.
        CorruptError: with `resume`, what was begun is damaged.
        ArgumentError: an unknown format or option, no samples, or with `resume` other arguments
            than before.

    >>> import tempfile, numpy as np
    >>> path = f"{tempfile.mkdtemp()}/train.tar"
    >>> images = ({"image": np.full((2, 2), i, "uint8"), "label": i} for i in range(5))
    >>> done = write(images, path, shard_samples=2)
    >>> done.samples, [os.path.basename(file) for file in done.files]
    (5, ['train-00000.tar', 'train-00001.tar', 'train-00002.tar'])
    """
    path = _path(target)
    kind = kind_of(path, format)
    limit = size_of(shard_size)
    _check_count(shard_samples)
    if progress is not None and not callable(progress):
        raise ArgumentError(
            f"progress has to be a function, not {type(progress).__name__}",
            cure="It is called with the samples done and the total.",
        )
    if shard_samples is None and limit is None:
        if resume:
            raise ArgumentError(
                "one file appears whole or not at all, so there is nothing to resume",
                cure="Say shard_samples or shard_size as well.",
            )
        writer = make_writer(kind, {}, durable=durable, options=options)
        return _write_one(records, path, writer, progress)
    asked = Manifest(kind, shard_samples=shard_samples, shard_size=limit, options=_plain(options))
    return _write_shards(records, path, asked, resume, durable, progress)


def _path(target: str | os.PathLike[str]) -> str:
    try:
        path = os.fsdecode(target).rstrip("/")
    except TypeError:
        raise ArgumentError(
            f"samples are written to a path, not to a {type(target).__name__}",
            cure='Give it as text, such as "train.tar".',
        ) from None
    if not path or "\0" in path:
        raise ArgumentError(f"{path!r} is not a path", cure="Give the name of a file or folder.")
    if is_url(path):
        raise ArgumentError(
            "training data is written to a disk alone",
            where=path,
            cure="Give a path, and send it there with `tensorkeep copy`.",
        )
    return path


def _check_count(shard_samples: object) -> None:
    if shard_samples is not None and (type(shard_samples) is not int or shard_samples < 1):
        raise ArgumentError(
            f"shard_samples is a number of samples, not {shard_samples!r}", cure="Give 1 or more."
        )


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Check that options can be written down, for a later resume to be compared with."""
    kept = {name: dict(v) if isinstance(v, Mapping) else v for name, v in options.items()}
    try:
        dump_json(kept)
    except UnsupportedError as error:
        raise ArgumentError(f"the options {error.problem}", cure="Give numbers and text.") from None
    return kept


def _write_one(records: Given, path: str, writer: Writer, progress: Progress | None) -> Written:
    if os.path.lexists(path + INDEX) and is_manifest(path + INDEX):
        raise StoreError(
            "is a dataset in several files, which this one would hide",
            where=path + INDEX,
            cure="Remove it and its shards first, or give another name.",
        )
    samples, total = open_records(records, 0)
    done = 0
    with ExitStack() as held:
        file: File | None = None
        for packed in _pack(samples, 0, writer):
            if file is None:
                file = held.enter_context(writer.begin(path))
            file.add(packed)
            done += 1
            if progress is not None:
                progress(done, total)
        if file is None:
            raise _nothing(path)
        file.finish()
    return Written(done, (path,), size_on_disk(path))


def _write_shards(
    records: Given,
    path: str,
    asked: Manifest,
    resume: bool,
    durable: bool,
    progress: Progress | None,
) -> Written:
    series = Series(path, durable=durable)
    if resume and (there := series.finished()) is not None:
        _check_same(there, asked, series.index)
        _check_total(records, there.samples, series.index)
        return Written(there.samples, paths(path, there), there.nbytes, there.samples)
    begun = series.resumed() if resume else None
    if begun is not None:
        _check_same(begun, asked, path)
    skipped = begun.samples if begun is not None else 0
    fields = begun.fields if begun is not None else {}
    writer = make_writer(asked.format, fields, durable=durable, options=asked.options)
    samples, total = open_records(records, skipped)
    whole = _Whole(series, asked, begun, writer)
    with whole:
        for done, packed in enumerate(_pack(samples, skipped, writer), skipped + 1):
            whole.add(packed)
            if progress is not None:
                progress(done, total)
        manifest = whole.finish()
    return Written(manifest.samples, paths(path, manifest), manifest.nbytes, skipped)


class _Whole:
    """A dataset in several files while it is written."""

    def __init__(
        self, series: Series, asked: Manifest, begun: Manifest | None, writer: Writer
    ) -> None:
        self._series = series
        self._asked = asked
        self._manifest = begun
        self._writer = writer
        self._file: File | None = None
        self._path = ""
        self._samples = self._size = 0

    def add(self, packed: Packed) -> None:
        """Take a sample, in another file where the last one is full."""
        most, limit = self._asked.shard_samples, self._asked.shard_size
        if self._samples == most or (limit is not None and self._size + packed.size > limit):
            self._end()
        if self._file is None:
            if self._manifest is None:
                self._manifest = self._series.begin(self._asked)
            self._path = self._series.path(self._manifest, len(self._manifest.shards))
            self._file = self._writer.begin(self._path)
        self._file.add(packed)
        self._samples += 1
        self._size += packed.size

    def _end(self) -> None:
        if self._file is None or self._manifest is None:
            return
        with self._file as file:
            file.finish()
        self._file = None
        known = replace(self._manifest, fields=dict(self._writer.fields.known))
        self._manifest = self._series.add(known, self._path, self._samples)
        self._samples = self._size = 0

    def finish(self) -> Manifest:
        """Finish the last file, and let the dataset appear."""
        self._end()
        if self._manifest is None or not self._manifest.shards:
            raise _nothing(self._series.target)
        return self._series.finish(self._manifest)

    def __enter__(self) -> None:
        """Begin nothing yet: the first sample does."""

    def __exit__(self, *raised: object) -> None:
        if self._file is not None:
            self._file.close()


def _pack(samples: Iterator[Mapping[str, Any]], start: int, writer: Writer) -> Iterator[Packed]:
    for number, sample in enumerate(samples, start):
        yield writer.pack(number, sample)


def _check_same(there: Manifest, asked: Manifest, where: str) -> None:
    for name in ("format", "shard_samples", "shard_size", "options"):
        before, now = getattr(there, name), getattr(asked, name)
        if before != now:
            raise ArgumentError(
                f"was begun with {name}={before!r}, and is to go on with {now!r}",
                where=where,
                cure="Give the same arguments, or write anew without resume.",
            )


def _check_total(records: Given, samples: int, where: str) -> None:
    """Refuse to take a finished dataset for that of other records."""
    if isinstance(records, Mapping):
        total = open_records(records, 0)[1]
    else:
        total = len(records) if isinstance(records, Sized) else samples
    if total != samples:
        raise ArgumentError(
            f"was finished with {samples:,} samples, and records have {total:,}",
            where=where,
            cure="Write it anew without resume, or under another name.",
        )


def _nothing(where: str) -> ArgumentError:
    return ArgumentError(
        "records have no samples, so nobody knows what fields there are",
        where=where,
        cure="Give at least one sample.",
    )
