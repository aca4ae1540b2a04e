"""Takes models to NNEF, into a file, and back, and compares what they give before and after.

    python -m tests.models.exchange.roundtrip [--only WORD] [--kind KIND] [--json FILE] [--list]

The models are those that the onnx package has: a node each (KIND node), and whole networks (light,
simple, pytorch-converted, pytorch-operator). Where NNEF cannot take an input, it is fixed to what
the case gives for it. Prints how many came out how, and of those that are not right, each.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests
from tests.models.exchange.settling_here import settling_here
from tests.onnx_cases import node_cases

import tensorkeep as tk
from tensorkeep.errors import ArgumentError, TensorKeepError, TranslationError
from tensorkeep.graph import Graph
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.models.exchange import nnef_to_onnx, onnx_to_nnef
from tensorkeep.models.exchange.report import Report
from tensorkeep.state import State

KINDS = ("node", "light", "simple", "pytorch-converted", "pytorch-operator")
CORRECT, REFUSED, WRONG, CRASH = "correct", "refused", "wrong", "crash"
NOT_RUN = "not run by ONNX Runtime itself"
UNRUN = "not run by ONNX Runtime afterwards"
RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli")
_QUICK = "/dev/shm"  # a folder in memory, where there is one


class Case(NamedTuple):
    """A model, what it is given, and what it is expected to give, if that is known."""

    name: str
    model: onnx.ModelProto
    given: dict[str, Any]
    expected: list[Any] | None

    @property
    def operators(self) -> list[str]:
        """Its operators."""
        return sorted({node.op_type for node in self.model.graph.node})


class Outcome(NamedTuple):
    """How a case went: one of the words above, and why."""

    name: str
    operators: list[str]
    kind: str
    detail: str = ""
    fixed: int = 0


def cases(kind: str) -> Iterator[Case]:
    """Give the cases of a kind."""
    if kind == "node":
        for each in sorted(node_cases(), key=lambda case: str(case.name)):
            inputs, outputs = each.data_sets[0]
            pooling = any("Pool" in node.op_type for node in each.model.graph.node)
            expected = None if pooling else [_plain(value) for value in outputs]
            yield Case(each.name, each.model, _named(each.model, inputs), expected)
        return
    folder = Path(onnx.__file__).parent / "backend/test/data" / kind
    if kind == "light":
        for path in sorted(folder.glob("*.onnx")):
            model = onnx.load(path)
            _without_softmax(model)
            yield Case(path.stem, model, _random(model), None)
        return
    for each in load_model_tests(kind=kind):
        path = Path(each.model_dir)
        model = onnx.load(path / "model.onnx")
        data = path / "test_data_set_0"
        try:
            inputs = [_load(file) for file in sorted(data.glob("input_*.pb"), key=_number)]
            outputs = [_load(file) for file in sorted(data.glob("output_*.pb"), key=_number)]
        except Exception:  # what is no tensor
            continue
        yield Case(each.name, model, _named(model, inputs), outputs)


def _number(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def _load(path: Path) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = numpy_helper.to_array(TensorProto.FromString(path.read_bytes()))
    return array


def _plain(value: Any) -> Any:
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def _named(model: onnx.ModelProto, values: Sequence[Any]) -> dict[str, Any]:
    held = {row.name for row in model.graph.initializer}
    rows = [row.name for row in model.graph.input]
    if len(values) < len(rows):
        rows = [name for name in rows if name not in held]
    return dict(zip(rows, map(_plain, values), strict=False))


def _without_softmax(model: onnx.ModelProto) -> None:
    """Take out a Softmax at the end: of large numbers, it makes much of their last bits."""
    last = model.graph.node[-1]
    if last.op_type == "Softmax":
        model.graph.output[0].name = last.input[0]
        model.graph.output[0].type.tensor_type.ClearField("shape")
        del model.graph.node[-1]


def _random(model: onnx.ModelProto) -> dict[str, Any]:
    random = np.random.default_rng(0)
    held = {row.name for row in model.graph.initializer}
    shapes = {
        row.name: [axis.dim_value or 1 for axis in row.type.tensor_type.shape.dim]
        for row in model.graph.input
        if row.name not in held
    }
    return {name: random.random(shape, np.float32) for name, shape in shapes.items()}


def go(case: Case) -> Outcome:
    """Take a case there and back."""
    try:
        kind, detail, fixed = _go(case)
    except Exception:  # that is what is looked for
        kind, detail, fixed = CRASH, traceback.format_exc(limit=-4), 0
    return Outcome(case.name, case.operators, kind, detail, fixed)


def _go(case: Case) -> tuple[str, str, int]:
    state = State.of_graph(
        Graph(Message.parse(MODEL, case.model.SerializeToString()), where=case.name)
    )
    why: tuple[str, str] = (REFUSED, "")
    for fixed in _choices(case):
        constants = {name: case.given[name] for name in fixed}
        shapes = {
            name: value.shape
            for name, value in case.given.items()
            if name not in fixed and _is_open(case.model, name)
        }
        try:
            back = there_and_back(state, shapes, constants)
        except (TranslationError, ArgumentError, tk.errors.UnsupportedError) as error:
            why = REFUSED, str(error)
            continue
        if any(operator in RANDOM for operator in case.operators):
            return WRONG, "it is random, and is not refused", len(fixed)
        kind, detail = _compare(case, state, back, fixed)
        return kind, detail, len(fixed)
    return *why, 0


def _is_open(model: onnx.ModelProto, name: str) -> bool:
    row = next(row for row in model.graph.input if row.name == name)
    axes = row.type.tensor_type.shape.dim
    return any(not axis.HasField("dim_value") or axis.dim_value < 0 for axis in axes)


def _choices(case: Case) -> Iterator[list[str]]:
    """Give the inputs to fix: none, those that look like settings, all but the first."""
    yield []
    held = {row.name for row in case.model.graph.initializer}
    rest = [n for n, v in case.given.items() if n not in held and isinstance(v, np.ndarray)][1:]
    integers = [name for name in rest if case.given[name].dtype.kind in "iub"]
    if integers:
        yield integers
    small = [name for name in rest if case.given[name].ndim < 2]
    if small and small != integers:
        yield small
    if rest and rest not in (integers, small):
        yield rest


def there_and_back(
    state: State, shapes: Mapping[str, Sequence[int]], constants: Mapping[str, Any]
) -> State:
    """Translate a model to NNEF, save that, open it and translate it to ONNX."""
    made = onnx_to_nnef.translate(state, Report("onnx", "nnef"), shapes=shapes, constants=constants)
    with tempfile.TemporaryDirectory(dir=_QUICK if os.path.isdir(_QUICK) else None) as folder:
        path = Path(folder) / "model.nnef.tar"
        tk.save(made, path)
        with tk.open(path) as opened:
            back = nnef_to_onnx.translate(opened, Report("nnef", "onnx"))
            assert back.graph is not None
            message = Message.parse(MODEL, back.graph.model.encode())
    return State.of_graph(Graph(message, where=state.where))


def _compare(case: Case, state: State, back: State, fixed: Sequence[str]) -> tuple[str, str]:
    assert back.graph is not None
    left = [value for name, value in case.given.items() if name not in fixed]
    names = [value.name for value in back.graph.inputs]
    if len(names) > len(left):
        return WRONG, f"takes {names}"
    given = (
        {name: case.given[name] for name in names}
        if set(names) <= set(case.given)
        else dict(zip(names, left, strict=False))
    )
    try:
        before = list(tk.run(state, case.given, check=False).values())
    except TensorKeepError as error:
        if case.expected is None:
            return NOT_RUN, str(error)
        before = case.expected
    try:
        after = list(tk.run(back, given).values())
    except TensorKeepError as error:
        return UNRUN, str(error)
    said = differs(before, after)
    if said and case.expected is not None and not differs(case.expected, after):
        return CORRECT, f"as ONNX says, not as ONNX Runtime does: {said}"
    return (WRONG, said) if said else (CORRECT, "")


def differs(before: Sequence[Any], after: Sequence[Any]) -> str:
    """Say what differs between outputs; empty where nothing does."""
    if len(before) != len(after):
        return f"gives {len(after)} outputs, not {len(before)}"
    for place, (a, b) in enumerate(zip(before, after, strict=True)):
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape:
            return f"output {place} has shape {b.shape}, not {a.shape}"
        if a.dtype != b.dtype:
            return f"output {place} is {b.dtype}, not {a.dtype}"
        if not _close(a, b):
            return f"output {place} differs: {b.reshape(-1)[:4]}, not {a.reshape(-1)[:4]}"
    return ""


def _close(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    if a.dtype.kind in "OUS":
        return bool(a.tolist() == b.tolist())
    if a.dtype.kind in "iub":
        return bool((a == b).all())
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    coarse = a.dtype.itemsize < 4
    rtol, atol = (1e-2, 1e-2) if coarse else (1e-3, 1e-4)
    return bool(np.allclose(a.astype(wide), b.astype(wide), rtol=rtol, atol=atol, equal_nan=True))


_CASES: dict[str, list[Case]] = {}


def _go_numbered(place: tuple[str, int]) -> Outcome:
    with settling_here():
        return go(_CASES[place[0]][place[1]])


def run_all(kinds: Sequence[str], only: str = "") -> list[Outcome]:
    """Take all cases there and back, in two processes."""
    places = []
    for kind in kinds:
        _CASES[kind] = list(cases(kind))
        places += [(kind, place) for place, case in enumerate(_CASES[kind]) if only in case.name]
    if len(places) < 20:
        return [_go_numbered(place) for place in places]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(_go_numbered, places, chunksize=10)


def main(arguments: Sequence[str]) -> None:
    """Print how it went."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--list", action="store_true", help="name those that were refused, too")
    given = parser.parse_args(arguments)
    outcomes = run_all(given.kind or KINDS, given.only)
    for kind, count in Counter(outcome.kind for outcome in outcomes).most_common():
        print(f"{count:6,} {kind}")  # noqa: T201
    for kind in (CRASH, WRONG, UNRUN, *((REFUSED, NOT_RUN) if given.list else ())):
        grouped: defaultdict[str, list[str]] = defaultdict(list)
        for outcome in outcomes:
            if outcome.kind == kind:
                detail = outcome.detail.strip()
                grouped[detail.rpartition("\n")[2] if kind == CRASH else detail].append(
                    outcome.name
                )
        print(f"\n{kind}:" if grouped else "")  # noqa: T201
        for detail, names in sorted(grouped.items(), key=lambda row: -len(row[1])):
            print(f"  {len(names)} {', '.join(names[:6])}: {detail[:400]}")  # noqa: T201
    if given.json:
        rows = [outcome._asdict() for outcome in outcomes]
        given.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
