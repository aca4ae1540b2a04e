"""`tensorkeep convert`: other formats, names, layouts; several files as one, one as several."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from inspect import signature
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tensorkeep import api, mapping, models
from tensorkeep.cli.bulk import FromOption, JobsOption, JournalOption, OnOption, is_folder_target
from tensorkeep.cli.dialects import (
    WeightsOption,
    describe_remarks,
    parse_constants,
    parse_shapes,
    say_remarks,
)
from tensorkeep.cli.progress import progress
from tensorkeep.cli.terminal import JsonOption, clean, say, say_json, several, size
from tensorkeep.convert import File, conversion
from tensorkeep.errors import ArgumentError

if TYPE_CHECKING:  # which imports all that runs a model
    from tensorkeep.models import Agreement


def convert(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE... TARGET",
            help="What to read, several being merged, and what to write; "
            "its ending tells the format. With --jobs and the like, each by itself, into a folder.",
        ),
    ],
    to: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help="The format, where the ending does not tell."),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--include", "--names", metavar="GLOB", help="Only tensors that match; repeatable."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Leave out tensors that match; repeatable."),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN=NEW",
            help="Give tensors other names, such as 'model.*=*'; repeatable, in order.",
        ),
    ] = None,
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FILE",
            help="Names and layouts by the rules of a file, or of "
            f"{', '.join(mapping.known_maps())}; repeatable, in order, after --rename.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="DTYPE", help="Cast floats to this type, such as float16."),
    ] = None,
    prefix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Put NAME. before the names of a source; one for each of them."
        ),
    ] = None,
    split: Annotated[
        bool,
        typer.Option(
            "--split",
            help="Write a file for each first part of the names, {} in TARGET standing for it.",
        ),
    ] = False,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=1,3,224,224",
            help="The shape of a model's input, where its axes are open; repeatable.",
        ),
    ] = None,
    constant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBERS|FILE[:TENSOR]",
            help="Fix an input of a model that is translated; repeatable.",
        ),
    ] = None,
    weights: WeightsOption = None,
    check: Annotated[
        str | None,
        typer.Option(
            metavar="DATA|random",
            help="Run the model before and after on these inputs, and tell how far they differ.",
        ),
    ] = None,
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
    jobs: JobsOption = None,
    on: OnOption = None,
    journal: JournalOption = None,
    from_file: FromOption = None,
    as_json: JsonOption = False,
) -> int:
    """Convert a file to another format, or several into one, or many one by one.

    A model goes from one dialect (ONNX, NNEF, Caffe2's nets) to another whole. Nothing is lost
    unless --lossy allows it; what is lost is then listed.

    With --json: {"source", "target", "format", "tensors", "bytes",
    "lost": [SENTENCE], "files": [{"target", "format", "tensors", "bytes"}],
    "remarks": [{"kind", "name", "text"}], of a translated model,
    "check": [{"output", "largest", "relative", "shape"}] or null}. The exit code is 1 where the
    check finds outputs that differ by more than 1e-4 of their largest value.
    """
    if jobs is not None or on or journal or from_file or is_folder_target(paths[-1], to):
        from tensorkeep.cli.convert_many import convert_many

        alone = {"--prefix": prefix, "--split": split, "--check": check, "--constant": constant}
        given_alone = [name for name, value in {**alone, "--weights": weights}.items() if value]
        return convert_many(
            paths,
            to,
            {
                **_options_of(option, checksums, max_shard_size),
                "names": names or None,
                "exclude": exclude or None,
                "rename": list(map(parse_renaming, rename or [])),
                "maps": maps or None,
                "dtype": dtype,
                "shapes": parse_shapes(shape) or None,
                "lossy": lossy,
                "durable": durable,
            },
            stray=given_alone,
            force=force,
            how={"jobs": jobs, "on": on, "journal": journal},
            source=from_file,
            as_json=as_json,
        )
    if len(paths) < 2:
        raise ArgumentError("there is no target", cure="Give what to read, and then what to write.")
    *sources, target = paths
    options = _options_of(option, checksums, max_shard_size)
    given: dict[str, Any] = {
        "shapes": parse_shapes(shape) or None,
        "constants": parse_constants(constant) or None,
        "weights": weights,
    }
    with progress("converting") as report:
        converted = conversion(
            _prefixed(sources, prefix or []),
            target,
            format=to,
            names=names or None,
            exclude=exclude or None,
            rename=list(map(parse_renaming, rename or [])),
            maps=maps or None,
            dtype=dtype,
            split=split,
            **given,
            replace=force,
            lossy=lossy,
            durable=durable,
            progress=report,
            **options,
        )
    files, lost, remarks = converted
    found = None if check is None else _check(sources, target, files, check, given)
    code = int(found is not None and any(_differs(each) for each in found))
    if as_json:
        say_json(
            {
                "source": sources[0] if len(sources) == 1 else sources,
                "target": target,
                "format": files[0].format if files else None,
                "tensors": sum(file.tensors for file in files),
                "bytes": sum(file.nbytes for file in files),
                "lost": lost,
                "files": [
                    {
                        "target": file.where,
                        "format": file.format,
                        "tensors": file.tensors,
                        "bytes": file.nbytes,
                    }
                    for file in files
                ],
                "remarks": describe_remarks(remarks),
                "check": None if found is None else [each._asdict() for each in found],
            }
        )
        return code
    for file in files:
        shown = clean(file.where if split else target)
        say(f"{shown}: {file.format}, {several(file.tensors, 'tensor')}, {size(file.nbytes)}")
    say_remarks(remarks)
    for sentence in lost:
        say(f"lost: {clean(sentence)}")
    for each in found or ():
        apart = f"{each.largest:.3g} ({each.relative:.2g} of its largest value)"
        say(f"check: {clean(each.output)}{list(each.shape)} differs by at most {apart}")
    return code


def _options_of(
    option: list[str] | None, checksums: bool, max_shard_size: str | None
) -> dict[str, Any]:
    options = parse_options(option)
    if not checksums:
        options["checksums"] = False
    if max_shard_size is not None:
        options["max_shard_size"] = max_shard_size
    return options


_MOST_APART = 1e-4


def _differs(found: Agreement) -> bool:
    return not found.relative <= _MOST_APART


def _check(
    sources: list[str], target: str, files: list[File], data: str, given: dict[str, Any]
) -> list[Agreement]:
    """Run what was read and what was written on the same data."""
    if len(sources) > 1 or len(files) != 1:
        raise ArgumentError("--check compares one model with one")
    constants = given.pop("constants")
    with ExitStack() as stack:
        before = stack.enter_context(models.translate(sources[0], "onnx", **given).state)
        after = stack.enter_context(models.translate(target, "onnx").state)
        inputs: Any = data if data == "random" else stack.enter_context(api.open(data))
        return models.compare(before, after, inputs, constants=constants)


def _prefixed(sources: list[str], prefixes: list[str]) -> str | list[str] | dict[str, str]:
    if not prefixes:
        return sources[0] if len(sources) == 1 else sources
    if len(prefixes) != len(sources) or len(set(prefixes)) != len(prefixes):
        raise ArgumentError(
            f"--prefix is given {len(set(prefixes))} times for {several(len(sources), 'file')}",
            cure="Give it once for each file, in their order, each another.",
        )
    return dict(zip(prefixes, sources, strict=True))


def parse_renaming(text: str) -> tuple[str, str]:
    """Split PATTERN=NEW at its last equals sign."""
    pattern, equals, new = text.rpartition("=")
    if not (pattern and equals):
        raise ArgumentError(f"the renaming {text!r} is not PATTERN=NEW")
    return pattern, new


def parse_options(given: Sequence[str] | None) -> dict[str, Any]:
    """Read the options of a format, NAME=VALUE several times.

    Raises:
        ArgumentError: one is no such pair, or is no format's.
    """
    options = dict(map(parse_option, given or ()))
    for name in options:
        if name in _OURS:
            raise ArgumentError(f"{name!r} is no option of a format", cure="See --help.")
    return options


_OURS = signature(conversion).parameters.keys() | signature(api.save).parameters.keys()


def parse_option(text: str) -> tuple[str, Any]:
    """Split NAME=VALUE; a value that is JSON, such as a number or true, is taken for that."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ArgumentError(f"the option {text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
