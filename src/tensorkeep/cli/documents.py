"""What `tensorkeep ls` says of models in other dialects than ONNX."""

from __future__ import annotations

from collections import Counter

from tensorkeep.state import Document
from tensorkeep.wire.nnef.document import Document as Nnef

_GIVEN = ("external", "variable")
_WORDS = {"scalar": "float32", "integer": "int64", "logical": "bool"}


def describe_document(document: Document) -> dict[str, object]:
    """Say what a model is, in the words that --json has for ONNX's as well."""
    if not isinstance(document, Nnef):
        return {"dialect": document.dialect, "summary": document.summary()}
    operations = document.operations()
    shapes, kinds = {}, {}
    for operation in operations:
        if operation.name in _GIVEN:
            for output in operation.outputs():
                shapes[output] = operation.arguments.get("shape")
                kinds[output] = _WORDS.get(operation.dtype or "scalar")
    counts = Counter(o.name for o in operations if o.name not in _GIVEN)

    def value(name: str) -> dict[str, object]:
        return {
            "name": document.name_of(name),
            "dtype": document.types.get(name, kinds.get(name)),
            "shape": shapes.get(name),
            "kind": "tensor",
        }

    return {
        "dialect": document.dialect,
        "graph": document.name,
        "inputs": [value(name) for name in document.inputs],
        "outputs": [value(name) for name in document.outputs],
        "nodes": dict(counts.most_common()),
    }


def document_lines(document: Document, most: int) -> dict[str, object]:
    """Say in a few lines what a model is, with at most so many types of operations."""
    described = describe_document(document)
    if not isinstance(document, Nnef):
        return described
    said: dict[str, object] = {"dialect": document.dialect, "graph": document.name}
    for title in ("in", "out"):
        values = described[f"{title}puts"]
        assert isinstance(values, list)
        for number, value in enumerate(values, 1):
            said[title if number == 1 else f"{title} {number}"] = _line(value)
    counts = described["nodes"]
    assert isinstance(counts, dict)
    shown = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:most])
    more = ", ..." if len(counts) > most else ""
    said["nodes"] = f"{sum(counts.values()):,}: {shown}{more}"
    return said


def _line(value: dict[str, object]) -> str:
    shape = "" if value["shape"] is None else str(value["shape"])
    return f"{value['name']}: {value['dtype']}{shape}" if value["dtype"] else str(value["name"])
