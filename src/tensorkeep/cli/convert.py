"""`tensorkeep convert`: from one format to another."""

from __future__ import annotations

import contextlib
import json
from typing import Annotated, Any

import typer

from tensorkeep import api, formats
from tensorkeep.cli.progress import progress
from tensorkeep.cli.terminal import JsonOption, NamesOption, clean, say, say_json, several, size
from tensorkeep.database import Database
from tensorkeep.errors import ArgumentError, MissingError
from tensorkeep.store import Location
from tensorkeep.stores import locate


def convert(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="What to read.")],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="What to write; its ending tells the format.")
    ],
    to: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help="The format, where the ending does not tell."),
    ] = None,
    names: NamesOption = None,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Go on where the target cannot hold everything.")
    ] = False,
    checksums: Annotated[
        bool, typer.Option("--checksums/--no-checksums", help="Keep a digest of every tensor.")
    ] = True,
    max_shard_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Split into files of at most this, such as 5GB."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            "-o",
            metavar="NAME=VALUE",
            help="An option of the format, such as plain=true; repeat it for several.",
        ),
    ] = None,
    durable: Annotated[
        bool,
        typer.Option("--durable/--no-durable", help="End only once it is safe from a power cut."),
    ] = True,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace the target if it is there.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Convert a file to another format.

    Nothing is lost unless --lossy allows it; what is lost is then listed.

    With --json: {"source", "target", "format", "tensors", "bytes",
    "lost": [SENTENCE]}.
    """
    location = locate(target)
    chosen = formats.by_name(to) if to else formats.for_writing(location)
    with api.open(source) as state:
        taken = [state[name] for name in (state.match(names) if names else state)]
    if not force:
        refuse_existing(location)
    options = dict(map(parse_option, option or []))
    if not checksums:
        options["checksums"] = False
    if max_shard_size is not None:
        options["max_shard_size"] = max_shard_size
    with progress("converting") as report:
        lost = api.convert(
            source,
            location,
            format=chosen.name,
            names=names,
            lossy=lossy,
            durable=durable,
            progress=report,
            **options,
        )
    total = sum(tensor.nbytes for tensor in taken)
    if as_json:
        say_json(
            {
                "source": source,
                "target": target,
                "format": chosen.name,
                "tensors": len(taken),
                "bytes": total,
                "lost": lost,
            }
        )
        return 0
    say(f"{clean(target)}: {chosen.name}, {several(len(taken), 'tensor')}, {size(total)}")
    for sentence in lost:
        say(f"lost: {clean(sentence)}")
    return 0


def parse_option(text: str) -> tuple[str, Any]:
    """Split NAME=VALUE; a value that is JSON, such as a number or true, is taken for that."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ArgumentError(f"the option {text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def refuse_existing(location: Location) -> None:
    """Refuse to replace what is there.

    Raises:
        ArgumentError: something is.
    """
    if isinstance(location.store, Database) and not location.key:
        with contextlib.suppress(MissingError):
            if next(iter(location.store.keys()), None) is not None:
                raise ArgumentError(
                    "is there already", where=location.where, cure="Replace it by --force."
                )
    if not location.key:
        return  # a folder, which saving refuses
    for key in (location.key, f"{location.key}.index.json"):  # the second, where it is in shards
        found = Location(location.store, key)
        with contextlib.suppress(MissingError):
            found.source.close()
            raise ArgumentError(
                "is there already", where=found.where, cure="Replace it by --force."
            )
