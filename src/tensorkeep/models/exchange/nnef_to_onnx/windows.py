"""Windows that slide over tensors: where they lie, and what lies beyond the tensor's borders.

NNEF says the padding of each axis as a pair, and no padding at all as the automatic one: as much
as makes the output a stride'th of the input (rounded up), the odd one at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tensorkeep.models.exchange.nnef_to_onnx.chain import Chain
from tensorkeep.models.exchange.nnef_to_onnx.reader import Reader
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import same_padding
from tensorkeep.wire.nnef.operations import Operation

BORDERS = ("constant", "ignore", "replicate", "reflect", "reflect-even")
MOST_MADE = 1 << 22  # elements of a constant that a translation makes
_MODES = {"constant": "constant", "ignore": "constant", "replicate": "edge", "reflect": "reflect"}


@dataclass(frozen=True, slots=True)
class Window:
    """A window that slides over some axes of a tensor; a number for each axis in all of it.

    Attributes:
        size: of the window.
        padding: how far it reaches beyond the tensor, at each end.
        strides: how far it moves.
        dilations: how far its elements are apart.
        wide: the sizes of the tensor that it slides over.
        narrow: how often it fits there.
        border: what is beyond the tensor: one of BORDERS.

    >>> window = Window((3,), ((1, 1),), (2,), (1,), (6,), (3,), "ignore")
    >>> window.inside(0), window.unpadded().positions(0).tolist()
    (array([2, 3, 3]), [[0, 1, 2], [2, 3, 4], [4, 5, 6]])
    """

    size: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    wide: tuple[int, ...]
    narrow: tuple[int, ...]
    border: str

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.size)

    @property
    def volume(self) -> int:
        """The number of elements in it."""
        return math.prod(self.size)

    @property
    def pads(self) -> list[int]:
        """The padding as ONNX has it: all that is before, then all that is after."""
        return [before for before, _ in self.padding] + [after for _, after in self.padding]

    @property
    def padded(self) -> bool:
        """Whether it reaches beyond the tensor, or leaves out what is at its ends."""
        return any(self.pads)

    def moves(self, axis: int) -> bool:
        """Whether it does anything on an axis."""
        return (
            self.size[axis] != 1
            or self.strides[axis] != 1
            or self.padding[axis] != (0, 0)
            or self.wide[axis] != self.narrow[axis]
        )

    def active(self) -> list[int]:
        """List the axes that it moves on."""
        return [axis for axis in range(self.rank) if self.moves(axis)]

    def spread(self, axis: int) -> int:
        """Give how many elements of an axis it spans."""
        return (self.size[axis] - 1) * self.dilations[axis] + 1

    def of(self, axes: Sequence[int]) -> Window:
        """Give what it is on some axes."""
        return Window(
            tuple(self.size[axis] for axis in axes),
            tuple(self.padding[axis] for axis in axes),
            tuple(self.strides[axis] for axis in axes),
            tuple(self.dilations[axis] for axis in axes),
            tuple(self.wide[axis] for axis in axes),
            tuple(self.narrow[axis] for axis in axes),
            self.border,
        )

    def unpadded(self) -> Window:
        """Give the same over a tensor that what is beyond its borders was added to."""
        sizes = [size + sum(pair) for size, pair in zip(self.wide, self.padding, strict=True)]
        return replace(self, padding=((0, 0),) * self.rank, wide=tuple(sizes))

    def inside(self, axis: int) -> npt.NDArray[np.int64]:
        """Count how many elements of the window are no padding, wherever it fits on an axis.

        Raises:
            Refused: it fits far too often.
        """
        check_made(self.narrow[axis])
        starts = np.arange(self.narrow[axis], dtype=np.int64) * self.strides[axis]
        starts -= self.padding[axis][0]
        first = -(np.minimum(starts, 0) // self.dilations[axis])
        last = (self.wide[axis] - 1 - starts) // self.dilations[axis]
        counts: npt.NDArray[np.int64] = np.minimum(last, self.size[axis] - 1) - first + 1
        return np.maximum(counts, 0)

    def positions(self, axis: int) -> npt.NDArray[np.int64]:
        """Give what it covers of a padded axis: [how often it fits, its size].

        Raises:
            Refused: there would be far too many.
        """
        check_made(self.narrow[axis] * self.size[axis])
        starts = np.arange(self.narrow[axis], dtype=np.int64) * self.strides[axis]
        steps = np.arange(self.size[axis], dtype=np.int64) * self.dilations[axis]
        return np.add.outer(starts, steps)


def window_of(op: Operation, reader: Reader, size: Sequence[int], wide: Sequence[int]) -> Window:
    """Read the window of an operation that makes a tensor smaller.

    Args:
        op: with the arguments border, padding, stride and dilation.
        reader: of the document.
        size: of the window.
        wide: the sizes of the axes that it slides over.

    Raises:
        Refused: the arguments do not fit, or the window fits nowhere.
    """
    strides, dilations = steps_of(op, reader, size)
    padding = reader.pairs(op, "padding", len(size)) or same_padding(wide, size, strides, dilations)
    return _placed(size, padding, strides, dilations, wide, reader.word(op, "border", *BORDERS))


def unwindow_of(
    op: Operation,
    reader: Reader,
    size: Sequence[int],
    narrow: Sequence[int],
    wanted: Sequence[int],
) -> Window:
    """Read the window of an operation that makes a tensor larger.

    Args:
        op: with the arguments border, padding, stride and dilation.
        reader: of the document.
        size: of the window.
        narrow: the sizes of the axes before.
        wanted: the sizes after, if the document says them; empty otherwise.

    Raises:
        Refused: the arguments do not fit, or what is beyond the border is not zero.
    """
    strides, dilations = steps_of(op, reader, size)
    border = reader.word(op, "border", *BORDERS)
    padding = reader.pairs(op, "padding", len(size))
    if wanted:
        wide = list(wanted)
    elif padding:
        rows = zip(narrow, size, strides, dilations, padding, strict=True)
        wide = [(n - 1) * s + (k - 1) * d + 1 - p - q for n, k, s, d, (p, q) in rows]
    else:
        wide = [n * s for n, s in zip(narrow, strides, strict=True)]
    padding = padding or same_padding(wide, size, strides, dilations)
    window = _placed(size, padding, strides, dilations, wide, border)
    if window.narrow != tuple(narrow):
        raise Refused(
            f"gives {list(wide)}, which a window of this kind makes {list(window.narrow)} of, "
            f"where there are {list(narrow)}"
        )
    if border not in ("constant", "ignore") and window.padded:
        raise Refused(f"has the border {border!r}, which is not defined for what enlarges a tensor")
    return window


def steps_of(op: Operation, reader: Reader, size: Sequence[int]) -> tuple[list[int], list[int]]:
    """Read strides and dilations, which are 1 where none are given."""
    strides = reader.integers(op, "stride", len(size)) or [1] * len(size)
    dilations = reader.integers(op, "dilation", len(size)) or [1] * len(size)
    for what, given in (("size", size), ("stride", strides), ("dilation", dilations)):
        if any(each < 1 for each in given):
            raise Refused(f"has {what} = {list(given)}, which is not positive")
    return strides, dilations


def _placed(
    size: Sequence[int],
    padding: Sequence[tuple[int, int]],
    strides: Sequence[int],
    dilations: Sequence[int],
    wide: Sequence[int],
    border: str,
) -> Window:
    rows = list(zip(wide, size, padding, strides, dilations, strict=True))
    narrow = [(w + p + q - (k - 1) * d - 1) // s + 1 for w, k, (p, q), s, d in rows]
    if any(n < 1 for n in narrow) or any(w < 1 for w in wide):
        raise Refused(f"has a window of {list(size)} that does not fit into {list(wide)}")
    return Window(
        tuple(size),
        tuple(padding),
        tuple(strides),
        tuple(dilations),
        tuple(wide),
        tuple(narrow),
        border,
    )


def check_made(count: int) -> None:
    """Refuse to make a constant that is far too large.

    Raises:
        Refused: it is.
    """
    if count > MOST_MADE:
        raise Refused(f"would need a constant of {count:,} elements")


def bordered(chain: Chain, window: Window, fill: str | None = None) -> Chain:
    """Add what is beyond the borders of a tensor to it, and drop what negative padding leaves out.

    Args:
        chain: gives the tensor.
        window: says how much, and what; on all axes of the tensor.
        fill: the constant that is beyond a constant or ignored border; zero if it is None.

    Raises:
        Refused: there is not enough of the tensor to reflect.
    """
    if not window.padded:
        return chain
    to, border = chain.to, window.border
    if border in ("constant", "ignore"):
        return chain.then("Pad", to.constant(window.pads, "int64", "pads"), fill, mode="constant")
    added = [max(each, 0) for each in window.pads]
    _check_reflected(window, added)
    if border == "reflect-even":
        for axis in range(window.rank):
            before, after = added[axis], added[axis + window.rank]
            if before or after:
                places = _mirrored(window.wide[axis], before, after)
                chain.then("Gather", to.constant(places, "int64", "places"), axis=axis)
    elif any(added):
        chain.then("Pad", to.constant(added, "int64", "pads"), mode=_MODES[border])
    dropped = [min(each, 0) for each in window.pads]
    if any(dropped):
        chain.then("Pad", to.constant(dropped, "int64", "pads"), mode="constant")
    return chain


def _check_reflected(window: Window, added: Sequence[int]) -> None:
    for axis in range(window.rank):
        most = max(added[axis], added[axis + window.rank])
        there = {"reflect": window.wide[axis] - 1, "reflect-even": window.wide[axis]}
        if most > there.get(window.border, most):
            raise Refused(
                f"reflects {most} elements beyond axis {axis}, which has {window.wide[axis]}"
            )


def _mirrored(size: int, before: int, after: int) -> npt.NDArray[np.int64]:
    """Give the places in an axis whose elements are repeated, mirrored, beyond its ends."""
    check_made(size + before + after)
    places = np.arange(-before, size + after)
    return np.minimum(np.where(places < 0, -1 - places, places), 2 * size - 1 - places)
