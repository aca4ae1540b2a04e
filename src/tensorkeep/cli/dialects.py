"""Options of models that are translated: shapes and constants of inputs, and what was done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated, Any

import numpy.typing as npt
import typer

from tensorkeep import api
from tensorkeep.cli.places import split_tensor
from tensorkeep.cli.terminal import clean, dim, say
from tensorkeep.errors import ArgumentError, MissingError

WeightsOption = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="The weights of a Caffe2 net, where they are not beside it."),
]

Remark = tuple[str, str, str]
_SHOWN = 12  # remarks of a kind


def parse_shapes(given: Sequence[str] | None) -> dict[str, tuple[int, ...]]:
    """Read NAME=1,3,224,224, several times.

    >>> parse_shapes(["x=1,3", "n="])
    {'x': (1, 3), 'n': ()}
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in given or ():
        name, equals, sizes = text.rpartition("=")
        try:
            shape = tuple(int(size) for size in sizes.replace("x", ",").split(",") if size)
        except ValueError:
            shape = (-1,)
        if not (name and equals) or min(shape, default=0) < 0:
            raise ArgumentError(
                f"--shape cannot be {text!r}", cure="Give NAME=1,3,224,224, once for each input."
            )
        if name in shapes:
            raise ArgumentError(f"--shape is given twice for {name!r}")
        shapes[name] = shape
    return shapes


def parse_constants(given: Sequence[str] | None) -> dict[str, npt.ArrayLike]:
    """Read NAME=NUMBERS or NAME=FILE[:TENSOR], several times.

    >>> parse_constants(["axes=0,-1", "k=3"])
    {'axes': [0, -1], 'k': 3}
    """
    constants: dict[str, npt.ArrayLike] = {}
    with ExitStack() as stack:
        for text in given or ():
            name, equals, value = text.partition("=")
            if not (name and equals):
                raise ArgumentError(
                    f"--constant cannot be {text!r}", cure="Give NAME=1,2 or NAME=FILE:TENSOR."
                )
            constants[name] = _numbers(value) if _is_numbers(value) else _read(value, stack)
    return constants


def _is_numbers(text: str) -> bool:
    return not os.path.exists(text) and all(map(_is_number, text.split(",")))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == ""
    return True


def _numbers(text: str) -> int | float | list[int | float]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    whole = all(part.lstrip("+-").isdigit() for part in parts)
    values: list[int | float] = [int(part) if whole else float(part) for part in parts]
    return values[0] if len(values) == 1 and "," not in text else values


def _read(text: str, stack: ExitStack) -> npt.NDArray[Any]:
    path, tensor = split_tensor(text)
    state = stack.enter_context(api.open(path))
    if not tensor and len(state) != 1:
        raise MissingError(
            f"holds {len(state)} tensors", where=path, cure="Name one of them: FILE:TENSOR."
        )
    return state[tensor or next(iter(state))].numpy()


def say_remarks(remarks: Sequence[Remark]) -> None:
    """Tell what translating a model did, of each kind the first ones."""
    kinds: dict[str, list[str]] = {}
    for kind, name, text in remarks:
        kinds.setdefault(kind, []).append(f"{name}: {text}" if name else text)
    for kind, rows in kinds.items():
        for row in rows[:_SHOWN]:
            say(f"{kind}: {clean(row)}")
        if len(rows) > _SHOWN:
            say(dim(f"{kind}: and {len(rows) - _SHOWN:,} more; --json lists all"))


def describe_remarks(remarks: Sequence[Remark]) -> list[dict[str, str]]:
    """Give the same for --json."""
    return [{"kind": kind, "name": name, "text": text} for kind, name, text in remarks]
