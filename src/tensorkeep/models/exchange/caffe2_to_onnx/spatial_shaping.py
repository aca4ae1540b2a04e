"""Types and shapes of what nodes on images make: convolutions, pooling, resizing."""

from __future__ import annotations

from collections.abc import Sequence

from tensorkeep.models.exchange.caffe2_to_onnx.sizes import (
    Call,
    Known,
    Made,
    Rule,
    Size,
    numbers,
    scaled,
)


def _spatial(call: Call, kernel: Sequence[Size], spatial: Sequence[Size]) -> Known:
    """Give the sizes that windows slide over."""
    count = len(kernel)
    strides = call.attributes.get("strides") or [1] * count
    dilations = call.attributes.get("dilations") or [1] * count
    pads = call.attributes.get("pads") or [0] * (2 * count)
    automatic = call.attributes.get("auto_pad", "NOTSET")
    ceil = call.attributes.get("ceil_mode", 0)
    found: list[int | None] = []
    for i, (size, window) in enumerate(zip(numbers(spatial), numbers(kernel), strict=True)):
        if size is None or window is None:
            found.append(None)
        elif automatic == "SAME_UPPER":
            found.append(-(-size // strides[i]))
        else:
            room = size + pads[i] + pads[count + i] - (window - 1) * dilations[i] - 1
            found.append((-(-room // strides[i]) if ceil else room // strides[i]) + 1)
    return tuple(found)


def _conv(call: Call) -> list[Made]:
    weights, dims = call.dims[1], call.first
    if weights is None:
        return [(call.type, None)]
    spatial: Sequence[Size] = [None] * (len(weights) - 2) if dims is None else dims[2:]
    batch = None if dims is None else dims[0]
    kernel = call.attributes.get("kernel_shape") or weights[2:]
    if len(spatial) != len(kernel):
        return [(call.type, None)]
    return [(call.type, (batch, weights[0], *_spatial(call, kernel, spatial)))]


def _conv_transpose(call: Call) -> list[Made]:
    weights, dims = call.dims[1], call.first
    if weights is None:
        return [(call.type, None)]
    kernel = numbers(weights[2:])
    count = len(kernel)
    spatial = (None,) * count if dims is None else numbers(dims[2:])
    if len(spatial) != count:
        return [(call.type, None)]
    strides = call.attributes.get("strides") or [1] * count
    pads = call.attributes.get("pads") or [0] * (2 * count)
    dilations = call.attributes.get("dilations") or [1] * count
    extra = call.attributes.get("output_padding") or [0] * count
    sizes: list[int | None] = []
    for i, (size, window) in enumerate(zip(spatial, kernel, strict=True)):
        if size is None or window is None:
            sizes.append(None)
            continue
        spread = (window - 1) * dilations[i] + 1
        sizes.append((size - 1) * strides[i] + spread + extra[i] - pads[i] - pads[count + i])
    made = weights[1]
    channels = made * call.attributes.get("group", 1) if isinstance(made, int) else None
    return [(call.type, (None if dims is None else dims[0], channels, *sizes))]


def _pool(call: Call) -> list[Made]:
    kernel = call.attributes["kernel_shape"]
    dims: Sequence[Size] = call.first or (None,) * (len(kernel) + 2)
    if len(dims) != len(kernel) + 2:
        return [(call.type, None)]
    return [(call.type, (*dims[:2], *_spatial(call, kernel, dims[2:])))]


def _global_pool(call: Call) -> list[Made]:
    dims = call.first
    return [(call.type, None if dims is None else (*dims[:2], *[1] * (len(dims) - 2)))]


def _resize(call: Call) -> list[Made]:
    dims, scales, sizes = call.first, call.floats(2), call.integers(3)
    if sizes is not None:
        return [(call.type, tuple(sizes))]
    if dims is None or scales is None or len(scales) != len(dims):
        return [(call.type, None if dims is None else (None,) * len(dims))]
    return [(call.type, tuple(scaled(size, by) for size, by in zip(dims, scales, strict=True)))]


SPATIAL_RULES: dict[str, Rule] = {
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), _pool),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Resize": _resize,
}
