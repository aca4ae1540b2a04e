"""Convert: from one format to another, with other names and layouts, several files as one.

A model that goes to a format of another dialect is translated on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy.typing as npt

from tensorkeep import api, dtypes, formats, mapping, models
from tensorkeep.api import ProgressReport
from tensorkeep.casting import cast, check_castable
from tensorkeep.errors import ArgumentError, LossError, MissingError
from tensorkeep.format import Format
from tensorkeep.models.opening import open_whole
from tensorkeep.state import State, check_globs
from tensorkeep.store import Location
from tensorkeep.stores import Target, locate
from tensorkeep.wire.caffe2.nets import init_beside

if TYPE_CHECKING:  # which imports all that translates
    from tensorkeep.models.exchange.report import Report

PART = "{}"


class File(NamedTuple):
    """A file that was written."""

    where: str
    format: str
    tensors: int
    nbytes: int


class Converted(NamedTuple):
    """What was written, what of the source is not in it, and how a model was translated.

    Attributes:
        files: what was written.
        lost: what of the source is not in it, a sentence each.
        remarks: what translating a model did: the kind, the name of a value or node, a sentence.
    """

    files: list[File]
    lost: list[str]
    remarks: list[tuple[str, str, str]]


def convert(
    source: Target | Sequence[Target] | Mapping[str, Target],
    target: Target,
    *,
    format: str | None = None,
    names: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    rename: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    maps: str | Iterable[str] | None = None,
    dtype: npt.DTypeLike | str | None = None,
    split: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
    constants: Mapping[str, Any] | None = None,
    weights: Any = None,
    lossy: bool = False,
    durable: bool = True,
    progress: ProgressReport | None = None,
    **options: Any,
) -> list[str]:
    """Convert one file to another format; tensors stream through, so memory stays flat.

    A model goes to a format of another dialect (ONNX, NNEF, Caffe2's nets) as
    `tensorkeep.models.translate` translates it; to one that holds tensors alone as its weights.
    With `names`, `exclude`, `rename`, `maps`, `split` or several sources, the tensors stand under
    their dotted paths and the nesting is left behind.

    Args:
        source: what to read; several are merged, and those of a mapping get their keys as prefixes.
        target: what to write; its ending tells the format.
        format: the format to write, where the name does not tell.
        names: globs of the tensors to take; all of them otherwise.
        exclude: globs of the tensors to leave out.
        rename: patterns of names and what to call them, in order: each `*` of the new name is what
            a `*` of the pattern took. `re:` begins a regular expression.
        maps: files of rules, or names of maps that come with it, such as "keras-torch".
        dtype: cast floating-point tensors to this type, and unpack those kept in blocks.
        split: write a file for each first part of the names, which `{}` in the target stands for.
        shapes: of a model's inputs, where the target's dialect needs them: {"x": (1, 3, 224, 224)}.
        constants: inputs of a model to fix, by name.
        weights: what fills the blobs of a Caffe2 net whose init net is not beside it.
        lossy: go on where the target cannot hold everything.
        durable: return only once it is on the disk.
        progress: called with the bytes done and the total.
        options: what the target format's `encode` takes.

    Returns:
        What was lost, a sentence each; empty unless `lossy`, or a map leaves something out.

    Raises:
        LossError: the target cannot hold everything; the message lists what.
        MissingError: a pattern matches no tensor.
        ArgumentError: two tensors would have one name, or a layout does not fit.
        TranslationError: operators of a model cannot be said in the target's dialect.

    >>> import tempfile, numpy as np
    >>> folder = tempfile.mkdtemp()
    >>> api.save({"model.w": np.ones((2, 3)), "model.b": np.zeros(3)}, f"{folder}/a.safetensors")
    >>> convert(f"{folder}/a.safetensors", f"{folder}/b.npz", rename={"model.*": "*"})
    []
    >>> sorted(api.load(f"{folder}/b.npz"))
    ['b', 'w']
    """
    return conversion(
        source,
        target,
        format=format,
        names=names,
        exclude=exclude,
        rename=rename,
        maps=maps,
        dtype=dtype,
        split=split,
        shapes=shapes,
        constants=constants,
        weights=weights,
        lossy=lossy,
        durable=durable,
        progress=progress,
        **options,
    ).lost


def conversion(
    source: Target | Sequence[Target] | Mapping[str, Target],
    target: Target,
    *,
    format: str | None = None,
    names: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    rename: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    maps: str | Iterable[str] | None = None,
    dtype: npt.DTypeLike | str | None = None,
    split: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
    constants: Mapping[str, Any] | None = None,
    weights: Any = None,
    replace: bool = True,
    lossy: bool = False,
    durable: bool = True,
    progress: ProgressReport | None = None,
    **options: Any,
) -> Converted:
    """Convert, and say what was written; `replace=False` refuses to replace what is there."""
    to = None if dtype is None else check_castable(dtypes.dtype(dtype))
    rules = [
        *mapping.renaming(rename or ()),
        *(rule for name in _listed(maps, "maps") for rule in mapping.read_map(name)),
    ]
    chosen = None if names is None else _listed(names, "names")
    left_out = _listed(exclude, "exclude")
    with _opened(source) as (states, prefixes):
        lost: list[str] = []
        state = states[0]
        several = len(states) > 1 or any(prefixes)
        if several:
            state, lost = mapping.merge(states, prefixes)
        if chosen is None and (several or left_out or rules or split or to):
            lost += [sentence for each in states for sentence in api.graph_lost(each)]
        if chosen is not None or left_out or rules or split:
            if chosen is not None:  # what was not chosen is not lost
                lost = [sentence for sentence in lost if sentence.startswith(mapping.METADATA)]
                state = state.replace(refused=())
            made = mapping.apply(
                state, rules, include=chosen, exclude=left_out, dtype=to, cast=cast
            )
            state, lost = made.state, [*lost, *made.lost]
        elif to is not None:
            state = _cast_all(state, to)
        remarks: list[tuple[str, str, str]] = []
        if state is states[0] and (state.dialect or state.format == _HALF):
            dialect = _writer(target, format).dialect
            state, remarks = _model(state, dialect, shapes, constants, weights)
        elif shapes or constants or weights is not None:
            raise ArgumentError(_WHOLE, where=state.where, cure="Give one model, and no renaming.")
        refused = [sentence for sentence in lost if not sentence.startswith(mapping.LEFT_OUT)]
        if refused and not lossy:
            raise LossError(
                f"not everything would be kept: {'; '.join(refused)}",
                where=state.where,
                cure="Say which tensors to take, or accept it with lossy=True.",
            )
        files = []
        for part, location in _targets(state, target, split, replace):
            writer = _writer(location, format)
            lost += api.write(part, location, writer, durable, lossy, progress, options)
            files.append(File(location.where, writer.name, len(part), part.nbytes))
    return Converted(files, list(dict.fromkeys(lost)), remarks)


_HALF = "caffe2-net"
_WHOLE = "shapes, constants and weights are for a model that is converted whole"


def _writer(target: Target, format: str | None) -> Format:
    return formats.by_name(format) if format else formats.for_writing(locate(target))


def _model(
    state: State,
    dialect: str,
    shapes: Mapping[str, Sequence[int]] | None,
    constants: Mapping[str, Any] | None,
    weights: Any,
) -> tuple[State, list[tuple[str, str, str]]]:
    """Translate a model to the dialect that is written; complete it where weights alone are."""
    given = bool(shapes or constants or weights is not None)
    if not state.dialect and not given:  # an init net: the net that computes may lie beside it
        if dialect not in ("onnx", "nnef"):
            return state, []
        try:
            made = models.translate(state, dialect)
        except MissingError:
            return state, []
        return made.state, _remarks(made.report)
    if not given and state.dialect == dialect != "caffe2":
        return state, []
    if not dialect and state.dialect != "caffe2":
        if given:
            raise ArgumentError(_WHOLE, where=state.where, cure="The target holds tensors alone.")
        return state, []
    made = models.translate(
        state, dialect or state.dialect, shapes=shapes, constants=constants, weights=weights
    )
    return made.state, _remarks(made.report)


def _remarks(report: Report) -> list[tuple[str, str, str]]:
    return [(each.kind, each.name, each.text) for each in report.ordered()]


def _listed(globs: str | Iterable[str] | None, called: str) -> list[str]:
    return [] if globs is None else check_globs(globs, called)


@contextmanager
def _opened(
    source: Target | Sequence[Target] | Mapping[str, Target],
) -> Iterator[tuple[list[State], list[str]]]:
    prefixes: list[str] = []
    if isinstance(source, Mapping):
        prefixes, sources = list(source.keys()), list(source.values())
        if not all(isinstance(prefix, str) for prefix in prefixes):
            raise ArgumentError("the keys of several sources are the prefixes of their names")
    elif isinstance(source, list | tuple):
        sources = list(source)
    else:
        sources = [source]  # type: ignore[list-item]
    if not sources:
        raise ArgumentError("there is nothing to convert", cure="Give a file, or several.")
    with ExitStack() as stack:
        yield [stack.enter_context(open_whole(each)) for each in sources], prefixes


def _cast_all(state: State, to: dtypes.DType) -> State:
    """Cast every float of a state that keeps its nesting."""
    wanted = {
        name: tensor
        for name, tensor in state.items()
        if tensor.dtype is not to and tensor.dtype.kind in ("float", "blocks")
    }
    checks: dict[str, Callable[[], None]] = dict(state.checks)
    for name in wanted:
        check = mapping.changed(wanted[name], mapping.place_of(state, name)).check
        if check is not None:
            checks[name] = check
    return state.replace(
        graph=None,
        tensors={name: cast(wanted[name], to) if name in wanted else state[name] for name in state},
        digests={name: found for name, found in state.digests.items() if name not in wanted},
        checks=checks,
    )


def _targets(
    state: State, target: Target, split: bool, replace: bool
) -> list[tuple[State, Location]]:
    """Give what to write and where; all places are looked at before the first is written."""
    targets = _parts(state, target) if split else [(state, locate(target))]
    if not replace:
        for piece, location in targets:
            refuse_existing(location, piece.dialect)
    return targets


def _parts(state: State, target: Target) -> list[tuple[State, Location]]:
    location = locate(target)
    if location.name.count(PART) != 1:
        raise ArgumentError(
            "has no {} in its name, which stands for the first part of the tensors' names",
            where=location.where,
            cure="Such as parts/{}.safetensors.",
        )
    made = []
    for part, piece in mapping.parts(state).items():
        if "/" in part or part.startswith("."):
            raise ArgumentError(
                f"{part!r}, the first part of {next(iter(piece))!r}, cannot be the name of a file",
                where=location.where,
                cure="Rename the tensors first.",
            )
        made.append((piece, location.sibling(location.name.replace(PART, part))))
    return made


def refuse_existing(location: Location, dialect: str = "") -> None:
    """Refuse to replace what is there, or beside it where a model of the dialect is two files.

    Raises:
        ArgumentError: something is.
    """
    beside = init_beside(location) if dialect == "caffe2" else None
    if beside is not None:
        refuse_existing(beside)
    if not location.key:  # a database, or a folder that is replaced whole
        with suppress(MissingError):
            if next(iter(location.store.keys()), None) is not None:
                raise ArgumentError(
                    "is there already", where=location.where, cure="Replace it by --force."
                )
        return
    for key in (location.key, f"{location.key}.index.json"):  # the second, where it is in shards
        found = Location(location.store, key)
        with suppress(MissingError):
            found.source.close()
            raise ArgumentError(
                "is there already", where=found.where, cure="Replace it by --force."
            )


__all__ = ["convert"]
