"""Networks of Darknet, their weights written here as Darknet's save_weights does."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import formats
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    TensorKeepError,
    UnsupportedError,
)
from tensorkeep.formats.darknet import FORMAT
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.testing import CountingStore

NET = "[net]\nheight=8\nwidth=8\nchannels=3\n"


def weights(count: int, *, minor: int = 2, seen: int = 640) -> bytes:
    """Give a file whose numbers are 0, 1, 2, ..."""
    head = struct.pack("<3i", 0, minor, 0) + seen.to_bytes(8 if minor >= 2 else 4, "little")
    return head + np.arange(count, dtype="<f4").tobytes()


def at(cfg: str, count: int, **options: int) -> Location:
    files = {"a/net.weights": weights(count, **options), "a/net.cfg": cfg.encode()}
    return Location(MemoryStore(files), "a/net.weights")


def shapes(cfg: str) -> dict[str, tuple[int, ...]]:
    """Give the arrays of a network, for which a file of the right length is made."""
    with pytest.raises(CorruptError, match="holds 0 numbers, but the layers of") as caught:
        tk.open(at(cfg, 0))
    count = int(str(caught.value).split("have ")[1].split(".")[0].replace(",", ""))
    with tk.open(at(cfg, count)) as state:
        for number, tensor in enumerate(state.values()):
            assert tensor.offset == 20 if number == 0 else tensor.offset > 20
        last = list(state.values())[-1]
        assert last.numpy().flat[-1] == count - 1
        return {name.removeprefix("layer."): tensor.shape for name, tensor in state.items()}


TINY = """
# A network of one of each of the usual layers.
[net]
height = 8
width=8
channels=3
learning_rate=0.001
anchors = 10,14,  23,27
[convolutional]
batch_normalize=1
filters=4
size=3
stride=2
pad=1
activation=leaky

