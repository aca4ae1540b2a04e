"""`tensorkeep run`: apply a model to new data."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from tensorkeep import api, models
from tensorkeep.cli.dialects import WeightsOption, parse_shapes
from tensorkeep.cli.inputs import Part, find_image_input, take_inputs
from tensorkeep.cli.measuring import Times, say_times, time_runs
from tensorkeep.cli.progress import progress
from tensorkeep.cli.terminal import JsonOption, bold, clean, dim, say, say_json, several
from tensorkeep.errors import ArgumentError
from tensorkeep.models.images import load_images, preset_for, shape_for
from tensorkeep.models.labels import Scored, read_labels, top
from tensorkeep.models.opening import Model
from tensorkeep.models.running import Session, session
from tensorkeep.tensor import Tensor

_VALUES = 8  # of each output that are shown
_CLASSES = 5
_ROWS = 20
_ONLY = "Name the output with scores by --only."


def run(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model.")],
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="[NAME=]FILE[:TENSOR]",
            help="An input; its name may be left out if it is the only one. Repeatable.",
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            "--image", metavar="[NAME=]PICTURE", help="Of a batch of pictures. Repeatable."
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Save the outputs in any format."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="Compute only this output. Repeatable."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", metavar="N", help="Run in pieces of N rows.")
    ] = None,
    topk: Annotated[
        int | None, typer.Option("--topk", metavar="K", help="Show the K most probable classes.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", metavar="FILE", help="The names of the classes.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset", help="How pixels become numbers: imagenet, unit, symmetric or none."
        ),
    ] = None,
    mean: Annotated[
        str | None, typer.Option("--mean", metavar="R,G,B", help="Taken from scaled pixels.")
    ] = None,
    std: Annotated[
        str | None, typer.Option("--std", metavar="R,G,B", help="What these are divided by.")
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", metavar="SIDE|HxW", help="The size of pictures.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option("--layout", help="nchw or nhwc, where the model does not tell.")
    ] = None,
    cast: Annotated[
        bool, typer.Option("--cast", help="Cast inputs where no value is lost.")
    ] = False,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Do not compare shapes and types with the model's.")
    ] = False,
    provider: Annotated[
        list[str] | None,
        typer.Option("--provider", metavar="NAME", help="Where to run, such as cuda. Repeatable."),
    ] = None,
    weights: WeightsOption = None,
    shapes: Annotated[
        list[str] | None,
        typer.Option(
            "--shape",
            metavar="NAME=1,3,224,224",
            help="The shape of an input that a Caffe2 net needs to be told; repeatable.",
        ),
    ] = None,
    repeat: Annotated[
        int, typer.Option("--repeat", metavar="N", min=1, help="Run N times more with --time.")
    ] = 20,
    timed: Annotated[bool, typer.Option("--time", help="Measure loading and running.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Apply a model to new data, in ONNX Runtime.

    A model of NNEF or Caffe2 runs as the ONNX model that it is translated to.

    Pictures are turned upright, resized so that the shorter side fits, cut in the middle, and
    scaled as --preset says: imagenet for floats of three channels, unit for other floats, none for
    integers.

    With --json: {"model", "inputs": {NAME: {"dtype", "shape"}}, "outputs": {NAME: {"dtype",
    "shape", "values": [the first ones]}}, "preset", "output", "top": {NAME: {"softmax",
    "rows": [[{"class", "name", "probability"}]]}}, "times": {"load", "first", "repeats", "mean",
    "median", "p95"}}; times in seconds, and null what was not asked for.
    """
    if output and os.path.realpath(output) == os.path.realpath(model):
        raise ArgumentError(
            "is the model, which the outputs would replace",
            where=output,
            cure="Give --output another name.",
        )
    names = read_labels(labels) if labels else None
    with ExitStack() as stack:
        times = Times()
        with times.loading():
            opened = _opened(model, weights, parse_shapes(shapes), stack)
            loaded = stack.enter_context(session(opened, providers=provider))
        parts = take_inputs(loaded, given or [], stack)
        used = _add_images(
            parts,
            loaded,
            images,
            preset,
            _numbers(mean, "--mean"),
            _numbers(std, "--std"),
            _size(size),
            layout,
        )
        report = stack.enter_context(progress("running"))

        def once() -> dict[str, Any]:
            row = _row_bytes(parts)
            shown = None if report is None else lambda done, all_: report(done * row, all_ * row)
            return loaded.run(
                parts, only, batch_size=batch, cast=cast, check=not unchecked, progress=shown
            )

        with _ended_by_interrupts():
            results = time_runs(once, times, repeat) if timed else once()
    if output:
        _save(results, output)
    classes = _classes(results, topk, names)
    if as_json:
        say_json(
            {
                "model": model,
                "inputs": {name: _describe(part) for name, part in parts.items()},
                "outputs": {name: _describe(value, True) for name, value in results.items()},
                "preset": used,
                "output": output,
                "top": _classes_json(classes) if classes else None,
                "times": times.described() if timed else None,
            }
        )
        return 0
    if used:
        say(dim(f"Pictures were scaled as the preset {used} says."))
    for name, value in results.items():
        if name in classes:
            _say_classes(name, *classes[name])
        elif not output or classes:
            _say_value(name, value)
    if output:
        say(f"wrote {several(len(results), 'output')} to {clean(output)}")
    if timed:
        say_times(times)
    return 0


