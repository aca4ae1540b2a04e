"""Write the shapes of the viewer's answers as TypeScript: frontend/src/answers.ts.

With --check it only says whether that file is as it would be written.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from pathlib import Path

from tensorkeep.viewer import answers

TARGET = Path(__file__).parent.parent / "frontend" / "src" / "answers.ts"
HEAD = "// Made by scripts/viewer_types.py from src/tensorkeep/viewer/answers.py.\n"
JSON = """
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
"""
SIMPLE = {"str": "string", "int": "number", "float": "number", "bool": "boolean", "None": "null"}
SIMPLE |= {"Any": "unknown", "Json": "Json"}


def typescript(annotation: str) -> str:
    """Say a type of Python's as one of TypeScript's.

    >>> typescript("dict[str, list[float | None]]")
    'Record<string, (number | null)[]>'
    """
    parts = _split(annotation, "|")
    if len(parts) > 1:
        return " | ".join(dict.fromkeys(map(typescript, parts)))
    if match := re.fullmatch(r"list\[(.*)\]", annotation):
        inner = typescript(match[1])
        return f"({inner})[]" if "|" in inner else f"{inner}[]"
    if match := re.fullmatch(r"dict\[(.*)\]", annotation):
        key, value = _split(match[1], ",")
        return f"Record<{typescript(key)}, {typescript(value)}>"
    return SIMPLE.get(annotation, annotation)


def _split(text: str, mark: str) -> list[str]:
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == mark and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def written() -> str:
    """Give what the file should hold."""
    text = HEAD + JSON
    for kind in vars(answers).values():
        if not dataclasses.is_dataclass(kind):
            continue
        text += f"\n/** {inspect.getdoc(kind)} */\nexport interface {kind.__name__} {{\n"
        for field in dataclasses.fields(kind):
            text += f"  {field.name}: {typescript(str(field.type))};\n"
        text += "}\n"
    return text


if __name__ == "__main__":
    wanted = written()
    if "--check" in sys.argv:
        if not TARGET.exists() or TARGET.read_text() != wanted:
            sys.exit(f"{TARGET.name} is out of date: run scripts/viewer_types.py")
    else:
        TARGET.write_text(wanted)
