"""Check what no tool checks: file sizes, and that version and changelog agree."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
MAX_LINES = 500


def main() -> int:
    """Print every broken rule; exit 1 if there is one."""
    problems = []
    for path in sorted(ROOT.glob("src/**/*.py")) + sorted(ROOT.glob("tests/**/*.py")):
        lines = len(path.read_text().splitlines())
        if lines > MAX_LINES:
            problems.append(
                f"{path.relative_to(ROOT)} has {lines} lines, over {MAX_LINES}: split it"
            )
    source = (ROOT / "src/tensorkeep/version.py").read_text()
    version = re.search(r'__version__ = "(.+)"', source)
    changelog = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    if version is None or changelog is None or version[1] != changelog[1]:
        problems.append("__version__ and the newest heading of CHANGELOG.md differ")
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
