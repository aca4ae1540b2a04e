"""The messages of TensorFlow's checkpoints, as field tables.

From tensor_bundle.proto, tensor_shape.proto, tensor_slice.proto, versions.proto,
trackable_object_graph.proto and checkpoint_state.proto of TensorFlow 2.21.
"""

from __future__ import annotations

from tensorkeep.message import schemas

PROTOS = schemas("""
BundleHeaderProto proto3
  1 num_shards int32
  2 endianness int32
  3 version VersionDef

VersionDef proto3
  1 producer int32
  2 min_consumer int32
  3 bad_consumers repeated int32

BundleEntryProto proto3
  1 dtype int32
  2 shape TensorShapeProto
  3 shard_id int32
  4 offset int64
  5 size int64
  6 crc32c fixed32
  7 slices repeated TensorSliceProto

TensorShapeProto proto3
  2 dim repeated Dim
  3 unknown_rank bool

Dim proto3
  1 size int64
  2 name string

TensorSliceProto proto3
  1 extent repeated Extent

Extent proto3
  1 start int64
  2 length int64 oneof has_length

TrackableObjectGraph proto3
  1 nodes repeated TrackableObject

TrackableObject proto3
  2 attributes repeated SerializedTensor

SerializedTensor proto3
  1 name string
  2 full_name string
  3 checkpoint_key string

CheckpointState proto3
  1 model_checkpoint_path string
  2 all_model_checkpoint_paths repeated string
  3 all_model_checkpoint_timestamps repeated double
  4 last_preserved_timestamp double
""")
