"""CreateDB: a reader of a database, for Load and for the input operators.

Facts: caffe2/db/create_db_op.h and caffe2/core/db.h.
"""

from __future__ import annotations

from tensorkeep.caffe2.gradient import no_gradient
from tensorkeep.caffe2.operator import Operator, register
from tensorkeep.caffe2.reader import DBReader
from tensorkeep.errors import ArgumentError
from tensorkeep.wire.caffe2.values import Blob


@register("CreateDB")
class CreateDBOp(Operator):
    """Open a database and write a DBReader on its first record.

    Arguments: db, db_type ("leveldb"), num_shards (1), shard_id (0). As in Caffe2 the path is
    relative to the process's own folder, not to the workspace's root folder.
    """

    takes = (0, 0)
    gives = (1, 1)

    def run(self) -> bool:
        given = self.arguments
        source = given.text("db")
        if not source:
            raise ArgumentError("needs a db to open", where=self.where)
        reader = DBReader(
            given.text("db_type", "leveldb"),
            source,
            num_shards=given.integer("num_shards", 1),
            shard_id=given.integer("shard_id", 0),
        )
        self.write(0, Blob("DBReader", reader, self.device))
        return True


no_gradient("CreateDB")
