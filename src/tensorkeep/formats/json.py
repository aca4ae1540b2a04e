"""json: a state as text to read and to edit, exact for every element type.

    {
      "tensorkeep": 1,
      "metadata": {...},
      "framework": "torch",
      "state": TREE,
      "tensors": {NAME: TENSOR},
      "order": [NAME, ...],
      "xxh3_128": HEX
    }

TREE is the skeleton of `tensorkeep.tree` with each tensor written where the nesting first has it;
its further places stay `"$:NAME"`. `tensors` are those that the nesting does not hold, which is all
of them in a flat state, where `state` is missing. `order` stands only where it is not the order of
the text. A TENSOR is one of

    {"$tensor": "float32", "shape": [2, 2], "values": [[1.0, 2.0], [3.0, 4.5]]}
    {"$tensor": "float32", "shape": [2, 2], "base64": CANONICAL_BYTES}

with `"name": NAME` after the type where that is not its dotted path. Values nest as the shape says
(`[]` where there are none); complex numbers are `[RE, IM]`; what JSON has no number for is "inf",
"-inf", "nan" or "-nan". Large tensors, and NaNs with a payload, are in base64.

`xxh3_128` seals the document: it is the XXH3-128 of all its bytes with zeros in the digest's place.

Any other JSON is a state too: lists of numbers, or of bools, that nest evenly are arrays, and all
else is itself. JSON says nowhere what lies where, so a document is parsed whole when it is opened.
"""

from __future__ import annotations

import base64
import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from tensorkeep import dtypes
from tensorkeep.dtypes import DTYPES, count_of
from tensorkeep.errors import ArgumentError, CorruptError, UnsafeError, UnsupportedError
from tensorkeep.format import Format, Stream
from tensorkeep.notes import is_shape
from tensorkeep.source import MemorySource
from tensorkeep.state import MAX_TENSORS, Json, State
from tensorkeep.store import Chunk, Location
from tensorkeep.tensor import Tensor
from tensorkeep.tree import MAX_DEPTH, ROOT, flatten, unflatten
from tensorkeep.wire.models import is_architecture
from tensorkeep.wire.numbers import Shape, arrays_in, format_numbers, parse_array, reads_back
from tensorkeep.wire.text import Part, parse_json, quote, show, write_json

MAX_SIZE = 1 << 30  # parsing takes several times that in memory
VERSION = 1
_VERSION = "tensorkeep"
_SEAL = "xxh3_128"
_ZEROS = b"0" * 32
_EXACT_INT = 2**53
_MEMBERS = {_VERSION, "metadata", "framework", "state", "tensors", "order", _SEAL}
_ZARR = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")
_INDEXES = (".bin.index.json", ".msgpack.index.json", ".safetensors.index.json")
# Names that mean what other formats read.
_OTHERS = (*_INDEXES, ".onnx.json", ".arch.json", ".weights.json")

_BLOCK = 3 << 16  # bytes: whole elements of any type, and whole groups of base64
_ROW = 8192  # elements of a row written at a time
_CHUNK = 1 << 20
_TAIL = 256  # the seal stands in the last few bytes

Path = tuple[str, ...]


# --- recognising --------------------------------------------------------------------------------


def accepts(location: Location) -> bool:
    """Text that starts as JSON: any value where the name says JSON, else an object or a list."""
    head = location.head.removeprefix(codecs.BOM_UTF8)
    if location.name.lower().endswith(_OTHERS) or location.name in _ZARR:
        return False
    if not _is_text(head) or is_architecture(head):
        return False
    start = head.lstrip()[:1]
    return start != b"" and start in (b'{["-0123456789tfn' if location.suffix == ".json" else b"{[")


def _is_text(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # may end within a character
    except UnicodeDecodeError:
        return False
    return re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]", head) is None


# --- reading ------------------------------------------------------------------------------------


def decode(location: Location) -> State:
    """Parse the document and check all of it.

    Raises:
        CorruptError: it is not JSON, not what its seal says, or a tensor contradicts itself.
        UnsafeError: it is too large to be parsed whole, or holds too many tensors.
        UnsupportedError: a later version wrote it, or it holds a number that float64 cannot.
    """
    source, where = location.source, location.where
    if source.size > MAX_SIZE:
        raise UnsafeError(
            f"is {source.size:,} bytes long, and JSON over {MAX_SIZE:,} is not read",
            where=where,
            cure="Keep large tensors in safetensors, or lower base64_over when saving.",
        )
    raw = source.read(0, source.size)
    if raw.nbytes > MAX_TENSORS and bytes(raw).count(b'"$tensor"') > MAX_TENSORS:
        raise _too_many(where)
    marked = bytes(raw[:3]) == codecs.BOM_UTF8  # as some editors do
    document = parse_json(raw[3:] if marked else raw, where)
    sealed = _check_seal(document, raw, where)
    found = _ours(document, where) if _is_ours(document) else _foreign(document, where)
    if len(found.tensors) > MAX_TENSORS:
        raise _too_many(where)
    return State(
        found.tensors,
        metadata=found.metadata,
        skeleton=found.skeleton or None,
        checks=dict.fromkeys(found.tensors, _checked) if sealed else {},
        format="json",
        where=where,
        close=location.close,
    )


