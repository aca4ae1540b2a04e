"""Make the files beside this one: what paddle.save writes, byte for byte, without Paddle.

paddle.save is pickle.dump of a dict of NumPy arrays and a table of names (a state_dict), or a
Pickler that reduces a Tensor to `tuple, ((name, array),)` and a LoDTensor to
`eval, ("data", {"data": array})`, as framework/io.py of paddle 2.6 has it. In protocols 2 and 3
arrays of over 2**30 - 1 bytes are cut into flat slices; here the limit is 32 bytes.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).parent
ARRAYS: dict[str, npt.NDArray[Any]] = {
    "linear.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "linear.bias": np.array([0.5, -1.0, 2.0, 4.0], np.float32),
    "embedding.weight": np.arange(8192, dtype=np.float16).reshape(64, 128) % 1000,
    "steps": np.array(7, np.int64),
}
NAMES = {"linear.weight": "linear_0.w_0", "linear.bias": "linear_0.b_0"}
_LIMIT = 32


class Tensor:
    """Stands for paddle's own, pickled alike."""

    def __init__(self, name: str, array: Any) -> None:
        self.name, self.array = name, array

    def __reduce__(self) -> Any:
        return tuple, ((self.name, self.array),)


class LoDTensor(Tensor):
    def __reduce__(self) -> Any:
        return eval, ("data", {"data": self.array})


def state_dict() -> dict[str, Any]:
    return {**ARRAYS, "StructuredToParameterName@@": NAMES}


def sliced() -> dict[str, Any]:
    saved, told = state_dict(), {}
    for name, array in ARRAYS.items():
        most = _LIMIT // array.itemsize
        if array.size > most and array.size < 100:
            flat = saved.pop(name).flatten()
            parts = [flat[at : at + most] for at in range(0, flat.size, most)]
            names = [f"{name}@@.{i}" for i in range(len(parts))]
            told[name] = {"OriginShape": array.shape, "slices": names}
            saved.update(zip(names, parts, strict=True))
    return {**saved, "UnpackBigParamInfor@@": told}


def nested() -> dict[str, Any]:
    return {
        "model": {"weight": Tensor("linear_0.w_0", ARRAYS["linear.weight"])},
        "moments": [Tensor("moment_0", ARRAYS["linear.bias"])],
        "lod": LoDTensor("", ARRAYS["steps"]),
        "epoch": 100,
        "LR_Scheduler": {"last_epoch": 3, "last_lr": 0.125},
    }


def main() -> None:
    for name, value, protocol in (
        ("state_dict.pdparams", state_dict(), 4),
        ("protocol_2.pdparams", state_dict(), 2),
        ("sliced.pdparams", sliced(), 3),
        ("nested.pdparams", nested(), 4),
    ):
        (FOLDER / name).write_bytes(pickle.dumps(value, protocol))


if __name__ == "__main__":
    main()
