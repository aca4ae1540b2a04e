"""From a folder, an archive or a lone text to a state: the texts and the tensors' headers alone."""

from __future__ import annotations

import itertools
import math
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from tensorkeep.dtypes import BOOL, DTYPES, FLOAT32, INT64, DType
from tensorkeep.errors import CorruptError, MissingError, TensorKeepError, UnsafeError
from tensorkeep.formats.nnef import gunzipped
from tensorkeep.formats.nnef.blocks import open_blocks
from tensorkeep.formats.nnef.files import (
    ENDING,
    GRAPH,
    MAX_TEXT,
    QUANTIZATION,
    Absent,
    Data,
    open_data,
)
from tensorkeep.formats.nnef.gunzipped import Gunzipped
from tensorkeep.formats.nnef.notes import (
    START,
    STATE,
    check_sealed,
    note_of,
    read_names,
    read_note,
)
from tensorkeep.formats.nnef.tar import SIGN, TarFolder, members
from tensorkeep.notes import MAX_AXES
from tensorkeep.source import MemorySource, Source
from tensorkeep.state import MAX_TENSORS, State
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor
from tensorkeep.wire.nnef.document import Document
from tensorkeep.wire.nnef.operations import Operation
from tensorkeep.wire.nnef.tensors import MAGIC, open_elements

SUFFIX = ".nnef"

_LOOK = 1000  # files that are looked at for the one model in a folder or an archive
_PEEK_PACKED, _PEEK = 64 << 10, 1 << 20
_BEGINNING = re.compile(rb"(\s|#[^\n]*\n)*version\s+[0-9]+\.[0-9]+\s*;")
_BARE = {"external", "variable", "copy"}  # what a state that is no model is made of
_WORDS = {"scalar": FLOAT32, "integer": INT64, "logical": BOOL}


def accepts(location: Location) -> bool:
    """A folder with a graph.nnef, or a text that begins as one does."""
    if not location.key:
        return root_of(location) is not None
    return location.head.startswith(START.encode()) or _BEGINNING.match(location.head) is not None


def root_of(location: Location) -> Location | None:
    """Find the text of the model in a folder, or in the one .nnef folder in it."""
    store = location.store
    if any(key == GRAPH for key in store.keys(GRAPH)):
        return Location(store, GRAPH)
    found = [
        key
        for key in itertools.islice(store.keys(), _LOOK)
        if posixpath.basename(key) == GRAPH and key.count("/") == 1
    ]
    if len(found) == 1 and posixpath.dirname(found[0]).endswith(SUFFIX):
        return Location(store, found[0])
    return None


def instead(location: Location) -> Location | None:
    """Give the text in the folder that a key stands for."""
    key = f"{location.key}/{GRAPH}"
    return Location(location.store, key) if key in location.store.keys(key) else None


def accepts_archive(location: Location) -> bool:
    """A tar archive, perhaps gzip-compressed, with a graph.nnef or tensors of NNEF's in it."""
    if not location.key:
        return False
    if location.head.startswith(gunzipped.MAGIC):
        source = location.source
        packed = bytes(source.read(0, min(_PEEK_PACKED, source.size)))
        data = gunzipped.peek(packed, _PEEK)
        return data[SIGN] == b"ustar" and _holds_model(MemorySource(data))
    return location.head[SIGN] == b"ustar" and _holds_model(location.source)


def _holds_model(archive: Source) -> bool:
    try:
        for member in itertools.islice(members(_Beginning(archive)), _LOOK):
            if posixpath.basename(member.name) in (GRAPH, QUANTIZATION):
                return True
            if member.name.endswith(ENDING) and member.head.startswith(MAGIC):
                return True
    except TensorKeepError:
        return False
    return False


class _Beginning(Source):
    """What is known of an archive; how long it is is not asked."""

    __slots__ = ("_known",)

    def __init__(self, known: Source) -> None:
        super().__init__(1 << 62, known.where)
        self._known = known

    def _read(self, start: int, stop: int) -> memoryview:
        return self._known.read(start, stop)


def decode(location: Location) -> State:
    """Read the texts of a folder, and the headers of its tensors."""
    graph = location if location.key else root_of(location)
    if graph is None:
        raise MissingError(f"holds no {GRAPH}", where=location.where)
    return _decode_graph(graph, "nnef", location.where, location.close)


def decode_archive(location: Location) -> State:
    """Read the texts of an archive, and the headers of its tensors; nothing is unpacked to disk."""
    source = location.source
    if location.head.startswith(gunzipped.MAGIC):
        folder = _packed_folder(source)
    else:
        folder = TarFolder(source)
    found = [key for key in folder.keys() if posixpath.basename(key) == GRAPH]
    if not found:
        raise CorruptError(f"holds no {GRAPH}", where=location.where)
    if len(found) > 1:
        raise CorruptError(f"holds {len(found)} models: {', '.join(found[:3])}", where=source.where)
    graph = Location(folder, found[0])
    return _decode_graph(graph, "nnef-archive", location.where, location.close)


def _packed_folder(source: Source) -> TarFolder:
    if blocks := open_blocks(source):
        return TarFolder(blocks)
    unpacked = Gunzipped(source)
    folder = TarFolder(unpacked)
    unpacked.finish()
    return folder


class _Variable(NamedTuple):
    """A variable of the graph: what it is called here, and what the graph says of it."""

    name: str
    identifier: str
    label: str
    shape: tuple[int, ...]
    dtype: DType


