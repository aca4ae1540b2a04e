"""DBExists: whether a database is there, and whether it can be read.

Caffe2 answers true whenever opening does not throw: also for a folder, a damaged file, and a type
it does not know. Here it means that the database can be read.
Facts: caffe2/operators/load_save_op.h (DBExistsOp).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from tensorkeep.caffe2.gradient import should_not_do_gradient
from tensorkeep.caffe2.operator import Operator, register
from tensorkeep.caffe2.paths import resolve
from tensorkeep.errors import TensorKeepError
from tensorkeep.stores import DATABASES, open_database
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.values import Blob


@dataclass(frozen=True, slots=True)
class DBStatus:
    """What is under the path of a database.

    Args:
        exists: something is there.
        readable: it is a sound database of the type that was asked for.
        problem: why it is not, in words; empty where it is.
    """

    exists: bool
    readable: bool
    problem: str = ""


def examine_db(path: str | os.PathLike[str], db_type: str) -> DBStatus:
    """Tell a database from a missing, damaged or foreign one.

    In a file of records (minidb, protodb) every record's header is checked, in an engine that
    keeps its own checksums (LMDB, LevelDB, RocksDB, SQLite) that it opens and gives a record.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     status = examine_db(f"{folder}/none.minidb", "minidb")
    >>> status.exists, status.readable
    (False, False)
    """
    exists = os.path.exists(path)
    if db_type not in DATABASES:
        return DBStatus(exists, False, f"no database type is called {db_type!r}")
    try:
        with open_database(db_type, path, "read") as database:
            for _ in database.records():
                if database.sorted:
                    break
    except TensorKeepError as error:
        return DBStatus(exists, False, str(error))
    return DBStatus(True, True)


@register("DBExists")
class DBExistsOp(Operator):
    """Write whether a database exists and can be read, as a bool of rank 0.

    Arguments: db_name, db_type, absolute_path (0). With strict=False the answer is Caffe2's: true
    unless nothing is there, and true for any type it does not know.

    >>> from tensorkeep.caffe2 import Workspace, create_operator
    >>> ws = Workspace("no such folder")
    >>> ws.run(create_operator("DBExists", [], ["there"], db_name="x", db_type="minidb"))
    True
    >>> ws.fetch("there").item()
    False
    """

    takes = (0, 0)
    gives = (1, 1)

    def run(self) -> bool:
        db_type = self.arguments.text("db_type")
        status = examine_db(resolve(self, self.arguments.text("db_name")), db_type)
        answer = status.readable
        if not self.strict:
            answer = status.exists or db_type not in DATABASES
        self.write(0, Blob("Tensor", Tensor.of(np.array(answer)), self.device))
        return True


should_not_do_gradient("DBExists")
