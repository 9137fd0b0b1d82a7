"""Which numbers a format has near one weight, and where W0 + ΔW ends up.   chapter 5"""

import numpy as np

from .page import Choice, Figure, Slider, key, script, svg, tiles

LEFT, RIGHT, LINE = 14, 336, 78  # the number line on the picture
W0, FIRST, LAST = 0.75, 0.7415, 0.7665  # one weight, and the piece of the line around it
STEPS = {"bf16": 2**-8, "fp16": 2**-11}  # between ½ and 1: 8 and 11 significant bits
CHANGES = [round(0.0005 * i, 4) for i in range(26)]
TITLE = "Which numbers can a weight be?"
CAPTION = (
    "Each tick is a number that the format has; nothing lies between them. The ring is W0 + ΔW, the dot is what "
    "is stored. In bf16, how large must ΔW be before anything happens at all? What becomes of the same ΔW in fp16?"
)


def storable_numbers(slug="storable-numbers"):
    """A number line around the weight 0.75: the ticks that bf16 and fp16 have, ΔW on a slider, what is
    stored."""
    start = 0.0015
    stored = np.round((W0 + start) / STEPS["bf16"]) * STEPS["bf16"]
    return Figure(
        slug=slug,
        title=TITLE,
        alt=(
            "A piece of the number line around the weight 0.75, with a tick for each number that the format has: one "
            "every 1/256 in bf16, one every 1/2048 in fp16. A sum between two ticks moves to the nearer one; in bf16 "
            "a change of 0.0015 moves back to 0.75 and is lost."
        ),
        caption=CAPTION,
        controls=[
            Choice("format", "W is stored in", list(STEPS)),
            Slider("change", "ΔW", CHANGES, start=start, labels=[f"{c:.4f}" for c in CHANGES]),
        ],
        data={"w0": W0, "steps": STEPS, "box": [LEFT, RIGHT, LINE, FIRST, LAST]},
        digits=6,
        stage=svg(
            350,
            132,
            f'<path d="M{LEFT} {LINE}H{RIGHT}" stroke="currentColor" stroke-opacity=".4"/>'
            f'<path data-el="ticks" stroke="currentColor" d="{_ticks(STEPS["bf16"])}"/>'
            f'<path data-el="move" fill="none" stroke="currentColor" stroke-dasharray="2 3" d=""/>'
            f'<text x="{_x(W0):.1f}" y="{LINE + 32}" text-anchor="middle">W0 = 0.75</text>'
            f'<path d="M{_x(W0):.1f} {LINE + 11}l-4 7h8z" fill="currentColor"/>'
            f'<circle data-el="stored" r="6" cy="{LINE}" cx="{_x(stored):.1f}" fill="var(--b)"/>'
            f'<circle data-el="sum" r="6" cy="{LINE - 34}" cx="{_x(W0 + start):.1f}" fill="none" '
            'stroke="var(--a)" stroke-width="2.5"/>',
        ),
        panel=f"<div>{key('a', 'W0 + ΔW')}{key('b', 'stored')}</div>"
        + tiles(
            ("wanted", f"{start:.4f}", "ΔW, wanted"), ("got", f"{stored - W0:.4f}", "change, stored: all of it is lost")
        ),
        draw=script("ruler.js"),
    )


def _x(value):
    return LEFT + (RIGHT - LEFT) * (value - FIRST) / (LAST - FIRST)


def _ticks(step):
    """One SVG path for all ticks; ruler.js draws the same."""
    numbers = range(int(np.ceil(FIRST / step)), int(LAST / step) + 1)
    return "".join(f"M{_x(n * step):.1f} {LINE - 8}v16" for n in numbers)
