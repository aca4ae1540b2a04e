"""The results of the benchmark of training data as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.data_peers import BATCHED, CASES, GATHER, KINDS, MEMCPY
from benchmarks.data_resume import PLACES, Found
from benchmarks.data_samples import batch_bytes
from benchmarks.tables import figure, table

Key = tuple[str, str]  # a case, and the kind of file that it reads

_TITLES = {"npy": "npy", "safetensors": "safetensors", "lmdb": "LMDB", "tar": "tar", "mds": "MDS"}
_MEMORY = (
    "Peak memory in MB, maps of files not counted, and as a multiple of a batch (worker processes "
    "counted whole):\n"
)
_RESUMING = (
    "From `load_state_dict` to the first batch, in milliseconds: in a fresh process that opens the "
    "data / on a loader that stands:\n"
)
_AGAINST_PEERS = 2.0
_AGAINST_GATHER = 1.5


@dataclass
class Results:
    """What was measured."""

    samples: int
    batch: int
    rounds: int
    seconds: dict[Key, list[float]] = field(default_factory=dict)  # of an epoch, by rounds
    memory: dict[Key, float] = field(default_factory=dict)  # bytes
    resumed: dict[str, dict[str, Found]] = field(default_factory=dict)

    def rate(self, key: Key) -> float:
        """Give samples per second."""
        return self.samples / statistics.median(self.seconds[key])

    def ratio(self, key: Key, other: Key) -> float:
        """Say how many times as fast one is as another: the median of the rounds."""
        pairs = zip(self.seconds[key], self.seconds[other], strict=True)
        return statistics.median(theirs / ours for ours, theirs in pairs)

    def fastest(self, kind: str, role: str, *, besides: str = "/") -> Key | None:
        keys = [k for k in self.seconds if k[1] == kind and CASES[k[0]].role == role]
        keys = [k for k in keys if besides not in k[0]]
        return max(keys, key=self.rate, default=None)


def markdown(results: Results) -> str:
    size = figure(batch_bytes(results.batch) / 1e6)
    head = (
        f"{results.samples:,} samples of 3x64x64 uint8 and an int64 label, in batches of "
        f"{results.batch} ({size} MB), shuffled; medians of {results.rounds} rounds.\n"
    )
    parts = [head]
    if results.seconds:
        parts += ["Thousands of samples per second:\n", rates(results)]
        parts += ["tensorkeep, its best on each kind of file:\n", best(results)]
        parts += ["The bar:\n", bars(results)]
    if results.memory:
        parts += [
            _MEMORY,
            memory(results),
        ]
    if results.resumed:
        parts += [
            _RESUMING,
            resuming(results),
        ]
    return "\n".join(parts)


def rates(results: Results) -> str:
    return _by_kind(results, lambda key: figure(results.rate(key) / 1e3), results.seconds)


def memory(results: Results) -> str:
    batch = batch_bytes(results.batch)

    def cell(key: Key) -> str:
        return f"{figure(results.memory[key] / 1e6)} ({figure(results.memory[key] / batch)}x)"

    return _by_kind(results, cell, results.memory)


def _by_kind(results: Results, cell, found) -> str:  # type: ignore[no-untyped-def]
    kinds = [kind for kind in _TITLES if any(key[1] == kind for key in found)]
    rows = [
        [name, *(cell((name, kind)) if (name, kind) in found else "-" for kind in kinds)]
        for name in CASES
        if any(key[0] == name for key in found)
    ]
    return table(["", *(_TITLES[kind] for kind in kinds)], rows)


def best(results: Results) -> str:
    def row(kind: str, ours: Key) -> Iterator[str]:
        yield _TITLES[kind]
        yield ours[0]
        for other in (
            results.fastest(kind, "peer"),
            results.fastest(kind, "peer", besides=BATCHED),
            results.fastest("mds", "peer"),
            _limit(results, GATHER),
            _limit(results, MEMCPY),
        ):
            yield f"{figure(results.ratio(ours, other))}x ({other[0]})" if other else "-"

    rows = [
        list(row(kind, ours))
        for kind in KINDS
        if (ours := results.fastest(kind, "ours")) is not None
    ]
    peers = ["the fastest peer", "the fastest a sample at a time", "MDS"]
    head = ["as fast as", "tensorkeep", *peers, "a bare gather", "memcpy"]
    return table(head, rows)


def bars(results: Results) -> str:
    rows = []
    for kind in KINDS:
        ours = results.fastest(kind, "ours")
        gather = _limit(results, GATHER)
        peers = results.fastest(kind, "peer", besides=BATCHED), results.fastest(kind, "peer")
        for peer in dict.fromkeys(peers):  # as loaders are mostly used, and at their best
            if not ours or not peer:
                continue
            found = results.ratio(ours, peer)
            what = f"{_TITLES[kind]}: as fast as {peer[0]}"
            bar = f"≥ {figure(_AGAINST_PEERS)}x"
            rows.append([what, bar, f"{figure(found)}x", found >= _AGAINST_PEERS])
        if ours and gather:
            found = results.ratio(gather, ours)
            what = f"{_TITLES[kind]}: the time of a bare gather"
            bar = f"≤ {figure(_AGAINST_GATHER)}x"
            rows.append([what, bar, f"{figure(found)}x", found <= _AGAINST_GATHER])
    return table(["", "bar", "measured", "met"], ([*r[:3], "yes" if r[3] else "no"] for r in rows))


def _limit(results: Results, name: str) -> Key | None:
    return (name, "npy") if (name, "npy") in results.seconds else None


def resuming(results: Results) -> str:
    titles = {"start": "behind the first batch", "half": "in the middle", "end": "before the last"}

    def cell(found: Found) -> str:
        text = f"{figure(found.fresh)} / {figure(found.again)}"
        return text if found.right else f"{text}, **another batch**"

    rows = (
        [name, *(cell(found[place]) for place in PLACES)] for name, found in results.resumed.items()
    )
    return table(["", *(titles[place] for place in PLACES)], rows)
