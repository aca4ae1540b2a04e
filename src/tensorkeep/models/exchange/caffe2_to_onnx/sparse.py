"""Sparse features: rows looked up and reduced by segments, and other forms of ragged data.

Segments are given by their lengths, whose sum is the number of rows, or by the number of the
segment of each row. An empty segment is zero, also where the largest is looked for.
"""

from __future__ import annotations

import math

import numpy as np

from tensorkeep.models.exchange.caffe2_to_onnx.boxes import (
    INT32,
    INT64,
    counted,
    part,
    size_of,
    within,
    without,
)
from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator
from tensorkeep.models.exchange.caffe2_to_onnx.segments import (
    Segments,
    check_vector,
    reduce_rows,
    weighted,
)
from tensorkeep.models.exchange.caffe2_to_onnx.table import TABLE
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.emitting import number_of
from tensorkeep.models.exchange.report import Refused

_RANKED = "needs the rank to be known"


@TABLE.row(
    "LengthsSum",
    "LengthsMean",
    "LengthsMax",
    "LengthsWeightedSum",
    "SparseLengthsSum",
    "SparseLengthsMean",
    "SparseLengthsMax",
    "SparseLengthsWeightedSum",
    "SparseLengthsPositionalWeightedSum",
    becomes="Gather, ScatterND",
    note=_RANKED,
)
def reduce_lengths(op: Operator, to: Writer) -> None:
    """Rows of segments, after a look-up or not, taken together."""
    kind = op.type.removeprefix("Sparse").removeprefix("Lengths")
    takes = ["rows", *(["weights"] if "Weighted" in kind else [])]
    takes += [*(["indices"] if op.type.startswith("Sparse") else []), "lengths"]
    op.refuse_more(len(takes))
    op.has("grad_on_weights")
    given = {name: op.input(index) for index, name in enumerate(takes)}
    rows, segments = given["rows"], Segments(given["lengths"], to)
    rank = to.rank(rows)
    if "indices" in given:
        check_vector(given["indices"], "its indices", to)
        rows = to.node("Gather", [rows, given["indices"]], axis=0)
    if to.type(rows) == "float16":
        rows = to.node("Cast", [rows], to=number_of("float32"))
    if "weights" in given:
        weights = given["weights"]
        if "Positional" in kind:
            weights = to.node("Gather", [weights, segments.places()], axis=0)
        rows = weighted(rows, weights, rank, to)
    how = "Sum" if "Sum" in kind else kind
    reduce_rows(rows, rank, segments.ids(), segments.number, how, op.output(), to)


_BY_NUMBER = [
    f"{order}Segment{kind}"
    for order in ("Sorted", "Unsorted", "SparseSorted", "SparseUnsorted")
    for kind in ("Sum", "Mean", "WeightedSum")
]
_RANGES = [f"SortedSegmentRange{kind}" for kind in ("Sum", "Mean", "Max")]


@TABLE.row(*_BY_NUMBER, *_RANGES, becomes="Gather, ScatterND", note=_RANKED)
def reduce_segments(op: Operator, to: Writer) -> None:
    """Rows that belong to segments by number, after a look-up or not, taken together."""
    takes = ["rows", *(["weights"] if "Weighted" in op.type else [])]
    takes += [*(["indices"] if op.type.startswith("Sparse") else []), "segments"]
    op.refuse_more(len(takes))
    given = {name: op.input(index) for index, name in enumerate(takes)}
    rows, rank = given["rows"], to.rank(given["rows"])
    if "indices" in given:
        check_vector(given["indices"], "its indices", to)
        rows = to.node("Gather", [rows, given["indices"]], axis=0)
    if "weights" in given:
        rows = weighted(rows, given["weights"], rank, to)
    check_vector(given["segments"], "its segments", to)
    ids = to.node("Cast", [given["segments"]], to=INT64)
    count = op.integer("num_segments", -1) if "Unsorted" in op.type else -1
    number = to.constant([count], np.int64) if count > 0 else _one_more(ids, to)
    how = next(how for how in ("Sum", "Mean", "Max") if op.type.endswith(how))
    reduce_rows(rows, rank, ids, number, how, op.output(), to)


def _one_more(ids: str, to: Writer) -> str:
    """Give the number behind the largest one, 0 where there are none."""
    none = to.constant([-1], np.int64)
    most = to.node("ReduceMax", [to.node("Concat", [ids, none], axis=0)], keepdims=1)
    return to.node("Add", [most, to.constant(1, np.int64)])


@TABLE.row("SparseToDense", becomes="ScatterND", note=_RANKED)
def to_dense(op: Operator, to: Writer) -> None:
    """Rows put where indices say; those that meet are added up."""
    op.refuse_more(3)
    check_vector(op.input(0), "its indices", to)
    ids, rows = to.node("Cast", [op.input(0)], to=INT64), op.input(1)
    count = op.integer("output_first_dim", 0)
    if count > 0:
        op.refuse_more(2)
        number = to.constant([count], np.int64)
    elif op.has_input(2):
        number = size_of(op.input(2), 0, to)
    else:
        number = _one_more(ids, to)
    reduce_rows(rows, to.rank(rows), ids, number, "Sum", op.output(), to)


