from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tensorkeep import dtypes
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    MissingDependencyError,
    MissingError,
    UnsafeError,
)
from tensorkeep.graph import Value
from tensorkeep.models.images import PRESETS, Shape, load_images, read_image, shape_for

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 60, 3), np.uint8)
WHOLE = Shape("nchw", 3, 40, 60, dtypes.FLOAT32)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    return path


def test_values(picture: Path) -> None:
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    unit = PIXELS / 255
    expected = {
        "none": PIXELS.astype(float),
        "unit": unit,
        "symmetric": PIXELS / 127.5 - 1,
    }
    for preset, values in expected.items():
        got = load_images([picture], WHOLE, preset)
        assert got.dtype == np.float32
        assert got.flags.c_contiguous
        np.testing.assert_allclose(got, values.transpose(2, 0, 1)[None], atol=1e-6)
    got = load_images([picture], WHOLE, "unit", mean.tolist(), std.tolist())
    np.testing.assert_allclose(got, ((unit - mean) / std).transpose(2, 0, 1)[None], atol=1e-5)


def test_imagenet(picture: Path) -> None:
    """As torchvision documents it: the shorter side 256, the middle 224, mean and deviation."""
    shape = Shape("nchw", 3, 224, 224, dtypes.FLOAT32)
    resized = Image.fromarray(PIXELS).resize((384, 256), Image.Resampling.BILINEAR)
    unit = np.asarray(resized.crop((80, 16, 304, 240))) / 255
    expected = (unit - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    got = load_images([picture], shape)
    np.testing.assert_allclose(got, expected.transpose(2, 0, 1)[None], atol=1e-5)


def test_layouts_and_types(picture: Path) -> None:
    last = WHOLE._replace(layout="nhwc")
    np.testing.assert_array_equal(
        load_images([picture, picture], last, "none"), np.stack([PIXELS] * 2).astype(np.float32)
    )
    whole = load_images([picture], last._replace(dtype=dtypes.UINT8))
    assert whole.dtype == np.uint8
    np.testing.assert_array_equal(whole[0], PIXELS)
    assert load_images([picture], WHOLE._replace(dtype=dtypes.FLOAT16)).dtype == np.float16
    grey = load_images([picture], WHOLE._replace(channels=1), "none")
    np.testing.assert_array_equal(grey[0, 0], np.asarray(Image.fromarray(PIXELS).convert("L")))
    with pytest.raises(ArgumentError, match="takes uint8, which are not scaled"):
        load_images([picture], WHOLE._replace(dtype=dtypes.UINT8), "unit")


def test_pictures_are_turned_upright(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(PIXELS).save(path, exif=exif, quality=95)
    plain = tmp_path / "plain.jpg"
    Image.fromarray(PIXELS).save(plain, quality=95)
    turned = read_image(path, WHOLE._replace(height=60, width=40))
    np.testing.assert_array_equal(turned, np.rot90(read_image(plain, WHOLE), -1))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK", "YCbCr"])
def test_any_mode(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    Image.fromarray(PIXELS).convert(mode).save(path)
    assert read_image(path, WHOLE).shape == (40, 60, 3)


def test_the_middle_is_cut_out(tmp_path: Path) -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 200
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    got = read_image(path, WHOLE._replace(height=10, width=10))
    np.testing.assert_array_equal(got, np.full((10, 10, 3), 200))


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        (("N", 3, 224, 320), ("nchw", 3, 224, 320)),
        (("N", 224, 320, 3), ("nhwc", 3, 224, 320)),
        (("N", 1, 28, 28), ("nchw", 1, 28, 28)),
        (("N", 3, "H", "W"), ("nchw", 3, 224, 224)),
        (("N", "H", "W", 3), ("nhwc", 3, 224, 224)),
        (None, ("nchw", 3, 224, 224)),
    ],
)
def test_what_an_input_takes(axes: Any, expected: Any) -> None:
    assert shape_for(Value("x", "float32", axes))[:4] == expected


def test_sizes_and_layouts_that_are_asked_for() -> None:
    free = Value("x", "float32", ("N", 3, None, None))
    assert shape_for(free, [100])[2:4] == (100, 100)
    assert shape_for(free, [100, 50])[2:4] == (100, 50)
    assert shape_for(Value("x", "float32", None), layout="nhwc").layout == "nhwc"
    with pytest.raises(ArgumentError, match="not a side of 100"):
        shape_for(Value("x", "float32", ("N", 3, 224, 224)), [100])
    with pytest.raises(ArgumentError, match="where are its channels"):
        shape_for(Value("x", "float32", ("N", 8, 8, 8)))
    with pytest.raises(ArgumentError, match="no batch of pictures"):
        shape_for(Value("x", "float32", ("N", 3)))
    with pytest.raises(ArgumentError, match="8 channels are no picture"):
        shape_for(Value("x", "float32", ("N", 8, 8, 8)), layout="nchw")
    for size in ([], [0], [1, 2, 3], [10**6]):
        with pytest.raises(ArgumentError, match="size cannot be"):
            shape_for(free, size)
    with pytest.raises(ArgumentError, match="layout cannot be 'hwc'"):
        shape_for(free, layout="hwc")


def test_odd_options(picture: Path) -> None:
    with pytest.raises(ArgumentError, match="There are imagenet, unit, symmetric, none"):
        load_images([picture], WHOLE, "image-net")
    with pytest.raises(ArgumentError, match=r"mean cannot be \[1, 2\]. Give 3 numbers or one"):
        load_images([picture], WHOLE, mean=[1, 2])
    with pytest.raises(ArgumentError, match="std cannot be"):
        load_images([picture], WHOLE, std=[0])
    assert set(PRESETS) == {"imagenet", "unit", "symmetric", "none"}


def test_what_is_no_picture(tmp_path: Path, picture: Path) -> None:
    with pytest.raises(MissingError, match="there is no such file"):
        read_image(tmp_path / "none.png", WHOLE)
    bad = tmp_path / "a.eps"
    bad.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    with pytest.raises(CorruptError, match=r"is no picture\. Give one of BMP"):
        read_image(bad, WHOLE)
    with pytest.raises(Exception, match="cannot be read: Is a directory"):
        read_image(tmp_path, WHOLE)
    deep = tmp_path / "deep.png"
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(deep)
    with pytest.raises(CorruptError, match="mode I;16"):
        read_image(deep, WHOLE)


def test_every_cut_and_flip_is_told(picture: Path, tmp_path: Path) -> None:
    data = picture.read_bytes()
    path = tmp_path / "bad.png"
    for stop in range(0, len(data), 97):
        path.write_bytes(data[:stop])
        with pytest.raises(CorruptError):
            read_image(path, WHOLE)
    for at in range(0, len(data), 53):
        flipped = bytearray(data)
        flipped[at] ^= 0x10
        path.write_bytes(flipped)
        try:
            read_image(path, WHOLE)
        except (CorruptError, UnsafeError):
            continue


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (1, 1)).save(path)
    head = bytearray(path.read_bytes())
    head[16:24] = struct.pack(">II", 30_000, 30_000)
    head[29:33] = struct.pack(">I", zlib.crc32(head[12:29]))
    path.write_bytes(head)
    with pytest.raises(UnsafeError, match="has too many pixels"):
        read_image(path, WHOLE)
    thin = tmp_path / "thin.png"
    Image.new("RGB", (1, 20_000)).save(thin)
    with pytest.raises(UnsafeError, match="when its sides fit"):
        read_image(thin, Shape("nchw", 3, 224, 224, dtypes.FLOAT32))


def test_without_pillow(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingDependencyError, match="images"):
        read_image(picture, WHOLE)
