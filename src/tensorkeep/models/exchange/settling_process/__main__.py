"""Works out a model by onnx, in a process of its own: its C++ may fail on what is hostile.

It is a script: it takes a folder, in which it finds model.onnx and the names of operators that are
not to be put as their definitions in keeps.json. It writes settled.onnx, a model without functions
or constant nodes that says the type of every value, and settled.json:

    {"versions": [[SINCE, OPSET], ...], "expanded": {OPERATOR: COUNT}, "folded": COUNT,
     "dropped": COUNT, "faults": {VALUE: TEXT}}

or {"problem": TEXT}. It goes through the nodes in order and puts functions, and branches whose
condition is constant, in their place; has onnx infer what each gives; and has ONNX Runtime compute
what depends on constants alone, a few nodes at a time, when inference cannot do without. Tensors
that are said to lie in other files are constants whose values are not here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import Any

import onnx

from .walk import Walk

MEMORY = 16 << 30  # bytes of addresses
SECONDS = 300  # of work, before the system ends it


def settle(model: onnx.ModelProto, keeps: Iterable[str]) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Work a model out; see above."""
    walk = Walk(model, keeps)
    walk.run()
    return walk.result()


def main(folder: str) -> None:
    """Work out the model in a folder."""
    _limit()
    with open(os.path.join(folder, "keeps.json"), encoding="utf-8") as text:
        keeps = json.load(text)
    with open(os.path.join(folder, "model.onnx"), "rb") as file:
        data = file.read()
    try:
        made, said = settle(onnx.ModelProto.FromString(data), keeps)
        with open(os.path.join(folder, "settled.onnx"), "wb") as file:
            file.write(made.SerializeToString())
    except Exception as error:  # ProblemError, and what protobuf raises
        said = {"problem": str(error) or type(error).__name__}
    with open(os.path.join(folder, "settled.json"), "w", encoding="utf-8") as text:
        json.dump(said, text)


def _limit() -> None:
    try:
        import resource
    except ImportError:  # not on this system
        return
    for kind, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        if hard == resource.RLIM_INFINITY or most < hard:
            resource.setrlimit(kind, (most, hard))


if __name__ == "__main__":
    main(sys.argv[1])
