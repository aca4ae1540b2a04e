"""The figures of checkpoints, and Markdown of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from benchmarks import checkpoint_peers as peers
from benchmarks.checkpoint_peers import FENCED, OURS, RESTORERS
from benchmarks.tables import figure, table

SECTIONS = ("stall", "restore", "frozen", "memory")
ORDER = ("first", "second", "third")
MEMCPY = "memcpy"
ALL_CHANGED = "tensorkeep, background, all changed"
IN_PLACE = "tensorkeep, verified, in place"
CHANGING = 7  # of the 64 tensors of a state that is mostly frozen


@dataclass
class Results:
    """Figures by column and peer, one per counted round."""

    found: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, column: str, peer: str, value: float) -> None:
        self.found.setdefault(column, {}).setdefault(peer, []).append(value)

    def has(self, column: str, peer: str) -> bool:
        return peer in self.found.get(column, {})

    def names(self, column: str) -> list[str]:
        """List who was measured, ours first, then in the order of the peers' tables."""
        order = [OURS, ALL_CHANGED, *peers.savers(), *RESTORERS]
        return sorted(self.found.get(column, {}), key=order.index)

    def median(self, column: str, peer: str) -> float:
        return statistics.median(self._rows(column, peer))

    def ratio(self, column: str, peer: str, other: str, other_column: str = "") -> float:
        """Give the median of the rounds' ratios; the last round may have been broken off."""
        mine, theirs = self._rows(column, peer), self._rows(other_column or column, other)
        return statistics.median(a / b for a, b in zip(mine, theirs, strict=False))

    def _rows(self, column: str, peer: str) -> list[float]:
        return self.found.get(column, {}).get(peer, [math.nan])

    def fastest(self, column: str, among: Callable[[str], bool] = lambda name: True) -> str:
        """Name the peer of the lowest median; "" where none was measured."""
        names = [n for n in self.found.get(column, {}) if not peers.is_ours(n) and among(n)]
        return min(names, key=lambda name: self.median(column, name), default="")


def markdown(found: Results, size: int, rounds: int) -> str:
    begin = (
        f"{size / 1e6:,.0f} MB in {peers.COUNT} float32 tensors; medians of {rounds} rounds. In "
        "brackets the time as a multiple of one memcpy of the state in the same rounds "
        f"({', '.join(_memcpys(found))}).\n"
    )
    still = f"{peers.COUNT - CHANGING} of {peers.COUNT} tensors"
    parts = [begin]
    for title, rows in (
        ("How long the training thread is held, in milliseconds", _stalls(found)),
        ("From the call until all is on the disk, in milliseconds", _durables(found, size)),
        ("Restoring, in milliseconds", _restores(found)),
        (
            f"The third save (the others' second) of a state of which {still} do not change",
            _frozen(found),
        ),
        ("Peak memory beyond the state, of two saves, in states", _memory(found, size)),
        ("The bar", _bars(found, size)),
    ):
        if len(rows) > 1:
            parts.append(f"{title}:\n\n{table(rows[0], rows[1:])}")
    return "\n".join(parts)


def _memcpys(found: Results) -> Iterator[str]:
    for section in SECTIONS:
        if found.has(f"{section}: memcpy", MEMCPY):
            yield f"{section} {figure(found.median(f'{section}: memcpy', MEMCPY) * 1e3)} ms"


def _time(found: Results, column: str, name: str, section: str) -> str:
    if not found.has(column, name):
        return "-"
    seconds = found.median(column, name)
    times = found.ratio(column, name, MEMCPY, f"{section}: memcpy")
    return f"{figure(seconds * 1e3)} ({figure(times)}x)"


def _against(found: Results, column: str, name: str, best: str) -> str:
    return f"{figure(found.ratio(column, name, best))}x" if found.has(column, name) else "-"


