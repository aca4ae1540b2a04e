"""The messages of Caffe2, as field tables.

From the descriptors that Caffe2 1.10 registers: caffe2.proto, metanet.proto, caffe2_legacy.proto,
predictor_consts.proto, prof_dag.proto and hsm.proto.
"""

from __future__ import annotations

from tensorkeep.message import enums, schemas

TABLE = """
enum DataType: UNDEFINED 0, FLOAT 1, INT32 2, BYTE 3, STRING 4, BOOL 5, UINT8 6, INT8 7, UINT16 8,
    INT16 9, INT64 10, FLOAT16 12, DOUBLE 13, ZERO_COLLISION_HASH 14, REBATCHING_BUFFER 15
enum SerializationFormat: FMT_PROTOBUF 0, FMT_BFLOAT16 1
enum DimType: UNKNOWN 0, CONSTANT 1, BATCH 2, BATCH_OF_FEATURE_MAX 3,
    BATCH_OF_FEATURE_MAX_DEFAULT 4, FEATURE_MAX 5, FEATURE_MAX_DEFAULT 6
enum DeviceTypeProto: PROTO_CPU 0, PROTO_CUDA 1, PROTO_MKLDNN 2, PROTO_OPENGL 3, PROTO_OPENCL 4,
    PROTO_IDEEP 5, PROTO_HIP 6, PROTO_FPGA 7, PROTO_ORT 8, PROTO_XLA 9, PROTO_MLC 10,
    PROTO_COMPILE_TIME_MAX_DEVICE_TYPES 11
enum FloatFormat: FLOAT_DEFAULT 0, FLOAT_PROTOBUF 1, FLOAT_BFLOAT16 2
enum LegacyPadding: NOTSET 0, VALID 1, SAME 2, CAFFE_LEGACY_POOLING 3

TensorProto
  1 dims repeated int64
  2 data_type DataType = FLOAT
  3 float_data packed float
  4 int32_data packed int32
  5 byte_data bytes
  6 string_data repeated bytes
  7 name string
  8 device_detail DeviceOption
  9 double_data packed double
  10 int64_data packed int64
  11 segment Segment
  13 raw_data bytes
  15 data_format uint32 = 0

Segment
  1 begin required int64
  2 end required int64

QTensorProto
  1 dims repeated int64
  2 precision required int32
  3 scale required double
  4 bias required double
  5 is_signed required bool
  6 data packed int32
  7 name string
  8 data_type DataType = INT32
  9 scales repeated double
  10 biases repeated double
  11 axis int32
  12 is_multiparam bool = false

TensorProtos
  1 protos repeated TensorProto

TensorShape
  1 dims repeated int64
  2 data_type DataType = FLOAT
  3 unknown_dims repeated int32
  4 unknown_shape bool = false
  5 name string

TensorShapes
  1 shapes repeated TensorShape

TensorBoundShape
  1 shape TensorShape
  2 dim_type repeated DimType
  3 name string
  4 shape_is_final bool

TensorBoundShapes
  1 shapes repeated TensorBoundShape
  2 max_batch_size int64
  3 max_feature_len int64

AOTConfig
  1 max_batch_size required int64
  2 max_seq_size required int64
  3 in_batch_broadcast required bool
  4 onnxifi_blacklist_ops string
  5 onnxifi_min_ops int32

Argument
  1 name string
  2 f float
  3 i int64
  4 s bytes
  5 floats repeated float
  6 ints repeated int64
  7 strings repeated bytes
  8 n NetDef
  9 nets repeated NetDef
  10 t TensorProto
  11 tensors repeated TensorProto
  12 qtensors repeated QTensorProto

DeviceOption
  1 device_type int32 = 0
  2 device_id int32 alias cuda_gpu_id
  3 random_seed uint32
  4 node_name string
  5 numa_node_id int32
  6 extra_info repeated string

OperatorDef
  1 input repeated string
  2 output repeated string
  3 name string
  4 type string
  5 arg repeated Argument
  6 device_option DeviceOption
  7 engine string
  8 control_input repeated string
  9 is_gradient_op bool = false
  10 debug_info string
  11 domain string
  12 op_version int64

MapFieldEntry
  1 key required string
  2 val required string

BackendOptions
  1 backend_name required string
  2 option repeated MapFieldEntry

PartitionInfo
  1 name required string
  2 device_id repeated int32
  3 extra_info string
  4 backend_options repeated BackendOptions

NetDef
  1 name string
  2 op repeated OperatorDef
  3 type string
  4 num_workers int32
  5 device_option DeviceOption
  6 arg repeated Argument
  7 external_input repeated string
  8 external_output repeated string
  9 partition_info repeated PartitionInfo

ExecutionStep
  1 name string
  2 substep repeated ExecutionStep
  3 network repeated string
  4 num_iter int64
  5 criteria_network string
  6 concurrent_substeps bool
  7 report_net string
  8 report_interval int32
  9 should_stop_blob string
  10 only_once bool
  11 run_every_ms int64
  12 create_workspace bool
  13 num_concurrent_instances int32

PlanDef
  1 name string
  2 network repeated NetDef
  3 execution_step repeated ExecutionStep

BlobProto
  1 name string
  2 type string
  3 tensor TensorProto
  4 content bytes
  5 qtensor QTensorProto
  6 content_num_chunks int32
  7 content_chunk_id int32

DBReaderProto
  1 name string
  2 source string
  3 db_type string
  4 key string

BlobSerializationOptions
  1 blob_name_regex string
  2 chunk_size int64
  3 float_format FloatFormat

SerializationOptions
  1 options repeated BlobSerializationOptions

ModelInfo
  1 project string
  2 modelClass string
  3 version string
  4 predictorType string = "SINGLE_PREDICTOR"
  5 modelId string

BlobsMap
  1 key required string
  2 value repeated string

NetsMap
  1 key required string
  2 value required NetDef

PlansMap
  1 key required string
  2 value required PlanDef

StringMap
  1 key required string
  2 value required string

MetaNetDef
  1 blobs repeated BlobsMap
  2 nets repeated NetsMap
  3 modelInfo ModelInfo
  4 plans repeated PlansMap
  5 applicationSpecificInfo repeated StringMap
  6 blobsOrder repeated string
  7 preLoadBlobs repeated string
  8 tensorBoundShapes TensorBoundShapes
  9 requestOnlyEmbeddings repeated string
  10 aotConfig AOTConfig

PredictorConsts
  1 META_NET_DEF string = "!!META_NET_DEF"
  2 PREDICTOR_DBREADER string = "!!PREDICTOR_DBREADER"
  3 PARAMETERS_BLOB_TYPE string = "PARAMETERS_BLOB_TYPE"
  4 INPUTS_BLOB_TYPE string = "INPUTS_BLOB_TYPE"
  5 OUTPUTS_BLOB_TYPE string = "OUTPUTS_BLOB_TYPE"
  6 GLOBAL_INIT_NET_TYPE string = "GLOBAL_INIT_NET_TYPE"
  7 PREDICT_INIT_NET_TYPE string = "PREDICT_INIT_NET_TYPE"
  8 PREDICT_NET_TYPE string = "PREDICT_NET_TYPE"
  9 SINGLE_PREDICTOR string = "SINGLE_PREDICTOR"
  10 MULTI_PREDICTOR string = "MULTI_PREDICTOR"
  11 TRAIN_INIT_PLAN_TYPE string = "TRAIN_INIT_PLAN_TYPE"
  12 TRAIN_PLAN_TYPE string = "TRAIN_PLAN_TYPE"
  13 SHAPE_INFO_BLOB string = "SHAPE_INFO_BLOB"
  14 DEFERRED_BLOB_READER string = "__DEFERRED_BLOB_READER__"

CaffeDatum
  1 channels int32
  2 height int32
  3 width int32
  4 data bytes
  5 label int32
  6 float_data repeated float
  7 encoded bool = false

TwoNumberStatsProto
  1 mean float
  2 stddev float
  3 count int64

BlobProfile
  1 name string
  3 bytes_used TwoNumberStatsProto

ProfDAGProto
  1 name required string
  2 mean required float
  3 stddev required float
  4 execution_time TwoNumberStatsProto
  5 output_profile repeated BlobProfile
  7 extra_info repeated string

OpProfile
  1 idx string
  2 net_name string
  3 type string
  4 exec_time_secs float

ProfDAGProtos
  1 stats repeated ProfDAGProto
  2 net_name string
  3 ops_stats repeated OpProfile

NodeProto
  1 children repeated NodeProto
  2 word_ids repeated int32
  3 offset int32
  4 name string
  5 scores repeated float

TreeProto
  1 root_node NodeProto

PathNodeProto
  1 index int32
  2 length int32
  3 target int32

PathProto
  1 word_id int32
  2 path_nodes repeated PathNodeProto

HierarchyProto
  1 size int32
  2 paths repeated PathProto
"""
SCHEMAS = schemas(TABLE)
ENUMS = enums(TABLE)

