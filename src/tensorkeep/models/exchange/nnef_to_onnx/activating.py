"""Activation functions."""

from __future__ import annotations

from tensorkeep.models.exchange.nnef_to_onnx.elementwise import unary
from tensorkeep.models.exchange.nnef_to_onnx.reader import Reader, fitted
from tensorkeep.models.exchange.nnef_to_onnx.table import TABLE
from tensorkeep.models.exchange.report import Refused
from tensorkeep.wire.nnef.operations import Operation, Reference

TABLE.row("relu", becomes="Relu")(unary("Relu"))
TABLE.row("sigmoid", becomes="Sigmoid")(unary("Sigmoid"))
TABLE.row("softplus", becomes="Softplus")(unary("Softplus"))
TABLE.row("gelu", becomes="Gelu", note="the exact function, which NNEF leaves open")(unary("Gelu"))


@TABLE.row("silu", becomes="Mul(x, Sigmoid(x))")
def _silu(op: Operation, reader: Reader) -> None:
    x = op.arguments.get("x")
    value = reader.number(x)
    gate = reader.to.node("Sigmoid", [value])
    reader.make(op, "Mul", [value, gate], reader.shape(x), reader.type(x))


@TABLE.row("softabs", becomes="Sqrt(x * x + epsilon)")
def _softabs(op: Operation, reader: Reader) -> None:
    x = op.arguments.get("x")
    value = reader.number(x)
    square = reader.to.node("Mul", [value, value])
    epsilon = reader.scalar(reader.float(op, "epsilon"), like=x)
    moved = reader.to.node("Add", [square, epsilon])
    reader.make(op, "Sqrt", [moved], reader.shape(x), reader.type(x))


@TABLE.row("elu", becomes="Elu")
def _elu(op: Operation, reader: Reader) -> None:
    x = op.arguments.get("x")
    alpha = reader.float(op, "alpha")
    reader.make(op, "Elu", [reader.number(x)], reader.shape(x), reader.type(x), alpha=alpha)


@TABLE.row("selu", becomes="Selu")
def _selu(op: Operation, reader: Reader) -> None:
    x = op.arguments.get("x")
    alpha, gamma = reader.float(op, "alpha"), reader.float(op, "lambda")
    value, dtype = reader.number(x), reader.type(x)
    reader.make(op, "Selu", [value], reader.shape(x), dtype, alpha=alpha, gamma=gamma)


@TABLE.row("leaky_relu", becomes="LeakyRelu")
def _leaky_relu(op: Operation, reader: Reader) -> None:
    x = op.arguments.get("x")
    alpha = reader.float(op, "alpha")
    value, dtype = reader.number(x), reader.type(x)
    reader.make(op, "LeakyRelu", [value], reader.shape(x), dtype, alpha=alpha)


@TABLE.row("prelu", becomes="PRelu", note="its slopes get axes at their ends")
def _prelu(op: Operation, reader: Reader) -> None:
    x, alpha = op.arguments.get("x"), op.arguments.get("alpha")
    dtype, shape = reader.common_number(x, alpha), reader.shape(x)
    if fitted([shape, reader.shape(alpha)]) != shape:
        raise Refused(f"has slopes of shape {list(reader.shape(alpha))} for {list(shape)}")
    reader.make(op, "PRelu", reader.aligned(x, alpha), shape, dtype)


@TABLE.row("softmax", becomes="Softmax; over several axes Exp, ReduceSum and Div")
def _softmax(op: Operation, reader: Reader) -> None:
    x = op.arguments.get("x")
    value, shape, dtype = reader.number(x), reader.shape(x), reader.type(x)
    axes = reader.axes(op, len(shape))
    if not isinstance(x, Reference):
        raise Refused("takes a number, which has no axes")
    if len(axes) == 1:
        reader.make(op, "Softmax", [value], shape, dtype, axis=axes[0])
        return
    over = reader.to.constant(sorted(axes), "int64")
    to, none = reader.to, None if axes else 1
    most = to.node("ReduceMax", [value, over], keepdims=1, noop_with_empty_axes=none)
    powers = to.node("Exp", [to.node("Sub", [value, most])])
    total = to.node("ReduceSum", [powers, over], keepdims=1, noop_with_empty_axes=none)
    reader.make(op, "Div", [powers, total], shape, dtype)
