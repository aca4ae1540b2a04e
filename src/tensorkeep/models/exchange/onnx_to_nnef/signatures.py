"""What NNEF's standard operations call their tensors and results (NNEF 1.0.5)."""

from __future__ import annotations

_X_TO_Y = (
    *("exp", "log", "sin", "cos", "tan", "sinh", "cosh", "tanh", "asin", "acos", "atan", "asinh"),
    *("acosh", "atanh", "abs", "sign", "rcp", "neg", "copy", "not", "floor", "ceil", "round"),
    *("sqr", "sqrt", "rsqr", "rsqrt", "log2", "relu", "sigmoid", "softabs", "softmax", "softplus"),
    *("elu", "selu", "gelu", "silu", "leaky_relu"),
)
_X_Y_TO_Z = (
    *("add", "sub", "mul", "div", "pow", "lt", "gt", "le", "ge", "eq", "ne", "and", "or", "min"),
    "max",
)
LOGICAL = frozenset(
    ("lt", "gt", "le", "ge", "eq", "ne", "and", "or", "not", "any_reduce", "all_reduce")
)
# The tensors that an operation takes, in order.
PARAMETERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_X_TO_Y, ("x",)),
    **dict.fromkeys(_X_Y_TO_Z, ("x", "y")),
    "clamp": ("x", "a", "b"),
    "select": ("condition", "true_value", "false_value"),
    "prelu": ("x", "alpha"),
    "matmul": ("A", "B"),
    "linear": ("input", "filter", "bias"),
    "conv": ("input", "filter", "bias"),
    "deconv": ("input", "filter", "bias"),
    "concat": ("values",),
    "stack": ("values",),
    "split": ("value",),
    "unstack": ("value",),
    "gather": ("input", "indices"),
    "batch_normalization": ("input", "mean", "variance", "offset", "scale"),
    **dict.fromkeys(
        (
            *("reshape", "transpose", "slice", "squeeze", "unsqueeze", "tile", "pad", "cast"),
            *("sum_reduce", "max_reduce", "min_reduce", "mean_reduce", "any_reduce", "all_reduce"),
            *("argmax_reduce", "argmin_reduce", "box", "max_pool", "avg_pool", "rms_pool"),
            *("nearest_downsample", "area_downsample", "nearest_upsample"),
            *("multilinear_upsample", "l1_normalization", "l2_normalization"),
            *("local_response_normalization", "local_mean_normalization", "debox"),
        ),
        ("input",),
    ),
}
_RESULTS = {
    **dict.fromkeys((*_X_TO_Y, "clamp", "prelu", "add_n"), "y"),
    **dict.fromkeys(
        (
            *("min_max_linear_quantize", "zero_point_linear_quantize", "linear_quantize"),
            "logarithmic_quantize",
        ),
        "y",
    ),
    **dict.fromkeys(_X_Y_TO_Z, "z"),
    "matmul": "C",
    "concat": "value",
    "stack": "value",
    "split": "values",
    "unstack": "values",
    "argmax_pool": "index",
    "update": "result",
}


def result_of(operation: str) -> str:
    """Name the result of an operation of one result.

    >>> result_of("add"), result_of("conv")
    ('z', 'output')
    """
    return _RESULTS.get(operation, "output")
