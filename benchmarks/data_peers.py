"""Who gives batches of the samples: one row per loader in `CASES`, by library and kind of file.

The peers' decoders are as lean as a careful user's: files are mapped, where a field lies in a
record is found out once, and nothing is copied before the batch is made. "batched" is the best that
a user of PyTorch can do: a dataset that is asked for whole batches.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import mmap
import tarfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.data_samples import IMAGE, LABEL, NBYTES, NPY_HEAD, SHAPE, key_of, tars, varint

KINDS = ("npy", "safetensors", "lmdb", "tar")
WORKERS = 2
_SHUFFLE_BUFFER = 1000


class Given(NamedTuple):
    """What a loader is made from."""

    folder: Path
    kind: str
    batch: int


class Loader(NamedTuple):
    """Makes an epoch's batches anew each time `epoch` is called; `close` ends its workers."""

    epoch: Callable[[], Iterable[Any]]
    close: Callable[[], None] = lambda: None


class Case(NamedTuple):
    """One loader of one library."""

    library: str  # each has a process of its own, and needs this package
    make: Callable[[Given], Loader]
    kinds: tuple[str, ...] = KINDS
    role: str = "peer"  # or "ours", "limit"


def fields_of(batch: Any) -> tuple[Any, Any]:
    """Give a batch's images and labels, whatever holds them and whatever they are called."""
    first, second = batch.values() if isinstance(batch, dict) else batch
    return (first, second) if first.ndim == 1 + len(SHAPE) else (second, first)


# --- the samples of a file, for peers -------------------------------------------------------------


class ArraySamples:
    """Samples of two arrays that are maps of a file."""

    def __init__(self, images: Any, labels: Any) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {IMAGE: self.images[number], LABEL: self.labels[number]}

    def rows(self, numbers: Sequence[int]) -> dict[str, Any]:
        return {IMAGE: self.images[numbers], LABEL: self.labels[numbers]}


class NpySamples(ArraySamples):
    """Two .npy files; plain arrays over the maps, of which a row costs less than of a memmap."""

    def __init__(self, folder: Path) -> None:
        paths = (folder / "npy" / f"{name}.npy" for name in (IMAGE, LABEL))
        super().__init__(*(np.asarray(np.load(path, mmap_mode="r")) for path in paths))


class SafetensorsSamples(ArraySamples):
    """Slices of `safe_open`; of NumPy, which take a third of the time of torch's."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        path = str(folder / "samples.safetensors")
        self._file = safe_open(path, framework="np")
        self._path = path
        super().__init__(self._file.get_slice(IMAGE), self._file.get_tensor(LABEL))

    def rows(self, numbers: Sequence[int]) -> dict[str, Any]:
        tensors = self._tensors()
        return {IMAGE: tensors[IMAGE][numbers], LABEL: tensors[LABEL][numbers]}

    def _tensors(self) -> dict[str, Any]:
        """Map the tensors once, as only its interface for torch can."""
        if not hasattr(self, "_mapped"):
            from safetensors.torch import load_file

            self._mapped = {name: t.numpy() for name, t in load_file(self._path).items()}
        return self._mapped


class RecordSamples:
    """What is common to samples that are found one by one: a batch is filled row by row."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, number: int) -> dict[str, Any]:
        raise NotImplementedError

    def rows(self, numbers: Sequence[int]) -> dict[str, Any]:
        images = np.empty((len(numbers), *SHAPE), np.uint8)
        labels = np.empty(len(numbers), np.int64)
        for row, number in enumerate(numbers):
            sample = self[number]
            images[row] = sample[IMAGE]
            labels[row] = sample[LABEL]
        return {IMAGE: images, LABEL: labels}


class LmdbSamples(RecordSamples):
    """Caffe2's records; where the image and the label lie in them is found in the first."""

    def __init__(self, folder: Path) -> None:
        self._path = str(folder / "samples.lmdb")
        self._count = _database(self._path).stat()["entries"]
        first = bytes(_database(self._path).get(key_of(0)))
        length = first.index(b"\x2a" + varint(NBYTES))  # the image's bytes, behind their length
        self._image = length + 1 + len(varint(NBYTES))
        self._label = first.index(b"\x52", self._image + NBYTES) + 2

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> dict[str, Any]:
        value = _database(self._path).get(key_of(number))
        image = np.frombuffer(value, np.uint8, NBYTES, self._image).reshape(SHAPE)
        label = shift = 0
        for byte in value[self._label :]:
            label |= (byte & 0x7F) << shift
            shift += 7
        return {IMAGE: image, LABEL: label}