; halves the sides
[maxpool]
size=2
stride=2
[convolutional]
filters=6
size=1
groups=2
[upsample]
stride=2
[route]
layers = -1, 0
[shortcut]
from=-2
[yolo]
mask = 0,1
[avgpool]
[connected]
output=5
[softmax]
"""


def test_the_usual_layers() -> None:
    assert shapes(TINY) == {
        "000.convolutional.bias": (4,),
        "000.convolutional.scale": (4,),
        "000.convolutional.rolling_mean": (4,),
        "000.convolutional.rolling_var": (4,),
        "000.convolutional.weight": (4, 3, 3, 3),
        "002.convolutional.bias": (6,),
        "002.convolutional.weight": (6, 2, 1, 1),
        "008.connected.bias": (5,),
        "008.connected.weight": (5, 10),
    }


def test_what_is_where_and_what_else_is_known() -> None:
    cfg = f"{NET}[convolutional]\nbatch_normalize=1\nfilters=2\n"
    with tk.open(at(cfg, 14)) as state:
        assert {
            name.rpartition(".")[2]: t.numpy().ravel().tolist() for name, t in state.items()
        } == {
            "bias": [0, 1],
            "scale": [2, 3],
            "rolling_mean": [4, 5],
            "rolling_var": [6, 7],
            "weight": [8, 9, 10, 11, 12, 13],
        }
        assert state.metadata == {
            "darknet": {
                "version": "0.2.0",
                "seen": 640,
                "cfg": [
                    {"section": "net", "height": "8", "width": "8", "channels": "3"},
                    {"section": "convolutional", "batch_normalize": "1", "filters": "2"},
                ],
            }
        }


def test_older_files_count_in_32_bits() -> None:
    with tk.open(at(f"{NET}[convolutional]\n", 4, minor=1, seen=7)) as state:
        about: Any = state.metadata["darknet"]
        assert (about["seen"], about["version"]) == (7, "0.1.0")
        assert next(iter(state.values())).offset == 16


OTHERS: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "deconvolutional": (
        "[deconv]\nfilters=2\nsize=4\nstride=2\npad=1\n[conn]\noutput=1",
        {
            "000.deconvolutional.bias": (2,),
            "000.deconvolutional.weight": (3, 2, 4, 4),
            "001.connected.bias": (1,),
            "001.connected.weight": (1, 14 * 14 * 2),
        },
    ),
    "local": (
        "[local]\nfilters=2\nsize=3\nstride=1\npad=0",
        {"000.local.bias": (72,), "000.local.weight": (36, 2, 3, 3, 3)},
    ),
    "connected with norm": (
        "[connected]\noutput=2\nbatch_normalize=1",
        {
            "000.connected.bias": (2,),
            "000.connected.weight": (2, 192),
            "000.connected.scale": (2,),
            "000.connected.rolling_mean": (2,),
            "000.connected.rolling_var": (2,),
        },
    ),
    "rnn": (
        "[rnn]\noutput=3\nhidden=2",
        {
            "000.rnn.input.bias": (2,),
            "000.rnn.input.weight": (2, 192),
            "000.rnn.self.bias": (2,),
            "000.rnn.self.weight": (2, 2),
            "000.rnn.output.bias": (3,),
            "000.rnn.output.weight": (3, 2),
        },
    ),
    "reorg": (
        "[reorg]\nstride=2\n[conv]\nfilters=4\n[reorg]\nstride=2\nreverse=1\n[conn]",
        {
            "001.convolutional.bias": (4,),
            "001.convolutional.weight": (4, 12, 1, 1),
            "003.connected.bias": (1,),
            "003.connected.weight": (1, 64),
        },
    ),
    "crop": (
        "[crop]\ncrop_height=4\ncrop_width=5\n[conn]",
        {"001.connected.bias": (1,), "001.connected.weight": (1, 60)},
    ),
    "weighted shortcut": (
        "[conv]\nfilters=3\n[shortcut]\nfrom=-1\nweights_type=per_channel",
        {
            "000.convolutional.bias": (3,),
            "000.convolutional.weight": (3, 3, 1, 1),
            "001.shortcut.weight": (2, 3),
        },
    ),
    "channels of a group": (
        "[conv]\nfilters=6\n[route]\nlayers=-1\ngroups=2\ngroup_id=1\n[conv]",
        {
            "000.convolutional.bias": (6,),
            "000.convolutional.weight": (6, 3, 1, 1),
            "002.convolutional.bias": (1,),
            "002.convolutional.weight": (1, 3, 1, 1),
        },
    ),
    "not loaded": (
        "[conv]\ndontload=1\n[conv]\nbatch_normalize=1\ndontloadscales=1",
        {"001.convolutional.bias": (1,), "001.convolutional.weight": (1, 1, 1, 1)},
    ),
}


@pytest.mark.parametrize(("cfg", "expected"), OTHERS.values(), ids=OTHERS)
def test_other_layers(cfg: str, expected: dict[str, tuple[int, ...]]) -> None:
    assert shapes(NET + cfg) == expected


def conv(filters: int, size: int = 3, stride: int = 1, norm: int = 1) -> str:
    return (
        f"[convolutional]\nfilters={filters}\nsize={size}\nstride={stride}\npad=1\n"
        f"batch_normalize={norm}\n"
    )


def pool(stride: int) -> str:
    return f"[maxpool]\nsize=2\nstride={stride}\n"


def head(*filters: int) -> str:
    pairs = "".join(conv(n, 1 if n == min(filters) else 3) for n in filters)
    return f"{pairs}{conv(255, 1, norm=0)}[yolo]\n"


def branch(filters: int, place: int) -> str:
    return (
        f"[route]\nlayers=-4\n{conv(filters, 1)}[upsample]\nstride=2\n[route]\nlayers=-1, {place}\n"
    )


def blocks(filters: int, count: int) -> str:
    once = f"{conv(filters // 2, 1)}{conv(filters)}[shortcut]\nfrom=-3\n"
    return conv(filters, 3, 2) + once * count


YOLO3_TINY = (
    "".join(conv(n) + pool(2) for n in (16, 32, 64, 128, 256))
    + f"{conv(512)}{pool(1)}{conv(1024)}{conv(256, 1)}{conv(512)}{conv(255, 1, norm=0)}[yolo]\n"
    + f"{branch(128, 8)}{conv(256)}{conv(255, 1, norm=0)}[yolo]\n"
)
YOLO3 = (
    conv(32)
    + "".join(blocks(n, times) for n, times in [(64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)])
    + head(*(512, 1024) * 3)
    + f"{branch(256, 61)}{head(*(256, 512) * 3)}{branch(128, 36)}{head(*(128, 256) * 3)}"
)


@pytest.mark.parametrize(
    ("layers", "numbers"),
    [(YOLO3_TINY, "8,858,734"), (YOLO3, "62,001,757")],
    ids=["yolov3-tiny", "yolov3"],
)
def test_published_networks_have_as_many_numbers_as_their_files(layers: str, numbers: str) -> None:
    cfg = f"[net]\nwidth=416\nheight=416\nchannels=3\n{layers}"
    with pytest.raises(CorruptError, match=f"have {numbers}"):
        tk.open(at(cfg, 0))


def test_both_kinds_of_batchnorm() -> None:
    cfg = f"{NET}[batchnorm]\n[conv]\n"
    with tk.open(at(cfg, 9 + 4)) as state:
        assert [name.rpartition(".")[2] for name in state][:3] == [
            "scale",
            "rolling_mean",
            "rolling_var",
        ]
    with tk.open(at(cfg, 12 + 4)) as state:
        assert next(iter(state)) == "layer.000.batchnorm.bias"


@pytest.mark.parametrize(("count", "problem"), [(111, "111"), (113, "113"), (0, "0")])
def test_too_few_and_too_many_numbers(count: int, problem: str) -> None:
    cfg = f"{NET}[conv]\nfilters=4\nsize=3\n"
    with tk.open(at(cfg, 112)) as state:
        assert len(state) == 2
    with pytest.raises(CorruptError, match=f"holds {problem} numbers, .*net.cfg have 112"):
        tk.open(at(cfg, count))


def test_bytes_that_are_no_number() -> None:
    files = {"net.weights": weights(4)[:-1], "net.cfg": f"{NET}[conv]".encode()}
    with pytest.raises(CorruptError, match="holds 3 and 3 bytes numbers"):
        tk.open(Location(MemoryStore(files), "net.weights"))


def test_finding_the_cfg(tmp_path: Path) -> None:
    path = tmp_path / "net.weights"
    path.write_bytes(weights(4))
    with pytest.raises(UnsupportedError, match=r"no \.cfg is beside it .*as net\.cfg"):
        tk.open(path)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "net.cfg").write_text("[net]\n")
    with pytest.raises(UnsupportedError, match=r"no \.cfg is beside it"):
        tk.open(path)
    (tmp_path / "other.cfg").write_text(f"{NET}[conv]\n")
    with tk.open(path) as state:
        assert len(state) == 2
    (tmp_path / "third.cfg").write_text("[net]\n")
    with pytest.raises(UnsupportedError, match=r"2 \.cfg files, none of them net\.cfg, are"):
        tk.open(path)
    (tmp_path / "net.cfg").write_text(f"{NET}[conv]\n")
    with tk.open(path) as state:
        assert state["layer.000.convolutional.weight"].shape == (1, 3, 1, 1)
    tk.convert(path, tmp_path / "a.safetensors")
    assert tk.load(tmp_path / "a.safetensors")["layer.000.convolutional.bias"].tolist() == [0]


BAD_CONFIGS: dict[str, tuple[str, type[TensorKeepError], str]] = {
    "empty": ("", CorruptError, r"does not begin with a \[net\]"),
    "no net": ("[conv]", CorruptError, r"does not begin with a \[net\]"),
    "option first": ("a=1\n[net]", CorruptError, "line 1: 'a=1' is no option"),
    "prose": ("[net]\nhello there", CorruptError, "line 2: 'hellothere' is no option"),
    "unknown layer": ("[net]\n[transformer]", UnsupportedError, r"line 2: \[transformer\] is not"),
    "lstm": ("[net]\n[lstm]", UnsupportedError, r"\[lstm\] has its arrays in another order"),
    "gru": ("[net]\n[gru]", UnsupportedError, r"\[gru\] has its arrays in another order"),
    "flipped": ("[net]\n[conv]\nflipped=1", UnsupportedError, "transposed"),
    "no number": ("[net]\n[conv]\nfilters=many", CorruptError, "filters=many, which is no number"),
    "negative": ("[net]\n[conv]\nsize=-1", CorruptError, "size=-1, which is no number from 1"),
    "huge": ("[net]\n[conv]\nfilters=99999999999", CorruptError, "filters=99999999999"),
    "zero stride": ("[net]\n[maxpool]\nstride=0", CorruptError, "stride=0"),
    "upsampled by none": ("[net]\n[upsample]\nstride=0", CorruptError, "stride=0"),
    "groups": (f"{NET}[conv]\ngroups=2", CorruptError, "divides 3 channels and 1 filters by 2"),
    "route ahead": ("[net]\n[route]\nlayers=0", CorruptError, "names layer 0, of 0 before it"),
    "route back": ("[net]\n[conv]\n[route]\nlayers=-2", CorruptError, "names layer -2, of 1"),
    "no layers": ("[net]\n[route]\nlayers=", CorruptError, "layers=, which are no numbers"),
    "letters": ("[net]\n[route]\nlayers=a,b", CorruptError, "layers=a,b, which are no numbers"),
    "weights": ("[net]\n[conv]\n[shortcut]\nfrom=0\nweights_type=x", CorruptError, "_type=x"),
    "growth": (f"{NET}" + "[reorg]\nstride=99999\n" * 99, CorruptError, "more than 2,147,483,647"),
    "swelling": (f"{NET}" + "[upsample]\nstride=999\n" * 99, CorruptError, "more than"),
}


@pytest.mark.parametrize(("cfg", "kind", "problem"), BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_bad_configs(cfg: str, kind: type[TensorKeepError], problem: str) -> None:
    with pytest.raises(kind, match=problem) as caught:
        tk.open(at(cfg, 4))
    assert "net.cfg" in str(caught.value)


def test_names_and_versions_that_are_not_its_own() -> None:
    data = weights(4)
    assert formats.detect(Location(MemoryStore({"a.weights": data}), "a.weights")).name == "darknet"
    for name in ("a.weights.h5", "a.bin", "weights"):
        assert not FORMAT.accepts(Location(MemoryStore({name: data}), name))
    for other in (b"\x89HDF\r\n\x1a\n" + bytes(90), b"abc", struct.pack("<4i", 0, 77, 0, 0)):
        with pytest.raises(TensorKeepError):
            tk.open(Location(MemoryStore({"a.weights": other}), "a.weights"))


def test_opening_reads_the_header_alone() -> None:
    cfg = f"{NET}[conv]\nfilters=1000\nsize=11\n"
    store = CountingStore(at(cfg, 1000 + 3000 * 121).store)
    with tk.open(Location(store, "a/net.weights")) as state:
        assert store.bytes_read < 20_000
        before = store.bytes_read
        assert state["layer.000.convolutional.weight"][2, 1, 0].tolist() == [
            *range(1000 + 7 * 121, 1011 + 7 * 121)
        ]
        assert store.bytes_read - before == 44


def test_it_is_only_read(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"is read here, not written.*Darknet"):
        tk.save({"w": np.ones(2)}, tmp_path / "a.weights")
