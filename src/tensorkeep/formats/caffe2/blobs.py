"""Blobs as a state has them: tensors, and metadata for all that tensors cannot say.

Under `caffe2` in the metadata stand, each only where there is something to say:

    "types": {BLOB: TYPE}          Caffe2's type of every blob that is not a plain tensor
    "details": {BLOB: {...}}       what such a blob holds beside its tensors
    "devices": {BLOB: "CUDA:1"}    where a blob was kept, if not on the CPU
    "predictor": {...}             a summary of a predictor export's nets; for reading only
    "not_read": {BLOB: TYPE}       blobs of types that nothing here reads; for reading only

A `std::string` is a scalar string tensor, a quantized tensor its data, a counter a scalar, an index
its keys, a cursor its offsets, and a map the tensors BLOB/keys and BLOB/values. A tensor of blobs
is a string tensor of serialized BlobProtos. Mutexes and readers are in the metadata alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorkeep import dtypes
from tensorkeep.errors import ArgumentError, FormatError
from tensorkeep.formats.caffe2.describe import describe_predictor
from tensorkeep.source import MemorySource, Source
from tensorkeep.state import Json
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.decode import parse_part
from tensorkeep.wire.caffe2.encode import join_blob
from tensorkeep.wire.caffe2.messages import round_float32
from tensorkeep.wire.caffe2.states import Assembly
from tensorkeep.wire.caffe2.values import (
    COUNTER,
    CPU,
    DB_READER,
    INDEX,
    INT8_TENSOR,
    KINDS,
    MAPS,
    QTENSOR,
    READER_DEFAULTS,
    STRING,
    TENSOR,
    TREE_CURSOR,
    Blob,
    DBReaderState,
    Device,
    Index,
    Int8Tensor,
    Map,
    NestedBlobs,
    QTensor,
    TreeCursor,
)

KEY = "caffe2"
META_NET_DEF = "!!META_NET_DEF"
NOT_READ = "not_read"
FOR_READING = frozenset(("predictor", "net", "not_made", NOT_READ))  # never written back

Details = dict[str, Json]


@dataclass(slots=True)
class Gathered:
    """The tensors of many blobs, and what else there is to say of them."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)

    def note(self, group: str, name: str, value: Json) -> None:
        """Put a value into one of the groups of the metadata."""
        self.metadata.setdefault(group, {})[name] = value


def gather(blobs: Mapping[str, Blob], describe: Callable[[str], str] = lambda name: "") -> Gathered:
    """Turn blobs into tensors and metadata.

    Args:
        blobs: by name.
        describe: says how a blob was kept, for the remarks.
    """
    found = Gathered()
    for name, blob in blobs.items():
        tensors, details, remark = _spread(name, blob, blobs)
        found.tensors.update(tensors)
        if text := ", ".join(filter(None, (describe(name), remark))):
            found.remarks.update(dict.fromkeys(tensors, text))
        if blob.device.type:
            found.note("devices", name, str(blob.device))
        if blob.kind != TENSOR or details:
            found.note("types", name, blob.kind)
        if details:
            found.note("details", name, details)
        if name == META_NET_DEF and blob.kind == STRING:
            found.metadata["predictor"] = describe_predictor(blob.value)
    return found


def tensor_names(gathered: Gathered, blob: str) -> list[str]:
    """List the tensors that a blob became."""
    if blob in gathered.tensors:
        return [blob]
    details = gathered.metadata.get("details", {}).get(blob)
    return _part_names(details, gathered.tensors)


def blobs_of(tensors: Mapping[str, Tensor], metadata: Json) -> dict[str, Blob]:
    """Put blobs together again, in the order of their tensors; those without any come last.

    Args:
        tensors: what `gather` gave, or any others.
        metadata: what it gave, or None.

    Raises:
        ArgumentError: the metadata does not fit the tensors.
    """
    known = metadata if isinstance(metadata, dict) else {}
    types, details, devices = (_group(known, key) for key in ("types", "details", "devices"))
    parts = {
        of: name
        for name, kind in types.items()
        if kind in MAPS
        for of in _part_names(details.get(name), tensors)
    }
    blobs: dict[str, Blob] = {}
    for tensor_name in tensors:
        name = parts.get(tensor_name, tensor_name)
        if name not in blobs:
            blobs[name] = _collect(name, types.get(name, TENSOR), tensors, details.get(name, {}))
    for name, kind in types.items():
        if name not in blobs and kind not in _WITH_TENSORS:
            blobs[name] = _collect(name, kind, tensors, details.get(name, {}))
    for name, text in devices.items():
        if name in blobs and blobs[name].kind == TENSOR:  # others have no room for it
            blobs[name].device = _device(name, text)
    return blobs


def _group(metadata: Mapping[str, Json], key: str) -> dict[str, Any]:
    found = metadata.get(key, {})
    if not isinstance(found, dict):
        raise ArgumentError(f"{key!r} in the {KEY!r} metadata is not a dict")
    if key == "types" and not all(isinstance(kind, str) for kind in found.values()):
        raise ArgumentError(f"a type in the {KEY!r} metadata is not text")
    return found


