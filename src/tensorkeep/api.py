"""The verbs: open, load, save."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import checksum, dtypes, formats, frameworks, quantized
from tensorkeep.casting import cast_array, check_castable
from tensorkeep.database import Database
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    LossError,
    MissingError,
    TensorKeepError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.format import Format
from tensorkeep.framework import Framework
from tensorkeep.reading import read_arrays
from tensorkeep.state import Json, State, check_globs
from tensorkeep.store import Location, Store
from tensorkeep.stores import Target, locate, refuse_remote_database
from tensorkeep.tensor import Tensor
from tensorkeep.tree import flatten, unflatten
from tensorkeep.wire.text import dump_json

# Called with the bytes done so far and the total.
ProgressReport = Callable[[int, int], None]


def open(target: Target, *, format: str | None = None) -> State:
    """Open a file as a lazy State: names, dtypes and shapes are read, tensors are not.

    Args:
        target: a path, an URL, a Location or a Store.
        format: its format, where the bytes do not tell.

    Raises:
        MissingError: there is nothing there.
        UnknownFormatError: no format recognises it.
        CorruptError: it is damaged or cut short.
        UnsafeError: it points outside its folder, or claims more than it can hold.
    """
    return _open(target, format, [])


def _open(target: Target, format: str | None, names: list[str]) -> State:
    """Open a file; one that can find tensors by `names` alone need not list the others."""
    location = locate(target)
    refuse_remote_database(location)
    try:
        location = formats.find(location)
        if not location.key:
            location = Location(location.store.reader())
        chosen = formats.by_name(format) if format else formats.detect(location)
        state = _decode(chosen, location, names)
        return state.replace(close=location.store.close) if _is_ours(target, location) else state
    except MissingError as error:
        _close(target, location)
        if error.where == location.where and not error.cure:
            raise MissingError(error.problem, where=error.where, cure=_nearby(location)) from None
        raise
    except BaseException:
        _close(target, location)
        raise


def _is_ours(target: Target, location: Location) -> bool:
    """Whether a whole database was opened here, and so is to be closed here."""
    given = isinstance(target, Location | Store)
    return not given and not location.key and isinstance(location.store, Database)


def _close(target: Target, location: Location) -> None:
    location.close()
    if _is_ours(target, location):
        location.store.close()


def _decode(chosen: Format, location: Location, names: list[str]) -> State:
    try:
        picked = chosen.pick(location, names) if names else None
        return chosen.decode(location) if picked is None else picked
    except TensorKeepError:
        raise
    except chosen.corruption as error:
        problem = f"cannot be read as {chosen.name}: {error}"
        raise CorruptError(problem, where=location.where) from error


def _exact(names: str | Iterable[str] | None) -> list[str]:
    """Give names that are no globs; none where one is, or nothing is asked for by name."""
    listed = [] if names is None else check_globs(names)
    return [] if any(letter in name for name in listed for letter in "*?[") else listed


def load(
    target: Target,
    *,
    format: str | None = None,
    framework: str | None = None,
    names: str | Iterable[str] | None = None,
    device: str | None = None,
    dtype: npt.DTypeLike | str | None = None,
    copy: bool = False,
    verify: bool = False,
    progress: ProgressReport | None = None,
) -> Any:
    """Load what was saved: the same nesting, arrays that are writable and share nothing with disk.

    Arrays are copy-on-write maps of the file: nothing is read until it is touched, and what is
    written to them never reaches the file.

    Args:
        target: a path, an URL, a Location or a Store.
        format: its format, where the bytes do not tell.
        framework: "numpy", "torch" or "jax" for all arrays; each as it was saved otherwise.
        names: globs of the tensors to load; they come as a flat dict. All of them otherwise.
        device: where to place them, as the framework names it.
        dtype: cast floating-point tensors to this type, and dequantize quantized ones to it.
        copy: read everything into fresh memory now, in parallel.
        verify: check every tensor against the digest saved with it.
        progress: called with the bytes done and the total.

    Raises:
        CorruptError: the file is damaged.
        UnsupportedError: with `verify`, the file holds no digests; without `dtype`, it holds
            quantized tensors.
        MissingError: no such file, or a glob that matches nothing.
        MissingDependencyError: the framework is not installed.
        UnsafeError: some of it is not data: it would need code that the file names.

    >>> import tempfile, numpy as np
    >>> path = f"{tempfile.mkdtemp()}/state.safetensors"
    >>> save({"model": {"w": np.ones((2, 2))}, "step": 3}, path)
    >>> load(path)["step"], load(path, names="model.*")["model.w"].sum()
    (3, np.float64(4.0))
    """
    forced = frameworks.by_name(framework) if framework else None
    to = None if dtype is None else check_castable(dtypes.dtype(dtype))
    if names is not None:
        names = check_globs(names)
    with _open(target, format, [] if verify else _exact(names)) as state:
        if names is None and state.refused:
            raise _not_data(state)
        chosen = None if names is None else {name: state[name] for name in state.match(names)}
        tensors = dict(state.items()) if chosen is None else chosen
        wanted = list(tensors)
        packed = [name for name in wanted if tensors[name].dtype.kind == "blocks"]
        if packed and to is None:
            raise _quantized(state, packed)
        if verify:
            _need_digests(state, wanted)
        report = _reporter(progress, tensors)
        read = partial(read_arrays, progress=report)
        if verify:
            read = partial(read, digests=state.digests, checks=state.checks)
        cast = {n: t for n, t in tensors.items() if to is not None and t.dtype.kind == "float"}
        apart = cast.keys() | set(packed)
        kept = {n: t for n, t in tensors.items() if n not in apart} if apart else tensors
        arrays = read(kept, copy=copy)
        if to is not None:
            for name, array in read(cast).items():
                with np.errstate(all="ignore"):  # what does not fit becomes infinite, as asked
                    arrays[name] = cast_array(array, to)
            for name in packed:  # one at a time: in between they are float32
                one = {name: tensors[name]}
                (array,) = read(one).values()
                with np.errstate(all="ignore"):
                    arrays[name] = array.astype(to.numpy, copy=False)

        if names is not None:
            usual = str((state.skeleton or {}).get("framework", ""))
            leaf = _leaves(state, arrays, forced, device)
            return {name: leaf(name, usual, "") for name in wanted}
        return nest(state, arrays, framework=framework, device=device)


def nest(
    state: State,
    arrays: Mapping[str, npt.NDArray[Any]],
    *,
    framework: str | None = None,
    device: str | None = None,
) -> Any:
    """Build the nesting of a state from the arrays that were read of it.

    Args:
        state: what the arrays belong to.
        arrays: writable ones that nobody else uses, by the names of all the state's tensors.
        framework: "numpy", "torch" or "jax" for all arrays; each as it was saved otherwise.
        device: where to place them, as the framework names it.

    Raises:
        CorruptError: the skeleton of the nesting is damaged.
        MissingDependencyError: the framework is not installed.
    """
    forced = frameworks.by_name(framework) if framework else None
    if state.skeleton is None and forced is None and device in (None, "cpu"):
        return {name: arrays[name] for name in state}
    leaf = _leaves(state, arrays, forced, device)
    return unflatten(state.skeleton, dict(state.items()), leaf, state.where)


def _leaves(
    state: State,
    arrays: Mapping[str, npt.NDArray[Any]],
    forced: Framework | None,
    device: str | None,
) -> Callable[[str, str, str], Any]:
    """Give what makes an array the leaf that it was saved from."""
    first: dict[str, Framework] = {}

    def leaf(name: str, saved_as: str, text: str) -> Any:
        array = arrays[name]
        if text:
            return _text_array(array, text)
        if array.dtype == object:
            return array
        saved = forced or frameworks.FRAMEWORKS.get(saved_as or "numpy")
        if saved is None:
            raise UnsupportedError(
                f"was saved from arrays of {saved_as!r}, which is not known here",
                where=state.where,
                cure='Update tensorkeep, or load with framework="numpy".',
            )
        if first.setdefault(name, saved) is not saved:
            array = array.copy()  # memory that one framework writes to is no other's
        return saved.from_numpy(array, device, state.where)

    return leaf


def _text_array(array: npt.NDArray[Any], kind: str) -> npt.NDArray[Any]:
    """Give strings the NumPy type that they were saved from."""
    if kind == "T":
        return array.astype(np.dtypes.StringDType())
    if kind.startswith("|S"):
        raw = [text.encode("utf-8", "surrogateescape") for text in array.reshape(-1)]
        return np.array(raw, kind).reshape(array.shape)
    return array.astype(kind)


def _quantized(state: State, names: list[str]) -> UnsupportedError:
    kinds = ", ".join(sorted({state[name].dtype.name for name in names}))
    return UnsupportedError(
        f"{len(names):,} of its {len(state):,} tensors are quantized ({kinds}), which no array is",
        where=state.where,
        cure='Say dtype="float32" (or "float16", "bfloat16") to dequantize them; '
        "convert keeps them as they are.",
    )


def _not_data(state: State) -> UnsafeError:
    return UnsafeError(
        f"holds what is not data, and nothing that a file names is run: {'; '.join(state.refused)}",
        where=state.where,
        cure='Load the tensors alone with names="*", or convert it with lossy=True, which keeps '
        "the data.",
    )


def _need_digests(state: State, names: list[str]) -> None:
    bare = [n for n in names if n not in state.digests and n not in state.checks]
    if bare:
        raise UnsupportedError(
            f"{len(bare)} of {len(names)} tensors have no digest to verify, {bare[0]!r} is one",
            where=state.where,
            cure="Save with checksums=True, or load without verify.",
        )


def save(
    state: Any,
    target: Target,
    *,
    format: str | None = None,
    metadata: Mapping[str, Json] | None = None,
    durable: bool = True,
    lossy: bool = False,
    progress: ProgressReport | None = None,
    **options: Any,
) -> None:
    """Save a state: any nesting of dicts, lists, tuples, numbers, text, bytes and arrays.

    The file appears whole or not at all: a failure, a full disk or a kill leaves what was there.

    Args:
        state: the nesting, or a State.
        target: a path (its ending tells the format), an URL, a Location or a Store.
        format: the format, where the name does not tell.
        metadata: JSON values to keep with it.
        durable: return only once it is on the disk, safe from a power cut.
        lossy: save even where the format cannot hold everything.
        progress: called with the bytes done and the total.
        options: what the format's `encode` takes, such as `checksums=False` or
            `max_shard_size="5GB"`.

    Raises:
        UnsupportedError: something in the state cannot be kept; the message names its place.
        LossError: the format cannot hold everything; the message lists what.
        StoreError: the disk is full or failed.
        ArgumentError: an unknown ending, format or option.
    """
    location = locate(target)
    refuse_remote_database(location)
    chosen = formats.by_name(format) if format else formats.for_writing(location)
    given = state if isinstance(state, State) else _state_of(state)
    if metadata is not None:
        given = _with_metadata(given, metadata)
    write(given, location, chosen, durable, lossy, progress, options)


def _state_of(value: Any) -> State:
    tensors, skeleton = flatten(value, frameworks.reader())
    return State(tensors, skeleton=skeleton, where="the state to save")


def _with_metadata(state: State, metadata: Mapping[str, Json]) -> State:
    try:
        if not isinstance(metadata, Mapping):
            raise TypeError(f"it is a {type(metadata).__name__}")
        if not all(isinstance(key, str) for key in metadata):
            raise TypeError("its keys are not all text")
        dump_json(dict(metadata))
    except (TypeError, ValueError) as error:
        raise UnsupportedError(
            f"the metadata is not JSON: {error}",
            cure="Use a dict of text keys with numbers, text, lists and dicts in it.",
        ) from None
    return state.replace(metadata={**state.metadata, **metadata})


def write(
    state: State,
    location: Location,
    chosen: Format,
    durable: bool,
    lossy: bool,
    progress: ProgressReport | None,
    options: Mapping[str, Any],
) -> list[str]:
    """Write a state in a format; gives what was lost, a sentence each.

    Raises:
        LossError: the format cannot hold everything, and `lossy` does not allow it.
        ArgumentError: the format is not written, or has no such option.
    """
    whole = chosen.whole_stores and isinstance(location.store, Database)
    if not (location.key or whole or chosen.folder):
        raise ArgumentError(
            "is a folder or a whole store", where=location.where, cure="Name a file in it."
        )
    if chosen.encode is None:
        raise ArgumentError(
            f"{chosen.name} is read here, not written",
            where=location.where,
            cure=f"It is written by {chosen.written_by}." if chosen.written_by else "",
        )
    known = list(inspect.signature(chosen.encode).parameters)[2:]
    for option in options:
        if option not in known:
            raise ArgumentError(
                f"{chosen.name} has no option {option!r}",
                cure=f"It has {', '.join(known) or 'none'}.",
            )
    if state.refused and not lossy:
        raise LossError(
            f"not everything in it is data: {'; '.join(state.refused)}",
            where=state.where,
            cure='Take the tensors alone with names="*", or keep the data with lossy=True.',
        )
    losses = [*state.refused, *chosen.losses(state), *graph_lost(state, chosen.dialect)]
    losses += quantized.told(state, chosen.holds, chosen.name)
    if losses and not lossy:
        raise LossError(
            f"{chosen.name} cannot hold everything: {'; '.join(losses)}",
            where=location.where,
            cure="Choose another format, or accept it with lossy=True.",
        )
    refuse_damage(state, compare=not chosen.compares_digests)
    state = quantized.fitted(state, chosen.holds)
    report = _reporter(progress, state)
    store = location.store.writer()  # which a database has to release: it may keep others out
    if chosen.folder:
        store = store.draft(location.key)
    try:
        for stream in chosen.encode(state, location, **options):
            if stream.chunks is None:
                store.delete(stream.key)
            else:
                store.put(
                    stream.key, stream.chunks, size=stream.size, durable=durable, progress=report
                )
        store.commit()
    except BaseException:
        store.rollback()
        raise
    finally:
        if isinstance(store, Database) and store is not location.store:
            store.close()
    return losses


def graph_lost(state: State, dialect: str = "") -> list[str]:
    """Say what is lost of a model where only what is of this dialect is kept of it."""
    lost = []
    if state.graph is not None and dialect != "onnx":
        count = len(state.graph)
        nodes = f"{count:,} node{'' if count == 1 else 's'}"
        lost.append(f"the graph of the model, {nodes}, is left out{_by_convert(dialect)}")
    if state.document is not None and state.document.dialect != dialect:
        what = state.document.summary()
        lost.append(f"the model, {what}, is left out{_by_convert(dialect)}")
    return lost


def _by_convert(dialect: str) -> str:
    return "; convert translates it" if dialect else ""


def refuse_damage(state: State, *, compare: bool = True) -> None:
    """Check what came with checksums before it is written under new ones.

    Args:
        state: what is to be written.
        compare: read all tensors, to compare their digests.

    Raises:
        CorruptError: a tensor is not what was saved.
    """
    if compare:
        known = {name: tensor for name, tensor in state.items() if name in state.digests}
        for name, found in checksum.digests(known).items():
            if found != state.digests[name]:
                raise checksum.mismatch(name, state.digests[name], found, state.where)
    checksum.check_all([state.checks[name] for name in state if name in state.checks])


def check_progress(progress: object) -> None:
    """Refuse a progress report that cannot be called.

    Raises:
        ArgumentError: it is no function.
    """
    if progress is not None and not callable(progress):
        raise ArgumentError(
            f"progress has to be a function, not {type(progress).__name__}",
            cure="It is called with the bytes done and the total.",
        )


def _reporter(
    progress: ProgressReport | None, tensors: Mapping[str, Tensor]
) -> Callable[[int], None] | None:
    if progress is None:
        return None
    check_progress(progress)
    done, total = 0, sum(tensor.nbytes for tensor in tensors.values())

    def report(count: int) -> None:
        nonlocal done
        done = min(done + count, total)
        progress(done, total)

    return report


def _nearby(location: Location) -> str:
    """Suggest a file of a similar name in the same folder, for a misspelt path."""
    import difflib
    import itertools

    try:
        names = list(itertools.islice(location.store.keys(), 500))
    except MissingError:
        return "Its folder is missing too."
    except TensorKeepError:
        return ""
    close = difflib.get_close_matches(location.key, names, n=1)
    return f"Did you mean {Location(location.store, close[0]).where}?" if close else ""


__all__ = ["load", "open", "save"]
