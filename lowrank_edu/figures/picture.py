"""A photograph as a matrix: the page multiplies its best rank-r copy itself.   chapter 1"""

from base64 import b64encode
from importlib.resources import files

import numpy as np

from ..factor import break_even_rank, spectral_energy, truncated_svd
from .page import Choice, Figure, Slider, meter, pack, script, svg, tiles
from .still import png

SHOWN = {"copy": "the copy", "pattern": "what rank r adds", "rest": "what is missing"}


def photograph():
    """Grace Hopper as numbers: (120, 100) float64 from −1, black, over 0, middle grey, to 1, white.

    Photograph: U.S. Navy, public domain; prepared from Matplotlib's sample data by
    book/experiments/ch01_picture.py.
    """
    with (files("lowrank_edu") / "assets" / "hopper.npy").open("rb") as file:
        return np.load(file) / 127.5 - 1


def rank_picture(picture, r=1, subject="A photograph", slug="picture"):
    """Slider over the rank: the best copy of a grey picture, its newest pattern, or what is still missing.

    picture (rows, columns) between −1 and 1. The factors travel as int8, one scale for each rank, and the
    browser multiplies them. ValueError: a number outside −1 … 1, or a picture too large for a page.
    """
    if np.abs(picture).max() > 1:
        raise ValueError(
            f"the picture holds {np.abs(picture).max():.3g}; its numbers must lie between −1 (black) and 1 "
            f"(white). For values 0 … 255 pass picture / 127.5 - 1."
        )
    (rows, columns), most = picture.shape, min(picture.shape)
    B, A, scale = _bytes(picture)
    energy = spectral_energy(picture)
    worth = break_even_rank(rows, columns)
    return Figure(
        slug=slug,
        title="How many patterns make a face?",
        alt=f"{subject}, {rows} by {columns} pixels, rebuilt from r patterns. {_alt(energy, rows + columns)}",
        caption=(
            f"Your browser multiplies B ({rows} × r) by A (r × {columns}). Move the slider, or use the arrow "
            f"keys. At which rank do you recognise her? What do later patterns add? From rank {worth + 1} on "
            f"the copy saves nothing, and the bar turns orange. In a single pattern and in what is missing, "
            f"blue darkens and orange brightens."
        ),
        controls=[Slider("r", "Rank r", range(1, most + 1), start=r), Choice("show", "Show", SHOWN)],
        data={"B": pack(B), "A": pack(A), "scale": scale, "kept": energy},
        stage=f'<canvas data-el="picture" width="{columns}" height="{rows}"></canvas>',
        still=_still(B[:, :r], A[:r], scale[:r]),
        panel=tiles(
            ("energy", f"{100 * energy[r - 1]:.1f} %", "of the energy kept"),
            ("error", f"{100 * np.sqrt(max(0, 1 - energy[r - 1])):.1f} %", "error, ‖W − Wᵣ‖ / ‖W‖"),
        )
        + tiles(("numbers", f"{r * (rows + columns):,}", f"numbers instead of {rows * columns:,}"))
        + meter("bar", r * (rows + columns) / (rows * columns)),
        draw=script("picture.js"),
        css=f"#fig-{slug} canvas{{max-width:400px;margin:0 auto}}",
    )


def _bytes(picture):
    """B (rows, R) and A (R, columns) as int8, scale (R,): picture ≈ Σ scale[k] outer(B[:, k], A[k])."""
    U, S, Vt = truncated_svd(picture, min(picture.shape))
    strongest = np.take_along_axis(U, np.abs(U).argmax(axis=0)[None], axis=0)[0]
    sign = np.sign(strongest)  # a pair (u, v) may come back negated on another machine
    top = np.abs(U).max(axis=0), np.abs(Vt).max(axis=1)
    B = np.rint(127 * sign * U / top[0]).astype(np.int8)
    A = np.rint(127 * (Vt.T * sign / top[1]).T).astype(np.int8)
    return B, A, S * top[0] * top[1] / 127**2


def _still(B, A, scale):
    """The copy in 16 greys, as the page draws it first where scripts run."""
    copy = (B * scale) @ A.astype(float)
    levels = np.rint((np.clip(copy, -1, 1) + 1) * 7.5)
    rows, columns = levels.shape
    source = f"data:image/png;base64,{b64encode(png(levels, bits=4)).decode()}"
    wide, tall = 300, f"{300 * rows / columns:g}"
    return svg(
        wide, tall, f'<image width="{wide}" height="{tall}" style="image-rendering:pixelated" href="{source}"/>'
    )


def _alt(energy, price):
    """The ranks that hold 50, 90 and 99 percent, for those who cannot see the picture."""
    ranks = [(share, int(np.argmax(energy >= share / 100)) + 1) for share in (50, 90, 99)]
    return " ".join(f"Rank {r} keeps {s} percent of the energy with {r * price:,} numbers." for s, r in ranks)