@functools.cache
def _database(path: str) -> Any:
    """Open a database for reading, once in a process as LMDB wants it; workers inherit the map."""
    import lmdb

    return lmdb.open(path, readonly=True, lock=False, readahead=False).begin(buffers=True)


class TarSamples(RecordSamples):
    """Members of tar files, by an index of where they begin."""

    def __init__(self, folder: Path) -> None:
        self._index = _index(folder)
        self._maps = []
        for path in tars(folder):
            with path.open("rb") as file:
                self._maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, number: int) -> dict[str, Any]:
        shard, image, label, size = self._index[number]
        view = self._maps[shard]
        pixels = np.frombuffer(view, np.uint8, NBYTES, image + NPY_HEAD).reshape(SHAPE)
        return {IMAGE: pixels, LABEL: int(view[label : label + size])}


@functools.cache
def _index(folder: Path) -> list[tuple[int, int, int, int]]:
    """Say of each sample in which file it is, and where its image and label begin."""
    found = []
    for shard, path in enumerate(tars(folder)):
        with tarfile.open(path) as tar:
            entries = [(member.offset_data, member.size) for member in tar]
        pairs = zip(entries[::2], entries[1::2], strict=True)
        found += [(shard, image, label, size) for (image, _), (label, size) in pairs]
    return found


SAMPLES: dict[str, Callable[[Path], Any]] = {
    "npy": NpySamples,
    "safetensors": SafetensorsSamples,
    "lmdb": LmdbSamples,
    "tar": TarSamples,
}


# --- tensorkeep -----------------------------------------------------------------------------------


def our_source(given: Given) -> Any:
    import tensorkeep as tk

    if given.kind == "npy":
        return tk.data.open(str(given.folder / "npy"))
    if given.kind == "tar":
        return tk.data.open([str(path) for path in tars(given.folder)])
    return tk.data.open(str(given.folder / f"samples.{given.kind}"))


def ours(**options: Any) -> Callable[[Given], Loader]:
    def make(given: Given) -> Loader:
        import tensorkeep as tk

        batches = tk.Batches(our_source(given), given.batch, shuffle=True, **options)

        def epoch() -> Iterable[Any]:
            batches.seek(batches.epoch, 0)
            return batches

        return Loader(epoch, batches.close)

    return make


# --- PyTorch --------------------------------------------------------------------------------------


def torch_loader(workers: int, *, batched: bool = False) -> Callable[[Given], Loader]:
    def make(given: Given) -> Loader:
        from torch.utils.data import BatchSampler, DataLoader, RandomSampler

        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        samples = SAMPLES[given.kind](given.folder)
        stay = {"num_workers": workers, "persistent_workers": workers > 0}
        if not batched:
            loader = DataLoader(samples, given.batch, shuffle=True, **stay)
        else:
            sampler = BatchSampler(RandomSampler(samples), given.batch, drop_last=False)
            rows = _Rows(samples)
            loader = DataLoader(rows, sampler=sampler, batch_size=None, **stay)
        return Loader(lambda: loader)

    return make


class _Rows:
    """A dataset of PyTorch that is asked for whole batches."""

    def __init__(self, samples: Any) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, numbers: list[int]) -> dict[str, Any]:
        return self._samples.rows(numbers)


# --- others ---------------------------------------------------------------------------------------


def webdataset_loader(workers: int) -> Callable[[Given], Loader]:
    def make(given: Given) -> Loader:
        import webdataset

        def decoded(sample: dict[str, Any]) -> tuple[Any, int]:
            content = sample["image.npy"]
            image = np.frombuffer(content, np.uint8, NBYTES, NPY_HEAD).reshape(SHAPE)
            return image, int(sample["label.cls"])

        shards = [str(path) for path in tars(given.folder)]
        pipe = webdataset.WebDataset(shards, shardshuffle=len(shards))
        pipe = pipe.shuffle(_SHUFFLE_BUFFER).map(decoded).batched(given.batch)
        if not workers:
            return Loader(lambda: pipe)
        stay = {"num_workers": workers, "persistent_workers": True}
        loader = webdataset.WebLoader(pipe, batch_size=None, **stay)
        return Loader(lambda: loader)

    return make


