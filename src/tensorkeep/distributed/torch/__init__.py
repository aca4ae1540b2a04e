"""PyTorch's distributed checkpoint (DCP), saved and loaded as a checkpoint of tensorkeep's.

    writing   Writer, for torch.distributed.checkpoint.save and async_save
    reading   Reader, for torch.distributed.checkpoint.load
    contents  a checkpoint as planners see it
    items     what a planner's items hold: tensors and JSON values
    nesting   a planner's paths, and the skeleton of a checkpoint
    ranks     which ranks are missing

Its planners say who holds what and who needs what, for any sharding and any number of ranks; the
bytes, the checksums, the commit and the metadata, which is JSON, are ours. Nothing is pickled into
a file, and no file is unpickled.

`save`, `async_save` and `load` are DCP's own with Writer and Reader, and one thing more: a rank
that dies or hangs is a StoreError that names it, `timeout` seconds later at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorkeep.distributed.torch.calls import async_save, load, save
from tensorkeep.distributed.torch.reading import Reading
from tensorkeep.distributed.torch.writing import Writing
from tensorkeep.optional import require

if TYPE_CHECKING:
    Writer = Writing
    Reader = Reading

__all__ = ["Reader", "Writer", "async_save", "load", "save"]

_BASES = {"Writer": (Writing, "StorageWriter"), "Reader": (Reading, "StorageReader")}


def __getattr__(name: str) -> Any:
    """Make the classes that PyTorch knows as its own, once they are asked for."""
    if name not in _BASES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    ours, theirs = _BASES[name]
    cure = 'Run pip install "tensorkeep[torch]".'
    dcp: Any = require("torch.distributed.checkpoint", "it is PyTorch's checkpoint", cure)
    made = type(
        name, (ours, getattr(dcp, theirs)), {"__module__": __name__, "__doc__": ours.__doc__}
    )
    globals()[name] = made
    return made
