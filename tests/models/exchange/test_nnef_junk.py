"""Arguments of any kind and value, which are translated or refused, but do nothing else."""

import random

import pytest

from tensorkeep.models.exchange.emitting import Emitter
from tensorkeep.models.exchange.nnef_to_onnx import TABLE
from tensorkeep.models.exchange.nnef_to_onnx.reader import Reader
from tensorkeep.models.exchange.report import Refused, Report
from tensorkeep.wire.nnef.document import Document
from tensorkeep.wire.nnef.fragments import standard
from tensorkeep.wire.nnef.operations import Operation, Reference, Value

SHAPES = ((), (1,), (3,), (2, 3), (1, 4, 2), (1, 2, 4, 4), (2**31, 2**20, 1, 1), (1, 1, 3, 3, 3))


def _values(*values: Value) -> tuple[Value, ...]:
    return values


JUNK = (
    *_values(None, True, False, 0, 1, 2, -1, 7, 2**31, -(2**80), 10**400, 0.0, -0.5, 1e300, 1e-320),
    *_values(
        float("nan"), float("inf"), "", "constant", "ignore", "reflect", "replicate", "symmetric"
    ),
    *_values(
        [], [0], [1, 1], [2, 0, 1], [1, 1, 2, 2], [-1, 3], [[1]], [(0, 1)], [(0, 0)] * 4, [("x",)]
    ),
    *_values(
        [True], [1.5], [None], ["x"], (), (1, 2), Reference("unknown"), [Reference("unknown")]
    ),
)
TENSORS = [
    Reference(f"{dtype}{number}")
    for dtype in ("float32", "float64", "int64", "bool")
    for number in range(len(SHAPES))
]


OPERATIONS = sorted(set(standard()) & {row.operator for row in TABLE})


@pytest.mark.parametrize("first", sorted({name[0] for name in OPERATIONS}))
def test_junk_is_translated_or_refused(first: str) -> None:
    for operation in OPERATIONS:
        if operation.startswith(first):
            rng = random.Random(operation)
            for _ in range(12):
                assert len(_refusal(_made(operation, rng))) < 1000


def _refusal(op: Operation) -> str:
    """Translate one operation; gives why it is refused, empty where it is not."""
    to = Emitter("net", where="net")
    reader = Reader(Document("net", ["x"], ["y0"]), {}, to, Report("nnef", "onnx"))
    for name in dict.fromkeys(op.inputs()):
        if name != "unknown":
            reader.give_input(Reference(name), SHAPES[int(name[-1])], name[:-1])
    try:
        TABLE[op.name].translate(op, reader)
    except Refused as refused:
        return refused.reason
    to.state()
    return ""


def _made(operation: str, rng: random.Random) -> Operation:
    fragment = standard()[operation]
    arguments = {each.name: _argument(rng) for each in fragment.parameters}
    results = {each.name: _result(n, rng) for n, each in enumerate(fragment.results)}
    return Operation(operation, arguments, results, rng.choice(["", "scalar", "integer", "odd"]))


def _result(number: int, rng: random.Random) -> Value:
    results: list[Value] = [
        Reference(f"y{number}"),
        [Reference(f"y{number}"), Reference(f"z{number}")],
    ]
    return rng.choice(results)


def _argument(rng: random.Random) -> Value:
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(TENSORS)
    if kind < 0.5:
        return [rng.choice(TENSORS) for _ in range(rng.randrange(4))]
    return rng.choice(JUNK)