def grain_loader(given: Given) -> Loader:
    import grain

    samples = SAMPLES[given.kind](given.folder)
    chosen = grain.MapDataset.source(samples).shuffle(seed=0).batch(given.batch)
    return Loader(lambda: iter(chosen.to_iter_dataset()))


def mosaic_loader(workers: int) -> Callable[[Given], Loader]:
    def make(given: Given) -> Loader:
        dataset = mosaic_dataset(given)
        from torch.utils.data import DataLoader

        stay = {"num_workers": workers, "persistent_workers": workers > 0}
        loader = DataLoader(dataset, given.batch, **stay)
        return Loader(lambda: loader)

    return make


def mosaic_dataset(given: Given) -> Any:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    warnings.filterwarnings("ignore", "The given NumPy array is not writable")
    clean_stale_shared_memory()
    local = str(given.folder / "mds")
    return StreamingDataset(local=local, shuffle=True, batch_size=given.batch)


# --- limits ---------------------------------------------------------------------------------------


def bare_gather(given: Given) -> Loader:
    samples = NpySamples(given.folder)
    count, random = len(samples), np.random.default_rng(0)

    def epoch() -> Iterable[Any]:
        order = random.permutation(count)
        for start in range(0, count, given.batch):
            yield samples.rows(order[start : start + given.batch])

    return Loader(epoch)


def memcpy(given: Given) -> Loader:
    """Copy the samples in their order, into memory that is warm."""
    samples = NpySamples(given.folder)
    count, batch = len(samples), given.batch
    images = np.empty((batch, *SHAPE), np.uint8)
    labels = np.empty(batch, np.int64)

    def epoch() -> Iterable[Any]:
        for start in range(0, count, batch):
            size = min(batch, count - start)
            np.copyto(images[:size], samples.images[start : start + size])
            np.copyto(labels[:size], samples.labels[start : start + size])
            yield images[:size], labels[:size]

    return Loader(epoch)


# --- all of them ----------------------------------------------------------------------------------

OURS = "tensorkeep"
OURS_PLAIN = "tensorkeep, prefetch=0"
BATCHED = "torch, batched"
GATHER, MEMCPY = "limit: gather from a map", "limit: memcpy"

CASES: dict[str, Case] = {
    OURS_PLAIN: Case("tensorkeep", ours(prefetch=0), role="ours"),
    OURS: Case("tensorkeep", ours(), role="ours"),
    f"tensorkeep, {WORKERS} processes": Case(
        "tensorkeep", ours(processes=True, workers=WORKERS), role="ours"
    ),
    "torch": Case("torch", torch_loader(0)),
    f"torch, {WORKERS} workers": Case("torch", torch_loader(WORKERS)),
    BATCHED: Case("torch", torch_loader(0, batched=True)),
    f"{BATCHED}, {WORKERS} workers": Case("torch", torch_loader(WORKERS, batched=True)),
    "grain": Case("grain", grain_loader),
    "webdataset": Case("webdataset", webdataset_loader(0), ("tar",)),
    f"webdataset, {WORKERS} workers": Case("webdataset", webdataset_loader(WORKERS), ("tar",)),
    "mosaicml-streaming": Case("streaming", mosaic_loader(0), ("mds",)),
    f"mosaicml-streaming, {WORKERS} workers": Case("streaming", mosaic_loader(WORKERS), ("mds",)),
    GATHER: Case("numpy", bare_gather, ("npy",), role="limit"),
    MEMCPY: Case("numpy", memcpy, ("npy",), role="limit"),
}


# What is imported before anything is measured.
IMPORTS = {
    "tensorkeep": ["tensorkeep.data"],
    "torchdata": ["torchdata.stateful_dataloader"],
    "webdataset": ["torch", "webdataset"],
    "streaming": ["torch", "streaming"],
}


def present(library: str) -> bool:
    """Say whether all that a library needs is installed."""
    needed = {name.partition(".")[0] for name in [library, *IMPORTS.get(library, [])]}
    return all(map(importlib.util.find_spec, needed))


def import_all(library: str) -> None:
    for name in IMPORTS.get(library, [library]):
        importlib.import_module(name)
