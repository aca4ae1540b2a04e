"""Save: blobs of a workspace into a database.

What Caffe2 destroyed on a failure stays here: the database appears whole once every blob is
written, in place of the one before. Facts: caffe2/operators/load_save_op.h (SaveOp),
caffe2/core/blob_serialization.cc.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from tensorkeep.caffe2.extract import strip
from tensorkeep.caffe2.gradient import should_not_do_gradient
from tensorkeep.caffe2.operator import MANY, Operator, register
from tensorkeep.caffe2.options import chunk_size_row, parse_options
from tensorkeep.caffe2.paths import check_db_type, open_for, resolve
from tensorkeep.caffe2.reader import storable
from tensorkeep.errors import ArgumentError
from tensorkeep.wire.caffe2.encode import encode_blob
from tensorkeep.wire.caffe2.options import choose_options
from tensorkeep.wire.caffe2.states import blob_name_of
from tensorkeep.wire.caffe2.values import TENSOR, Blob

# What may be told of a Save beside its blobs and its database.
OPTIONS = ("blob_name_overrides", "chunk_size", "db_options", "options", "strip_prefix")


def check_options(given: Mapping[str, Any]) -> None:
    """Refuse arguments that Save, which ignores what it does not know, would not notice.

    Raises:
        ArgumentError: one that Save does not take, or a chunk_size that is no integer.
    """
    for name in given:
        if name not in OPTIONS:
            raise ArgumentError(
                f"Save takes no argument {name!r}", cure=f"It takes {', '.join(OPTIONS)}."
            )
    size = given.get("chunk_size")
    if size is not None and (isinstance(size, bool) or not isinstance(size, Integral)):
        raise ArgumentError(
            f"the argument 'chunk_size' is {size!r}, where an integer is expected",
            cure="It is a number of elements; 0 is one record for each tensor.",
        )


@register("Save")
class SaveOp(Operator):
    """Write the input blobs into a new database, in their order.

    Arguments: db, db_type, absolute_path (0), strip_prefix ("": of a name, what stands before and
    in its first occurrence goes), blob_name_overrides (the names in the database), chunk_size (in
    elements; 0 never, -1 the default), options (a serialized SerializationOptions, whose rows
    come before chunk_size), db_options (taken and ignored, as by Caffe2's own databases).

    A folder database (LMDB, LevelDB, RocksDB) that exists is refused; a file is replaced.

    Raises:
        ArgumentError: no db or db_type; overrides of another number than the inputs, with
            strip_prefix, or (strict) that repeat; two inputs that get one name; options that
            cannot be read; a name that would come back as another one.
        UnsupportedError: a blob that Caffe2 could not serialize either.
        StoreError: the database cannot be written. What was there before is unchanged.

    >>> import tempfile
    >>> from tensorkeep.caffe2 import Workspace, create_operator
    >>> ws = Workspace(tempfile.mkdtemp())
    >>> ws.feed("w", b"text")
    >>> ws.run(create_operator("Save", ["w"], db="x.minidb", db_type="minidb"))
    True
    """

    takes = (1, MANY)
    gives = (0, 0)

    def run(self) -> bool:
        given = self.arguments
        db_type = given.text("db_type")
        check_db_type(self, db_type)
        names = self._names()
        db = given.text("db")
        if not db:
            raise ArgumentError("needs a db to write", where=self.where)
        rows = parse_options(given.bytes("options"), self.where)
        if given.holds("chunk_size", "i"):  # a float is ignored, as by Caffe2
            rows.append(chunk_size_row(given.integer("chunk_size")))
        blobs = [storable(name, self.input(index)) for index, name in enumerate(names)]
        if self.strict:
            self._check_keys(names, blobs)
        defaults = self.workspace.save_options
        with open_for(self, db_type, resolve(self, db), "new") as database:
            for name, blob in zip(names, blobs, strict=True):
                options = choose_options(name, rows, defaults) if rows else defaults
                for key, chunks, size in encode_blob(name, blob, options):
                    database.put(key, chunks, size=size, durable=self.durable)
            database.commit()
        return True

    def _names(self) -> list[str]:
        """Give the names in the database."""
        overrides = self.arguments.texts("blob_name_overrides")
        prefix = self.arguments.text("strip_prefix")
        if overrides:
            if prefix:
                raise ArgumentError(
                    "takes strip_prefix or blob_name_overrides, not both", where=self.where
                )
            if len(overrides) != len(self.inputs):
                raise ArgumentError(
                    f"has {len(overrides)} blob_name_overrides for {len(self.inputs)} inputs",
                    where=self.where,
                )
            names = overrides
        else:
            names = [strip(name, prefix) for name in self.inputs] if prefix else self.inputs
        if self.strict or not overrides:
            self._check_names(names)
        return names

    def _check_names(self, names: Sequence[str]) -> None:
        if len(set(names)) == len(names):
            return
        name = next(name for name, count in Counter(names).items() if count > 1)
        raise ArgumentError(
            f"two inputs would be saved as {name!r}",
            where=self.where,
            cure="Give each a name of its own in blob_name_overrides.",
        )

    def _check_keys(self, names: Sequence[str], blobs: Sequence[Blob]) -> None:
        """Refuse names that a blob would not come back as, which is kept under its bare name."""
        for name, blob in zip(names, blobs, strict=True):
            if blob.kind != TENSOR and (not name or blob_name_of(name) != name):
                raise ArgumentError(
                    f"a {blob.kind} cannot be saved as {name!r}: it would come back as another",
                    where=self.where,
                    cure="Give it another name in blob_name_overrides.",
                )


should_not_do_gradient("Save")
