"""One version of an object, and ranges of its bytes.

What the first answer says of the object (its ETag, where it has one) is a condition of every later
request, so that bytes of two versions never meet. obstore tries a request again that got no answer;
a body that breaks off is gone on with here, from the byte where it broke off.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tensorkeep.errors import MissingError, StoreError, TensorKeepError
from tensorkeep.stores.object import failures

if TYPE_CHECKING:
    from tensorkeep.stores.object.connection import Connection

HEAD = 256 << 10  # what the first request asks for
_CHUNK = 512 << 10  # what is taken from a connection at a time
_TRIES = 5  # without a chunk in between


class Version:
    """An object as it was when it was opened, by one request for its first bytes.

    Later requests have to find the same one: by `If-Match` where it has a strong ETag, else by
    `If-Unmodified-Since` where the server tells when it was written, and by its size in any case.

    Args:
        connection: to what has it.
        key: the object's key there.
        where: names it in messages.

    Raises:
        MissingError: there is no such object.
        StoreError: the store cannot be reached, refuses, or does not give ranges of bytes.
    """

    __slots__ = ("_condition", "_connection", "_key", "etag", "head", "modified", "size", "where")

    def __init__(self, connection: Connection, key: str, where: str) -> None:
        self._connection = connection
        self._key = key
        self.where = where
        try:
            result = ask(connection, key, where, {"range": (0, HEAD)})
        except TensorKeepError as error:
            if failures.status_of(error.__cause__) != 416:
                raise
            result = ask(connection, key, where)  # an empty object has no range
        self.size, self.etag, self.modified = described(result.meta)
        self._condition: dict[str, Any] = {}
        if self.strong:
            self._condition = {"if_match": self.etag}
        elif self.modified > 0:
            self._condition = {"if_unmodified_since": result.meta["last_modified"]}
        head = bytearray(min(HEAD, self.size))
        self.fill(0, memoryview(head), result)
        self.head = memoryview(head).toreadonly()

    @property
    def strong(self) -> bool:
        """Whether objects with this ETag have the same bytes; a weak one is no more than alike."""
        return bool(self.etag) and not self.etag.startswith("W/")

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells it from any other object, and from other versions of itself."""
        return (*self._connection.identity, self._key, self.etag, str(self.size))

    def fill(self, start: int, buffer: memoryview, result: Any = None) -> None:
        """Fill a buffer from `start` on, by one request unless connections break off.

        Args:
            start: of which byte of the object on.
            buffer: what to fill.
            result: what a request for these bytes was answered with already.

        Raises:
            StoreError: the object was replaced, or the store fails again and again.
        """
        done = 0
        patience = Patience(self._connection, self.where, buffer.nbytes)
        while done < buffer.nbytes:
            broken: Exception | None = None
            try:
                if result is None:
                    result = self._get(start + done, start + buffer.nbytes)
                for chunk in chunks(result):
                    if chunk.nbytes > buffer.nbytes - done:
                        problem = "more bytes came than were asked for"
                        raise StoreError(problem, where=self.where)
                    buffer[done : done + chunk.nbytes] = chunk
                    done += chunk.nbytes
            except BrokenOffError as error:
                broken = error.reason
            result = None
            if done < buffer.nbytes:
                patience.wait(done, broken)

    def _get(self, start: int, stop: int) -> Any:
        options = {"range": (start, stop), **self._condition}
        try:
            result = ask(self._connection, self._key, self.where, options)
        except MissingError as error:
            raise replaced(self.where, "deleted") from error.__cause__
        size, etag, modified = described(result.meta)
        # For servers that do not look at the condition.
        if (size, etag) != (self.size, self.etag) or (not etag and modified != self.modified):
            raise replaced(self.where)
        return result


class BrokenOffError(Exception):
    """A body ended before all of it had come."""

    def __init__(self, reason: Exception) -> None:
        self.reason = reason
        super().__init__(str(reason))


class Patience:
    """How often what breaks off is tried again: a few times, unless there is progress.

    Args:
        connection: of which it is, and how long one waits for it.
        where: names the object.
        wanted: how many bytes are to come.
    """

    def __init__(self, connection: Connection, where: str, wanted: int) -> None:
        self._connection = connection
        self._where = where
        self._wanted = wanted
        self._done = self._failures = 0
        self._last = time.monotonic()

    def wait(self, done: int, reason: Exception | None) -> None:
        """Wait a little, longer each time.

        Raises:
            StoreError: that was often enough.
        """
        if done >= self._done + _CHUNK:
            self._done, self._failures, self._last = done, 0, time.monotonic()
        self._failures += 1
        if self._failures >= _TRIES or time.monotonic() - self._last > self._connection.patience:
            why = ""
            if reason is not None:
                why = f": {self._connection.failure(reason, self._where).problem}"
            raise StoreError(
                f"broke off after {done:,} of {self._wanted:,} bytes, again and again{why}",
                where=self._where,
                cure="Look at the network and the server, and try again.",
            ) from reason
        time.sleep(failures.FIRST_PAUSE * 2 ** (self._failures - 1) * random.uniform(0.5, 1.0))


def ask(connection: Connection, key: str, where: str, options: dict[str, Any] | None = None) -> Any:
    """Ask for an object or a range of it; the answer's body is still to come.

    Raises:
        MissingError: there is no such object.
        StoreError: the store cannot be reached, or refuses.
    """
    store = connection.store
    try:
        return store.get(key, options=options or {})
    except Exception as error:
        raise connection.failure(error, where) from error


def chunks(result: Any) -> Iterator[memoryview]:
    """Give the body as it comes.

    Raises:
        BrokenOffError: the connection ended or stood still before all of it had come.
    """
    try:
        for chunk in result.stream(min_chunk_size=_CHUNK):
            yield memoryview(chunk)
    except Exception as error:
        raise BrokenOffError(error) from error


def described(meta: Any) -> tuple[int, str, float]:
    """Give the size, the ETag and the time of writing (0 where the server does not tell)."""
    modified = meta["last_modified"].timestamp() if meta["last_modified"] else 0.0
    return int(meta["size"]), str(meta["e_tag"] or ""), max(0.0, modified)


def replaced(where: str, how: str = "replaced") -> StoreError:
    """Say that an object is no longer the one that was opened."""
    return StoreError(f"was {how} since it was opened", where=where, cure="Open it again.")
