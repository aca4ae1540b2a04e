from typing import Any

import numpy as np
import pytest
from tests.models.exchange.onnx_nodes import Journey, Trips, floats, lines, written

from tensorkeep.models.exchange.onnx_to_nnef.contracting import letters
from tensorkeep.models.exchange.report import Refused

PRODUCTS = {
    "matrices": ((3, 4), (4, 2)),
    "vector_matrix": ((4,), (4, 2)),
    "matrix_vector": ((3, 4), (4,)),
    "vectors": ((4,), (4,)),
    "batch": ((2, 3, 4), (2, 4, 2)),
    "batch_one": ((2, 3, 4), (1, 4, 2)),
    "batch_matrix": ((2, 3, 4), (4, 2)),
    "matrix_batch": ((3, 4), (5, 2, 4, 2)),
    "batch_vector": ((2, 3, 4), (4,)),
    "vector_batch": ((4,), (2, 4, 3)),
    "crossed": ((2, 1, 3, 4), (5, 4, 2)),
}
GEMM: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...] | None, dict[str, Any]]] = {
    "plain": ((3, 4), (4, 2), None, {}),
    "linear": ((3, 4), (2, 4), (2,), {"transB": 1}),
    "linear_row": ((3, 4), (2, 4), (1, 2), {"transB": 1}),
    "linear_none": ((3, 4), (2, 4), None, {"transB": 1}),
    "alpha": ((3, 4), (4, 2), None, {"alpha": 0.1}),
    "alpha_beta": ((3, 4), (4, 2), (2,), {"alpha": 0.5, "beta": 0.3}),
    "transposed": ((4, 3), (2, 4), (3, 2), {"transA": 1, "transB": 1}),
    "column": ((4, 3), (4, 2), (3, 1), {"transA": 1}),
    "number": ((3, 4), (4, 2), (), {"beta": 2.0}),
    "one": ((3, 4), (2, 4), (1,), {"transB": 1}),
    "one_column": ((3, 4), (1, 4), (1,), {"transB": 1}),
    "ignored": ((3, 4), (4, 2), (2,), {"beta": 0.0}),
}
EQUATIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "ij,jk->ik": ((2, 3), (3, 4)),
    "ij,jk": ((2, 3), (3, 4)),
    "bij,bjk->bik": ((5, 2, 3), (5, 3, 4)),
    "bhqd,bhkd->bhqk": ((2, 3, 4, 5), (2, 3, 6, 5)),
    "...ij,...jk->...ik": ((2, 5, 2, 3), (1, 5, 3, 4)),
    "i,j->ij": ((2,), (3,)),
    "i,i->": ((4,), (4,)),
    "ij->ji": ((2, 3),),
    "ij->": ((2, 3),),
    "ij->i": ((2, 3),),
    "ij->ij": ((2, 3),),
    "ij,ij->ij": ((2, 3), (2, 3)),
    "ij,j->ij": ((2, 3), (3,)),
    "ijk,ijl->ikl": ((2, 3, 4), (2, 3, 5)),
    "ij,kl->il": ((2, 3), (4, 5)),
    "ij,jk,kl->il": ((2, 3), (3, 4), (4, 5)),
    "i,i,i->i": ((4,), (4,), (4,)),
    "ba,b...->a...": ((2, 3), (2, 4, 5)),
    "...->...": ((2, 3),),
    "abc,dc->bda": ((2, 3, 4), (5, 4)),
    "ii->i": ((3, 3),),
    "ii->": ((3, 3),),
    "...ii->...i": ((2, 3, 3),),
    "iji,j->i": ((3, 2, 3), (2,)),
    "iii->i": ((3, 3, 3),),
}


@pytest.fixture(scope="module")
def journey() -> Journey:
    trips = Trips()
    for name, (a, b) in PRODUCTS.items():
        trips.add(name, "MatMul", [floats(*a), floats(*b, seed=1)])
        trips.add(f"{name}_weight", "MatMul", [floats(*a)], floats(*b, seed=1))
    double = [floats(2, 3).astype("float64"), floats(3, 2).astype("float64")]
    trips.add("double", "MatMul", [*double], types=("float64",), tolerance=1e-14)
    half = [floats(2, 3).astype("float16"), floats(3, 2).astype("float16")]
    trips.add("half", "MatMul", [*half], types=("float16",), tolerance=1e-3)
    for name, (a, b, c, attributes) in GEMM.items():
        weights = [floats(*b, seed=1)] + ([floats(*c, seed=2)] if c is not None else [])
        trips.add(f"gemm_{name}", "Gemm", [floats(*a)], *weights, **attributes)
        trips.add(f"gemm_{name}_given", "Gemm", [floats(*a), *weights], **attributes)
    double = [array.astype("float64") for array in (floats(3, 4), floats(4, 2), floats(2))]
    trips.add(
        "gemm_double", "Gemm", [*double], types=("float64",), tolerance=1e-14, alpha=0.1, beta=0.3
    )
    half = [floats(3, 4).astype("float16"), floats(4, 2).astype("float16")]
    number = np.array(0.3, "float16")
    trips.add("gemm_half", "Gemm", half, number, types=("float16",), tolerance=1e-2, beta=2.0)
    for equation, shapes in EQUATIONS.items():
        operands = [floats(*shape, seed=index) for index, shape in enumerate(shapes)]
        trips.add(f"einsum {equation}", "Einsum", [*operands], equation=equation)
    return trips.run()


