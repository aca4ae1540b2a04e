"""Save, load, checkpoint, convert and inspect the state of neural networks."""

from tensorkeep.api import load, open, save
from tensorkeep.checkpoint import Checkpointer, checkpoints, keep
from tensorkeep.convert import convert
from tensorkeep.diff import diff
from tensorkeep.dtypes import DType, dtype
from tensorkeep.errors import TensorKeepError
from tensorkeep.source import Source
from tensorkeep.state import State
from tensorkeep.store import Location, Store
from tensorkeep.tensor import Tensor
from tensorkeep.verify import verify
from tensorkeep.version import __version__ as __version__

__all__ = [
    "Checkpointer",
    "DType",
    "Location",
    "Source",
    "State",
    "Store",
    "Tensor",
    "TensorKeepError",
    "checkpoints",
    "convert",
    "diff",
    "dtype",
    "keep",
    "load",
    "open",
    "save",
    "verify",
]
