"""Save, load, checkpoint, convert and inspect the state of neural networks."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from tensorkeep.api import load, open, save
from tensorkeep.checkpoint import Checkpointer, checkpoints, keep
from tensorkeep.convert import convert
from tensorkeep.copying import copy
from tensorkeep.diff import diff
from tensorkeep.dtypes import DType, dtype
from tensorkeep.errors import TensorKeepError
from tensorkeep.source import Source
from tensorkeep.state import State
from tensorkeep.store import Location, Store
from tensorkeep.stores import remote
from tensorkeep.tensor import Tensor
from tensorkeep.verify import verify
from tensorkeep.version import __version__ as __version__

if _TYPE_CHECKING:
    from tensorkeep import data, models
    from tensorkeep.data import Batches
    from tensorkeep.models import run
    from tensorkeep.viewer import view


def __getattr__(name: str) -> _Any:
    # Most programs run no model, read no training data and show nothing; all that takes a while to
    # import.
    if name in ("data", "models"):
        return _import_module(f"tensorkeep.{name}")
    if name == "Batches":
        return _import_module("tensorkeep.data").Batches
    if name == "run":
        return _import_module("tensorkeep.models").run
    if name == "view":
        return _import_module("tensorkeep.viewer").view
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Batches",
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
    "copy",
    "data",
    "diff",
    "dtype",
    "keep",
    "load",
    "models",
    "open",
    "remote",
    "run",
    "save",
    "verify",
    "view",
]
