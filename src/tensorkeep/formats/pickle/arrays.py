"""Arrays in pickles whose bytes stay in the file, and joblib's, whose bytes follow their pickle.

joblib writes `NumpyArrayWrapper` with the class, shape, order and type of an array, and behind the
instruction that fills it in a byte that counts the padding, the padding, and the elements; versions
before 1.2 pad nothing. Facts from joblib 1.5's numpy_pickle.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorkeep import dtypes
from tensorkeep.dtypes import STRING
from tensorkeep.errors import CorruptError, UnsupportedError
from tensorkeep.source import Source
from tensorkeep.tree.pickled import Unkept
from tensorkeep.wire.npy import Header
from tensorkeep.wire.pickle.arrays import ARRAYS, PickledArray, PickledScalar, type_of
from tensorkeep.wire.pickle.lazy import Followed, Span
from tensorkeep.wire.pickle.plain import PLAIN
from tensorkeep.wire.pickle.values import Known, shown

_MAX_ALIGN = 255


class LazyArray(PickledArray):
    """An array whose bytes may have been left in the file, and what it was seen as."""

    __slots__ = ("seen",)

    def __init__(self) -> None:
        super().__init__()
        self.seen: Any = None


class JoblibArray(Followed):
    """An array of joblib's."""

    __slots__ = ("array", "fields")

    def __init__(self, *args: Any) -> None:
        self.fields: Any = None
        self.array = LazyArray()

    def build(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise CorruptError("its pickle has an array of joblib's without a state", where="it")
        self.fields = state

    def follow(self, source: Source, at: int) -> int:
        """Find the elements; give where the pickle goes on."""
        fields, array = self.fields, self.array
        kind, shape = type_of(fields.get("dtype")), fields.get("shape")
        if type(shape) is not tuple or not all(type(n) is int and 0 <= n < 2**59 for n in shape):
            raise CorruptError("has an array of joblib's without a shape", where=source.where)
        align = fields.get("numpy_array_alignment_bytes")
        if align is not None:
            if type(align) is not int or not 0 < align <= _MAX_ALIGN:
                raise CorruptError(f"aligns an array to {shown(align)}", where=source.where)
            at += 1 + source.read(at, at + 1)[0]
        size = dtypes.count_of(shape) * kind.itemsize
        if at + size > source.size:
            raise CorruptError(
                f"an array of {size:,} bytes starts at byte {at:,}, but there are {source.size:,}",
                where=source.where,
                cure="It is cut short, or lies about sizes.",
            )
        array.shape, array.kind = shape, fields.get("dtype")
        array.fortran = fields.get("order") == "F"
        array.data = Span(source, at, size)
        return at + size


def look(value: Any, place: str) -> Any:
    """Give what a value stands for, as `nest_pickled` asks."""
    if type(value) is Span:
        return value.read()
    if type(value) is JoblibArray:
        kind = value.fields.get("subclass") if value.fields else None
        if isinstance(kind, Known) and kind.path == "numpy.ndarray":
            return value.array
        return Unkept(f"is an array of the class {getattr(kind, 'path', '?')[:200]}", value.array)
    if type(value) is not LazyArray:
        return value
    if value.seen is None:  # the same one each time, so that it is kept once
        value.seen = _seen(value)
    return value.seen


def _seen(value: LazyArray) -> Any:
    try:
        kind = type_of(value.kind)
        dtype = dtypes.of_numpy(kind)
    except UnsupportedError as error:
        return Unkept(f"is {error.problem}")
    data = value.data
    if type(data) is Span and dtype is not STRING:
        return _tensor(value, data, Header(0, len(data), dtype, kind, value.shape, value.fortran))
    plain = PickledArray()
    plain.shape, plain.kind, plain.fortran = value.shape, value.kind, value.fortran
    plain.data = data.read() if type(data) is Span else data
    return plain


def _tensor(value: LazyArray, data: Span, header: Header) -> Any:
    shape = value.shape
    if type(shape) is not tuple or not all(type(n) is int and 0 <= n < 2**59 for n in shape):
        raise CorruptError("its pickle has a NumPy array of no shape", where=data.source.where)
    size = dtypes.count_of(shape) * header.numpy.itemsize
    if size != len(data):
        raise CorruptError(
            f"its pickle has a NumPy array of {len(data):,} bytes where its shape takes {size:,}",
            where=data.source.where,
        )
    return header.tensor(data.source, data.offset)


def _reconstruct(*args: Any) -> Any:
    made = ARRAYS["numpy.core.multiarray", "_reconstruct"](*args)
    return LazyArray() if type(made) is PickledArray else made


def _from_buffer(*args: Any) -> LazyArray:
    made, lazy = ARRAYS["numpy.core.numeric", "_frombuffer"](*args), LazyArray()
    lazy.shape, lazy.kind, lazy.fortran, lazy.data = made.shape, made.kind, made.fortran, made.data
    return lazy


def _scalar(kind: Any, data: Any = b"") -> PickledScalar:
    return PickledScalar(kind, data.read() if type(data) is Span else data)


def _reading(make: Callable[..., Any]) -> Callable[..., Any]:
    """Have a function get bytes where it is given those left in the file."""

    def made(*args: Any) -> Any:
        return make(*(arg.read() if type(arg) is Span else arg for arg in args))

    return made


def _evaluated(text: Any, names: Any = None, *rest: Any) -> Any:
    """Read what Paddle pickles a LoDTensor as: `eval("data", {"data": array})`."""
    if text == "data" and isinstance(names, dict) and list(names) == ["data"] and not rest:
        return names["data"]
    raise CorruptError(
        "its pickle would evaluate text as a program",
        where="the pickle",
        cure="Do not trust it.",
    )


_LAZY: dict[str, Callable[..., Any]] = {
    "_reconstruct": _reconstruct,
    "_frombuffer": _from_buffer,
    "scalar": _scalar,
}

# Every name that may stand in a pickle of data, with what is called for it here.
ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    **{path: _reading(make) for path, make in PLAIN.items()},
    **{path: _LAZY.get(path[1], make) for path, make in ARRAYS.items()},
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): JoblibArray,
    ("builtins", "eval"): _evaluated,
    ("__builtin__", "eval"): _evaluated,
}