def _decode_graph(graph: Location, format: str, where: str, close: Callable[[], None]) -> State:
    text = _read_text(graph.source)
    graph.close()
    quantization = _read_quantization(graph)
    document = Document.parse(text, graph.where, quantization)
    note = note_of(text)
    if note:
        names, types = read_names(note, where)
        document.names.update(names)
        document.types.update(types)
    operations = document.operations()
    variables = list(_variables(operations, document, graph.where))
    data = {label: open_data(graph, label) for label in dict.fromkeys(v.label for v in variables)}
    tensors: dict[str, Tensor] = {}
    remarks: dict[str, str] = {}
    for variable in variables:
        found = data[variable.label]
        tensors[variable.name] = _tensor(variable, found, graph.where)
        if remark := _remark(variable, found, document):
            remarks[variable.name] = remark
    bare = document.name == STATE and {each.name for each in operations} <= _BARE
    if not note and bare:
        raise CorruptError(
            "keeps a state, but the notes in its first line are gone",
            where=where,
            cure="It was changed by another tool; give its graph another name to read it as a "
            "model.",
        )
    state = State(
        tensors,
        remarks=remarks,
        document=None if bare else document,
        format=format,
        where=where,
        close=close,
    )
    if not note:
        return state
    noted = read_note(note, tensors, where)
    if noted.sealed:
        heads = [found.head for found in data.values() if found is not None]
        check_sealed(text, quantization, heads, where)
    restored = dict(_restored(tensors, noted.notes.stored, where))
    return state.replace(
        tensors={**tensors, **restored},
        metadata=noted.notes.metadata,
        skeleton=noted.notes.skeleton,
        digests=noted.notes.digests,
    )


def _read_text(source: Source) -> str:
    if source.size > MAX_TEXT:
        raise UnsafeError(
            f"its text of {source.size:,} bytes is over the limit of {MAX_TEXT:,}",
            where=source.where,
        )
    try:
        return str(source.read(0, source.size), "utf-8")
    except UnicodeDecodeError as error:
        raise CorruptError(f"is not UTF-8 at byte {error.start}", where=source.where) from None


def _read_quantization(graph: Location) -> str:
    """Read what is said of quantized tensors, beside a text of the usual name."""
    if graph.name != GRAPH:
        return ""
    beside = graph.beside(QUANTIZATION)
    try:
        source = beside.store.get_own(beside.key)
    except MissingError:
        return ""
    try:
        return _read_text(source)
    finally:
        source.close()


def _variables(operations: list[Operation], document: Document, where: str) -> Iterator[_Variable]:
    labels: dict[str, str] = {}
    for operation in operations:
        if operation.name != "variable":
            continue
        variable = _variable(operation, document, where)
        if labels.setdefault(variable.name, variable.label) != variable.label:
            raise CorruptError(f"has two variables called {variable.name[:60]!r}", where=where)
        if len(labels) > MAX_TENSORS:
            raise UnsafeError(f"has more than {MAX_TENSORS:,} variables", where=where)
        yield variable


def _variable(operation: Operation, document: Document, where: str) -> _Variable:
    label, shape = operation.arguments.get("label"), operation.arguments.get("shape")
    outputs = operation.outputs()
    sizes = shape if isinstance(shape, list) and len(shape) <= MAX_AXES else [None]
    whole = [size for size in sizes if type(size) is int and 0 <= size < 1 << 60]
    if not isinstance(label, str) or len(whole) != len(sizes) or len(outputs) != 1:
        raise CorruptError(
            f"line {operation.line}: a variable needs a label, and a shape of whole numbers",
            where=where,
        )
    (identifier,) = outputs
    dtype = _WORDS.get(operation.dtype or "scalar", FLOAT32)
    if identifier in document.types:
        dtype = DTYPES.get(document.types[identifier], dtype)
    name = document.names.get(identifier, label)
    # One slash in front is left out, as NNEF's own reader does it.
    return _Variable(name, identifier, label.removeprefix("/"), tuple(whole), dtype)


def _tensor(variable: _Variable, found: Data | None, where: str) -> Tensor:
    if found is None:
        size = variable.dtype.nbytes(math.prod(variable.shape))
        source = Absent(size, variable.label, where)
        return Tensor(variable.dtype, variable.shape, source)
    if found.header.shape != variable.shape:
        raise CorruptError(
            f"has shape {found.header.shape}, where the graph gives the variable "
            f"{variable.identifier[:60]!r} the shape {variable.shape}",
            where=found.elements.where,
        )
    return open_elements(found.elements, found.header)


def _remark(variable: _Variable, found: Data | None, document: Document) -> str:
    parts = ["no data"] if found is None else [found.header.remark]
    if variable.identifier in document.quantization:
        parts.append(document.quantization[variable.identifier].name)
    return ", ".join(filter(None, parts))


def _restored(
    tensors: Mapping[str, Tensor], stored: Mapping[str, tuple[DType, tuple[int, ...]]], where: str
) -> Iterator[tuple[str, Tensor]]:
    """Give tensors the element type that they were kept instead of."""
    for name, (kind, shape) in stored.items():
        if name not in tensors:
            raise CorruptError(f"its notes speak of {name!r:.60}, which is not there", where=where)
        kept = tensors[name]
        yield name, Tensor(kind, shape, kept.source, kept.offset, kept.nbytes)
