"""The table of formats: each is imported when it is first asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import NamedTuple

from tensorkeep.format import Format


class Row(NamedTuple):
    """Where a format is, and the endings that mean it, so that naming a file imports one alone."""

    place: str
    suffixes: tuple[str, ...] = ()
    read_only: bool = False


ROWS: dict[str, Row] = {
    "architecture": Row("onnx:ARCHITECTURE", (".arch.json",)),
    "caffe2": Row("caffe2:DATABASE", (".minidb",)),
    "caffe2-blob": Row("caffe2:BARE", (".blobproto", ".tensorproto", ".tensorprotos", ".protodb")),
    "caffe2-net": Row(
        "caffe2:NET",
        (".init_net.pb", ".predict_net.pb", ".init_net.pbtxt", ".predict_net.pbtxt"),
    ),
    "checkpoint": Row("safetensors:CHECKPOINT", read_only=True),
    "darknet": Row("darknet:FORMAT", (".weights",), read_only=True),
    "flax": Row("flax:FORMAT", (".msgpack", ".msgpack.index.json")),
    "gguf": Row("gguf:FORMAT", (".gguf",)),
    "hdf5": Row("hdf5:FORMAT", (".h5", ".hdf5", ".he5")),
    "json": Row("json:FORMAT", (".json",)),
    "keras": Row("hdf5.keras:ARCHIVED", (".keras",)),
    "keras-legacy": Row("hdf5.keras:OLD", (".keras.h5",)),
    "keras-weights": Row("hdf5.keras:BARE", (".weights.h5", ".weights.json")),
    "mxnet": Row("mxnet:FORMAT", (".params",), read_only=True),
    "nnef": Row("nnef:FORMAT", (".nnef",)),
    "nnef-archive": Row("nnef:ARCHIVE", (".nnef.tgz", ".nnef.tar.gz", ".nnef.tar")),
    "nnef-tensor": Row("nnef:ONE", read_only=True),
    "npy": Row("npy:FORMAT", (".npy",)),
    "npz": Row("npz:FORMAT", (".npz",)),
    "onnx": Row("onnx:FORMAT", (".onnx",)),
    "onnx-json": Row("onnx:JSON", (".onnx.json", ".onnxjson")),
    "onnx-syntax": Row("onnx:SYNTAX", (".onnxtxt",)),
    "onnx-tensor": Row("onnx:ONE", read_only=True),
    "onnx-text": Row("onnx:TEXT", (".onnx.pbtxt", ".onnx.textproto", ".pbtxt", ".textproto")),
    "orbax": Row("orbax:FORMAT", read_only=True),
    "pickle": Row(
        "pickle:FORMAT", (".pkl", ".pickle", ".pdparams", ".pdopt", ".joblib"), read_only=True
    ),
    "protobuf": Row("protobuf:FORMAT", (".tensors.pb", ".protobuf")),
    "pytorch": Row("pytorch:FORMAT", (".pt", ".pth", ".bin", ".ckpt")),
    "safetensors": Row("safetensors:FORMAT", (".safetensors", ".safetensors.index.json")),
    "tensorflow": Row("tensorflow:FORMAT", (".index",), read_only=True),
    "torch-distributed": Row("pytorch:DISTRIBUTED", read_only=True),
    "zarr": Row("zarr:FORMAT", (".zarr",)),
}


class _Table(Mapping[str, Format]):
    def __init__(self, names: list[str]) -> None:
        self._names = dict.fromkeys(names)
        self._found: dict[str, Format] = {}

    def __getitem__(self, name: str) -> Format:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._found:
            module, _, attribute = ROWS[name].place.partition(":")
            self._found[name] = getattr(import_module(f"{__package__}.{module}"), attribute)
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


WHOLE_STORES = "caffe2"  # the one that is written to a whole database

FORMATS: Mapping[str, Format] = _Table(list(ROWS))

# Those that `save` and `convert` write.
WRITTEN: Mapping[str, Format] = _Table([name for name, row in ROWS.items() if not row.read_only])


def endings() -> Iterator[tuple[str, str]]:
    """Give every ending with the name of its format."""
    for name, row in ROWS.items():
        for suffix in row.suffixes:
            yield suffix, name
