"""NNEF 1.0.5's standard operations: their signatures, and what the compound ones are made of.

The facts are those of NNEF 1.0.5's specification, chapters 4.2 to 4.9. What is made of others is
written here so that it computes what the specification's formula says; `add_n` adds in halves,
which nests no deeper than the logarithm of how many it adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from tensorkeep.wire.nnef.parsing import parse_fragments
from tensorkeep.wire.nnef.syntax import Fragment

S, L, I = "tensor<scalar>", "tensor<logical>", "tensor<integer>"  # noqa: E741
_WINDOW = (
    "border: string = 'constant', padding: (integer,integer)[] = [],"
    " stride: integer[] = [], dilation: integer[] = []"
)
_PASSED = "border = border, padding = padding, stride = stride, dilation = dilation"
_SHAPED = f"{_WINDOW}, output_shape: integer[] = []"
_AXES = f"input: {S}, axes: integer[]"
_EPSILON = "bias: scalar = 0.0, epsilon: scalar = 0.0"

_UNARY = (
    "exp log sin cos tan sinh cosh tanh asin acos atan asinh acosh atanh abs sign rcp neg"
    " floor ceil round"
)
# Each with what y or z is made of, by the formula of its section.
_UNARY_BODIES = {
    "sqr": "x ^ 2.0",
    "sqrt": "x ^ 0.5",
    "rsqr": "x ^ -2.0",
    "rsqrt": "x ^ -0.5",
    "log2": "log(x) / log(2.0)",
    "relu": "max(x, 0.0)",
    "sigmoid": "1.0 / (exp(-x) + 1.0)",
    "softplus": "log(1.0 + exp(x))",
    "silu": "x * sigmoid(x)",
    "gelu": "x * sigmoid(x * 1.702)",
}
_BINARY = "add sub mul div pow"
_COMPARISONS = "lt gt le ge eq ne"

_DECLARED = f"""
fragment external<? = scalar>( shape: integer[] ) -> ( output: tensor<?> );
fragment variable<? = scalar>( shape: integer[], label: string ) -> ( output: tensor<?> );
fragment constant<? = scalar>( shape: integer[], value: ?[] ) -> ( output: tensor<?> );
fragment update<?>( variable: tensor<?>, value: tensor<?> ) -> ( result: tensor<?> );
fragment copy<?>( x: tensor<?> ) -> ( y: tensor<?> );
fragment reshape<?>( input: tensor<?>, shape: integer[], axis_start: integer = 0,
                     axis_count: integer = -1 ) -> ( output: tensor<?> );
fragment transpose<?>( input: tensor<?>, axes: integer[] ) -> ( output: tensor<?> );
fragment squeeze<?>( input: tensor<?>, axes: integer[] ) -> ( output: tensor<?> );
fragment unsqueeze<?>( input: tensor<?>, axes: integer[] ) -> ( output: tensor<?> );
fragment concat<?>( values: tensor<?>[], axis: integer ) -> ( value: tensor<?> );
fragment stack<?>( values: tensor<?>[], axis: integer ) -> ( value: tensor<?> );
fragment split<?>( value: tensor<?>, axis: integer, ratios: integer[] ) -> ( values: tensor<?>[] );
fragment unstack<?>( value: tensor<?>, axis: integer ) -> ( values: tensor<?>[] );
fragment slice<?>( input: tensor<?>, axes: integer[], begin: integer[], end: integer[],
                   stride: integer[] = [] ) -> ( output: tensor<?> );
fragment tile<?>( input: tensor<?>, repeats: integer[] ) -> ( output: tensor<?> );
fragment pad( input: {S}, padding: (integer,integer)[], border: string = 'constant',
              value: scalar = 0.0 ) -> ( output: {S} );
fragment gather<?>( input: tensor<?>, indices: {I}, axis: integer = 0 ) -> ( output: tensor<?> );
fragment cast<?>( input: tensor<> ) -> ( output: tensor<?> );
fragment select<?>( condition: {L}, true_value: tensor<?>, false_value: tensor<?> )
    -> ( output: tensor<?> );
