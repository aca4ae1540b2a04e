"""The same samples in each kind of file, for the benchmarks of training data.

    python -m benchmarks.data_samples FOLDER SAMPLES

A sample is an image of 3x64x64 uint8, random but for its first 8 bytes, which are its number, and
that number as its int64 label. What is in the folder already is kept.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SHAPE = (3, 64, 64)
NBYTES = 3 * 64 * 64
SHARDS = 4  # tar files
IMAGE, LABEL = "image", "label"
NPY_HEAD = 128  # bytes before the image in a .npy

_BYTE, _INT64 = 3, 10  # Caffe2's TensorProto.DataType
_VERSION = 2


def batch_bytes(batch: int) -> int:
    return batch * (NBYTES + 8)


def make(folder: Path, samples: int) -> None:
    """Write all files, unless they are there."""
    mark = folder / "made.json"
    wanted = {"samples": samples, "version": _VERSION}
    if mark.exists() and json.loads(mark.read_text()) == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (samples, *SHAPE), np.uint8)
    labels = np.arange(samples, dtype=np.int64)
    images.reshape(samples, -1)[:, :8] = labels.view(np.uint8).reshape(samples, 8)
    for write in (write_npy, write_safetensors, write_lmdb, write_tars, write_mds):
        try:
            write(folder, images, labels)
        except ImportError as missing:
            print(f"{write.__name__}: {missing}", file=sys.stderr)
    mark.write_text(json.dumps(wanted))


def write_npy(folder: Path, images: Any, labels: Any) -> None:
    (folder / "npy").mkdir()
    np.save(folder / "npy" / f"{IMAGE}.npy", images)
    np.save(folder / "npy" / f"{LABEL}.npy", labels)


def write_safetensors(folder: Path, images: Any, labels: Any) -> None:
    from safetensors.numpy import save_file

    save_file({IMAGE: images, LABEL: labels}, folder / "samples.safetensors")


def write_lmdb(folder: Path, images: Any, labels: Any) -> None:
    """Write Caffe2's image databases: a TensorProtos for each sample."""
    import lmdb

    path = folder / "samples.lmdb"
    with lmdb.open(str(path), map_size=len(images) * 32768 + (64 << 20), sync=False) as base:
        for start in range(0, len(images), 2000):
            with base.begin(write=True) as transaction:
                for i in range(start, min(start + 2000, len(images))):
                    transaction.put(key_of(i), record(images[i], int(labels[i])), append=True)
        base.sync(True)


def key_of(number: int) -> bytes:
    return b"%08d" % number


def record(image: Any, label: int) -> bytes:
    """Give a TensorProtos of two unnamed tensors, as Caffe2's make_image_db writes them."""
    dims = b"".join(b"\x08" + varint(size) for size in SHAPE)
    first = dims + b"\x10" + varint(_BYTE) + b"\x2a" + varint(image.nbytes) + image.tobytes()
    value = varint(label)
    second = b"\x08\x01\x10" + varint(_INT64) + b"\x52" + varint(len(value)) + value
    return b"".join(b"\x0a" + varint(len(part)) + part for part in (first, second))


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tars(folder: Path) -> list[Path]:
    return [folder / f"samples-{shard:05d}.tar" for shard in range(SHARDS)]


def write_tars(folder: Path, images: Any, labels: Any) -> None:
    """Write WebDataset's shards: KEY.image.npy and KEY.label.cls."""
    each = -(-len(images) // SHARDS)
    for shard, path in enumerate(tars(folder)):
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for i in range(shard * each, min((shard + 1) * each, len(images))):
                for name, content in members(i, images[i], labels[i]):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))


def members(number: int, image: Any, label: Any) -> Iterator[tuple[str, bytes]]:
    file = io.BytesIO()
    np.save(file, image)
    yield f"{number:08d}.image.npy", file.getvalue()
    yield f"{number:08d}.label.cls", b"%d" % label


def write_mds(folder: Path, images: Any, labels: Any) -> None:
    from streaming import MDSWriter

    columns = {IMAGE: f"ndarray:uint8:{','.join(map(str, SHAPE))}", LABEL: "int64"}
    with MDSWriter(columns=columns, out=str(folder / "mds")) as out:
        for i in range(len(images)):
            out.write({IMAGE: images[i], LABEL: labels[i]})


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]))
