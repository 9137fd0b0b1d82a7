"""Make lowrank_edu/assets/hopper.npy, the photograph of chapter 1, from the copy that Matplotlib ships.

The portrait of Grace Hopper is a photograph of the U.S. Navy and in the public domain; Matplotlib has it
among its sample data (matplotlib/matplotlib#1599). Head and shoulders, grey, each pixel the mean of 4 × 4:
120 × 100 numbers 0 … 255. The result is committed, so that no page depends on a JPEG decoder.

    python book/experiments/ch01_picture.py
"""

from pathlib import Path

import numpy as np

TARGET = Path(__file__).resolve().parents[2] / "lowrank_edu" / "assets" / "hopper.npy"
ROWS, COLUMNS, BLOCK, LEFT = 120, 100, 4, 60


def picture():
    """(120, 100) uint8, from the JPEG of the installed Matplotlib."""
    from matplotlib.cbook import get_sample_data
    from matplotlib.pyplot import imread

    with get_sample_data("grace_hopper.jpg") as file:
        photo = imread(file, format="jpg")  # (600, 512, 3)
    grey = photo.astype(float) @ [0.299, 0.587, 0.114]  # the weights of ITU-R BT.601
    part = grey[: ROWS * BLOCK, LEFT : LEFT + COLUMNS * BLOCK]
    return np.rint(part.reshape(ROWS, BLOCK, COLUMNS, BLOCK).mean(axis=(1, 3))).astype(np.uint8)


if __name__ == "__main__":
    np.save(TARGET, picture())
    print(f"wrote {TARGET.name}: {TARGET.stat().st_size:,} bytes")
