"""Folders of pictures as datasets: classes, order, links, and what Pillow is not allowed."""

from __future__ import annotations

import io
import os
import pickle
import struct
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from tests.batches.tars import picture

from tensorkeep.data.dataset import Field
from tensorkeep.data.pictures import ENDINGS, MOST_BYTES, decode_picture
from tensorkeep.data.sources.images import ImagesDataset, open_images, recognises
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    MissingError,
    StoreError,
    TensorKeepError,
    UnsafeError,
    UnsupportedError,
)

RNG = np.random.default_rng(5)
PIXELS = RNG.integers(0, 255, (5, 7, 3), dtype=np.uint8)


def folder_of(root: Path, *paths: str) -> Path:
    """Make pictures whose first value is their number."""
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        pixels = PIXELS.copy()
        pixels[0, 0, 0] = number
        (root / path).write_bytes(picture(pixels))
    return root


def test_classes_are_folders(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "dog/1.png", "cat/10.png", "cat/9.PNG", "dog/more/deep/2.png")
    (folder / "bird").mkdir()
    (folder / "cat" / "notes.txt").write_text("no picture")
    (folder / "cat" / ".hidden.png").write_text("no picture")
    (folder / ".git").mkdir()
    dataset = open_images(folder)
    assert dataset.classes == ["bird", "cat", "dog"]
    assert len(dataset) == 4
    assert dataset.fields == {"image": Field("uint8", None), "label": Field("int64", ())}
    batch = dataset.gather(np.arange(4))
    assert batch["image"].shape == (4, 5, 7, 3)
    assert batch["image"].flags.writeable
    assert batch["image"][:, 0, 0, 0].tolist() == [2, 1, 0, 3]
    assert batch["label"].tolist() == [1, 1, 2, 2]
    assert batch["label"].dtype == np.int64
    assert dataset.name(3) == "sample 3 ('dog/more/deep/2.png')"
    assert dataset[0]["image"].flags.writeable
    assert dataset.kind == "images"


def test_pictures_alone(tmp_path: Path) -> None:
    dataset = open_images(folder_of(tmp_path, "10.png", "9.png", "a.png", "B.png"))
    (tmp_path / "empty").mkdir()
    assert dataset.classes == []
    assert list(dataset.fields) == ["image", "name"]
    assert dataset.gather(np.arange(4))["name"].tolist() == ["9.png", "10.png", "B.png", "a.png"]


