"""`tensorkeep edit`: change a model, and keep all else of it."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from tensorkeep import api, formats, models
from tensorkeep.cli.convert import parse_options, parse_renaming
from tensorkeep.cli.dialects import Remark, describe_remarks, say_remarks
from tensorkeep.cli.progress import progress
from tensorkeep.cli.terminal import JsonOption, clean, say, say_json, several, size
from tensorkeep.convert import refuse_existing
from tensorkeep.errors import ArgumentError
from tensorkeep.graph import Graph
from tensorkeep.models.editing import (
    batching,
    casting,
    cutting,
    exposing,
    opsets,
    renaming,
)
from tensorkeep.models.editing import (
    weights as weighing,
)
from tensorkeep.models.editing.draft import Draft
from tensorkeep.models.opening import graph_of, open_whole, opened
from tensorkeep.state import State
from tensorkeep.stores import locate
from tensorkeep.tensor import Tensor


def edit(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model to read.")],
    out: Annotated[
        str | None,
        typer.Argument(metavar="[OUT]", help="What to write; its ending tells the format."),
    ] = None,
    attach: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Put weights back that were taken out."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Put tensors of a file into those of the same names; any format."
        ),
    ] = None,
    opset: Annotated[
        int | None, typer.Option(metavar="N", help="Convert to this version of the operator set.")
    ] = None,
    inputs: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Cut: the values that are to be given."),
    ] = None,
    outputs: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Cut: the values that are to be computed."),
    ] = None,
    expose: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Give intermediate values as outputs; repeatable."),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="N|NAME", help="Set the size of the batch, or a name where it varies."
        ),
    ] = None,
    cast: Annotated[
        str | None,
        typer.Option(metavar="DTYPE", help="Keep weights as float16, bfloat16 or float32 again."),
    ] = None,
    compute: Annotated[
        bool, typer.Option("--compute", help="With --cast: compute in that type too.")
    ] = False,
    rename: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OLD=NEW",
            help="Rename values and tensors, such as 'block.*=layer.*', or node:OLD=NEW a node; "
            "repeatable.",
        ),
    ] = None,
    strip: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Take the weights out, into this file."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Go on where weights or a batch fit in part.")
    ] = False,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Go on where something has to be left out.")
    ] = False,
    external: Annotated[
        bool, typer.Option("--external", help="Put large tensors into a file beside the model.")
    ] = False,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", "-o", metavar="NAME=VALUE", help="An option of the format; repeatable."
        ),
    ] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", "-i", help="Write the model itself anew.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace what is there.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Change a model: names, types, weights, the part of it that is kept.

    All that an edit is not about stays as it is. Several are done in the order of this list, and
    what is to be named is called as it is then. A model in another dialect than ONNX is changed as
    the ONNX model that it is translated to, and what is written is of the target's dialect.

    With --json: {"source", "target", "did": [SENTENCE], "lost": [SENTENCE], "nodes", "tensors",
    "bytes", "inputs": [VALUE], "outputs": [VALUE], "weights": FILE or null,
    "remarks": [{"kind", "name", "text"}], of a translated model}.
    """
    if (out is None) != in_place:
        raise ArgumentError("say either what to write, or --in-place")
    target = out if out is not None else model
    if strip is not None and os.path.realpath(strip) in map(os.path.realpath, (model, target)):
        raise ArgumentError(
            f"{strip} cannot hold both the model and its weights",
            cure="Give --strip the name of another file.",
        )
    if not in_place and not force:
        refuse_existing(locate(target), formats.for_writing(locate(target)).dialect)
    if strip is not None and not force:
        refuse_existing(locate(strip))
    options = parse_options(option)
    if external:
        options["external"] = True
    with open_whole(model) as source, opened(source) as state:
        writer = formats.by_name(source.format) if in_place else formats.for_writing(locate(target))
        draft = Draft(state)
        try:
            taken = _apply(
                draft,
                attach=attach,
                weights=weights,
                opset=opset,
                inputs=inputs,
                outputs=outputs,
                expose=expose,
                batch=batch,
                cast=cast,
                compute=compute,
                rename=rename,
                strip=strip,
                partial=partial,
                lossy=lossy,
            )
            if not draft.said:
                raise ArgumentError("there is nothing to change", cure="See edit --help.")
            changed = draft.state()
            with progress("writing") as report:
                if strip is not None and taken is not None:
                    api.save(State(taken, where=state.where), strip, progress=report)
                made, remarks = _said_in(changed, writer.dialect)
                api.save(made, target, format=writer.name, lossy=lossy, progress=report, **options)
        finally:
            for close in draft.closers:
                close()
        _report(model, target, draft, changed, strip, remarks, as_json)
    return 0


def _said_in(state: State, dialect: str) -> tuple[State, list[Remark]]:
    """Translate a changed model to the dialect that is written, where that is another."""
    if dialect in ("", "onnx"):
        return state, []
    made, report = models.translate(state, dialect)
    return made, [(each.kind, each.name, each.text) for each in report.ordered()]


def _apply(draft: Draft, **wanted: Any) -> dict[str, Tensor] | None:
    """Do what is wanted; gives the tensors that were taken out."""
    partial, lossy = wanted["partial"], wanted["lossy"]
    if wanted["attach"] is not None:
        weighing.apply_attach(draft, wanted["attach"], partial=partial)
    if wanted["weights"] is not None:
        weighing.apply_merge(draft, wanted["weights"], partial=partial, rename={})
    if wanted["opset"] is not None:
        opsets.apply(draft, wanted["opset"])
    if wanted["inputs"] is not None or wanted["outputs"] is not None:
        cutting.apply(draft, _names(wanted["inputs"]), _names(wanted["outputs"]), lossy=lossy)
    if wanted["expose"]:
        exposing.apply(draft, wanted["expose"])
    if wanted["batch"] is not None:
        text = wanted["batch"]
        batching.apply(draft, int(text) if text.isdecimal() else text, partial=partial)
    if wanted["cast"] is not None:
        casting.apply(draft, wanted["cast"], compute=wanted["compute"])
    elif wanted["compute"]:
        raise ArgumentError("--compute says how to --cast", cure="Give --cast float16 too.")
    if wanted["rename"]:
        renaming.apply(draft, dict(map(parse_renaming, wanted["rename"])), {})
    if wanted["strip"] is not None:
        return weighing.apply_strip(draft, weighing.THRESHOLD)
    return None


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name for name in text.split(",") if name]


def _report(
    model: str,
    target: str,
    draft: Draft,
    changed: State,
    weights: str | None,
    remarks: list[Remark],
    as_json: bool,
) -> None:
    graph: Graph = graph_of(changed)
    if as_json:
        say_json(
            {
                "source": model,
                "target": target,
                "did": draft.said,
                "lost": draft.lost,
                "nodes": len(graph),
                "tensors": len(changed),
                "bytes": changed.nbytes,
                "inputs": [str(value) for value in graph.inputs],
                "outputs": [str(value) for value in graph.outputs],
                "weights": weights,
                "remarks": describe_remarks(remarks),
            }
        )
        return
    for sentence in draft.said:
        say(clean(sentence))
    for sentence in draft.lost:
        say(f"lost: {clean(sentence)}")
    say_remarks(remarks)
    what = f"{several(len(graph), 'node')}, {several(len(changed), 'tensor')}"
    say(f"{clean(target)}: {what}, {size(changed.nbytes)}")


__all__ = ["edit"]
