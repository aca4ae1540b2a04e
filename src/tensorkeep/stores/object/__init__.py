"""Objects in a bucket: S3, Google Cloud Storage, Azure, and HTTP to read from.

An object appears whole, once its upload is completed, which `commit` does; until then the old one
is there. Nothing can be renamed, and several objects do not change at one instant: they appear in
the order in which they were put.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, ClassVar

from tensorkeep.errors import ArgumentError, MissingError, StoreError, TensorKeepError
from tensorkeep.source import Source
from tensorkeep.store import Chunks, Progress, Store
from tensorkeep.stores.object import failures
from tensorkeep.stores.object.addresses import Address, check_key, parse_address
from tensorkeep.stores.object.cache import chosen
from tensorkeep.stores.object.connection import Connection, connect
from tensorkeep.stores.object.listing import PAGE, Entry, entry_of, list_entries, list_folders
from tensorkeep.stores.object.reading import RemoteSource
from tensorkeep.stores.object.uploading import MARK, Spool, Upload, finish_together

_MOST_COPIED = 5 << 30  # bytes that S3 copies by one request
_TOGETHER = 1000  # keys that one request deletes


class ObjectStore(Store):
    """Objects below an address, by relative path.

    Args:
        address: such as "s3://bucket/runs", "gs://...", "az://container/...", "https://...".
        options: see `tensorkeep.remote`.

    >>> ObjectStore("s3://models/llama").below("8b").where
    's3://models/llama/8b'
    """

    in_order: ClassVar[bool] = True

    def __init__(self, address: str, **options: Any) -> None:
        self._open(parse_address(address), options)

    def _open(self, address: Address, options: dict[str, Any]) -> None:
        self._address = address
        self._options = options
        self.where = address.where
        self._prefix = f"{address.path}/" if address.path else ""
        self._connection = connect(address, options)
        self._spool = Spool()
        self._pending: dict[str, Upload] = {}
        self._deleted: list[str] = []
        self._looks_once = False
        self._all: list[Entry] | None = None  # of a reader, where it is not much

    @classmethod
    def at(cls, address: Address, options: dict[str, Any]) -> ObjectStore:
        """Give the store of an address that was taken apart."""
        store = cls.__new__(cls)
        store._open(address, options)
        return store

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectStore.at, (self._address, self._options)

    @property
    def connection(self) -> Connection:
        """How the bucket is reached."""
        return self._connection

    @property
    def lists(self) -> bool:
        """Whether it can tell which keys there are, which no web server does."""
        return not self._address.http

    def _path(self, key: str) -> str:
        check_key(key, self.where)
        return self._prefix + key

    def _named(self, key: str) -> str:
        return self._address.below(key).where if key else self.where

    @contextlib.contextmanager
    def _told(self, key: str = "") -> Iterator[None]:
        """Turn obstore's errors into ours."""
        try:
            yield
        except TensorKeepError:
            raise
        except Exception as error:
            raise self._connection.failure(error, self._named(key)) from None

    # --- reading -----------------------------------------------------------------------------

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Give the keys that start with `prefix`, in their order.

        A web server cannot list: it gives `prefix` itself if there is such a file.
        """
        return (entry.key for entry in self.entries(prefix))

    def get(self, key: str) -> Source:
        path, whole = self._path(key), bool(self._options.get("whole", False))
        cache = chosen(self._options.get("cache"), self._options.get("cache_size"))
        return RemoteSource(self._connection, path, self._named(key), cache=cache, whole=whole)

    # --- writing -----------------------------------------------------------------------------

    def put(
        self,
        key: str,
        chunks: Chunks,
        *,
        size: int | None = None,
        durable: bool = True,
        progress: Progress | None = None,
    ) -> None:
        self._check_writable()
        path = self._path(key)
        upload = Upload(self._connection, path, self._named(key), self._spool, size)
        try:
            upload.take(chunks, progress)
        except BaseException:
            upload.abort()
            raise
        self._forget(key)
        self._pending[key] = upload

    def _check_writable(self) -> None:
        if self._address.http:
            raise ArgumentError(
                "is read over HTTP, which cannot be written to",
                where=self.where,
                cure="Use the address of its bucket (s3://, gs://, az://), or a path.",
            )

    def writer(self) -> ObjectStore:
        return self.at(self._address, self._options)

    def reader(self) -> ObjectStore:
        reader = self.at(self._address, self._options)
        reader._looks_once = True
        return reader

    def draft(self, key: str) -> Store:
        """Give a writer of the keys below one, which at its commit are all that lie there.

        That is not atomic: the objects appear one by one, several at a time, the last that was put
        after all the others; then those that were there before and were not put are deleted. A
        failure in between leaves some new and some old ones.
        """
        from tensorkeep.stores.object.drafting import Draft

        self._check_writable()
        return Draft(self, key)

    def inside(self, key: str) -> ObjectStore | None:
        store = self.below(key)
        return store if self.lists and any(True for _ in store.keys()) else None

    def delete(self, key: str) -> None:
        self._check_writable()
        self._path(key)
        self._forget(key)
        self._deleted.append(key)

    def commit(self) -> None:
        done = 0
        try:
            for key in list(self._pending):
                self._pending[key].finish()
                del self._pending[key]
                done += 1
            self.remove(self._deleted)
        except TensorKeepError as error:
            raise _unfinished(error, done) from None
        finally:
            self.rollback()

    def commit_together(self) -> None:
        """Commit, with the objects in any order but for the last."""
        try:
            uploads = list(self._pending.values())
            finish_together(uploads, self._connection.concurrency)
            self._pending.clear()
            self.remove(self._deleted)
        except TensorKeepError as error:
            raise _unfinished(error, 1) from None
        finally:
            self.rollback()

    def rollback(self) -> None:
        while self._pending:
            self._pending.popitem()[1].abort()
        self._deleted.clear()
        self._spool.clear()

    def _forget(self, key: str) -> None:
        """Drop what an earlier put or delete would do to a key: the last one counts."""
        if key in self._pending:
            self._pending.pop(key).abort()
        if key in self._deleted:
            self._deleted.remove(key)

    # --- what only an object store has: at once, without a commit ----------------------------

    def below(self, prefix: str) -> ObjectStore:
        """Give the store of the keys below one, by the same connection."""
        prefix = prefix.strip("/")
        if prefix:
            check_key(prefix, self.where)
        return self.at(self._address.below(prefix), self._options)

    def split(self) -> tuple[ObjectStore, str]:
        """Give the store around this one, and what this one is called in it."""
        around, name = self._address.split()
        return self.at(around, self._options), name

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """List the objects whose keys start with `prefix`, in the order of their keys."""
        if not self.lists:
            found = self.look(prefix) if prefix and not prefix.endswith("/") else None
            if found is not None:
                yield found
            return
        with self._told():
            if self._looks_once:
                self._looks_once = False
                first = list(islice(list_entries(self._connection, self._prefix, ""), PAGE))
                self._all = first if len(first) < PAGE else None
            if self._all is None:
                yield from list_entries(self._connection, self._prefix, prefix)
            else:
                yield from [entry for entry in self._all if entry.key.startswith(prefix)]

    def folders(self, prefix: str = "") -> list[str]:
        """List what lies right below `prefix` ("" or one that ends in "/") and has objects in it.

        One request for a thousand, whatever is in them: ["step-00000100", "step-00000200"].
        """
        if not self.lists:
            raise StoreError("a web server does not list what it has", where=self.where)
        with self._told():
            return list_folders(self._connection, self._prefix + prefix)

    def look(self, key: str) -> Entry | None:
        """Look at an object without reading it; None where there is none."""
        path = self._path(key)
        try:
            with self._told(key):
                return entry_of(self._connection, self._connection.store.head(path), key)
        except MissingError:
            return None

    def create(self, key: str, data: bytes) -> bool:
        """Write a small object if there is none of that key; False where there is one.

        Of many who try at the same time, exactly one gets True.

        Raises:
            StoreError: the store failed, or cannot tell who was first.
        """
        self._check_writable()
        path, proven = self._path(key), self._connection.creates
        if not proven and self.look(key) is not None:
            return False
        token = uuid.uuid4().hex

        def put() -> bool:
            return self._put_if(path, data, "create", token)

        if not (self._persist(key, put) or self._is_mine(key, data, token)):
            return False
        if not proven:  # one that is there already has to be refused, and so is told from others
            self._connection.creates = not self._persist(key, put)
            if not self._connection.creates:
                self.remove([key])
                raise self._unconditional(key)
        return True

    def replace(self, key: str, data: bytes, etag: str = "") -> bool:
        """Write a small object in place of the one with this etag (any, without one).

        False where it is another one by now, or gone.

        Raises:
            StoreError: the store failed, or cannot tell which one it replaces.
        """
        self._check_writable()
        path, store = self._path(key), self._connection.store
        if not etag:
            with self._told(key):
                store.put(path, data, use_multipart=False)
            return True
        if not self._connection.replaces and not self._try_replacing(key, etag):
            return False
        token = uuid.uuid4().hex
        mode = {"e_tag": etag}
        if self._address.scheme == "gs":
            mode = {"version": etag}

        def put() -> bool:
            return self._put_if(path, data, mode, token)

        return self._persist(key, put) or self._is_mine(key, data, token)

    def _try_replacing(self, key: str, etag: str) -> bool:
        """Find out, by putting what is there, whether the store minds etags.

        False where the etag is another one by now.
        """
        path = self._path(key)
        with self._told(key):
            try:
                found = self._connection.store.get(path)
                data = bytes(found.bytes())
            except FileNotFoundError:
                return False
            if found.meta["e_tag"] != etag:
                return False
        never = {"e_tag": f'"{"0" * 32}"'}

        def put() -> bool:
            return self._put_if(path, data, never, "")

        self._connection.replaces = not self._persist(key, put)
        if not self._connection.replaces:
            raise self._unconditional(key)
        return True

    def _put_if(self, path: str, data: bytes, mode: Any, token: str) -> bool:
        attributes = {MARK: token} if token else None
        try:
            self._connection.store.put(
                path, data, mode=mode, use_multipart=False, attributes=attributes
            )
        except Exception as error:
            kind = type(error).__name__
            if kind in ("AlreadyExistsError", "PreconditionError", "NotModifiedError"):
                return False
            if isinstance(error, FileNotFoundError) and mode != "create":
                if "NoSuchBucket" in str(error):
                    raise
                return False
            raise
        return True

    def _persist(self, key: str, put: Callable[[], bool]) -> bool:
        """Try until it is answered: obstore itself does not repeat what may have been done."""
        with self._told(key):
            return failures.again(put, self._connection.patience)

    def _is_mine(self, key: str, data: bytes, token: str) -> bool:
        """Tell whether the object is the one just put, whose first answer was lost."""
        with self._told(key):
            try:
                found = self._connection.store.get(self._path(key))
            except FileNotFoundError:
                return False
            marks = {name.lower(): value for name, value in found.attributes.items()}
            if MARK in marks:
                return bool(marks[MARK] == token)
            return bool(bytes(found.bytes()) == data)  # a store that keeps no metadata

    def _unconditional(self, key: str) -> StoreError:
        return StoreError(
            "the store replaces an object where it was told not to",
            where=self._named(key),
            cure="Several writers would overwrite one another: use a store that minds If-Match "
            "and If-None-Match.",
        )

    def copy(self, source: ObjectStore, key: str, to: str) -> bool:
        """Copy an object inside the store, without its bytes coming here; False where it cannot.

        Args:
            source: the store, of the same bucket, that `key` is of.
            key: what to copy.
            to: the key, in this store, of the copy.

        Raises:
            MissingError: there is no such object.
        """
        self._check_writable()
        if source.connection.identity != self._connection.identity:
            return False
        found = source.look(key)
        if found is None:
            raise MissingError("there is no such object", where=source._named(key))
        if found.size > _MOST_COPIED:
            return False
        try:
            paths = source._path(key), self._path(to)
            copied = partial(self._connection.store.copy, *paths)
            failures.again(copied, self._connection.patience)
        except Exception as error:
            if type(error).__name__ == "NotSupportedError" or failures.refuses(error):
                return False
            raise self._connection.failure(error, self._named(to)) from None
        return True

    def remove(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are not there are left out."""
        self._check_writable()
        paths = iter([self._path(key) for key in keys])
        while together := list(islice(paths, _TOGETHER)):
            try:
                delete = partial(self._connection.store.delete, together)
                failures.again(delete, self._connection.patience)
            except Exception as error:
                if not (isinstance(error, FileNotFoundError) or failures.refuses(error)):
                    raise self._connection.failure(error, self.where) from None
                if self._address.scheme == "s3":
                    self._connection.delete_singly()
                for path in together:
                    with self._told(), contextlib.suppress(FileNotFoundError):
                        self._connection.store.delete(path)


def _unfinished(error: TensorKeepError, done: int) -> TensorKeepError:
    if not done:
        return error
    cure = "Some of it may have been replaced already; verify it, and save it again."
    return type(error)(error.problem, where=error.where, cure=f"{error.cure} {cure}".strip())


__all__ = ["Entry", "ObjectStore"]
