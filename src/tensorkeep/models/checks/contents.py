"""Faults that only the values of tensors tell: digests that do not match, and data held twice."""

from __future__ import annotations

from collections.abc import Mapping

from tensorkeep import dtypes
from tensorkeep.checksum import digest
from tensorkeep.errors import TensorKeepError
from tensorkeep.formats.onnx.notes import check_sealed, is_bare, read_notes
from tensorkeep.graph import Graph
from tensorkeep.graph.codec import Absent
from tensorkeep.models.checks.findings import Report, quoted, several
from tensorkeep.tensor import Tensor

_LEAST = 1024  # bytes that are worth sharing
_ENDS = 4096  # bytes at both ends, by which tensors differ that are not the same

_CURE = "Use another copy of the model."


def check_contents(graph: Graph, digests: Mapping[str, str] | None, report: Report) -> None:
    """Read the tensors and compare them with their digests, and with one another.

    Args:
        graph: the model.
        digests: those of its tensors; None reads them, and the seal, from the model itself.
        report: takes the findings.
    """
    tensors = readable_tensors(graph)
    if digests is None:
        digests = _noted(graph, tensors, report)
    for name, wanted in digests.items():
        tensor = tensors.get(name)
        try:
            found = digest(tensor) if tensor is not None else wanted
        except TensorKeepError:  # told where tensors are looked at
            continue
        if found != wanted:
            problem = f"its bytes are damaged: their XXH3-128 is {found}, and {wanted} was saved"
            report.error("wrong-digest", f"tensor {quoted(name)}", problem, _CURE)
    _check_repeated(graph, tensors, report)


def readable_tensors(graph: Graph) -> dict[str, Tensor]:
    """Give those tensors of a model that can be read."""
    found = {}
    for name, place in graph.places().items():
        try:
            tensor = graph.read(place)
        except TensorKeepError:
            continue
        if not isinstance(tensor.source, Absent):
            found[name] = tensor
    return found


def _noted(graph: Graph, tensors: dict[str, Tensor], report: Report) -> dict[str, str]:
    try:
        notes, sealed = read_notes(
            graph.model, graph.places(), graph.where, needed=is_bare(graph.model)
        )
        if sealed:
            check_sealed(graph)
    except TensorKeepError as error:
        where = "metadata_props 'tensorkeep'"
        report.error("wrong-digest", where, error.problem, error.cure or _CURE)
        return {}
    return {name: text for name, text in (notes.digests or {}).items() if name in tensors}


def _check_repeated(graph: Graph, tensors: dict[str, Tensor], report: Report) -> None:
    """Look for initializers that hold the same, of which one would do."""
    alike: dict[tuple[object, ...], list[str]] = {}
    initializers = {str(tensor.name) for tensor in graph.model.graph.initializer}
    for name, tensor in tensors.items():
        if name in initializers and tensor.nbytes >= _LEAST and tensor.dtype is not dtypes.STRING:
            try:
                first = tensor.source.read(tensor.offset, tensor.offset + min(_ENDS, tensor.nbytes))
                stop = tensor.offset + tensor.nbytes
                last = tensor.source.read(max(tensor.offset, stop - _ENDS), stop)
            except TensorKeepError:
                continue
            key = (tensor.dtype.name, tensor.shape, bytes(first), bytes(last))
            alike.setdefault(key, []).append(name)
    for names in alike.values():
        if len(names) < 2:
            continue
        same: dict[str, list[str]] = {}
        for name in names:
            same.setdefault(digest(tensors[name]), []).append(name)
        for group in same.values():
            size = tensors[group[0]].nbytes
            if len(group) > 1:
                problem = f"{several(group)} hold the same {size:,} bytes"
                cure = "Let all nodes that use them take one of them, to save the others."
                report.warning("repeated-data", "graph.initializer", problem, cure)
