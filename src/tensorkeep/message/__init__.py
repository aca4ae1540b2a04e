"""Protobuf messages as data: field tables, lazy reading, lossless writing, and the text format."""

from __future__ import annotations

from tensorkeep.message.message import Message
from tensorkeep.message.scanning import scan
from tensorkeep.message.schema import Enum, Field, Schema, enums, schemas

__all__ = ["Enum", "Field", "Message", "Schema", "enums", "scan", "schemas"]
