"""The states of the global random generators: Python's, NumPy's and PyTorch's.

They are kept in state.json as text: a few kilobytes in base64.
"""

from __future__ import annotations

import base64
import random
import sys
from typing import Any

import numpy as np

from tensorkeep.errors import CorruptError
from tensorkeep.state import Json

RNG = "rng"
_WORDS = 625  # of Python's Mersenne twister: its state and its position


def capture_rng() -> dict[str, Json]:
    """Take the states of the generators of all libraries that are imported.

    >>> kept = capture_rng()
    >>> first = random.random(), np.random.rand()
    >>> restore_rng(kept, "example")
    >>> first == (random.random(), np.random.rand())
    True
    """
    version, words, gauss = random.getstate()
    state: dict[str, Json] = {
        "python": {"version": version, "words": _pack(words), "gauss": gauss},
    }
    key = np.random.get_state(legacy=False)
    if key["bit_generator"] == "MT19937":  # another one may be set, which is then its owner's
        state["numpy"] = {
            "bit_generator": "MT19937",
            "key": _pack(key["state"]["key"]),
            "pos": int(key["state"]["pos"]),
            "has_gauss": int(key["has_gauss"]),
            "gauss": float(key["gauss"]),
        }
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        state["torch"] = _text(torch.get_rng_state().numpy().tobytes())
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            kept = [_text(each.numpy().tobytes()) for each in torch.cuda.get_rng_state_all()]
            state["torch_cuda"] = list(kept)
    return state


def restore_rng(state: Any, where: str) -> None:
    """Set the generators to what they were; those of libraries not imported now are left.

    Raises:
        CorruptError: it is no such state; no generator has then changed.
    """
    torch: Any = sys.modules.get("torch")
    before = capture_rng()
    try:
        _restore(state, torch)
    except (
        ValueError,
        TypeError,
        LookupError,
        RuntimeError,
        AttributeError,
        OverflowError,
    ) as error:
        _restore(before, torch)
        raise CorruptError(
            f"the random generators' state is broken: {error}", where=where
        ) from None


def _restore(state: Any, torch: Any) -> None:
    python, numpy = state["python"], state.get("numpy")
    words, gauss = _unpack(python["words"]), python["gauss"]
    if len(words) != _WORDS or not (gauss is None or type(gauss) is float):
        raise ValueError(f"{len(words)} words and {gauss!r}")
    random.setstate((python["version"], tuple(map(int, words)), gauss))
    if numpy is not None:
        inner = {"key": _unpack(numpy["key"]), "pos": numpy["pos"]}
        if type(inner["pos"]) is not int or not 0 <= inner["pos"] < _WORDS:  # NumPy does not look
            raise ValueError(f"position {inner['pos']!r}")
        np.random.set_state({**numpy, "state": inner})
    if torch is None:
        return
    if "torch" in state:
        torch.set_rng_state(_tensor(torch, state["torch"]))
    if "torch_cuda" in state and torch.cuda.is_available():
        devices = torch.cuda.device_count()
        kept = [_tensor(torch, each) for each in state["torch_cuda"][:devices]]
        torch.cuda.set_rng_state_all(kept)


def _pack(words: Any) -> str:
    return _text(np.asarray(words, "<u4").tobytes())


def _unpack(text: str) -> Any:
    return np.frombuffer(base64.b64decode(text, validate=True), "<u4").astype(np.uint32)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _tensor(torch: Any, text: str) -> Any:
    return torch.frombuffer(bytearray(base64.b64decode(text, validate=True)), dtype=torch.uint8)