def _part_names(details: Any, tensors: Mapping[str, Tensor]) -> list[str]:
    """Give the names of a map's tensors, if both are there."""
    found = [details.get(part) for part in ("keys", "values")] if isinstance(details, dict) else []
    names = [name for name in found if isinstance(name, str) and name in tensors]
    return names if len(names) == len(found) else []


Spread = tuple[dict[str, Tensor], Details, str]


def _spread(name: str, blob: Blob, taken: Mapping[str, Blob]) -> Spread:
    """Give a blob's tensors by name, its details and what to remark."""
    value = blob.value
    if isinstance(value, Tensor):
        return {name: value}, {}, ""
    if isinstance(value, bytes):
        return {name: Tensor.of(np.array(_text(value), object))}, {}, ""
    if isinstance(value, Int8Tensor):
        scale, zero = value.scale, value.zero_point
        details: Details = {"scale": _number(scale), "zero_point": zero}
        return {name: value.data}, details, f"scale {scale:g}, zero point {zero}"
    if isinstance(value, NestedBlobs):
        texts = np.empty(len(value.blobs), object)
        texts[:] = [_text(join_blob("", element)) for element in value.blobs]
        return {name: Tensor.of(texts.reshape(value.shape))}, {"elements": "blobs"}, "blobs"
    if isinstance(value, int):
        return {name: Tensor.of(np.array(value, np.int64))}, {}, ""
    if isinstance(value, Index):
        details = {"max_elements": value.max_elements, "frozen": value.frozen}
        return {name: value.keys}, details, ""
    if isinstance(value, TreeCursor):
        tensors = {} if value.offsets is None else {name: value.offsets}
        return tensors, {"fields": list(value.fields)}, ""
    if isinstance(value, Map):
        keys, values = (_free(f"{name}/{part}", taken) for part in ("keys", "values"))
        return {keys: value.keys, values: value.values}, {"keys": keys, "values": values}, ""
    if isinstance(value, DBReaderState):
        details = {key: getattr(value, key) for key in ("name", "source", "db_type", "key")}
        for key, usual in READER_DEFAULTS.items():
            if (found := getattr(value, key)) != usual:
                details[key] = found
        return {}, details, ""
    if isinstance(value, QTensor):
        details = {
            "shape": list(value.shape),
            "precision": value.precision,
            "scale": _number(value.scale),
            "bias": _number(value.bias),
            "is_signed": value.is_signed,
        }
        return (
            {name: value.data},
            details,
            f"{value.precision} bits, scale {value.scale:g}, bias {value.bias:g}",
        )
    return {}, {}, ""


def _free(name: str, taken: Mapping[str, Blob]) -> str:
    while name in taken:
        name += "_"
    return name


def _collect(name: str, kind: Any, tensors: Mapping[str, Tensor], details: Any) -> Blob:
    """Put one blob together again."""
    if not isinstance(details, dict) or (kind != TENSOR and kind not in KINDS):
        raise _misfit(name, kind)
    if kind not in _WITH_TENSORS and kind != TREE_CURSOR and name in tensors:
        raise _misfit(name, kind)
    if kind == TENSOR and not details:
        return Blob(TENSOR, tensors[name])
    make = _MAKERS.get(kind)
    if make is None and kind in MAPS:
        make = _make_map
    try:
        return Blob(kind, None if make is None else make(name, tensors, details))
    except (LookupError, TypeError, ValueError, OverflowError):
        raise _misfit(name, kind) from None


def _misfit(name: str, kind: object) -> ArgumentError:
    return ArgumentError(
        f"the {KEY!r} metadata calls {name!r} a {kind}, which its tensors and details do not make",
        cure=f"Drop {KEY!r} from the metadata to keep plain tensors.",
    )


def _make_tensor(name: str, tensors: Mapping[str, Tensor], details: Details) -> Any:
    if details.get("elements") != "blobs" or tensors[name].dtype is not dtypes.STRING:
        raise ValueError
    texts = tensors[name].numpy().reshape(-1)
    if not texts.size:  # which Caffe2 reads as numbers
        raise ValueError
    return NestedBlobs(tensors[name].shape, [_parse(_bytes(text), name) for text in texts])


def _make_string(name: str, tensors: Mapping[str, Tensor], details: Details) -> Any:
    if tensors[name].dtype is not dtypes.STRING or tensors[name].shape:
        raise ValueError
    return _bytes(tensors[name].numpy().item())


def _make_int8(name: str, tensors: Mapping[str, Tensor], details: Details) -> Any:
    data = _of_type(tensors[name], dtypes.UINT8, dtypes.INT32)
    scale, zero_point = round_float32(_float(details["scale"])), _integer(details["zero_point"])
    if not _fits_int32(zero_point):
        raise ValueError
    return Int8Tensor(data, scale, zero_point)


