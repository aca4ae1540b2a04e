"""Each of the names runs in ONNX Runtime and gives what NumPy gives."""

from __future__ import annotations

import numpy as np
import pytest
from tests.models.ops.feeds import feeds
from tests.models.ops.references import REFERENCES
from tests.models.ops.running import expanded, parse, run

from tensorkeep.errors import MissingError
from tensorkeep.models import ops
from tensorkeep.models.ops.examples import examples


def test_every_name_has_an_example_and_a_reference() -> None:
    assert len(examples()) == 131
    assert examples().keys() == REFERENCES.keys()
    assert sum(not ops.operator(name).standard for name in examples()) == 42


HALFWAY = ("QLinearAdd", "QLinearMul")


@pytest.mark.parametrize("name", examples())
def test_example_runs(name: str) -> None:
    text = ops.example(name)
    given = feeds(name, parse(text))
    made = run(expanded(text, kernels=False), given)
    wanted = REFERENCES[name](given)
    assert len(made) == len(wanted)
    for one, other in zip(made, wanted, strict=True):
        assert one.shape == np.shape(other)
        if one.dtype.kind == "f":
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
        else:  # ONNX Runtime joins quantized operators, and rounds halfway cases as its kernels do
            np.testing.assert_allclose(one.astype(int), other, atol=name in HALFWAY)


def test_example_of_nothing() -> None:
    with pytest.raises(MissingError, match="no example for Nothing"):
        ops.example("Nothing")
