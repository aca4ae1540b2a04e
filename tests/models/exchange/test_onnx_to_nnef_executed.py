"""What NNEF's own executor, which knows nothing of ONNX, makes of what is written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models.exchange import nnef_session
from tests.models.exchange.onnx_nodes import Array, Trips, array, floats

X = floats(1, 4, 6, 8)
CASES = (
    *("conv", "conv_lower", "conv_groups", "deconv", "deconv_more", "max", "max_ceil", "average"),
    *("counted", "counted_ceil", "lp", "global_average", "global_max", "linear", "gemm", "matmul"),
    *("vectors", "einsum", "batch", "instance", "layer", "group", "lrn", "variance"),
    *("nearest", "symmetric", "asymmetric", "area", "gathered", "weighted", "lstm", "gru"),
    *("quantized", "counting"),
)


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, Array], dict[str, Array], Trips]:
    trips = Trips(opset=21)
    trips.add("conv", "Conv", [X], floats(3, 4, 3, 2), floats(3), strides=[2, 1], pads=[1, 0, 2, 1])
    trips.add("conv_lower", "Conv", [X], floats(3, 4, 2, 2), auto_pad="SAME_LOWER")
    trips.add("conv_groups", "Conv", [X], floats(6, 2, 3, 3), floats(6), group=2)
    trips.add("deconv", "ConvTranspose", [X], floats(4, 2, 3, 3), strides=[2, 2], pads=[1, 1, 0, 1])
    more: dict[str, Any] = {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}
    trips.add("deconv_more", "ConvTranspose", [X], floats(4, 2, 3, 3), floats(2), **more)
    pool: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    trips.add("max", "MaxPool", [X - 9], **pool)
    trips.add("max_ceil", "MaxPool", [X - 9], ceil_mode=1, **pool)
    trips.add("average", "AveragePool", [X], **pool)
    trips.add("counted", "AveragePool", [X], count_include_pad=1, **pool)
    trips.add("counted_ceil", "AveragePool", [X], count_include_pad=1, ceil_mode=1, **pool)
    trips.add("lp", "LpPool", [X], p=3, **pool)
    trips.add("global_average", "GlobalAveragePool", [X])
    trips.add("global_max", "GlobalMaxPool", [X])
    trips.add("linear", "Gemm", [floats(3, 4)], floats(2, 4, seed=1), floats(2), transB=1)
    trips.add(
        "gemm", "Gemm", [floats(4, 3)], floats(4, 2), floats(2), transA=1, alpha=0.5, beta=2.0
    )
    trips.add("matmul", "MatMul", [floats(2, 3, 4), floats(2, 4, 5)])
    trips.add("vectors", "MatMul", [floats(4), floats(4, seed=1)])
    trips.add("einsum", "Einsum", [floats(2, 3, 4), floats(2, 5, 4)], equation="bij,bkj->bik")
    statistics = [floats(4, seed=seed) for seed in (1, 2, 3)]
    trips.add("batch", "BatchNormalization", [X], *statistics, np.abs(floats(4, seed=4)) + 0.1)
    trips.add("instance", "InstanceNormalization", [X], *statistics[:2])
    trips.add("layer", "LayerNormalization", [X], floats(6, 8), floats(6, 8, seed=1), axis=2)
    trips.add("group", "GroupNormalization", [X], *statistics[:2], num_groups=2)
    trips.add("lrn", "LRN", [X], size=3, alpha=0.3, beta=0.6)
    trips.add("variance", "MeanVarianceNormalization", [X])
    none = array([])
    two, fraction = array([1, 1, 2, 2]), array([1, 1, 1.5, 0.7])
    trips.add("nearest", "Resize", [X], none, two)
    trips.add("symmetric", "Resize", [X], none, two, mode="linear")
    corner: dict[str, Any] = {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}
    trips.add("asymmetric", "Resize", [X], none, two, **corner)
    trips.add("area", "Resize", [X], none, array([1, 1, 0.5, 0.5]), mode="linear")
    trips.add("gathered", "Resize", [X], none, fraction)
    trips.add("weighted", "Resize", [X[:, :1]], none, fraction, mode="cubic")
    for name, gates in (("lstm", 4), ("gru", 3)):
        weights = floats(1, gates * 5, 2), floats(1, gates * 5, 5), floats(1, gates * 10)
        trips.add(name, name.upper(), [floats(3, 2, 2)], *weights, hidden_size=5)
    scale = array(0.5), array(3, "int8")
    trips.add("quantized", "QuantizeLinear", [X], *scale, types=("int8",))
    a, b = array([[1, 2, 250]], "uint8"), array([[3], [-100], [7]], "int8")
    trips.add("counting", "MatMulInteger", [a], b, array(5, "uint8"), types=("int32",))
    journey = trips.run()
    folder = tmp_path_factory.mktemp("executed")
    return nnef_session.run(journey.document, trips.feeds, folder), journey.before, trips


@pytest.mark.parametrize("name", CASES)
def test_another_executor_computes_the_same(
    results: tuple[dict[str, Array], dict[str, Array], Trips], name: str
) -> None:
    executed, expected, trips = results
    for output in trips.results[name]:
        assert executed[output].shape == expected[output].shape
        np.testing.assert_allclose(executed[output], expected[output], rtol=1e-4, atol=1e-5)


def test_the_folder_is_nothing_but_nnef(tmp_path: Path) -> None:
    trips = Trips()
    trips.add("conv", "Conv", [X], floats(3, 4, 3, 2), floats(3))
    nnef_session.write(trips.run().document, tmp_path)
    assert sorted(each.suffix for each in tmp_path.iterdir()) == [".dat", ".dat", ".nnef"]
