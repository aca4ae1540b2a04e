"""The grammar of what Caffe2 stored: messages, blobs and their pieces."""
