"""The functions for what ONNX lacks: every opset, variant, vendor and kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import pytest
from tests.models.ops.feeds import feeds
from tests.models.ops.references import REFERENCES
from tests.models.ops.running import expanded, parse, run, run_text

from tensorkeep.errors import UnsupportedError
from tensorkeep.models import ops
from tensorkeep.models.ops.examples import examples

RANDOM = np.random.default_rng(3)
LACKING = [name for name in examples() if not ops.operator(name).standard]
PLAIN = '<ir_version: 10, opset_import: ["" : 18, "ai.graphcore" : 1, "caffe2" : 1]>\n'
MICROSOFT = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>\n'


def floats(*shape: int) -> Any:
    return RANDOM.normal(size=shape).astype(np.float32)


def close(one: Any, other: Any, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def test_every_name_that_onnx_lacks_has_a_function() -> None:
    assert len(LACKING) == 42
    assert {ops.functions()[ops.OURS, name, ""].name for name in LACKING} == set(LACKING)


@pytest.mark.parametrize("function", ops.functions().values(), ids=lambda f: f.text.split("\n")[1])
def test_what_a_text_says_is_read_as_onnx_reads_it(function: ops.Function) -> None:
    read = onnx.parser.parse_function(function.text)
    assert (read.domain, read.name, read.overload) == (
        function.domain,
        function.name,
        function.overload,
    )
    assert [each.name for each in function.inputs] == list(read.input)
    assert [each.name for each in function.outputs] == list(read.output)
    with_default = {
        each.name: onnx.helper.get_attribute_value(each) for each in read.attribute_proto
    }
    assert {each.name for each in function.attributes} == {*read.attribute, *with_default}
    for each in function.attributes:
        default = with_default.get(each.name)
        default = default.decode() if isinstance(default, bytes) else default
        assert each.default == (pytest.approx(default) if default is not None else None)


@pytest.mark.parametrize("opset", [10, 11, 13, 15, 17, 18, 19, 21, 23, 25, 28])
def test_runs_at_each_opset_or_says_which_it_needs(opset: int) -> None:
    for name in LACKING:
        _, _, graph = ops.example(name).partition("\n")
        text = f'<ir_version: 10, opset_import: ["" : {opset}]>\n{graph}'
        lowest = ops.operator(name).lowest_opset
        assert lowest is not None
        if opset < lowest:
            with pytest.raises(UnsupportedError, match=f"needs opset {lowest}, .* imports {opset}"):
                expanded(text)
            continue
        given = feeds(name, parse(text))
        made = run(expanded(text), given)
        for one, other in zip(made, REFERENCES[name](given), strict=True):
            close(one.astype(float), other, 1 if one.dtype == np.uint8 else 1e-4)


@pytest.mark.parametrize("kind", ["float16", "double"])
@pytest.mark.parametrize("name", ["Affine", "SmoothL1Loss", "LeakyReluGrad", "TanhGrad"])
def test_other_floats(name: str, kind: str) -> None:
    text = ops.example(name)
    given = {key: value.astype(np.dtype(kind)) for key, value in feeds(name, parse(text)).items()}
    made = run_text(text.replace("float[", f"{kind}[").replace("=> (float ", f"=> ({kind} "), given)
    close(made[0], REFERENCES[name](given)[0], 1e-2 if kind == "float16" else 1e-6)
    assert made[0].dtype == kind


def test_reductions() -> None:
    x, t = floats(4, 3), RANDOM.dirichlet([1, 1, 1], 4).astype(np.float32)
    probability = np.log(RANDOM.dirichlet([1, 1, 1], 4)).astype(np.float32)
    every: dict[str, tuple[Any, Any, Any]] = {
        "IdentityLoss": (x, None, x),
        "KLDivergenceLoss": (probability, t, t * (np.log(t) - probability)),
        "SigmoidCrossEntropyLoss": (x, t, np.logaddexp(0, x) - x * t),
        "SmoothL1Loss": (x, t, np.where(abs(x - t) < 1, (x - t) ** 2 / 2, abs(x - t) - 0.5)),
    }
    for name, (first, second, loss) in every.items():
        reduced = {"mean": loss.mean(), "sum": loss.sum(), "none": loss, "": loss.mean()}
        if name == "KLDivergenceLoss":
            reduced["batchmean"] = loss.sum() / len(loss)
        for reduction, wanted in reduced.items():
            shape = "float[4,3]" if reduction == "none" else "float"
            said = f'<reduction="{reduction}"> ' if reduction else ""
            inputs, names = "float[4,3] X", "X"
            given = {"X": first}
            if second is not None:
                inputs, names = "float[4,3] X, float[4,3] T", "X, T"
                given["T"] = second
            model = expanded(f"{PLAIN}g ({inputs}) => ({shape} Y) {{ Y = {name} {said}({names}) }}")
            close(run(model, given)[0], wanted)
            overload = "" if reduction in ("", "mean") else reduction
            assert model.graph.node[0].overload == overload


def test_reduction_that_is_none_of_them() -> None:
    text = f'{PLAIN}g (float[2] X) => (float Y) {{ Y = IdentityLoss <reduction="max"> (X) }}'
    with pytest.raises(UnsupportedError, match=r"'Y' \(IdentityLoss\) .* none of mean, none, sum"):
        expanded(text)


def test_graphcore() -> None:
    x, part, at = floats(5, 4), floats(2, 4), np.array([3], np.uint32)
    slice_text = (
        f"{PLAIN}g (float[5,4] X, uint32[1] at) => (float[2,4] Y) "
        "{ Y = ai.graphcore.DynamicSlice <axes=[0], sizes=[2]> (X, at) }"
    )
    close(run_text(slice_text, {"X": x, "at": at})[0], x[3:5])
    add_text = (
        f"{PLAIN}g (float[5,4] X, uint32[1] at, float[2,4] P) => (float[5,4] Y) "
        "{ Y = ai.graphcore.DynamicAdd <axes=[0], sizes=[2]> (X, at, P) }"
    )
    wanted = x.copy()
    wanted[3:5] += part
    close(run_text(add_text, {"X": x, "at": at, "P": part})[0], wanted)
    loss = (
        f"{PLAIN}g (float[5,4] X) => (float Y) "
        '{ Y = ai.graphcore.IdentityLoss <reduction="Sum"> (X) }'
    )
    model = expanded(loss)
    assert model.graph.node[0].domain == "ai.graphcore"
    close(run(model, {"X": x})[0], x.sum(), 1e-4)


def test_caffe2() -> None:
    x, t = floats(4, 3), np.array([[1, 0, -1], [0, 1, 1], [-1, -1, 0], [1, 1, 0]], np.int32)
    text = (
        f"{PLAIN}g (float[4,3] X, int32[4,3] T) => (float Y) "
        "{ Y = caffe2.SigmoidCrossEntropyLoss <scale=2.0> (X, T) }"
    )
    counted = t >= 0
    loss = (np.logaddexp(0, x) - x * t)[counted]
    close(run_text(text, {"X": x, "T": t})[0], 2 * loss.sum() / counted.sum())
    text = text.replace("scale=2.0", "normalize=0")
    close(run_text(text, {"X": x, "T": t})[0], loss.sum())

    y, inside, outside = floats(4, 3), floats(4, 3), floats(4, 3)
    text = (
        f"{PLAIN}g (float[4,3] X, float[4,3] T, float[4,3] A, float[4,3] B) => (float Y) "
        "{ Y = caffe2.SmoothL1Loss <beta=0.5, scale=3.0> (X, T, A, B) }"
    )
    d = inside * (x - y)
    smooth = np.where(abs(d) < 0.5, d * d, abs(d) - 0.25)
    given = {"X": x, "T": y, "A": inside, "B": outside}
    close(run_text(text, given)[0], 3 * (outside * smooth).sum() / 4, 1e-4)

    text = f"{PLAIN}g (int64[2,3] X) => (float[2,3] Y) {{ Y = caffe2.RangeFill (X) }}"
    close(run_text(text, {"X": np.zeros((2, 3), np.int64)})[0], np.arange(6).reshape(2, 3))


@pytest.mark.parametrize("log", [False, True])
def test_gradients_of_microsoft_flatten(log: bool) -> None:
    dy, x = floats(2, 3, 4), floats(2, 3, 4)
    raised = np.exp(x.reshape(2, 12))
    y = raised / raised.sum(1, keepdims=True)
    name = "LogSoftmaxGrad" if log else "SoftmaxGrad"
    text = (
        f"{MICROSOFT}g (float[2,3,4] dY, float[2,3,4] Y) => (float[2,3,4] dX) "
        f"{{ dX = com.microsoft.{name} (dY, Y) }}"
    )
    flat = dy.reshape(2, 12)
    if log:
        wanted = flat - y * flat.sum(1, keepdims=True)
    else:
        wanted = (flat - (flat * y).sum(1, keepdims=True)) * y
    given = {"dY": dy, "Y": (np.log(y) if log else y).reshape(2, 3, 4)}
    close(run_text(text, given)[0], wanted.reshape(2, 3, 4))


Q_LINEAR = """g (uint8[256] A, uint8[256] B) => (uint8[256] C) {{
    a = Constant <value = float {{0.02}}> ()
    b = Constant <value = float {{0.03}}> ()
    c = Constant <value = float {{0.047}}> ()
    z = Constant <value = uint8 {{120}}> ()
    C = {name} (A, a, z, B, b, {zero}, c, z)
}}"""


@pytest.mark.parametrize("name", ["QLinearAdd", "QLinearMul"])
def test_quantized_as_the_kernel_of_onnx_runtime(name: str) -> None:
    given = {key: RANDOM.integers(0, 256, 256).astype(np.uint8) for key in "AB"}
    own = expanded(MICROSOFT + Q_LINEAR.format(name=f"com.microsoft.{name}", zero="z"))
    assert not own.functions
    kernel = run(own, given)[0]
    ours = run_text(MICROSOFT + Q_LINEAR.format(name=name, zero="z"), given)[0]
    np.testing.assert_array_equal(ours, kernel)


def test_zero_points_may_be_left_out() -> None:
    given = {key: RANDOM.integers(0, 256, 256).astype(np.uint8) for key in "AB"}
    made = run_text(MICROSOFT + Q_LINEAR.format(name="QLinearAdd", zero=""), given)[0]
    sums = (given["A"] - 120.0) * 0.02 + given["B"] * 0.03
    close(made, np.clip(np.rint(sums / 0.047) + 120, 0, 255), 1)


def test_with_functions_for_kernels_too() -> None:
    text = MICROSOFT + Q_LINEAR.format(name="com.microsoft.QLinearAdd", zero="z")
    model = expanded(text, kernels=False)
    assert [(each.domain, each.name) for each in model.functions] == [
        ("com.microsoft", "QLinearAdd")
    ]
    assert model.graph.node[-1].domain == "com.microsoft"
    given = {key: RANDOM.integers(0, 256, 256).astype(np.uint8) for key in "AB"}
    np.testing.assert_array_equal(run(model, given)[0], run_text(text, given)[0])


@pytest.mark.parametrize("channels", [False, True])
def test_quantized_lstm_is_near_the_kernel_of_onnx_runtime(channels: bool) -> None:
    scale = "float[1,20]" if channels else "float[1]"
    text = f"""g (float[3,2,4] X, int8[1,4,20] W, int8[1,5,20] R, {scale} s, int8[1] z)
    => (float[3,1,2,5] Y, float[1,2,5] H, float[1,2,5] C) {{
    Y, H, C = NAME <hidden_size=5> (X, W, R, , , , , , s, z, s, z)
    }}"""
    if channels:
        text = text.replace("int8[1] z", "int8[1,20] z")
    given = {
        "X": floats(3, 2, 4),
        "W": RANDOM.integers(-100, 100, (1, 4, 20)).astype(np.int8),
        "R": RANDOM.integers(-100, 100, (1, 5, 20)).astype(np.int8),
        "s": np.full((1, 20) if channels else (1,), 0.005, np.float32),
        "z": np.zeros((1, 20) if channels else (1,), np.int8),
    }
    kernel = run_text(MICROSOFT + text.replace("NAME", "com.microsoft.DynamicQuantizeLSTM"), given)
    ours = run_text(MICROSOFT + text.replace("NAME", "DynamicQuantizeLSTM"), given)
    for one, other in zip(ours, kernel, strict=True):
        close(one, other, 5e-3)


def test_padding_as_the_kernel_of_onnx_runtime() -> None:
    text = (
        f"{MICROSOFT}g (float[1,2,4,5] X, float[2,3,3,3] W, int64[4] P, float[3] B)"
        "=> (float[a,b,c,d] Y) { Y = NAME <strides=[2,2], kernel_shape=[3,3]> (X, W, P, B) }"
    )
    given = {"X": floats(1, 2, 4, 5), "W": floats(2, 3, 3, 3), "B": floats(3)}
    given["P"] = np.array([1, 0, 1, 2], np.int64)
    kernel = run_text(text.replace("NAME", "com.microsoft.ConvTransposeWithDynamicPads"), given)
    ours = run_text(text.replace("NAME", "ConvTransposeWithDynamicPadding"), given)
    close(ours[0], kernel[0], 1e-4)


@pytest.mark.parametrize("name", ["Affine", "DynamicSlice"])
def test_what_onnx_runtime_still_runs_is_left_alone(name: str) -> None:
    _, _, graph = ops.example(name).partition("\n")
    text = f'<ir_version: 4, opset_import: ["" : 9]>\n{graph}'
    given = feeds(name, parse(text))
    model = expanded(text)
    assert not model.functions
    assert model == parse(text)
    close(run(model, given, check=False)[0], REFERENCES[name](given)[0])


@pytest.mark.parametrize(("name", "opset"), [("Upsample", 13), ("Upsample", 21), ("Scatter", 16)])
def test_deprecated(name: str, opset: int) -> None:
    _, _, graph = ops.example(name).partition("\n")
    graph = graph[graph.index(name) :]
    text = f'<ir_version: 8, opset_import: ["" : {opset}]>\n{graph}'
    given = feeds(name, parse(text))
    close(run_text(text, given)[0], REFERENCES[name](given)[0])


def test_erfc_loses_its_tail() -> None:
    x = np.array([0.5, 4.5, 9, 9], np.float32)
    made = run_text(ops.example("Erfc"), {"X": x})[0]
    close(made[0], 0.4795001)
    assert made[1] == made[2] == 0


def test_qr_of_a_tall_matrix() -> None:
    x = floats(30, 12)
    q, r = run_text(ops.example("QR").replace("float[6,4]", "float[30,12]"), {"A": x})
    close(q.T @ q, np.eye(12))
    close(q @ r, x)
    assert (np.diag(r) > 0).all()


def test_compress_and_back() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[5,2] X, bool[5] condition) => (float[5,2] Y) {
        kept = Compress <axis=0> (X, condition)
        Y = Decompress (kept, condition)
    }"""
    x, condition = floats(5, 2), np.array([True, False, True, True, False])
    made = run_text(text, {"X": x, "condition": condition})[0]
    close(made, x * condition[:, None])


def test_instance_normalization_gradient_of_other_ranks() -> None:
    for shape in ((2, 3, 5), (2, 3, 2, 3, 2)):
        sizes = ",".join(map(str, shape))
        text = ops.example("InstanceNormalizationGrad").replace("2,3,4,5", sizes)
        dy, x, scale = floats(*shape), floats(*shape), floats(3)
        axes = tuple(range(2, len(shape)))
        made = run_text(text, {"dY": dy, "X": x, "scale": scale})
        normal = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)
        close(made[1], (dy * normal).sum((0, *axes)), 1e-4)
        close(made[0].sum(axes), np.zeros((2, 3)), 1e-4)
        close((made[0] * normal).sum(axes), np.zeros((2, 3)), 1e-3)
