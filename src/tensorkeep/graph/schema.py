"""The messages of ONNX, as field tables.

From onnx.proto as onnx 1.23 publishes it (IR version 14), in which older ones are contained.
"""

from __future__ import annotations

from tensorkeep.message import enums, schemas

_TABLE = """
enum AttributeType: UNDEFINED 0, FLOAT 1, INT 2, STRING 3, TENSOR 4, GRAPH 5, FLOATS 6, INTS 7,
    STRINGS 8, TENSORS 9, GRAPHS 10, SPARSE_TENSOR 11, SPARSE_TENSORS 12, TYPE_PROTO 13,
    TYPE_PROTOS 14
enum DataLocation: DEFAULT 0, EXTERNAL 1

ModelProto
  1 ir_version int64
  2 producer_name string
  3 producer_version string
  4 domain string
  5 model_version int64
  6 doc_string string
  7 graph GraphProto
  8 opset_import repeated OperatorSetIdProto
  14 metadata_props repeated StringStringEntryProto
  20 training_info repeated TrainingInfoProto
  25 functions repeated FunctionProto
  26 configuration repeated DeviceConfigurationProto

GraphProto
  1 node repeated NodeProto
  2 name string
  5 initializer repeated TensorProto
  10 doc_string string
  11 input repeated ValueInfoProto
  12 output repeated ValueInfoProto
  13 value_info repeated ValueInfoProto
  14 quantization_annotation repeated TensorAnnotation
  15 sparse_initializer repeated SparseTensorProto
  16 metadata_props repeated StringStringEntryProto

NodeProto
  1 input repeated string
  2 output repeated string
  3 name string
  4 op_type string
  5 attribute repeated AttributeProto
  6 doc_string string
  7 domain string
  8 overload string
  9 metadata_props repeated StringStringEntryProto
  10 device_configurations repeated NodeDeviceConfigurationProto

AttributeProto
  1 name string
  2 f float
  3 i int64
  4 s bytes
  5 t TensorProto
  6 g GraphProto
  7 floats repeated float
  8 ints repeated int64
  9 strings repeated bytes
  10 tensors repeated TensorProto
  11 graphs repeated GraphProto
  13 doc_string string
  14 tp TypeProto
  15 type_protos repeated TypeProto
  20 type AttributeType = UNDEFINED
  21 ref_attr_name string
  22 sparse_tensor SparseTensorProto
  23 sparse_tensors repeated SparseTensorProto

TensorProto
  1 dims repeated int64
  2 data_type int32
  3 segment Segment
  4 float_data packed float
  5 int32_data packed int32
  6 string_data repeated bytes
  7 int64_data packed int64
  8 name string
  9 raw_data bytes
  10 double_data packed double
  11 uint64_data packed uint64
  12 doc_string string
  13 external_data repeated StringStringEntryProto
  14 data_location DataLocation = DEFAULT
  16 metadata_props repeated StringStringEntryProto

Segment
  1 begin int64
  2 end int64

SparseTensorProto
  1 values TensorProto
  2 indices TensorProto
  3 dims repeated int64

ValueInfoProto
  1 name string
  2 type TypeProto
  3 doc_string string
  4 metadata_props repeated StringStringEntryProto

TypeProto
  1 tensor_type TensorType oneof value
  4 sequence_type SequenceType oneof value
  5 map_type MapType oneof value
  6 denotation string
  7 opaque_type OpaqueType oneof value
  8 sparse_tensor_type SparseTensorType oneof value
  9 optional_type OptionalType oneof value

TensorType
  1 elem_type int32
  2 shape TensorShapeProto

SparseTensorType
  1 elem_type int32
  2 shape TensorShapeProto

SequenceType
  1 elem_type TypeProto

OptionalType
  1 elem_type TypeProto

MapType
  1 key_type int32
  2 value_type TypeProto

OpaqueType
  1 domain string
  2 name string

TensorShapeProto
  1 dim repeated Dimension

Dimension
  1 dim_value int64 oneof value
  2 dim_param string oneof value
  3 denotation string

FunctionProto
  1 name string
  4 input repeated string
  5 output repeated string
  6 attribute repeated string
  7 node repeated NodeProto
  8 doc_string string
  9 opset_import repeated OperatorSetIdProto
  10 domain string
  11 attribute_proto repeated AttributeProto
  12 value_info repeated ValueInfoProto
  13 overload string
  14 metadata_props repeated StringStringEntryProto

TrainingInfoProto
  1 initialization GraphProto
  2 algorithm GraphProto
  3 initialization_binding repeated StringStringEntryProto
  4 update_binding repeated StringStringEntryProto

OperatorSetIdProto
  1 domain string
  2 version int64

StringStringEntryProto
  1 key string
  2 value string

TensorAnnotation
  1 tensor_name string
  2 quant_parameter_tensor_names repeated StringStringEntryProto

DeviceConfigurationProto
  1 name string
  2 num_devices int32
  3 device repeated string

NodeDeviceConfigurationProto
  1 configuration_id string
  2 sharding_spec repeated ShardingSpecProto
  3 pipeline_stage int32

ShardingSpecProto
  1 tensor_name string
  2 device repeated int64
  3 index_to_device_group_map repeated IntIntListEntryProto
  4 sharded_dim repeated ShardedDimProto

IntIntListEntryProto
  1 key int64
  2 value repeated int64

ShardedDimProto
  1 axis int64
  2 simple_sharding repeated SimpleShardedDimProto

SimpleShardedDimProto
  1 dim_value int64 oneof dim
  2 dim_param string oneof dim
  3 num_shards int64
"""

_SCHEMAS = schemas(_TABLE)

MODEL = _SCHEMAS["ModelProto"]
GRAPH = _SCHEMAS["GraphProto"]
NODE = _SCHEMAS["NodeProto"]
ATTRIBUTE = _SCHEMAS["AttributeProto"]
TENSOR = _SCHEMAS["TensorProto"]
SPARSE = _SCHEMAS["SparseTensorProto"]
VALUE_INFO = _SCHEMAS["ValueInfoProto"]
TYPE = _SCHEMAS["TypeProto"]
SHAPE = _SCHEMAS["TensorShapeProto"]
DIMENSION = _SCHEMAS["Dimension"]
FUNCTION = _SCHEMAS["FunctionProto"]
OPSET = _SCHEMAS["OperatorSetIdProto"]
ENTRY = _SCHEMAS["StringStringEntryProto"]
TRAINING = _SCHEMAS["TrainingInfoProto"]

ATTRIBUTE_TYPES = enums(_TABLE)["AttributeType"]
EXTERNAL = enums(_TABLE)["DataLocation"]["EXTERNAL"]