def _make_qtensor(name: str, tensors: Mapping[str, Tensor], details: Details) -> Any:
    shape, precision, signed = (
        details["shape"],
        _integer(details["precision"]),
        details["is_signed"],
    )
    if not isinstance(shape, list) or not isinstance(signed, bool):
        raise ValueError
    axes = tuple(map(_integer, shape))
    count = math.prod(axes) if axes else 0  # a scalar has no room
    planes = (precision + signed) * -(-count // 8)
    least, fits = min(axes, default=0), _fits_int32(precision)
    if min(least, precision) < 0 or not fits or tensors[name].shape != (planes,):
        raise ValueError
    data = _of_type(tensors[name], dtypes.UINT8)
    return QTensor(axes, precision, _float(details["scale"]), _float(details["bias"]), signed, data)


def _make_counter(name: str, tensors: Mapping[str, Tensor], details: Details) -> Any:
    return int(_of_type(tensors[name], dtypes.INT64).numpy().item())


def _make_index(name: str, tensors: Mapping[str, Tensor], details: Details) -> Any:
    keys = _of_type(tensors[name], dtypes.INT32, dtypes.INT64, dtypes.STRING)
    frozen = details["frozen"]
    if not isinstance(frozen, bool):
        raise ValueError
    return Index(keys, _integer(details["max_elements"]), frozen)


def _make_cursor(name: str, tensors: Mapping[str, Tensor], details: Details) -> Any:
    fields = details["fields"]
    if not isinstance(fields, list) or not all(map(_is_field, fields)):
        raise ValueError
    offsets = _of_type(tensors[name], dtypes.INT64) if name in tensors else None
    return TreeCursor(offsets, list(map(_string, fields)))


def _make_map(name: str, tensors: Mapping[str, Tensor], details: Details) -> Any:
    keys, values = tensors[_string(details["keys"])], tensors[_string(details["values"])]
    integers = (dtypes.INT32, dtypes.INT64)
    return Map(_of_type(keys, *integers), _of_type(values, *integers))


def _make_reader(name: str, tensors: Mapping[str, Tensor], details: Details) -> Any:
    name, source, kind, key = (
        _string(details[part]) for part in ("name", "source", "db_type", "key")
    )
    extra = {key: _integer(details.get(key, usual)) for key, usual in READER_DEFAULTS.items()}
    if not 0 <= extra["shard_id"] < extra["num_shards"] < 2**63 or not 0 <= extra["record"] < 2**63:
        raise ValueError
    return DBReaderState(name, source, kind, key, **extra)


_MAKERS: dict[str, Callable[[str, Mapping[str, Tensor], Details], Any]] = {
    TENSOR: _make_tensor,
    STRING: _make_string,
    INT8_TENSOR: _make_int8,
    QTENSOR: _make_qtensor,
    COUNTER: _make_counter,
    INDEX: _make_index,
    TREE_CURSOR: _make_cursor,
    DB_READER: _make_reader,
}
_WITH_TENSORS = frozenset((TENSOR, STRING, INT8_TENSOR, QTENSOR, COUNTER, INDEX, *MAPS))


def _of_type(tensor: Tensor, *wanted: dtypes.DType) -> Tensor:
    if tensor.dtype not in wanted:
        raise ValueError
    return tensor


def _integer(value: Any) -> int:
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise ValueError
    return value


def _is_field(value: Any) -> bool:
    """Tell whether a text can be one of those that are kept with spaces between."""
    return _string(value) != "" and " " not in value


def _fits_int32(value: int) -> bool:
    return -(2**31) <= value < 2**31


def _parse(data: bytes, name: str) -> Blob:
    """Read an element of a tensor of blobs, which is written as the same bytes again."""
    try:
        blob = read_blob(MemorySource(data, name), 0, len(data), name)
        if join_blob("", blob) == data:
            return blob
    except FormatError as error:
        raise ValueError from error
    raise ValueError


def read_blob(source: Source, start: int, stop: int, where: str) -> Blob:
    """Read a bare BlobProto.

    Raises:
        CorruptError: it is not one, or not whole.
    """
    part = parse_part("", source, where, start=start, stop=stop)
    assembly = Assembly()
    assembly.add("", part)
    found: Blob = assembly.result("")
    return found


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    if _text(_bytes(value)) != value:
        raise ValueError
    return value


def _number(value: float) -> Json:
    """Write a float as JSON can hold it."""
    return value if math.isfinite(value) else str(value)


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    return float(value)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _bytes(text: Any) -> bytes:
    return str(text).encode("utf-8", "surrogateescape")


def _device(name: str, text: Any) -> Device:
    """Read what `str(device)` wrote."""
    found = re.fullmatch(r"(.+):(-?[0-9]{1,10})", text) if isinstance(text, str) else None
    which = int(found[2]) if found else 0
    for type_number in range(1, 64):
        if found and _fits_int32(which) and str(Device(type_number, which)) == text:
            return Device(type_number, which)
    if text == str(CPU):
        return CPU
    raise ArgumentError(
        f"the {KEY!r} metadata puts {name!r} on {text!r}, which is no device",
        cure='Write it as "CUDA:1".',
    )
