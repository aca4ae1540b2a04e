"""The results as Markdown."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import peers
from benchmarks.measure import COLUMNS, Results
from benchmarks.memory import OPERATIONS
from benchmarks.peers import BARE, COPY, DEFAULT, PEERS, VERIFIED, VERIFIED_MAP

_MIB = 1 << 20


def markdown(results: Results) -> str:
    """Give one workload's section."""
    parts = [
        f"{results.size / 1e6:,.0f} MB; medians of {results.rounds} rounds.\n",
        "Milliseconds (*map*: the arrays are maps of the file, read when they are touched):\n",
        times(results),
        "tensorkeep's time as a multiple of each one's (below 1: tensorkeep is faster):\n",
        ratios(results),
        "The bar:\n",
        bars(results),
        "What checksums cost, as a multiple of the time without them:\n",
        checksums(results),
    ]
    if results.memory:
        parts += [
            "Peak memory in MiB beyond the state (anonymous / resident, mapped pages included):\n",
            memory(results),
        ]
    return "\n".join(parts)


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows))


def times(results: Results) -> str:
    def cell(column: str, peer: str) -> str:
        if peer not in results.seconds.get(column, {}):
            return "-"
        text = figure(results.median(column, peer) * 1e3)
        return f"{text} *map*" if column == "load" and PEERS[peer].lazy else text

    rows = [[peer, *(cell(column, peer) for column in COLUMNS)] for peer in peers.present()]
    return table(["", *COLUMNS.values()], rows)


# Column, tensorkeep's variant and the limit it is held against.
_COMPARED = (
    ("save", DEFAULT, "limit"),
    ("save", BARE, "limit"),
    ("durable", DEFAULT, "limit"),
    ("durable", BARE, "limit"),
    ("open", DEFAULT, "limit"),
    ("load", DEFAULT, "limit, mapped"),
    ("load", COPY, "limit"),
    ("read", DEFAULT, "limit, mapped"),
    ("read", COPY, "limit"),
    ("write", DEFAULT, "limit, mapped"),
    ("write", COPY, "limit"),
    ("one", DEFAULT, "limit"),
)


def ratios(results: Results) -> str:
    others = peers.present("peer")

    def row(column: str, ours: str, limit: str) -> list[str]:
        eager = column == "load" and not PEERS[ours].lazy
        fastest = results.fastest(column, lazy=not eager)
        found = results.seconds[column]
        held = [o for o in others if o in found and not (eager and PEERS[o].lazy)]
        cells = [_ratio(results, column, ours, o) if o in held else "-" for o in others]
        best = f"{_ratio(results, column, ours, fastest)} ({fastest})" if fastest else "-"
        variant = ours.removeprefix(f"{DEFAULT}, ") if ours != DEFAULT else ""
        title = COLUMNS[column] + (f", {variant}" if variant else "")
        return [title, _ratio(results, column, ours, limit), *cells, best]

    head = ["", "limit", *others, "the fastest of them"]
    return table(head, (row(*compared) for compared in _COMPARED))


def _ratio(results: Results, column: str, ours: str, other: str) -> str:
    return f"{figure(results.ratio(column, ours, other))}x"


def bars(results: Results) -> str:
    rows = [
        [what, f"≤ {figure(bar)}{unit}", f"{figure(found)}{unit}", "yes" if found <= bar else "no"]
        for what, bar, unit, found in _bars(results)
    ]
    return table(["", "bar", "measured", "met"], rows)


