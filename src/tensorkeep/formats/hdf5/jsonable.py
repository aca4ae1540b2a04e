"""Attributes of HDF5 objects as JSON values."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from tensorkeep.formats.hdf5.file import damage, h5py
from tensorkeep.state import Json

MAX_ATTRIBUTES = 10_000
_MAX_BYTES = 16 << 20
_MAX_TEXTS = 1 << 16  # of varying length, each of which is fetched by itself
# What stands for a value that JSON has no form for.
UNREAD = "not JSON"


def attributes(obj: Any, where: str = "") -> dict[str, Json]:
    """Give the attributes of an `h5py.Group` or `h5py.Dataset` as JSON values.

    A value that is none, such as a reference or a NaN, becomes `{"not JSON": WHAT IT IS}`.

    Raises:
        CorruptError: they cannot be read.
    """
    with damage(where):
        names = list(obj.attrs)[:MAX_ATTRIBUTES] if h5py().h5a.get_num_attrs(obj.id) else []
        return {name: attribute(obj, name) for name in names}


def attribute(obj: Any, name: str) -> Json:
    """Give one attribute as a JSON value; None where there is none, or where it is empty."""
    library = h5py()
    link = name.encode("utf-8", "surrogateescape")
    if not library.h5a.exists(obj.id, link):
        return None
    found = library.h5a.open(obj.id, link)
    space, kind = found.get_space(), found.get_type()
    if space.get_simple_extent_type() == library.h5s.NULL:
        return None
    h5t = library.h5t
    count = math.prod(space.get_simple_extent_dims())
    texts = kind.get_class() == h5t.STRING and kind.is_variable_str()
    most = min(_MAX_BYTES, library.h5i.get_file_id(obj.id).get_filesize())
    if count * kind.get_size() > most or (texts and count > _MAX_TEXTS):
        return {UNREAD: "too large"}
    if kind.get_class() != h5t.STRING and kind.detect_class(h5t.VLEN):
        # No JSON is made of them, and h5py dies of damaged ones.
        return {UNREAD: "lists of varying length"}
    try:
        value = obj.attrs[name]
    except (TypeError, UnicodeDecodeError) as error:  # a class of type that NumPy does not have
        return {UNREAD: str(error)}
    return to_json(value)


def to_json(value: Any) -> Json:
    """Turn what h5py gives for an attribute into a JSON value.

    >>> to_json(np.float32(0.5)), to_json(np.array([b"a", b"b"])), to_json(np.array([[1, 2]]))
    (0.5, ['a', 'b'], [[1, 2]])
    >>> to_json(float("nan"))
    {'not JSON': 'nan'}
    """
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufSUO":
            return {UNREAD: f"an array of {value.dtype}"}
        listed = _listed(value.tolist())
        return {UNREAD: f"an array of {value.dtype}"} if listed is _NONE else listed
    found = _scalar(value)
    return {UNREAD: str(value)[:200]} if found is _NONE else found


_NONE: Any = object()


def _listed(value: Any) -> Any:
    if not isinstance(value, list):
        return _scalar(value)
    found = [_listed(item) for item in value]
    return _NONE if any(item is _NONE for item in found) else found


def _scalar(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return _NONE
    if isinstance(value, float) and not math.isfinite(value):
        return _NONE
    if isinstance(value, str):
        return value if _is_text(value) else _NONE
    return value if value is None or type(value) in (bool, int, float) else _NONE


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return bool(json.dumps(value))
