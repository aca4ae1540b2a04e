"""Make src/tensorkeep/demo/digits.npz from the copy of the digits that scikit-learn carries.

    pip install scikit-learn && python tests/data/make_digits.py

Only this script needs scikit-learn. The bytes do not depend on when it runs.
"""

from __future__ import annotations

import importlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

TARGET = Path(__file__).parents[2] / "src" / "tensorkeep" / "demo" / "digits.npz"


def write(file: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data.getvalue())


def main() -> None:
    digits = importlib.import_module("sklearn.datasets").load_digits()
    images = digits.images.astype(np.uint8)
    if not np.array_equal(images, digits.images):
        raise ValueError("the pixels are not whole numbers")
    write(TARGET, {"images": images, "labels": digits.target.astype(np.uint8)})


if __name__ == "__main__":
    main()