def _too_many(where: str) -> UnsafeError:
    return UnsafeError(f"it holds more than {MAX_TENSORS:,} tensors", where=where)


class _Found(NamedTuple):
    """What a document holds."""

    tensors: dict[str, Tensor]
    skeleton: dict[str, Json] | None
    metadata: dict[str, Json]


def _is_ours(document: Any) -> bool:
    return isinstance(document, dict) and type(document.get(_VERSION)) is int


def _checked() -> None:
    """Do nothing: the seal was checked when the document was opened."""


def _check_seal(document: Any, raw: memoryview, where: str) -> bool:
    """Compare the document with its seal; False where it has none."""
    seal = document.get(_SEAL) if isinstance(document, dict) else None
    if not isinstance(seal, str) or not re.fullmatch("[0-9a-f]{32}", seal):
        if _is_ours(document) and _SEAL in document:
            raise CorruptError(f"its digest is {show(seal)}", where=where)
        return False
    hasher = xxhash.xxh3_128(raw[:-_TAIL])
    before, _, after = bytes(raw[-_TAIL:]).rpartition(seal.encode())
    hasher.update(before + _ZEROS + after)
    if hasher.hexdigest() != seal:
        raise CorruptError(
            f"is not as it was saved: its XXH3-128 is {hasher.hexdigest()}, {seal} was saved",
            where=where,
            cure=f"Use another copy; if you edited it on purpose, remove its {_SEAL!r}.",
        )
    return True


def _ours(document: dict[str, Any], where: str) -> _Found:
    """Check a document of ours, and take the tensors out of its nesting."""
    if document[_VERSION] != VERSION:
        raise UnsupportedError(
            f"has version {document[_VERSION]} of the json format, not {VERSION}",
            where=where,
            cure="Update tensorkeep.",
        )
    if unknown := sorted(document.keys() - _MEMBERS):
        raise CorruptError(f"has the unknown member {show(unknown[0])}", where=where)
    if "state" not in document and "tensors" not in document:
        raise CorruptError("has neither 'state' nor 'tensors'", where=where)
    tensors: dict[str, Tensor] = {}

    def add(name: str, entry: dict[str, Any]) -> None:
        if name in tensors:
            raise CorruptError(f"has the tensor {show(name)} twice", where=where)
        tensors[name] = _tensor(name, entry, where)

    def leaf(found: Any, path: Path) -> Any:
        if isinstance(found, str):
            return found
        name = found.get("name", ".".join(path) or ROOT)
        if not isinstance(name, str):
            raise CorruptError(f"{show(name)} is not a tensor's name", where=where)
        add(name, found)
        return f"$:{name}" if "name" in found else "$"

    skeleton: dict[str, Json] = {}
    if "framework" in document:
        skeleton["framework"] = _member(document, "framework", str, where)
    if "state" in document:
        skeleton["tree"] = _walk(document["state"], leaf, where)
    for name, entry in _member(document, "tensors", dict, where).items():
        if not isinstance(entry, dict) or "name" in entry:
            raise CorruptError(f"{show(name)} is not described as a tensor", where=where)
        add(name, entry)
    if "order" in document:
        order = _member(document, "order", list, where)
        names = {name for name in order if isinstance(name, str)}
        if len(order) != len(tensors) or names != tensors.keys():
            raise CorruptError("its 'order' does not list its tensors", where=where)
        tensors = {name: tensors[name] for name in order}
    return _Found(tensors, skeleton, _member(document, "metadata", dict, where))


def _member(document: dict[str, Any], key: str, kind: type[Any], where: str) -> Any:
    found = document.get(key, kind())
    if not isinstance(found, kind):
        raise CorruptError(f"its {key!r} is {show(found)}", where=where)
    return found


