"""The seal: a digest of a JSON document inside that document, taken with zeros in its place.

It stands as a member `"tensorkeep.header_xxh3_128"` in the headers and indexes of safetensors files
and in the manifests of checkpoints, so that a flipped bit anywhere in them is found.
"""

from __future__ import annotations

import re
from typing import Any

import xxhash

from tensorkeep.errors import CorruptError

SEAL = "tensorkeep.header_xxh3_128"
NO_DIGEST = "0" * 32  # what stands in the place of a digest until it is known

_DIGEST = re.compile(rb' ?"([0-9a-f]{32})"')


def _place(head: bytes) -> int:
    """Find where the one digest of a document stands; -1 where there is none, or two."""
    # Nothing but the member itself looks so: within JSON text the quotes would be escaped.
    mark = f'"{SEAL}":'.encode()
    found = []
    at = head.find(mark)
    while at >= 0:
        if digest := _DIGEST.match(head, at + len(mark)):
            found.append(digest.start(1))
        at = head.find(mark, at + 1)
    return found[0] if len(found) == 1 else -1


def seal(head: bytes) -> bytes:
    """Put the digest of a document into the place kept for it.

    >>> sealed = seal(b'{"tensorkeep.header_xxh3_128":"' + NO_DIGEST.encode() + b'"}')
    >>> check_seal(memoryview(sealed), sealed[-34:-2].decode(), "example")
    """
    at = _place(head)
    if at < 0:
        return head
    found = xxhash.xxh3_128_hexdigest(head).encode()
    return head[:at] + found + head[at + len(found) :]


def check_seal(head: memoryview, sealed: Any, where: str, what: str = "header") -> None:
    """Check the digest of a document, where it has one.

    Raises:
        CorruptError: a bit of it has changed since it was written.
    """
    if sealed is None:
        return
    raw = bytes(head)
    at = _place(raw)
    stop = at + len(NO_DIGEST)
    if at < 0 or raw[at:stop] != str(sealed).encode(errors="replace"):
        raise CorruptError(f"the {what}'s own digest is damaged", where=where)
    found = xxhash.xxh3_128_hexdigest(raw[:at] + NO_DIGEST.encode() + raw[stop:])
    if found != sealed:
        raise CorruptError(
            f"the {what} is damaged: its XXH3-128 is {found}, {sealed} was saved",
            where=where,
            cure="Use another copy of the file.",
        )
