"""What edits make runs, and computes what it did before."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests.models.editing.networks import GIVEN, NETWORKS, proto_of, run, state_of

from tensorkeep.models.editing import batch, cast, convert_opset, expose, rename
from tensorkeep.state import State

SAME: dict[str, tuple[Callable[[State], State], float]] = {
    "rename": (lambda s: rename(s, {"*.w": "layer.*.kernel", _inner(s): "inner"}), 0),
    "opset up": (lambda s: convert_opset(s, 21), 1e-6),
    "cast": (lambda s: cast(s, "float16", threshold=1), 2e-2),
    "cast to bfloat16": (lambda s: cast(s, "bfloat16", threshold=1), 2e-1),
    "compute": (lambda s: cast(s, "float16", compute=True), 2e-2),
    "back": (lambda s: cast(cast(s, "float16", threshold=1), "float32"), 2e-2),
    "expose": (lambda s: expose(s, "?"), 1e-6),
}  # fmt: skip


def _inner(state: State) -> str:
    """Name a value that is computed in the middle."""
    assert state.graph is not None
    return str(state.graph.model.graph.node[2].output[0])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("edit", SAME)
def test_result_is_valid_and_computes_the_same(network: str, edit: str) -> None:
    state, given = state_of(NETWORKS[network]()), GIVEN[network]
    change, tolerance = SAME[edit]
    changed = change(state)
    proto_of(changed)
    was = run(state, given)[0]
    now = run(changed, given)[0]
    assert np.abs(now - was).max() <= tolerance * max(1, np.abs(was).max())


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("size", [3, "N"])
def test_batch_computes_each_item_as_before(network: str, size: int | str) -> None:
    state, given = state_of(NETWORKS[network]()), GIVEN[network]
    changed = batch(state, size)
    proto_of(changed)
    many = {**given, "x": np.concatenate([given["x"] * k for k in (1, 2, 3)])}
    one = [run(state, {**given, "x": given["x"] * k})[0] for k in (1, 2, 3)]
    np.testing.assert_allclose(run(changed, many)[0], np.concatenate(one), rtol=1e-4, atol=1e-5)