def _stalls(found: Results) -> list[list[str]]:
    rows = [["", *(f"{order} save" for order in ORDER), "of the fastest peer", "computing beside"]]
    best = found.fastest("stall: third")
    for name in found.names("stall: first"):
        slower = found.has("slowdown", name)
        rows.append(
            [
                name,
                *(_time(found, f"stall: {order}", name, "stall") for order in ORDER),
                _against(found, "stall: third", name, best),
                f"{figure(found.median('slowdown', name))}x as long" if slower else "-",
            ]
        )
    return rows


def _durables(found: Results, size: int) -> list[list[str]]:
    rows = [["", "first save", "second save", "GB/s, second", "of the fastest peer"]]
    best = found.fastest("durable: second")
    for name in found.names("durable: first"):
        cells = [_time(found, f"durable: {order}", name, "stall") for order in ORDER[:2]]
        rate = figure(size / found.median("durable: second", name) / 1e9)
        rows.append([name, *cells, rate, _against(found, "durable: second", name, best)])
    return rows


def _restores(found: Results) -> list[list[str]]:
    columns = {
        "restored": "restored",
        "read": "restored, all read",
        "written": "restored, all written",
        "cold, written": "from the disk, all written",
    }
    rows = [["", *columns.values(), "all written, of the fastest peer"]]
    best = found.fastest("written")
    for name in found.names("written"):
        cells = [_time(found, column, name, "restore") for column in columns]
        cells[0] += " *map*" if RESTORERS[name].lazy else ""
        rows.append([name, *cells, _against(found, "written", name, best)])
    return rows


def _frozen(found: Results) -> list[list[str]]:
    rows = [["", "MB written", "stall, ms", "until durable, ms", "of tensorkeep's full save"]]
    for name in found.names("frozen: bytes"):
        cells = [_time(found, f"frozen: {what}", name, "frozen") for what in ("stall", "durable")]
        written = figure(found.median("frozen: bytes", name) / 1e6)
        rows.append([name, written, *cells, _against(found, "frozen: durable", name, ALL_CHANGED)])
    return rows


def _memory(found: Results, size: int) -> list[list[str]]:
    rows = [["", "taken", "resident, mapped pages included"]]
    for name in found.names("memory"):
        cells = [f"{found.median(column, name) / size:.2f}" for column in ("memory", "resident")]
        rows.append([name, *cells])
    return rows


def _bars(found: Results, size: int) -> list[list[str]]:
    rows = [["", "bar", "measured", "met"]]

    def add(what: str, bar: float, value: float) -> None:
        limit, text = (f"{v:.3f}" if bar < 0.1 else figure(v) for v in (bar, value))
        rows.append([what, f"≤ {limit}x", f"{text}x", "yes" if value <= bar else "no"])

    if found.has("stall: first", OURS):
        for order in ORDER[1:]:
            held = found.ratio(f"stall: {order}", OURS, MEMCPY, "stall: memcpy")
            add(f"stall of the {order} save against memcpy", 1.3, held)
        held = found.ratio("stall: third", FENCED, MEMCPY, "stall: memcpy")
        add("stall of a fenced save against memcpy", 0.01, held)
        if best := found.fastest("durable: second"):
            ratio = found.ratio("durable: second", OURS, best)
            add(f"until durable, second save, against {best}", 0.7, ratio)
    for into, ours in (("new", "tensorkeep, verified"), ("in place", IN_PLACE)):
        alike = {name for name, restorer in RESTORERS.items() if restorer.into == into}
        if best := found.fastest("written", alike.__contains__):
            ratio = found.ratio("written", ours, best)
            add(f"verified restore ({into}) against {best}", 1.0, ratio)
    if found.has("frozen: bytes", OURS):
        for what, column, bar in (("bytes", "bytes", 0.15), ("time", "durable", 0.25)):
            ratio = found.ratio(f"frozen: {column}", OURS, ALL_CHANGED)
            add(f"mostly frozen: {what} of a full save's", bar, ratio)
    for name in (OURS, FENCED):
        if found.has("memory", name):
            taken = round(found.median("memory", name) / size, 2)  # threads take some, too
            add(f"memory taken ({name}), of the state", 1.0, taken)
    return rows
