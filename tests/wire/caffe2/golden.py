"""The files that Caffe2 wrote, their records, and the blobs that were saved in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.message import Message
from tensorkeep.source import FileSource
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2 import schema
from tensorkeep.wire.caffe2.decode import Part, parse_part
from tensorkeep.wire.caffe2.encode import SaveOptions, choose_options
from tensorkeep.wire.caffe2.states import Assembly, blob_name_of
from tensorkeep.wire.caffe2.values import INT8_TENSOR, STRING, TENSOR, Blob, Int8Tensor
from tensorkeep.wire.minidb import read_records

FOLDER = Path(__file__).parents[2] / "data" / "caffe2"
Entry = dict[str, Any]


@cache
def entries() -> dict[str, Entry]:
    """Give the entries of the manifest by file."""
    manifest = json.loads((FOLDER / "MANIFEST.json").read_text())
    return {entry["file"]: entry for entry in manifest["entries"]}


def blob_files() -> list[str]:
    """List the files of blobs that Caffe2 read back."""
    return [name for name, entry in entries().items() if entry.get("blobs")]


def saved_files() -> list[str]:
    """List the files whose inputs are known as arrays, bytes or text."""
    return [
        name
        for name, entry in entries().items()
        if entry.get("made_by") == "Save" and not any(r["kind"] == "opaque" for r in entry["blobs"])
    ]


def parts(file: str, *, strict: bool = True) -> Iterator[Part]:
    """Parse the records of a file."""
    source = FileSource(FOLDER / file)
    if file.endswith(".blobproto"):
        yield parse_part(entries()[file]["blobs"][0]["name"], source, strict=strict)
        return
    for key, start, stop in read_records(source, strict=strict):
        yield parse_part(key, source, strict=strict, start=start, stop=stop)


def load(file: str, *, strict: bool = True) -> Assembly:
    """Put the blobs of a golden file together under the names that Caffe2 gave them."""
    assembly = Assembly(strict=strict, thorough=True)
    arguments = entries()[file].get("load_args") or {}
    for part in parts(file, strict=strict):
        name = part.name if strict else blob_name_of(part.key, strict=False)
        name = strip(name, arguments.get("strip_prefix", ""))
        assembly.add(arguments.get("add_prefix", "") + name, part)
    assembly.validate()
    return assembly


def strip(name: str, prefix: str) -> str:
    """Drop what stands before and in the first occurrence of a prefix."""
    _, found, rest = name.partition(prefix) if prefix else ("", "", name)
    return rest if found else name


def strings(row: Entry) -> npt.NDArray[Any]:
    """Give the elements of a string tensor of the manifest as text."""
    out = np.empty(len(row["hex"]), object)
    out[:] = [bytes.fromhex(text).decode("utf-8", "surrogateescape") for text in row["hex"]]
    return out.reshape(row["shape"])


def saved_blobs(entry: Entry) -> dict[str, Blob]:
    """Give the blobs that were saved, by the names that they have after loading."""
    expected = np.load(FOLDER / entry["expected"])
    inputs = np.load(FOLDER / entry["inputs_npz"]) if "inputs_npz" in entry else None
    given = {row["name"]: row["npz"] for row in entry["inputs"] if isinstance(row, dict)}
    blobs = {}
    for row in entry["blobs"]:
        name, kind = row["name"], row["kind"]
        if kind == "tensor":
            array = expected[row["npz"]] if inputs is None else inputs[given[name]]
            blobs[name] = Blob(TENSOR, Tensor.of(array))
        elif kind == "string_tensor":
            blobs[name] = Blob(TENSOR, Tensor.of(strings(row)))
        elif kind == "std_string":
            blobs[name] = Blob(STRING, bytes.fromhex(row["hex"]))
        else:
            data = Tensor.of(expected[row["npz"]])
            blobs[name] = Blob(INT8_TENSOR, Int8Tensor(data, row["scale"], row["zero_point"]))
    return blobs


def saved_in_order(entry: Entry) -> Iterator[tuple[str, Blob, SaveOptions]]:
    """Give stored names, blobs and options in the order in which they were saved."""
    blobs = saved_blobs(entry)
    arguments, loading = entry["save_args"], entry["load_args"]
    inputs = [row["name"] if isinstance(row, dict) else row for row in entry["inputs"]]
    rows, default = _options(entry)
    for name in arguments.get("blob_name_overrides") or inputs:
        stored = strip(name, arguments.get("strip_prefix", ""))
        loaded = loading.get("add_prefix", "") + strip(stored, loading.get("strip_prefix", ""))
        yield stored, blobs[loaded], choose_options(stored, rows, default)


def _options(entry: Entry) -> tuple[list[Message], SaveOptions]:
    arguments, flags = entry["save_args"], " ".join(entry.get("flags") or ())
    rows = serialization_options(arguments.get("options"))
    if "chunk_size" in arguments:
        size = {0: -1, -1: 0}.get(arguments["chunk_size"], arguments["chunk_size"])
        rows.append(Message(schema.BLOB_SERIALIZATION_OPTIONS, chunk_size=size))
    flag = re.search(r"tensor_chunk_size=(\d+)", flags)
    default = SaveOptions(
        int(flag[1]) if flag else 1_000_000,
        byte_holder="bytes_as_holder=1" in flags,
        fp16_as_bytes="fp16_as_bytes=1" in flags,
    )
    return rows, default


def serialization_options(options: Entry | None) -> list[Message]:
    """Give the rows of a SerializationOptions of the manifest."""
    if options is None:
        return []
    return list(Message.parse(schema.SERIALIZATION_OPTIONS, bytes.fromhex(options["hex"])).options)
