"""ONNX's own test cases of single operators: what is given is what ONNX Runtime alone gives."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.models.running.making import plainly
from tests.onnx_cases import node_cases

from tensorkeep.errors import MismatchError, TensorKeepError, UnsupportedError
from tensorkeep.graph import Graph
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.models.running import run
from tensorkeep.state import State

_SAMPLE = 12  # of so many, one is run by default


@cache
def _cases() -> list[Any]:
    return sorted(node_cases(), key=lambda case: str(case.name))


class Outcome(NamedTuple):
    """How a case went: "equal", or who refused it."""

    kind: str
    detail: str = ""


def _plain(value: Any) -> Any:
    if isinstance(value, onnx.SequenceProto):
        return numpy_helper.to_list(value)
    if isinstance(value, onnx.OptionalProto):
        return numpy_helper.to_optional(value)
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _try(case: Any) -> Outcome:
    made = case.model
    values = (_plain(value) for value in case.data_sets[0][0])
    given = {row.name: value for row, value in zip(made.graph.input, values, strict=False)}
    state = State.of_graph(Graph(Message.parse(MODEL, made.SerializeToString())))
    try:
        expected = plainly(made, given)
    except Exception as error:  # whatever ONNX Runtime raises
        try:
            got = run(state, given)
        except (UnsupportedError, MismatchError):
            return Outcome("refused by ONNX Runtime", str(error))
        except TensorKeepError as ours:
            return Outcome("refused by both", str(ours))
        wanted = map(_plain, case.data_sets[0][1])
        close = all(_close(a, b) for a, b in zip(got.values(), wanted, strict=True))
        kind = "as ONNX says, where plain arrays do not do" if close else "different"
        return Outcome(kind, str(error))
    try:
        got = run(state, given)
    except TensorKeepError as ours:
        return Outcome("refused here alone", str(ours))
    for name, value in expected.items():
        if not _same(got[name], value):
            return Outcome("different", name)
    return Outcome("equal")


def _same(a: Any, b: Any) -> bool:
    if isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if not isinstance(b, np.ndarray):
        return bool(a == b)
    if a.dtype != b.dtype and a.dtype.itemsize == b.dtype.itemsize:
        b = b.view(a.dtype)  # float8 comes as bare bytes from ONNX Runtime
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype == object:
        return bool(a.tolist() == b.tolist())
    return bool(a.tobytes() == b.tobytes())


def _close(a: Any, b: Any) -> bool:
    """Compare what ONNX Runtime's own arrays cannot hold with the values that ONNX gives."""
    if isinstance(b, list) or b is None:
        return bool(a == b) if b is None else len(a) == len(b) and all(map(_close, a, b))
    if a.shape != b.shape:
        return False
    if a.dtype == object:
        return bool(a.tolist() == b.tolist())
    one, other = a.astype(np.float64), b.astype(np.float64)
    return bool(np.allclose(one, other, rtol=1e-2, atol=1e-2, equal_nan=True))


# Those whose results are random.
_RANDOM = ("bernoulli", "training_dropout", "random")


def _of(cases: list[Any]) -> Counter[str]:
    found: Counter[str] = Counter()
    bad = []
    for case in cases:
        outcome = _try(case)
        random = any(word in case.name for word in _RANDOM)
        if outcome.kind in ("different", "refused here alone") and not random:
            bad.append(f"{case.name}: {outcome.kind}: {outcome.detail}")
        found["random" if random else outcome.kind] += 1
    assert not bad, "\n".join(bad)
    return found


def test_a_sample() -> None:
    found = _of(_cases()[::_SAMPLE])
    assert found["equal"] > 100


@pytest.mark.slow
def test_all(capsys: pytest.CaptureFixture[str]) -> None:
    found = _of(_cases())
    with capsys.disabled():
        print(dict(found))  # noqa: T201
    assert found["equal"] > 1400