@pytest.mark.parametrize(
    "name", [*PRODUCTS, *(f"{name}_weight" for name in PRODUCTS), "double", "half"]
)
def test_a_product_comes_back_the_same(journey: Journey, name: str) -> None:
    journey.check(name)


@pytest.mark.parametrize("name", [*GEMM, *(f"{name}_given" for name in GEMM), "double", "half"])
def test_gemm_comes_back_the_same(journey: Journey, name: str) -> None:
    journey.check(f"gemm_{name}")


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum_comes_back_the_same(journey: Journey, equation: str) -> None:
    journey.check(f"einsum {equation}")


def test_operands_get_equally_many_axes() -> None:
    to = written("MatMul", [(2, 3, 4), floats(4, 5)], (2, 3, 5))
    assert lines(to) == [
        "unsqueeze = unsqueeze(input = b, axes = [0])",
        "y = matmul(A = a, B = unsqueeze)",
    ]


def test_vectors_become_rows_and_columns() -> None:
    to = written("MatMul", [(4,), (4,)], ())
    assert lines(to) == [
        "unsqueeze = unsqueeze(input = a, axes = [0])",
        "unsqueeze_2 = unsqueeze(input = b, axes = [1])",
        "matmul = matmul(A = unsqueeze, B = unsqueeze_2)",
        "y = squeeze(input = matmul, axes = [0, 1])",
    ]


def test_a_layer_is_linear() -> None:
    to = written("Gemm", [(1, 4), floats(3, 4), floats(3)], (1, 3), transB=1)
    assert lines(to) == [
        "unsqueeze = unsqueeze(input = c, axes = [0])",
        "y = linear(input = a, filter = b, bias = unsqueeze)",
    ]


def test_alpha_and_beta_are_multiplied() -> None:
    to = written("Gemm", [(4, 1), floats(4, 3), floats(3)], (1, 3), transA=1, alpha=0.1, beta=2.0)
    assert lines(to) == [
        "matmul = matmul(A = a, B = b, transposeA = True)",
        "mul = mul(x = matmul, y = 0.1)",
        "unsqueeze = unsqueeze(input = c, axes = [0])",
        "mul_2 = mul(x = unsqueeze, y = 2.0)",
        "y = add(x = mul, y = mul_2)",
    ]


@pytest.mark.parametrize(
    ("operator", "shapes", "attributes", "reason"),
    [
        ("MatMul", [(2, 3), (4, 2)], {}, "cannot be multiplied"),
        ("MatMul", [(), (4, 2)], {}, "no axes to multiply along"),
        ("Gemm", [(2, 3, 1), (4, 2)], {}, "not two matrices"),
        ("Einsum", [(2, 3)], {"equation": "ii->i"}, "its axis 'i' is of 2 and of 3"),
        ("Einsum", [(2, 2)], {"equation": "ij,jk->ik"}, "of 2 operands, not 1"),
        ("Einsum", [(2, 2)], {"equation": "ijk->i"}, "names 3 axes of 2"),
        ("Einsum", [(2, 2)], {"equation": "ij->k"}, "does not follow"),
        ("Einsum", [(2, 2)], {"equation": "i2->i"}, "not of letters"),
        ("Einsum", [(2, 2), (3, 2)], {"equation": "ij,jk->ik"}, "is of 2 and of 3"),
    ],
)
def test_what_does_not_fit_is_refused(
    operator: str, shapes: list[Any], attributes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Refused) as refused:
        written(operator, shapes, (2, 2), **attributes)
    assert reason in refused.value.reason


def test_products_of_integers_are_refused() -> None:
    with pytest.raises(Refused, match="is int32, where NNEF computes with scalars"):
        written("MatMul", [(2, 3), np.ones((3, 2), "int32")], (2, 2))


def test_the_axes_of_an_ellipsis_are_aligned_at_their_end() -> None:
    assert letters("a...,...b->...", [3, 2]) == (
        [("a", "1", "0"), ("0", "b")],
        ("1", "0"),
    )
