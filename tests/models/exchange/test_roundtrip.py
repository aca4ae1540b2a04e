"""ONNX to NNEF, into a file, and back: what comes back gives the same, or all of it is refused."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import pytest
from tests.models.exchange.roundtrip import (
    CORRECT,
    CRASH,
    KINDS,
    REFUSED,
    WRONG,
    Case,
    Outcome,
    cases,
    go,
    run_all,
)
from tests.models.exchange.settling_here import settling_here

# Of which the sample has one case each, if it is not refused as a whole.
_TAKEN = (
    *("Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Conv"),
    *("ConvTranspose", "DepthToSpace", "Einsum", "Elu", "Expand", "Flatten", "Gather", "Gelu"),
    *("Gemm", "GlobalAveragePool", "InstanceNormalization", "LRN", "LSTM", "LayerNormalization"),
    *("LeakyRelu", "LogSoftmax", "MatMul", "MaxPool", "PRelu", "Pad", "ReduceL2", "ReduceMean"),
    *("Reshape", "Resize", "Selu", "Slice", "Softmax", "Split", "Squeeze", "Tile", "Transpose"),
    *("Where", "TopK", "QuantizeLinear", "Dropout", "GRU"),
)
# Of which a case is refused: random numbers, text, sequences, and what NNEF cannot say.
_REFUSED = ("NonMaxSuppression", "Bernoulli", "StringConcat", "SequenceMap", "Unique")


def _sample() -> list[Case]:
    chosen = random.Random(0)
    named: dict[str, list[Case]] = {}
    for case in cases("node"):
        if len(case.operators) == 1:
            named.setdefault(case.operators[0], []).append(case)
    return [chosen.choice(named[operator]) for operator in (*_TAKEN, *_REFUSED)]


def _bad(outcomes: list[Outcome]) -> list[str]:
    return [f"{o.name}: {o.kind}: {o.detail}" for o in outcomes if o.kind in (WRONG, CRASH)]


def test_a_sample_comes_back_right_or_is_refused() -> None:
    with settling_here():
        outcomes = [go(case) for case in _sample()]
    assert not _bad(outcomes), "\n".join(_bad(outcomes))
    kinds = {o.operators[0]: o.kind for o in outcomes}
    assert {kinds[operator] for operator in _REFUSED} == {REFUSED}
    assert sum(kind == CORRECT for kind in kinds.values()) >= 30, kinds


def test_operators_as_pytorch_exports_them() -> None:
    with settling_here():
        outcomes = [go(case) for case in islice(cases("pytorch-operator"), 0, None, 6)]
    assert not _bad(outcomes), "\n".join(_bad(outcomes))
    assert sum(o.kind == CORRECT for o in outcomes) >= len(outcomes) // 2


@pytest.mark.slow
def test_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = run_all(KINDS)
    found = Counter(outcome.kind for outcome in outcomes)
    with capsys.disabled():
        print(dict(found))  # noqa: T201
    assert not _bad(outcomes), "\n".join(_bad(outcomes))
    assert found[CORRECT] >= 1_400
