"""PyTorch files of every layout, read without PyTorch: golden files of the real library."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import errors
from tensorkeep.formats import FORMATS, detect
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.testing import assert_equal_states
from tensorkeep.testing.faults import CountingStore

DATA = Path(__file__).parents[1] / "data" / "pytorch"
EXPECTED: dict[str, dict[str, Any]] = json.loads((DATA / "expected.json").read_text())


@pytest.mark.parametrize("name", ["types.pt", "types_legacy.pt"])
def test_every_type_and_layout(name: str) -> None:
    with tk.open(DATA / name) as state:
        assert state.format == "pytorch"
        assert state.refused == ()
        assert len(state) == (len(EXPECTED) if name == "types.pt" else 22)
        for tensor_name, tensor in state.items():
            expected = EXPECTED[tensor_name]
            assert tensor.dtype.name == expected["dtype"]
            assert list(tensor.shape) == expected["shape"]
            assert bytes(tensor.read()).hex() == expected["hex"]
            for start in range(0, tensor.nbytes, 5):  # however it is cut into pieces
                part = bytes(
                    tensor.source.read(tensor.offset, tensor.offset + tensor.nbytes)[start:]
                )
                assert part.hex() == expected["hex"][2 * start :]
    loaded = tk.load(DATA / name, copy=True)
    assert list(loaded) == list(state)
    loaded["contiguous"][:] = 0  # writable, and nobody else's
    assert tk.load(DATA / name)["contiguous"].sum() == 276


@pytest.mark.parametrize("name", ["training.pt", "training_legacy.pt"])
def test_a_training_state(name: str) -> None:
    found = tk.load(DATA / name)
    assert type(found["model"]) is OrderedDict
    assert list(found["model"])[:2] == ["0.weight", "0.bias"]
    assert found["model"]["1.num_batches_tracked"] == 1
    assert found["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    assert found["optimizer"]["state"][3]["exp_avg"].tolist() == pytest.approx([0.2, 0.2])
    assert found["epoch"] == 3
    assert found["big"] == 2**70
    assert found["text"] == "ünï $"
    plain = [None, True, 0.5, float("inf"), (1, "a"), {1, 2}, b"\0\xff", 1 + 2j]
    assert_equal_states(found["$dollar"], plain)
    assert found["ordered"]["b"][0].tolist() == [1]
    assert type(found["counter"]) is Counter
    assert found["counter"] == {"a": 2, "b": 1}
    assert type(found["default"]) is defaultdict
    assert found["default"]["missing"] == []
    assert found["dtype"] == "bfloat16" or "torch" in sys.modules
    assert tuple(found["size"]) == (2, 3)
    assert str(found["device"]) == "cuda:1"
    assert found["tied"][0] is found["tied"][1]
    assert found["tied"][2].tolist() == [[0, 1], [2, 3]]
    assert found["array"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert type(found["number"]) is np.float32
    assert found["parameter"].tolist() == [1, 1]


def test_the_versions_of_modules_are_metadata() -> None:
    with tk.open(DATA / "training.pt") as state:
        assert state.metadata == {"state_dict_metadata": {"model": {"1": {"version": 2}}}}


def test_the_oldest_layout() -> None:
    found = tk.load(DATA / "oldest.pt")
    assert found["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["t"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert found["v"].tolist() == [3, 5]
    assert found["storage"].tolist() == [0, 1, 2, 3, 4, 5]
    assert found["step"] == 5


def test_tensors_made_of_several() -> None:
    found = tk.load(DATA / "sparse.pt")
    assert found["coo"]["indices"].tolist() == [[0, 1, 2, 3]] * 2
    assert found["coo"]["values"].tolist() == [1] * 4
    assert tuple(found["coo"]["size"]) == (4, 4)
    assert found["coo"]["layout"] == "sparse_coo"
    assert found["csr"]["crow_indices"].tolist() == [0, 1, 2, 3, 4]
    assert found["csc"]["ccol_indices"].tolist() == [0, 1, 2, 3, 4]
    assert found["bsr"]["values"].shape == (2, 2, 2)
    quantized = found["tensor"]
    values = (quantized["int_repr"].astype(float) - quantized["zero_point"]) * quantized["scale"]
    assert values.tolist() == pytest.approx([0.5, -1.0])
    channel = found["channel"]
    assert (channel["scheme"], channel["dtype"], channel["axis"]) == (
        "per_channel_affine",
        "quint8",
        0,
    )
    rows = (channel["int_repr"].astype(float) - channel["zero_points"][:, None]) * channel[
        "scales"
    ][:, None]
    assert rows.ravel().tolist() == pytest.approx([1] * 4)
    with tk.open(DATA / "sparse.pt") as state:
        assert state.remarks["tensor.int_repr"] == "of a tensor quantized, qint8 per_tensor_affine"


@pytest.mark.parametrize("name", ["module.pt", "module_legacy.pt"])
def test_a_module_pickled_whole(name: str) -> None:
    with tk.open(DATA / name) as state:
        assert sorted(state) == ["layer1.bias", "layer1.weight", "steps"]
        assert state.refused == (
            "the whole would need __main__.Net",
            "'layer1' would need torch.nn.modules.linear.Linear",
        )
    with pytest.raises(errors.UnsafeError, match=r"__main__\.Net; .*names=\"\*\"") as caught:
        tk.load(DATA / name)
    assert name in str(caught.value)
    found = tk.load(DATA / name, names="*")
    assert found["steps"] == 7
    assert found["layer1.weight"].shape == (2, 2)


def test_what_is_refused_does_not_keep_the_rest(tmp_path: Path) -> None:
    source, target = DATA / "args.pt", tmp_path / "a.safetensors"
    with pytest.raises(errors.UnsafeError, match=r"'args' would need argparse\.Namespace"):
        tk.load(source)
    with pytest.raises(errors.LossError, match=r"'args' would need argparse\.Namespace"):
        tk.convert(source, target)
    assert not target.exists()
    assert tk.convert(source, target, names="w") == []
    assert tk.load(target)["w"].tolist() == [[1, 1], [1, 1]]
    assert tk.convert(source, target, lossy=True) == ["'args' would need argparse.Namespace"]
    found = tk.load(target)
    assert found["args"]["lr"] == 0.1
    assert found["args"]["tensor"].tolist() == [1, 1]


def test_a_torchscript_program() -> None:
    with tk.open(DATA / "script.pt") as state:
        assert list(state) == ["weight", "bias"]
        assert "the code of its TorchScript program is left out" in state.refused
    assert tk.load(DATA / "script.pt", names="bias")["bias"].shape == (2,)


@pytest.mark.parametrize("name", sorted(path.name for path in DATA.glob("*.pt")))
def test_it_is_recognised_by_its_bytes(name: str, tmp_path: Path) -> None:
    location = Location(MemoryStore({"model": (DATA / name).read_bytes()}), "model")
    assert detect(location).name == "pytorch"
    shutil.copy(DATA / name, tmp_path / "a.safetensors")
    assert [f.name for f in FORMATS.values() if f.accepts(location)] == ["pytorch"]
    with tk.open(tmp_path / "a.safetensors") as state:
        assert state.format == "pytorch"


def test_torch_is_not_imported() -> None:
    code = f"""
