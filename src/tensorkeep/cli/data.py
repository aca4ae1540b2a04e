"""`tensorkeep data`: look at training data, read it all, show its first samples, convert it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from tensorkeep.cli.data_actions import Asked, convert, head, info, verify
from tensorkeep.cli.terminal import JsonOption
from tensorkeep.errors import ArgumentError

_HEAD = 5  # samples
_ACTIONS: dict[str, Callable[[Asked], int]] = {
    "info": info,
    "verify": verify,
    "head": head,
    "convert": convert,
}
_TAKES: dict[str, set[str]] = {
    "info": set(),
    "verify": {"--fields"},
    "head": {"--fields", "-n"},
    "convert": {"--fields", "--shard-samples", "--shard-size", "--resume", "--lossy", "--force"},
}
_USAGE = "Use info FILE..., verify FILE..., head FILE..., or convert SOURCE TARGET."


def data(
    action: Annotated[str, typer.Argument(metavar="ACTION", help="info, verify, head or convert.")],
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Data: a file, a database, a folder of images, or 'train-*.tar' in quotes.",
        ),
    ],
    count: Annotated[
        int | None,
        typer.Option("-n", metavar="N", min=0, help="How many samples head shows; 5 otherwise."),
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option("--fields", metavar="NAME", help="Read only these fields; repeatable."),
    ] = None,
    shard_samples: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="convert: several files, of so many samples each."),
    ] = None,
    shard_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="convert: several files, each up to a size as 500MB."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="convert: go on behind the files that are whole.")
    ] = False,
    lossy: Annotated[
        bool,
        typer.Option(
            "--lossy", help="convert: go on where arrays cannot hold it, as bytes in .npz."
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="convert: replace the target if it is there.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Look at training data, verify it, show its first samples, or convert it.

    info says what it is, and reads no samples. verify reads every byte, and names the samples that
    are damaged. head shows samples: small arrays whole, of large ones their range. convert writes
    the samples of one file in the form that the ending of another tells: .lmdb, .tar, .minidb, ...

    Exits with 1 if anything is damaged.

    With --json: info gives {"files": [{"path", "kind", "samples", "fields": {NAME: {"dtype",
    "shape"}}, "sample_bytes", "bytes", "stored", "digest", "shards": [{"path", "samples"}],
    "index"}]}, with null for what is not known before reading; verify {"ok", "files": [{"path",
    "ok", "kind", "samples", "damaged": [SENTENCE]}]}; head {"files": [{"path", "kind", "samples",
    "head": [{"name", "fields": {NAME: {"dtype", "shape", "values", "min", "max", "mean"}}}]}]},
    values being null where there are more than 10,000; convert {"source", "target", "samples",
    "files", "bytes", "skipped"}. A file that cannot be read has "error" in place of the rest.
    """
    given = {
        "-n": count is not None,
        "--fields": bool(fields),
        "--shard-samples": shard_samples is not None,
        "--shard-size": shard_size is not None,
        "--resume": resume,
        "--lossy": lossy,
        "--force": force,
    }
    _check_usage(action, paths, {name for name, value in given.items() if value})
    names = [name for each in fields or () for name in each.split(",") if name]
    return _ACTIONS[action](
        Asked(
            paths=paths,
            count=_HEAD if count is None else count,
            fields=names or None,
            shard_samples=shard_samples,
            shard_size=shard_size,
            resume=resume,
            lossy=lossy,
            force=force,
            as_json=as_json,
        )
    )


def _check_usage(action: str, paths: list[str], given: set[str]) -> None:
    if action not in _TAKES:
        raise ArgumentError(f"there is no action {action!r}", cure=_USAGE)
    if stray := sorted(given - _TAKES[action]):
        fitting = [name for name, takes in _TAKES.items() if stray[0] in takes]
        raise ArgumentError(
            f"{action} takes no {stray[0]}", cure=f"{stray[0]} is for {' and '.join(fitting)}."
        )
    if action == "convert" and len(paths) != 2:
        raise ArgumentError(
            f"convert takes a source and a target, not {len(paths)} paths",
            cure="Write several sources as one in quotes, such as 'train-*.tar'.",
        )
