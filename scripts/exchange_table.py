"""Write the tables of docs/exchange.md from the tables of translations, or check that they are so.

`--write` puts them into the document, `--check` exits 1 where the document has others.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from tensorkeep.models.exchange.table import Table

DOCUMENT = Path(__file__).parent.parent / "docs" / "exchange.md"
DIRECTIONS = ("nnef_to_onnx", "onnx_to_nnef", "caffe2_to_onnx", "onnx_to_caffe2")
TITLES = {"nnef": "NNEF", "onnx": "ONNX", "caffe2": "Caffe2"}


def main() -> int:
    """Print the tables, write them or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put them into the document")
    parser.add_argument("--check", action="store_true", help="compare them with the document's")
    given = parser.parse_args()
    made = {name: section(name) for name in DIRECTIONS}
    if not given.write and not given.check:
        sys.stdout.write("\n".join(made.values()))
        return 0
    text = whole = DOCUMENT.read_text(encoding="utf-8")
    for name, table in made.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        head, found, rest = whole.partition(begin)
        _, closed, tail = rest.partition(end)
        if not found or not closed:
            raise SystemExit(f"{DOCUMENT} lacks the lines {begin.strip()} and {end}")
        whole = f"{head}{begin}\n{table}\n{end}{tail}"
    if given.check:
        if whole != text:
            sys.stderr.write("docs/exchange.md: run scripts/exchange_table.py --write\n")
        return int(whole != text)
    DOCUMENT.write_text(whole, encoding="utf-8")
    return 0


def section(direction: str) -> str:
    """Give the table of one direction."""
    package = f"tensorkeep.models.exchange.{direction}"
    importlib.import_module(package)  # whose topics register their rows
    table: Table[Any] = importlib.import_module(f"{package}.table").TABLE
    source, target = TITLES[table.source], TITLES[table.target]
    alike: dict[tuple[str, str], list[str]] = {}  # what becomes the same stands in one row
    for row in table:
        alike.setdefault((row.becomes, row.note), []).append(f"`{row.operator}`")
    rows = [f"| {source} | {target} | to know |", "| --- | --- | --- |"]
    rows += [
        f"| {' '.join(names)} | {_cell(becomes)} | {_cell(note)} |"
        for (becomes, note), names in alike.items()
    ]
    return f"{len(table)} operators of {source}.\n\n" + "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