@TABLE.row("LengthsToSegmentIds", becomes="CumSum, ScatterElements")
def segment_ids(op: Operator, to: Writer) -> None:
    """The number of the segment of each row."""
    to.node("Cast", [Segments(op.input(0), to).ids()], op.output(), to=INT32)


@TABLE.row("LengthsToRanges", becomes="CumSum, Concat")
def ranges(op: Operator, to: Writer) -> None:
    """Where each segment starts, and its length."""
    segments = Segments(op.input(0), to)
    columns = [within(value, 1, to) for value in (segments.starts, segments.lengths)]
    to.node("Cast", [to.node("Concat", columns, axis=1)], op.output(), to=INT32)


@TABLE.row("LengthsRangeFill", becomes="CumSum, ScatterElements, Sub")
def range_fill(op: Operator, to: Writer) -> None:
    """0, 1, 2, ... within each segment."""
    to.node("Cast", [Segments(op.input(0), to).places()], op.output(), to=INT32)


@TABLE.row("LengthsTile", becomes="CumSum, ScatterElements, Gather")
def lengths_tile(op: Operator, to: Writer) -> None:
    """Each row so many times."""
    op.refuse_more(2)
    ids = Segments(op.input(1), to).ids()
    to.node("Gather", [op.input(0), ids], op.output(), axis=0)


@TABLE.row("PackSegments", becomes="ScatterND", note=f"{_RANKED}; not with max_length")
def pack(op: Operator, to: Writer) -> None:
    """Segments side by side, (segment, place, ...), the shorter ones filled up."""
    op.refuse_more(2)
    op.refuse_outputs(1)
    op.has("return_presence_mask")
    if op.integer("max_length", -1) != -1:
        raise Refused(f"its argument max_length is {op.integer('max_length')}")
    segments, rows = Segments(op.input(0), to), op.input(1)
    kind, rank = to.type(rows), to.rank(rows)
    longest = to.node("ReduceMax", [segments.lengths], keepdims=1)
    rest = part(to.node("Shape", [rows]), 1, rank, to, 0)
    shape = to.node("Concat", [segments.number, longest, rest], axis=0)
    fill = -math.inf if op.flag("pad_minf") and kind.startswith("float") else 0
    room = to.node("Expand", [to.constant(fill, np.dtype(kind)), shape])
    made = to.node("ScatterND", [room, _pairs(segments, to), rows], op.output())
    to.know(made, kind, (None, None, *(to.dims(rows) or ())[1:]))


@TABLE.row("UnpackSegments", becomes="GatherND", note="not with max_length")
def unpack(op: Operator, to: Writer) -> None:
    """Segments that are side by side behind one another again."""
    op.refuse_more(2)
    if op.integer("max_length", -1) != -1:
        raise Refused(f"its argument max_length is {op.integer('max_length')}")
    places, x = _pairs(Segments(op.input(0), to), to), op.input(1)
    made = to.node("GatherND", [x, places], op.output())
    dims = to.dims(x)
    to.know(made, to.type(x), None if dims is None else (None, *dims[2:]))


def _pairs(segments: Segments, to: Writer) -> str:
    """Give the segment of each row and its place in it."""
    columns = [within(value, 1, to) for value in (segments.ids(), segments.places())]
    return to.node("Concat", columns, axis=1)


@TABLE.row("GatherRanges", becomes="CumSum, ScatterElements, Gather")
def gather_ranges(op: Operator, to: Writer) -> None:
    """The elements in ranges, which are (example, range, start and length), and how many."""
    op.refuse_more(2)
    for name in ("max_mismatched_ratio", "max_empty_ratio", "min_observation"):
        op.has(name)
    spans = to.node("Cast", [op.input(1)], to=INT64)
    flat = to.reshaped(spans, [-1, 2])
    begins, lengths = (without(part(flat, at, at + 1, to), 1, to) for at in (0, 1))
    segments = Segments(lengths, to)
    starts = to.node("Gather", [begins, segments.ids()], axis=0)
    places = to.node("Add", [starts, segments.places()])
    to.node("Gather", [op.input(0), places], op.output(0), axis=0)
    if op.wanted(1):
        sizes = without(part(spans, 1, 2, to, 2), 2, to)
        total = to.node("ReduceSum", [sizes, to.constant([1], np.int64)], keepdims=0)
        to.node("Cast", [total], op.output(1), to=INT32)


@TABLE.row("OneHot", becomes="OneHot")
def one_hot(op: Operator, to: Writer) -> None:
    """1 where an index says, of as many as a second input says."""
    op.refuse_more(2)
    check_vector(op.input(0), "its indices", to)
    known = to.array(op.input(1))
    depth = op.input(1) if known is None else to.constant(known.reshape(-1), np.int64)
    made = to.node("OneHot", [op.input(0), depth, to.constant([0, 1], np.float32)], op.output())
    dims = to.dims(op.input(0))
    wide = int(known.reshape(-1)[0]) if known is not None and known.size == 1 else None
    to.know(made, "float32", (dims[0] if dims else None, wide))


