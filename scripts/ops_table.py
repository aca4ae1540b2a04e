"""Write the history of ONNX's operators from the onnx package, and the tables of docs/ops.md.

`--write` puts them where they belong, `--check` exits 1 where others are there. Where the installed
onnx is of another version than the one the history was made with, it says so, and compares the
tables alone.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent.parent / "src/tensorkeep/models/ops/history.json"
DOCUMENT = Path(__file__).parent.parent / "docs" / "ops.md"
_UNBOUNDED = 2**31 - 1


def main() -> int:
    """Print the history, or write or compare it and the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put them where they belong")
    parser.add_argument("--check", action="store_true", help="compare them with what is there")
    given = parser.parse_args()
    import onnx

    recorded = json.loads(FILE.read_text(encoding="utf-8"))["onnx"] if FILE.exists() else ""
    made = {FILE: history()}
    if given.check and recorded != onnx.__version__:
        sys.stderr.write(f"made with onnx {recorded}, not compared with {onnx.__version__}\n")
        made = {}
    if not given.write and not given.check:
        sys.stdout.write(made[FILE])
        return 0
    if given.write:
        FILE.write_text(made[FILE], encoding="utf-8")  # which the tables are made of
    made[DOCUMENT] = document()
    stale = [path for path, text in made.items() if path.read_text(encoding="utf-8") != text]
    for path in stale:
        if given.write:
            path.write_text(made[path], encoding="utf-8")
        else:
            sys.stderr.write(f"{path.name}: run scripts/ops_table.py --write\n")
    return 0 if given.write else int(bool(stale))


def document() -> str:
    """Give docs/ops.md with the tables as they are to be."""
    from tensorkeep.models.ops.catalogue import names, operator

    listed = [operator(name, None if "kind" in notes else "") for name, notes in names().items()]
    standard = [
        [
            f"`{each.name}`",
            ", ".join(map(str, each.versions)),
            _elsewhere(each.caffe2, each.caffe2_note),
            _elsewhere(each.nnef, each.nnef_note),
            each.remark,
        ]
        for each in listed
        if each.standard
    ]
    lacking = [
        [
            f"`{each.name}`",
            each.what,
            ", ".join(f"`{name}`" for name in each.nearest),
            str(each.lowest_opset),
            each.remark,
        ]
        for each in listed
        if not each.standard
    ]
    text = DOCUMENT.read_text(encoding="utf-8")
    text = _put(text, "standard", ["name", "versions", "Caffe2", "NNEF", "remark"], standard)
    return _put(text, "lacking", ["name", "what it is", "near to", "from opset", "remark"], lacking)


def _elsewhere(names: tuple[str, ...], note: str) -> str:
    text = ", ".join(f"`{name}`" for name in names) or "-"
    return f"{text} ({note})" if note else text


def _put(text: str, name: str, heads: list[str], rows: list[list[str]]) -> str:
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    head, found, rest = text.partition(begin)
    _, also, tail = rest.partition(end)
    if not found or not also:
        raise SystemExit(f"{DOCUMENT} lacks the lines {begin.strip()} and {end}")
    lines = [heads, ["---"] * len(heads), *([_escape(cell) for cell in row] for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{head}{begin}\n{table}\n\n{end}{tail}"


def _escape(cell: str) -> str:
    return re.sub(r"[|*<]", r"\\\g<0>", cell)


def history() -> str:
    """Give the history as JSON, a line for each operator and each set of types."""
    import onnx

    found: dict[tuple[str, str], list[Any]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        found.setdefault((schema.domain, schema.name), []).append(schema)
    newest: dict[str, int] = {"": onnx.defs.onnx_opset_version()}
    sets: dict[tuple[str, ...], int] = {}
    operators = []
    for (domain, name), schemas in sorted(found.items()):
        schemas.sort(key=lambda schema: schema.since_version)
        newest[domain] = max(newest.get(domain, 1), schemas[-1].since_version)
        operators.append([domain, name, *_changes(schemas, sets)])
    head = {"onnx": onnx.__version__, "newest": newest}
    parts = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    for title, rows in {"types": map(list, sets), "operators": operators}.items():
        listed = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
        parts.append(f'"{title}": [\n{listed}\n]')
    return "{" + ",\n".join(parts) + "}\n"


def _changes(schemas: list[Any], sets: dict[tuple[str, ...], int]) -> list[dict[str, Any]]:
    """Give what is new in each version of an operator, oldest first."""
    from tensorkeep.models.ops.history import UNSAID

    changes = []
    before: dict[str, Any] = dict(UNSAID)
    for schema in schemas:
        row = _row(schema, sets)
        changed = {key: value for key, value in row.items() if value != before[key]}
        changes.append({"since": schema.since_version, **changed})
        before = row
    return changes


def _row(schema: Any, sets: dict[tuple[str, ...], int]) -> dict[str, Any]:
    counts = [schema.min_input, schema.max_input, schema.min_output, schema.max_output]
    return {
        "deprecated": schema.deprecated,
        "function": schema.has_function or schema.has_context_dependent_function,
        "inputs": " ".join(map(_parameter, schema.inputs)),
        "outputs": " ".join(map(_parameter, schema.outputs)),
        "counts": [count if count < _UNBOUNDED else None for count in counts],
        "attributes": {
            name: _attribute(schema.attributes[name]) for name in sorted(schema.attributes)
        },
        "types": {
            constraint.type_param_str: _number(constraint.allowed_type_strs, sets)
            for constraint in schema.type_constraints
        },
    }


def _parameter(parameter: Any) -> str:
    from tensorkeep.models.ops.history import MARKS

    marks = {told: mark for mark, told in MARKS.items()}
    kind = parameter.option.name.lower()
    uniform = kind != "variadic" or parameter.is_homogeneous
    return f"{parameter.name}{marks.get((kind, uniform), '')}:{_short(parameter.type_str)}"


def _attribute(attribute: Any) -> Any:
    import onnx

    kind = attribute.type.name.lower()
    if attribute.required:
        return f"{kind}!"
    if attribute.default_value.type == onnx.AttributeProto.UNDEFINED:
        return kind
    value = _plain(onnx.helper.get_attribute_value(attribute.default_value))
    return kind if value is None else [kind, value]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, float):
        return float(f"{value:.7g}")  # what was meant, rather than the nearest float32
    if isinstance(value, int):
        return value
    if hasattr(value, "DESCRIPTOR"):
        return None  # a tensor without elements, which stands for no default
    return [_plain(item) for item in value]


def _number(types: Any, sets: dict[tuple[str, ...], int]) -> int:
    return sets.setdefault(tuple(sorted(map(_short, types))), len(sets))


def _short(kind: str) -> str:
    return kind[len("tensor(") : -1] if kind.startswith("tensor(") else kind


if __name__ == "__main__":
    sys.exit(main())
