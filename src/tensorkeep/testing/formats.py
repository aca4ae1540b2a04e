"""What every format has to do."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tensorkeep import api, frameworks
from tensorkeep.errors import TensorKeepError, UnsupportedError
from tensorkeep.format import Format
from tensorkeep.formats import FORMATS, WRITTEN
from tensorkeep.state import State
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.tensor import Tensor
from tensorkeep.testing.equality import assert_equal_states
from tensorkeep.testing.faults import CountingStore
from tensorkeep.testing.samples import samples
from tensorkeep.tree import flatten

_ROWS, _COLUMNS = 1024, 256
_LONG = 1536

# Formats that hold models, and no other state: how they call arrays, and what else they need.
_CALLED = ("layers.dense_{}.vars.0", "dense_{}/kernel")
_NEEDED: dict[str, Any] = {"keras": {"keras": {"config": {"class_name": "Sequential"}}}}

# Gives damaged versions of a file, each with what was done to it.
Damages = Callable[[bytes], Iterator[tuple[str, bytes]]]


def check_format(format: Format, *, lazy: bool = True, **options: Any) -> None:
    """Run every check of this file.

    Args:
        format: a format that stands in `tensorkeep.formats.FORMATS`.
        lazy: whether a tensor can be read without what is before it; False for text and for
            compressed containers.
        options: what the format's `encode` takes.

    Raises:
        AssertionError: the format breaks its contract; the message says how.

    >>> from tensorkeep.formats import FORMATS
    >>> check_format(FORMATS["safetensors"])
    """
    check_round_trip(format, **options)
    check_determinism(format, **options)
    check_acceptance(format, **options)
    if lazy:
        check_laziness(format, **options)
        check_slices(format, **options)
    check_truncations(format, **options)
    check_bit_flips(format, **options)


def encoded(format: Format, value: Any, **options: Any) -> dict[str, bytes]:
    """Save a state in memory and give the files, by key.

    >>> from tensorkeep.formats import FORMATS
    >>> list(encoded(FORMATS["safetensors"], {"w": np.zeros(2)}))
    ['state.safetensors']
    """
    store = MemoryStore()
    options = {**needed(format), **options}
    api.save(value, Location(store, _key(format)), format=format.name, **options)
    return store.data


def needed(format: Format) -> dict[str, Any]:
    """Give the options of `save` that a format cannot do without.

    >>> from tensorkeep.formats import FORMATS
    >>> needed(FORMATS["npz"]), list(needed(FORMATS["keras"]))
    ({}, ['metadata'])
    """
    return {"metadata": _NEEDED[format.name]} if format.name in _NEEDED else {}


def fitting(format: Format, *values: Any) -> Any:
    """Give the first of several values that a format holds without loss; None where none is.

    For a format that holds models alone, the arrays are called as those of a model.

    >>> from tensorkeep.formats import FORMATS
    >>> fitting(FORMATS["safetensors"], {"step": 3}, np.zeros(2))
    {'step': 3}
    """
    for value in [*values, *itertools.chain.from_iterable(map(_called, values))]:
        tensors, skeleton = flatten(value, frameworks.to_array)
        if not format.losses(State(tensors, skeleton=skeleton, **needed(format))):
            return value
    return None


def _fitting_array(format: Format, tensor: Tensor) -> Any:
    """Give an array, else a like one without the odd values that no text can hold."""
    array = tensor.numpy()
    if array.dtype.kind in "OT":
        return fitting(format, array, np.full(array.shape, "plain", array.dtype))
    with np.errstate(invalid="ignore"):  # which NaN of narrow types warn of
        return fitting(format, array, np.where(array != array, np.ones(1, array.dtype), array))


def _called(value: Any) -> Iterator[dict[str, Any]]:
    """Give one array, or a dict of them, under the names of a model's."""
    arrays = list(value.values()) if isinstance(value, dict) else [value]
    if arrays and all(isinstance(array, np.ndarray | Tensor) for array in arrays):
        for name in _CALLED:
            yield {name.format(place): array for place, array in enumerate(arrays)}