def _walk(
    tree: Any, leaf: Callable[[Any, Path], Any], where: str, path: Path = (), depth: int = 0
) -> Any:
    """Copy a nesting with what `leaf` gives in place of its tensors and references to them.

    What is not as `tensorkeep.tree` writes it stays as it is, for that to refuse.
    """

    def node(child: Any, key: str) -> Any:
        return _walk(child, leaf, where, (*path, key), depth + 1)

    if isinstance(tree, str):
        return leaf(tree, path) if tree.startswith("$") and not tree.startswith("$$") else tree
    if not isinstance(tree, list | dict):
        return tree
    if depth > MAX_DEPTH:
        raise CorruptError(f"it nests deeper than {MAX_DEPTH} levels", where=where)
    if isinstance(tree, list):
        return [node(child, str(i)) for i, child in enumerate(tree)]
    tag = next(iter(tree), "")
    if not tag.startswith("$"):
        return {key: node(child, key) for key, child in tree.items()}
    if tag == "$tensor":
        return leaf(tree, path)
    inner: Any
    match tag, tree[tag]:
        case "$array" | "$scalar" | "$bytes" | "$bytearray", (str() | dict()) as place:
            inner = _walk(place, leaf, where, path, depth)
        case "$tuple" | "$deque", [*items]:
            inner = [node(child, str(i)) for i, child in enumerate(items)]
        case "$namedtuple", [module, name, dict(fields)]:
            inner = [module, name, {key: node(child, key) for key, child in fields.items()}]
        case "$dict" | "$ordereddict" | "$defaultdict", [*pairs] if all(map(_is_pair, pairs)):
            inner = [[key, node(child, _key(key, where))] for key, child in pairs]
        case _:
            return tree
    return {**tree, tag: inner}


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2


def _key(tree: Any, where: str) -> str:
    """Give what a dict's key adds to the dotted path: what `tensorkeep.tree` makes of it."""

    def refuse(name: str, framework: str, numpy: str) -> Any:
        raise CorruptError(f"the tensor {show(name)} is the key of a dict", where=where)

    built = unflatten({"tree": tree}, {}, refuse, where)
    if type(built) is int and abs(built) >= _EXACT_INT:
        return hex(built)
    try:
        return str(built)
    except ValueError as error:  # a tuple with an integer of more digits than Python converts
        raise CorruptError(f"a dict has a key that cannot be read: {error}", where=where) from None


def _tensor(name: str, entry: dict[str, Any], where: str) -> Tensor:
    """Read one tensor from its description."""
    code: Any = entry.get("$tensor")
    axes: Any = entry.get("shape")
    try:
        if not isinstance(code, str) or code not in DTYPES:
            raise CorruptError(f"has the unknown element type {show(code)}")
        # NumPy wants the product of the axes to fit even where one of them is 0.
        if not is_shape(axes) or count_of(tuple(axis or 1 for axis in axes)) >= 2**59:
            raise CorruptError(f"has {show(axes)} for a shape")
        kind, shape = DTYPES[code], tuple(axes)
        content = entry.keys() - {"$tensor", "name", "shape"}
        if content == {"values"}:
            return Tensor.of(parse_array(kind, shape, entry["values"]), where)
        if content == {"base64"} and kind is not dtypes.STRING:
            data = _unbase64(entry["base64"])
            return Tensor(kind, shape, MemorySource(data, where), 0, len(data))
        raise CorruptError(f"has the members {', '.join(map(show, entry))}")
    except (CorruptError, UnsupportedError) as error:
        problem = f"the tensor {show(name)}: {error.problem}"
        raise CorruptError(problem, where=where) from None


