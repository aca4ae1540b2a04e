"""TensorProtosDBInput: samples of a database, one by one or in batches.

A record is a TensorProtos: the tensors of one sample, one for each output. Every run gives the next
batch. Caffe2 read one batch ahead on a thread, and so `RunOperatorOnce` lost every second one.
Facts: caffe2/operators/tensor_protos_db_input.h and prefetch_op.h.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.caffe2.gradient import no_gradient
from tensorkeep.caffe2.operator import MANY, Operator, register
from tensorkeep.caffe2.reader import DBReader, reader_of
from tensorkeep.dtypes import count_of
from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.source import MemorySource
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.protos import decode_record
from tensorkeep.wire.caffe2.values import TENSOR, Blob


@register("TensorProtosDBInput")
class TensorProtosDBInputOp(Operator):
    """Write the next samples of a DBReader: an output for each tensor of a record, in their order.

    Arguments: batch_size (0), no_prefetch (ignored: nothing is read ahead). 0 gives the tensors of
    one record as they are, n those of the next n with a first axis of n. Behind the last record the
    first follows, also inside a batch, so that every batch is full. Devices in records are ignored.

    Raises:
        ArgumentError: an input that is no DBReader, a negative batch_size.
        MissingError: the database is empty, or not there.
        CorruptError: a record is damaged, or no TensorProtos. The reader is behind it.
        UnsupportedError: a record has another number of tensors than there are outputs, or (in a
            batch) tensors of another type or shape than the first one.

    >>> import tempfile
    >>> from tensorkeep.caffe2 import Workspace, create_operator
    >>> from tensorkeep.stores import open_database
    >>> from tensorkeep.wire.caffe2.protos import encode_record
    >>> path = f"{tempfile.mkdtemp()}/train.minidb"
    >>> with open_database("minidb", path, "new") as database:
    ...     for i in range(3):
    ...         database.put(f"{i}", [encode_record({"x": np.zeros(2), "label": np.int32(i)})])
    ...     database.commit()
    >>> ws = Workspace()
    >>> ws.run(create_operator("CreateDB", [], ["reader"], db=path, db_type="minidb"))
    True
    >>> read = create_operator("TensorProtosDBInput", ["reader"], ["x", "label"], batch_size=2)
    >>> ws.run(read), ws.run(read), ws.fetch("x").shape, ws.fetch("label").tolist()
    (True, True, (2, 2), [2, 0])
    """

    takes = (1, 1)
    gives = (1, MANY)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.batch_size = self.arguments.integer("batch_size", 0)
        if self.batch_size < 0:
            raise ArgumentError(
                f"the argument 'batch_size' is {self.batch_size}; 0 or more is expected",
                where=self.where,
            )

    def run(self) -> bool:
        reader = reader_of(self, 0)
        tensors = self._batch(reader) if self.batch_size else self._sample(reader)[1]
        for index, tensor in enumerate(tensors):
            self.write(index, Blob(TENSOR, tensor, self.device))
        return True

    def _sample(self, reader: DBReader) -> tuple[str, list[Tensor]]:
        """Read the next record; it is held in memory, whatever becomes of the database."""
        key, source = reader.read()
        where = f"{reader.source}: record {key!r}"
        held = MemorySource(bytes(source.read(0, source.size)), where)
        tensors = [tensor for _, tensor in decode_record(held, 0, held.size, where)]
        if len(tensors) != len(self.outputs):
            raise UnsupportedError(
                f"has {len(tensors)} tensors, and the {self.where} {len(self.outputs)} outputs",
                where=where,
                cure="Name one output for each tensor of a record.",
            )
        return where, tensors

    def _batch(self, reader: DBReader) -> list[Tensor]:
        _, first = self._sample(reader)
        batch = [self._room(tensor) for tensor in first]
        for column, tensor in zip(batch, first, strict=True):
            column[0] = tensor.numpy()
        for row in range(1, self.batch_size):
            where, sample = self._sample(reader)
            for index, (tensor, like) in enumerate(zip(sample, first, strict=True)):
                if tensor.dtype is not like.dtype or tensor.shape != like.shape:
                    raise UnsupportedError(
                        f"the output {self.outputs[index]!r} would be {tensor.dtype} of shape "
                        f"{tensor.shape}, and {like.dtype} of shape {like.shape} before it",
                        where=where,
                        cure="Samples of a batch are alike; batch_size=0 gives them one by one.",
                    )
                batch[index][row] = tensor.numpy()
        return [Tensor.of(column) for column in batch]

    def _room(self, tensor: Tensor) -> npt.NDArray[Any]:
        shape = (self.batch_size, *tensor.shape)
        try:
            return np.empty(shape, tensor.dtype.numpy)
        except (MemoryError, ValueError):
            raise ArgumentError(
                f"a batch of {self.batch_size:,} needs {tensor.dtype.nbytes(count_of(shape)):,} "
                "bytes, for which there is no memory",
                where=self.where,
                cure="Give a smaller batch_size.",
            ) from None


no_gradient("TensorProtosDBInput")
