"""Windows that slide over an operand of an ONNX node: kernels, strides, dilations, padding.

NNEF takes padding that is left out as automatic, so that its arguments always have it, also the
pairs (0, 0) that mean none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node, same_padding

_MOST_LOOKED_AT = 10_000


@dataclass(frozen=True, slots=True)
class Windows:
    """What slides over each spatial axis; padding is in pairs, before and after."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]

    @property
    def spread(self) -> tuple[int, ...]:
        """How far a window reaches along each axis."""
        pairs = zip(self.kernel, self.dilations, strict=True)
        return tuple((length - 1) * dilation + 1 for length, dilation in pairs)

    def fitted(self, out: Sequence[int]) -> Windows:
        """Give windows whose padding at the ends makes just so many of them, no part of one left.

        Raises:
            Refused: padding at the ends alone does not.
        """
        pairs = []
        for axis, length in enumerate(out):
            before, after = self.padding[axis]
            reach = self.size[axis] + before - self.spread[axis]
            if (reach + after) // self.strides[axis] + 1 != length:
                after = (length - 1) * self.strides[axis] - reach
            if after < 0:
                raise Refused(f"its output has {length} windows at axis {axis + 2}, fewer than fit")
            pairs.append((before, after))
        return Windows(self.size, self.kernel, self.strides, self.dilations, tuple(pairs))

    def touch(self, out: Sequence[int]) -> bool:
        """Whether every window holds at least one element that is not padding."""
        return all(self._touches(axis, length) for axis, length in enumerate(out))

    def _touches(self, axis: int, out: int) -> bool:
        """Whether windows that begin before an axis reach it, and none begins after it."""
        size, dilation, spread = self.size[axis], self.dilations[axis], self.spread[axis]
        first, stride = -self.padding[axis][0], self.strides[axis]
        if -first >= spread or first + (out - 1) * stride >= size:
            return False
        # Only where an axis is shorter than the gaps of a window can it fall into one.
        before = range(first, min(0, first + out * stride), stride) if size < dilation else ()
        if len(before) > _MOST_LOOKED_AT:
            return False
        return all(start % dilation < size for start in before)

    def arguments(self, *, leading: int = 0) -> dict[str, Any]:
        """Give NNEF's arguments; pools count the batch and the channels as two leading axes."""
        ones = [1] * leading
        found: dict[str, Any] = {"padding": [(0, 0)] * leading + list(self.padding)}
        if any(stride != 1 for stride in self.strides):
            found["stride"] = ones + list(self.strides)
        if any(dilation != 1 for dilation in self.dilations):
            found["dilation"] = ones + list(self.dilations)
        return found


def windows_of(node: Node, size: Sequence[int], kernel: Sequence[int]) -> Windows:
    """Read how a node's windows slide over axes of these sizes.

    Raises:
        Refused: what the node says is not of as many axes, or no window.
    """
    rank = len(size)
    if rank == 0:
        raise Refused("its input has no spatial axes, and windows need one")
    said = node.attributes.get("kernel_shape")
    if len(kernel) != rank or (said is not None and tuple(said) != tuple(kernel)):
        raise Refused(f"its kernel is {list(said or kernel)}, where there are {rank} spatial axes")
    strides = _whole(node, "strides", rank)
    dilations = _whole(node, "dilations", rank)
    if any(length < 1 for length in (*kernel, *strides, *dilations)):
        raise Refused("kernels, strides and dilations have to be at least 1")
    padding = _padding(node, size, kernel, strides, dilations)
    if any(amount < 0 for pair in padding for amount in pair):
        raise Refused(f"its padding is {list(padding)}, which takes elements away")
    return Windows(tuple(size), tuple(kernel), strides, dilations, padding)


def _padding(
    node: Node,
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[tuple[int, int], ...]:
    automatic = node.word("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        lower = automatic == "SAME_LOWER"
        return tuple(same_padding(size, kernel, strides, dilations, lower=lower))
    if automatic == "VALID":
        return ((0, 0),) * len(size)
    if automatic not in ("NOTSET", ""):
        raise Refused(f"auto_pad is {automatic!r}, which ONNX does not have")
    return given_padding(node, len(size))


def given_padding(node: Node, rank: int) -> tuple[tuple[int, int], ...]:
    """Read the attribute `pads`: all before, then all after."""
    pads = [int(amount) for amount in node.attributes.get("pads", (0,) * (2 * rank))]
    if len(pads) != 2 * rank:
        raise Refused(f"its {len(pads)} pads are not two for each of {rank} spatial axes")
    return tuple(zip(pads[:rank], pads[rank:], strict=True))


def _whole(node: Node, key: str, rank: int) -> tuple[int, ...]:
    found = tuple(int(value) for value in node.attributes.get(key, ()) or (1,) * rank)
    if len(found) != rank:
        raise Refused(f"its {key} {list(found)} are not one for each of {rank} spatial axes")
    return found
