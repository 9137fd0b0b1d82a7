"""What a live panel shows of an exercise: its sliders, the case that they make, and a picture of one answer.

The function, the comparison and the sentences are the exercise's own. A picture is HTML of what came back,
whoever computed it; an answer that cannot be drawn raises here, and the panel says so.
"""

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from html import escape

import numpy as np

from .. import shipped
from ..allocation import energy_at
from ..checks.comparing import as_array
from ..exercises.ch09 import LEVELS
from .energies import RANKS, whole
from .page import Slider, path
from .picture import photograph
from .still import png

BLUE, ORANGE = "#2f86c5", "#d55e00"  # both readable on a white and on a black ground
WIDE, TALL = 340, 210
MANY = 200_000  # numbers in an answer that is still drawn


@dataclass(frozen=True)
class Trial:
    """id: the exercise. case(**values): the arguments of one call. draw(case, answer): HTML."""

    id: str
    invites: str  # after "Run this chapter and …"
    controls: tuple[Slider, ...]
    case: Callable
    draw: Callable


def _numbers(answer, shape=None):
    """The answer as an array of floats, of this shape if one is given."""
    array = np.asarray(as_array(answer), dtype=float)
    if array.size > MANY or not np.isfinite(array).all() or (shape and array.shape != shape):
        raise ValueError(f"an array of shape {array.shape} is not drawn")
    return array


def _svg(body, alt, below):
    return (
        f'<svg viewBox="0 0 {WIDE} {TALL}" role="img" aria-label="{escape(alt)}" style="width:100%;height:auto;'
        f'display:block" font-size="12" fill="currentColor" stroke="none">{body}</svg><div>{below}</div>'
    )


def _line(points, colour, dashed=False, wide=2):
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path d="{path(points)}" fill="none" stroke="{colour}" stroke-width="{wide}"{dash}/>'


# ---- chapter 1: a portrait of rank r ---------------------------------------------------------------------------------
def _portrait(case, answer):
    W, r = case
    copy = _numbers(answer)
    if copy.ndim != 2 or not copy.size:
        raise ValueError("not a picture")
    below = f"numerical rank {np.linalg.matrix_rank(copy)}"
    if copy.shape == W.shape:
        below += f" · error {100 * np.linalg.norm(W - copy) / np.linalg.norm(W):.1f} % of the picture"
    return (
        f'<img alt="The portrait, computed with r = {r}: {below}." style="width:100%;max-width:300px;height:auto;'
        f'image-rendering:pixelated" src="data:image/png;base64,{b64encode(_png(copy)).decode()}"><div>{below}</div>'
    )


def _png(grey):
    """A matrix from −1, black, to 1, white, as a PNG. (An import of matplotlib could be cut short by the sandbox.)"""
    return png(np.rint((np.clip(grey, -1, 1) + 1) * 127.5))


# ---- chapter 3: where a layer sends a circle -------------------------------------------------------------------------
@cache
def _circle():
    """x (60, 3): a circle in the first two of three inputs; W0 (2, 3), A (8, 3), B (2, 8)."""
    rng, turn = np.random.default_rng(7), np.linspace(0, 2 * np.pi, 60)
    x = np.stack([np.cos(turn), np.sin(turn), np.full(60, 0.3)], axis=1)
    W0 = np.array([[1.2, 0.2, 0.0], [-0.1, 0.8, 0.4]])
    return x, W0, rng.normal(size=(8, 3)), 0.08 * rng.normal(size=(2, 8))


def _layer(alpha, r):
    x, W0, A, B = _circle()
    return x, W0, A[:r], B[:, :r], alpha, r


def _sent(case, answer):
    x, W0, *_, alpha, r = case
    h = _numbers(answer, (len(x), 2))

    def place(points):
        return [(WIDE / 2 + 46 * a, TALL / 2 - 46 * b) for a, b in np.clip(points, [-3.6, -2.2], [3.6, 2.2])]

    move = np.abs(h - x @ W0.T).max()
    return _svg(
        _line(place(x @ W0.T), "currentColor", dashed=True, wide=1.5) + _line(place(h), BLUE),
        f"Sixty inputs on a circle and where the layer sends them, with α = {alpha} and r = {r}.",
        f"Dashed: W0 x. Blue: h. They are up to {move:.2f} apart.",
    )


# ---- chapter 5: what is stored of a sum ------------------------------------------------------------------------------
def _sums(weight, change):
    return (weight + np.linspace(0, change, 121),)


def _stored(case, answer):
    (x,) = case
    stored = _numbers(answer, x.shape)
    width = x[-1] - x[0]

    def place(values):
        moved = np.clip((values - x[0]) / width, -0.15, 1.15)
        return [(20 + 300 * i / (len(x) - 1), 180 - 150 * y) for i, y in enumerate(moved)]

    lost = int(np.sum(stored == stored[0])) - 1
    return _svg(
        _line(place(x), "currentColor", dashed=True, wide=1.5)
        + _line(place(stored), BLUE)
        + f'<text x="20" y="204">ΔW = 0</text><text x="320" y="204" text-anchor="end">ΔW = {width:g}</text>',
        f"The weight {x[0]:g} after adding ΔW from 0 to {width:g}: the exact sum, a slope, and what is stored.",
        f"Dashed: W + ΔW. Blue: what is stored. {len(np.unique(stored))} different numbers for {len(x)} sums; "
        f"{lost} changes are lost.",
    )


