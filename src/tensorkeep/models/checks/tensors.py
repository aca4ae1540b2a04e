"""Faults of tensors: their type, shape and data, and the files in which these lie.

Each tensor is looked at on its own, so one that is damaged hides none of the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from tensorkeep import dtypes
from tensorkeep.errors import CorruptError, MissingError, TensorKeepError, UnsafeError
from tensorkeep.graph.codec import LISTS, Absent, Opener, external_entries, read_tensor
from tensorkeep.graph.elements import KINDS, field_of
from tensorkeep.graph.schema import EXTERNAL
from tensorkeep.message import Message
from tensorkeep.models.checks.findings import Report, quoted
from tensorkeep.models.checks.scopes import Scope
from tensorkeep.source import Source

ABSURD = 1 << 48  # elements on an axis, or in all: no memory holds these
_PIECE = 4 << 20
_EXTERNAL_KEYS = ("location", "offset", "length", "checksum", "basepath")


class Held(NamedTuple):
    """A TensorProto of a model and its place; those that are `named` have to have a name."""

    message: Message
    where: str
    named: bool


def held_by(scope: Scope) -> Iterator[Held]:
    """Give the tensors of a scope, those of its nodes included, but not those of its subgraphs."""
    if scope.is_function:
        for attribute in scope.message.attribute_proto:
            yield from _of_attribute(attribute, f"{scope.where}.{attribute.name}")
    else:
        for place, tensor in enumerate(scope.message.initializer):
            name = f" {quoted(tensor.name)}" if tensor.name else ""
            yield Held(tensor, f"{scope.where}.initializer[{place}]{name}", True)
        for place, sparse in enumerate(scope.message.sparse_initializer):
            yield from _of_sparse(sparse, f"{scope.where}.sparse_initializer[{place}]")
    for index, node in enumerate(scope.nodes):
        for attribute in node.attribute:
            if any(name in attribute for name in _HOLDERS):
                yield from _of_attribute(attribute, f"{scope.label(index)}.{attribute.name}")


_HOLDERS = ("t", "tensors", "sparse_tensor", "sparse_tensors")


def _of_attribute(attribute: Message, where: str) -> Iterator[Held]:
    if "t" in attribute:
        yield Held(attribute.t, where, False)
    if "sparse_tensor" in attribute:
        yield from _of_sparse(attribute.sparse_tensor, where)
    for place, tensor in enumerate(attribute.tensors):
        yield Held(tensor, f"{where}[{place}]", False)
    for place, sparse in enumerate(attribute.sparse_tensors):
        yield from _of_sparse(sparse, f"{where}[{place}]")


def _of_sparse(sparse: Message, where: str) -> Iterator[Held]:
    for part in ("values", "indices"):
        if part in sparse:
            yield Held(sparse[part], f"{where}.{part}", False)


def check_tensor(held: Held, opener: Opener, report: Report) -> None:
    """Look for the faults of a tensor."""
    tensor, where = held.message, held.where
    if held.named and not tensor.name:
        report.error(
            "initializer-without-name",
            where,
            "an initializer has no name, so nothing can use it",
            "Name it, or remove it.",
        )
    if tensor.data_type not in KINDS:
        what = "no element type" if not tensor.data_type else f"element type {tensor.data_type}"
        problem = f"has {what}; ONNX has 1 (float32) to {len(KINDS)}"
        report.error("element-type", where, problem, "Set data_type to that of the data.")
        return
    kind, dims = KINDS[tensor.data_type], tensor.dims.tolist()
    if any(size < 0 for size in dims) or len(dims) > 64:
        problem = f"has the shape {dims[:8]}, which no tensor can have"
        report.error("impossible-shape", where, problem, "Set dims to the shape of the data.")
        return
    count = dtypes.count_of(tuple(dims))
    if count > ABSURD:
        report.error(
            "absurd-size",
            where,
            f"its shape {dims[:8]} means {kind.nbytes(count):,} bytes",
            "Set dims to the shape of the data.",
        )
        return
    if "segment" in tensor:
        problem = "is one segment of a tensor in many, which no reader puts together"
        report.error("segmented-tensor", where, problem, "Store the whole tensor at once.")
    filled = [name for name in (*LISTS, "raw_data") if name in tensor]
    external = tensor.data_location == EXTERNAL
    if len(filled) + external > 1:
        said = ", ".join([*filled, *(["a file"] if external else [])])
        problem = f"has its data in several places: {said}"
        report.error("several-data-fields", where, problem, "Keep the right one alone.")
        return
    if external:
        _check_external(tensor, where, opener, report)
        return
    if not filled:
        if count:
            problem = (
                f"has no data, where {kind} of shape {dims} takes {kind.nbytes(count):,} bytes"
            )
            report.error("no-data", where, problem, "Give it its data, or remove it.")
        return
    _check_field(tensor, filled[0], count, where, report)


def _check_field(tensor: Message, name: str, count: int, where: str, report: Report) -> None:
    kind, dims = KINDS[tensor.data_type], tensor.dims.tolist()
    shown = f"{kind} of shape {dims}"
    if name == "raw_data" and kind is not dtypes.STRING:
        window = tensor.window("raw_data")
        size = window[2] - window[1] if window else len(tensor.raw_data)
        if size != kind.nbytes(count):
            problem = f"raw_data has {size:,} bytes, where {shown} takes {kind.nbytes(count):,}"
            report.error("data-length", where, problem, "Correct dims, data_type or the data.")
        return
    wanted = field_of(kind)
    if name != wanted:
        problem = f"{kind} stands in {name}, where {wanted}{_or_raw(kind)} belongs"
        report.error("wrong-data-field", where, problem, "Move the data, or correct data_type.")
        return
    found = len(tensor[name])
    expected = kind.nbytes(count) if kind.packed else count * (2 if kind.kind == "complex" else 1)
    if found != expected:
        problem = f"{name} has {found:,} values, where {shown} takes {expected:,}"
        report.error("data-length", where, problem, "Correct dims, data_type or the data.")
        return
    try:
        read = read_tensor(tensor, where)
        if read.nbytes:
            read.source.read(read.offset, read.offset + 1)  # the list is narrowed as a whole
    except CorruptError as error:
        report.error("data-range", where, error.problem, "Correct data_type or the data.")


def _or_raw(kind: dtypes.DType) -> str:
    return "" if kind is dtypes.STRING else " or raw_data"


def _check_external(tensor: Message, where: str, opener: Opener, report: Report) -> None:
    for entry in tensor.external_data:
        if entry.key not in _EXTERNAL_KEYS:
            problem = f"says {quoted(entry.key)} of its file, which ONNX does not know"
            report.warning("external-key", where, problem, "Remove it.")
    location = external_entries(tensor).get("location", "")
    try:
        found = read_tensor(tensor, where, opener)
    except UnsafeError as error:
        problem = f"names the file {quoted(location)}: {error.problem}"
        report.error("unsafe-file", where, problem, error.cure or "Keep it beside the model.")
    except TensorKeepError as error:
        report.error("external-data", where, error.problem, error.cure or _CURE_EXTERNAL)
    else:
        if isinstance(found.source, Absent):
            problem = f"its data is in the file {quoted(location)}, which is not there"
            report.error("missing-file", where, problem, "Put the file beside the model.")


_CURE_EXTERNAL = "Use the file that belongs to the model, or correct location, offset and length."


def check_file_sums(tensors: list[Held], opener: Opener, report: Report) -> None:
    """Compare the files that have a SHA1 in the model with it, each file once."""
    seen: dict[tuple[str, str], str] = {}
    for held in tensors:
        if held.message.data_location != EXTERNAL:
            continue
        entries = external_entries(held.message)
        wanted, location = entries.get("checksum", "").lower(), entries.get("location", "")
        if not wanted or not location or (location, wanted) in seen:
            continue
        seen[location, wanted] = held.where
        try:
            found = _sha1(opener(location))
        except (MissingError, TensorKeepError):  # told where the tensor was looked at
            continue
        if found != wanted:
            report.error(
                "file-checksum",
                held.where,
                f"the SHA1 of {quoted(location)} is {found}, and the model says {wanted[:60]}",
                "Use the file that was saved with the model.",
            )


def _sha1(source: Source) -> str:
    hasher = hashlib.sha1(usedforsecurity=False)
    for start in range(0, source.size, _PIECE):
        hasher.update(source.read(start, min(start + _PIECE, source.size)))
    return hasher.hexdigest()
