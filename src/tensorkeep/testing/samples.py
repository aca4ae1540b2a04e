"""Values to test with: every element type, shape and kind of nesting, unusual bits included."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tensorkeep.dtypes import BOOL, DTYPES, STRING, DType, count_of, pack_strings
from tensorkeep.source import MemorySource
from tensorkeep.tensor import Tensor

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

SHAPES: tuple[tuple[int, ...], ...] = (
    (),
    (0,),
    (1,),
    (3,),
    (2, 3, 4),
    (0, 3),
    (3, 0),
    (1, 1, 1),
)

# "\udcff" is how the byte 0xff, which is not UTF-8, is kept in a string tensor.
_TEXTS = ("$w", "", "ünï", "\0", "\U0001d11e", 'a "b"\n', "\\", "\udcff")


def sample(dtype: DType, shape: tuple[int, ...]) -> Tensor:
    """Make a tensor whose bits are random and always the same: NaN payloads, infinities and all.

    Of block types the shape's last axis counts blocks.

    >>> sample(DTYPES["float8_e5m2"], (2, 3))
    Tensor(float8_e5m2, (2, 3))
    """
    if dtype.block > 1:
        shape = (*shape[:-1], dtype.block * (shape[-1] if shape else 1))
    count = count_of(shape)
    if dtype is STRING:
        text = pack_strings(_TEXTS[i % len(_TEXTS)] for i in range(count))
        return Tensor(dtype, shape, MemorySource(text), 0, len(text))
    seed = f"{dtype} {shape}".encode()
    data = hashlib.shake_128(seed).digest(dtype.nbytes(count))
    return Tensor(dtype, shape, MemorySource(_valid(data, dtype, count)))


def _valid(data: bytes, dtype: DType, count: int) -> bytes:
    """Clear the bits that are always zero: of a bool, and behind the last packed element."""
    if dtype is BOOL:
        return bytes(byte & 1 for byte in data)
    used = count * dtype.bits % 8 if dtype.block == 1 else 0
    return data[:-1] + bytes([data[-1] & ((1 << used) - 1)]) if used else data


def samples(
    dtypes: Iterable[DType] = tuple(DTYPES.values()),
    shapes: Iterable[tuple[int, ...]] = SHAPES,
) -> dict[str, Tensor]:
    """Make one tensor of every element type and shape, named after both.

    >>> list(samples([DTYPES["int4"]], [(), (2, 3)]))
    ['int4', 'int4-2x3']
    """
    chosen = list(shapes)
    return {
        "-".join(filter(None, [dtype.name, "x".join(map(str, shape))])): sample(dtype, shape)
        for dtype in dtypes
        for shape in chosen
    }


def arrays(
    dtypes: Iterable[DType] = tuple(DTYPES.values()),
) -> SearchStrategy[npt.NDArray[Any]]:
    """Give a hypothesis strategy for arrays of any type, shape, layout and bits."""
    from hypothesis import strategies as st

    kinds = st.sampled_from(list(dtypes))
    shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)

    @st.composite
    def build(draw: Any) -> npt.NDArray[Any]:
        kind, shape = draw(kinds), draw(shapes)
        count = count_of(shape)
        if kind is STRING:
            texts = draw(st.lists(st.text(max_size=4), min_size=count, max_size=count))
            return np.array(texts, object).reshape(shape)
        size = kind.nbytes(count)
        data = _valid(draw(st.binary(min_size=size, max_size=size)), kind, count)
        relaid: npt.NDArray[Any] = draw(_layouts())(Tensor(kind, shape, MemorySource(data)).numpy())
        return relaid

    return build()


def _layouts() -> SearchStrategy[Any]:
    """Choose what lies in memory for the same values."""
    from hypothesis import strategies as st

    return st.sampled_from([_plain, np.asfortranarray, _spread, _backwards, _swapped])


def _plain(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array


def _spread(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Leave room between the elements of the last axis."""
    if not array.ndim:
        return array
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


def _backwards(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Store the first axis from its end, with a negative stride."""
    return array[::-1].copy()[::-1] if array.ndim else array


def _swapped(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Store elements in the other byte order, where NumPy knows one for the type."""
    if array.dtype.kind not in "iufc" or array.dtype.itemsize == 1 or not array.dtype.isbuiltin:
        return array
    return array.byteswap().view(array.dtype.newbyteorder())


def states(max_leaves: int = 12) -> SearchStrategy[Any]:
    """Give a hypothesis strategy for everything that `save` takes, nested."""
    from hypothesis import strategies as st

    text = st.text(max_size=6) | st.sampled_from(["", "$", "$$", "$tuple", "a.b", "..", "a/../b"])
    plain = (
        st.none()
        | st.booleans()
        | st.integers(-(2**80), 2**80)
        | st.floats()
        | st.complex_numbers()
        | text
        | st.binary(max_size=8)
    )
    numeric = [dtype for dtype in DTYPES.values() if dtype is not STRING]
    scalars = arrays(numeric).filter(lambda array: array.size > 0).map(_first)
    leaves = plain | scalars | arrays()
    # A NaN is not equal to itself, so a dict with such a key cannot be compared.
    key = text | st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none()
    keys = key | st.tuples(key, key)

    def nest(child: SearchStrategy[Any]) -> SearchStrategy[Any]:
        return (
            st.lists(child, max_size=4)
            | st.lists(child, max_size=4).map(tuple)
            | st.dictionaries(text, child, max_size=4)
            | st.dictionaries(keys, child, max_size=4)
            | st.dictionaries(keys, child, max_size=4).map(OrderedDict)
        )

    return st.recursive(leaves, nest, max_leaves=max_leaves)


def _first(array: npt.NDArray[Any]) -> Any:
    return array.astype(array.dtype.newbyteorder("="), copy=False).reshape(-1)[0]
