"""npz: named NumPy arrays in a zip archive, each as a .npy file. See tensorkeep.wire for both.

A flat dict of arrays gives what numpy.savez would hold, except that the elements start at multiples
of 64 in the file, so that they can be mapped. The nesting, the metadata and what strings NumPy
cannot hold are noted in one more member, `tensorkeep.json`. A name that no member should have, with
a slash in front or a backslash, is written with percent signs as in an URL behind
`tensorkeep-name/`. The archive's own CRC-32 of each member is what `verify` checks, so there are no
digests besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from urllib.parse import quote, unquote

from tensorkeep.dtypes import DTYPES, UINT8, DType
from tensorkeep.errors import (
    CorruptError,
    TensorKeepError,
    UnknownFormatError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.format import Format, Stream
from tensorkeep.notes import KEY, Notes, parse_notes
from tensorkeep.source import MemorySource, Source
from tensorkeep.state import Json, State
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor
from tensorkeep.wire.npy import USUAL, Arrays, Header, content, read_header
from tensorkeep.wire.zip import (
    DEFLATED,
    MAGIC,
    Inflated,
    Member,
    check_member,
    data_start,
    is_unsafe,
    member_names,
    open_member,
    read_directory,
)
from tensorkeep.wire.zip_writer import Part, write_zip, zip_size

NOTES = f"{KEY}.json"
MAX_NOTES = 64 << 20
_ENDING = ".npy"
_QUOTED = "tensorkeep-name/"


def accepts(location: Location) -> bool:
    """A zip archive of nothing but .npy files and our notes."""
    if not location.head.startswith(MAGIC):
        return False
    note, ending = NOTES.encode(), _ENDING.encode()
    try:
        names = list(member_names(location.source))
    except TensorKeepError:
        return False
    return bool(names) and all(name.endswith(ending) or name == note for name in names)


def decode(location: Location) -> State:
    """Read the directory and the headers of all arrays."""
    source, where = location.source, location.where
    members = read_directory(source)
    # Thousands of headers are read here: looked at through one view where that costs nothing.
    quick = MemorySource(source.read(0, source.size), where) if source.mapped else source
    rows: dict[str, tuple[Header, Source, int]] = {}
    checks: dict[str, Callable[[], None]] = {}
    known: dict[bytes, Header] = {}
    notes = Notes()
    for member in members.values():
        if member.name.endswith(_ENDING):
            name = _tensor_name(member.name)
            if name in rows:
                raise CorruptError(f"holds the array {name!r} twice", where=where)
            rows[name] = _row(source, quick, member, known)
            checks[name] = partial(check_member, source, member)
        elif member.name == NOTES:
            notes = _read_notes(source, member)
        else:
            raise UnknownFormatError(
                f"holds {member.name!r}, which is not a NumPy array", where=where
            )
    arrays = Arrays(rows)
    _restore(arrays, notes.stored, where)

    def close() -> None:
        arrays.close()
        location.close()

    return State(
        arrays,
        metadata=notes.metadata,
        skeleton=notes.skeleton or _skeleton({name: arrays.text(name) for name in arrays}),
        checks=checks,
        format="npz",
        where=where,
        close=close,
    )


def _tensor_name(member: str) -> str:
    name = member[: -len(_ENDING)]
    return unquote(name[len(_QUOTED) :]) if name.startswith(_QUOTED) else name


def _member_name(name: str) -> str:
    if is_unsafe(name) or name.startswith(_QUOTED):
        name = _QUOTED + quote(name, safe="")
    return name + _ENDING


def _row(
    source: Source, quick: Source, member: Member, known: dict[bytes, Header]
) -> tuple[Header, Source, int]:
    """Read the header of an array, and find its elements: a source and where in it they start."""
    start, size = data_start(quick, member), member.size
    where = f"{source.where}: {member.name}"
    if member.method == DEFLATED:
        inflated = Inflated(source, member, start)
        header = read_header(inflated.head(USUAL), inflated.head, size, where, known)
        return header, inflated, header.length
    head = quick.read(start, start + min(USUAL, size))
    header = read_header(head, lambda n: quick.read(start, start + n), size, where, known)
    return header, source, start + header.length


def _read_notes(source: Source, member: Member) -> Notes:
    if member.size > MAX_NOTES:
        raise UnsafeError(
            f"its notes of {member.size:,} bytes are over the limit of {MAX_NOTES:,}",
            where=source.where,
        )
    check_member(source, member)
    return parse_notes(bytes(open_member(source, member).read(0, member.size)), source.where)


def _restore(
    arrays: Arrays, stored: Mapping[str, tuple[DType, tuple[int, ...]]], where: str
) -> None:
    """Give tensors the element type that they were kept instead of."""
    for name, (kind, shape) in stored.items():
        if name not in arrays:
            raise CorruptError(f"its notes speak of {name!r}, which is not there", where=where)
        kept = arrays[name]
        arrays.made[name] = Tensor(kind, shape, kept.source, kept.offset, kept.nbytes)


def _skeleton(texts: Mapping[str, str]) -> dict[str, Json] | None:
    """Describe a flat dict that holds NumPy's strings; None where it holds none."""
    return {"tree": _tree(texts)} if any(texts.values()) else None


