"""How long it takes to go on: from `load_state_dict` to the first batch.

    python -m benchmarks.data_resume RESUMER FOLDER BATCH

The places are behind the first batch, in the middle and before the last one. In a fresh process,
whose imports are done, it opens the data, loads the state and makes a batch; then the same loader
does so again. Each time the batch has to be the one that would have come next.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.data_peers import (
    SAMPLES,
    WORKERS,
    Given,
    fields_of,
    import_all,
    mosaic_dataset,
    our_source,
)

PLACES = ("start", "half", "end")
_AGAIN = 3


class Resumer(NamedTuple):
    """A loader whose place can be saved."""

    library: str
    kind: str
    make: Callable[[Given], Any]
    begin: Callable[[Any, Any], Iterator[Any]]  # loader, state or None
    state: Callable[[Any, Any], Any]  # loader, iterator
    anew: bool = False  # a loader that stands does not go to a place; another has to be made


class Found(NamedTuple):
    """Milliseconds, and whether the batch was the right one."""

    fresh: float
    again: float
    right: bool


def measure(name: str, folder: Path, batch: int) -> dict[str, Found]:
    """Save places in one process, and go on from each in one of its own."""

    def child(*what: str) -> str:
        command = [sys.executable, "-m", "benchmarks.data_resume", name, str(folder), str(batch)]
        return subprocess.run([*command, *what], check=True, text=True, stdout=-1).stdout

    child()
    return {place: Found(*json.loads(child(place))) for place in PLACES}


def ours(given: Given) -> Any:
    import tensorkeep as tk

    return tk.Batches(our_source(given), given.batch, shuffle=True)


def stateful(workers: int) -> Callable[[Given], Any]:
    def make(given: Given) -> Any:
        from torchdata.stateful_dataloader import StatefulDataLoader

        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        samples = SAMPLES[given.kind](given.folder)
        return StatefulDataLoader(samples, given.batch, shuffle=True, num_workers=workers)

    return make


def mosaic(given: Given) -> Any:
    from streaming import StreamingDataLoader

    return StreamingDataLoader(mosaic_dataset(given), batch_size=given.batch)


def grain(given: Given) -> Any:
    import grain as library

    samples = SAMPLES[given.kind](given.folder)
    chosen = library.MapDataset.source(samples).shuffle(seed=0).batch(given.batch)
    return chosen.to_iter_dataset()


def begin(loader: Any, state: Any) -> Iterator[Any]:
    if state is not None:
        loader.load_state_dict(state)
    return iter(loader)


def begin_grain(loader: Any, state: Any) -> Iterator[Any]:
    batches = iter(loader)
    if state is not None:
        batches.set_state(state)
    return batches


def _state(loader: Any, batches: Any) -> Any:
    return loader.state_dict()


RESUMERS: dict[str, Resumer] = {
    **{
        f"tensorkeep, {kind}": Resumer("tensorkeep", kind, ours, begin, _state)
        for kind in ("npy", "safetensors", "lmdb", "tar")
    },
    "StatefulDataLoader": Resumer("torchdata", "npy", stateful(0), begin, _state),
    f"StatefulDataLoader, {WORKERS} workers": Resumer(
        "torchdata", "npy", stateful(WORKERS), begin, _state
    ),
    "mosaicml-streaming": Resumer("streaming", "mds", mosaic, begin, _state, anew=True),
    "grain": Resumer("grain", "npy", grain, begin_grain, lambda loader, it: it.get_state()),
}


def labels_of(batch: Any) -> list[int]:
    return np.asarray(fields_of(batch)[1]).reshape(-1).tolist()


def save_places(resumer: Resumer, given: Given, file: Path) -> None:
    loader = resumer.make(given)
    samples = len(SAMPLES["npy"](given.folder))
    count = -(-samples // given.batch)
    wanted = {"start": 1, "half": count // 2, "end": count - 1}
    places, states = {}, {}
    batches = resumer.begin(loader, None)
    for step in range(count):
        for place, at in wanted.items():
            if at == step:
                states[place] = resumer.state(loader, batches)
        labels = labels_of(next(batches))
        for place, at in wanted.items():
            if at == step:
                places[place] = labels
    file.write_bytes(pickle.dumps((states, places)))


def go_on(resumer: Resumer, given: Given, file: Path, place: str) -> Found:
    states, places = pickle.loads(file.read_bytes())

    start = time.perf_counter()
    loader = resumer.make(given)
    batches = resumer.begin(loader, states[place])
    first = next(batches)
    fresh = time.perf_counter() - start
    right = labels_of(first) == places[place]
    taken = []
    for _ in range(_AGAIN):
        del batches
        start = time.perf_counter()
        loader = resumer.make(given) if resumer.anew else loader
        batches = resumer.begin(loader, states[place])
        first = next(batches)
        taken.append(time.perf_counter() - start)
        right = right and labels_of(first) == places[place]
    return Found(fresh * 1e3, sorted(taken)[_AGAIN // 2] * 1e3, right)


def main() -> None:
    name, folder, batch, *place = sys.argv[1:]
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    resumer = RESUMERS[name]
    import_all(resumer.library)
    given = Given(Path(folder), resumer.kind, int(batch))
    file = Path(folder) / "states.pickle"
    if place:
        print(json.dumps(go_on(resumer, given, file, place[0])), file=out)
    else:
        save_places(resumer, given, file)
    os._exit(0)  # what stays of a library's threads does not matter any more


if __name__ == "__main__":
    main()