@TABLE.row("SegmentOneHot", becomes="ScatterND")
def segment_one_hot(op: Operator, to: Writer) -> None:
    """1 where any of the indices of a segment says."""
    op.refuse_more(3)
    segments = Segments(op.input(0), to)
    wide = to.reshaped(to.node("Cast", [op.input(2)], to=INT64), [1])
    shape = to.node("Concat", [segments.number, wide], axis=0)
    zeros = to.node("Expand", [to.constant(0, np.float32), shape])
    columns = [within(value, 1, to) for value in (segments.ids(), op.input(1))]
    places = to.node("Concat", columns, axis=1)
    ones = to.node("Expand", [to.constant(1, np.float32), segments.total])
    made = to.node("ScatterND", [zeros, places, ones], op.output())
    to.know(made, "float32", (None, None))


@TABLE.row("BatchOneHot", becomes="Gather, Equal")
def batch_one_hot(op: Operator, to: Writer) -> None:
    """For each column of a matrix, which of its values it is."""
    op.refuse_more(3)
    x = to.node("Flatten", [op.input(0)], axis=1)
    each = to.node("Gather", [x, Segments(op.input(1), to).ids()], axis=1)
    same = to.node("Equal", [each, op.input(2)])
    to.node("Cast", [same], op.output(), to=number_of(to.type(op.input(0))))


@TABLE.row("BooleanMask", becomes="Compress, NonZero")
def boolean_mask(op: Operator, to: Writer) -> None:
    """The rows that a mask tells, and their numbers."""
    op.refuse_more(2)
    x, mask = op.input(0), op.input(1)
    made = to.node("Compress", [x, mask], op.output(), axis=0)
    dims = to.dims(x)
    to.know(made, to.type(x), None if dims is None else (None, *dims[1:]))
    if op.wanted(1):
        to.node("Squeeze", [to.node("NonZero", [mask]), to.constant([0], np.int64)], op.output(1))


@TABLE.row("BooleanMaskLengths", becomes="ScatterND")
def boolean_mask_lengths(op: Operator, to: Writer) -> None:
    """The lengths of segments of which a mask takes rows away."""
    op.refuse_more(2)
    segments, kind = Segments(op.input(0), to), to.type(op.input(0))
    ones = to.node("Cast", [op.input(1)], to=INT64)
    made = to.fresh("kept_lengths")
    reduce_rows(ones, 1, segments.ids(), segments.number, "Sum", made, to)
    to.node("Cast", [made], op.output(), to=number_of(kind))


@TABLE.row("Unique", becomes="Unique")
def unique(op: Operator, to: Writer) -> None:
    """Each value once, in order, and which of them each element is."""
    op.refuse_more(1)
    inverse = to.fresh("inverse") if op.wanted(1) else ""
    outputs = [op.output(0), "", inverse] if inverse else [op.output(0)]
    to.nodes("Unique", [op.input(0)], outputs, sorted=1)
    to.know(op.output(0), to.type(op.input(0)), (None,))
    if inverse:
        to.know(inverse, "int64", to.dims(op.input(0)))
        to.node("Cast", [inverse], op.output(1), to=INT32)


_DIAGONALS = {
    "upper": "Greater",
    "lower": "Less",
    "upperdiag": "GreaterOrEqual",
    "lowerdiag": "LessOrEqual",
}


@TABLE.row("SequenceMask", becomes="Less, Where")
def sequence_mask(op: Operator, to: Writer) -> None:
    """A matrix, a value put where sequences have ended, beside windows, or beside its diagonal."""
    mode, x = op.text("mode"), op.input(0)
    op.refuse_more(2 if mode in ("sequence", "window") else 1)
    for name in ("repeat_from_axis", "batch"):
        if op.has(name):
            raise Refused(f"it has the argument {name}")
    flat = to.node("Flatten", [x], axis=to.axis(x, op.integer("axis", 1)))
    rows, columns = (
        within(counted(size_of(flat, 0, to), to), 1, to),
        counted(size_of(flat, 1, to), to),
    )
    if mode in _DIAGONALS:
        gone = to.node(_DIAGONALS[mode], [columns, rows])
    elif mode in ("sequence", "window"):
        given = within(to.node("Cast", [op.input(1)], to=INT64), 1, to)
        if mode == "sequence":
            gone = to.node("GreaterOrEqual", [columns, given])
        else:
            radius = to.constant(op.integer("radius", 10), np.int64)
            apart = to.node("Abs", [to.node("Sub", [columns, given])])
            gone = to.node("Greater", [apart, radius])
    else:
        raise Refused(f"its argument mode is {mode!r}")
    value = 0.0 if op.flag("grad") else op.number("fill_val", -math.inf)
    masked = to.node("Where", [gone, to.constant(value, np.dtype(to.type(x))), flat])
    to.shaped_like(masked, x, op.output())
