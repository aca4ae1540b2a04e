"""What the viewer's HTTP API answers: the one place where its shapes are said.

`scripts/viewer_types.py` writes the same shapes as TypeScript (frontend/src/answers.ts). Numbers
are finite or None: JSON has no others. Tensors are told by their place in the listing, not by name,
so that no name is ever part of an address.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tensorkeep.state import Json

# --- what is open -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that was given, or a checkpoint of a run that was: "0", "1", "1@200"."""

    id: str
    name: str  # the last part of its path
    path: str
    kind: str  # "state", "run", or "" where it could not be opened
    format: str = ""
    tensors: int = 0
    nbytes: int = 0  # of all tensors
    dialect: str = ""  # "onnx", "nnef", "caffe2" where it has a graph
    steps: int = 0  # of a run
    problem: str = ""  # why it could not be opened


@dataclass(frozen=True, slots=True)
class Things:
    """things: all that is open."""

    version: str
    things: list[Thing]


@dataclass(frozen=True, slots=True)
class Problem:
    """The body of every answer whose status is not 200."""

    problem: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """How far long work is; asked for again until it is finished."""

    finished: bool
    done: int = 0  # bytes
    total: int = 0
    problem: str = ""  # why it failed
    result: Any = None  # what it was to find, once it is finished


# --- tensors ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tensors:
    """things/ID/tensors: the listing, column by column."""

    names: list[str]
    dtypes: list[str]
    shapes: list[list[int]]
    nbytes: list[int]
    remarks: dict[str, str]  # by place
    left_out: int = 0  # how many more there are than are listed


@dataclass(frozen=True, slots=True)
class Metadata:
    """things/ID/metadata: what is kept beside the tensors."""

    metadata: dict[str, Json]
    values: dict[str, Json]  # numbers and text in the nesting
    refused: list[str]  # what of the file is not data, a sentence each


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is known of the values of a tensor; of text, of their lengths."""

    index: int
    size: int  # elements
    measured: int  # how many of them were looked at
    exact: bool  # all of them
    zeros: int = 0  # of those that were looked at, as the others below
    nan: int = 0
    inf: int = 0
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    std: float | None = None
    edges: list[float] = field(default_factory=list)  # of the histogram: one more than counts
    counts: list[int] = field(default_factory=list)
    problem: str = ""  # why it cannot be read


@dataclass(frozen=True, slots=True)
class Window:
    """The head of things/ID/tensors/N/window: a part of a 2-D slice; its float32s follow."""

    axes: list[
        int
    ]  # the axis that goes down, and the one that goes right; fewer than two are 1 long
    at: list[int]  # the place on each axis; those two are 0
    rows: list[int]  # from and to, on the axis that goes down
    cols: list[int]
    steps: list[int]  # every how many-th row and column is given
    shape: list[int]  # how many rows and columns are given
    low: float | None = None  # the extremes of the finite values that are given
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Values:
    """things/ID/tensors/N/values: a small window in full precision, as text."""

    rows: list[int]
    cols: list[int]
    values: list[list[str]]


@dataclass(frozen=True, slots=True)
class Tiles:
    """The head of things/ID/tensors/N/tiles: filters as images; float32s follow."""

    layout: str  # "oihw" or "hwio"
    first: int
    count: int
    of: int  # how many there are in all
    rows: int
    cols: int
    channels: int  # 3 where they are shown as colours, else 1
    low: float | None = None
    high: float | None = None


# --- graph --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Value:
    """What flows along an edge: its name and its type, such as float32[1, 3, ?]; empty: unknown."""

    name: str
    type: str = ""


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute of a node, as text; or the part that it is."""

    name: str
    kind: str  # such as "int", "floats", "tensor", "graph"
    text: str
    part: int | None = None  # of Graph.parts, where it is a graph
    tensor: int | None = None  # its place in the listing, where it is a tensor


@dataclass(frozen=True, slots=True)
class Node:
    """An operation."""

    op: str
    domain: str
    name: str
    inputs: list[str]  # an empty name is an input that was left out
    outputs: list[str]
    attributes: list[Attribute]
    parts: list[int]  # of Graph.parts: its subgraphs, and the function that it calls
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """A graph, one inside a node, a function, or one of Caffe2's nets."""

    kind: str  # "graph", "subgraph", "function", "net"
    name: str
    inputs: list[Value]
    outputs: list[Value]
    nodes: list[Node]
    values: dict[str, str]  # by name, what is known of the types of others
    tensors: dict[str, int]  # by name, the place in the listing of what is a weight
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Graph:
    """things/ID/graph: a model; the first part is its main one.

    It is also the result of the job things/ID/graph/inferred, with types that the model does not
    say, where they can be worked out.
    """

    dialect: str
    about: dict[str, str]  # such as producer and operator sets
    parts: list[Part]
    left_out: int = 0  # how many nodes more there are than are given


# --- diff ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DiffRow:
    """How a tensor of the one compares with that of the same name in the other."""

    name: str
    a: int  # its places in both listings
    b: int
    dtypes: list[str]
    shapes: list[list[int]]
    identical: bool
    equal: bool
    differing: int | None = None  # None where elements have no counterparts
    max: float | None = None  # of the absolute differences
    mean: float | None = None
    cosine: float | None = None  # of the angle between both, as vectors


@dataclass(frozen=True, slots=True)
class Only:
    """A tensor that only one of both has."""

    name: str
    index: int
    dtype: str
    shape: list[int]


@dataclass(frozen=True, slots=True)
class Change:
    """A value beside the tensors that differs."""

    place: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Diff:
    """The result of the job diff?a=ID&b=ID."""

    equal: bool
    only_a: list[Only]
    only_b: list[Only]
    tensors: list[DiffRow]
    values: list[Change]
    left_out: int = 0  # how many rows there are more, of all four lists together


@dataclass(frozen=True, slots=True)
class Overlay:
    """diff/histograms?a=ID&b=ID&ia=N&ib=N: both tensors counted in the same bins."""

    edges: list[float]
    a: list[int]
    b: list[int]
    exact: bool


# --- run ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """A checkpoint of a run; it is open as the thing "ID@STEP"."""

    step: int
    time: float  # seconds since 1970
    size: int
    shared: int  # how many of the bytes other checkpoints have too
    metrics: dict[str, float | str]
    metadata: dict[str, Json]
    reason: str
    verified: float  # seconds since 1970, 0 for never
    problem: str
    format: str


@dataclass(frozen=True, slots=True)
class Run:
    """runs/ID: the checkpoints in the order of their steps."""

    steps: list[Step]


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of the job runs/ID/verify?step=N."""

    step: int
    sound: bool
    problems: list[str]
    unchecked: int = 0  # tensors without checksums, of which the structure alone was checked


@dataclass(frozen=True, slots=True)
class Course:
    """The result of the job runs/ID/course?exact=0: each tensor over the steps.

    The outer lists are by name, the inner ones by step; None where a step has no such tensor, or
    the one before it has none to compare with.
    """

    steps: list[int]
    names: list[str]
    norms: list[list[float | None]]  # the Euclidean norm
    updates: list[list[float | None]]  # the norm of the change, relative to the norm before it
    broken: list[list[int]]  # how many values are NaN or infinite
    exact: bool
    left_out: int = 0  # tensors
    problems: dict[str, str] = field(default_factory=dict)  # by step, why it could not be read
