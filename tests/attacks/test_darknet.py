"""Darknet's weights and configs that are damaged: only our own errors are asked for."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from tests.formats.test_darknet import NET, TINY, weights

import tensorkeep as tk
from tensorkeep.errors import CorruptError, TensorKeepError, UnsafeError, UnsupportedError
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore

COUNT = 4 * 4 + 108 + 6 + 12 + 5 + 50


def read(cfg: bytes, data: bytes) -> bool:
    location = Location(MemoryStore({"a.cfg": cfg, "a.weights": data}), "a.weights")
    try:
        tk.load(location, copy=True)
    except TensorKeepError:
        return False
    return True


def test_every_flipped_bit_of_a_config() -> None:
    cfg, data = TINY.encode(), weights(COUNT)
    assert read(cfg, data)
    for at in range(len(cfg)):
        for bit in range(8):
            read(cfg[:at] + bytes([cfg[at] ^ 1 << bit]) + cfg[at + 1 :], data)


def test_every_truncation() -> None:
    cfg, data = TINY.encode(), weights(COUNT)
    assert not any(read(cfg, data[:size]) for size in range(len(data)))
    for size in range(len(cfg)):
        read(cfg[:size], data)


def test_every_flipped_bit_of_the_header() -> None:
    cfg, data = TINY.encode(), weights(COUNT)
    for at in range(20):
        for bit in range(8):
            read(cfg, data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])


def refuse(cfg: bytes, match: str) -> None:
    location = Location(MemoryStore({"a.cfg": cfg, "a.weights": weights(4)}), "a.weights")
    with pytest.raises((CorruptError, UnsafeError), match=match):
        tk.open(location)


def test_configs_that_are_too_much() -> None:
    refuse(b"[net]\n" + b"#" * (5 << 20), "5,242,886 bytes is over the limit")
    refuse(b"[net]\n" + b"[conv]\n" * 20_000, "more than 10,000 sections")
    refuse(b"[net]\n" + b"[softmax]\n" * 9_000 + b"[route]\nlayers=1\n" * 900, "holds 4 numbers")
    refuse(NET.encode() + b"[conv]\nfilters=2147483647\nsize=2147483647\n", "holds 4 numbers")
    everything = b"[route]\nlayers=" + b",".join([b"-1"] * 100_000) + b"\n"
    refuse(NET.encode() + b"[conv]\n" + everything * 10, "more than 2,147,483,647")


def test_random_bytes_for_a_config() -> None:
    rng = np.random.default_rng(0)
    for size in range(300):
        read(b"[net]\n" + rng.bytes(size), weights(4))


def test_a_config_is_not_read_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.cfg").write_text(f"{NET}[conv]\n")
    (tmp_path / "in" / "a.weights").write_bytes(weights(4))
    (tmp_path / "in" / "a.cfg").symlink_to(tmp_path / "secret.cfg")
    with pytest.raises(UnsafeError, match="outside its own folder"):
        tk.open(tmp_path / "in" / "a.weights")


def test_a_folder_of_many_files(tmp_path: Path) -> None:
    (tmp_path / "a.weights").write_bytes(weights(4))
    deep = tmp_path / "/".join(["deep"] * 50)
    deep.mkdir(parents=True)
    os.symlink(tmp_path, deep / "round")
    with pytest.raises(UnsupportedError, match=r"no \.cfg is beside it"):
        tk.open(tmp_path / "a.weights")