def test_only_the_fields_that_are_asked_for(tmp_path: Path) -> None:
    folder_of(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a" / "1.png").write_bytes(b"no picture")
    dataset = open_images(tmp_path, ["label"])
    assert dataset.gather(np.array([1, 0]))["label"].tolist() == [1, 0]
    assert dict(dataset[1]) == {"label": 1}
    with pytest.raises(MissingError, match=r"no field 'labels'.*Did you mean label"):
        open_images(tmp_path, ["labels"])
    with pytest.raises(ArgumentError, match="list of names, not 'label'"):
        open_images(tmp_path, "label")


def test_pictures_of_other_sizes_come_one_by_one(tmp_path: Path) -> None:
    folder_of(tmp_path, "a/1.png")
    (tmp_path / "a" / "2.png").write_bytes(picture(PIXELS[:3]))
    dataset = open_images(tmp_path)
    assert [s["image"].shape for s in dataset.samples(np.arange(2))] == [(5, 7, 3), (3, 7, 3)]
    with pytest.raises(UnsupportedError, match=r"\('a/1.png'\) and \(3, 7, 3\) in sample 1"):
        dataset.gather(np.arange(2))


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    folder_of(tmp_path, "a/1.png", "a/2.png", "b/3.png")
    (tmp_path / "a" / "2.png").write_bytes(picture(PIXELS)[:50])
    dataset = open_images(tmp_path)
    with pytest.raises(CorruptError, match=r"sample 1 \('a/2.png'\): cannot be read as a picture"):
        dataset.gather(np.arange(3))
    assert len(dataset.verify()) == 1
    os.remove(tmp_path / "b" / "3.png")
    with pytest.raises(MissingError, match="no such file"):
        dataset.gather(np.array([2]))


def test_folders_that_hold_none(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"holds no picture. Pictures end in \.jpg, "):
        open_images(tmp_path)
    with pytest.raises(MissingError, match="no such folder"):
        open_images(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UnsupportedError, match="is no folder"):
        open_images(tmp_path / "file")
    folder_of(tmp_path, "1.png", "a/2.png")
    with pytest.raises(UnsupportedError, match=r"pictures, such as '1.png', beside folders of "):
        open_images(tmp_path)


def test_links(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", "a/1.png", "b/2.png")
    os.symlink("../b/2.png", folder / "a" / "3.png")
    dataset = open_images(folder)
    assert dataset.gather(np.arange(3))["image"][:, 0, 0, 0].tolist() == [0, 1, 1]
    (tmp_path / "secret.png").write_bytes(picture(PIXELS))
    for target, message in (
        ("../../secret.png", "is a link to .*secret.png, outside the folder of pictures"),
        ("../b", "is a link to the folder"),
        ("..", "is a link to the folder"),
        ("gone.png", "is a link, to nothing"),
        ("loop.png", "is a link, to nothing"),
    ):
        os.symlink(target, folder / "a" / "loop.png")
        with pytest.raises(UnsafeError, match=message):
            open_images(folder)
        os.remove(folder / "a" / "loop.png")
    os.symlink(folder, tmp_path / "link")  # which the caller spelt out
    assert len(open_images(tmp_path / "link")) == 3
    os.symlink("/etc", folder / "c")
    with pytest.raises(UnsafeError, match="is a link to the folder /etc"):
        open_images(folder)


def test_a_pipe_that_is_called_a_picture_is_passed_over(tmp_path: Path) -> None:
    folder_of(tmp_path, "a/1.png")
    os.mkfifo(tmp_path / "a" / "2.png")
    assert len(open_images(tmp_path)) == 1


def test_folders_that_may_not_be_read(unprivileged: Path) -> None:
    folder_of(unprivileged, "a/1.png", "b/2.png")
    os.chmod(unprivileged / "b", 0)
    try:
        with pytest.raises(StoreError, match="b/: cannot be listed: Permission denied"):
            open_images(unprivileged)
    finally:
        os.chmod(unprivileged / "b", 0o700)


def test_digests_tell_folders_apart(tmp_path: Path) -> None:
    digests = set()
    for number, paths in enumerate((["a/1.png", "b/2.png"], ["a/1.png", "a/2.png"], ["a/1.png"])):
        folder_of(tmp_path / f"{number}", *paths)
        digests.add(open_images(tmp_path / f"{number}").digest)
    folder_of(tmp_path / "copy", "a/1.png", "b/2.png")
    assert open_images(tmp_path / "copy").digest in digests
    (tmp_path / "copy" / "b" / "2.png").write_bytes(picture(PIXELS[::-1]))
    digests.add(open_images(tmp_path / "copy").digest)
    assert len(digests) == 4


def test_datasets_travel_to_other_processes(tmp_path: Path) -> None:
    again = pickle.loads(pickle.dumps(open_images(folder_of(tmp_path, "a/1.png"), ["image"])))
    assert isinstance(again, ImagesDataset)
    assert list(again.fields) == ["image"]
    assert again[0]["image"][1:].tolist() == PIXELS[1:].tolist()


def test_threads_share_a_dataset(tmp_path: Path) -> None:
    dataset = open_images(folder_of(tmp_path, *(f"a/{i}.png" for i in range(40))))
    with ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(dataset.gather, [np.arange(i, i + 4) for i in range(36)]))
    assert [batch["image"][:, 0, 0, 0].tolist() for batch in batches] == [
        list(range(i, i + 4)) for i in range(36)
    ]


def test_many_files_are_listed_quickly(tmp_path: Path) -> None:
    for folder in range(10):
        (tmp_path / f"{folder}").mkdir()
        for i in range(100):
            (tmp_path / f"{folder}" / f"picture_{i}.jpg").touch()
    start = time.perf_counter()
    assert len(open_images(tmp_path)) == 1000
    assert time.perf_counter() - start < 1


def test_what_is_recognised(tmp_path: Path) -> None:
    assert not recognises(tmp_path)
    (tmp_path / "x.txt").write_text("x")
    assert not recognises(tmp_path / "x.txt")
    assert not recognises("a\0b")
    (tmp_path / "zoo" / "empty").mkdir(parents=True)
    assert not recognises(tmp_path)
    assert recognises(folder_of(tmp_path / "flat", "1.png"))
    assert recognises(folder_of(tmp_path / "classes", "a/1.png"))
    assert recognises(folder_of(tmp_path / "deep", "train/a/1.png"))


# --- pictures ----------------------------------------------------------------------------------


def test_names_survive_that_are_no_utf8(tmp_path: Path) -> None:
    (tmp_path / "k\udcff.png").write_bytes(picture(PIXELS))
    dataset = open_images(tmp_path)
    assert dataset[0]["name"] == "k\udcff.png"
    assert len(dataset.digest) == 32


KINDS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "PNG": {},
    "PPM": {},
    "BMP": {},
    "GIF": {},
    "TIFF": {},
    "WEBP": {"lossless": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture(kind: str) -> None:
    data = picture(PIXELS, kind, **KINDS[kind])
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))
    found = decode_picture(data, "x")
    assert found.dtype == np.uint8
    assert found.tolist() == expected.tolist()
    assert found.flags.writeable
    if kind not in ("JPEG", "GIF"):
        assert found.tolist() == PIXELS.tolist()


