"""The weights of a model: those of another file put in, taken out, and put back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tensorkeep import api, dtypes
from tensorkeep.dtypes import DType
from tensorkeep.errors import ArgumentError, MismatchError
from tensorkeep.graph import Place, fill_tensor
from tensorkeep.graph.codec import LISTS, Absent
from tensorkeep.graph.elements import field_of
from tensorkeep.graph.walking import INITIALIZER
from tensorkeep.mapping.patterns import check_replacement, compiled, replaced
from tensorkeep.message import Message
from tensorkeep.models.editing.draft import Draft, counted, edited, listed
from tensorkeep.models.opening import Model
from tensorkeep.state import State
from tensorkeep.stores import Target
from tensorkeep.tensor import Tensor
from tensorkeep.wire.sizes import size_of

# In the metadata_props of a tensor that was taken out: the list that held its values.
LIST = "tensorkeep.list"
THRESHOLD = 1024


def merge(
    model: Model,
    weights: Target | State,
    *,
    partial: bool = False,
    rename: Mapping[str, str] | None = None,
) -> State:
    """Put the tensors of another file into the initializers of the same names.

    Args:
        model: a path or a state; it is not changed.
        weights: a file of any format, or a state.
        partial: leave out what is in the file alone, and leave initializers that it has not.
        rename: names in the model by names in the file, or patterns as `rename` takes them.

    Raises:
        MismatchError: a tensor has another type or shape, or something is missing or too much.
    """
    return edited(
        model, lambda draft: apply_merge(draft, weights, partial=partial, rename=rename or {})
    )


def attach(model: Model, weights: Target | State, *, partial: bool = False) -> State:
    """Put weights back that were taken out of a model; tensors that it holds stay as they are.

    Args:
        model: a path or a state; it is not changed.
        weights: a file of any format, or a state.
        partial: leave out what is in the file alone, and leave tensors without data.

    Raises:
        MismatchError: a tensor has another type or shape, or something is missing or too much.
    """
    return edited(model, lambda draft: apply_attach(draft, weights, partial=partial))


def strip(model: Model, *, threshold: int | str = THRESHOLD) -> State:
    """Take the weights out of a model: of large initializers, types and shapes alone are left.

    `attach` puts them back; save them before, as by converting the model to safetensors.

    Args:
        model: a path or a state; it is not changed.
        threshold: the least bytes of a tensor to take out ("1KiB").
    """

    def change(draft: Draft) -> None:
        apply_strip(draft, threshold)

    return edited(model, change)


def apply_merge(
    draft: Draft, weights: Target | State, *, partial: bool, rename: Mapping[str, str]
) -> None:
    """Put tensors into the initializers of a draft."""
    given = _renamed(_opened(draft, weights), rename)
    places = {n: p for n, p in draft.graph.places().items() if p.kind == INITIALIZER}
    _check(draft, given, places, places, partial=partial)
    fitting = [name for name in given if name in places]
    for name in fitting:
        fill_tensor(places[name].message, given[name])
    draft.said.append(f"put {counted(len(fitting), 'tensor')} of the weights in")
    if partial:
        _tell(draft, given, places, places)


def apply_attach(draft: Draft, weights: Target | State, *, partial: bool) -> None:
    """Put tensors into those of a draft that have no data."""
    given = dict(_opened(draft, weights).items())
    places = draft.graph.places()
    empty = {n: p for n, p in places.items() if isinstance(draft.graph.read(p).source, Absent)}
    _check(draft, given, places, empty, partial=partial)
    fitting = [name for name in empty if name in given]
    for name in fitting:
        _put_back(empty[name].message, given[name])
    draft.said.append(f"attached {counted(len(fitting), 'tensor')}")
    if partial:
        _tell(draft, given, places, empty)


def apply_strip(draft: Draft, threshold: int | str) -> dict[str, Tensor]:
    """Take the weights out of a draft; gives them."""
    least = size_of(threshold) or 0
    taken: dict[str, Tensor] = {}
    for name, place in draft.graph.places().items():
        if place.kind != INITIALIZER:
            continue
        tensor = draft.graph.read(place)
        stays = tensor.dtype is dtypes.STRING or isinstance(tensor.source, Absent)
        if stays or tensor.nbytes < max(least, 1):
            continue
        taken[name] = tensor
        _take_out(place.message)
    draft.said.append(f"took {counted(len(taken), 'tensor')} out")
    return taken


def _opened(draft: Draft, weights: Target | State) -> State:
    if isinstance(weights, State):
        return weights
    state = api.open(weights)
    draft.closers.append(state.close)
    return state


def _renamed(state: State, rename: Mapping[str, str]) -> dict[str, Tensor]:
    names = {name: name for name in state}
    for pattern, new in rename.items():
        check_replacement(pattern, new)
        found = {n: compiled(pattern).fullmatch(now) for n, now in names.items()}
        matched = {n: replaced(pattern, new, m) for n, m in found.items() if m is not None}
        if not matched:
            raise ArgumentError(f"{pattern!r} matches no tensor", where=state.where)
        names |= matched
    given: dict[str, Tensor] = {}
    for name, now in names.items():
        if now in given:
            raise ArgumentError(f"two tensors would be called {now!r}", where=state.where)
        given[now] = state[name]
    return given


def _check(
    draft: Draft,
    given: Mapping[str, Tensor],
    places: Mapping[str, Place],
    needed: Mapping[str, Place],
    *,
    partial: bool,
) -> None:
    wrong = []
    for name, tensor in given.items():
        if name in places:
            own = draft.graph.read(places[name])
            if (own.dtype, own.shape) != (tensor.dtype, tensor.shape):
                wrong.append(
                    f"{name} is {tensor.dtype} {tensor.shape}, in the model {own.dtype} {own.shape}"
                )
    if wrong:
        raise MismatchError(
            f"{counted(len(wrong), 'tensor')} of the weights do not fit: {listed(wrong, 3)}",
            where=draft.where,
            cure="Cast or reshape them first, or give the model the other type.",
        )
    if partial:
        if not any(name in needed for name in given):
            raise MismatchError("none of the weights is in the model", where=draft.where)
        return
    problems = []
    if extra := [name for name in given if name not in places]:
        problems.append(f"the model has no {listed(extra, 5)}")
    if missing := [name for name in needed if name not in given]:
        problems.append(f"the weights have no {listed(missing, 5)}")
    if problems:
        raise MismatchError(
            f"not the weights of this model: {'; '.join(problems)}",
            where=draft.where,
            cure="Rename them, or accept what fits with partial=True.",
        )


def _tell(
    draft: Draft,
    given: Mapping[str, Tensor],
    places: Mapping[str, Place],
    needed: Mapping[str, Place],
) -> None:
    extra = [name for name in given if name not in places]
    missing = [name for name in needed if name not in given]
    if extra:
        draft.lost.append(f"{listed(extra)} of the weights, which the model has not")
    if missing:
        draft.said.append(f"left {listed(missing)} as they are")


def _take_out(message: Message) -> None:
    if "raw_data" not in message:
        for name in LISTS:
            if name in message:
                message.add("metadata_props", key=LIST, value=name)
    for name in (*LISTS, "raw_data", "external_data", "data_location"):
        if name in message:
            message.drop(name)


def _put_back(message: Message, tensor: Tensor) -> None:
    was = [entry.value for entry in message.metadata_props if entry.key == LIST]
    fill_tensor(message, tensor)
    if was:
        message.metadata_props = [row for row in message.metadata_props if row.key != LIST]
    if was and was[0] == field_of(tensor.dtype):
        values = _listed(
            bytes(tensor.source.read(tensor.offset, tensor.offset + tensor.nbytes)), tensor.dtype
        )
        message.drop("raw_data")
        message[was[0]] = values


def _listed(data: bytes, kind: DType) -> np.ndarray:
    """Give the values of a tensor as the list of its type holds them, narrow ones widened."""
    field = field_of(kind)
    if field == "float_data":
        return np.frombuffer(data, "<f4")
    if field == "double_data":
        return np.frombuffer(data, "<f8")
    if field == "int64_data":
        return np.frombuffer(data, "<i8")
    if field == "uint64_data":
        return np.frombuffer(data, kind.numpy).astype(np.uint64)
    if kind.kind in ("int", "uint") and not kind.packed:
        return np.frombuffer(data, kind.numpy).astype(np.int32)
    return np.frombuffer(data, "<u2" if kind.bits == 16 else "u1").astype(np.int32)