def _opened(
    model: str, weights: str | None, shapes: dict[str, tuple[int, ...]], stack: ExitStack
) -> Model:
    if weights is None and not shapes:
        return model
    translated = models.translate(model, "onnx", shapes=shapes, weights=weights)
    return stack.enter_context(translated.state)


@contextmanager
def _ended_by_interrupts() -> Iterator[None]:
    """Have Ctrl-C end the process at once; ONNX Runtime would go on until a run is done."""
    before = signal.getsignal(signal.SIGINT)
    alone = threading.current_thread() is threading.main_thread()
    if before is not signal.default_int_handler or not alone:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _add_images(
    parts: dict[str, Part],
    loaded: Session,
    images: list[str] | None,
    preset: str | None,
    mean: list[float] | None,
    std: list[float] | None,
    size: list[int] | None,
    layout: str | None,
) -> str | None:
    """Read pictures as the input that takes them; gives the preset that was used."""
    if not images:
        if preset or mean or std or size or layout:
            raise ArgumentError("there is no picture to prepare", cure="Give --image PICTURE.")
        return None
    value, paths = find_image_input(loaded, images, parts)
    shape = shape_for(value, size, layout)
    parts[value.name] = load_images(paths, shape, preset, mean, std)
    return preset or preset_for(shape)


def _numbers(text: str | None, option: str) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ArgumentError(
            f"{option} cannot be {text!r}", cure="Give 0.5 or 0.5,0.5,0.5."
        ) from None


def _size(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.lower().split("x")]
    except ValueError:
        raise ArgumentError(f"--size cannot be {text!r}", cure="Give 224 or 240x320.") from None


def _row_bytes(parts: dict[str, Part]) -> int:
    rows = (part for part in parts.values() if part.ndim and len(part))
    return max(1, sum(part.nbytes // len(part) for part in rows))


def _save(results: dict[str, Any], output: str) -> None:
    alone = next(iter(results.values())) if len(results) == 1 else None
    if output.lower().endswith((".npy", ".csv", ".txt")) and alone is not None:
        api.save(alone, output)
    else:
        api.save(results, output)


Classes = tuple[list[list[Scored]], bool]


def _classes(
    results: dict[str, Any], topk: int | None, names: dict[int, str] | None
) -> dict[str, Classes]:
    """List the best classes of each output that has scores, where they were asked for."""
    if topk is None and names is None:
        return {}
    found = {}
    for name, value in results.items():
        if isinstance(value, np.ndarray) and value.ndim and value.dtype.kind not in "OUSb":
            try:
                found[name] = top(value, _CLASSES if topk is None else topk, names)
            except ArgumentError as error:
                where = f"output {name!r}"
                raise ArgumentError(error.problem, where=where, cure=_ONLY) from None
    if not found:
        raise ArgumentError("no output has scores of classes", cure="Leave --topk out.")
    return found


def _classes_json(classes: dict[str, Classes]) -> dict[str, object]:
    return {
        name: {
            "softmax": softmax,
            "rows": [
                [{"class": s.number, "name": s.name, "probability": s.probability} for s in row]
                for row in rows
            ],
        }
        for name, (rows, softmax) in classes.items()
    }


def _say_classes(name: str, rows: list[list[Scored]], softmax: bool) -> None:
    how = "probabilities by softmax" if softmax else "probabilities, as they came"
    say(f"{bold(clean(name))}: {how}")
    for index, row in enumerate(rows[:_ROWS]):
        if len(rows) > 1:
            say(f"  row {index}")
        for scored in row:
            label = f"  {clean(scored.name)}" if scored.name else ""
            say(f"  {scored.probability:8.2%}  {scored.number}{label}")
    if len(rows) > _ROWS:
        say(dim(f"  and {len(rows) - _ROWS:,} more rows"))


def _say_value(name: str, value: Any) -> None:
    if not isinstance(value, np.ndarray):
        text = repr(value)
        say(f"{bold(clean(name))}: {type(value).__name__} {clean(text[:500])}")
        return
    dtype, shape = _kind(value), list(value.shape)
    more = ", ..." if value.size > _VALUES else ""
    say(f"{bold(clean(name))}: {dtype}{shape}")
    say(f"  {', '.join(_show(v) for v in value.reshape(-1)[:_VALUES].tolist())}{more}")


def _show(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else clean(str(value)[:80])


def _kind(value: npt.NDArray[Any]) -> str:
    return "string" if value.dtype == object else value.dtype.name


def _describe(value: Any, values: bool = False) -> dict[str, object]:
    if isinstance(value, Tensor):
        return {"dtype": value.dtype.name, "shape": value.shape}
    if not isinstance(value, np.ndarray):
        return {"dtype": None, "shape": None, "values": value}
    described: dict[str, object] = {"dtype": _kind(value), "shape": value.shape}
    if values:
        described["values"] = value.reshape(-1)[:_VALUES].tolist()
    return described