fragment and( x: {L}, y: {L} ) -> ( z: {L} );
fragment or( x: {L}, y: {L} ) -> ( z: {L} );
fragment not( x: {L} ) -> ( y: {L} );
fragment matmul( A: {S}, B: {S}, transposeA: logical = false, transposeB: logical = false )
    -> ( C: {S} );
fragment conv( input: {S}, filter: {S}, bias: {S} = 0.0, {_WINDOW}, groups: integer = 1 )
    -> ( output: {S} );
fragment deconv( input: {S}, filter: {S}, bias: {S} = 0.0, {_SHAPED}, groups: integer = 1 )
    -> ( output: {S} );
fragment box( input: {S}, size: integer[], {_WINDOW}, normalize: logical = false )
    -> ( output: {S} );
fragment debox( input: {S}, size: integer[], {_SHAPED}, normalize: logical = false )
    -> ( output: {S} );
fragment argmax_pool( input: {S}, size: integer[], {_WINDOW} ) -> ( index: {I} );
fragment sample( input: {S}, index: {I}, size: integer[], {_WINDOW} ) -> ( output: {S} );
fragment desample( input: {S}, index: {I}, size: integer[], {_SHAPED} ) -> ( output: {S} );
fragment multilinear_upsample( input: {S}, factor: integer[], method: string = 'symmetric',
                               border: string = 'replicate' ) -> ( output: {S} );
