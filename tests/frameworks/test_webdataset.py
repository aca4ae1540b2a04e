"""Tar shards, against the library whose layout they have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.batches.tars import npy, picture, shard, tar

from tensorkeep.data.sources.tar import open_tar

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning"
    ),  # files left open
]

RNG = np.random.default_rng(11)


@pytest.fixture(scope="module")
def webdataset() -> Any:
    import webdataset

    return webdataset


def theirs(webdataset: Any, path: Path, *decoders: str) -> list[dict[str, Any]]:
    dataset = webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)
    return list(dataset.decode(*decoders) if decoders else dataset)


def test_we_read_what_it_writes(webdataset: Any, tmp_path: Path) -> None:
    images = RNG.integers(0, 255, (20, 5, 6, 3), dtype=np.uint8)
    path = tmp_path / "a.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for i, image in enumerate(images):
            writer.write(
                {
                    "__key__": f"split/{i:05}",
                    "image.png": image,
                    "cls": i % 4,
                    "features.npy": image.astype(np.float32),
                    "caption.txt": f"an image ({i})",
                    "meta.json": {"number": i},
                }
            )
    dataset = open_tar(path)
    expected = theirs(webdataset, path, "rgb8")
    assert len(dataset) == len(expected) == 20
    for row, sample in enumerate(expected):
        assert dataset.name(row) == f"sample {row} ({sample['__key__']!r})"
        found = dataset[row]
        assert found["image"].tolist() == sample["image.png"].tolist() == images[row].tolist()
        assert found["features"].tolist() == sample["features.npy"].tolist()
        assert found["cls"] == sample["cls"]
        assert found["caption"] == sample["caption.txt"]
        assert found["meta"] == sample["meta.json"]
    assert dataset.gather(np.arange(20))["features"].tolist() == images.tolist()


NAMES = [
    *("0.jpg", "0.cls", "a/b/1.x.npy", "a/b/1.y.npy", "./2.txt", "a.b/3.seg.v2.png", "3.cls"),
    *("noending", "__meta__", "__info__/x.txt", "__0.txt", "4.TXT", "4.txt2", "0.cls", "0.jpg"),
    *(".hidden", "a.b/c", "dir.with.dots/5.a.b.c", "5.a.b.c", "ü/6.txt", "x" * 130 + ".txt"),
]


def test_samples_are_grouped_alike(webdataset: Any, tmp_path: Path) -> None:
    from tensorkeep.data.members import read_members
    from tensorkeep.source import FileSource

    path = shard(tmp_path, [(name, b"%d" % i) for i, name in enumerate(NAMES)])
    data = path.read_bytes()
    found = read_members(FileSource(path))
    ours = []
    for row in range(len(found)):
        members = range(int(found.firsts[row]), int(found.firsts[row + 1]))
        values = {
            found.suffixes[found.kinds[i]]: data[found.starts[i] : found.starts[i] + found.sizes[i]]
            for i in members
        }
        ours.append({"__key__": found.key(row)} | values)
    expected = [
        {key: value for key, value in sample.items() if key not in ("__url__", "__local_path__")}
        for sample in theirs(webdataset, path)
    ]
    assert ours == expected


def test_values_are_alike(webdataset: Any, tmp_path: Path) -> None:
    pixels = RNG.integers(0, 255, (9, 8, 3), dtype=np.uint8)
    files = [
        ("0.jpg", picture(pixels, "JPEG")),
        ("0.png", picture(pixels[:, :, 0])),
        ("0.ppm", picture(pixels, "PPM")),
        ("0.x.npy", npy(np.asfortranarray(pixels))),
        ("0.cls", b" 12\n"),
        ("0.index", b"-3"),
        ("0.txt", "ü".encode()),
        ("0.json", b'{"a": [1, 2.5, null]}'),
        ("0.bin", b"\0\xff"),
    ]
    path = tmp_path / "a.tar"
    path.write_bytes(tar(files))
    (sample,) = theirs(webdataset, path, "rgb8")
    found = open_tar(path)[0]
    for field, suffix in [(name, name) for name in found if name != "x"] + [("x", "x.npy")]:
        ours, expected = found[field], sample[suffix]
        if isinstance(ours, np.ndarray):
            assert ours.tolist() == expected.tolist()
        else:
            assert ours == expected
