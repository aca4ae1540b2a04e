"""What was found out about records when they were first read, so that it is not looked for again.

Of each record, which layout it has; and its small fields, such as labels, which are decoded then.
Whoever comes back for it, in the next epoch, has nothing to do but to copy its large fields.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from tensorkeep.data.ranges import Bytes, Numbers, gather
from tensorkeep.data.sources.layout import Array, Layout, Place, finish

_MOST_LAYOUTS = (1 << 15) - 1
_MOST_BYTES = 64  # of a record, in all small fields


class Remembered:
    """The layouts and small fields of records that were read; threads share it.

    Records are remembered where all have the same fields, of the same shapes and types.

    Args:
        count: how many records there are.
        names: the fields that are read; None for all.
    """

    def __init__(self, count: int, names: Sequence[str] | None) -> None:
        self._names = names
        self._lock = threading.Lock()
        self._which: npt.NDArray[np.int16] = np.zeros(count, np.int16)  # 0: not known
        self._layouts: list[Layout] = []
        self._alike: dict[str, tuple[object, ...]] | None = None
        self._columns: dict[str, Array] = {}
        self._begins: dict[str, Numbers] = {}  # of large fields, by the layout

    def note(self, rows: Numbers, layout: Layout, looked: list[Bytes]) -> None:
        """Remember records that were found to have a layout, and what was looked at for that."""
        which = self._number(layout)
        if which:
            for name, column in self._columns.items():
                column[rows] = layout.values(layout.places[name], looked, len(rows))
            self._which[rows] = which  # last: others may take them from now on

    def batch(self, rows: Numbers, view: Bytes, starts: Numbers) -> dict[str, Array] | None:
        """Give the fields of records that are all known; None where one is not.

        Args:
            rows: the numbers of the records.
            view: bytes that hold them.
            starts: where in `view` each begins.
        """
        which = self._which[rows]
        if self._alike is None or not which.all():
            return None
        batch = {}
        for name in self._alike:
            if name in self._columns:
                batch[name] = self._columns[name][rows]
            else:
                place = self._layouts[0].places[name]
                begins = starts + self._begins[name][which]
                batch[name] = finish(gather(view, begins, place.size), place)
        return batch

    def _number(self, layout: Layout) -> int:
        """Give the number of a layout, from 1 on; 0 where its records cannot be remembered."""
        if layout.number is None:
            with self._lock:
                layout.number = self._add(layout)
        return layout.number

    def _add(self, layout: Layout) -> int:
        if layout.number is not None:
            return layout.number
        names: Iterable[str] = layout.places if self._names is None else self._names
        if not all(name in layout.places for name in names):
            return 0
        places = {name: layout.places[name] for name in names}
        alike = {name: _likeness(place) for name, place in places.items()}
        if self._alike is None:
            small = {name: place for name, place in places.items() if not place.large}
            if any(place.kind.dtype.hasobject for place in small.values()):
                return 0
            widths = {n: p.kind.dtype.itemsize * _count(p) for n, p in small.items()}
            if sum(widths.values()) > _MOST_BYTES:
                return 0
            count = len(self._which)
            self._columns = {
                name: np.empty((count, *place.kind.shape), place.kind.dtype)
                for name, place in small.items()
            }
        elif alike != self._alike or len(self._layouts) >= _MOST_LAYOUTS:
            return 0
        self._layouts.append(layout)
        begins = {
            name: [each.places[name].start for each in self._layouts]
            for name, place in places.items()
            if place.large
        }
        self._begins = {name: np.array([0, *starts]) for name, starts in begins.items()}
        self._alike = alike
        return len(self._layouts)


def _likeness(place: Place) -> tuple[object, ...]:
    """Give what has to be the same for records to be remembered together."""
    return (place.kind, place.coding, place.size) if place.large else (place.kind,)


def _count(place: Place) -> int:
    return int(np.prod(place.kind.shape, dtype=np.int64))
