"""Arrays that share their first axis: row i of each of them is sample i.

    train.safetensors    image uint8 (50000, 3, 32, 32), label int64 (50000,)

Whatever tensorkeep opens is read so: safetensors, npz, HDF5, zarr and all other formats, a folder
of .npy files, of which each is a field, and dicts of arrays that are in memory. Names nest with
dots, as in a State. A lone array, and so a lone .npy file, is the field "data".

Of plain bytes in a mapped file, rows are copied from the map into the batch and nothing else is
read. Compressed chunks are decoded once per batch; fields of up to 4 MiB that have to be decoded
stay in memory.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tensorkeep import api, frameworks
from tensorkeep.data.dataset import Batch, Dataset, Field, Lying, Progress, Rows
from tensorkeep.data.fingerprint import combine
from tensorkeep.data.sources.chosen import absolute, no_field
from tensorkeep.data.sources.gathering import gather, rows_together, take
from tensorkeep.data.sources.tensors import by_fields, check, seen
from tensorkeep.data.stacking import MASKED, TWO_ARRAYS
from tensorkeep.dtypes import STRING
from tensorkeep.errors import (
    FormatError,
    MissingError,
    StoreError,
    TensorKeepError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.state import State
from tensorkeep.stores import Target
from tensorkeep.tensor import Tensor
from tensorkeep.tree import ROOT

_T = TypeVar("_T")

LONE = "data"  # what the field of a lone array is called
_KEPT = 4 << 20  # bytes of a field that is kept once it was decoded
_DEEPEST = 64  # dicts in dicts
_NOTES = (".json", ".md", ".rst", ".txt", ".yaml", ".yml")  # beside arrays in a folder


class ArraysDataset(Dataset):
    """Samples that are the rows of arrays.

    Args:
        state: the arrays; all of them have one first axis.
        kind: what they are kept in.
        where: names them in messages.
        arrays: the same in memory, where they are there.
        path: the file that all of it is in, where there is one.
        reopen: gives it in another process; the arrays themselves are sent where it is None.
        own: close the state with the dataset.

    Raises:
        UnsupportedError: the arrays do not share their first axis, or are quantized.
    """

    def __init__(
        self,
        state: State,
        *,
        kind: str,
        where: str,
        arrays: Mapping[str, npt.NDArray[Any]] | None = None,
        path: str = "",
        reopen: Callable[[], Dataset] | None = None,
        own: bool = False,
    ) -> None:
        tensors = dict(state.items())
        count = _shared_axis(tensors, where)
        blocks = {name: _block(t, state.remarks.get(name, "")) for name, t in tensors.items()}
        fields = {name: Field(t.dtype.name, t.shape[1:]) for name, t in tensors.items()}
        super().__init__(count, fields, where=where, kind=kind, block=max(blocks.values()))
        self._state = state
        self._tensors = tensors
        self._blocks = blocks
        self._arrays = dict(arrays or {})
        self._small = {n for n, t in tensors.items() if not t.source.mapped and t.nbytes <= _KEPT}
        self._path = path
        self._reopen = reopen
        self._own = own

    def gather(self, rows: Rows) -> Batch:
        """Give rows as one batch.

        Raises:
            CorruptError: they are damaged, or the file has become shorter since it was opened.
        """
        return self.some(rows, self.fields)

    def some(self, rows: Rows, names: Collection[str]) -> Batch:
        """Give some fields of a batch."""
        return {name: self._rows(name, rows) for name in names}

    def lying(self, rows: Rows) -> dict[str, Lying]:
        """Say where the rows of arrays lie in mapped files."""
        return {
            name: Lying(
                np.frombuffer(tensor.read(), np.uint8),
                rows * (tensor.nbytes // len(tensor)),
                np.dtype(tensor.dtype.numpy),
                tensor.shape[1:],
            )
            for name, tensor in self._tensors.items()
            if name not in self._arrays and _is_plain(tensor)
        }

    def _rows(self, name: str, rows: Rows) -> npt.NDArray[Any]:
        array = self._arrays.get(name)
        if array is None and name in self._small:
            array = self._kept(name)
        if array is None:
            return gather(self._tensors[name], rows, self._blocks[name])
        return _native(take(array, rows))

    def _kept(self, name: str) -> npt.NDArray[Any] | None:
        """Decode a small field and keep it; None where some of it is damaged."""
        try:
            array = self._arrays[name] = self._tensors[name].numpy()
        except FormatError:
            self._small.discard(name)
            return None
        return array

    def _digest(self) -> str:
        told: list[str | bytes | int] = [len(self)]
        for name, field in self.fields.items():
            told += [name, field.dtype, str(field.shape)]
        return combine(*told, *seen(self._state, self._tensors, self._path))

    def verify(self, progress: Progress | None = None) -> list[str]:
        """Check every field by the digest or checksum that came with it, or else read all of it."""
        return by_fields(self, self._problems, self._tensors, progress)

    def _problems(self, name: str) -> list[str]:
        try:
            checked = check(self._state, name, self._tensors[name])
        except (FormatError, StoreError, UnsafeError) as error:
            return [f"{self.where}: the field {name!r} is damaged: {error.problem}"]
        return [] if checked else self._unreadable(name)

    def _unreadable(self, name: str) -> list[str]:
        """Read a field block by block; say which samples cannot be read."""
        tensor, found = self._tensors[name], []
        width = max(1, tensor.nbytes // max(1, len(self)))
        block = self._blocks[name]
        step = block if block > 1 else max(1, _KEPT // width)
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            try:
                gather(tensor, np.arange(start, stop), block)
            except (FormatError, StoreError, UnsafeError) as error:
                found.append(
                    f"{self.where}: samples {start} to {stop - 1}, field {name!r}: {error.problem}"
                )
        return found

    def close(self) -> None:
        """Close what the arrays are read from, where it was opened here."""
        super().close()
        if self._own:
            self._state.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._reopen is not None:
            return self._reopen, ()
        arrays = {n: self._arrays.get(n, t) for n, t in self._tensors.items()}
        held = {name: np.asarray(array) for name, array in arrays.items()}
        return _of_memory, (held, self.kind, self.where)


def open_arrays(target: Target, fields: Sequence[str] | None = None) -> ArraysDataset:
    """Open whatever `tensorkeep.open` does as samples.

    Raises:
        MissingError: there is nothing there, or no such field.
        UnsupportedError: the arrays do not share their first axis.
        UnknownFormatError: no format recognises it.
    """
    state = api.open(target)
    path = os.fspath(target) if isinstance(target, str | os.PathLike) else ""
    try:
        return ArraysDataset(
            chosen(_with_lone(state), fields),
            kind=state.format,
            where=state.where,
            path=path if os.path.isfile(path) else "",
            reopen=partial(open_arrays, absolute(path), fields) if path else None,
            own=True,
        )
    except BaseException:
        state.close()
        raise


def of_state(state: State, fields: Sequence[str] | None = None) -> ArraysDataset:
    """Take the tensors of a state as samples; closing the dataset leaves the state open."""
    where = state.where or "the state"
    return ArraysDataset(chosen(_with_lone(state), fields), kind=state.format, where=where)


def of_arrays(
    arrays: Mapping[Any, Any], fields: Sequence[str] | None = None, where: str = "the arrays"
) -> ArraysDataset:
    """Take a dict of arrays of NumPy, of frameworks, or lists of numbers or text, as samples.

    Raises:
        UnsupportedError: a value that is no array, or arrays that do not share their first axis.

    >>> of_arrays({"x": np.zeros((3, 2)), "y": [1, 2, 3]})
    ArraysDataset('the arrays', 3 samples)
    """
    return _of_memory(_chosen(flat(arrays, where), fields, where), "arrays", where)


def flat(arrays: Mapping[Any, Any], where: str) -> dict[str, npt.NDArray[Any]]:
    """Give arrays that nest in dicts by their dotted names.

    Raises:
        UnsupportedError: a value that is no array.
    """
    found: dict[str, npt.NDArray[Any]] = {}
    _flatten(arrays, (), found, where)
    return found


def is_folder(path: str) -> bool:
    """Say whether a folder holds .npy files, and nothing else but notes."""
    try:
        with os.scandir(path) as entries:
            listed = [(e.name, e.is_file()) for e in entries if not e.name.startswith(".")]
    except (OSError, ValueError):
        return False
    arrays = [name for name, _ in listed if name.endswith(".npy")]
    return bool(arrays) and all(is_file and _in_folder(name) for name, is_file in listed)


def _in_folder(name: str) -> bool:
    stem, ending = os.path.splitext(name)
    return ending == ".npy" or ending.lower() in _NOTES or stem.isupper()


def open_folder(path: str, fields: Sequence[str] | None = None) -> ArraysDataset:
    """Open a folder of .npy files, of which each is the field of its name.

    Raises:
        MissingError: there is no such folder, or no such field.
        CorruptError: a file is damaged.
    """
    try:
        listed = sorted(os.listdir(path))
    except (OSError, ValueError) as error:
        raise MissingError("there is no such folder of .npy files", where=path) from error
    files = {
        name.removesuffix(".npy"): os.path.join(path, name)
        for name in listed
        if name.endswith(".npy") and not name.startswith(".")
    }
    with ExitStack() as opened:
        tensors: dict[str, Tensor] = {}
        for name, file in _chosen(files, fields, path).items():
            (tensors[name],) = opened.enter_context(api.open(file, format="npy")).values()
        kept = ExitStack()
        dataset = ArraysDataset(
            State(tensors, format="npy", where=path, close=kept.close),
            kind="npy",
            where=path,
            reopen=partial(open_folder, absolute(path), fields),
            own=True,
        )
        kept.enter_context(opened.pop_all())
        return dataset


def chosen(state: State, fields: Sequence[str] | None) -> State:
    """Give a state of some of its tensors, in the order they are asked for.

    Raises:
        MissingError: there is no such tensor.
    """
    tensors = _chosen(dict(state.items()), fields, state.where)
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "blocks":
            raise UnsupportedError(
                f"the field {name!r} is quantized ({tensor.dtype}), and so has no rows",
                where=state.where,
                cure="Leave it out with fields=[...], or dequantize it with convert.",
            )
    return state.replace(tensors=tensors)


def _chosen(given: Mapping[str, _T], fields: Sequence[str] | None, where: str) -> dict[str, _T]:
    if fields is None:
        return dict(given)
    for name in fields:
        if name not in given:
            raise no_field(name, list(given), where)
    return {name: given[name] for name in fields}


def _with_lone(state: State) -> State:
    """Call an array that has no name of its own "data"."""
    if set(state) != {ROOT} or (state.skeleton or {}).get("tree") is None:
        return state
    tree = (state.skeleton or {})["tree"]
    if isinstance(tree, dict) and "$array" not in tree:
        return state
    return state.replace(
        tensors={LONE: state[ROOT]},
        skeleton=None,
        digests=_renamed(state.digests),
        checks=_renamed(state.checks),
        remarks=_renamed(state.remarks),
    )


def _renamed(told: Mapping[str, _T]) -> dict[str, _T]:
    return {LONE: told[ROOT]} if ROOT in told else {}


def _shared_axis(tensors: Mapping[str, Tensor], where: str) -> int:
    """Give the length of the first axis that all tensors have.

    Raises:
        UnsupportedError: there is no tensor, or they do not share it.
    """
    if not tensors:
        raise UnsupportedError("holds no arrays, and so no samples", where=where)
    counts = Counter(tensor.shape[0] for tensor in tensors.values() if tensor.shape)
    if len(counts) == 1 and counts.total() == len(tensors):
        return next(iter(counts))
    shapes = [f"{name} {tensor.shape}" for name, tensor in tensors.items()]
    more = f" and {len(shapes) - 6} more" if len(shapes) > 6 else ""
    usual = counts.most_common(1)[0][0] if counts else None
    picked = [repr(n) for n, t in tensors.items() if t.shape and t.shape[0] == usual][:4]
    raise UnsupportedError(
        f"its arrays do not share their first axis, so that rows are no samples: "
        f"{', '.join(shapes[:6])}{more}",
        where=where,
        cure=f"Name those that do, such as fields=[{', '.join(picked)}]."
        if picked
        else "A model's weights are no training data.",
    )


def _is_plain(tensor: Tensor) -> bool:
    """Whether the bytes of a field are those of its rows, in a mapped file."""
    return bool(
        tensor.source.mapped
        and tensor.nbytes
        and not tensor.dtype.packed
        and tensor.dtype is not STRING
    )


def _block(tensor: Tensor, remark: str) -> int:
    return rows_together(tensor, remark) if tensor.shape and not tensor.source.mapped else 1


def _of_memory(arrays: Mapping[str, npt.NDArray[Any]], kind: str, where: str) -> ArraysDataset:
    tensors = {name: _tensor(name, array, where) for name, array in arrays.items()}
    held = {name: _plain(array) for name, array in arrays.items()}
    return ArraysDataset(State(tensors, where=where), kind=kind, where=where, arrays=held)


def _tensor(name: str, array: npt.NDArray[Any], where: str) -> Tensor:
    try:
        return Tensor.of(array, where)
    except TensorKeepError as error:
        problem = f"the field {name!r} makes no batch: {error.problem}"
        raise UnsupportedError(problem, where=where, cure=error.cure) from None


def _plain(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Give text as objects, as every other source of it does."""
    return array.astype(object) if array.dtype.kind in "UST" else array


