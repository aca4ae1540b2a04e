"""Smallest models, one for each operator, in ONNX's textual syntax.

examples.onnxtxt holds a paragraph for each: a graph that is called as the operator. A paragraph
that does not begin with `<` is completed by the heading that most have in common.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from tensorkeep.errors import MissingError

_HEADING = '<ir_version: 10, opset_import: ["" : 22]>\n'
_NAME = re.compile(r"^(\w+) \(", re.MULTILINE)


def example(name: str) -> str:
    r"""Give the smallest model that uses an operator, as text.

    Raises:
        MissingError: there is none.

    >>> print(example("Erfc"))
    <ir_version: 10, opset_import: ["" : 22]>
    Erfc (float[4] X) => (float[4] Y) {
      Y = Erfc (X)
    }
    """
    found = examples().get(name)
    if found is None:
        raise MissingError(f"there is no example for {name}", cure="See ops.examples.examples().")
    return found


@cache
def examples() -> dict[str, str]:
    """Give all examples by the name of the operator."""
    text = (files("tensorkeep.models.ops") / "examples.onnxtxt").read_text(encoding="utf-8")
    found = {}
    for paragraph in text.strip().split("\n\n"):
        named = _NAME.search(paragraph)
        assert named is not None, paragraph
        whole = paragraph if paragraph.startswith("<") else _HEADING + paragraph
        found[named[1]] = whole.strip()
    return found
