"""Translate models between dialects: ONNX, NNEF and Caffe2's nets, ONNX being the hub.

Each direction is a table of operators; whatever a table cannot say is refused, all of it at once.
"""