BLOB = SCHEMAS["BlobProto"]
TENSOR = SCHEMAS["TensorProto"]
SEGMENT = SCHEMAS["Segment"]
QTENSOR = SCHEMAS["QTensorProto"]
TENSORS = SCHEMAS["TensorProtos"]
TENSOR_SHAPE = SCHEMAS["TensorShape"]
TENSOR_SHAPES = SCHEMAS["TensorShapes"]
DEVICE = SCHEMAS["DeviceOption"]
ARGUMENT = SCHEMAS["Argument"]
OPERATOR = SCHEMAS["OperatorDef"]
NET = SCHEMAS["NetDef"]
STEP = SCHEMAS["ExecutionStep"]
PLAN = SCHEMAS["PlanDef"]
META_NET = SCHEMAS["MetaNetDef"]
MODEL_INFO = SCHEMAS["ModelInfo"]
DB_READER = SCHEMAS["DBReaderProto"]
BLOB_SERIALIZATION_OPTIONS = SCHEMAS["BlobSerializationOptions"]
SERIALIZATION_OPTIONS = SCHEMAS["SerializationOptions"]
PREDICTOR_CONSTS = SCHEMAS["PredictorConsts"]
DATUM = SCHEMAS["CaffeDatum"]
TREE = SCHEMAS["TreeProto"]
HIERARCHY = SCHEMAS["HierarchyProto"]

DATA_TYPE = ENUMS["DataType"]
SERIALIZATION_FORMAT = ENUMS["SerializationFormat"]
FLOAT_FORMAT = ENUMS["FloatFormat"]
DEVICE_TYPE = ENUMS["DeviceTypeProto"]
LEGACY_PADDING = ENUMS["LegacyPadding"]
