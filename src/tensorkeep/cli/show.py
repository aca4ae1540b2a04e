"""`tensorkeep show`: a tensor's values, statistics and histogram."""

from __future__ import annotations

import dataclasses
import re
import shutil
from typing import Annotated, Any

import numpy as np
import typer

from tensorkeep import api
from tensorkeep.cli.progress import progress
from tensorkeep.cli.terminal import (
    JsonOption,
    bold,
    clean,
    say,
    say_json,
    shorten,
)
from tensorkeep.diff import scalars
from tensorkeep.dtypes import DType
from tensorkeep.errors import ArgumentError
from tensorkeep.state import State
from tensorkeep.statistics import Array, Histogram, Statistics, histogram, statistics

_JSON_VALUES = 10_000
_PRINTED = 200  # elements; of more, the first and last of each axis
_BAR = 40
_BLOCKS = " ▏▎▍▌▋▊▉"

Index = tuple[Any, ...]


def show(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A file, or a folder of shards.")],
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME[SLICE]",
            help="Such as 'encoder.w' or 'encoder.w[0, :5]'; needless where there is one tensor.",
        ),
    ] = None,
    draw: Annotated[
        bool, typer.Option("--histogram/--no-histogram", help="Draw how the values spread.")
    ] = True,
    as_json: JsonOption = False,
) -> int:
    """Show a tensor's values, statistics and histogram.

    Reads only what the slice needs. NAME may also be a value kept beside the tensors. Minimum,
    maximum, mean and deviation are of the finite values; complex numbers are measured by their
    magnitude.

    With --json: {"path", "name", "index", "dtype", "tensor_shape", "shape", "values",
    "statistics": {}, "histogram": {"edges", "counts"}, "remark"}; values are null where there
    are more than 10,000, and inf and nan are text. A value of the nesting: {"path", "name",
    "value"}.
    """
    with api.open(path) as state:
        if name is not None and name not in state and name in (beside := scalars(state)):
            _show_value(path, name, beside[name], as_json)
            return 0
        found, text, index = _find(state, name)
        tensor = state[found]
        array = tensor[index]
        numbers, spread = _measure(array, tensor.dtype, draw)
        if as_json:
            say_json(
                {
                    "path": path,
                    "name": found,
                    "index": text,
                    "dtype": tensor.dtype.name,
                    "tensor_shape": tensor.shape,
                    "shape": array.shape,
                    "values": array.tolist() if array.size <= _JSON_VALUES else None,
                    "statistics": numbers,
                    "histogram": dataclasses.asdict(spread) if spread else None,
                    "remark": state.remarks.get(found),
                }
            )
            return 0
        head = f"{found}[{text}]" if text else found
        of = f" of {tensor.shape}" if text else ""
        say(f"{bold(clean(head))}: {tensor.dtype}, shape {array.shape}{of}")
        if found in state.remarks:
            say(clean(state.remarks[found]))
        say(_printed(array))
        if array.ndim:
            say()
            say("  ".join(f"{key} {_number(value)}" for key, value in numbers.items()))
        if spread is not None and len(spread.counts) > 1:
            say("\nmagnitudes" if tensor.dtype.kind == "complex" else "")
            _draw(spread)
    return 0


def _measure(array: Array, kind: DType, spread: bool) -> tuple[Statistics, Histogram | None]:
    """Measure values in one pass, and count how they spread in a second one."""
    done, total = 0, array.nbytes * (2 if spread else 1)
    with progress("measuring") as bar:

        def report(count: int) -> None:
            nonlocal done
            done += count
            if bar is not None:
                bar(done, total)

        numbers = statistics(array, kind, report)
        if not spread or "min" not in numbers:
            return numbers, None
        return numbers, histogram(array, numbers["min"], numbers["max"], report)


def _show_value(path: str, name: str, value: object, as_json: bool) -> None:
    if as_json:
        say_json({"path": path, "name": name, "value": value})
    else:
        say(clean(value if isinstance(value, str) else repr(value)))


def _find(state: State, wanted: str | None) -> tuple[str, str, Index]:
    """Give the tensor's name, the slice as it was written, and the slice."""
    if wanted is None:
        if len(state) != 1:
            raise ArgumentError(
                f"holds {len(state):,} tensors",
                where=state.where,
                cure="Name one; `tensorkeep ls` lists them.",
            )
        return next(iter(state)), "", ()
    sliced = re.fullmatch(r"(.*)\[([^\[\]]*)\]", wanted, re.DOTALL)
    if wanted in state or sliced is None:
        return wanted, "", ()
    return sliced[1], sliced[2].strip(), parse_index(sliced[2])


_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


def parse_index(text: str) -> Index:
    """Read what stands between the brackets of an index: integers, slices and one ellipsis.

    Raises:
        ArgumentError: it is anything else.

    >>> parse_index("0, 1:-1, ..., ::2")
    (0, slice(1, -1, None), Ellipsis, slice(None, None, 2))
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and not parts[-1]:  # a trailing comma, as in a tuple
        parts.pop()
    if parts.count("...") > 1:
        raise _not_an_index(text)
    return tuple(_part(part, text) for part in parts)


def _part(part: str, text: str) -> Any:
    if part == "...":
        return ...
    pieces = [piece.strip() for piece in part.split(":")]
    numbers = [int(piece) if _INTEGER.fullmatch(piece) else None for piece in pieces]
    misspelt = any(piece and n is None for piece, n in zip(pieces, numbers, strict=True))
    if misspelt or not part or len(pieces) > 3 or (len(numbers) == 3 and numbers[2] == 0):
        raise _not_an_index(text)
    return numbers[0] if len(numbers) == 1 else slice(*numbers)


def _not_an_index(text: str) -> ArgumentError:
    return ArgumentError(
        f"[{text}] is not an index", cure="Write integers and slices, such as [0, :5] or [..., -1]."
    )


def _printed(array: Array) -> str:
    return np.array2string(
        array,
        max_line_width=max(shutil.get_terminal_size().columns, 40),
        threshold=_PRINTED,
        formatter={"object": lambda text: shorten(repr(text))} if array.dtype == object else None,
    )


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _draw(spread: Histogram) -> None:
    """Draw one bar per bin, an eighth of a character fine."""
    whole = all(isinstance(edge, int) for edge in spread.edges)
    edges = [f"{edge:,}" if whole else f"{edge:.4g}" for edge in spread.edges]
    labels, widest = edges[:-1], max(map(len, edges))
    if not whole:
        ends = edges[1:]
        labels = [f"{a:>{widest}} to {b:>{widest}}" for a, b in zip(labels, ends, strict=True)]
    widest = max(map(len, labels))
    most = max(spread.counts)
    for label, count in zip(labels, spread.counts, strict=True):
        say(f"{label:>{widest}}  {_bar(count, most):<{_BAR}}  {count:,}".rstrip())


def _bar(count: int, most: int) -> str:
    """Draw a count as a bar, an eighth of a character fine; what is not zero can be seen.

    >>> _bar(1, 1_000_000), _bar(1, 40), _bar(3, 80)
    ('▏', '█', '█▌')
    """
    eighths = max(count * _BAR * 8 // most, 1 if count else 0)
    return "█" * (eighths // 8) + _BLOCKS[eighths % 8].strip()
