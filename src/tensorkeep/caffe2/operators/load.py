"""Load: blobs of databases into a workspace.

Either everything that was asked for is loaded, or nothing in the workspace changes; Caffe2 left
behind what it had read so far. Facts: caffe2/operators/load_save_op.h (LoadOp).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tensorkeep.caffe2.extract import Extraction
from tensorkeep.caffe2.gradient import no_gradient
from tensorkeep.caffe2.operator import Arguments, Operator, register
from tensorkeep.caffe2.paths import check_db_type, open_for, resolve
from tensorkeep.caffe2.pieces import TensorInfo
from tensorkeep.caffe2.reader import DBReader, reader_of
from tensorkeep.database import Database
from tensorkeep.errors import ArgumentError, MissingError, TensorKeepError
from tensorkeep.message import Message
from tensorkeep.wire.caffe2.elements import DTYPE_OF
from tensorkeep.wire.caffe2.values import Blob


@register("Load")
class LoadOp(Operator):
    """Read blobs of a database, of several, or of DBReaders, into the workspace.

    Inputs: none, or DBReaders, which are then read instead of db and dbs. Outputs: the blobs to
    load; without load_all those alone.

    Arguments: db or dbs, db_type, absolute_path (0), load_all (0), allow_incomplete (false: an
    output that no database has is an error), source_blob_names (what the outputs are called in
    the database), strip_prefix and add_prefix (of stored names, in this order; outputs and source
    names are the results), keep_device (0: blobs are said to live where the operator does; 1:
    where they were saved from), db_options (taken and ignored, as by Caffe2's own databases),
    shape and dtype (for `load_tensor_inference`).

    A loaded tensor of one fixed-width chunk is the mapped file itself, and is read when it is
    touched; replacing the file by a new one leaves it alone, writing into the file does not.

    With strict=False damage that Caffe2 did not notice is not looked for, and after an error what
    was found by then is in the workspace; to read what is missing of a tensor is then an error.

    Raises:
        ArgumentError: no db_type or db; a db that is empty or repeated; source_blob_names of
            another number than the outputs, repeated, with strip_prefix or with load_all; an
            input that is no DBReader.
        MissingError: a database, or an output, is not there.
        CorruptError: a record, a blob or a tensor's chunk is damaged, repeated or missing.

    >>> import tempfile
    >>> from tensorkeep.caffe2 import Workspace, create_operator, save
    >>> ws = Workspace(tempfile.mkdtemp())
    >>> save({"w": b"text"}, f"{ws.root_folder}/x.minidb")
    >>> ws.run(create_operator("Load", [], ["w"], db="x.minidb", db_type="minidb"))
    True
    >>> ws.fetch("w")
    b'text'
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        given = self.arguments
        self.load_all = bool(given.integer("load_all"))
        self.allow_incomplete = given.flag("allow_incomplete")
        self.keep_device = bool(given.integer("keep_device"))
        self.db_type = given.text("db_type")
        self.dbs = [] if self.inputs else self._names()
        self.renames = bool(given.texts("source_blob_names"))
        self.targets = self._targets()

    def _names(self) -> list[str]:
        given = self.arguments
        check_db_type(self, self.db_type)
        dbs = given.texts("dbs") or [given.text("db")]
        for index, db in enumerate(dbs):
            if not db:
                raise ArgumentError("needs the name of its db", where=self.where)
            if db in dbs[:index]:
                raise ArgumentError(f"the argument 'dbs' names {db!r} twice", where=self.where)
        return dbs

    def _targets(self) -> dict[str, str]:
        """Map the names to load, as stored with prefixes applied, to the outputs."""
        sources = self.arguments.texts("source_blob_names")
        if sources:
            problem = ""
            if len(sources) != len(self.outputs):
                problem = f"has {len(sources)} source_blob_names for {len(self.outputs)} outputs"
            elif self.arguments.text("strip_prefix"):
                problem = "takes source_blob_names or strip_prefix, not both"
            elif self.load_all:
                problem = "takes source_blob_names or load_all, not both"
            if problem:
                raise ArgumentError(problem, where=self.where)
        targets = dict(zip(sources or self.outputs, self.outputs, strict=True))
        if len(targets) < len(self.outputs) and not self.load_all:
            raise ArgumentError("loads one blob twice", where=self.where, cure="Name it once.")
        return targets

    def run(self) -> bool:
        extraction = Extraction(
            None if self.load_all else self.targets,
            strip_prefix=self.arguments.text("strip_prefix"),
            add_prefix=self.arguments.text("add_prefix"),
            strict=self.strict,
            thorough=True,
        )
        device = None if self.keep_device else self.device
        try:
            for name, records in self._open():
                extraction.take(records, name)
            extraction.validate()
            self._check_outputs(extraction)
            blobs = extraction.blobs(device)
        except TensorKeepError:
            if not self.strict:
                self._write(extraction.rescued(device))
            raise
        self._write(blobs)
        return True

    def _open(self) -> Iterator[tuple[str, Database | DBReader]]:
        for name in self.dbs:
            path = resolve(self, name)
            yield path, open_for(self, self.db_type, path, "read")
        for index, name in enumerate(self.inputs):
            yield name, reader_of(self, index)

    def _check_outputs(self, extraction: Extraction) -> None:
        missing = [name for name in self.targets if name not in extraction]
        if not missing or (self.allow_incomplete and not self.load_all):
            return
        where = ", ".join(self.dbs or self.inputs)
        raise MissingError(
            f"the blob {missing[0]!r} is not in it"
            + (f", nor are {len(missing) - 1} others" if missing[1:] else ""),
            where=f"{self.where}: {where}",
            cure="Load the others with allow_incomplete=True, or everything with load_all=1.",
        )

    def _write(self, blobs: dict[str, Blob]) -> None:
        if self.renames:
            blobs = {self.targets[name]: blob for name, blob in blobs.items()}
        self.workspace.update(blobs)


def load_tensor_inference(definition: Message) -> list[TensorInfo]:
    """Tell the shapes and element types of Load's outputs from its arguments alone.

    Known only where there is one output and the argument `shape` is given; the argument `dtype`
    is then its TensorProto.DataType, FLOAT by default.

    Raises:
        ArgumentError: the dtype is none that a tensor has.

    >>> from tensorkeep.caffe2 import create_operator
    >>> load_tensor_inference(create_operator("Load", [], ["w"], shape=[2, 3]))
    [TensorInfo(shape=(2, 3), dtype=tensorkeep.dtype('float32'), device=None)]
    >>> load_tensor_inference(create_operator("Load", [], ["w"]))
    [TensorInfo(shape=None, dtype=None, device=None)]
    """
    given = Arguments(definition)
    shape = tuple(given.integers("shape"))
    outputs = list(definition.output)
    if len(outputs) != 1 or not shape:
        return [TensorInfo() for _ in outputs]
    code = given.integer("dtype", 1)
    if code not in DTYPE_OF:
        raise ArgumentError(f"{code} is no DataType of a tensor", where=given.where)
    return [TensorInfo(shape, DTYPE_OF[code])]


no_gradient("Load")
