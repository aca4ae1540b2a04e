"""Caffe2's operators for loading, saving and reading training data, a few to a module."""