def _bars(results: Results) -> Iterator[tuple[str, float, str, float]]:
    def peer(
        column: str, ours: str, bar: float, lazy: bool = True
    ) -> Iterator[tuple[str, float, str, float]]:
        if fastest := results.fastest(column, lazy=lazy):
            title = f"{COLUMNS[column]} ({ours}) against {fastest}"
            yield title, bar, "x", results.ratio(column, ours, fastest)

    def limit(column: str, ours: str) -> Iterator[tuple[str, float, str, float]]:
        best = results.fastest(column, "limit")
        title = f"{COLUMNS[column]} ({ours}) against the limit"
        yield title, 1.25, "x", results.ratio(column, ours, best)

    if results.workload.name == "small":
        yield from peer("open", DEFAULT, 1 / 1.5)
        yield from peer("load", DEFAULT, 1 / 1.5)
        yield from peer("load", COPY, 1 / 1.5, lazy=False)
        yield from peer("read", DEFAULT, 1 / 1.5)
    else:
        for ours in (DEFAULT, BARE):
            yield from peer("save", ours, 0.8)
            yield from limit("save", ours)
            yield from peer("durable", ours, 0.7)
            yield from limit("durable", ours)
        yield from peer("load", COPY, 0.65, lazy=False)
        yield "load (copy=True) against the limit", 1.25, "x", results.ratio("load", COPY, "limit")
        yield from peer("write", COPY, 0.65)
        yield from limit("write", COPY)
        yield from peer("read", DEFAULT, 1.0)
        yield from limit("read", DEFAULT)
        yield "open", 2.0, " ms", results.median("open", DEFAULT) * 1e3
    verified = results.ratio("load", VERIFIED, COPY)
    yield "load, copy=True, verify=True against copy=True", 1.3, "x", verified
    if results.memory and results.workload.name != "small":
        most = min(0.05 * results.size, 64 * _MIB) / _MIB
        yield "extra memory on save", most, " MiB", results.memory[DEFAULT]["save"][0] / _MIB
        yield "extra memory on open", 1.0, " MiB", results.memory[DEFAULT]["open"][0] / _MIB


def checksums(results: Results) -> str:
    compared = [
        ("save", "save", DEFAULT, BARE, "save"),
        ("save, durable", "durable", DEFAULT, BARE, "durable"),
        ("open", "open", DEFAULT, BARE, "open"),
        ("load, copy=True: verify=True", "load", VERIFIED, COPY, "load"),
        ("load mapped: verify=True, read all", "read", VERIFIED_MAP, DEFAULT, "read"),
        ("load mapped: verify=True, against reading it all", "load", VERIFIED_MAP, DEFAULT, "read"),
    ]
    rows = [
        [title, f"{figure(results.ratio(column, ours, other, theirs))}x"]
        for title, column, ours, other, theirs in compared
    ]
    return table(["", "cost"], rows)


def memory(results: Results) -> str:
    titles = {wanted: COLUMNS[wanted] for wanted in OPERATIONS}

    def cell(peer: str, wanted: str) -> str:
        if wanted not in results.memory[peer]:
            return "-"
        anonymous, resident = (figure(n / _MIB) for n in results.memory[peer][wanted])
        return f"{anonymous} / {resident}"

    rows = [
        [peer, *(cell(peer, wanted) for wanted in titles)]
        for peer in results.memory
        if results.memory[peer]
    ]
    return table(["", *titles.values()], rows)


def figure(value: float) -> str:
    """Write a number with two or three significant digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def machine(folder: Path) -> str:
    """Say where it ran."""
    facts = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", facts)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    libraries = ", ".join(f"{n} {_version(n)}" for n in ("numpy", "safetensors", "torch", "xxhash"))
    return (
        f"{os.cpu_count()} cores ({model[1] if model else platform.machine()}), "
        f"{memory:.0f} GB of memory, {filesystem(folder)}, Linux {platform.release()}, "
        f"Python {platform.python_version()}, {libraries}.\n"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def filesystem(folder: Path) -> str:
    """Name the type of the filesystem that holds a folder."""
    rows = (line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines())
    held = [(point, kind) for point, kind in rows if folder.resolve().is_relative_to(point)]
    return max(held, key=lambda row: len(row[0]), default=("", "an unknown filesystem"))[1]


def replace(text: str, name: str, body: str) -> str:
    """Put a body between a document's `<!-- begin NAME -->` and `<!-- end NAME -->`."""
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    head, found, rest = text.partition(begin)
    tail = rest.partition(end)[2]
    if not found:
        raise SystemExit(f"the document has no {begin.strip()}")
    return f"{head}{begin}\n{body}\n{end}{tail}"
