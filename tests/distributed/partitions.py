"""Any way to cut an array into boxes, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st
from tests.distributed.sharding import Cut, Shape


@st.composite
def partitions(draw: st.DrawFn, shape: Shape, most: int = 8) -> list[Cut]:
    """Cut a shape into boxes, each cut going through one box."""
    cuts: list[Cut] = [((0,) * len(shape), shape)]
    for _ in range(draw(st.integers(0, most - 1))):
        place = draw(st.integers(0, len(cuts) - 1))
        offsets, sizes = cuts[place]
        axes = [axis for axis, size in enumerate(sizes) if size > 1]
        if not axes:
            continue
        axis = draw(st.sampled_from(axes))
        at = draw(st.integers(1, sizes[axis] - 1))
        left = (*sizes[:axis], at, *sizes[axis + 1 :])
        right = (*sizes[:axis], sizes[axis] - at, *sizes[axis + 1 :])
        behind = (*offsets[:axis], offsets[axis] + at, *offsets[axis + 1 :])
        cuts[place] = offsets, left
        cuts.append((behind, right))
    return cuts
