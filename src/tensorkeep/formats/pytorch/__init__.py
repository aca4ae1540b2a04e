"""PyTorch's files: .pt, .pth, .bin and .ckpt of every age, read as data without torch.

`archive`, `legacy` and `tar` are the three layouts, `shards` the index over several files. All of
them hold a pickle that says how tensors nest and look at storages; `rebuilding` and `tensors` make
lazy tensors of that. What needs more than the names listed there is refused by name.
"""

from __future__ import annotations

from tensorkeep.dtypes import DTYPES
from tensorkeep.errors import CorruptError, MissingError
from tensorkeep.format import Format
from tensorkeep.formats.pytorch.archive import decode_archive, is_archive
from tensorkeep.formats.pytorch.distributed import FORMAT as DISTRIBUTED
from tensorkeep.formats.pytorch.legacy import decode_legacy, is_legacy
from tensorkeep.formats.pytorch.shards import INDEX, decode_index
from tensorkeep.formats.pytorch.tar import decode_tar, is_tar
from tensorkeep.formats.pytorch.writing import encode, losses
from tensorkeep.state import State
from tensorkeep.store import Location
from tensorkeep.wire.zip import MAGIC

_WHOLE = "pytorch_model.bin"
_OTHERS = (".safetensors", ".safetensors.index.json")


def accepts(location: Location) -> bool:
    """One of the three layouts, an index of shards, or a folder of a model."""
    if not location.key:
        return _in_folder(location) is not None
    if location.name.endswith(INDEX):
        return location.head.lstrip()[:1] == b"{"
    return is_archive(location) or is_legacy(location) or is_tar(location)


def decode(location: Location) -> State:
    """Read the pickle, or the index and its shards' pickles."""
    if not location.key:
        found = _in_folder(location)
        if found is None:
            raise MissingError("holds no PyTorch file", where=location.where)
        location = Location(location.store, found)
    if location.name.endswith(INDEX):
        return decode_index(location, _decode_file)
    return _decode_file(location)


def _decode_file(location: Location) -> State:
    if location.head.startswith(MAGIC):
        return decode_archive(location)
    if is_legacy(location):
        return decode_legacy(location)
    if is_tar(location):
        return decode_tar(location)
    raise CorruptError(
        f"is no PyTorch file: it starts with {location.head[:8]!r}",
        where=location.where,
        cure="If it is a bare pickle, load it where you trust it and save its tensors again.",
    )


def instead(location: Location) -> Location | None:
    """Give the index of the shards that a name stands for."""
    if location.suffix != ".bin":
        return None
    index = location.beside(location.name.removesuffix(".bin") + INDEX)
    return index if any(True for _ in index.store.keys(index.key)) else None


def _in_folder(location: Location) -> str | None:
    """Find the index or the file of a model in a folder; None where another kind is there too."""
    names = []
    for key in location.store.keys():
        if "/" in key:
            break
        if key.endswith(_OTHERS):
            return None
        names.append(key)
    found = [name for name in names if name.endswith(INDEX)]
    if len(found) == 1:
        return found[0]
    return _WHOLE if _WHOLE in names and not found else None


FORMAT = Format(
    name="pytorch",
    suffixes=(".pt", ".pth", ".bin", ".ckpt"),
    accepts=accepts,
    decode=decode,
    encode=encode,
    instead=instead,
    losses=losses,
    holds=frozenset(DTYPES.values()),
    checked_by="CRC-32 of each member",
    packed="deflate",
    sharded="an index",
    safe_by="pickle is read as data, by an allow list",
)

__all__ = ["DISTRIBUTED", "FORMAT"]
