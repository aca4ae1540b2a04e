"""Caffe2's load and save operators, on the files that Caffe2 read and wrote, without Caffe2.

    from tensorkeep import caffe2

    weights = caffe2.load("model.minidb")                     # name -> array or bytes
    caffe2.save(weights, "copy.minidb", chunk_size=1_000_000)

    ws = caffe2.Workspace()                                   # or by its operators
    ws.run(caffe2.create_operator("Load", [], ["w"], db="model.minidb", db_type="minidb"))
    ws.fetch("w")

Importing this registers all operators. `docs/caffe2.md` lists where they are safer than Caffe2's.
"""

from tensorkeep.caffe2 import fills, random_fills, trivial
from tensorkeep.caffe2.db import DB, Cursor, Transaction, create_db, registered_dbs
from tensorkeep.caffe2.device import device_option, set_current_device
from tensorkeep.caffe2.examples import db_exists_op_example, load_op_example, save_op_example
from tensorkeep.caffe2.extract import (
    Extraction,
    build_blob_name_from_db_key,
    extract,
    extract_all,
    extract_from,
)
from tensorkeep.caffe2.files import deserialize_blob, load, save, serialize_blob
from tensorkeep.caffe2.gradient import gradient_of, no_gradient, should_not_do_gradient
from tensorkeep.caffe2.nets import init_net_of, read_net, run_net, write_net
from tensorkeep.caffe2.operator import (
    Arguments,
    Operator,
    create_argument,
    create_operator,
    register,
)
from tensorkeep.caffe2.operators.checkpoint import CheckpointOp
from tensorkeep.caffe2.operators.create_db import CreateDBOp
from tensorkeep.caffe2.operators.cursor import ReadNextBatchOp, ReadRandomBatchOp
from tensorkeep.caffe2.operators.dataset import CheckDatasetConsistencyOp
from tensorkeep.caffe2.operators.db_input import TensorProtosDBInputOp
from tensorkeep.caffe2.operators.exists import DBExistsOp, DBStatus, examine_db
from tensorkeep.caffe2.operators.load import LoadOp, load_tensor_inference
from tensorkeep.caffe2.operators.names import EstimateAllBlobSizesOp, GetAllBlobNamesOp
from tensorkeep.caffe2.operators.save import SaveOp
from tensorkeep.caffe2.options import get_blob_options, serialization_options
from tensorkeep.caffe2.patterns import format_string
from tensorkeep.caffe2.pieces import (
    TensorInfo,
    prepare_blob,
    process_blob,
    update_blob_states,
    validate_blob_states,
)
from tensorkeep.caffe2.predictor import PredictorExport, load_predictor, save_predictor
from tensorkeep.caffe2.reader import DBReader
from tensorkeep.caffe2.workspace import Workspace, blob_of
from tensorkeep.wire.caffe2.options import SaveOptions
from tensorkeep.wire.caffe2.states import Assembly, BlobState
from tensorkeep.wire.caffe2.values import (
    Blob,
    DBReaderState,
    Device,
    Index,
    Int8Tensor,
    Map,
    NestedBlobs,
    QTensor,
    TreeCursor,
)

__all__ = [
    "DB",
    "Arguments",
    "Assembly",
    "Blob",
    "BlobState",
    "CheckDatasetConsistencyOp",
    "CheckpointOp",
    "CreateDBOp",
    "Cursor",
    "DBExistsOp",
    "DBReader",
    "DBReaderState",
    "DBStatus",
    "Device",
    "EstimateAllBlobSizesOp",
    "Extraction",
    "GetAllBlobNamesOp",
    "Index",
    "Int8Tensor",
    "LoadOp",
    "Map",
    "NestedBlobs",
    "Operator",
    "PredictorExport",
    "QTensor",
    "ReadNextBatchOp",
    "ReadRandomBatchOp",
    "SaveOp",
    "SaveOptions",
    "TensorInfo",
    "TensorProtosDBInputOp",
    "Transaction",
    "TreeCursor",
    "Workspace",
    "blob_of",
    "build_blob_name_from_db_key",
    "create_argument",
    "create_db",
    "create_operator",
    "db_exists_op_example",
    "deserialize_blob",
    "device_option",
    "examine_db",
    "extract",
    "extract_all",
    "extract_from",
    "fills",
    "format_string",
    "get_blob_options",
    "gradient_of",
    "init_net_of",
    "load",
    "load_op_example",
    "load_predictor",
    "load_tensor_inference",
    "no_gradient",
    "prepare_blob",
    "process_blob",
    "random_fills",
    "read_net",
    "register",
    "registered_dbs",
    "run_net",
    "save",
    "save_op_example",
    "save_predictor",
    "serialization_options",
    "serialize_blob",
    "set_current_device",
    "should_not_do_gradient",
    "trivial",
    "update_blob_states",
    "validate_blob_states",
    "write_net",
]
