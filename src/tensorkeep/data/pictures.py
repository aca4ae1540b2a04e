"""Pictures as arrays: decoded by Pillow, upright, three channels of 8 bits.

Decoding is bounded: only formats that are data alone are tried (no PostScript, which Pillow gives
to another program), and pictures of more pixels than Pillow's own limit are refused by their
header.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.errors import CorruptError, TensorKeepError, UnsafeError, UnsupportedError
from tensorkeep.optional import require

ENDINGS = ("jpg", "jpeg", "jpe", "png", "ppm", "pgm", "pbm", "bmp", "webp", "gif", "tif", "tiff")
MOST_BYTES = 512 << 20  # of a file: what Pillow's limit of pixels takes with nothing compressed

_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "WEBP", "GIF", "TIFF")
_DEEP = ("I", "F")  # modes of more than 8 bits a channel begin so
_ORIENTATION = 0x0112  # EXIF's tag
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def decode_picture(data: bytes | memoryview, where: str) -> npt.NDArray[np.uint8]:
    """Decode a picture: uint8 of height, width and 3 (red, green, blue), upright.

    Grey ones are given three equal channels, transparency is dropped, the first frame of several is
    taken, and the turn that a camera notes (EXIF's orientation) is made.

    Raises:
        CorruptError: it is damaged, or no picture.
        UnsafeError: it has more pixels than Pillow's limit (`PIL.Image.MAX_IMAGE_PIXELS`), or more
            than 512 MiB.
        UnsupportedError: it has more than 8 bits a channel.
        MissingDependencyError: Pillow is not installed.

    >>> decode_picture(b"P6 2 1 255 abcdef", "example").tolist()
    [[[97, 98, 99], [100, 101, 102]]]
    """
    refuse_large(len(data), where)
    pillow = require(
        "PIL.Image", "reading pictures needs Pillow", 'Run pip install "tensorkeep[images]".', where
    )
    try:
        with pillow.open(io.BytesIO(data), formats=_FORMATS) as picture:
            _check(pillow, picture, where)
            upright = _upright(pillow, picture)
            if upright.mode == "P" and "transparency" in upright.info:
                upright = upright.convert("RGBA")  # which Pillow warns of otherwise
            return np.array(upright.convert("RGB"))
    except TensorKeepError:
        raise
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise _too_many(str(error), where) from None
    except pillow.UnidentifiedImageError:
        problem = "is empty" if not len(data) else "is no picture"
        raise CorruptError(
            problem, where=where, cure=f"One of {', '.join(_FORMATS)} is needed."
        ) from None
    except MemoryError:
        raise UnsafeError("takes more memory than there is", where=where) from None
    except Exception as error:  # whatever else a decoder says to damaged bytes
        raise CorruptError(
            f"cannot be read as a picture: {error}",
            where=where,
            cure="It is damaged or cut short: copy it again, or take it out.",
        ) from error


def refuse_large(size: int, where: str) -> None:
    """Refuse a file of more bytes than any picture of a permitted size takes.

    Raises:
        UnsafeError: it has over 512 MiB.
    """
    if size > MOST_BYTES:
        raise UnsafeError(
            f"takes {size:,} bytes, where no picture of a permitted size takes over "
            f"{MOST_BYTES >> 20} MiB",
            where=where,
            cure="Keep it as a .npy array.",
        )


def _check(pillow: Any, picture: Any, where: str) -> None:
    """Refuse what cannot be held, by the header alone."""
    wide, high = picture.size
    most = pillow.MAX_IMAGE_PIXELS
    if most is not None and wide * high > most:
        raise _too_many(f"{wide:,} by {high:,} pixels, where the limit is {most:,}", where)
    # Pillow cuts channels of 16 bits down to 8; how they lie in the file is told until then.
    lies = [tile[3] for tile in getattr(picture, "tile", ())]
    if picture.mode.startswith(_DEEP) or any(map(_is_deep, lies)):
        raise UnsupportedError(
            f"is a picture of mode {picture.mode}, not of 8 bits a channel",
            where=where,
            cure="Convert it to 8 bits, or keep it as a .npy array.",
        )


def _is_deep(lies: Any) -> bool:
    """Say whether a decoder's arguments tell of 16 bits: "RGB;16B", or the largest value."""
    parts = lies if isinstance(lies, tuple) else (lies,)
    return any(";16" in part for part in parts if isinstance(part, str)) or (
        len(parts) == 2 and type(parts[1]) is int and parts[1] > 255
    )


def _upright(pillow: Any, picture: Any) -> Any:
    """Turn a picture as its EXIF data says; damaged EXIF data says nothing."""
    picture.load()  # a TIFF is turned by that already, and then says so
    turn = None
    with contextlib.suppress(Exception):  # many a sound picture has broken notes
        turn = _TURNS.get(picture.getexif().get(_ORIENTATION))
    if turn is None:
        return picture
    return picture.transpose(getattr(pillow.Transpose, turn))


def _too_many(problem: str, where: str) -> UnsafeError:
    return UnsafeError(
        f"has too many pixels: {problem}",
        where=where,
        cure="Raise PIL.Image.MAX_IMAGE_PIXELS if it can be trusted.",
    )
