"""What merging and unmerging leaves behind in the weights.   chapter 5"""

from base64 import b64decode

import numpy as np

from .page import Choice, Figure, Slider, pack, path, script, svg, tiles

CELL, TOP = 7, 24  # the corner of W − W0: size of a cell, and where it begins
LEFT, RIGHT, FLOOR, HIGH = 194, 328, 224, 24  # the chart: its edges
LOW, DECADES = -9, 12  # from 10⁻⁹ to 10³
TITLE = "Is W0 the same after merging and taking out again?"
CAPTION = (
    "Left, a corner of W − W0 in one layer: orange where a weight came back too large, blue where too small, "
    "nothing where it came back as it was. Right, the largest error in any layer. Measured with PEFT, which "
    "subtracts (in NF4 by the same arithmetic on unpacked codes). Try one adapter and many round trips; then three "
    "in turn; then put the kept W0 back."
)


def merge_drift(results, slug="merge-drift"):
    """The error left by merge and unmerge, over round trips, formats and ways to take an adapter out.

    results: the file `ch05_merge` (see `lowrank_edu.shipped`): "cycles", and per format and order the entries
    "max", "moved" and "corner". ValueError: a corner that is not square.
    """
    cycles, frames, series = [0, *results["cycles"]], [], {}
    for name, entries in results["drift"].items():
        series[name] = {
            "max": [0.0, *(e["max"] for e in entries)],
            "moved": [0.0, *(e["moved"] for e in entries)],
            "frame": [-1, *(_frame(frames, e["corner"]) for e in entries)],
        }
    lost = {name: entry["lost"] for name, entry in results["merge"].items()}
    at = cycles.index(1)
    return Figure(
        slug=slug,
        title=TITLE,
        alt=_alt(results),
        caption=CAPTION,
        controls=[
            Choice("format", "W is stored in", {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16", "nf4": "NF4"}),
            Choice("order", "Adapters", {"one": "one, again and again", "three": "three in turn"}),
            Choice("way", "Taken out by", {"subtract": "subtracting ΔW", "keep": "putting W0 back"}),
            Slider("cycle", "Round trips", cycles, start=1, labels=[f"{c:,}" for c in cycles]),
        ],
        data={
            "cycles": cycles,
            "series": series,
            "lost": lost,
            "frames": [_signs(f) for f in frames],
            "side": len(frames[0]),
            "box": [CELL, TOP, LEFT, RIGHT, FLOOR, HIGH, LOW, DECADES],
        },
        stage=_stage(series["fp32 one"], frames, cycles, at),
        panel=tiles(
            ("max", f"{series['fp32 one']['max'][at]:.1e}", "largest |W − W0|"),
            ("moved", f"{100 * series['fp32 one']['moved'][at]:.1f} %", "of the weights have moved"),
        )
        + tiles(("lost", f"{100 * lost['fp32']:.1f} %", "of ΔW's entries change nothing when merged")),
        draw=script("merge_meter.js"),
    )


def _frame(frames, corner):
    """The number of this corner among the frames; equal ones are stored once."""
    values = np.frombuffer(b64decode(corner), np.int8)
    side = round(len(values) ** 0.5)
    if side * side != len(values):
        raise ValueError(f"a corner has {len(values)} values, which is not a square.")
    values = np.sign(values).reshape(side, side)
    for i, frame in enumerate(frames):
        if np.array_equal(frame, values):
            return i
    frames.append(values)
    return len(frames) - 1


def _signs(frame):
    """A frame of −1, 0, 1 as bytes of five cells each, in base 3 with the first cell lowest; merge_meter.js unpacks."""
    cells = (frame.ravel() + 1).astype(np.uint8)
    cells = np.append(cells, np.zeros(-len(cells) % 5, np.uint8)).reshape(-1, 5)
    return pack((cells @ np.array([1, 3, 9, 27, 81], np.uint8)).view(np.int8)[None])


def _cells(frame, sign):
    """One SVG path: a square per weight that moved in this direction; merge_meter.js draws the same."""
    rows, columns = np.nonzero(frame == sign)
    return "".join(
        f"M{CELL * c:g} {TOP + CELL * r:g}h{CELL - 1}v{CELL - 1}h-{CELL - 1}z"
        for r, c in zip(rows.tolist(), columns.tolist(), strict=True)
    )


def _point(cycle, error):
    x = LEFT + (RIGHT - LEFT) * np.log10(max(cycle, 1)) / 3
    y = FLOOR - (FLOOR - HIGH) * (np.log10(max(error, 1e-30)) - LOW) / DECADES
    return x, min(y, FLOOR)


def _stage(series, frames, cycles, at):
    frame, side = frames[series["frame"][at]], CELL * len(frames[0])
    points = [_point(c, e) for c, e in zip(cycles, series["max"], strict=True)]
    x, y = points[at]
    ticks = "".join(
        f'<path d="M{LEFT} {_y(d)}H{RIGHT}" stroke="currentColor" stroke-opacity=".2"/>'
        f'<text x="{LEFT - 5}" y="{_y(d) + 4:g}" text-anchor="end">10{text}</text>'
        for d, text in [(-8, "⁻⁸"), (-6, "⁻⁶"), (-4, "⁻⁴"), (-2, "⁻²"), (0, "⁰"), (2, "²")]
    )
    return svg(
        350,
        260,
        f'<text x="0" y="14">a corner of W − W0</text><text x="{LEFT}" y="14">largest |W − W0|</text>'
        f'<rect x="-.5" y="{TOP - 0.5}" width="{side}" height="{side}" fill="none" stroke="currentColor" '
        f'stroke-opacity=".5"/><path data-el="up" fill="var(--b)" d="{_cells(frame, 1)}"/>'
        f'<path data-el="down" fill="var(--a)" d="{_cells(frame, -1)}"/>{ticks}'
        f'<path d="M{LEFT} {FLOOR}H{RIGHT}" stroke="currentColor" stroke-opacity=".5"/>'
        f'<g data-el="others" fill="none" stroke="currentColor" stroke-opacity=".45"></g><g data-el="names"></g>'
        f'<path data-el="line" fill="none" stroke="var(--b)" stroke-width="2" d="{path(points[1:])}"/>'
        f'<circle data-el="dot" r="4.5" fill="var(--b)" cx="{x:.1f}" cy="{y:.1f}"/>'
        + "".join(
            f'<text x="{LEFT + (RIGHT - LEFT) * i / 3:g}" y="{FLOOR + 16}" text-anchor="middle">{t}</text>'
            for i, t in enumerate(["1", "10", "100", "1,000"])
        )
        + f'<text x="{(LEFT + RIGHT) / 2:g}" y="{FLOOR + 32}" text-anchor="middle">round trips</text>',
    )


def _y(decade):
    return FLOOR - (FLOOR - HIGH) * (decade - LOW) / DECADES


def _alt(results):
    def last(name):
        return results["drift"][name][-1]["max"]

    first = results["drift"]["fp32 one"][0]["max"]
    return (
        "A small picture of the weights that did not return, and a chart of the largest error against round "
        f"trips. With one adapter in fp32 the line is flat: {first:.1e} after 1 round trip and "
        f"{last('fp32 one'):.1e} after the last. With three it rises to {last('fp32 three'):.1e} in fp32, "
        f"{last('fp16 three'):.1e} in fp16, {last('bf16 three'):.1e} in bf16 and {last('nf4 three'):.1e} in NF4. "
        "With W0 put back it is zero."
    )
