"""Whether what is at the target already has the content of the source."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import zip_longest

from tensorkeep import syscalls
from tensorkeep.copying.content import Checker
from tensorkeep.copying.sources import File
from tensorkeep.errors import CorruptError, MissingError
from tensorkeep.source import Source
from tensorkeep.store import Location

_PIECE = 8 << 20
_TELLING = re.compile('"?[0-9a-f]{32}(-[0-9]+)?"?')  # made of the bytes, as those of S3 are


def is_same(there: Location, file: File, *, verify: bool, etag: str = "") -> bool:
    """Compare a file with the one that it is to be: by digests of the source, else byte for byte.

    Args:
        there: what is at the target.
        file: the source.
        verify: read it; the size alone tells otherwise.
        etag: what the target's store calls its version; "" on a disk.
    """
    try:
        if there.source.size != file.size:
            return False
        if not verify or (etag == file.etag and _TELLING.fullmatch(etag)):
            return True
        if file.content.proved:
            checker = Checker(file.content, there.where)
            for piece in _pieces(there.source):
                checker.take(piece)
            return True
        pairs = zip_longest(_pieces(there.source), _pieces(file.location.source))
        return all(one == other for one, other in pairs)
    except MissingError:
        return False
    except CorruptError as error:
        if error.where == file.location.where:
            raise  # it is the source that is damaged
        return False
    finally:
        there.close()
        file.close()


def _pieces(source: Source) -> Iterator[memoryview]:
    for at in range(0, source.size, _PIECE):
        piece = source.read(at, min(at + _PIECE, source.size))
        yield piece
        syscalls.let_go(piece)
