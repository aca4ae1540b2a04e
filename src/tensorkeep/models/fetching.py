"""Small files beside a model, such as pictures and labels, by their URLs."""

from __future__ import annotations

from tensorkeep.errors import UnsafeError
from tensorkeep.stores import locate

_MOST = 256 << 20


def fetched(url: str) -> bytes:
    """Give the bytes of a small object.

    Raises:
        MissingError: there is none.
        StoreError: it cannot be read.
        UnsafeError: it is far larger than such files are.
    """
    location = locate(url)
    try:
        source = location.source
        if source.size > _MOST:
            raise UnsafeError(f"has {source.size:,} bytes, {_MOST:,} at most are read", where=url)
        return bytes(source.read(0, source.size))
    finally:
        location.close()
