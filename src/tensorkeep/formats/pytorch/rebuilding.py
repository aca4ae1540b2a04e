"""What pickles of torch's call to make tensors again, each as a record of what it was given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorkeep.formats.pytorch.storages import MODULES, STORAGES, TYPES, WIDTHS
from tensorkeep.wire.pickle.arrays import ARRAYS, PickledArray
from tensorkeep.wire.pickle.plain import PLAIN
from tensorkeep.wire.pickle.values import Buildable, Known, Opaque

Function = Callable[..., Any]


class Rebuilt(Buildable):
    """A tensor: a storage and how to look at it. What it was given besides is `state`."""

    __slots__ = ("conj", "kind", "neg", "offset", "shape", "state", "storage", "strides")

    def __init__(
        self,
        storage: Any,
        offset: Any,
        shape: Any,
        strides: Any,
        kind: Any = None,
        flags: Any = None,
    ) -> None:
        self.storage = storage
        self.offset = offset
        self.shape = shape
        self.strides = strides
        self.kind = kind  # where it is not that of the storage
        self.conj = self.neg = False
        self.state: Any = None
        if flags:
            self.conj = flags.get("conj") is True
            self.neg = flags.get("neg") is True

    def build(self, state: Any) -> None:
        self.state = state


class Parts:
    """A tensor of several tensors, or with values beside: what it is, and its parts by name."""

    __slots__ = ("parts", "what")

    def __init__(self, what: str, parts: dict[str, Any]) -> None:
        self.what = what
        self.parts = parts


class Valueless:
    """A tensor without values."""

    __slots__ = ()


class Size:
    """A torch.Size."""

    __slots__ = ("axes",)

    def __init__(self, axes: Any = ()) -> None:
        if type(axes) not in (tuple, list) or not all(type(n) is int for n in axes):
            raise TypeError("a size is not made of integers")
        self.axes = tuple(axes)


class Device:
    """A torch.device, by its text."""

    __slots__ = ("text",)

    def __init__(self, kind: Any, index: Any = None) -> None:
        if type(kind) is not str or type(index) not in (int, type(None)):
            raise TypeError("a device is not text and a number")
        self.text = kind if index is None else f"{kind}:{index}"


class Layout:
    """A torch.layout, by its text."""

    __slots__ = ("text",)

    def __init__(self, text: Any) -> None:
        if type(text) is not str:
            raise TypeError("a layout is not text")
        self.text = text


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Rebuilt:
    """Read `_rebuild_tensor_v2`, of which the last argument says how the values are seen."""
    if len(rest) > 2 and rest[2]:
        return Rebuilt(storage, offset, shape, strides, None, rest[2])
    return Rebuilt(storage, offset, shape, strides)


def _typed_tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    grad: Any,
    hooks: Any,
    kind: Any,
    flags: Any = None,
) -> Rebuilt:
    return Rebuilt(storage, offset, shape, strides, kind, flags)


def _parameter(data: Any, *rest: Any) -> Any:
    return data


def _parameter_with_state(data: Any, grad: Any, hooks: Any, state: Any) -> Any:
    if isinstance(data, Rebuilt):
        data.build(state)
    return data


def _from_type(function: Any, cls: Any, args: Any, state: Any = None) -> Any:
    """Read a tensor of a class, or with attributes of its own."""
    known = isinstance(function, Known) and function.module == "torch._utils"
    if not known or type(args) is not tuple:
        return Opaque("torch._tensor", "_rebuild_from_type_v2", (function, cls, args, state))
    made = function.make(*args)
    if not isinstance(cls, Known):
        return Opaque(getattr(cls, "module", "?"), getattr(cls, "name", "?"), (made,))
    if isinstance(made, Rebuilt):
        made.build(state)
    return made


def _quantized(storage: Any, offset: Any, shape: Any, strides: Any, how: Any, *rest: Any) -> Parts:
    codes = Rebuilt(storage, offset, shape, strides)
    scheme = how[0].name if type(how) is tuple and how and isinstance(how[0], Known) else ""
    kind = getattr(storage, "kind", "")
    if scheme == "per_tensor_affine" and len(how) == 3:
        parts = {"scale": how[1], "zero_point": how[2]}
    elif scheme.startswith("per_channel_affine") and len(how) == 4:
        parts = {"scales": how[1], "zero_points": how[2], "axis": how[3]}
    else:
        raise TypeError("a tensor is quantized in no known way")
    told = {"int_repr": codes, **parts, "scheme": scheme, "dtype": kind}
    return Parts(f"quantized, {kind} {scheme}", told)


def _sparse(layout: Any, data: Any) -> Parts:
    if not isinstance(layout, Layout) or type(data) is not tuple:
        raise TypeError("a sparse tensor has no layout")
    name = layout.text.removeprefix("torch.")
    if name == "sparse_coo":
        names = ["indices", "values", "size", "is_coalesced"]
    elif name in ("sparse_csr", "sparse_bsr"):
        names = ["crow_indices", "col_indices", "values", "size"]
    elif name in ("sparse_csc", "sparse_bsc"):
        names = ["ccol_indices", "row_indices", "values", "size"]
    else:
        raise TypeError(f"a sparse tensor is of layout {name[:40]!r}")
    if not 3 <= len(data) <= len(names):
        raise TypeError("a sparse tensor lacks parts")
    parts = dict(zip(names, data, strict=False))
    return Parts(f"of layout {name}", {**parts, "layout": name})


def _sparse_csr(crow: Any, col: Any, values: Any, size: Any, *rest: Any) -> Parts:
    return _sparse(Layout("torch.sparse_csr"), (crow, col, values, size))


def _nested(values: Any, sizes: Any, strides: Any, offsets: Any) -> Parts:
    parts = {"values": values, "sizes": sizes, "strides": strides, "offsets": offsets}
    return Parts("nested", parts)


def _meta(*args: Any) -> Valueless:
    return Valueless()


def _from_numpy(data: Any, *rest: Any) -> Any:
    if not isinstance(data, PickledArray):
        raise TypeError("a tensor is made of what is no array")
    return data


def _plain_list(items: Any) -> list[Any]:
    if type(items) not in (list, tuple):
        raise TypeError("a list is made of what is none")
    return list(items)


def _never(*args: Any) -> Any:
    raise TypeError("it is named, never called, in an honest file")


_UTILS: dict[str, Function] = {
    "_rebuild_tensor": Rebuilt,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_tensor_v3": _typed_tensor,
    "_rebuild_parameter": _parameter,
    "_rebuild_parameter_with_state": _parameter_with_state,
    "_rebuild_qtensor": _quantized,
    "_rebuild_sparse_tensor": _sparse,
    "_rebuild_sparse_csr_tensor": _sparse_csr,
    "_rebuild_nested_tensor": _nested,
    "_rebuild_meta_tensor_no_storage": _meta,
    "_rebuild_device_tensor_from_numpy": _from_numpy,
    "_rebuild_device_tensor_from_cpu_tensor": _parameter,
    "_rebuild_xla_tensor": _from_numpy,
}
_TENSORS = ("Tensor", *(name.replace("Storage", "Tensor") for name in STORAGES))
_SCHEMES = ("per_tensor_affine", "per_channel_affine", "per_channel_affine_float_qparams")

# Every name that may stand in a file of torch's, with what is called for it here.
ALLOWED: dict[tuple[str, str], Function] = {
    **PLAIN,
    **ARRAYS,
    **{("torch._utils", name): make for name, make in _UTILS.items()},
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("torch.tensor", "_rebuild_from_type_v2"): _from_type,
    ("torch.serialization", "_get_layout"): Layout,
    ("torch", "Size"): Size,
    ("torch", "device"): Device,
    ("torch.nn.parameter", "Parameter"): _parameter,
    ("torch.nn.parameter", "Buffer"): _parameter,
    **{
        ("torch.jit._pickle", f"build_{kind}list"): _plain_list
        for kind in ("int", "double", "bool")
    },
    ("torch.jit._pickle", "build_tensorlist"): _plain_list,
    **{("torch", name): _never for name in (*WIDTHS, *_SCHEMES, *_TENSORS)},
    **{(module, name): _never for module in MODULES for name in STORAGES},
}
DTYPE_NAMES = frozenset(WIDTHS) | frozenset(TYPES)
