"""Constants: what constant nodes say, and what ONNX Runtime computes of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from .messages import ProblemError

COMPUTED = 1 << 20  # bytes of what is computed here


def evaluate(
    nodes: Sequence[NodeProto], constants: Sequence[TensorProto], version: int
) -> dict[str, TensorProto]:
    """Have ONNX Runtime compute what nodes give; raises whatever it raises.

    Args:
        nodes: in order.
        constants: what they take.
        version: of ONNX's operator set.
    """
    import onnxruntime as ort

    model = onnx.ModelProto(ir_version=10)
    model.opset_import.add(domain="", version=version)
    model.graph.name = "constants"
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    names = [name for node in nodes for name in node.output if name]
    for name in names:
        model.graph.output.add(name=name)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = session.run(names, {})
    made = {}
    for name, value in zip(names, found, strict=True):
        if not isinstance(value, np.ndarray) or value.nbytes > 2 * COMPUTED:
            raise ProblemError(f"{name!r} is no small tensor")
        made[name] = numpy_helper.from_array(value, name)
    return made


def constant_of(node: NodeProto) -> TensorProto | None:
    """Give the value of a Constant; None where it has none that is known here."""
    for row in node.attribute:
        match row.name:
            case "value":
                return row.t
            case "sparse_value":
                return dense(row.sparse_tensor)
            case "value_float":
                return numpy_helper.from_array(np.array(row.f, np.float32))
            case "value_floats":
                return numpy_helper.from_array(np.array(row.floats, np.float32))
            case "value_int":
                return numpy_helper.from_array(np.array(row.i, np.int64))
            case "value_ints":
                return numpy_helper.from_array(np.array(row.ints, np.int64))
            case "value_string":
                return TensorProto(data_type=8, string_data=[row.s])
            case "value_strings":
                dims = [len(row.strings)]
                return TensorProto(data_type=8, dims=dims, string_data=row.strings)
    return None


def dense(sparse: onnx.SparseTensorProto) -> TensorProto | None:
    """Write a sparse tensor out; None where it would be large, or is not here.

    Raises:
        ProblemError: a place is not in it.
    """
    if sparse.values.data_location or sparse.indices.data_location:
        return None
    values, places = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    if int(np.prod(sparse.dims, dtype=object)) * values.itemsize > COMPUTED:
        return None
    array = np.zeros(tuple(sparse.dims), values.dtype)
    try:
        if places.ndim == 1:
            array.reshape(-1)[places] = values
        else:
            array[tuple(places.T)] = values
    except IndexError as error:
        raise ProblemError(f"a sparse constant has a place that is not in it: {error}") from None
    return numpy_helper.from_array(array)
