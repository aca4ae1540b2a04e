"""Runs a folder by the nnef package's executor, whose process what it cannot do may end.

    python nnef_executor.py FOLDER

Takes FOLDER/inputs.npz, gives FOLDER/outputs.npz.
"""

import sys
from pathlib import Path

import nnef
import numpy as np

# What the executor has no code for, to be taken apart by NNEF's own definitions.
LOWERED = [
    *("clamp", "prelu", "moments", "batch_normalization", "rms_pool", "l1_normalization"),
    *("l2_normalization", "local_response_normalization", "local_mean_normalization"),
    *("local_variance_normalization", "local_contrast_normalization", "area_downsample"),
    *("nearest_downsample", "nearest_upsample", "softabs", "max_pool_with_index", "separable_conv"),
    *("separable_deconv", "copy_n", "add_n"),
]

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with np.load(folder / "inputs.npz") as held:
        inputs = [held[name] for name in held.files]
    with nnef.Session(str(folder), lowered=LOWERED) as session:
        outputs = session(*inputs)
    np.savez(folder / "outputs.npz", *outputs)
