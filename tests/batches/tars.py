"""Tar shards and pictures to test with."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Files = Iterable[tuple[str, bytes]]


def npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def tar(files: Files, **options: Any) -> bytes:
    """Pack files as Python's own library does."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def shard(folder: Path, files: Files, name: str = "a.tar", **options: Any) -> Path:
    path = folder / name
    path.write_bytes(tar(files, **options))
    return path


def numbered(count: int, seed: int = 0) -> tuple[list[tuple[str, bytes]], Any]:
    """Give members of samples of an array and a label each, and the arrays."""
    arrays = np.random.default_rng(seed).integers(0, 255, (count, 3, 4, 5), dtype=np.uint8)
    files = [
        member
        for i, array in enumerate(arrays)
        for member in ((f"{i:04}.image.npy", npy(array)), (f"{i:04}.cls", b"%d" % (i % 7)))
    ]
    return files, arrays


def picture(pixels: Any, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, **options)
    return buffer.getvalue()
