"""A folder for what other libraries take as files alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from tensorkeep.errors import StoreError, TensorKeepError


@contextmanager
def scratch_folder() -> Iterator[str]:
    """Give the path of a folder that is removed in the end, with all in it.

    Raises:
        StoreError: it cannot be made or written to.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="tensorkeep-") as folder:
            yield folder
    except TensorKeepError:
        raise
    except OSError as error:
        raise StoreError(
            f"a temporary file cannot be written: {error.strerror or error}",
            where=tempfile.gettempdir(),
            cure="Make room there, or have TMPDIR name another folder.",
        ) from error
