"""Models as text that people read: protobuf's text format, and JSON as protobuf maps it.

All tensors are in the text, also those that the model had in files beside it. Text cannot hold
fields that are not in onnx.proto, and JSON no text that is not UTF-8. Both have one NaN for all: a
tensor whose NaNs have bits of their own is written as raw bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from tensorkeep.errors import UnsafeError
from tensorkeep.format import Stream
from tensorkeep.formats.onnx.building import build
from tensorkeep.formats.onnx.notes import seal_model
from tensorkeep.formats.onnx.reading import state_of
from tensorkeep.graph import Graph, fill_tensor
from tensorkeep.graph.schema import EXTERNAL, MODEL, TENSOR
from tensorkeep.message import Message
from tensorkeep.message.json import find_own_nans, find_unknown, json_chunks
from tensorkeep.message.printing import has_own_nan
from tensorkeep.message.text import text_chunks
from tensorkeep.state import State
from tensorkeep.store import Location
from tensorkeep.wire.models import is_architecture

_MOST = 2 << 30  # bytes of text that are taken into memory
JSON_ENDINGS = (".onnx.json", ".onnxjson")
_TEXT = re.compile(
    rb"(?:\s|#[^\n]*\n)*"
    rb"(?:ir_version|producer_name|producer_version|opset_import|functions|graph)\s*[:{]"
)


def accepts_text(location: Location) -> bool:
    """Text that starts with a field of a ModelProto that no other message here has."""
    return bool(location.key) and _TEXT.match(location.head) is not None


def accepts_json(location: Location) -> bool:
    """JSON, where the name says that it is a model."""
    named = location.name.lower().endswith(JSON_ENDINGS)
    head = location.head
    return named and head.lstrip()[:1] == b"{" and not is_architecture(head)


def decode_text(location: Location) -> State:
    """Read a model from protobuf's text format."""
    text = read_text(location)
    return state_of(Message.from_text(MODEL, text, location.where), location, "onnx-text")


def decode_json(location: Location) -> State:
    """Read a model from JSON."""
    text = read_text(location)
    return state_of(Message.from_json(MODEL, text, location.where), location, "onnx-json")


def read_text(location: Location) -> bytes:
    """Read a whole text.

    Raises:
        UnsafeError: it is far too long.
    """
    source = location.source
    if source.size > _MOST:
        problem = f"its text of {source.size:,} bytes is over the limit of {_MOST:,}"
        raise UnsafeError(problem, where=location.where)
    return bytes(source.read(0, source.size))


def encode_text(
    state: State, location: Location, *, checksums: bool | None = None
) -> Iterator[Stream]:
    """Write a model in protobuf's text format.

    Args:
        state: what to write.
        location: where to.
        checksums: note an XXH3-128 of each tensor and of the model itself; None does so for what is
            no model, and for models that have them.
    """
    return _encode(state, location, checksums, text_chunks)


def encode_json(
    state: State, location: Location, *, checksums: bool | None = None
) -> Iterator[Stream]:
    """Write a model as JSON.

    Args:
        state: what to write.
        location: where to.
        checksums: note an XXH3-128 of each tensor and of the model itself; None does so for what is
            no model, and for models that have them.
    """
    return _encode(state, location, checksums, json_chunks)


def _encode(
    state: State,
    location: Location,
    checksums: bool | None,
    write: Callable[[Message], Iterator[bytes]],
) -> Iterator[Stream]:
    graph = build(state, checksums=checksums)
    hold_all(graph)
    _hold_nans(graph)
    seal_model(graph.model)
    yield Stream(location.key, write(graph.model))


def hold_all(graph: Graph) -> None:
    """Bring those tensors into a model that are in files beside it."""
    for place in graph.places().values():
        if place.message.data_location == EXTERNAL:
            fill_tensor(place.message, graph.read(place))


def _hold_nans(graph: Graph) -> None:
    """Keep those tensors as raw bytes whose NaNs have bits that a number in text would lose."""
    for place in graph.places().values():
        message = place.message
        for name in ("float_data", "double_data"):
            if name in message and has_own_nan(TENSOR[name], message[name]):
                fill_tensor(message, graph.read(place))


def text_losses(state: State) -> list[str]:
    """Say what no text can hold: fields that are not in onnx.proto, and NaNs in attributes."""
    if state.graph is None:
        return []
    nans = (path for path in find_own_nans(state.graph.model) if not path.endswith("_data"))
    return [*unknown_losses(state), *(f"the bits of a NaN in {path}" for path in nans)]


def unknown_losses(state: State) -> list[str]:
    """Say which fields are not in onnx.proto."""
    if state.graph is None:
        return []
    return [
        f"{size:,} bytes of fields that ONNX does not have{f' in {path}' if path else ''}"
        for path, size in find_unknown(state.graph.model)
    ]