import sys, tensorkeep as tk
for name in ("types.pt", "training_legacy.pt", "oldest.pt"):
    tk.load({str(DATA)!r} + "/" + name)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_damage_is_found_by_the_checksums_of_the_archive(tmp_path: Path) -> None:
    data = bytearray((DATA / "types.pt").read_bytes())
    at = data.index(np.arange(24, dtype="<f4").tobytes())
    data[at + 40] ^= 1
    path = tmp_path / "a.pt"
    path.write_bytes(data)
    assert tk.load(DATA / "types.pt", verify=True)["contiguous"].shape == (2, 3, 4)
    with pytest.raises(errors.CorruptError, match="CRC-32"):
        tk.load(path, verify=True)
    with pytest.raises(errors.CorruptError, match="CRC-32"):
        tk.convert(path, tmp_path / "b.safetensors")


def test_checksums_that_were_not_computed(tmp_path: Path) -> None:
    data = bytearray((DATA / "args.pt").read_bytes())
    with zipfile.ZipFile(DATA / "args.pt") as zipped:
        for entry in zipped.infolist():
            crc = entry.CRC.to_bytes(4, "little")
            while entry.CRC and crc in data:
                at = data.index(crc)
                data[at : at + 4] = bytes(4)
    path = tmp_path / "a.pt"
    path.write_bytes(data)
    assert tk.load(path, names="w")["w"].tolist() == [[1, 1], [1, 1]]
    with pytest.raises(errors.UnsupportedError, match="no digest to verify"):
        tk.load(path, names="w", verify=True)