def _key(format: Format) -> str:
    return f"state{format.suffixes[0]}"


def placed(format: Format, files: Mapping[str, bytes]) -> Location:
    """Give what to open of the files that a save has made: the file, or the folder of several.

    >>> from tensorkeep.formats import FORMATS
    >>> placed(FORMATS["npz"], encoded(FORMATS["npz"], {"w": np.zeros(2)})).key
    'state.npz'
    """
    return Location(MemoryStore(dict(files)), _key(format) if _key(format) in files else "")


def _small(format: Format) -> Any:
    """Give a small state of what the format can hold: a nesting, several tensors or one."""
    weights = np.arange(4, dtype=np.float32).reshape(2, 2)
    bias = np.array([-1, 7, 3], np.int8)
    nested = {"layer": {"w": weights, "b": bias}, "step": 7, "name": "ünï"}
    return fitting(format, nested, {"w": weights, "b": bias}, weights)


def check_round_trip(format: Format, **options: Any) -> None:
    """Check that every element type in `holds` comes back with the same bits, in every shape."""
    tensors = samples(sorted((kind for kind in format.holds if kind.block == 1), key=str))
    if (fitted := fitting(format, tensors)) is not None:
        values: list[Any] = [{name: tensor.numpy() for name, tensor in fitted.items()}]
    else:
        arrays = {name: _fitting_array(format, tensor) for name, tensor in tensors.items()}
        values = [array for array in arrays.values() if array is not None]
        kept = {tensors[name].dtype for name, array in arrays.items() if array is not None}
        if lacking := {tensor.dtype for tensor in tensors.values()} - kept:
            raise AssertionError(f"{format.name}: holds {lacking}, but no array of it")
    for value in [*values, _small(format)]:
        files = encoded(format, value, **options)
        assert_equal_states(api.load(placed(format, files)), value, format.name)
        with api.open(placed(format, files)) as state:
            again = encoded(format, state, **options)
        assert_equal_states(api.load(placed(format, again)), value, f"{format.name}, twice")
    blocks = samples(sorted((kind for kind in format.holds if kind.block > 1), key=str))
    if blocks:
        state = State(blocks)
        with api.open(placed(format, encoded(format, state, **options))) as found:
            assert_equal_states(found, state, format.name)


def check_determinism(format: Format, **options: Any) -> None:
    """Check that equal states give equal bytes."""
    first, second = (encoded(format, _small(format), **options) for _ in range(2))
    if first != second:
        raise AssertionError(f"{format.name}: equal states give different bytes")


def check_acceptance(format: Format, **options: Any) -> None:
    """Check that no file of the format is accepted by another, whatever its name ends with."""
    files = encoded(format, _small(format), **options)
    accepting = _accepting(placed(format, files))
    if accepting != [format.name]:
        raise AssertionError(f"{format.name}: accepted by {accepting or 'none'}")
    if format.folder:
        return
    for other in WRITTEN.values():
        key = f"renamed{other.suffixes[0]}"
        accepting = _accepting(Location(MemoryStore({key: files[_key(format)]}), key))
        if len(accepting) > 1:
            raise AssertionError(f"{format.name}, named {key}: accepted by {accepting}")


def _accepting(location: Location) -> list[str]:
    return [other.name for other in FORMATS.values() if other.accepts(location)]


def check_laziness(format: Format, **options: Any) -> None:
    """Check that opening a file reads a small part of it, and one tensor not the others."""
    large = np.arange(_ROWS * _COLUMNS, dtype=np.float32).reshape(_ROWS, _COLUMNS)
    value = fitting(format, {"large": large, "small": large[0]}, large)
    store = CountingStore(MemoryStore(encoded(format, value, **options)))
    with api.open(Location(store, _key(format))) as state:
        if store.bytes_read > large.nbytes // 8:
            raise AssertionError(f"{format.name}: opening reads {store.bytes_read:,} bytes")
        for tensor in list(state.values())[1:]:
            before = store.bytes_read
            assert_equal_states(tensor.numpy(), large[0])
            read = store.bytes_read - before
            if read > 8 * large[0].nbytes:
                raise AssertionError(f"{format.name}: a tensor of 1 KiB reads {read:,} bytes")


