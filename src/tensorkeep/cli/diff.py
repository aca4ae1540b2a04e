"""`tensorkeep diff`: what differs between two files."""

from __future__ import annotations

from typing import Annotated

import typer

from tensorkeep.cli.progress import progress
from tensorkeep.cli.terminal import (
    JsonOption,
    NamesOption,
    bold,
    clean,
    say,
    say_json,
    several,
    shorten,
    table,
)
from tensorkeep.diff import Comparison, Difference
from tensorkeep.diff import diff as compare


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="The one file.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other file.")],
    rtol: Annotated[float, typer.Option(help="Tolerance relative to the value in B.")] = 0.0,
    atol: Annotated[float, typer.Option(help="Absolute tolerance.")] = 0.0,
    names: NamesOption = None,
    every: Annotated[bool, typer.Option("--all", help="List equal tensors too.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Compare two files, of any formats.

    Exits with 1 if they differ. Values are the same where |A - B| <= atol + rtol * |B|, or both
    are NaN.

    With --json: {"equal", "a", "b", "only_in_a": [NAME], "only_in_b": [NAME],
    "values": [{"place", "a", "b"}], "tensors": [{"name", "equal", "identical",
    "dtypes", "shapes", "elements", "differing", "max_absolute",
    "max_absolute_at", "max_relative", "max_relative_at"}]}, with the tensors
    that both have; infinite numbers are the text "inf".
    """
    with progress("comparing") as report:
        found = compare(a, b, rtol=rtol, atol=atol, names=names, progress=report)
    if as_json:
        say_json(_describe(found))
    else:
        _say(a, b, found, every)
    return 0 if found.equal else 1


def _say(a: str, b: str, found: Difference, every: bool) -> None:
    for path, names in ((a, found.only_in_a), (b, found.only_in_b)):
        if names:
            say(bold(f"Only in {clean(path)}"))
            for name in names:
                say(f"  {clean(name)}")
            say()
    if found.values:
        say(bold("Values"))
        for change in found.values:
            say(f"  {clean(change.place)}: {shorten(change.a)} | {shorten(change.b)}")
        say()
    unequal = [tensor for tensor in found.tensors if not tensor.equal]
    if listed := found.tensors if every else unequal:
        heads = ("TENSOR", "DTYPE", "SHAPE", "DIFFERING", "MAX ABS", "AT", "MAX REL", "AT")
        table(heads, map(_row, listed), right=("MAX ABS", "MAX REL"))
        say()
    say(_verdict(found, len(unequal)))


def _row(tensor: Comparison) -> tuple[str, ...]:
    before, after = tensor.dtypes
    shape, other = tensor.shapes
    head = (
        clean(tensor.name),
        before.name if before is after else f"{before} | {after}",
        str(shape) if shape == other else f"{shape} | {other}",
    )
    if tensor.differing is None:
        return (*head, "not compared", "", "", "", "")
    return (
        *head,
        _share(tensor),
        f"{tensor.max_absolute:.4g}",
        _at(tensor.max_absolute_at),
        f"{tensor.max_relative:.4g}",
        _at(tensor.max_relative_at),
    )


def _share(tensor: Comparison) -> str:
    if not tensor.differing:
        return "identical" if tensor.identical else "equal"
    return f"{tensor.differing:,} of {tensor.size:,}"


def _at(index: tuple[int, ...] | None) -> str:
    return "" if index is None else f"[{', '.join(map(str, index))}]"


def _verdict(found: Difference, unequal: int) -> str:
    count = several(len(found.tensors), "tensor")
    if not found.equal:
        parts = [
            f"{unequal:,} of {count} differ" if unequal else "",
            f"{len(found.only_in_a):,} only in the first" if found.only_in_a else "",
            f"{len(found.only_in_b):,} only in the second" if found.only_in_b else "",
            f"{several(len(found.values), 'value')} beside them" if found.values else "",
        ]
        return f"different: {', '.join(filter(None, parts))}"
    if all(tensor.identical for tensor in found.tensors):
        return f"identical: {count}, bit for bit"
    return f"equal: {count}, though not bit for bit"


def _describe(found: Difference) -> dict[str, object]:
    return {
        "equal": found.equal,
        "a": found.a,
        "b": found.b,
        "only_in_a": found.only_in_a,
        "only_in_b": found.only_in_b,
        "values": [{"place": c.place, "a": c.a, "b": c.b} for c in found.values],
        "tensors": [
            {
                "name": tensor.name,
                "equal": tensor.equal,
                "identical": tensor.identical,
                "dtypes": [kind.name for kind in tensor.dtypes],
                "shapes": tensor.shapes,
                "elements": tensor.size,
                "differing": tensor.differing,
                "mean_absolute": tensor.mean_absolute,
                "max_absolute": tensor.max_absolute,
                "max_absolute_at": tensor.max_absolute_at,
                "max_relative": tensor.max_relative,
                "max_relative_at": tensor.max_relative_at,
            }
            for tensor in found.tensors
        ],
    }
