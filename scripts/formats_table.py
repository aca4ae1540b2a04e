"""Write the table of formats in docs/formats.md from the code, or check that it is what it was.

`--write` puts it into the document, `--check` exits 1 where the document has another one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from tensorkeep.dtypes import BLOCKS, DTYPES
from tensorkeep.format import Format
from tensorkeep.formats import FORMATS
from tensorkeep.state import State
from tensorkeep.tensor import Tensor

DOCUMENT = Path(__file__).parent.parent / "docs" / "formats.md"
BEGIN, END = "<!-- begin formats -->\n", "<!-- end formats -->"
COLUMNS = (
    "format",
    "endings",
    "needs",
    "written",
    "lazy",
    "slices",
    "dtypes",
    "metadata",
    "in several files",
    "compressed",
    "verified by",
    "safe, as it",
)
YES, NO = "yes", "-"
_LISTED = 4


def main() -> int:
    """Print the table, write it or compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put it into the document")
    parser.add_argument("--check", action="store_true", help="compare it with the document's")
    given = parser.parse_args()
    made = table()
    if not given.write and not given.check:
        sys.stdout.write(made)
        return 0
    text = DOCUMENT.read_text(encoding="utf-8")
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{DOCUMENT} lacks the lines {BEGIN.strip()} and {END}")
    whole = f"{head}{BEGIN}\n{made}\n{END}{tail}"
    if given.check:
        if whole != text:
            sys.stderr.write("docs/formats.md: run scripts/formats_table.py --write\n")
        return int(whole != text)
    DOCUMENT.write_text(whole, encoding="utf-8")
    return 0


def table() -> str:
    """Give the table as Markdown."""
    rows = [COLUMNS, ["---"] * len(COLUMNS), *map(row, FORMATS.values())]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def _named(format: Format) -> str:
    return "any name" if format.name.endswith("-tensor") else "a folder"


def row(format: Format) -> list[str]:
    """Give the cells of one format."""
    return [
        f"`{format.name}`",
        " ".join(f"`{suffix}`" for suffix in format.suffixes) or _named(format),
        f"`[{format.extra}]`" if format.extra else NO,
        YES if format.encode else f"no; by {format.written_by}",
        YES if format.lazy else NO,
        YES if format.lazy else NO,
        _dtypes(format),
        _metadata(format),
        format.sharded or NO,
        format.packed or NO,
        format.checked_by or NO,
        format.safe_by,
    ]


def _dtypes(format: Format) -> str:
    held = [kind for kind in DTYPES.values() if kind in format.holds]
    blocks = " and quantized blocks" if set(BLOCKS.values()) & format.holds else ""
    left = [str(kind) for kind in DTYPES.values() if kind not in format.holds]
    if not left:
        return f"all{blocks}"
    if len(left) <= _LISTED:
        return f"all but {', '.join(left)}{blocks}"
    if len(held) <= _LISTED:
        return ", ".join(map(str, held))
    return f"{len(held)} of {len(DTYPES)}{blocks}"


def _metadata(format: Format) -> str:
    if format.encode is None:
        return "read"
    state = State({"w": Tensor.of(np.ones(2, np.float32))}, metadata={"epoch": 3})
    return NO if any("metadata" in lost for lost in format.losses(state)) else "any JSON"


if __name__ == "__main__":
    sys.exit(main())
