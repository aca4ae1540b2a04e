"""Write what each version of ONNX's operators takes, from the onnx package, or check that it does.

`--write` puts it where the library reads it, `--check` exits 1 where that has another one, and says
so where the installed onnx is of another version than the one it was made with.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent.parent / "src/tensorkeep/models/checks/signatures.json"
_UNBOUNDED = 2**31 - 1


def main() -> int:
    """Print the table, write it or compare it."""
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
    made = table()
    if given.write:
        FILE.write_text(made, encoding="utf-8")
    elif given.check:
        if made != FILE.read_text(encoding="utf-8"):
            sys.stderr.write(f"{FILE.name}: run scripts/signatures_table.py --write\n")
            return 1
    else:
        sys.stdout.write(made)
    return 0


def table() -> str:
    """Give the table as text, one version of an operator in a line."""
    import onnx
    from onnx import defs

    schemas = sorted(
        defs.get_all_schemas_with_history(), key=lambda s: (s.domain, s.name, s.since_version)
    )
    newest = {schema.domain: defs.onnx_opset_version() for schema in schemas if not schema.domain}
    for schema in schemas:
        newest[schema.domain] = max(newest.get(schema.domain, 1), schema.since_version)
    lines = ",\n".join(json.dumps(_row(schema), separators=(",", ":")) for schema in schemas)
    head = json.dumps({"onnx": onnx.__version__, "newest": newest})[:-1]
    return f'{head}, "versions": [\n{lines}\n]}}\n'


def _row(schema: Any) -> list[Any]:
    attributes = " ".join(
        f"{each.name}:{str(each.type).rpartition('.')[2]}{'!' * bool(each.required)}"
        for each in sorted(schema.attributes.values(), key=lambda each: each.name)
    )
    return [
        schema.domain,
        schema.name,
        schema.since_version,
        int(schema.deprecated),
        schema.min_input,
        schema.max_input if schema.max_input < _UNBOUNDED else None,
        schema.min_output,
        schema.max_output if schema.max_output < _UNBOUNDED else None,
        " ".join(map(_input, schema.inputs)),
        attributes,
    ]


def _input(parameter: Any) -> str:
    option = str(parameter.option).rpartition(".")[2]
    return str(parameter.name) + {"Optional": "?", "Variadic": "..."}.get(option, "")


if __name__ == "__main__":
    raise SystemExit(main())
