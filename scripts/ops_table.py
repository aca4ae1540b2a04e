"""Write the catalogue of ONNX's operators from the onnx package, or check that it is what it was.

`--write` puts it where the library reads it, `--check` exits 1 where that has another one, and says
so where the installed onnx is of another version than the one it was made with.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent.parent / "src/tensorkeep/models/ops/catalogue.json"


def main() -> int:
    """Print the catalogue, write it or compare it."""
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
    made = catalogue()
    if given.write:
        FILE.write_text(made, encoding="utf-8")
    elif given.check:
        if made != FILE.read_text(encoding="utf-8"):
            sys.stderr.write(f"{FILE.name}: run scripts/ops_table.py --write\n")
            return 1
    else:
        sys.stdout.write(made)
    return 0


def catalogue() -> str:
    """Give the catalogue as JSON, a line for each operator and each set of types."""
    import onnx

    history: dict[tuple[str, str], list[Any]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        history.setdefault((schema.domain, schema.name), []).append(schema)
    sets: dict[tuple[str, ...], int] = {}
    operators = [_operator(history[key], sets) for key in sorted(history)]
    lines = {"types": map(list, sets), "operators": operators}
    parts = [f'"onnx": "{onnx.__version__}"', f'"opset": {onnx.defs.onnx_opset_version()}']
    for name, rows in lines.items():
        listed = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
        parts.append(f'"{name}": [\n{listed}\n]')
    return "{" + ",\n".join(parts) + "}\n"


def _operator(schemas: list[Any], sets: dict[tuple[str, ...], int]) -> dict[str, Any]:
    schemas.sort(key=lambda schema: schema.since_version)
    # A deprecated schema says nothing of what the operator was.
    newest = next((s for s in reversed(schemas) if not s.deprecated), schemas[-1])
    row: dict[str, Any] = {
        "name": newest.name,
        "domain": newest.domain,
        "versions": [schema.since_version for schema in schemas],
        "inputs": list(map(_parameter, newest.inputs)),
        "outputs": list(map(_parameter, newest.outputs)),
    }
    if deprecated := [schema.since_version for schema in schemas if schema.deprecated]:
        row["deprecated"] = deprecated
    if newest.has_function or newest.has_context_dependent_function:
        row["function"] = True
    if newest.attributes:
        row["attributes"] = [
            _attribute(newest.attributes[key]) for key in sorted(newest.attributes)
        ]
    if newest.type_constraints:
        row["types"] = {
            constraint.type_param_str: _number(constraint.allowed_type_strs, sets)
            for constraint in newest.type_constraints
        }
    return row


def _parameter(parameter: Any) -> list[str]:
    kind = parameter.option.name.lower()
    row = [parameter.name, _short(parameter.type_str)]
    return row if kind == "single" else [*row, kind]


def _attribute(attribute: Any) -> list[Any]:
    import onnx

    row = [attribute.name, attribute.type.name.lower()]
    if attribute.required:
        return [*row, True]
    if attribute.default_value.type == onnx.AttributeProto.UNDEFINED:
        return row
    value = onnx.helper.get_attribute_value(attribute.default_value)
    return [*row, False, _plain(value)]


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