fragment sum_reduce( {_AXES}, normalize: logical = false ) -> ( output: {S} );
fragment max_reduce( {_AXES} ) -> ( output: {S} );
fragment min_reduce( {_AXES} ) -> ( output: {S} );
fragment argmax_reduce( {_AXES} ) -> ( output: {I} );
fragment argmin_reduce( {_AXES} ) -> ( output: {I} );
fragment any_reduce( input: {L}, axes: integer[] ) -> ( output: {L} );
fragment all_reduce( input: {L}, axes: integer[] ) -> ( output: {L} );
"""

_COMPOUND = f"""
fragment min( x: {S}, y: {S} ) -> ( z: {S} ) {{ z = select(x < y, x, y); }}
fragment max( x: {S}, y: {S} ) -> ( z: {S} ) {{ z = select(x > y, x, y); }}
fragment clamp( x: {S}, a: {S}, b: {S} ) -> ( y: {S} ) {{ y = max(min(x, b), a); }}
fragment nearest_downsample( input: {S}, factor: integer[] ) -> ( output: {S} ) {{
    rank = length_of(factor) + 2;
    output = box(input, size = [1] * rank, padding = [(0, 0)] * rank, stride = [1, 1] + factor);
}}
fragment area_downsample( input: {S}, factor: integer[] ) -> ( output: {S} ) {{
    window = [1, 1] + factor;
    output = box(input, size = window, padding = [(0, 0)] * length_of(window), stride = window,
                 normalize = true);
}}
fragment nearest_upsample( input: {S}, factor: integer[] ) -> ( output: {S} ) {{
    window = [1, 1] + factor;
    output = debox(input, size = window, padding = [(0, 0)] * length_of(window), stride = window);
}}
fragment mean_reduce( {_AXES} ) -> ( output: {S} ) {{
    output = sum_reduce(input, axes = axes, normalize = true);
}}
fragment moments( {_AXES} ) -> ( mean: {S}, variance: {S} ) {{
    mean = mean_reduce(input, axes = axes);
    variance = mean_reduce(sqr(input - mean), axes = axes);
}}
fragment softabs( x: {S}, epsilon: scalar ) -> ( y: {S} ) {{ y = sqrt(epsilon + sqr(x)); }}
fragment softmax( x: {S}, axes: integer[] = [1] ) -> ( y: {S} ) {{
    powers = exp(x - max_reduce(x, axes = axes));
    y = powers / sum_reduce(powers, axes = axes);
}}
fragment elu( x: {S}, alpha: scalar = 1.0 ) -> ( y: {S} ) {{
    y = select(x < 0.0, (exp(x) - 1.0) * alpha, x);
}}
fragment selu( x: {S}, alpha: scalar = 1.67326319, lambda: scalar = 1.05070102 ) -> ( y: {S} ) {{
    y = elu(x, alpha = alpha) * lambda;
}}
fragment prelu( x: {S}, alpha: {S} ) -> ( y: {S} ) {{ y = select(x < 0.0, x * alpha, x); }}
fragment leaky_relu( x: {S}, alpha: scalar ) -> ( y: {S} ) {{ y = prelu(x, alpha); }}
fragment max_pool_with_index( input: {S}, size: integer[], {_WINDOW} )
    -> ( output: {S}, index: {I} ) {{
    index = argmax_pool(input, size = size, {_PASSED});
    output = sample(input, index, size = size, {_PASSED});
}}
fragment max_pool( input: {S}, size: integer[], {_WINDOW} ) -> ( output: {S} ) {{
    output, index = max_pool_with_index(input, size = size, {_PASSED});
}}
fragment avg_pool( input: {S}, size: integer[], {_WINDOW} ) -> ( output: {S} ) {{
    output = box(input, size = size, {_PASSED}, normalize = true);
}}
fragment rms_pool( input: {S}, size: integer[], {_WINDOW} ) -> ( output: {S} ) {{
    output = sqrt(avg_pool(sqr(input), size = size, {_PASSED}));
}}
fragment linear( input: {S}, filter: {S}, bias: {S} = 0.0 ) -> ( output: {S} ) {{
    output = matmul(input, filter, transposeB = true) + bias;
}}
fragment separable_conv( input: {S}, plane_filter: {S}, point_filter: {S}, bias: {S} = 0.0,
                         {_WINDOW}, groups: integer = 1 ) -> ( output: {S} ) {{
    planes = conv(input, plane_filter, {_PASSED}, groups = 0);
    output = conv(planes, point_filter, bias, groups = groups);
}}
fragment separable_deconv( input: {S}, plane_filter: {S}, point_filter: {S}, bias: {S} = 0.0,
                           {_SHAPED}, groups: integer = 1 ) -> ( output: {S} ) {{
    planes = deconv(input, point_filter, groups = groups);
    output = deconv(planes, plane_filter, bias, {_PASSED}, output_shape = output_shape, groups = 0);
}}
fragment local_response_normalization( input: {S}, size: integer[], alpha: scalar = 1.0,
                                       beta: scalar = 0.5, bias: scalar = 1.0 )
    -> ( output: {S} ) {{
    energy = box(sqr(input), size = size, normalize = true);
    output = input / (energy * alpha + bias) ^ beta;
}}
fragment local_mean_normalization( input: {S}, size: integer[] ) -> ( output: {S} ) {{
    output = input - box(input, size = size, normalize = true);
}}
fragment local_variance_normalization( input: {S}, size: integer[], {_EPSILON} )
    -> ( output: {S} ) {{
    deviation = sqrt(box(sqr(input), size = size, normalize = true));
    output = input / max(deviation + bias, epsilon);
}}
fragment local_contrast_normalization( input: {S}, size: integer[], {_EPSILON} )
    -> ( output: {S} ) {{
    centered = local_mean_normalization(input, size = size);
    output = local_variance_normalization(centered, size = size, bias = bias, epsilon = epsilon);
}}
fragment l1_normalization( {_AXES}, {_EPSILON} ) -> ( output: {S} ) {{
    output = input / max(sum_reduce(abs(input), axes = axes) + bias, epsilon);
}}
fragment l2_normalization( {_AXES}, {_EPSILON} ) -> ( output: {S} ) {{
    output = input / max(sqrt(sum_reduce(sqr(input), axes = axes)) + bias, epsilon);
}}
fragment batch_normalization( input: {S}, mean: {S}, variance: {S}, offset: {S}, scale: {S},
                              epsilon: scalar ) -> ( output: {S} ) {{
    output = (input - mean) / sqrt(variance + epsilon) * scale + offset;
}}
fragment copy_n<?>( x: tensor<?>, times: integer ) -> ( y: tensor<?>[] ) {{ y = [x] * times; }}
fragment add_n( x: {S}[] ) -> ( y: {S} ) {{
    half = length_of(x) / 2;
    y = add_n(x[:half]) + add_n(x[half:]) if half > 0
        else x[0] if length_of(x) > 0
        else constant(shape = [1], value = [0.0]);
}}
"""

_ROI = f"input: {S}, rois: {S}, batch_index: {I}, output_size: integer[]"
_REGIONS = "".join(
    f"""
