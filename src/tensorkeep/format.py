"""Format: how one kind of file becomes a State, and a State that kind of file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tensorkeep.dtypes import DType
from tensorkeep.state import State
from tensorkeep.store import Chunks, Location


@dataclass(frozen=True, slots=True)
class Stream:
    """What to write under one key, in order; `chunks` of None removes the key instead."""

    key: str
    chunks: Chunks | None
    size: int | None = None


def _nowhere(location: Location) -> Location | None:
    return None


def _all(location: Location, names: list[str]) -> State | None:
    return None


def _nothing(state: State) -> list[str]:
    return []


@dataclass(frozen=True, slots=True)
class Format:
    """A file format, as data and plain functions.

    Args:
        name: what users call it.
        suffixes: file name endings that mean it, the usual one first.
        accepts: looks at a location's first bytes (and name, for text); no two formats may accept
            the same location.
        decode: gives the lazy state; reads no more than headers.
        encode: gives the streams to write; takes the state, the location and keyword options. None
            where `save` and `convert` do not write it.
        instead: gives where a state is kept when nothing has its very name (an index of shards), or
            None.
        pick: gives a state of some tensors alone, without digests, where it can find them by their
            names without listing all; None where it cannot.
        losses: says what of a state the format cannot hold, a sentence each.
        holds: the element types that it keeps.
        compares_digests: whether `encode` itself compares the tensors with the digests that a state
            brings; they are compared before it otherwise.
        dialect: the dialect of models that it keeps whole: "onnx", "nnef" or "caffe2"; empty where
            it keeps tensors alone.
        folder: whether it writes a folder, its keys lying below the location's, replaced whole.
        whole_stores: whether it also writes to a whole database, its records being the keys.
        corruption: exceptions of other libraries that mean damaged bytes.
        written_by: what does write it, where `encode` is None.
        extra: the optional dependency group to install, where it needs one.
        lazy: whether opening reads the structure alone, and a slice little more than itself.
        sharded: how several files make one state; empty where they do not.
        packed: what compresses tensors in it; empty where nothing does.
        checked_by: what finds a damaged tensor; empty where nothing does.
        safe_by: why a file of it cannot do harm, beside the checks of every size and name.
    """

    name: str
    suffixes: tuple[str, ...]
    accepts: Callable[[Location], bool]
    decode: Callable[[Location], State]
    encode: Callable[..., Iterator[Stream]] | None
    instead: Callable[[Location], Location | None] = _nowhere
    pick: Callable[[Location, list[str]], State | None] = _all
    losses: Callable[[State], list[str]] = _nothing
    holds: frozenset[DType] = field(default_factory=frozenset)
    corruption: tuple[type[Exception], ...] = (RecursionError,)
    compares_digests: bool = False
    dialect: str = ""
    folder: bool = False
    whole_stores: bool = False
    written_by: str = ""
    extra: str = ""
    lazy: bool = True
    sharded: str = ""
    packed: str = ""
    checked_by: str = ""
    safe_by: str = "holds data alone"
