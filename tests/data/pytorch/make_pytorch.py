"""Make the files beside this one with PyTorch, and what they hold as expected.json.

    python tests/data/pytorch/make_pytorch.py

Run it again only to add files: the tests read the bytes that are here. Made with torch 2.13.0.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import struct
import tarfile
import warnings
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
warnings.simplefilter("ignore")
TYPES = """
uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 bfloat16 float32 float64 complex64
complex128 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu
"""


def values() -> dict[str, torch.Tensor]:
    """Give a tensor of each element type and of many layouts."""
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    found = {
        "contiguous": base,
        "transposed": base.T if base.ndim == 2 else base.transpose(0, 2),
        "sliced": base[:, 1:, ::2],
        "expanded": torch.tensor([[1.5], [2.5]]).expand(2, 3),
        "scalar": torch.tensor(-2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "last": base.reshape(-1)[23:],
        "bool": torch.tensor([True, False, True]),
        "conj": torch.tensor([1 + 2j, 3 - 4j]).conj(),
        "neg": torch.tensor([1 + 2j, 3 - 4j]).conj().imag,
        "parameter": torch.nn.Parameter(torch.tensor([1.0, 2.0])).data,
    }
    for name in TYPES.split():
        found[name] = torch.tensor([1, 2, 4]).to(getattr(torch, name))
    return found


def nested() -> Any:
    """Give a training state with all that restricted readers know."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    shared = torch.arange(4.0)
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "big": 2**70,
        "text": "ünï $",
        "$dollar": [None, True, 0.5, float("inf"), (1, "a"), {1, 2}, b"\0\xff", 1 + 2j],
        "ordered": OrderedDict(a=1, b=[torch.ones(1)]),
        "counter": Counter("aab"),
        "default": defaultdict(list, {"x": [1]}),
        "dtype": torch.bfloat16,
        "size": torch.Size([2, 3]),
        "device": torch.device("cuda:1"),
        "tied": [shared, shared, shared.view(2, 2)],
        "array": np.arange(6, dtype=">i4").reshape(2, 3),
        "number": np.float32(1.5),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }


def sparse() -> dict[str, Any]:
    """Give tensors made of several."""
    eye = torch.eye(4)
    return {
        "coo": eye.to_sparse_coo(),
        "csr": eye.to_sparse_csr(),
        "csc": eye.to_sparse_csc(),
        "bsr": eye.to_sparse_bsr((2, 2)),
        "tensor": torch.quantize_per_tensor(torch.tensor([0.5, -1.0]), 0.1, 3, torch.qint8),
        "channel": torch.quantize_per_channel(
            torch.ones(2, 2), torch.tensor([0.1, 0.2]), torch.tensor([0, 1]), 0, torch.quint8
        ),
    }


class Net(torch.nn.Module):  # type: ignore[misc]
    """A module of a class that no reader has."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = torch.nn.Linear(2, 2)
        self.register_buffer("steps", torch.tensor(7))


def tar_file(path: Path) -> None:
    """Write the layout of PyTorch 0.1.9: a tar archive of four members."""
    data = np.arange(6, dtype="<f4")
    storages = pickle.dumps(1, 2) + pickle.dumps((11, "cpu", torch.FloatStorage), 2)
    storages += struct.pack("<q", 6) + data.tobytes() + pickle.dumps([(12, 11, 2, 4)], 2)
    tensors = pickle.dumps(3, 2)
    rows = [(21, 11, (2, 3), (3, 1), 0), (22, 11, (3, 2), (1, 3), 0), (23, 12, (2,), (2,), 1)]
    for key, storage, size, stride, offset in rows:
        tensors += pickle.dumps((key, storage, torch.FloatTensor), 2)
        tensors += struct.pack("<ii", len(size), 0)
        tensors += struct.pack(f"<{len(size)}q", *size) + struct.pack(f"<{len(size)}q", *stride)
        tensors += struct.pack("<q", offset)

    class Kept:
        def __init__(self, key: int) -> None:
            self.key = key

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return str(value.key) if isinstance(value, Kept) else None

    whole = io.BytesIO()
    state = {"w": Kept(21), "t": Kept(22), "v": Kept(23), "storage": Kept(11), "step": 5}
    Pickler(whole, 2).dump(state)
    info = {"protocol_version": 1000, "little_endian": True, "type_sizes": {"short": 2}}
    members = {
        "sys_info": pickle.dumps(info, 2),
        "pickle": whole.getvalue(),
        "tensors": tensors,
        "storages": storages,
    }
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    found = torch.load(path, weights_only=False)
    assert found["t"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert found["v"].tolist() == [3, 5]


def described(tensor: torch.Tensor) -> dict[str, Any]:
    """Give what a test compares: the type, the shape and the bytes."""
    name = str(tensor.dtype).removeprefix("torch.")
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous().clone()
    raw = plain.reshape(-1).view(torch.uint8) if plain.numel() else torch.zeros(0).byte()
    return {"dtype": name, "shape": list(tensor.shape), "hex": raw.numpy().tobytes().hex()}


def main() -> None:
    """Write all files."""
    tensors = values()
    torch.save(tensors, HERE / "types.pt")
    old = {name: t for name, t in tensors.items() if not name.startswith(("float8", "uint"))}
    old["uint8"] = tensors["uint8"]
    torch.save(old, HERE / "types_legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(nested(), HERE / "training.pt")
    torch.save(nested(), HERE / "training_legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(sparse(), HERE / "sparse.pt")
    torch.save(Net(), HERE / "module.pt")
    torch.save(Net(), HERE / "module_legacy.pt", _use_new_zipfile_serialization=False)
    args = argparse.Namespace(lr=0.1, tensor=torch.ones(2))
    torch.save({"w": torch.ones(2, 2), "args": args}, HERE / "args.pt")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), HERE / "script.pt")
    tar_file(HERE / "oldest.pt")
    expected = {name: described(t) for name, t in tensors.items()}
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
