"""Runs onnx's checker and inference in a process of its own, whose end harms no other.

It is a script: it takes a folder, and after it what to do there, in this order.

    check NAME     check the model NAME.onnx
    infer NAME     write what inference makes of it to NAME.inferred
    strict NAME    run strict inference over it
    convert:VERSION NAME    convert its operator set; writes NAME.converted

For each it writes a line of JSON to stdout: [what was done, what onnx says or null].
"""

from __future__ import annotations

import json
import os
import sys

MEMORY = 16 << 30  # bytes of addresses
SECONDS = 60  # of work, before the system ends it


def main(folder: str, tasks: list[str]) -> None:
    """Do what is asked for, each after the other."""
    _limit()
    from onnx import checker, shape_inference

    for task in tasks:
        kind, _, name = task.partition(" ")
        path = os.path.join(folder, f"{name}.onnx")
        said = None
        try:
            if kind == "check":
                checker.check_model(path)
            elif kind.startswith("convert:"):
                _convert(path, int(kind.partition(":")[2]), os.path.join(folder, name))
            else:
                with open(path, "rb") as file:
                    data = file.read()
                strict = kind == "strict"
                found = shape_inference.infer_shapes(data, strict, strict, True)
                if not strict:
                    with open(os.path.join(folder, f"{name}.inferred"), "wb") as file:
                        file.write(found.SerializeToString())
        except Exception as error:  # ValidationError, InferenceError, and what protobuf raises
            said = str(error) or type(error).__name__
        sys.stdout.write(json.dumps([task, said]) + "\n")
        sys.stdout.flush()


def _convert(path: str, version: int, target: str) -> None:
    from onnx import load_model, version_converter

    model = version_converter.convert_version(load_model(path, load_external_data=False), version)
    with open(f"{target}.converted", "wb") as file:
        file.write(model.SerializeToString())


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
    main(sys.argv[1], sys.argv[2:])
