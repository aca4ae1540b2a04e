"""From a state to a folder or an archive: the texts, and a file for each variable.

A state that is no model becomes a graph of nothing but variables. What NNEF has no element type for
is kept as its bytes then, and noted.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import quote

from tensorkeep import checksum
from tensorkeep.dtypes import BOOL, FLOAT16, FLOAT32, FLOAT64, UINT8, DType
from tensorkeep.errors import ArgumentError, MissingError, UnsupportedError
from tensorkeep.format import Stream
from tensorkeep.formats.nnef.blocks import gzipped
from tensorkeep.formats.nnef.files import ENDING, GRAPH, MAX_TEXT, QUANTIZATION, is_label
from tensorkeep.formats.nnef.notes import STATE, seal_model, with_note
from tensorkeep.formats.nnef.tar import END, member_header, padding
from tensorkeep.notes import Notes
from tensorkeep.state import State
from tensorkeep.store import Chunk, Location
from tensorkeep.tensor import Tensor
from tensorkeep.wire.nnef.document import Document
from tensorkeep.wire.nnef.operations import Operation, Reference, Value
from tensorkeep.wire.nnef.tensors import data_size, misfit, pieces, write_header

_ESCAPED = "tensorkeep-name"  # the folder of what is not called as it is labelled
_INPUT = "input"


class _File(NamedTuple):
    """A file of the model: its name, what it begins with, and the tensor that follows, if any."""

    name: str
    head: bytes
    tensor: Tensor | None = None

    @property
    def size(self) -> int:
        if self.tensor is None:
            return len(self.head)
        return len(self.head) + data_size(self.tensor.dtype, self.tensor.shape)

    def chunks(self) -> Iterator[Chunk]:
        yield self.head
        if self.tensor is not None:
            yield from pieces(self.tensor)


def losses(state: State) -> list[str]:
    """Say which tensors are no variables of the model."""
    document = _model_of(state)
    if document is None:
        return []
    known = {_name(operation, document) for operation in _variables(document.operations())}
    left = [name for name in state if name not in known]
    if not left:
        return []
    some = f"the tensor {left[0]!r} is" if len(left) == 1 else f"{len(left):,} tensors are"
    return [f"{some} no variable of the model and left out"]


def encode(state: State, location: Location, *, checksums: bool | None = None) -> Iterator[Stream]:
    """Write a folder.

    Args:
        state: what to write.
        location: the folder.
        checksums: keep an XXH3-128 of each tensor and of the model; None does so for what is no
            model, and for models that have them.

    Raises:
        ArgumentError: a folder of other files, or a name that is a file's.
        UnsupportedError: a variable of the model is what NNEF has no element type for.
    """
    if location.name == GRAPH:
        raise ArgumentError(
            "is a file in the folder of a model, which is written whole",
            where=location.where,
            cure="Give the name of the folder.",
        )
    prefix = f"{location.key}/" if location.key else ""
    _check_replaced(location, prefix)
    for file in _files(state, checksums):
        yield Stream(prefix + file.name, file.chunks(), file.size)


def encode_archive(
    state: State,
    location: Location,
    *,
    checksums: bool | None = None,
    compress: bool | None = None,
) -> Iterator[Stream]:
    """Write a tar archive.

    Args:
        state: what to write.
        location: where to.
        checksums: keep an XXH3-128 of each tensor and of the model; None does so for what is no
            model, and for models that have them.
        compress: by gzip; None does so unless the name ends with .tar.

    Raises:
        UnsupportedError: a variable of the model is what NNEF has no element type for.
    """
    files = _files(state, checksums)
    if compress is None:
        compress = not location.name.lower().endswith(".tar")
    rows = [(len(member_header(file.name, file.size)), file.size) for file in files]
    size = sum(head + size + len(padding(size)) for head, size in rows) + len(END)
    if compress:
        yield Stream(location.key, gzipped(_archive(files), size))
    else:
        yield Stream(location.key, _archive(files), size)


def _archive(files: list[_File]) -> Iterator[Chunk]:
    for file in files:
        yield member_header(file.name, file.size)
        yield from file.chunks()
        yield padding(file.size)
    yield END


def _check_replaced(location: Location, prefix: str) -> None:
    """Refuse a folder of other files, which would be gone.

    Raises:
        ArgumentError: it is one.
    """
    try:
        old = list(location.store.keys(prefix))
    except MissingError:
        return  # the folder itself is to be made
    ours = (prefix + GRAPH, prefix + QUANTIZATION)
    others = [key for key in old if key not in ours and not key.endswith(ENDING)]
    if old and (others or prefix + GRAPH not in old):
        raise ArgumentError(
            f"is a folder of other files, such as {posixpath.basename((others or old)[0])!r}, "
            "which would be replaced",
            where=location.where,
            cure="Give the name of a new folder, or remove it first.",
        )


def _files(state: State, checksums: bool | None) -> list[_File]:
    """Give the files of a model, in the order in which they are written."""
    document = _model_of(state)
    if checksums is None:
        checksums = document is None or bool(state.digests)
    stored: dict[str, tuple[DType, tuple[int, ...]]] = {}
    known: Mapping[str, Tensor] = state
    if document is None:
        known = {name: _kept(name, tensor, stored) for name, tensor in state.items()}
        document = _plain(known)
    else:
        document = _relabelled(document)
    files: dict[str, _File] = {}
    names: dict[str, None] = {}
    for operation in _variables(document.operations()):
        name = _name(operation, document)
        names[name] = None
        tensor = _checked(name, known[name], operation, state.where)
        label = str(operation.arguments["label"]).removeprefix("/")
        if label in files:
            _check_same(name, tensor, files[label], state.where)
        else:
            quantized = operation.outputs()[0] in document.quantization or _was_quantized(tensor)
            head = write_header(tensor, quantized=quantized)
            files[label] = _File(label + ENDING, head, tensor)
    digests = _digests(state, names if checksums else [n for n in names if n in state.digests])
    notes = Notes(state.metadata, state.skeleton, stored, digests if checksums else None)
    text = with_note(
        document.to_text(), notes, document.names, document.types, needed=document.name == STATE
    )
    quantization = document.quantization_text()
    text = seal_model(text, quantization, (file.head for file in files.values()))
    texts = [_text(GRAPH, text)]
    if quantization:
        texts.append(_text(QUANTIZATION, quantization))
    return [*texts, *files.values()]


def _digests(state: State, names: Iterable[str]) -> dict[str, str]:
    """Take the digests of tensors, and compare them with those that they bring.

    Raises:
        CorruptError: one differs.
    """
    digests = checksum.digests({name: state[name] for name in names})
    for name, found in digests.items():
        if state.digests.get(name, found) != found:
            raise checksum.mismatch(name, state.digests[name], found, state.where)
    return digests


def _text(name: str, text: str) -> _File:
    data = text.encode()
    if len(data) > MAX_TEXT:
        raise UnsupportedError(
            f"{name} would have {len(data):,} bytes; texts of over {MAX_TEXT:,} are not read back",
            cure="Choose another format for so many tensors.",
        )
    return _File(name, data)


def _model_of(state: State) -> Document | None:
    return state.document if isinstance(state.document, Document) else None


def _variables(operations: list[Operation]) -> Iterator[Operation]:
    return (operation for operation in operations if operation.name == "variable")


def _name(operation: Operation, document: Document) -> str:
    (identifier,) = operation.outputs()
    return document.names.get(identifier, str(operation.arguments["label"]))


def _was_quantized(tensor: Tensor) -> bool:
    """Whether a tensor lies in a file that says so itself."""
    return getattr(tensor.source, "quantized", False) is True


def _checked(name: str, tensor: Tensor, operation: Operation, where: str) -> Tensor:
    if problem := misfit(tensor.dtype, tensor.shape):
        raise UnsupportedError(
            f"the variable {name!r} is {tensor.dtype} of shape {tensor.shape}: {problem}",
            where=where,
            cure='Cast it first, such as with convert(..., dtype="float32").',
        )
    if list(tensor.shape) != operation.arguments["shape"]:
        raise ArgumentError(
            f"the variable {name!r} has shape {tensor.shape}, and {operation.arguments['shape']} "
            "in the graph of the model",
            where=where,
            cure="Change both, or save the tensors without the model.",
        )
    return tensor


def _check_same(name: str, tensor: Tensor, file: _File, where: str) -> None:
    """Refuse another tensor than the one that a file of the same label holds.

    Raises:
        ArgumentError: it is another.
    """
    other = file.tensor
    if other is None or other is tensor:
        return
    same = (other.dtype, other.shape) == (tensor.dtype, tensor.shape)
    if not same or checksum.digest(other) != checksum.digest(tensor):
        raise ArgumentError(
            f"the variable {name!r} shares the file {file.name!r} with another, and holds "
            "something else",
            where=where,
            cure="Give both the same tensor.",
        )


def _kept(name: str, tensor: Tensor, stored: dict[str, tuple[DType, tuple[int, ...]]]) -> Tensor:
    """Give a tensor as what NNEF holds: itself, or its bytes."""
    if not misfit(tensor.dtype, tensor.shape):
        return tensor
    stored[name] = tensor.dtype, tensor.shape
    kept = Tensor(UINT8, (tensor.nbytes,), tensor.source, tensor.offset)
    if problem := misfit(kept.dtype, kept.shape):
        raise UnsupportedError(
            f"the tensor {name!r} has {tensor.nbytes:,} bytes: {problem}",
            cure="Choose another format.",
        )
    return kept


def _plain(tensors: Mapping[str, Tensor]) -> Document:
    """Make the graph of a state that is no model: its variables, and an input that it has to have.

    NNEF calls for a parameter and a result.
    """
    operations = [
        Operation("external", {"shape": [1]}, {"output": Reference(_INPUT)}, "scalar"),
    ]
    names: dict[str, str] = {}
    for number, (name, tensor) in enumerate(tensors.items(), 1):
        identifier, label = f"variable{number}", _label(name, number)
        if label != name:
            names[identifier] = name
        operations.append(
            Operation(
                "variable",
                {"shape": list(tensor.shape), "label": label},
                {"output": Reference(identifier)},
                _word(tensor.dtype),
            )
        )
    outputs = [f"variable{number}" for number in range(1, len(tensors) + 1)]
    if not outputs:
        outputs = ["output"]
        operations.append(Operation("copy", {"x": Reference(_INPUT)}, {"y": Reference("output")}))
    document = Document.of(STATE, [_INPUT], outputs, operations)
    document.names.update(names)
    return document


def _word(dtype: DType) -> str:
    if dtype in (FLOAT16, FLOAT32, FLOAT64):
        return "scalar"
    return "logical" if dtype is BOOL else "integer"


def _label(name: str, number: int) -> str:
    """Give the label of a tensor: its name where that can be a path, else one that stands for it.

    >>> _label("layer/w", 1), _label("../w", 2), _label("", 3)
    ('layer/w', 'tensorkeep-name/%2E.%2Fw', 'tensorkeep-name/3')
    """
    if is_label(name) and not name.startswith(_ESCAPED):
        return name
    quoted = quote(name, safe="", errors="surrogatepass")
    if quoted.startswith("."):  # which would be a hidden file
        quoted = f"%2E{quoted[1:]}"
    escaped = f"{_ESCAPED}/{quoted}"
    return escaped if quoted and is_label(escaped) else f"{_ESCAPED}/{number}"


def _relabelled(document: Document) -> Document:
    """Give a document all labels of which can be paths; what was called otherwise is noted."""
    operations = document.operations()
    unsafe = {
        label
        for operation in _variables(operations)
        if not is_label((label := str(operation.arguments["label"])).removeprefix("/"))
    }
    if not unsafe:
        return document
    names = dict(document.names)
    changed = []
    for number, operation in enumerate(operations):
        label = str(operation.arguments.get("label"))
        if operation.name == "variable" and label in unsafe:
            (identifier,) = operation.outputs()
            names.setdefault(identifier, label)
            arguments: dict[str, Value] = {
                **operation.arguments,
                "label": _label(label, number),
            }
            operation = replace(operation, arguments=arguments)
        changed.append(operation)
    made = Document.of(
        document.name, document.inputs, document.outputs, changed, document.fragments
    )
    made.extensions = document.extensions
    made.quantization.update(document.quantization)
    made.names.update(names)
    made.types.update(document.types)
    return made
