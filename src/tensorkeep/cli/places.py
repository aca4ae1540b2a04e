"""Whether what an argument names is there: on the disk, or at an address of a store."""

from __future__ import annotations

import os

from tensorkeep.errors import MissingError
from tensorkeep.stores import is_url, locate


def is_there(text: str) -> bool:
    """Tell whether a path or an address names something.

    Raises:
        StoreError: the store cannot be asked.

    >>> is_there("/"), is_there("no/such/file"), is_there("")
    (True, False, False)
    """
    if not is_url(text):
        return os.path.exists(text)
    location = locate(text)
    if not location.key:  # a folder, which has objects in it
        return next(iter(location.store.keys()), None) is not None
    try:
        _ = location.source
    except MissingError:
        return False
    location.close()
    return True


def split_tensor(text: str) -> tuple[str, str]:
    """Split FILE:TENSOR; the tensor is empty where none is named.

    >>> split_tensor("/:w"), split_tensor("no/such/file:w")
    (('/', 'w'), ('no/such/file:w', ''))
    """
    path, colon, tensor = text.rpartition(":")
    rest = path.partition("://")[2] if is_url(text) else path
    if not (colon and rest and tensor) or is_there(text) or not is_there(path):
        return text, ""
    return path, tensor
