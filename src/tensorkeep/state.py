"""State: named tensors with their metadata, read only when a tensor is read."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from tensorkeep.errors import ArgumentError, MissingError, UnsafeError
from tensorkeep.similar import did_you_mean
from tensorkeep.tensor import Tensor

if TYPE_CHECKING:  # which takes a while to import, and most states are no models
    from tensorkeep.graph import Graph

KEY = "tensorkeep"  # under which containers keep notes of ours
MAX_NAME = 4096
_GLOBS = 'Give text such as "encoder.*", or a list of such.'
MAX_TENSORS = 500_000

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class Document(Protocol):
    """A model as a dialect other than ONNX says it, beside its tensors."""

    dialect: str  # "nnef" or "caffe2"

    def summary(self) -> str:
        """Say in a few words what there is: "12 operations", for messages."""

    def parts(self) -> Iterator[tuple[str, str]]:
        """Give each part of it by its place, as a line of text that tells it from any other."""


class State(Mapping[str, Tensor]):
    """An ordered mapping of names to lazy tensors; a context manager that keeps its store open.

    Args:
        tensors: the tensors by name, in the order to show and store them.
        metadata: JSON values that belong to the whole state.
        skeleton: how the tensors nest, as `tensorkeep.tree` writes it; None for a flat mapping.
        digests: the XXH3-128 of a tensor's canonical bytes, in hex, by name, where stored.
        checks: by name, a function that checks the container's own checksum of a tensor and
            raises CorruptError.
        remarks: by name, what a reader should know of how a tensor is kept, such as its chunks.
        refused: what of the file is not data and so not here, a sentence each.
        graph: what a model has beyond its tensors; None for what is no model of ONNX's.
        document: a model as another dialect says it, such as an NNEF document or Caffe2's nets;
            `tensorkeep.models` translates it.
        format: the name of the format it was read from.
        close: called when the state is closed.

    >>> import numpy as np
    >>> state = State({"w": Tensor.of(np.zeros((2, 3), "float32"))}, metadata={"epoch": 3})
    >>> state, state["w"].shape, state.nbytes
    (State(1 tensor, 24 bytes), (2, 3), 24)
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        *,
        metadata: Mapping[str, Json] | None = None,
        skeleton: dict[str, Json] | None = None,
        digests: Mapping[str, str] | None = None,
        checks: Mapping[str, Callable[[], None]] | None = None,
        remarks: Mapping[str, str] | None = None,
        refused: tuple[str, ...] = (),
        graph: Graph | None = None,
        document: Document | None = None,
        format: str = "",
        where: str = "",
        close: Callable[[], None] | None = None,
    ) -> None:
        check_names(tensors, where)
        self._tensors = tensors
        self.metadata: dict[str, Json] = dict(metadata or {})
        self.skeleton = skeleton
        self.digests = digests or {}
        self.checks = checks or {}
        self.remarks = remarks or {}
        self.refused = refused
        self.graph = graph
        self.document = document
        self.format = format
        self.where = where
        self._close = close

    def __getitem__(self, name: object) -> Tensor:
        if isinstance(name, str) and name in self._tensors:
            return self._tensors[name]
        raise self._missing(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._tensors

    def items(self) -> ItemsView[str, Tensor]:
        return self._tensors.items()

    @property
    def nbytes(self) -> int:
        """The bytes that all tensors hold together."""
        return sum(tensor.nbytes for tensor in self.values())

    @property
    def dialect(self) -> str:
        """The dialect of the model that it is: "onnx", "nnef", "caffe2"; "" for tensors alone."""
        if self.graph is not None:
            return "onnx"
        return self.document.dialect if self.document is not None else ""

    def replace(self, **changes: Any) -> State:
        """Give a state with some arguments of its own, and all else of this one.

        >>> State({}, metadata={"epoch": 3}).replace(format="npz").metadata
        {'epoch': 3}
        """
        kept = {
            "tensors": self._tensors,
            "metadata": self.metadata,
            "skeleton": self.skeleton,
            "digests": self.digests,
            "checks": self.checks,
            "remarks": self.remarks,
            "refused": self.refused,
            "graph": self.graph,
            "document": self.document,
            "format": self.format,
            "where": self.where,
            "close": self._close,
        }
        return State(**(kept | changes))

    @staticmethod
    def of_graph(graph: Graph, before: State | None = None) -> State:
        """Give the state of a model.

        Args:
            graph: the model.
            before: what it was made from; the digests and checks of tensors that lie where they
                lay there are still good.

        >>> from tensorkeep.graph import Graph
        >>> from tensorkeep.graph.schema import MODEL
        >>> from tensorkeep.message import Message
        >>> State.of_graph(Graph(Message(MODEL, ir_version=10))).graph.model.ir_version
        10
        """
        tensors = graph.tensors
        kept = {
            name
            for name, tensor in tensors.items()
            if before is not None and name in before and _same_place(tensor, before[name])
        }
        origin = State({}) if before is None else before
        return State(
            tensors,
            metadata=_carried(origin, graph),
            digests={name: origin.digests[name] for name in kept if name in origin.digests},
            checks={name: origin.checks[name] for name in kept if name in origin.checks},
            remarks=graph.remarks,
            graph=graph,
            format=origin.format or "onnx",
            where=graph.where,
            close=origin._close,
        )

    def match(self, names: str | Iterable[str]) -> list[str]:
        """List the names that match a glob, or any of several, in stored order.

        Raises:
            MissingError: a glob matches nothing.
        """
        chosen: set[str] = set()
        for glob in check_globs(names):
            found = [glob] if glob in self._tensors else fnmatch.filter(self._tensors, glob)
            if not found:
                raise self._missing(glob)
            chosen.update(found)
        return [name for name in self if name in chosen]

    def close(self) -> None:
        """Close what the tensors are read from; arrays already given out stay good."""
        if self._close is not None:
            self._close()

    def __enter__(self) -> State:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        count = f"{len(self)} tensor{'' if len(self) == 1 else 's'}"
        return f"State({count}, {self.nbytes:,} bytes{', ' + self.format if self.format else ''})"

    def _repr_html_(self) -> str:
        from tensorkeep.notebook import state_table  # which only notebooks need

        return state_table(self._tensors, self.metadata, self.format, self.refused)

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def _missing(self, name: Any) -> MissingError:
        cure = did_you_mean(str(name), self._tensors) or f"It has {_some(self._tensors)}."
        return MissingError(f"has no tensor called {name!r}", where=self.where, cure=cure)


def check_globs(names: object, called: str = "names") -> list[str]:
    """Give one glob, or several, as a list; `called` names the argument in messages.

    Raises:
        ArgumentError: they are not text.
    """
    globs = [names] if isinstance(names, str) else names
    if not isinstance(globs, Iterable):
        raise ArgumentError(f"{called} takes globs, not {type(names).__name__}", cure=_GLOBS)
    listed = list(globs)
    for glob in listed:
        if not isinstance(glob, str):
            raise ArgumentError(f"{called} takes globs, not {type(glob).__name__}", cure=_GLOBS)
    return listed


def check_names(names: Iterable[str], where: str) -> None:
    """Refuse names that no tool could have meant: NUL, `..` as a folder, over 4 KiB.

    Raises:
        UnsafeError: one of the names is such.
    """
    listed = list(names)
    try:
        joined = "\n".join(listed)
        joined.encode()
    except TypeError:
        raise ArgumentError("the names of tensors have to be text", where=where) from None
    except UnicodeEncodeError:
        raise UnsafeError("a tensor's name holds half a character", where=where) from None
    if "\0" in joined or ".." in joined or max(map(len, listed), default=0) > MAX_NAME // 4:
        for name in listed:
            if problem := name_problem(name):
                shown = name if len(name) < 60 else f"{name[:57]}..."
                raise UnsafeError(f"the tensor name {shown!r} {problem}", where=where)


def name_problem(name: str) -> str:
    """Say why a name is refused; empty where it is good.

    >>> name_problem("encoder/layer.0:0"), name_problem("../secret")
    ('', 'has .. as a folder')
    """
    if "\0" in name:
        return "holds a NUL"
    if ".." in name and ".." in name.replace("\\", "/").split("/"):
        return "has .. as a folder"
    if len(name) > MAX_NAME // 4 and len(name.encode("utf-8", "surrogatepass")) > MAX_NAME:
        return f"is longer than {MAX_NAME} bytes"
    return ""


def _carried(before: State, graph: Graph) -> dict[str, Json]:
    """Give the metadata of an edited model: its own, and what was changed of it in the state alone.

    What an edit changed in metadata_props counts more than what they were before.
    """
    own: dict[str, Json] = {key: text for key, text in graph.metadata.items() if key != KEY}
    known = before.graph.metadata if before.graph else {}
    for key in dict.fromkeys((*known, *before.metadata)):
        if (
            key == KEY
            or own.get(key) != known.get(key)
            or before.metadata.get(key) == known.get(key)
        ):
            continue
        if key in before.metadata:
            own[key] = before.metadata[key]
        else:
            own.pop(key, None)
    if KEY in before.metadata:
        own[KEY] = before.metadata[KEY]
    return own


def _same_place(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same bytes of one source."""
    same = a.source is b.source and (a.offset, a.nbytes) == (b.offset, b.nbytes)
    return same and a.dtype is b.dtype and a.shape == b.shape


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    if not listed:
        return "no tensors"
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
