"""NNEF texts for tests: translated to ONNX, run, and measured by the nnef package."""

from collections.abc import Callable, Mapping, Sequence

import nnef
import numpy as np
import onnx

import tensorkeep as tk
from tensorkeep import State
from tensorkeep.models.exchange.nnef_to_onnx import translate
from tensorkeep.models.exchange.report import Report
from tensorkeep.models.opening import graph_of
from tensorkeep.tensor import Tensor
from tensorkeep.wire.nnef.document import Document

WORDS = {"f": "scalar", "i": "integer", "b": "logical"}
Case = tuple[str, Callable[..., object]]


def document_text(
    lines: Sequence[str],
    inputs: Mapping[str, np.ndarray],
    variables: Mapping[str, np.ndarray],
    outputs: Sequence[str],
) -> str:
    """Write a graph of lines such as "y = relu(x);"."""
    declared = [
        f"{name} = external<{WORDS[array.dtype.kind]}>(shape = {list(array.shape)});"
        for name, array in inputs.items()
    ]
    declared += [
        f"{name} = variable<{WORDS[array.dtype.kind]}>(shape = {list(array.shape)}, "
        f"label = '{name}');"
        for name, array in variables.items()
    ]
    body = "\n    ".join([*declared, *lines])
    return (
        f"version 1.0;\nextension KHR_enable_operator_expressions;\n\n"
        f"graph net({', '.join(inputs)}) -> ({', '.join(outputs)})\n"
        f"{{\n    {body}\n}}\n"
    )


def read(text: str, variables: Mapping[str, np.ndarray] = {}) -> State:
    """Give the state of a document."""
    tensors = {name: Tensor.of(array) for name, array in variables.items()}
    return State(tensors, document=Document.parse(text), where="net")


def to_onnx(text: str, variables: Mapping[str, np.ndarray] = {}) -> State:
    """Translate a document."""
    return translate(read(text, variables), Report("nnef", "onnx"))


def check_cases(
    cases: Sequence[Case],
    inputs: Mapping[str, np.ndarray],
    variables: Mapping[str, np.ndarray] = {},
    *,
    tolerance: float = 1e-5,
) -> None:
    """Run expressions in one graph, each against a function of the arrays that it names.

    What they give has the element types and shapes that the model declares, and the shapes that
    the nnef package infers; the model is good by all checks.
    """
    lines, outputs = [], []
    for number, (expression, _) in enumerate(cases):
        lines.append(f"r{number} = {expression};")
        outputs.append(f"r{number}")
    text = document_text(lines, inputs, variables, outputs)
    model = to_onnx(text, variables)
    check_model(model)
    given = tk.run(model, dict(inputs))
    shapes = inferred_shapes(text)
    arrays = {**inputs, **variables}
    declared = {value.name: value for value in graph_of(model).outputs}
    for name, (expression, reference) in zip(outputs, cases, strict=True):
        names = reference.__code__.co_varnames[: reference.__code__.co_argcount]
        expected = np.asarray(reference(*(arrays[each] for each in names)))
        found = given[name]
        assert found.dtype == expected.dtype, expression
        assert found.shape == expected.shape == declared[name].axes, expression
        assert list(found.shape) == shapes[name], expression
        assert declared[name].dtype == found.dtype.name, expression
        np.testing.assert_allclose(
            found, expected, rtol=tolerance, atol=tolerance, err_msg=expression
        )


def check_model(model: State) -> None:
    """Check a small model by all that tk.models.check asks, the onnx package in this process."""
    found = tk.models.check(model, official=False)
    assert {finding.code for finding in found} <= {"unused-input"}
    message = b"".join(graph_of(model).model.chunks())
    onnx.checker.check_model(message, full_check=True)


def inferred_shapes(text: str) -> dict[str, list[int]]:
    """Give the shapes of all tensors as the nnef package infers them."""
    graph = nnef.parse_string(text)
    nnef.infer_shapes(graph)
    return {name: list(tensor.shape) for name, tensor in graph.tensors.items()}


def left(array: np.ndarray, rank: int) -> np.ndarray:
    """Add 1-axes at the end, as NNEF's broadcasting does."""
    return array.reshape(*array.shape, *[1] * (rank - array.ndim))
