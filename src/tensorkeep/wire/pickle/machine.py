"""Reading a pickle as data: nothing is imported, and nothing called but functions of ours.

A pickle is a program for a machine with a stack: most instructions push a value or put values into
a container; a few name something to import, call it, or give an object its attributes. Here a name
is looked up in a table of functions that the caller hands in. What stands there is called and has
to be pure; anything else becomes an `Opaque` that holds what the pickle says of it, and is noted.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from tensorkeep.errors import TensorKeepError, UnsafeError
from tensorkeep.source import Source
from tensorkeep.wire.pickle.opcodes import TABLE
from tensorkeep.wire.pickle.stack import Allowed, CutShortError, Stack, Stop

MAX_STEPS = 24_000_000  # over forty for each of as many tensors as a state can have
_STRIDE = 4096  # instructions between looks at the limits
_FIRST_WINDOW = 128 << 10

Persistent = Callable[[Any], Any]


class Unpickled(NamedTuple):
    """What a pickle holds.

    `end` is where the byte behind it stands, `refused` the names that it would need and that are
    not allowed, in the order in which they come.
    """

    value: Any
    end: int
    refused: tuple[str, ...]


def read_pickle(
    data: memoryview | bytes,
    where: str,
    *,
    allowed: Allowed,
    persistent: Persistent | None = None,
    start: int = 0,
) -> Unpickled:
    r"""Read one pickle of any protocol.

    Args:
        data: the bytes that hold it; others may follow.
        where: names the file in messages.
        allowed: functions of ours by module and name, called in place of what is named so.
        persistent: gives what an identifier of something outside of the pickle stands for.
        start: where in `data` it starts.

    Raises:
        CorruptError: it contradicts itself, or is cut short.
        UnsafeError: it is made to exhaust its reader.
        UnsupportedError: it needs a later protocol, or bytes from outside.

    >>> read_pickle(b"\x80\x02]K\x01a.", "a.pkl", allowed={})
    Unpickled(value=[1], end=7, refused=())
    >>> read_pickle(b"cos\nsystem\nX\x02\x00\x00\x00ls\x85R.", "a.pkl", allowed={})
    Unpickled(value=Opaque(os.system), end=21, refused=('os.system',))
    """
    stack = Stack(bytes(data), where, allowed, persistent)
    at, steps, code, table = start, 0, stack.data, TABLE
    try:
        while True:
            stack.check_limits()
            steps += _STRIDE
            if steps > MAX_STEPS:
                raise stack.hostile(f"has over {MAX_STEPS:,} instructions")
            for _ in range(_STRIDE):
                at = table[code[at]](stack, at + 1)
    except TensorKeepError:
        raise
    except ENDINGS as error:
        return ended(stack, at, error)


# What stops the machine: the end of a pickle, or what its instructions ask of values that cannot.
ENDINGS = (
    *(Stop, IndexError, KeyError, ValueError, TypeError),
    *(OverflowError, struct.error, MemoryError),
)


def ended(stack: Stack, at: int, error: BaseException) -> Unpickled:
    """Give what a pickle came to, where its end was met at a byte.

    Raises:
        CorruptError: it contradicts itself, or is cut short.
        UnsafeError: it takes more memory than there is.
    """
    if isinstance(error, Stop):
        if stack.marks or len(stack.items) != 1:
            raise stack.broken("ends with something left on its stack, or nothing") from None
        return Unpickled(stack.items[0], at + 1, tuple(stack.refused))
    if isinstance(error, MemoryError):
        raise stack.hostile("takes more memory than there is") from None
    if isinstance(error, KeyError):
        raise stack.broken(f"speaks at byte {at} of a value that it has not kept") from None
    if not isinstance(error, IndexError):
        raise stack.broken(f"is damaged at byte {at}: {str(error)[:200]}") from None
    if at + 1 >= stack.size:
        raise CutShortError(
            "its pickle ends early", where=stack.where, cure="It is cut short."
        ) from None
    raise stack.broken(f"takes more from its stack at byte {at} than there is") from None


def read_pickle_in(
    source: Source,
    start: int,
    *,
    allowed: Allowed,
    persistent: Persistent | None = None,
    most: int = 1 << 30,
) -> Unpickled:
    """Read a pickle that starts somewhere in a source, and as little behind it as can be.

    Args:
        source: the bytes.
        start: where it starts.
        allowed: as for `read_pickle`.
        persistent: as for `read_pickle`; a pickle may be read again from its start.
        most: the bytes that it may have.

    Raises:
        CorruptError: as for `read_pickle`.
        UnsafeError: as for `read_pickle`, or it is longer than `most`.
    """
    window = _FIRST_WINDOW
    while True:
        stop = min(source.size, start + window)
        data = source.read(start, stop)
        try:
            found = read_pickle(data, source.where, allowed=allowed, persistent=persistent)
            return found._replace(end=start + found.end)
        except CutShortError:
            if stop == source.size:
                raise
            window *= 8
        if window > 8 * most:
            raise UnsafeError(f"has a pickle of over {most:,} bytes", where=source.where)
