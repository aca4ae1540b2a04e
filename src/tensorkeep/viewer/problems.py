"""What goes wrong, as an answer: in our words where it is ours, else no more than its kind."""

from __future__ import annotations

import logging

from tensorkeep.errors import (
    ArgumentError,
    MissingDependencyError,
    MissingError,
    StoreError,
    TensorKeepError,
)
from tensorkeep.hidden import reason
from tensorkeep.viewer.answers import Problem

_LOG = logging.getLogger("tensorkeep.viewer")
_STATUS: tuple[tuple[type[TensorKeepError], int], ...] = (
    (ArgumentError, 400),
    (MissingError, 404),
    (MissingDependencyError, 424),
    (StoreError, 424),
)


def status_of(error: BaseException) -> int:
    """Give the HTTP status of an error.

    >>> status_of(MissingError("no such tensor")), status_of(KeyError("name"))
    (404, 500)
    """
    if isinstance(error, TensorKeepError):
        return next((status for kind, status in _STATUS if isinstance(error, kind)), 422)
    return 424 if isinstance(error, OSError) else 500


def told(error: BaseException) -> Problem:
    """Say an error; one that is none of ours is logged, for it should not have come up.

    >>> told(MissingError("no such tensor", where="a.npz", cure="It has w."))
    Problem(problem='a.npz: no such tensor', cure='It has w.')
    """
    if isinstance(error, TensorKeepError):
        where = f"{error.where}: " if error.where else ""
        return Problem(f"{where}{error.problem}", error.cure)
    if isinstance(error, OSError):
        return Problem(reason(error))
    _LOG.error("an error that is none of tensorkeep's", exc_info=error)
    return Problem(
        f"internal error: {type(error).__name__}", "Report it, with the file if it can be."
    )
