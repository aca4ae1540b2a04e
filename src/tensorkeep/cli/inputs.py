"""Inputs as a command line names them: NAME=FILE:TENSOR, the name and the tensor only if needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy.typing as npt

from tensorkeep import api
from tensorkeep.cli.places import is_there, split_tensor
from tensorkeep.errors import ArgumentError
from tensorkeep.graph import Value
from tensorkeep.models.running.sessions import Session
from tensorkeep.state import State
from tensorkeep.stores import is_url
from tensorkeep.tensor import Tensor

Part = Tensor | npt.NDArray[Any]


def take_inputs(loaded: Session, given: Sequence[str], stack: ExitStack) -> dict[str, Part]:
    """Open the files of inputs; they stay open as long as the stack does.

    A file without a name before it gives all tensors that are called like inputs, or its only one
    for the only input that is left.

    Raises:
        ArgumentError: what is meant is not clear, or an input is given twice.
        MissingError: there is no such file or tensor.
    """
    parts: dict[str, Part] = {}
    for text in given:
        name, rest = split_name(loaded, text)
        path, named = split_tensor(rest)
        tensor = named or None
        state = stack.enter_context(api.open(path))
        found: dict[str, Part]
        if name is None and tensor is None:
            found = _all_of(loaded, state, parts)
        else:
            wanted = name or _left(loaded, parts, state.where)
            found = {wanted: state[tensor] if tensor is not None else _only(state, wanted)}
        for key, value in found.items():
            if key in parts:
                raise ArgumentError(f"the input {key!r} is given twice", where=state.where)
            parts[key] = value
    return parts


def split_name(loaded: Session, text: str) -> tuple[str | None, str]:
    """Split NAME=REST; None where there is no name, such as in the path of a file that has a =."""
    name, equals, rest = text.partition("=")
    known = {value.name for value in (*loaded.inputs, *loaded.defaults)}
    if not equals or (name not in known and _names_file(text)):
        return None, text
    return name, rest


def _names_file(text: str) -> bool:
    return is_url(text) or is_there(text) or is_there(text.rpartition(":")[0])


def _only(state: State, wanted: str) -> Tensor:
    if wanted in state:
        return state[wanted]
    if len(state) != 1:
        raise ArgumentError(
            f"holds {len(state):,} tensors, none of them called {wanted!r}",
            where=state.where,
            cure=f"Say {wanted}={os.path.basename(state.where)}:TENSOR.",
        )
    return next(iter(state.values()))


def _all_of(loaded: Session, state: State, parts: dict[str, Part]) -> dict[str, Part]:
    known = [value.name for value in (*loaded.inputs, *loaded.defaults)]
    found: dict[str, Part] = {name: state[name] for name in known if name in state}
    return found or {_left(loaded, parts, state.where): _only(state, "")}


def _left(loaded: Session, parts: dict[str, Part], where: str) -> str:
    left = [value.name for value in loaded.inputs if value.name not in parts]
    if len(left) != 1:
        listed = "; ".join(map(str, loaded.inputs)) or "no inputs"
        raise ArgumentError(
            f"is for which input? The model takes {listed}", where=where, cure="Say NAME=FILE."
        )
    return left[0]


def find_image_input(
    loaded: Session, images: Sequence[str], parts: dict[str, Part]
) -> tuple[Value, list[str]]:
    """Find the input that pictures are for, and give their paths.

    Raises:
        ArgumentError: none takes pictures, or several are named.
    """
    split = [split_name(loaded, text) for text in images]
    names = {name for name, _ in split if name is not None}
    free = [value for value in loaded.inputs if value.name not in parts]
    if names:
        free = [value for value in loaded.inputs if value.name in names]
        if len(names) > 1 or not free:
            raise ArgumentError(
                f"pictures are for {' and '.join(sorted(names))}, but can be for one input only"
            )
    for value in free:
        if value.kind == "tensor" and (value.axes is None or len(value.axes) == 4):
            return value, [path for _, path in split]
    listed = "; ".join(map(str, loaded.inputs)) or "no inputs"
    raise ArgumentError(f"takes {listed}, none of them pictures", where=loaded.where)
