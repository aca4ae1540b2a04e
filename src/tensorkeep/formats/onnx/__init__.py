"""ONNX: a model as one protobuf message, its large tensors perhaps in files beside it.

The message is kept as it is: what is not known here, and what nobody changed, is written as it was
read. Text (`.pbtxt`), JSON (`.onnx.json`) and ONNX's own syntax (`.onnxtxt`) say the same message.

A state that is no model is kept as the initializers of a graph without nodes. The nesting, metadata
that is not text and digests are noted under `tensorkeep` in the metadata_props.

Facts from onnx.proto, docs/IR.md and docs/ExternalData.md of onnx 1.23.
"""

from __future__ import annotations

from tensorkeep.dtypes import DTYPES
from tensorkeep.format import Format
from tensorkeep.formats.onnx import architecture, tensor
from tensorkeep.formats.onnx.reading import decode
from tensorkeep.formats.onnx.syntax import (
    ENDING,
    HOLDS,
    accepts_syntax,
    decode_syntax,
    encode_syntax,
    syntax_losses,
)
from tensorkeep.formats.onnx.texts import (
    JSON_ENDINGS,
    accepts_json,
    accepts_text,
    decode_json,
    decode_text,
    encode_json,
    encode_text,
    text_losses,
)
from tensorkeep.formats.onnx.writing import encode
from tensorkeep.store import Location
from tensorkeep.wire.models import is_onnx


def accepts(location: Location) -> bool:
    """A ModelProto, by its fields."""
    return bool(location.key) and is_onnx(location.head, location.source.size)


FORMAT = Format(
    name="onnx",
    suffixes=(".onnx",),
    accepts=accepts,
    decode=decode,
    encode=encode,
    holds=frozenset(DTYPES.values()),
    dialect="onnx",
    sharded="files beside it",
    checked_by="XXH3-128",
    safe_by="files that it names are read in its own folder alone, and never through links",
)

TEXT = Format(
    name="onnx-text",
    suffixes=(".onnx.pbtxt", ".onnx.textproto", ".pbtxt", ".textproto"),
    accepts=accepts_text,
    decode=decode_text,
    encode=encode_text,
    losses=text_losses,
    holds=frozenset(DTYPES.values()),
    dialect="onnx",
    lazy=False,
    checked_by="XXH3-128",
)

JSON = Format(
    name="onnx-json",
    suffixes=JSON_ENDINGS,
    accepts=accepts_json,
    decode=decode_json,
    encode=encode_json,
    losses=text_losses,
    holds=frozenset(DTYPES.values()),
    dialect="onnx",
    lazy=False,
    checked_by="XXH3-128",
)

SYNTAX = Format(
    name="onnx-syntax",
    suffixes=(ENDING,),
    accepts=accepts_syntax,
    decode=decode_syntax,
    encode=encode_syntax,
    losses=syntax_losses,
    holds=HOLDS,
    dialect="onnx",
    extra="onnx",
    lazy=False,
)

ONE = Format(
    name="onnx-tensor",
    suffixes=(),
    accepts=tensor.accepts,
    decode=tensor.decode,
    encode=None,
    holds=frozenset(DTYPES.values()),
    written_by="ONNX's own tools",
)

ARCHITECTURE = Format(
    name=architecture.NAME,
    suffixes=(architecture.ENDING,),
    accepts=architecture.accepts,
    decode=architecture.decode,
    encode=architecture.encode,
    losses=architecture.losses,
    holds=frozenset(DTYPES.values()),
    dialect="onnx",
    lazy=False,
    sharded="a file beside it",
    checked_by="XXH3-128",
    safe_by="files that it names are read in its own folder alone, and never through links",
)

__all__ = ["ARCHITECTURE", "FORMAT", "JSON", "ONE", "SYNTAX", "TEXT"]