@pytest.mark.parametrize("name", ["types.pt", "types_legacy.pt"])
def test_big_endian_files(name: str, tmp_path: Path) -> None:
    """The same file as a big-endian machine would have written it."""
    path = tmp_path / name
    whole = np.arange(24, dtype="<f4").tobytes()
    swapped = np.arange(24, dtype=">f4").tobytes()
    if name == "types.pt":
        with zipfile.ZipFile(DATA / name) as old, zipfile.ZipFile(path, "w") as new:
            for member in old.namelist():
                data = old.read(member)
                data = swapped if data == whole else data
                new.writestr(member, b"big" if member.endswith("byteorder") else data)
    else:
        data = (DATA / name).read_bytes().replace(whole, swapped)
        path.write_bytes(
            data.replace(
                b"little_endian\x88" if b"little_endian\x88" in data else b"little_endianq\x02\x88",
                b"little_endianq\x02\x89",
            )
        )
    with tk.open(path) as state:
        for each in ("contiguous", "transposed", "sliced", "last"):
            assert bytes(state[each].read()).hex() == EXPECTED[each]["hex"]
        assert state["uint8"].numpy().tolist() == [1, 2, 4]
        assert state["int32"].numpy().tolist() == [1 << 24, 2 << 24, 4 << 24]
        assert state["contiguous"][1, 2, 3] == 23


def test_compressed_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with (
        zipfile.ZipFile(DATA / "types.pt") as old,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for member in old.namelist():
            new.writestr(member, old.read(member))
    assert_equal_states(tk.load(path), tk.load(DATA / "types.pt"))
    assert_equal_states(tk.load(path, verify=True), tk.load(DATA / "types.pt"))


def test_truncations_and_flips() -> None:
    for name in ("args.pt", "training_legacy.pt", "module.pt"):
        data = (DATA / name).read_bytes()
        damaged = [data[:length] for length in range(0, len(data), 23)]
        for at in range(0, len(data), 13):
            flipped = bytearray(data)
            flipped[at] ^= 1 << at % 8
            damaged.append(bytes(flipped))
        for each in damaged:
            try:
                tk.load(Location(MemoryStore({"a.pt": each}), "a.pt"), names="*")
            except errors.TensorKeepError:
                continue


def test_flips_in_the_oldest_layout() -> None:
    data = (DATA / "oldest.pt").read_bytes()
    for at in range(0, len(data), 5):
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
        try:
            tk.load(Location(MemoryStore({"a.pt": bytes(flipped)}), "a.pt"), names="*")
        except errors.TensorKeepError:
            continue


def test_opening_reads_the_structure_alone(tmp_path: Path) -> None:
    """A file of 64 MB opens with under 200 KB read, and a tensor with its own bytes."""
    tensors = {f"w{n}": np.full((1024, 1024), n, np.float32) for n in range(16)}
    tk.save(tensors, tmp_path / "a.pt")
    store = CountingStore(MemoryStore({"a.pt": (tmp_path / "a.pt").read_bytes()}))
    with tk.open(Location(store, "a.pt")) as state:
        assert store.bytes_read < 200_000
        before = store.bytes_read
        assert state["w7"][5, 9] == 7
        assert store.bytes_read - before < 10_000


def test_merging_what_is_not_all_data(tmp_path: Path) -> None:
    sources = {"a": DATA / "types.pt", "b": DATA / "args.pt"}
    with pytest.raises(errors.LossError, match=r"'args' would need argparse\.Namespace, in "):
        tk.convert(sources, tmp_path / "c.safetensors")
    assert tk.convert(sources, tmp_path / "c.safetensors", names=["b.w", "a.conj"]) == []
    assert sorted(tk.load(tmp_path / "c.safetensors")) == ["a.conj", "b.w"]
