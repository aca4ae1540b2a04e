"""What `benchmarks.exchange` measures: each operation as tensorkeep does it, and as a peer does.

A case makes ready and gives what is to be timed: a function that reads below the first folder and
writes below the second. The nnef package reads and writes folders; what stands for an archive there
is what nnef-tools does: tarfile packs such a folder, and unpacks it to a temporary one.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Prepare = Callable[[Path, Path], Callable[[], Any]]

PACKAGES = {"nnef": "nnef", "nnef-tools": "nnef_tools", "tensorkeep": "tensorkeep"}
_FOLDER, _TAR, _TGZ, _TGZ_OF_TAR = "model.nnef", "model.nnef.tar", "model.nnef.tgz", "other.tgz"
_ONE = "layer3"
_LEVEL = 1  # of gzip, as nnef-tools packs unless told otherwise
_REST = "stride = [1,1], dilation = [1,1], border = 'constant', groups = 1"  # of a conv
_BLOCKS = (3, 4, 6, 3)  # of ResNet-50


class Case(NamedTuple):
    """An operation, and who does it how."""

    what: str
    runs: dict[str, Prepare]


def make(folder: Path, size: int, tensors: int, *, operations: int, width: int) -> None:
    """Write the inputs: a model of square matrices in NNEF, a long text, and a ResNet-50.

    Args:
        folder: where to.
        size: the bytes of all matrices.
        tensors: how many there are.
        operations: of the long text, at the least.
        width: the channels of the ResNet; 64 is what it has.
    """
    import tensorkeep as tk

    folder.mkdir(parents=True)
    side = max(1, int((size / tensors / 4) ** 0.5))
    rng = np.random.default_rng(0)
    lines = [f"x = external(shape = [1, {side}]);"]
    arrays = {}
    for place in range(tensors):
        arrays[f"layer{place}"] = rng.standard_normal((side, side), np.float32)
        before = f"y{place - 1}" if place else "x"
        lines.append(f"w{place} = variable(shape = [{side}, {side}], label = 'layer{place}');")
        lines.append(f"y{place} = matmul({before}, w{place});")
    _write_by_hand(folder / "model.nnef", _graph(lines, f"y{tensors - 1}"), arrays)
    with tk.open(folder / "model.nnef") as state:
        tk.save(state, folder / "model.nnef.tar", durable=False)
        tk.save(state, folder / "model.nnef.tgz", durable=False)
    with tarfile.open(folder / _TGZ_OF_TAR, "w:gz", compresslevel=_LEVEL) as archive:
        archive.add(folder / "model.nnef", ".")
    (folder / "long.nnef").write_text(_graph(_chain(operations), "last"))
    tk.save(resnet(width), folder / "resnet.onnx", external=False, durable=False)
    tk.convert(folder / "resnet.onnx", folder / "resnet.nnef", durable=False)
    (folder / "pair").mkdir()
    tk.convert(folder / "resnet.onnx", folder / "pair" / "predict_net.pb", durable=False)


def _graph(lines: list[str], output: str) -> str:
    body = "".join(f"    {line}\n" for line in lines)
    return f"version 1.0;\n\ngraph net( x ) -> ( {output} )\n{{\n{body}}}\n"


def _write_by_hand(folder: Path, text: str, arrays: dict[str, Any]) -> None:
    from tensorkeep.tensor import Tensor
    from tensorkeep.wire.nnef.tensors import write_header

    folder.mkdir()
    (folder / "graph.nnef").write_text(text)
    for name, array in arrays.items():
        with open(folder / f"{name}.dat", "wb") as file:
            file.write(write_header(Tensor.of(array)))
            file.write(array.data)


def _chain(operations: int) -> list[str]:
    lines, last = ["x = external(shape = [1, 16, 32, 32]);"], "x"
    for place in range(operations // 5):
        lines += [
            f"w{place} = variable(shape = [16, 16, 3, 3], label = 'block{place}/filter');",
            f"b{place} = variable(shape = [1, 16], label = 'block{place}/bias');",
            f"c{place} = conv({last}, w{place}, b{place}, padding = [(1,1), (1,1)], {_REST});",
            f"r{place} = relu(c{place});",
            f"s{place} = add(r{place}, {last});",
        ]
        last = f"s{place}"
    return [*lines, f"last = copy({last});"]


def resnet(width: int) -> Any:
    """Build a ResNet-50 in ONNX of random weights: 102 MB where the width is 64."""
    from tensorkeep import models

    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> Any:
        spread = np.sqrt(2 / np.prod(shape[1:]))
        return models.initializer((rng.standard_normal(shape) * spread).astype("float32"), name)

    def conv(x: Any, name: str, inner: int, outer: int, kernel: int, stride: int = 1) -> Any:
        w = weight(f"{name}.weight", outer, inner, kernel, kernel)
        pads = [kernel // 2] * 4
        x = models.node("Conv", x, w, pads=pads, strides=[stride] * 2, kernel_shape=[kernel] * 2)
        facts = [np.ones(outer), np.zeros(outer), rng.standard_normal(outer) / 9, np.ones(outer)]
        names = ("scale", "bias", "mean", "variance")
        named = [
            models.initializer(value.astype("float32"), f"{name}.{each}")
            for each, value in zip(names, facts, strict=True)
        ]
        return models.node("BatchNormalization", x, *named, epsilon=1e-5)

    def block(x: Any, name: str, inner: int, middle: int, stride: int) -> Any:
        outer = 4 * middle
        y = models.node("Relu", conv(x, f"{name}.1", inner, middle, 1))
        y = models.node("Relu", conv(y, f"{name}.2", middle, middle, 3, stride))
        y = conv(y, f"{name}.3", middle, outer, 1)
        if inner != outer or stride > 1:
            x = conv(x, f"{name}.skip", inner, outer, 1, stride)
        return models.node("Relu", models.node("Add", y, x))

    x = models.input("x", "float32", [1, 3, 224, 224])
    y = models.node("Relu", conv(x, "stem", 3, width, 7, 2))
    y = models.node("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inner = width
    for stage, count in enumerate(_BLOCKS):
        for place in range(count):
            stride = 2 if stage and not place else 1
            y = block(y, f"stage{stage}.{place}", inner, width << stage, stride)
            inner = 4 * (width << stage)
    y = models.node("Flatten", models.node("GlobalAveragePool", y))
    y = models.node("Gemm", y, weight("fc.weight", 1000, inner), weight("fc.bias", 1000), transB=1)
    return models.model({"y": y}, name="resnet50")


def _sum(arrays: Iterable[Any]) -> float:
    return sum(float(array.sum()) for array in arrays)


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """Unpack an archive to a temporary folder, as nnef-tools does."""
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder, tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
        yield Path(folder)


def _nnef_open(name: str) -> Prepare:
    def prepare(folder: Path, _: Path) -> Callable[[], Any]:
        import nnef

        def run() -> Any:
            with _unpacked(folder / name) as model:
                return nnef.load_graph(str(model), load_variables=False)

        return run

    return prepare


def _nnef_one(name: str) -> Prepare:
    def prepare(folder: Path, _: Path) -> Callable[[], Any]:
        import nnef

        def run() -> Any:
            with _unpacked(folder / name) as model:
                nnef.load_graph(str(model), load_variables=False)
                with open(model / f"{_ONE}.dat", "rb") as file:
                    return _sum([nnef.read_tensor(file)])

        return run

    return prepare


def _nnef_all(name: str) -> Prepare:
    def prepare(folder: Path, _: Path) -> Callable[[], Any]:
        import nnef

        def run() -> Any:
            with _unpacked(folder / name) as model:
                graph = nnef.load_graph(str(model))
            datas = [tensor.data for tensor in graph.tensors.values()]
            return _sum(data for data in datas if isinstance(data, np.ndarray) and data.size)

        return run

    return prepare


def _nnef_save(ending: str) -> Prepare:
    def prepare(folder: Path, made: Path) -> Callable[[], Any]:
        import nnef

        graph = nnef.load_graph(str(folder / "model.nnef"))

        def run() -> None:
            if not ending:
                nnef.save_graph(graph, str(made / "model"))
                return
            with tempfile.TemporaryDirectory() as beside:
                nnef.save_graph(graph, f"{beside}/model")
                mode = {".tar": "w", ".tgz": "w:gz"}[ending]
                level = {} if ending == ".tar" else {"compresslevel": _LEVEL}
                with tarfile.open(made / f"model{ending}", mode, **level) as archive:  # type: ignore[call-overload]
                    for name in os.listdir(f"{beside}/model"):
                        archive.add(f"{beside}/model/{name}", name)

        return run

    return prepare


def _nnef_parse(folder: Path, _: Path) -> Callable[[], Any]:
    import nnef

    text = (folder / "long.nnef").read_text()
    return lambda: nnef.parse_string(text)


def _open(name: str) -> Prepare:
    def prepare(folder: Path, _: Path) -> Callable[[], Any]:
        import tensorkeep as tk

        return lambda: tk.open(folder / name)

    return prepare


def _one(name: str) -> Prepare:
    def prepare(folder: Path, _: Path) -> Callable[[], Any]:
        import tensorkeep as tk

        return lambda: _sum(tk.load(folder / name, names=_ONE).values())

    return prepare


def _all(name: str) -> Prepare:
    def prepare(folder: Path, _: Path) -> Callable[[], Any]:
        import tensorkeep as tk

        return lambda: _sum(tk.load(folder / name).values())

    return prepare


def _save(ending: str) -> Prepare:
    def prepare(folder: Path, made: Path) -> Callable[[], Any]:
        import tensorkeep as tk
        from tensorkeep.tensor import Tensor

        arrays = tk.load(folder / "model.nnef", copy=True)
        state = tk.open(folder / "model.nnef")
        state = state.replace(tensors={name: Tensor.of(array) for name, array in arrays.items()})
        return lambda: tk.save(state, made / f"model.nnef{ending}", durable=False)

    return prepare


def _parse(folder: Path, _: Path) -> Callable[[], Any]:
    from tensorkeep.wire.nnef.document import Document

    text = (folder / "long.nnef").read_text()
    return lambda: Document.parse(text).operations()


def _convert(source: str, target: str) -> Prepare:
    def prepare(folder: Path, made: Path) -> Callable[[], Any]:
        import tensorkeep as tk

        return lambda: tk.convert(folder / source, made / target, durable=False)

    return prepare


def _tools_to_nnef(compression: int | None) -> Prepare:
    def prepare(folder: Path, made: Path) -> Callable[[], Any]:
        from nnef_tools.conversion.onnx_to_nnef import Converter
        from nnef_tools.io.nnef import Writer
        from nnef_tools.io.onnx import Reader
        from nnef_tools.optimization.onnx_optimizer import Optimizer

        def run() -> None:
            converter = Converter(infer_shapes=False)
            graph = Optimizer()(Reader()(str(folder / "resnet.onnx")), only_required=True)
            graph.sort()
            writer = Writer(
                fragments=converter.defined_operations(),
                fragment_dependencies=converter.defined_operation_dependencies(),
                compression=compression,
            )
            writer(converter(graph), str(made / "resnet.nnef"))

        return run

    return prepare


def _tools_to_onnx(folder: Path, made: Path) -> Callable[[], Any]:
    from nnef_tools.conversion.nnef_to_onnx import Converter
    from nnef_tools.io.nnef import Reader
    from nnef_tools.io.onnx import Writer
    from nnef_tools.optimization.nnef_optimizer import Optimizer

    def run() -> None:
        converter = Converter()
        shapes = converter.defined_shapes()
        reader = Reader(decomposed=converter.decomposed_operations(), custom_shapes=shapes)
        graph = Optimizer()(reader(str(folder / "resnet.nnef")), only_required=True)
        graph.sort()
        Writer()(converter(graph), str(made / "resnet.onnx"))

    return run


CASES = (
    Case("open a folder", {"nnef": _nnef_open(_FOLDER), "tensorkeep": _open(_FOLDER)}),
    Case("open .tar", {"nnef": _nnef_open(_TAR), "tensorkeep": _open(_TAR)}),
    Case("open .tgz", {"nnef": _nnef_open(_TGZ), "tensorkeep": _open(_TGZ)}),
    Case(
        "open .tgz by tarfile", {"nnef": _nnef_open(_TGZ_OF_TAR), "tensorkeep": _open(_TGZ_OF_TAR)}
    ),
    Case("one tensor of a folder", {"nnef": _nnef_one(_FOLDER), "tensorkeep": _one(_FOLDER)}),
    Case("one tensor of .tar", {"nnef": _nnef_one(_TAR), "tensorkeep": _one(_TAR)}),
    Case("one tensor of .tgz", {"nnef": _nnef_one(_TGZ), "tensorkeep": _one(_TGZ)}),
    Case("load a folder, and sum", {"nnef": _nnef_all(_FOLDER), "tensorkeep": _all(_FOLDER)}),
    Case("load .tar, and sum", {"nnef": _nnef_all(_TAR), "tensorkeep": _all(_TAR)}),
    Case("load .tgz, and sum", {"nnef": _nnef_all(_TGZ), "tensorkeep": _all(_TGZ)}),
    Case(
        "load .tgz by tarfile, and sum",
        {"nnef": _nnef_all(_TGZ_OF_TAR), "tensorkeep": _all(_TGZ_OF_TAR)},
    ),
    Case("save a folder", {"nnef": _nnef_save(""), "tensorkeep": _save("")}),
    Case("save .tar", {"nnef": _nnef_save(".tar"), "tensorkeep": _save(".tar")}),
    Case("save .tgz", {"nnef": _nnef_save(".tgz"), "tensorkeep": _save(".tgz")}),
    Case("parse 5,000 operations", {"nnef": _nnef_parse, "tensorkeep": _parse}),
    Case(
        "ONNX to NNEF, a folder",
        {
            "nnef-tools": _tools_to_nnef(None),
            "tensorkeep": _convert("resnet.onnx", "resnet.nnef"),
        },
    ),
    Case(
        "ONNX to NNEF, .tgz",
        {
            "nnef-tools": _tools_to_nnef(_LEVEL),
            "tensorkeep": _convert("resnet.onnx", "resnet.nnef.tgz"),
        },
    ),
    Case(
        "NNEF to ONNX",
        {"nnef-tools": _tools_to_onnx, "tensorkeep": _convert("resnet.nnef", "resnet.onnx")},
    ),
    Case("ONNX to Caffe2", {"tensorkeep": _convert("resnet.onnx", "predict_net.pb")}),
    Case("Caffe2 to ONNX", {"tensorkeep": _convert("pair/predict_net.pb", "resnet.onnx")}),
)
