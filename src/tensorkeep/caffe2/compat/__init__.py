"""The names that old Caffe2 scripts use, for those that only load and save.

    from tensorkeep.caffe2.compat import core, workspace, caffe2_pb2

stands for `from caffe2.python import core, workspace` and `from caffe2.proto import caffe2_pb2`.
Operators that load, save and fill run; nets that compute can be described, not run. New code does
better with `tensorkeep.caffe2` itself.

>>> net = core.Net("init")
>>> net.GivenTensorFill([], "w", shape=[2], values=[1.0, 2.0])
BlobReference("w")
>>> workspace.RunNetOnce(net), workspace.FetchBlob("w").tolist()
(True, [1.0, 2.0])
>>> caffe2_pb2.NetDef.FromString(net.Proto().SerializeToString()).op[0].type
'GivenTensorFill'
"""

from tensorkeep.caffe2.compat import caffe2_pb2, core, workspace

__all__ = ["caffe2_pb2", "core", "workspace"]
