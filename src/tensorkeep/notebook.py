"""HTML for notebooks: tables of tensors and of checkpoints, with small drawings.

What comes from files is text and stays text: every name is escaped, and what a name could hide or
turn around is spelt out. Drawings are SVG inside the HTML in the colour of the text around them, so
they can be read on dark grounds as well. Nothing here raises: what goes wrong is shown.
"""

from __future__ import annotations

import html
import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

from tensorkeep.errors import TensorKeepError
from tensorkeep.sampling import sample
from tensorkeep.statistics import Running, Summary
from tensorkeep.tensor import Tensor

_ROWS = 200
_DRAWN = 50  # tensors whose values are drawn
_PATIENCE = 1.0  # seconds for all of them
_KEYS = 50
_METRICS = 8
_LONG = 120  # characters of a name
_AXES = 12
_WIDTH, _HEIGHT = 96, 18  # pixels of a drawing

_BOX = "max-height:32em;max-width:100%;overflow:auto"
_TEXT = "text-align:left"
_NUMBER = "text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap"
_FAINT = "opacity:.7"


class Saved(Protocol):
    """What a checkpoint has to tell: see `tensorkeep.checkpoint.listing`."""

    @property
    def step(self) -> int: ...
    @property
    def time(self) -> float: ...
    @property
    def size(self) -> int: ...
    @property
    def shared(self) -> int: ...
    @property
    def metrics(self) -> Mapping[str, float | str]: ...
    @property
    def problem(self) -> str: ...


def state_table(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    format: str = "",
    refused: Sequence[str] = (),
) -> str:
    """Give a table of tensors; the first 50 with a histogram of a sample, if they are not remote.

    >>> import numpy as np
    >>> page = state_table({"<w>": Tensor.of(np.arange(4.0))}, {"epoch": 3})
    >>> "&lt;w&gt;" in page, "<w>" in page, "metadata: <bdi>epoch" in page
    (True, False, True)
    """
    until = time.monotonic() + _PATIENCE
    rows = []
    for place, (name, tensor) in enumerate(islice(tensors.items(), _ROWS)):
        drawn = place < _DRAWN and not tensor.source.remote and time.monotonic() < until
        shape = " &times; ".join(map(str, tensor.shape)) or "scalar"
        rows.append(
            _cell(_told(name), _TEXT)
            + _cell(_told(tensor.dtype.name), _TEXT)
            + _cell(shape if tensor.ndim <= _AXES else f"{tensor.ndim} axes", _TEXT)
            + _cell(_size(tensor.nbytes), _NUMBER)
            + _cell(_spread(tensor) if drawn else "", _TEXT)
        )
    total = _size(sum(tensor.nbytes for tensor in tensors.values()))
    kind = f", {_told(format)}" if format else ""
    lines = [f"<b>State</b>: {_count(len(tensors), 'tensor')}, {total}{kind}"]
    if metadata:
        keys = ", ".join(_told(key) for key in islice(metadata, _KEYS))
        lines.append(f"metadata: {keys}{_more(len(metadata) - _KEYS)}")
    lines += [f"left out: {_told(sentence)}" for sentence in islice(refused, 5)]
    heads = [_head(text) for text in ("name", "dtype", "shape", "size", "values")]
    return _page(lines, heads, rows, len(tensors) - len(rows))


def checkpoint_table(where: str, listing: Callable[[], Sequence[Saved]]) -> str:
    """Give a table of checkpoints, the newest last, and how the metrics went.

    >>> "Checkpointer" in checkpoint_table("run", list)
    True
    """
    try:
        found = listing()
    except TensorKeepError as error:
        return _page([f"<b>Checkpointer</b>: {_told(where)}", _problem(error)], [], [], 0)
    metrics = dict.fromkeys(name for checkpoint in found for name in checkpoint.metrics)
    named = list(metrics)[:_METRICS]
    rows = [_checkpoint_row(checkpoint, named) for checkpoint in found[-_ROWS:]]
    heads = [_head(text) for text in ("step", "saved", "size", "shared")]
    heads += [_head(_told(name) + _course(found, name)) for name in named]
    heads.append(_head("state"))
    lines = [f"<b>Checkpointer</b>: {_told(where)}, {_count(len(found), 'checkpoint')}"]
    if len(metrics) > len(named):
        lines.append(f"metrics that are not shown: {len(metrics) - len(named):,}")
    return _page(lines, heads, rows, len(found) - len(rows), before=True)


def _checkpoint_row(checkpoint: Saved, metrics: list[str]) -> str:
    return (
        _cell(f"{checkpoint.step:,}", _NUMBER)
        + _cell(_when(checkpoint.time), _NUMBER)
        + _cell(_size(checkpoint.size), _NUMBER)
        + _cell(_size(checkpoint.shared), _NUMBER)
        + "".join(_cell(_metric(checkpoint.metrics.get(name)), _NUMBER) for name in metrics)
        + _cell(_worth(checkpoint), _TEXT)
    )