def check_slices(format: Format, **options: Any) -> None:
    """Check that a slice of a large tensor reads little more than its own bytes."""
    large = np.arange(_ROWS * _COLUMNS, dtype=np.float32).reshape(_ROWS, _COLUMNS)
    files = encoded(format, fitting(format, large), **options)
    store = CountingStore(MemoryStore(files))
    with api.open(Location(store, _key(format))) as state:
        (tensor,) = state.values()
        for index in (slice(5, 7), (500, slice(3, 9)), (-1, -1), slice(0, 0)):
            before = store.bytes_read
            found = tensor[index]
            read = store.bytes_read - before
            assert_equal_states(found, np.asarray(large[index]))
            if read > found.nbytes + 8192:
                raise AssertionError(
                    f"{format.name}: {found.nbytes:,} bytes of {index} read {read:,}"
                )


def check_truncations(format: Format, value: Any = None, **options: Any) -> int:
    """Check that every truncation of a small file gives the right state or a TensorKeepError.

    Args:
        format: what to check.
        value: the state to save; a small one otherwise.
        options: what the format's `encode` takes.

    Returns:
        How many files were tried.
    """
    return _check_damage(format, value, options, _truncations)


def check_bit_flips(format: Format, value: Any = None, *, every: int = 1, **options: Any) -> int:
    """Check what every single flipped bit of a small file gives.

    With checksums, which `load(verify=True)` then checks, it is the right state or a
    TensorKeepError; without, it is any state or a TensorKeepError, and no other exception.

    Args:
        format: what to check.
        value: the state to save; a small one otherwise.
        every: flip every so many bits alone: with 7, every place is still met, and every bit.
        options: what the format's `encode` takes.

    Returns:
        How many files were tried.
    """
    return _check_damage(format, value, options, _flips, every)


def _truncations(data: bytes) -> Iterator[tuple[str, bytes]]:
    for length in range(len(data)):
        yield f"cut to {length} of {len(data)} bytes", data[:length]


def _flips(data: bytes) -> Iterator[tuple[str, bytes]]:
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytes([data[at] ^ (1 << bit)])
            yield f"bit {bit} of byte {at} flipped", data[:at] + flipped + data[at + 1 :]


def _check_damage(
    format: Format, value: Any, options: Mapping[str, Any], damages: Damages, least: int = 1
) -> int:
    value = _small(format) if value is None else value
    files = encoded(format, value, **options)
    with api.open(placed(format, files)) as state:
        metadata = state.metadata
    # A state without tensors passes in a format without checksums, too: ask with some as well.
    usual = encoded(format, _small(format), **options)
    verify = _verifiable(format, files) and _verifiable(format, usual)
    exact = verify or damages is _truncations
    tried = 0
    for key in files:
        # Of a folder's files and long ones, which repeat much, a seventh: every place, and every
        # bit of a byte.
        every = 7 if format.folder or len(files[key]) > _LONG else least
        for damage, data in itertools.islice(damages(files[key]), None, None, every):
            tried += 1
            where = f"{format.name}: {key} {damage}"
            try:
                location = placed(format, {**files, key: data})
                found = api.load(location, verify=verify)
                if exact:
                    assert_equal_states(found, value, where)
                    with api.open(location) as state:
                        assert_equal_states(state.metadata, metadata, f"{where}: metadata")
            except TensorKeepError:
                continue
            except AssertionError:
                raise
            except Exception as error:
                raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error
    return tried


def _verifiable(format: Format, files: Mapping[str, bytes]) -> bool:
    try:
        api.load(placed(format, files), verify=True)
    except UnsupportedError:
        return False
    return True