# ---- chapter 9: weights, and what comes back from their codes --------------------------------------------------------
def _weights(size, outlier):
    """60 weights, so that a last block is short, four zeros in a row, and an outlier that is negative."""
    x = np.random.default_rng(9).normal(size=60)
    x[40:44] = 0
    x[20] = -outlier or x[20]
    return x, LEVELS, size


def _coded(case, answer):
    x, levels, size = case
    codes, absmax = answer
    codes, absmax = _numbers(codes, x.shape), _numbers(absmax, (-(-len(x) // size),))
    back = levels[codes.astype(int)] * np.repeat(absmax, size)[: len(x)]

    def place(values):
        return [(22 + 5 * i, TALL / 2 - 28 * y) for i, y in enumerate(np.clip(values, -3.4, 3.4))]

    dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2" opacity=".6"/>' for a, b in place(x))
    dashes = "".join(f"M{a - 2.5:.1f} {b:.1f}h5" for a, b in place(back))
    edges = "".join(f"M{19.5 + 5 * i:.1f} 8V{TALL - 8}" for i in range(0, len(x) + 1, size))
    error = np.abs(np.delete(back - x, 20)).mean()
    return _svg(
        f'<path d="{edges}" stroke="currentColor" stroke-opacity=".25"/>{dots}'
        f'<path d="{dashes}" stroke="{BLUE}" stroke-width="2.5"/>',
        f"60 weights in blocks of {size}, and the values that come back from their codes.",
        f"Dots: weights. Blue: what comes back. {len(np.unique(codes))} codes are used; mean error "
        f"{error:.3f}, the outlier left out.",
    )


# ---- chapter 12: who gets the rank -----------------------------------------------------------------------------------
@cache
def _spectra():
    return whole(shipped.results("ch12_spectrum"))


def _budget(reference, budget):
    return [float(energy_at(S, reference)) for S in _spectra().values()], list(RANKS), budget


def _ranks(case, answer):
    energies, _, budget = case
    ranks = _numbers(answer, (len(energies),))
    spent, height = np.sum(ranks**2), np.clip(ranks, 0, 20) * 8
    bars = "".join(
        f'<rect x="{10 + 20.2 * i:.1f}" y="{180 - h:.1f}" width="16" height="{h:.1f}" fill="{BLUE}"/>'
        f'<text x="{18 + 20.2 * i:.1f}" y="{176 - h:.1f}" text-anchor="middle">{r:g}</text>'
        for i, (r, h) in enumerate(zip(ranks, height, strict=True))
    )
    colour = f' style="color:{ORANGE};font-weight:600"' if spent > budget else ""
    return _svg(
        f'{bars}<path d="M8 180.5H332" stroke="currentColor"/><text x="10" y="198">16 layers, blocks 0 to 3</text>',
        f"A bar for the rank of each of 16 layers; the budget is {budget}.",
        f"<span{colour}>Σ r² = {spent:,.0f} of {budget:,}</span> · Σ r = {ranks.sum():,.0f}",
    )


_ALL = [
    Trial(
        "ch01-best",
        "a slider stands here: your `best_copy` rebuilds the portrait beside the book’s, rank by rank",
        (Slider("r", "Rank r", range(1, 101), start=5),),
        lambda r: (photograph(), r),
        _portrait,
    ),
    Trial(
        "ch03-forward",
        "two sliders stand here: your `forward` bends a circle with α and r, beside the book’s",
        (Slider("alpha", "α", range(0, 33), start=8), Slider("r", "Rank r", [1, 4, 8], start=4)),
        _layer,
        _sent,
    ),
    Trial(
        "ch05-bf16",
        "two sliders stand here: your `store_bf16` stores a weight while ΔW grows, beside the book’s",
        (
            Slider("weight", "W", [-0.1, 0.03, 0.1, 0.3, 0.75, 3.0], start=-0.1),
            Slider("change", "largest ΔW", [0.0003, 0.001, 0.003, 0.01, 0.03], start=0.003),
        ),
        _sums,
        _stored,
    ),
    Trial(
        "ch09-blocks",
        "two sliders stand here: your `blockwise` codes 60 weights, with blocks and an outlier of your choice, "
        "beside the book’s",
        (
            Slider("size", "Values in a block", [4, 8, 16, 32, 64], start=16),
            Slider("outlier", "One outlier", [0, 5, 10, 30], start=5, labels=["none", "−5", "−10", "−30"]),
        ),
        _weights,
        _coded,
    ),
    Trial(
        "ch12-split",
        "two sliders stand here: your `split` deals out the ranks of the 16 layers, beside the book’s",
        (
            Slider("reference", "Reference rank", [1, 2, 4, 8, 16, 32, 64], start=8),
            Slider("budget", "Budget, Σ r²", [64, 128, 256, 512, 1024, 2048], start=1024),
        ),
        _budget,
        _ranks,
    ),
]
TRIALS = {trial.id: trial for trial in _ALL}
