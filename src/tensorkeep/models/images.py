"""Photographs as what an image model takes.

What is done to a picture, in this order:

1. It is turned upright, as its EXIF orientation says, and made RGB (grey for one channel); what is
   transparent keeps the colour that it has.
2. It is shrunk or enlarged, bilinearly with antialiasing, so that the size wanted fits into it
   `margin` times: the shorter side of a square crop becomes round(size * margin).
3. The middle is cut out.
4. Values of 0 to 255 become (value * scale - mean) / std, for each channel, as the preset says:

       imagenet    scale 1/255, mean 0.485 0.456 0.406, std 0.229 0.224 0.225, margin 256/224
       unit        scale 1/255: 0 to 1
       symmetric   scale 2/255, mean 1: -1 to 1
       none        0 to 255

5. The axes are N C H W, or N H W C; channels are red, green, blue.

Only raster formats are read, never one that runs a program, and no picture of more than 89 million
pixels is unpacked.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.dtypes import DType
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    MissingError,
    StoreError,
    TensorKeepError,
    UnsafeError,
)
from tensorkeep.graph import Value
from tensorkeep.models.fetching import fetched
from tensorkeep.optional import require
from tensorkeep.stores import is_url

Layout = Literal["nchw", "nhwc"]
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TGA", "TIFF", "WEBP")
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_MOST_SIDE = 1 << 14
_SIDE = 224  # where the model takes any size


class Preset(NamedTuple):
    """What is done to values of 0 to 255: (value * scale - mean) / std, by channels."""

    scale: float
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    margin: float = 1.0


PRESETS: dict[str, Preset] = {
    "imagenet": Preset(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 256 / 224),
    "unit": Preset(1 / 255),
    "symmetric": Preset(2 / 255, (1.0,)),
    "none": Preset(1.0),
}


class Shape(NamedTuple):
    """What a model takes pictures as."""

    layout: Layout
    channels: int
    height: int
    width: int
    dtype: DType


def shape_for(value: Value, size: Sequence[int] | None = None, layout: str | None = None) -> Shape:
    """Find out what pictures an input takes; where it takes any size, 224.

    Args:
        value: the input.
        size: a side, or a height and a width, to be used instead.
        layout: "nchw" or "nhwc", where the axes do not tell.

    Raises:
        ArgumentError: it takes no pictures, or contradicts what was asked for.
    """
    where = f"input {value.name!r}"
    axes = value.axes
    if value.kind != "tensor" or (axes is not None and len(axes) != 4):
        raise ArgumentError(f"takes {value}, which is no batch of pictures", where=where)
    if layout not in (None, "nchw", "nhwc"):
        raise ArgumentError(f"layout cannot be {layout!r}", cure='Give "nchw" or "nhwc".')
    sizes = axes or (None, None, None, None)
    if layout is None:
        if sizes[1] in (1, 3) or not isinstance(sizes[3], int):
            layout = "nchw"
        elif sizes[3] in (1, 3):
            layout = "nhwc"
        else:
            cure = 'Say layout="nchw" or "nhwc".'
            raise ArgumentError(f"takes {value}; where are its channels?", where=where, cure=cure)
    first = layout == "nchw"
    channels = sizes[1 if first else 3]
    if not isinstance(channels, int):
        channels = 3
    if channels not in (1, 3):
        raise ArgumentError(f"takes {value}: {channels} channels are no picture", where=where)
    given = _sides(size) if size is not None else None
    sides = []
    for place, axis in enumerate(sizes[2:4] if first else sizes[1:3]):
        wanted = given[place] if given else None
        if isinstance(axis, int) and wanted not in (None, axis):
            raise ArgumentError(f"takes {value}, not a side of {wanted}", where=where)
        sides.append(axis if isinstance(axis, int) else wanted or _SIDE)
    kind = dtypes.DTYPES.get(value.dtype, dtypes.FLOAT32)
    return Shape("nchw" if first else "nhwc", channels, sides[0], sides[1], kind)


def _sides(size: Sequence[int]) -> tuple[int, int]:
    sides = (size[0], size[-1]) if len(size) in (1, 2) else (0, 0)
    if not all(0 < side <= _MOST_SIDE for side in sides):
        raise ArgumentError(
            f"size cannot be {list(size)}",
            cure=f"Give a side, or height and width, to {_MOST_SIDE:,}.",
        )
    return sides


def preset_for(shape: Shape) -> str:
    """Name the preset that is used where none is asked for.

    >>> preset_for(Shape("nchw", 3, 224, 224, dtypes.FLOAT32))
    'imagenet'
    """
    if shape.dtype.kind != "float":
        return "none"
    return "imagenet" if shape.channels == 3 else "unit"


def load_images(
    paths: Sequence[str | os.PathLike[str]],
    shape: Shape,
    preset: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> npt.NDArray[Any]:
    """Read pictures as one batch for a model.

    Args:
        paths: the files.
        shape: what the model takes; see `shape_for`.
        preset: one of `PRESETS`; `preset_for` names it otherwise.
        mean: taken from the scaled values instead of the preset's: one number, or one per channel.
        std: what is divided by instead of the preset's.

    Raises:
        MissingError: there is no such file.
        CorruptError: it is no picture, or damaged.
        UnsafeError: it has too many pixels.
        ArgumentError: an option has no such value.
        MissingDependencyError: Pillow is not installed.
    """
    name = preset or preset_for(shape)
    if name not in PRESETS:
        raise ArgumentError(
            f"no preset is called {name!r}", cure=f"There are {', '.join(PRESETS)}."
        )
    chosen = PRESETS[name]
    by = {"mean": tuple(mean or chosen.mean), "std": tuple(std or chosen.std)}
    for called, numbers in by.items():
        if len(numbers) not in (1, shape.channels) or (called == "std" and 0 in numbers):
            raise ArgumentError(
                f"{called} cannot be {list(numbers)}", cure=f"Give {shape.channels} numbers or one."
            )
    pixels = np.stack([read_image(path, shape, chosen.margin) for path in paths])
    if shape.dtype.kind in ("int", "uint") and (name != "none" or mean or std):
        raise ArgumentError(f"takes {shape.dtype}, which are not scaled", cure='Say preset="none".')
    values: npt.NDArray[Any] = pixels
    if shape.dtype.kind == "float":
        scaled = pixels.astype(np.float32) * np.float32(chosen.scale)
        values = (scaled - np.array(by["mean"], np.float32)) / np.array(by["std"], np.float32)
    if shape.layout == "nchw":
        values = values.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(values, dtype=shape.dtype.numpy)


def read_image(
    path: str | os.PathLike[str], shape: Shape, margin: float = 1.0
) -> npt.NDArray[np.uint8]:
    """Read a picture upright, resized and cut: uint8 of height, width and channels."""
    need, where = "reading pictures needs Pillow", os.fspath(path)
    cure = 'Run pip install "tensorkeep[images]".'
    pillow = require("PIL.Image", need, cure, where)
    turning = require("PIL.ImageOps", need, cure, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            given = io.BytesIO(fetched(where)) if is_url(where) else where
            with pillow.open(given, formats=_FORMATS) as image:
                if image.mode in _DEEP:
                    problem = f"is a picture of mode {image.mode}, not of 8 bits a channel"
                    raise CorruptError(problem, where=where, cure="Convert it to 8 bits first.")
                upright = turning.exif_transpose(image).convert(
                    "RGB" if shape.channels == 3 else "L"
                )
    except TensorKeepError:
        raise
    except FileNotFoundError:
        raise MissingError("there is no such file", where=where) from None
    except (pillow.DecompressionBombWarning, pillow.DecompressionBombError) as error:
        raise UnsafeError(f"has too many pixels: {error}", where=where) from None
    except pillow.UnidentifiedImageError:
        formats = ", ".join(_FORMATS)
        raise CorruptError("is no picture", where=where, cure=f"Give one of {formats}.") from None
    except (OSError, ValueError, SyntaxError, EOFError, TypeError) as error:
        if isinstance(error, IsADirectoryError | PermissionError):
            raise StoreError(f"cannot be read: {error.strerror}", where=where) from error
        raise CorruptError(f"cannot be read as a picture: {error}", where=where) from error
    return np.asarray(_cut(pillow, upright, shape, margin)).reshape(
        shape.height, shape.width, shape.channels
    )


def _cut(pillow: Any, image: Any, shape: Shape, margin: float) -> Any:
    wide, high = image.size
    factor = max(shape.width * margin / wide, shape.height * margin / high)
    sides = (max(shape.width, round(wide * factor)), max(shape.height, round(high * factor)))
    if sides[0] * sides[1] > pillow.MAX_IMAGE_PIXELS:
        raise UnsafeError(f"would be {sides[0]:,} by {sides[1]:,} pixels when its sides fit")
    resized = image.resize(sides, pillow.Resampling.BILINEAR)
    left, above = (sides[0] - shape.width) // 2, (sides[1] - shape.height) // 2
    return resized.crop((left, above, left + shape.width, above + shape.height))


__all__ = ["PRESETS", "Preset", "Shape", "load_images", "preset_for", "read_image", "shape_for"]