fragment {kind}_roi_pool( {_ROI} ) -> ( output: {S} );
fragment {kind}_roi_align( {_ROI}, sampling_rate: integer[],
                           resize_method: string = 'symmetric' ) -> ( output: {S} ) {{
    sizes = [for n in output_size, rate in sampling_rate yield n * rate];
    samples = roi_resample(input, rois, batch_index, output_size = sizes, method = resize_method);
    window = [1, 1] + sampling_rate;
    output = {kind}_pool(samples, size = window, padding = [(0, 0)] * length_of(window),
                         stride = window);
}}"""
    for kind in ("avg", "max")
)
_ROI_RESAMPLE = f"fragment roi_resample( {_ROI}, method: string = 'symmetric' ) -> ( output: {S} );"

_QUANTIZATION = f"""
fragment min_max_linear_quantize( x: {S}, min: {S}, max: {S}, bits: integer, signed: logical,
                                  symmetric: logical ) -> ( y: {S} ) {{
    steps = scalar(2 ^ bits - 1 - (1 if signed && symmetric else 0));
    zero = scalar(2 ^ (bits - 1) - (1 if symmetric else 0) if signed else 0);
    level = round((clamp(x, min, max) - min) / (max - min) * steps) - zero;
    y = (level + zero) / steps * (max - min) + min;
}}
fragment zero_point_linear_quantize( x: {S}, zero_point: {I}, scale: {S}, bits: integer,
                                     signed: logical, symmetric: logical ) -> ( y: {S} ) {{
    zero = cast<scalar>(zero_point);
    most = scalar(2 ^ (bits - 1) - 1 if signed else 2 ^ bits - 1);
    least = 0.0 if !signed else (-most) if symmetric else (-most) - 1.0;
    y = (clamp(round(x / scale) + zero, least, most) - zero) * scale;
}}
fragment linear_quantize( x: {S}, min: {S}, max: {S}, bits: integer ) -> ( y: {S} ) {{
    y = min_max_linear_quantize(x, min, max, bits = bits, signed = false, symmetric = false);
}}
fragment logarithmic_quantize( x: {S}, max: {S}, bits: integer ) -> ( y: {S} ) {{
    most = ceil(log2(max));
    level = round(clamp(log2(abs(x)), most - scalar(2 ^ bits - 1), most));
    y = sign(x) * 2.0 ^ level;
}}
"""


@cache
def standard() -> Mapping[str, Fragment]:
    """Give the standard fragments by name.

    >>> standard()["sqr"].results[0].type
    TensorOf(item='scalar')
    """
    x, xy = f"( x: {S} ) -> ( y: {S} )", f"( x: {S}, y: {S} )"
    text = "".join(
        [
            *(f"fragment {name}{x};" for name in _UNARY.split()),
            *(f"fragment {name}{x} {{ y = {body}; }}" for name, body in _UNARY_BODIES.items()),
            *(f"fragment {name}{xy} -> ( z: {S} );" for name in _BINARY.split()),
            *(f"fragment {name}{xy} -> ( z: {L} );" for name in _COMPARISONS.split()),
            *(_DECLARED, _COMPOUND, _REGIONS, _ROI_RESAMPLE, _QUANTIZATION),
        ]
    )
    parsed = parse_fragments(text, "the standard operations")
    return MappingProxyType({fragment.name: fragment for fragment in parsed})


def has_body(name: str) -> bool:
    """Tell whether a standard operation is made of others, which can take its place.

    >>> has_body("moments"), has_body("conv")
    (True, False)
    """
    fragment = standard().get(name)
    return fragment is not None and fragment.body is not None