def _native(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _flatten(
    value: Mapping[Any, Any], path: tuple[str, ...], into: dict[str, npt.NDArray[Any]], where: str
) -> None:
    if len(path) > _DEEPEST:
        raise UnsupportedError(f"has dicts nested more than {_DEEPEST} deep", where=where)
    for key, inner in value.items():
        name = ".".join((*path, str(key)))
        if name in into:
            raise UnsupportedError(f"two fields are called {name!r}", where=where)
        if isinstance(inner, Mapping):
            _flatten(inner, (*path, str(key)), into, where)
            continue
        if isinstance(inner, np.ma.MaskedArray):
            raise UnsupportedError(
                f"the field {name!r} is a {MASKED}", where=where, cure=TWO_ARRAYS
            )
        found = frameworks.to_array(inner, f"{where}, field {name!r}")
        if found is not None:
            into[name] = found[1]
            continue
        if not isinstance(inner, list | tuple | np.ndarray):
            raise UnsupportedError(
                f"the field {name!r} is a {type(inner).__name__}, which is no array",
                where=where,
                cure="Give arrays whose first axis counts the samples.",
            )
        try:
            into[name] = np.asarray(inner)
        except (ValueError, TypeError, OverflowError):
            raise UnsupportedError(
                f"the field {name!r} is a list of lists of several lengths, which is no array",
                where=where,
                cure="Pad them, or give a list of samples, which may differ.",
            ) from None
