"""What ONNX Runtime says when it fails, as errors of ours."""

from __future__ import annotations

import re

from tensorkeep.errors import MismatchError, TensorKeepError, UnsupportedError

_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_SOURCE = re.compile(r"\S*onnxruntime_src\S*(?: [^\n]*?\) )?")
_LONGEST = 400

_OPSET = re.compile(
    r"Opset (\d+) is under development.* domain (\S+) is till opset (\d+)", re.DOTALL
)
_IR = re.compile(r"model IR version: (\d+), max supported IR version: (\d+)")
_KERNEL = re.compile(r"implementation for (\S+?)\((\d+)\) node with name '([^']*)'")
_UNKNOWN = re.compile(r"No Op registered for (\S+) with domain_version of (\d+)")
_FOREIGN = re.compile(r"error: (\S*?):(\S+?)\(-?\d+\) is not a registered function/op")
_DEPRECATED = re.compile(r"Op registered for (\S+) is deprecated in domain_version of (\d+)")
_RUNNING = re.compile(
    r"status code returned while running (\S+) node\. Name:'([^']*)' Status Message: (.*)",
    re.DOTALL,
)

_EXPAND = (
    "`tensorkeep ops {0}` tells what it is; tensorkeep.models.ops.expand spells out those it knows."
)

# What is said of a model that cannot be loaded: the problem, and the cure.
_LOADING: list[tuple[re.Pattern[str], str, str]] = [
    (
        _OPSET,
        "is made for opset {0} of {1}, of which this ONNX Runtime knows those up to {2}",
        "Convert it with `tensorkeep edit --opset {2}`, or update onnxruntime.",
    ),
    (
        _IR,
        "has IR version {0}, of which this ONNX Runtime knows those up to {1}",
        "Update onnxruntime, or save the model with a lower one.",
    ),
    (
        _KERNEL,
        "has the operator {0} (of opset {1}){2}, of which ONNX Runtime has no kernel for its types",
        _EXPAND,
    ),
    (_UNKNOWN, "has the operator {0}, which opset {1} does not have", _EXPAND),
    (_FOREIGN, "has the operator {1} of {0}, which ONNX Runtime does not know", _EXPAND),
    (
        _DEPRECATED,
        "has the operator {0}, which is deprecated in opset {1}",
        "`tensorkeep ops {0}` tells what takes its place.",
    ),
]


def explain_loading(error: Exception, where: str) -> TensorKeepError:
    """Say why ONNX Runtime could not load a model."""
    if isinstance(error, TensorKeepError):
        return error
    text = str(error)
    for pattern, problem, cure in _LOADING:
        if found := pattern.search(text):
            parts = list(found.groups())
            named = parts[1] if pattern is _FOREIGN else parts[0]
            if pattern is _KERNEL:
                parts[2] = f" at the node {parts[2]!r}" if parts[2] else ""
            cure = cure.format(named) if cure is _EXPAND else cure.format(*parts)
            return UnsupportedError(problem.format(*parts), where=where, cure=cure)
    return UnsupportedError(
        f"cannot be loaded by ONNX Runtime: {shorten(text)}",
        where=where,
        cure="`tensorkeep check` looks for what is wrong with a model.",
    )


def explain_running(error: Exception, where: str, given: str) -> TensorKeepError:
    """Say why ONNX Runtime could not run a model on what it was given."""
    if isinstance(error, TensorKeepError):
        return error
    text = str(error)
    cure = f"It was given {given}."
    if "Failed to allocate" in text or "bad_alloc" in text or isinstance(error, MemoryError):
        return MismatchError(
            f"needs more memory than there is: {shorten(text)}",
            where=where,
            cure="Give a smaller batch_size.",
        )
    if found := _RUNNING.search(text):
        operator, name, reason = found.groups()
        node = f"{operator} {name!r}" if name else operator
        return MismatchError(f"fails at the node {node}: {shorten(reason)}", where=where, cure=cure)
    return MismatchError(f"cannot be run: {shorten(text)}", where=where, cure=cure)


def shorten(text: str) -> str:
    """Take out what only the authors of ONNX Runtime can use.

    >>> shorten("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Invalid rank for input: x")
    'Invalid rank for input: x'
    """
    plain = " ".join(_SOURCE.sub("", _PREFIX.sub("", text)).split())
    return plain if len(plain) <= _LONGEST else f"{plain[:_LONGEST]}..."
