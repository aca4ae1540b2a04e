"""Errors as scripts of Caffe2 catch them: nearly all of Caffe2's own were RuntimeErrors."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar, cast

from tensorkeep.errors import TensorKeepError

Taken = ParamSpec("Taken")
Given = TypeVar("Given")


def failing(function: Callable[Taken, Given]) -> Callable[Taken, Given]:
    """Have the errors of a function be RuntimeErrors too.

    >>> @failing
    ... def fail():
    ...     raise TensorKeepError("it failed")
    >>> try:
    ...     fail()
    ... except RuntimeError as error:
    ...     print(error)
    it failed
    """

    @wraps(function)
    def call(*args: Taken.args, **kwargs: Taken.kwargs) -> Given:
        try:
            return function(*args, **kwargs)
        except TensorKeepError as error:
            if isinstance(error, RuntimeError):
                raise
            made = _runtime(type(error), error.problem, error.where, error.cure)
            raise made.with_traceback(error.__traceback__) from error.__cause__

    return call


_KINDS: dict[type[TensorKeepError], type[TensorKeepError]] = {}


def _runtime(kind: type[TensorKeepError], problem: str, where: str, cure: str) -> TensorKeepError:
    if kind not in _KINDS:
        bases: tuple[type, ...] = (kind, RuntimeError)
        made = type(kind.__name__, bases, {"__reduce__": lambda self: _reduced(kind, self)})
        _KINDS[kind] = cast(type[TensorKeepError], made)
    return _KINDS[kind](problem, where=where, cure=cure)


def _reduced(kind: type[TensorKeepError], error: TensorKeepError) -> tuple[object, ...]:
    return _runtime, (kind, error.problem, error.where, error.cure)
