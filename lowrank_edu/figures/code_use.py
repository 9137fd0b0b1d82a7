"""How values fill their block, and which of the 16 codes they use.   chapter 9"""

import math

import numpy as np

from .. import shipped
from .page import Choice, Figure, Slider, Toggle, pack, script, svg, tiles

LEFT, RIGHT = 8, 342  # the axis from −1 to 1
TOP, LINE = 22, 104  # the histogram: its highest bar, its axis
HIGH, FLOOR, FULL = 160, 236, 1800  # the bars of the codes: ceiling, floor, and ten-thousandths that reach the ceiling
KINDS = ("nf4", "fp4", "int4")
SOURCES = {"Gaussian": "random, Gaussian", "weight": "a weight of the tiny model"}
TITLE = "Which of the 16 codes does a block use?"
CAPTION = (
    "Above, all values divided by the largest of their block; each tick is a level. A line leads from every level to "
    "its bar below: how often that code is used, with 1 in 16 dashed. Make the blocks larger: where do the values go, "
    "and which codes stay empty? Then add outliers, to large blocks and to small ones."
)


def four_bits(results=None, slug="code-use"):
    """Histogram of value / absmax, the 16 levels in it and the share of each code; sliders for block and outliers.

    results: what `shipped.results("ch09_levels")` gives (default).
    """
    from ..quant import LEVELS, bits_per_parameter  # here, because it loads torch

    rows = (results or shipped.results("ch09_levels"))["levels"]
    blocks = [int(block) for block in rows["Gaussian 0"]]
    outliers = sorted(int(name.split()[1]) for name in rows if name.startswith("Gaussian"))
    frames = {f"{name} {block}": row[str(block)] for name, row in rows.items() for block in blocks}
    levels = {kind: sorted(LEVELS[kind]) for kind in KINDS}
    bits = {str(b): [bits_per_parameter("nf4", b, double) for double in (False, True)] for b in blocks}
    tops = [np.array(frame["hist"]) / max(frame["hist"]) for frame in frames.values()]
    shown = frames["Gaussian 0 64"]
    return Figure(
        slug=slug,
        title=TITLE,
        alt=_alt(frames, blocks),
        caption=CAPTION,
        controls=[
            Choice("kind", "Levels", {"nf4": "NF4", "fp4": "fp4", "int4": "int4"}),
            Slider("block", "Values in a block", blocks, start=64, labels=[f"{b:,}" for b in blocks]),
            Slider(
                "outlier",
                "One outlier per 4,096 values",
                outliers,
                labels=["none", *(f"{o} σ" for o in outliers[1:])],
            ),
            Choice("source", "Values", SOURCES),
            Toggle("double", "absmax in 8 bits (double quantisation)"),
        ],
        data={
            "levels": levels,
            "names": list(frames),
            "hist": pack(np.array(tops), 0, 1),
            "use": {kind: [frame[kind]["use"] for frame in frames.values()] for kind in KINDS},
            "error": {kind: [frame[kind]["error"] for frame in frames.values()] for kind in KINDS},
            "bits": bits,
            "box": [LEFT, RIGHT, TOP, LINE, HIGH, FLOOR, FULL],
        },
        digits=5,
        stage=_stage(tops[list(frames).index("Gaussian 0 64")], levels["nf4"], shown["nf4"]["use"]),
        under=tiles(
            ("error", f"{shown['nf4']['error'][0]:.4f} σ", "mean |error|"),
            ("bits", f"{bits['64'][0]:.3f}", "bits per parameter"),
            ("told", f"{entropy(shown['nf4']['use']):.2f}", "bits that a code tells"),
        ),
        draw=script("code_use.js"),
    )


def entropy(use):
    """Bits that one code tells on average, from how often each is used."""
    return sum(-u / sum(use) * math.log2(u / sum(use)) for u in use if u)


def _x(value):
    return LEFT + (RIGHT - LEFT) * (value + 1) / 2


def _slot(k):
    """Left edge of the bar of code k: 16 slots of equal width, whatever the levels."""
    return LEFT + (RIGHT - LEFT) * k / 16


def _stage(top, levels, use):
    """The first state; code_use.js draws the same."""
    wide, slot = (RIGHT - LEFT) / len(top), (RIGHT - LEFT) / 16
    hist = "".join(
        f"M{LEFT + wide * i:.1f} {LINE}v{-(LINE - TOP) * h:.1f}h{wide - 0.5:.1f}V{LINE}z" for i, h in enumerate(top)
    )
    ticks = "".join(f"M{_x(v):.1f} {TOP}V{LINE + 6}" for v in levels)
    lines = "".join(f"M{_x(v):.1f} {LINE + 6}L{_slot(k) + slot / 2:.1f} {HIGH - 20}" for k, v in enumerate(levels))
    bars = "".join(
        f"M{_slot(k) + 2:.1f} {FLOOR}v{-(FLOOR - HIGH) * min(1, u / FULL):.1f}h{slot - 4:.1f}V{FLOOR}z"
        for k, u in enumerate(use)
    )
    even = FLOOR - (FLOOR - HIGH) * 10_000 / 16 / FULL
    names = "".join(
        f'<text x="{_x(v):g}" y="{LINE + 20}" text-anchor="{a}">{t}</text>'
        for v, t, a in [(-1, "−1", "start"), (1, "1", "end")]
    )
    return svg(
        350,
        268,
        f'<text x="{LEFT}" y="13">value ÷ absmax of its block</text>'
        f'<path data-el="hist" fill="currentColor" fill-opacity=".3" d="{hist}"/>'
        f'<path d="M{LEFT} {LINE}H{RIGHT}" stroke="currentColor" stroke-opacity=".5"/>{names}'
        f'<path data-el="ticks" stroke="var(--b)" stroke-width="1.5" fill="none" d="{ticks}"/>'
        f'<path data-el="lines" stroke="var(--b)" stroke-opacity=".45" fill="none" d="{lines}"/>'
        f'<path data-el="bars" fill="var(--a)" d="{bars}"/>'
        f'<path d="M{LEFT} {even:.1f}H{RIGHT}" stroke="currentColor" stroke-dasharray="4 4" stroke-opacity=".7"/>'
        f'<path d="M{LEFT} {FLOOR}H{RIGHT}" stroke="currentColor" stroke-opacity=".5"/>'
        f'<g data-el="over"></g><text x="{LEFT}" y="{FLOOR + 17}">how often each code is used (%, where it is much)'
        "</text>",
    )


def _alt(frames, blocks):
    def told(name, kind="nf4"):
        return f"{entropy(frames[name][kind]['use']):.1f}"

    small, large = blocks[0], blocks[-1]
    return (
        "Above, a histogram of Gaussian values divided by the largest value of their block, with the 16 levels of NF4 "
        "as ticks, close together near zero. Below, one bar per level: in blocks of 64 the bars in the middle reach 9 "
        f"percent, the two outermost 2. A code tells {told(f'Gaussian 0 {small}')} bits in blocks of {small} and "
        f"{told(f'Gaussian 0 {large}')} in blocks of {large:,}; with one outlier of 100 σ per block of {large:,} it "
        f"tells {told(f'Gaussian 100 {large}')}, because nearly all values fall on the level zero."
    )
