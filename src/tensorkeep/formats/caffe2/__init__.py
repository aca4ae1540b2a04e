"""What Caffe2 kept models and checkpoints in: databases of blobs, nets, and bare blobs."""

from __future__ import annotations

from tensorkeep.formats.caffe2.bare import FORMAT as BARE
from tensorkeep.formats.caffe2.database import FORMAT as DATABASE
from tensorkeep.formats.caffe2.net import FORMAT as NET

__all__ = ["BARE", "DATABASE", "NET"]
