"""Write what every version of ONNX's operators takes, from the onnx package, or check that file.

`--write` puts it where the library reads it, `--check` exits 1 where that has another one, and says
so where the installed onnx is of another version than the one it was made with.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent.parent / "src/tensorkeep/models/building/history.json"


def main() -> int:
    """Print the history, write it or compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put it where the library reads it")
    parser.add_argument("--check", action="store_true", help="compare it with what is there")
    given = parser.parse_args()
    import onnx

    if given.check:
        recorded = json.loads(FILE.read_text(encoding="utf-8"))["onnx"]
        if recorded != onnx.__version__:
            sys.stderr.write(f"made with onnx {recorded}, not compared with {onnx.__version__}\n")
            return 0
    made = history()
    if given.write:
        FILE.write_text(made, encoding="utf-8")
    elif given.check:
        if made != FILE.read_text(encoding="utf-8"):
            sys.stderr.write(f"{FILE.name}: run scripts/op_history.py --write\n")
            return 1
    else:
        sys.stdout.write(made)
    return 0


def history() -> str:
    """Give the history as JSON, a line for each operator.

    What a version leaves out is as it was in the one before.
    """
    import onnx

    found: dict[tuple[str, str], list[Any]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        found.setdefault((schema.domain, schema.name), []).append(schema)
    sets: dict[tuple[str, ...], int] = {}
    operators = []
    for domain, name in sorted(found):
        schemas = sorted(found[domain, name], key=lambda schema: schema.since_version)
        rows: list[dict[str, Any]] = []
        before: dict[str, Any] = {}
        for schema in schemas:
            row = _row(schema, sets)
            rows.append({key: row[key] for key in row if row[key] != before.get(key)})
            before = row
        operators.append([domain, name, rows])
    tables = {"types": map(list, sets), "operators": operators}
    parts = [f'"onnx": "{onnx.__version__}"']
    for title, lines in tables.items():
        listed = ",\n".join(json.dumps(line, separators=(",", ":")) for line in lines)
        parts.append(f'"{title}": [\n{listed}\n]')
    return "{" + ",\n".join(parts) + "}\n"


def _row(schema: Any, sets: dict[tuple[str, ...], int]) -> dict[str, Any]:
    if schema.deprecated:
        return {"since": schema.since_version, "deprecated": True}
    attributes = [schema.attributes[key] for key in sorted(schema.attributes)]
    constraints = sorted(schema.type_constraints, key=lambda each: each.type_param_str)
    return {
        "since": schema.since_version,
        "deprecated": False,
        "inputs": list(map(_parameter, schema.inputs)),
        "outputs": list(map(_parameter, schema.outputs)),
        "least": [schema.min_input, schema.min_output],
        "attributes": {each.name: each.type.name.lower() for each in attributes},
        "required": [each.name for each in attributes if each.required],
        "types": {
            each.type_param_str: _share(each.allowed_type_strs, sets) for each in constraints
        },
    }


def _parameter(given: Any) -> list[str]:
    kind = given.option.name[0].lower()  # single, optional, variadic
    if kind == "v" and not given.is_homogeneous:
        kind = "h"
    return [given.name, given.type_str, kind]


def _share(types: Any, sets: dict[tuple[str, ...], int]) -> int:
    plain = tuple(sorted(_plain(text) for text in types))
    return sets.setdefault(plain, len(sets))


def _plain(text: str) -> str:
    """Name the element type of a tensor alone; what is no tensor keeps ONNX's whole text."""
    whole = str(text)
    return whole[7:-1] if whole.startswith("tensor(") else whole


if __name__ == "__main__":
    sys.exit(main())