def _page(
    lines: list[str], heads: list[str], rows: list[str], left_out: int, *, before: bool = False
) -> str:
    """Put a table together; what was left out stands where it would have come."""
    body = [f"<tr>{row}</tr>" for row in rows]
    if left_out > 0:
        note = f'<td colspan="{len(heads)}" style="{_TEXT};{_FAINT}">and {left_out:,} more</td>'
        body.insert(0 if before else len(body), f"<tr>{note}</tr>")
    table = ""
    if body:
        table = (
            f"<table><thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(body)}</tbody></table>"
        )
    return f'<div style="{_BOX}">{"".join(f"<div>{line}</div>" for line in lines)}{table}</div>'


def _head(content: str) -> str:
    return f'<th scope="col" style="{_TEXT}">{content}</th>'


def _cell(content: str, style: str) -> str:
    return f'<td style="{style}">{content}</td>'


def _spread(tensor: Tensor) -> str:
    """Draw how a sample of a tensor's values spreads, or say why that cannot be done."""
    try:
        running = Running(tensor.dtype)
        running.add(sample(tensor))
        found = running.summary()
    except Exception as error:  # a table of the other tensors is worth more than this one's fault
        return _problem(error)
    broken = [f"{n:,} {word}" for n, word in ((found.nan, "NaN"), (found.inf, "inf")) if n]
    sampled = " in a sample" if found.count < tensor.size else ""
    beside = f" <b>{', '.join(broken)}</b>{sampled}" if broken else ""
    return _bars(found.histogram.counts, _figures(found) + sampled) + beside


def _figures(found: Summary) -> str:
    if found.low is None or found.high is None:
        return "no finite values"
    figures = f"{_number(found.low)} to {_number(found.high)}"
    if found.mean is None or found.std is None:
        return figures
    return f"{figures}, mean {_number(found.mean)}, deviation {_number(found.std)}"


def _bars(counts: list[int], told: str) -> str:
    if not counts:
        return ""
    most, path = max(counts), []
    for i, count in enumerate(counts):
        if count:
            height = max(1.0, _HEIGHT * count / most)
            path.append(f"M{i} {_HEIGHT}v-{height:.3g}h.9v{height:.3g}z")
    return _svg(
        f'<path fill="currentColor" d="{"".join(path)}"/>', f"{len(counts)} {_HEIGHT}", told
    )


def _course(found: Sequence[Saved], name: str) -> str:
    """Draw how a metric went over the steps."""
    given = ((float(each.step), each.metrics.get(name)) for each in found)
    points = [(x, y) for x, y in given if isinstance(y, int | float) and math.isfinite(y)]
    points = points[:: len(points) // _ROWS + 1]
    if len(points) < 2:
        return ""
    left, right = points[0][0], points[-1][0]
    low, high = min(y for _, y in points), max(y for _, y in points)
    width, height = right / 2 - left / 2 or 1.0, high / 2 - low / 2 or 1.0  # the whole could be inf
    line = " ".join(
        f"{(x / 2 - left / 2) / width * _WIDTH:.1f},"
        f"{_HEIGHT - 1 - (y / 2 - low / 2) / height * (_HEIGHT - 2):.1f}"
        for x, y in points
    )
    shape = (
        f'<polyline fill="none" stroke="currentColor" vector-effect="non-scaling-stroke" '
        f'points="{line}"/>'
    )
    told = f"{_number(points[0][1])} to {_number(points[-1][1])}"
    return "<br>" + _svg(shape, f"{_WIDTH} {_HEIGHT}", told)


def _svg(shape: str, box: str, told: str) -> str:
    told = html.escape(told)
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {box}" preserveAspectRatio="none" '
        f'role="img" aria-label="{told}" style="vertical-align:middle">'
        f"<title>{told}</title>{shape}</svg>"
    )


def _told(text: object, most: int = _LONG) -> str:
    """Make a text safe to show: escaped, of bounded length, without characters that do not show."""
    plain = str(text)
    if len(plain) > most:
        plain = f"{plain[: most // 2]}…{plain[-most // 2 :]}"
    seen = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in plain)
    return f"<bdi>{html.escape(seen)}</bdi>"


def _problem(error: object) -> str:
    return f'<span style="{_FAINT}">{_told(str(error) or type(error).__name__, 500)}</span>'


def _worth(checkpoint: Saved) -> str:
    return f"<b>damaged</b>: {_problem(checkpoint.problem)}" if checkpoint.problem else "ok"


def _metric(value: float | str | None) -> str:
    if value is None:
        return ""
    return _told(value) if isinstance(value, str) else _number(value)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _when(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else ""
    except (ValueError, OverflowError, OSError):  # a manifest may say any number
        return _number(seconds)


def _size(nbytes: int) -> str:
    """Say a number of bytes.

    >>> _size(12), _size(1_234_567)
    ('12 B', '1.23 MB')
    """
    size, units = float(nbytes), ["B", "kB", "MB", "GB", "TB", "PB"]
    while size >= 999.5 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.3g} {units[0]}"


def _count(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _more(count: int) -> str:
    return f" and {count:,} more" if count > 0 else ""
