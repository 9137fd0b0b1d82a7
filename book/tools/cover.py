"""The picture on the landing page and in the README: one photograph from 1, 4 and 16 layers, and whole.

python book/tools/cover.py        write book/_static/cover.png (README, social card) and cover.webp (the page) again
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image

from lowrank_edu.factor import truncated_svd
from lowrank_edu.figures import style
from lowrank_edu.figures.picture import photograph

TARGET = Path(__file__).resolve().parents[1] / "_static" / "cover.png"
RANKS = (1, 4, 16)


def cover():
    """Four portraits; under each, how many numbers it is made of, as text and as a bar."""
    picture = photograph()  # (120, 100) between −1 and 1
    rows, columns = picture.shape
    shown = []
    for r in RANKS:
        U, S, Vt = truncated_svd(picture, r)
        shown.append((f"rank {r}", (U * S) @ Vt, r * (rows + columns)))
    shown.append(("the photograph", picture, rows * columns))
    with style.book():
        fig, axes = plt.subplots(1, 4, figsize=(7.2, 2.75))
        for ax, (name, image, numbers) in zip(axes, shown, strict=True):
            share = numbers / (rows * columns)
            ax.imshow(image, cmap="gray", vmin=-1, vmax=1)
            ax.set_title(name, fontsize=11, fontweight="bold")
            ax.set_xlabel(f"{numbers:,} numbers", fontsize=10)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            for width, color in ((1, "#76767640"), (share, style.PALETTE["a"])):
                ax.barh(rows + 3.5, width * columns, left=-0.5, height=5, color=color, clip_on=False)
            ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows + 6, -0.5))
    return fig


if __name__ == "__main__":
    cover().savefig(TARGET, dpi=140, metadata={"Software": None})
    light = TARGET.with_suffix(".webp")  # a seventh of the bytes: it is the first thing that a phone waits for
    Image.open(TARGET).convert("RGB").save(light, quality=80, method=6)
    for path in (TARGET, light):
        print(f"wrote {path.name}: {path.stat().st_size:,} bytes")