def _unbase64(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as error:
        raise CorruptError(f"is not base64: {error}") from None


# --- JSON of others -----------------------------------------------------------------------------


def _foreign(document: Any, where: str) -> _Found:
    """Take the arrays out of any JSON value."""
    value = arrays_in(document, where, max_depth=MAX_DEPTH, most=MAX_TENSORS)
    try:
        tensors, skeleton = flatten(
            value, lambda leaf, _: ("numpy", leaf) if isinstance(leaf, np.ndarray) else None
        )
    except UnsupportedError as error:
        place = f"{where}: {error.where}"
        raise UnsupportedError(error.problem, where=place, cure=error.cure) from None
    return _Found(tensors, skeleton, {})


# --- writing ------------------------------------------------------------------------------------


def encode(
    state: State,
    location: Location,
    *,
    checksums: bool = True,
    indent: int = 2,
    base64_over: int = 100_000,
) -> Iterator[Stream]:
    """Write one document.

    Args:
        state: what to write.
        location: the file to write.
        checksums: seal the document with its XXH3-128.
        indent: how many spaces each level is indented by.
        base64_over: write tensors of more elements than this in base64, which takes a tenth of
            the time and memory to read back, but a person no longer can.
    """
    for name, number in (("indent", indent), ("base64_over", base64_over)):
        if type(number) is not int or number < 0:
            raise ArgumentError(f"{name} has to be a number of 0 or more, not {number!r}")
    if location.name.lower().endswith(_OTHERS):
        raise ArgumentError(
            "is the name of an index of safetensors shards", cure='Say format="safetensors".'
        )
    spaces = " " * indent
    document = _document(state, base64_over, spaces)
    if checksums:
        document[_SEAL] = _ZEROS.decode()
    yield Stream(location.key, _chunks(write_json(document, spaces, state.where), checksums))


def _document(state: State, base64_over: int, indent: str) -> dict[str, Any]:
    """Put each tensor where the skeleton first names it, and the others under `tensors`."""
    placed: dict[str, Part] = {}

    def leaf(found: Any, path: Path) -> Any:
        if isinstance(found, dict):
            raise UnsupportedError("its nesting holds the text of a tensor", where=state.where)
        name = (".".join(path) or ROOT) if found == "$" else found[2:]
        if name in placed or name not in state or found[:2] not in ("$", "$:"):
            return found
        told = None if found == "$" else name
        placed[name] = _part(state[name], told, base64_over, indent)
        return placed[name]

    document: dict[str, Any] = {_VERSION: VERSION}
    if state.metadata:
        document["metadata"] = state.metadata
    skeleton = state.skeleton or {}
    if "framework" in skeleton:
        document["framework"] = str(skeleton["framework"])
    if "tree" in skeleton:
        document["state"] = _walk(skeleton["tree"], leaf, state.where)
    loose = [name for name in state if name not in placed]
    if loose or "tree" not in skeleton:
        document["tensors"] = {
            name: _part(state[name], None, base64_over, indent) for name in loose
        }
    if [*placed, *loose] != list(state):
        document["order"] = list(state)
    return document


def _part(tensor: Tensor, name: str | None, base64_over: int, indent: str) -> Part:
    """Give the part that a tensor is written in, with its name where there is one to tell."""
    told = "" if name is None else f'"name": {quote(name)}, '
    start = f'{{"$tensor": "{tensor.dtype}", {told}"shape": {list(tensor.shape)}, '

    def write(line: str) -> Iterator[str]:
        yield start
        if tensor.dtype is dtypes.STRING or (tensor.size <= base64_over and _reads_back(tensor)):
            yield '"values": '
            shape = tensor.shape if tensor.size else (0,)
            yield from _nested(_elements(tensor), shape, line, indent)
            yield "}"
        else:
            yield '"base64": "'
            for piece in tensor.pieces(_BLOCK):
                yield base64.b64encode(piece).decode()
            yield '"}'

    return Part(write)


def _nested(elements: Iterator[str], shape: Shape, line: str, indent: str) -> Iterator[str]:
    """Write elements as the lists that their shape says, each innermost one on a line."""
    if not shape:
        yield next(elements)
    elif len(shape) == 1:
        for start in range(0, shape[0], _ROW):
            row = islice(elements, min(_ROW, shape[0] - start))
            yield (", " if start else "[") + ", ".join(row)
        yield "]" if shape[0] else "[]"
    else:
        inner = line + indent
        for i in range(shape[0]):
            yield f",{inner}" if i else f"[{inner}"
            yield from _nested(elements, shape[1:], inner, indent)
        yield f"{line}]"


def _elements(tensor: Tensor) -> Iterator[str]:
    if tensor.dtype is dtypes.STRING:
        yield from map(quote, tensor.numpy().reshape(-1).tolist())
    for _, values in _blocks(tensor):
        yield from format_numbers(values, tensor.dtype)


def _reads_back(tensor: Tensor) -> bool:
    """Say whether values read back as the same bytes: not so for NaNs with a payload."""
    return all(reads_back(piece, values, tensor.dtype) for piece, values in _blocks(tensor))


def _blocks(tensor: Tensor) -> Iterator[tuple[memoryview, npt.NDArray[Any]]]:
    if tensor.dtype is dtypes.STRING:
        return
    left = tensor.size
    for piece in tensor.pieces(_BLOCK):
        count = min(left, piece.nbytes * 8 // tensor.dtype.bits)
        left -= count
        yield piece, tensor.decode(piece, (count,))


def _chunks(pieces: Iterable[str], seal: bool) -> Iterator[Chunk]:
    """Join text into chunks, and put the digest of all of it into its place at the end."""
    hasher = xxhash.xxh3_128()
    waiting: list[str] = []
    size = written = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size > _CHUNK:
            text = "".join(waiting)
            waiting, size = [text[-_TAIL:]], _TAIL
            data = text[:-_TAIL].encode()
            hasher.update(data)
            written += len(data)
            if written > MAX_SIZE:
                raise ArgumentError(
                    f"the document would be over {MAX_SIZE:,} bytes, which is not read again",
                    cure="Lower base64_over, or save as safetensors.",
                )
            yield data
    end = f"{''.join(waiting)}\n".encode()
    if seal:
        hasher.update(end)
        before, _, after = end.rpartition(_ZEROS)
        end = before + hasher.hexdigest().encode() + after
    yield end


FORMAT = Format(
    name="json",
    suffixes=(".json",),
    accepts=accepts,
    decode=decode,
    encode=encode,
    holds=frozenset(DTYPES.values()),
    checked_by="XXH3-128 of the file",
    lazy=False,
)
