"""npy: one NumPy array. See tensorkeep.wire.npy for the layout.

Files are the same as numpy.save writes, byte for byte, for every type that NumPy knows itself.
There is no place for a checksum, for metadata, for a name or for the framework of the array, and
strings come back as NumPy's of fixed width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tensorkeep.dtypes import DTYPES, STRING
from tensorkeep.errors import UnsupportedError
from tensorkeep.format import Format, Stream
from tensorkeep.state import Json, State
from tensorkeep.store import Location
from tensorkeep.tree import ROOT
from tensorkeep.wire.npy import MAGIC, USUAL, Arrays, content, read_header


def accepts(location: Location) -> bool:
    """NumPy's magic."""
    return location.head.startswith(MAGIC)


def decode(location: Location) -> State:
    """Read the header."""
    source, where = location.source, location.where
    size = source.size
    header = read_header(
        source.read(0, min(size, USUAL)), lambda length: source.read(0, length), size, where, {}
    )
    arrays = Arrays({ROOT: (header, source, header.length)})

    def close() -> None:
        arrays.close()
        location.close()

    text = arrays.text(ROOT)
    return State(
        arrays,
        skeleton={"tree": {"$array": "$", "numpy": text} if text else "$"},
        format="npy",
        where=where,
        close=close,
    )


def encode(state: State, location: Location, *, checksums: bool = True) -> Iterator[Stream]:
    """Write the only tensor of a state.

    Args:
        state: what to write.
        location: where to.
        checksums: taken for likeness with other formats; there is no place for one.

    Raises:
        UnsupportedError: not exactly one tensor, or strings that NumPy's fixed width cannot hold.
    """
    if len(state) != 1:
        raise UnsupportedError(
            f"a .npy file holds one array, the state has {len(state):,}",
            where=location.where,
            cure="Save it as .npz.",
        )
    (tensor,) = state.values()
    whole = content(tensor, _leaf(state.skeleton or {})[1])
    yield Stream(location.key, whole.chunks(), whole.size)


def losses(state: State) -> list[str]:
    """Say what besides one array there is: more arrays, metadata, a name, a nesting."""
    if len(state) != 1:
        return [f"it holds one array, not {len(state):,}, which .npz does"]
    ((name, tensor),) = state.items()
    lost = []
    if state.metadata:
        lost.append(f"the metadata ({', '.join(state.metadata)}) is lost")
    skeleton = state.skeleton or {}
    leaf, text, framework = _leaf(skeleton)
    if "tree" not in skeleton:
        lost.append(f"the name {name!r} is lost")
    elif not leaf:
        lost.append("the nesting around the array is lost, with what else is in it")
    if framework != "numpy":
        lost.append(f"that it is an array of {framework} is lost")
    if tensor.dtype is STRING and not text.startswith(("<U", "|S")):
        lost.append("that its strings are not NumPy's of a fixed width is lost")
    return lost


def _leaf(skeleton: Mapping[str, Json]) -> tuple[str, str, str]:
    """Find the leaf of a state that is nothing but an array, its NumPy type and its framework."""
    tree = skeleton.get("tree")
    special = tree if isinstance(tree, dict) and "$array" in tree else {}
    leaf = special.get("$array", tree)
    bare = isinstance(leaf, str) and (leaf == "$" or leaf.startswith("$:"))
    framework = special.get("framework", skeleton.get("framework", "numpy"))
    return str(leaf) if bare else "", str(special.get("numpy", "")), str(framework)


FORMAT = Format(
    name="npy",
    suffixes=(".npy",),
    accepts=accepts,
    decode=decode,
    encode=encode,
    losses=losses,
    holds=frozenset(DTYPES.values()) - {STRING},
    safe_by="object arrays are refused",
)
