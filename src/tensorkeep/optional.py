"""Libraries that a user may not need: imported where one is used first, and nowhere else."""

from __future__ import annotations

import importlib
from typing import Any

from tensorkeep.errors import MissingDependencyError


def require(module: str, need: str, cure: str, where: str = "") -> Any:
    """Import an optional library.

    Args:
        module: its name.
        need: what it is for, to begin the message with.
        cure: how to get it, or to do without.
        where: names the file in the message.

    Raises:
        MissingDependencyError: it is not installed, or cannot be imported.

    >>> require("json", "its text needs json", "Install it.").dumps([1])
    '[1]'
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library of its is missing
        raise MissingDependencyError(
            f"{need}, which cannot be imported: {error}", where=where, cure=cure
        ) from error
