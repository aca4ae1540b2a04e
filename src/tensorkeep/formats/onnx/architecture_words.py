"""The words of an architecture for ONNX's messages: graphs, nodes, attributes, values, tensors.

Each message has words for its usual fields; one that has others keeps those under "more", and a
value that no word fits stands under "onnx", both as protobuf maps them to JSON.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from tensorkeep import dtypes
from tensorkeep.errors import CorruptError
from tensorkeep.graph import KINDS, NUMBERS, fill_tensor, read_tensor, set_external
from tensorkeep.graph.codec import LISTS, external_entries
from tensorkeep.graph.schema import (
    ATTRIBUTE,
    ATTRIBUTE_TYPES,
    EXTERNAL,
    GRAPH,
    NODE,
    TENSOR,
    TYPE,
    VALUE_INFO,
)
from tensorkeep.message import Message, Schema
from tensorkeep.message.printing import shortest
from tensorkeep.message.scanning import MAX_DEPTH
from tensorkeep.source import MemorySource
from tensorkeep.tensor import Tensor

Words = dict[str, Any]

_MORE, _ONNX = "more", "onnx"
_GRAPH = {"name": "name", "doc": "doc_string"}
_NODE = {
    "op": "op_type",
    "domain": "domain",
    "overload": "overload",
    "name": "name",
    "doc": "doc_string",
}
_GRAPH_WORDS = frozenset((*_GRAPH, "inputs", "outputs", "weights", "nodes", "values", _MORE))
_NODE_WORDS = frozenset((*_NODE, "inputs", "outputs", "attributes", _MORE))
_TENSOR_WORDS = frozenset(("dtype", "shape", "values", "raw", "file", "offset", "length", _MORE))
_TYPE_OF = ATTRIBUTE_TYPES.names
_MOST_GRAPHS = MAX_DEPTH // 3  # each is in an attribute of a node
_LISTED_KINDS = ("int", "uint", "bool")


def leftover(rest: Message) -> Words:
    """Give what of a message has no words, as "more"; nothing where there is nothing."""
    return {_MORE: json.loads(rest.to_json())} if any(True for _ in rest) else {}


def take_more(schema: Schema, words: Mapping[str, Any], where: str) -> Message:
    """Start a message from what stands under "more"."""
    if _MORE not in words:
        return Message(schema)
    return Message.from_json(schema, json.dumps(words[_MORE]), where)


def graph_words(graph: Message) -> Words:
    """Give a graph in words."""
    words: Words = {}
    rest = graph.copy()
    for word, field in _GRAPH.items():
        if field in graph:
            words[word] = graph[field]
            rest.drop(field)
    for word, field in (("inputs", "input"), ("outputs", "output")):
        words[word] = [value_words(row) for row in graph[field]]
    weights = {tensor.name: tensor_words(tensor, named=True) for tensor in graph.initializer}
    if len(weights) == len(graph.initializer):
        words["weights"] = weights
        if "initializer" in rest:
            rest.drop("initializer")
    words["nodes"] = [node_words(node) for node in graph.node]
    if "value_info" in graph:
        words["values"] = [value_words(row) for row in graph.value_info]
    for field in ("input", "output", "node", "value_info"):
        if field in rest:
            rest.drop(field)
    return words | leftover(rest)


def graph_from(words: Any, where: str, within: int = 0) -> Message:
    """Read a graph, which lies within so many others.

    Raises:
        CorruptError: it is no such thing.
    """
    if within > _MOST_GRAPHS:
        raise CorruptError("its graphs nest too deeply", where=where[:200])
    words = _object(words, _GRAPH_WORDS, where)
    graph = take_more(GRAPH, words, where)
    for word, field in _GRAPH.items():
        if word in words:
            graph[field] = words[word]
    for word, field, take in (
        ("nodes", "node", partial(node_from, within=within)),
        ("inputs", "input", value_from),
        ("outputs", "output", value_from),
        ("values", "value_info", value_from),
    ):
        rows = _list(words.get(word, []), f"{where}.{word}")
        if rows:
            graph[field] = [take(row, f"{where}.{word}[{i}]") for i, row in enumerate(rows)]
    weights = words.get("weights", {})
    if not isinstance(weights, dict):
        raise CorruptError("weights is to be an object of tensors by name", where=where)
    if weights:
        graph["initializer"] = [
            tensor_from(row, f"{where}.weights[{name!r}]", name) for name, row in weights.items()
        ]
    return graph


def node_words(node: Message) -> Words:
    """Give a node in words."""
    words: Words = {}
    rest = node.copy()
    for word, field in _NODE.items():
        if field in node:
            words[word] = node[field]
            rest.drop(field)
    words["inputs"], words["outputs"] = list(node.input), list(node.output)
    attributes = {row.name: attribute_words(row) for row in node.attribute}
    if attributes and len(attributes) == len(node.attribute):
        words["attributes"] = attributes
        rest.drop("attribute")
    for field in ("input", "output"):
        if field in rest:
            rest.drop(field)
    return words | leftover(rest)


def node_from(words: Any, where: str, within: int = 0) -> Message:
    """Read a node of a graph that lies within so many others."""
    words = _object(words, _NODE_WORDS, where)
    if not isinstance(words.get("op"), str) and _MORE not in words:
        raise CorruptError('a node needs its operator as "op"', where=where)
    node = take_more(NODE, words, where)
    for word, field in (("inputs", "input"), ("outputs", "output")):
        if rows := _list(words.get(word, []), f"{where}.{word}"):
            node[field] = rows
    for word, field in _NODE.items():
        if word in words:
            node[field] = words[word]
    attributes = words.get("attributes", {})
    if not isinstance(attributes, dict):
        raise CorruptError("attributes is to be an object", where=where)
    if attributes:
        node["attribute"] = [
            attribute_from(name, value, f"{where}.attributes[{name!r}]", within)
            for name, value in attributes.items()
        ]
    return node


def attribute_words(row: Message) -> Any:
    """Give the value of an attribute in words."""
    kind = _TYPE_OF.get(row.type, "")
    writer = _WRITERS.get(kind)
    if writer is not None and set(row) == {"name", "type", writer[0]} and not row.unknown():
        return writer[1](row[writer[0]])
    if kind in _EMPTY and set(row) == {"name", "type"} and not row.unknown():
        return {kind.lower(): []}
    if "ref_attr_name" in row and set(row) == {"name", "type", "ref_attr_name"}:
        return {"ref": row.ref_attr_name, "type": kind}
    rest = row.copy()
    rest.drop("name")
    return {_ONNX: json.loads(rest.to_json())}


def _float_words(value: float) -> Any:
    return float(shortest([value])[0]) if np.isfinite(value) else {"float": str(float(value))}


def _floats_words(values: Any) -> Any:
    listed = [float(value) for value in values]
    if not np.isfinite(listed).all():
        return {"floats": [_float_words(value) for value in listed]}
    return [float(value) for value in shortest(listed)]


def _string_words(value: Any) -> Any:
    raw = bytes(value)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"bytes": _base64(raw)}


_WRITERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "FLOAT": ("f", _float_words),
    "INT": ("i", int),
    "STRING": ("s", _string_words),
    "FLOATS": ("floats", _floats_words),
    "INTS": ("ints", lambda values: [int(value) for value in values]),
    "STRINGS": ("strings", lambda values: [_string_words(value) for value in values]),
    "TENSOR": ("t", lambda tensor: {"tensor": tensor_words(tensor)}),
    "TENSORS": ("tensors", lambda rows: {"tensors": [tensor_words(row) for row in rows]}),
    "GRAPH": ("g", lambda graph: {"graph": graph_words(graph)}),
    "GRAPHS": ("graphs", lambda rows: {"graphs": [graph_words(row) for row in rows]}),
}
_EMPTY = frozenset(("FLOATS", "INTS", "STRINGS", "TENSORS", "GRAPHS"))


def attribute_from(name: str, value: Any, where: str, within: int = 0) -> Message:
    """Read an attribute of a node.

    Raises:
        CorruptError: it is nothing that an attribute can be.
    """
    row = Message(ATTRIBUTE, name=name)
    match value:
        case bool() | None:
            raise CorruptError(
                f"is {json.dumps(value)}, which no attribute is", where=where, cure="Give 0 or 1."
            )
        case {"onnx": more}:
            row = Message.from_json(ATTRIBUTE, json.dumps({"name": name, **more}), where)
        case {"ref": str(ref), "type": str(kind)} if kind in ATTRIBUTE_TYPES.numbers:
            row["type"], row["ref_attr_name"] = ATTRIBUTE_TYPES[kind], ref
        case {"float": _}:
            _put(row, "FLOAT", "f", _float(value, where))
        case {"floats": list(items)}:
            _put(row, "FLOATS", "floats", [_float(item, where) for item in items])
        case {"ints": []} | {"strings": []} | {"tensors": []} | {"graphs": []}:
            row["type"] = ATTRIBUTE_TYPES[next(iter(value)).upper()]
        case {"bytes": str()}:
            _put(row, "STRING", "s", _bytes(value, where))
        case {"tensor": words}:
            _put(row, "TENSOR", "t", tensor_from(words, where))
        case {"tensors": list(items)}:
            _put(row, "TENSORS", "tensors", [tensor_from(item, where) for item in items])
        case {"graph": words}:
            _put(row, "GRAPH", "g", graph_from(words, where, within + 1))
        case {"graphs": list(items)}:
            _put(row, "GRAPHS", "graphs", [graph_from(item, where, within + 1) for item in items])
        case int():
            _put(row, "INT", "i", value)
        case float():
            _put(row, "FLOAT", "f", _float(value, where))
        case str():
            _put(row, "STRING", "s", value.encode())
        case [*items] if items and all(_is_int(item) for item in items):
            _put(row, "INTS", "ints", items)
        case [*items] if items and all(_is_int(i) or isinstance(i, float) for i in items):
            _put(row, "FLOATS", "floats", [_float(item, where) for item in items])
        case [*items] if items and all(isinstance(item, str | dict) for item in items):
            texts = [
                item.encode() if isinstance(item, str) else _bytes(item, where) for item in items
            ]
            _put(row, "STRINGS", "strings", texts)
        case _:
            raise CorruptError(
                f"is {json.dumps(value)[:80]}, which no attribute is",
                where=where,
                cure='Give a number, a text, a list of one of them, {"ints": []} for an empty one, '
                'or {"tensor": ...}, {"graph": ...}.',
            )
    return row


def _put(row: Message, kind: str, field: str, value: Any) -> None:
    row[field] = value
    row["type"] = ATTRIBUTE_TYPES[kind]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _float(value: Any, where: str) -> float:
    match value:
        case {"float": "nan" | "inf" | "-inf" as text}:
            return float(text)
        case float() | int() if not isinstance(value, bool) and _fits(value):
            return float(value)
    raise CorruptError(f"{json.dumps(value)[:40]} is no float", where=where)


def _fits(value: float) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.isfinite(np.float32(value)))


def value_words(row: Message) -> Words:
    """Give what is said of a value: its name, element type and axes."""
    words: Words = {"name": row.name}
    rest = row.copy()
    held = row.type.tensor_type if "type" in row and "tensor_type" in row.type else None
    if held is not None and _is_simple(row.type, held):
        words["dtype"] = KINDS[held.elem_type].name
        if "shape" in held:
            words["shape"] = [_axis_words(axis) for axis in held.shape.dim]
        rest.drop("type")
    if "name" in rest:
        rest.drop("name")
    return words | leftover(rest)


def _is_simple(kind: Message, held: Message) -> bool:
    if set(kind) != {"tensor_type"} or not set(held) <= {"elem_type", "shape"}:
        return False
    if held.elem_type not in KINDS or kind.unknown() or held.unknown():
        return False
    axes = held.shape.dim if "shape" in held else []
    if "shape" in held and held.shape.unknown():
        return False
    simple = all(set(axis) in ({"dim_value"}, {"dim_param"}, set()) for axis in axes)
    return simple and not any("dim_param" in axis and not axis.dim_param for axis in axes)


def _axis_words(axis: Message) -> int | str | None:
    if "dim_value" in axis:
        return int(axis.dim_value)
    return str(axis.dim_param) if "dim_param" in axis else None


def value_from(words: Any, where: str) -> Message:
    """Read what is said of a value."""
    words = _object(words, frozenset(("name", "dtype", "shape", _MORE)), where)
    row = take_more(VALUE_INFO, words, where)
    row["name"] = words.get("name", "")
    if "dtype" in words:
        kind = Message(TYPE)
        held = kind.make("tensor_type", elem_type=NUMBERS[_dtype(words["dtype"], where)])
        if "shape" in words:
            axes = held.make("shape")
            for axis in _list(words["shape"], f"{where}.shape"):
                dimension = axes.add("dim")
                if _is_int(axis):
                    dimension["dim_value"] = axis
                elif isinstance(axis, str) and axis:
                    dimension["dim_param"] = axis
                elif axis is not None:
                    raise CorruptError(
                        f"an axis is {json.dumps(axis)[:40]}, no size, name or null", where=where
                    )
        row["type"] = kind
    return row


def tensor_words(message: Message, *, named: bool = False) -> Words:
    """Give a tensor: its type and shape, and its values or where they lie."""
    rest = message.copy()
    for field in (*LISTS, "raw_data", "external_data", "data_location", "data_type", "dims"):
        if field in rest:
            rest.drop(field)
    if named and "name" in rest:
        rest.drop("name")
    if message.data_type not in KINDS:
        return {_MORE: json.loads(message.to_json())}
    kind = KINDS[message.data_type]
    words: Words = {"dtype": kind.name, "shape": [int(axis) for axis in message.dims]}
    if message.data_location == EXTERNAL:
        entries = external_entries(message)
        words["file"] = entries.get("location", "")
        words["offset"] = int(entries.get("offset", "0"))
        words["length"] = int(entries.get("length", "0"))
    elif "raw_data" in message or "string_data" in message:
        words |= _values_words(read_tensor(message, "a tensor"))
    return words | leftover(rest)


def _values_words(tensor: Tensor) -> Words:
    kind = tensor.dtype
    if kind is dtypes.STRING:
        return {"values": [_string_words(_utf8(text)) for text in tensor.numpy().reshape(-1)]}
    if (kind.kind in _LISTED_KINDS and kind.bits >= 8) or kind is dtypes.BOOL:
        return {"values": tensor.numpy().reshape(-1).tolist()}
    if kind in (dtypes.FLOAT32, dtypes.FLOAT64):
        values = tensor.numpy().reshape(-1)
        if np.isfinite(values).all():
            listed = shortest(values.tolist()) if kind is dtypes.FLOAT32 else values
            return {"values": [float(value) for value in listed]}
    return {"raw": _base64(bytes(tensor.read()))}


def _utf8(text: Any) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode("utf-8", "surrogateescape")


def tensor_from(words: Any, where: str, name: str | None = None) -> Message:
    """Read a tensor.

    Raises:
        CorruptError: its values are not as many as its shape has, or no such values.
    """
    words = _object(words, _TENSOR_WORDS, where)
    message = take_more(TENSOR, words, where)
    if "dtype" in words:
        kind = _dtype(words["dtype"], where)
        shape = tuple(_list(words.get("shape", []), f"{where}.shape"))
        if not all(_is_int(axis) and axis >= 0 for axis in shape):
            raise CorruptError(f"its shape is {json.dumps(shape)[:80]}", where=where)
        if "file" in words:
            message["dims"], message["data_type"] = np.array(shape, np.int64), NUMBERS[kind]
            offset, length = words.get("offset", 0), words.get("length")
            if not _is_int(offset) or not _is_int(length) or not isinstance(words["file"], str):
                raise CorruptError("needs file, offset and length", where=where)
            set_external(message, words["file"], offset, length)
        elif "values" in words or "raw" in words:
            data = _data(words, kind, where)
            count = dtypes.count_of(shape)
            if kind is not dtypes.STRING and len(data) != kind.nbytes(count):
                raise CorruptError(
                    f"{kind} of shape {shape} takes {kind.nbytes(count):,} bytes, not "
                    f"{len(data):,}",
                    where=where,
                )
            fill_tensor(message, Tensor(kind, shape, MemorySource(data, where), 0, len(data)))
        else:
            message["dims"], message["data_type"] = np.array(shape, np.int64), NUMBERS[kind]
    if name is not None:
        message["name"] = name
    return message


def _data(words: Mapping[str, Any], kind: dtypes.DType, where: str) -> bytes:
    if "raw" in words:
        return _unbase64(words["raw"], where)
    values = _list(words["values"], f"{where}.values")
    if kind is dtypes.STRING:
        texts = [v.encode() if isinstance(v, str) else _bytes(v, where) for v in values]
        return bytes(dtypes.pack_strings(texts))
    good = (bool, int) if kind is dtypes.BOOL else (int, float)
    if not all(isinstance(value, good) for value in values):
        raise CorruptError("its values are not all numbers", where=where)
    if kind.kind in ("int", "uint") and not all(map(_is_int, values)):
        raise CorruptError(f"its values are not all {kind}", where=where)
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, kind.numpy)
    except (OverflowError, ValueError, TypeError) as error:
        raise CorruptError(f"its values are not all {kind}: {error}", where=where) from None
    if kind.kind == "float" and not np.isfinite(array).all():
        raise CorruptError(f"its values are too large for {kind}", where=where)
    return array.tobytes()


def _dtype(name: Any, where: str) -> dtypes.DType:
    kind = dtypes.DTYPES.get(name) if isinstance(name, str) else None
    if kind is None or kind not in NUMBERS:
        raise CorruptError(f"{name!r} is no element type of ONNX's", where=where)
    return kind


def _object(words: Any, known: frozenset[str], where: str) -> Words:
    if not isinstance(words, dict):
        raise CorruptError(f"is {json.dumps(words)[:40]}, not an object", where=where)
    if unknown := sorted(words.keys() - known):
        raise CorruptError(
            f"has a word that is not known here: {unknown[0]!r}",
            where=where,
            cure=f"There are {', '.join(sorted(known))}.",
        )
    return words


def _list(found: Any, where: str) -> list[Any]:
    if not isinstance(found, list):
        raise CorruptError(f"is {json.dumps(found)[:40]}, not a list", where=where)
    return found


def _bytes(value: Any, where: str) -> bytes:
    if isinstance(value, dict) and set(value) == {"bytes"}:
        return _unbase64(value["bytes"], where)
    raise CorruptError(f"{json.dumps(value)[:40]} is no text", where=where)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unbase64(text: Any, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError):
        raise CorruptError("is not base64", where=where) from None
