"""Caffe2's operators for loading and saving, one module each."""