def _tree(texts: Mapping[str, str]) -> Json:
    leaves: dict[str, Json] = {}
    for name, text in texts.items():
        leaf = "$" if name else "$:"
        leaves[name] = {"$array": leaf, "numpy": text} if text else leaf
    if any(name.startswith("$") for name in leaves):
        return {"$dict": [[f"${n}" if n[:1] == "$" else n, leaf] for n, leaf in leaves.items()]}
    return leaves


def encode(
    state: State, location: Location, *, checksums: bool = True, compress: bool = False
) -> Iterator[Stream]:
    """Write all tensors to one archive.

    Args:
        state: what to write.
        location: where to.
        checksums: taken for likeness with other formats; a zip archive always has CRC-32.
        compress: deflate the arrays, which then can no longer be mapped.

    Raises:
        ArgumentError: a name that is not text.
    """
    wanted = _wanted_texts(state.skeleton)
    parts: list[Part] = []
    texts: dict[str, str] = {}
    stored: dict[str, tuple[DType, tuple[int, ...]]] = {}
    for name, tensor in state.items():
        try:
            whole = content(tensor, wanted.get(name, ""))
        except UnsupportedError:
            stored[name] = tensor.dtype, tensor.shape
            whole = content(Tensor(UINT8, (tensor.nbytes,), tensor.source, tensor.offset))
        parts.append(Part(_member_name(name), whole.size, whole.chunks))
        texts[name] = whole.text
    skeleton = _noted_skeleton(state.skeleton, texts)
    if document := Notes(state.metadata, skeleton, stored).dump().encode():
        parts.append(Part(NOTES, len(document), lambda: [document]))
    size = None if compress else zip_size(parts)
    yield Stream(location.key, write_zip(parts, compress=compress), size)


def _wanted_texts(skeleton: Mapping[str, Json] | None) -> dict[str, str]:
    """Find the NumPy types that the strings of a flat dict were saved from."""
    tree = (skeleton or {}).get("tree")
    leaves = tree.items() if isinstance(tree, dict) else ()
    return {
        name: str(leaf.get("numpy", ""))
        for name, leaf in leaves
        if isinstance(leaf, dict) and leaf.get("$array") == "$"
    }


def _noted_skeleton(
    skeleton: dict[str, Json] | None, texts: Mapping[str, str]
) -> dict[str, Json] | None:
    """Give what of the skeleton has to be noted: nothing where reading finds it by itself."""
    if skeleton == {"tree": _tree(texts)}:
        return None
    if any(texts.values()) and "tree" not in (skeleton or {}):  # strings, but not of a NumPy type
        return {**(skeleton or {}), "tree": _tree(dict.fromkeys(texts, ""))}
    return skeleton


FORMAT = Format(
    name="npz",
    suffixes=(".npz",),
    accepts=accepts,
    decode=decode,
    encode=encode,
    holds=frozenset(DTYPES.values()),
    checked_by="CRC-32 of each member",
    packed="deflate",
    safe_by="object arrays are refused",
)
