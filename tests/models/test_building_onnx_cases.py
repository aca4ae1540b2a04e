"""ONNX's own cases of all operators, built anew: checked, and run to the same numbers."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from tests.models.building_checks import graph_of, model

from tensorkeep.errors import ArgumentError
from tensorkeep.graph import KINDS
from tensorkeep.models.building import (
    Body,
    Sparse,
    Symbol,
    Type,
    body,
    initializer,
    input,
    node,
    optional,
    sequence,
    tensor,
)

pytestmark = pytest.mark.slow

# Cases whose operators are older than any opset that models are built with.
OLD = {
    "test_dropout_random_old",
    "test_loop11",
    "test_scan_sum",
    "test_scatter_with_axis",
    "test_scatter_without_axis",
    "test_upsample_nearest",
}
# The inferred shape is another before opset 22, whereas what runtimes compute is the same.
SHAPES = {
    "test_averagepool_2d_ceil_last_window_starts_on_pad",
    "test_maxpool_2d_ceil_output_size_reduce_by_one",
}


def type_of(found: Any) -> Type:
    kind = found.WhichOneof("value")
    if kind == "sequence_type":
        return sequence(type_of(found.sequence_type.elem_type))
    if kind == "optional_type":
        return optional(type_of(found.optional_type.elem_type))
    held = found.tensor_type
    axes = None
    if held.HasField("shape"):
        axes = [
            axis.dim_value if axis.HasField("dim_value") else axis.dim_param or None
            for axis in held.shape.dim
        ]
    return tensor(KINDS[held.elem_type], axes)


def attribute_of(found: Any, scope: dict[str, Symbol]) -> Any:
    value = onnx.helper.get_attribute_value(found)
    match value:
        case onnx.TensorProto():
            return onnx.numpy_helper.to_array(value)
        case onnx.TypeProto():
            return type_of(value)
        case onnx.GraphProto():
            return body_of(value, scope)
        case onnx.SparseTensorProto():
            values, indices = map(onnx.numpy_helper.to_array, (value.values, value.indices))
            return Sparse(values, indices, list(value.dims))
    return value


def body_of(graph: Any, outside: dict[str, Symbol]) -> Body:
    scope = dict(outside)
    inputs = []
    for value in graph.input:
        known = type_of(value.type) if value.type.WhichOneof("value") else None
        scope[value.name] = input(f"{value.name}_{len(outside)}", known)
        inputs.append(scope[value.name])
    make_nodes(graph, scope)
    return body(inputs, [scope[value.name] for value in graph.output])


def make_nodes(graph: Any, scope: dict[str, Symbol]) -> None:
    for held in graph.initializer:
        scope[held.name] = initializer(onnx.numpy_helper.to_array(held), held.name)
    for each in graph.node:
        made: Any = node(
            each.op_type,
            *[scope[name] if name else None for name in each.input],
            outputs=len(each.output),
            domain=each.domain,
            attributes={a.name: attribute_of(a, scope) for a in each.attribute},
        )
        several: tuple[Symbol, ...] = made if isinstance(made, tuple) else (made,)
        scope.update(zip(each.output, several, strict=True))


def run(data: bytes, inputs: Any) -> list[Any] | None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(data, options)
        found: list[Any] = session.run(None, inputs)
    except Exception:  # that the runtime has no such operator is not the matter here
        return None
    return found


def same(a: Any, b: Any) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if not isinstance(a, np.ndarray) or a.dtype.kind not in "fc":
        return bool(np.all(np.asarray(a == b)))
    return bool(np.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True))


def is_sound(given: Any) -> bool:
    try:
        onnx.checker.check_model(given, full_check=True)
    except onnx.shape_inference.InferenceError:
        return False
    return True


def check_case(case: Any) -> bool:
    """Build the model of a case anew; says whether it was run as well."""
    given = case.model
    scope = {value.name: input(value.name, type_of(value.type)) for value in given.graph.input}
    inputs = list(scope.values())
    make_nodes(given.graph, scope)
    outputs = {}
    for value in given.graph.output:
        expected, known = type_of(value.type), scope[value.name].type
        assert known is None or known.dtype is None or known.text == expected.text
        outputs[value.name] = scope[value.name].typed(expected)
    built = model(outputs, inputs=inputs)
    imported = {row.domain: row.version for row in given.opset_import}
    assert graph_of(built).opsets[""] <= max(13, imported.get("", 13))
    data = graph_of(built).model.encode()
    whole = case.name not in SHAPES and is_sound(given)  # some of them the checker refuses itself
    onnx.checker.check_model(data, full_check=whole)
    feeds = dict(
        zip((value.name for value in given.graph.input), case.data_sets[0][0], strict=False)
    )
    before = run(given.SerializeToString(), feeds)
    if before is None or any("random" in each.op_type.lower() for each in given.graph.node):
        return False
    after = run(data, feeds)
    assert after is not None
    assert all(same(a, b) for a, b in zip(before, after, strict=True))
    return True


def test_all_cases() -> None:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # what onnx says while it makes them
        collected = collect_testcases(None)
    cases = [each for each in collected if each.model and not each.model.functions]
    ran = 0
    for case in cases:
        if case.name in OLD:
            with pytest.raises(ArgumentError, match="as it is used here is in opset"):
                check_case(case)
            continue
        try:
            ran += check_case(case)
        except Exception as error:
            raise AssertionError(f"{case.name}: {error}") from error
    assert len(cases) > 1500
    assert ran > 1000
