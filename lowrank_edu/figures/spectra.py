"""The spectrum of a matrix: what each rank keeps, what it drops, what it costs.   chapters 1 and 2"""

import numpy as np

from ..factor import singular_values
from .page import Choice, Figure, Slider, Toggle, key, meter, rounded, script, svg, tiles

WIDTH, FLOOR, TALL = 318, 226, 212  # where the bars end, where they stand, how tall σ₁ is
MARGIN = 32  # right of them, for the scale
DECADES = 4  # what the logarithmic scale shows below σ₁
TITLE = "How much does each rank keep?"
CAPTION = (
    "Each bar is one singular value. The squared error of the best rank-r copy is exactly the energy of "
    "the bars that are dropped (Eckart–Young). Move the slider, or use the arrow keys: where does another "
    "rank stop paying, and from which rank on is the copy larger than the matrix itself?"
)


def spectrum(matrices, r=None, slug="spectrum", title=TITLE, caption=CAPTION):
    """Bars of singular values with a rank slider: energy kept, error, numbers stored.

    matrices: a matrix (d_out, d_in), or {name: matrix} for radio buttons; the outlines of the others stay in
    view, each measured by its own σ₁. r: the rank shown first (default: 90 % of the first matrix's energy).
    ValueError: a matrix is zero, or has fewer than 2 or more than 512 singular values.
    """
    matrices = matrices if isinstance(matrices, dict) else {"W": matrices}
    data = {str(name): _numbers(name, W) for name, W in matrices.items()}
    first, most = next(iter(data)), max(len(m["s"]) for m in data.values())
    r = _rank_for(data[first]["s"], 0.9) if r is None else r
    controls = [Slider("r", "Rank r", range(1, most + 1), start=r), Toggle("log", "Logarithmic scale")]
    if len(data) > 1:
        controls.insert(0, Choice("matrix", "Matrix", list(data)))
    return Figure(
        slug=slug,
        title=title,
        alt=_alt(data),
        caption=caption,
        controls=controls,
        data={"matrices": data, "first": first, "box": [WIDTH, FLOOR, TALL, DECADES]},
        stage=_stage(data[first], min(r, len(data[first]["s"]))),
        panel=_panel(data[first], min(r, len(data[first]["s"])), len(data) > 1),
        draw=script("spectra.js"),
    )


def _numbers(name, W):
    s = singular_values(W)
    if not 2 <= len(s) <= 512 or s[0] == 0:
        raise ValueError(
            f"matrix {name!r} has {len(s)} singular values, the largest {s[0]:g}; the figure draws 2 to 512 "
            f"that are not all zero. Take a slice of it, or another matrix."
        )
    return rounded({"s": s / s[0], "top": s[0], "shape": np.shape(W)})


def _energy(s):
    squares = np.square(s)
    return np.cumsum(squares) / squares.sum()


def _rank_for(s, share):
    return int(np.searchsorted(_energy(s), share) + 1)


def _bars(s, start, stop):
    """One SVG path for the bars start … stop − 1; spectra.js draws the same."""
    step = WIDTH / len(s)
    wide = step - min(2, 0.25 * step)
    return "".join(
        f"M{k * step:.1f} {FLOOR}v-{s[k] * TALL:.1f}h{wide:.2f}V{FLOOR}z" for k in range(start, stop)
    )


def _stage(matrix, r):
    s = matrix["s"]
    body = f"""<path data-el="kept" fill="var(--a)" d="{_bars(s, 0, r)}"/>
<path data-el="lost" fill="var(--b)" d="{_bars(s, r, len(s))}"/>
<g data-el="others" fill="none" stroke="currentColor" stroke-opacity=".6" stroke-width="1.2"
stroke-dasharray="2 3"></g><path d="M0 {FLOOR}H{WIDTH}" stroke="currentColor" stroke-opacity=".5"/>
<g data-el="grid">{_line(0, "1")}{_line(0.5, "0.5")}</g>
<path data-el="cut" stroke="currentColor" stroke-width="1.5" d="M{r * WIDTH / len(s):.1f} 8V{FLOOR + 5}"/>
<text x="0" y="{FLOOR + 18}">σ₁ = <tspan data-el="top">{matrix["top"]:.3g}</tspan></text>
<text x="{WIDTH}" y="{FLOOR + 18}" text-anchor="end" data-el="last">{len(s)} singular values</text>"""
    return svg(WIDTH + MARGIN, FLOOR + 24, body)


def _line(depth, text):
    """A line of the scale, `depth` of the height below σ₁; spectra.js draws the same."""
    y = FLOOR - (1 - depth) * TALL
    return (
        f'<path d="M0 {y:g}H{WIDTH}" stroke="currentColor" stroke-opacity=".22"/>'
        f'<text x="{WIDTH + 5}" y="{y + 4:g}">{text}</text>'
    )


def _panel(matrix, r, several):
    kept, (m, n) = _energy(matrix["s"])[r - 1], matrix["shape"]
    share = r * (m + n) / (m * n)
    return (
        f"<div>{key('a', 'kept')}{key('b', 'dropped')}"
        + ('<span class="lo-keyed">┄ the others</span>' if several else "")
        + "</div>"
        + tiles(
            ("energy", f"{100 * kept:.1f} %", "of the energy kept"),
            ("error", f"{100 * np.sqrt(max(0, 1 - kept)):.1f} %", "error, ‖W − Wᵣ‖ / ‖W‖"),
        )
        + tiles(("params", f"{r * (m + n):,}", f"numbers instead of {m} × {n} = {m * n:,}"))
        + meter("bar", share)
    )


def _alt(data):
    parts = [
        f"{name}, {m['shape'][0]} by {m['shape'][1]}: {_rank_for(m['s'], 0.5)} of {len(m['s'])} singular "
        f"values hold half of the energy, {_rank_for(m['s'], 0.9)} hold 90 percent"
        for name, m in data.items()
    ]
    return "Bars of singular values, from the largest to the smallest. " + "; ".join(parts) + "."
