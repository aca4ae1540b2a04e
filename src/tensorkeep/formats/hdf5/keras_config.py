"""Keras's JSON: how a model is built, as data. Nothing in it is imported, unmarshalled or built.

A layer is an object with `class_name`, `config` and, since Keras 3, the `module` that the class
comes from. What would run code if Keras built it is listed, layer by layer: functions as marshalled
bytecode, classes and functions of other modules, wrapped models of other libraries.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tensorkeep.errors import CorruptError, UnsafeError
from tensorkeep.state import Json
from tensorkeep.wire.text import parse_json, show

MAX_BYTES = 64 << 20
_MAX_VALUES = 4_000_000
_MAX_DEPTH = 200

# Classes that hold more than numbers and text, and what it is.
_LOADERS = {
    "TorchModuleWrapper": "a pickled PyTorch module",
    "TFSMLayer": "a TensorFlow SavedModel to load",
    "JaxLayer": "a JAX function",
    "FlaxLayer": "a Flax module",
}
_OWN = ("keras", "tf_keras", "keras_core", "builtins")
_BYTECODE = "Python bytecode"
_CLASS = re.compile(r"_?[A-Z][A-Za-z0-9_]*|__[a-z_]+__")


def parse_config(data: bytes | str, where: str, what: str) -> Json:
    """Parse an object of Keras's; one with NaN or infinities, which JSON lacks, stays text.

    Raises:
        CorruptError: it is no JSON object, or gives a key twice.
        UnsafeError: it is too large, or nested too deeply.

    >>> parse_config('{"class_name": "Dense"}', "example", "model_config")
    {'class_name': 'Dense'}
    """
    if len(data) > MAX_BYTES:
        raise UnsafeError(
            f"its {what} of {len(data):,} bytes is over the limit of {MAX_BYTES:,}", where=where
        )
    try:
        document = parse_json(data, where, what, most=_MAX_VALUES)
    except CorruptError as error:
        if not error.problem.endswith("is not a JSON number"):
            raise
        return data if isinstance(data, str) else data.decode()
    if not isinstance(document, dict):
        raise CorruptError(f"its {what} is {show(document)}, not an object", where=where)
    for depth, _, _ in _walk(document):
        if depth > _MAX_DEPTH:
            raise UnsafeError(f"its {what} nests over {_MAX_DEPTH} levels deep", where=where)
    return document


def code_in(config: Json) -> list[Json]:
    """List what would run code if Keras built the model, in words: the layer's name first.

    >>> code_in({"class_name": "Evil", "module": "os", "config": {"name": "dense"}})
    ['dense: Evil of the module os']
    """
    if isinstance(config, str):
        return ["all of it: it is kept as text, since it holds a NaN or an infinity"]
    found: dict[str, None] = {}
    for _, layer, value in _walk(config):
        if what := _code(value):
            found[f"{layer}: {what}" if layer else what] = None
    return list(found)


def _code(value: dict[str, Any]) -> str:
    """Say what code an object of a config stands for; empty for none."""
    kind, module, config = value.get("class_name"), value.get("module"), value.get("config")
    if not isinstance(kind, str):
        return ""
    if kind == "__lambda__":
        return f"a lambda of {_BYTECODE}"
    if kind == "Lambda" and isinstance(config, dict):
        function = config.get("function")
        if isinstance(function, list):
            return f"Lambda of {_BYTECODE}"
        return f"Lambda of the function {show(function)}" if isinstance(function, str) else ""
    if kind in _LOADERS:
        return f"{kind} of {_LOADERS[kind]}"
    registered = value.get("registered_name")
    if isinstance(module, str) and module.split(".")[0] not in _OWN:
        return f"{_short(kind)} of the module {_short(module)}"
    if isinstance(module, str) and kind == "function" and isinstance(config, str):
        return f"the function {_short(config)} of the module {_short(module)}"
    if isinstance(module, str) and not _CLASS.fullmatch(kind):  # functions pass for classes, too
        return f"{_short(kind)} of the module {_short(module)}"
    if isinstance(registered, str) and ">" in registered:
        return f"{_short(kind)}, registered as {_short(registered)}"
    return ""


def _short(text: str) -> str:
    return text if len(text) < 60 else f"{text[:57]}..."


def _walk(config: Json) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Give the objects in a config, each with its depth and the innermost layer's name."""
    waiting: list[tuple[int, str, Json]] = [(0, "", config)]
    while waiting:
        depth, layer, value = waiting.pop()
        if isinstance(value, dict):
            inner = value.get("config")
            name = inner.get("name") if isinstance(inner, dict) else None
            layer = _short(name) if isinstance(name, str) and name else layer
            yield depth, layer, value
            children: list[Json] = list(value.values())
        elif isinstance(value, list):
            children = value
        else:
            continue
        waiting.extend((depth + 1, layer, child) for child in reversed(children))