def test_every_ending_is_a_kind_that_pillow_reads() -> None:
    Image.init()
    assert {Image.EXTENSION[f".{ending}"] for ending in ENDINGS} == set(KINDS)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_three_channels(mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    data = picture(image, "TIFF")
    with Image.open(io.BytesIO(data)) as stored:
        assert decode_picture(data, "x").tolist() == np.asarray(stored.convert("RGB")).tolist()


def test_transparency_is_dropped() -> None:
    see_through = np.dstack([PIXELS, np.zeros((5, 7), np.uint8)])
    assert decode_picture(picture(see_through), "x").tolist() == PIXELS.tolist()


def test_transparency_of_a_palette_is_dropped() -> None:
    image = Image.fromarray(PIXELS).quantize(8)
    data = picture(image, transparency=bytes([0, 100, 255]))
    assert decode_picture(data, "x").tolist() == np.asarray(image.convert("RGB")).tolist()


def test_the_first_of_several_frames() -> None:
    frames = [Image.fromarray(PIXELS[:, :, i]) for i in range(3)]
    data = picture(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_picture(data, "x")[:, :, 0].tolist() == PIXELS[:, :, 0].tolist()


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_pictures_are_turned_as_cameras_note(orientation: int, kind: str) -> None:
    image = Image.fromarray(PIXELS)
    notes = image.getexif()
    notes[0x0112] = orientation
    data = picture(image, kind, exif=notes)
    with Image.open(io.BytesIO(data)) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    assert decode_picture(data, "x").tolist() == expected.tolist()


def test_damaged_notes_turn_nothing() -> None:
    data = picture(PIXELS, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decode_picture(data, "x").tolist() == PIXELS.tolist()


def test_more_than_8_bits_a_channel_are_refused() -> None:
    for deep in (np.zeros((3, 3), np.uint16), np.zeros((3, 3), np.int32), np.zeros((3, 3), "f4")):
        with pytest.raises(UnsupportedError, match=r"of mode (I;16|I|F), not of 8 bits"):
            decode_picture(picture(deep, "TIFF"), "x")
    for data in (_png_of_16_bits(), b"P6 1 1 65535\nabcdef"):  # which Pillow cuts down to 8
        with pytest.raises(UnsupportedError, match="of mode RGB, not of 8 bits"):
            decode_picture(data, "x")
    assert decode_picture(b"P6 1 1 100\n\0\x32\x64", "x").tolist() == [[[0, 128, 255]]]


def _png_of_16_bits() -> bytes:
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0),
        b"IDAT": zlib.compress(bytes(7)),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        for kind, data in parts.items()
    )


def test_other_files_are_no_pictures() -> None:
    with pytest.raises(CorruptError, match=r"x: is empty\. One of JPEG"):
        decode_picture(b"", "x")
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    for data in (b"text", script, bytes(1000)):
        with pytest.raises(CorruptError, match="x: is no picture"):
            decode_picture(data, "x")


def bomb(wide: int, high: int) -> bytes:
    """Give a small PNG that claims to be large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("sides", [(10_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_pictures_of_too_many_pixels(sides: tuple[int, int], action: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter(action)  # type: ignore[arg-type]
        with pytest.raises(UnsafeError, match=r"x: has too many pixels.*MAX_IMAGE_PIXELS"):
            decode_picture(bomb(*sides), "x")


def test_files_that_are_too_large(tmp_path: Path) -> None:
    folder_of(tmp_path, "1.png")
    os.truncate(tmp_path / "1.png", MOST_BYTES + 1)
    with pytest.raises(UnsafeError, match=r"1\.png: takes 536,870,913 bytes, .* 512 MiB"):
        open_images(tmp_path)[0]
    with pytest.raises(UnsafeError, match="x: takes 536,870,913 bytes"):
        decode_picture(np.zeros(MOST_BYTES + 1, np.uint8).data, "x")


@given(st.binary(max_size=200), st.sampled_from(sorted(KINDS)), st.integers(0, 300))
def test_any_damage_is_one_of_our_errors(junk: bytes, kind: str, at: int) -> None:
    data = picture(PIXELS, kind)
    for damaged in (junk, data[:at], data[:at] + junk + data[at + len(junk) :]):
        try:
            found = decode_picture(damaged, "x")
        except TensorKeepError:
            continue
        assert found.ndim == 3
        assert found.shape[2] == 3
