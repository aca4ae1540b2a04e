"""The digits: 1,797 real handwritten ones, 8 x 8 pixels each, shipped beside this file.

Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, 1998, UCI Machine Learning
Repository, https://doi.org/10.24432/C50P49, CC BY 4.0; see LICENSE-digits.txt.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.api import load
from tensorkeep.data.sources import open as open_dataset
from tensorkeep.data.writing import write

FILE = Path(__file__).with_name("digits.npz")
_HELD_OUT = 5  # every fifth image is never trained on
_SHADES = " .:-=+*#%@"  # ASCII, so that any terminal and any file can show them


@dataclass(frozen=True, slots=True)
class Digits:
    """Images as float32 from 0 to 1, shape (count, 8, 8), and the digit that each shows."""

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)


def training_and_held_out() -> tuple[Digits, Digits]:
    """Load the digits to train on and those, a fifth, to measure the accuracy with.

    >>> training, held_out = training_and_held_out()
    >>> len(training), len(held_out), training.images.shape[1:]
    (1437, 360, (8, 8))
    """
    arrays = load(FILE)
    images = arrays["images"].astype(np.float32) / 16
    held_out = np.arange(len(images)) % _HELD_OUT == 0
    return (
        Digits(images[~held_out], arrays["labels"][~held_out]),
        Digits(images[held_out], arrays["labels"][held_out]),
    )


def write_training(file: Path) -> None:
    """Write the digits to train on as a data set of its own: `image` and `label` of each.

    Raises:
        StoreError: it cannot be written.
    """
    training, _ = training_and_held_out()
    with open_dataset({"image": training.images, "label": training.labels}) as dataset:
        write(dataset, file)


def draw(images: npt.NDArray[Any]) -> list[str]:
    r"""Draw images side by side as lines of text.

    >>> print("\n".join(draw(np.eye(2)[None])).replace(" ", "."))
    @@..
    ..@@
    """
    levels = np.rint(images * (len(_SHADES) - 1)).astype(int)
    cells = np.array([shade * 2 for shade in _SHADES])[levels]
    return ["  ".join("".join(row) for row in line) for line in cells.swapaxes(0, 1)]
