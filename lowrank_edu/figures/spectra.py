"""The spectrum of a matrix: what each rank keeps, what it drops, what it costs.   chapters 1 and 2"""

import numpy as np

from ..factor import singular_values
from .page import Choice, Figure, Slider, Toggle, script, svg, tiles

WIDTH, HEIGHT, FLOOR = 350, 200, 176  # of the picture; FLOOR is where the bars stand
DECADES = 4  # what the logarithmic scale shows below σ₁


def spectrum(matrices, r=None, slug="spectrum", title="How much does each rank keep?", caption=None, digits=4):
    """Bars of singular values with a rank slider: energy kept, error, numbers stored.

    matrices: a matrix (d_out, d_in), or {name: matrix} for radio buttons; the outlines of the others stay in view, each
    measured by its own σ₁. r: the rank shown first (default: 90 % of the energy of the first matrix). At most 512 bars.
    ValueError: a matrix is zero, or has more than 512 singular values.
    """
    if not isinstance(matrices, dict):
        matrices = {"W": matrices}
    data = {str(name): _numbers(name, W) for name, W in matrices.items()}
    first, most = next(iter(data)), max(len(m["s"]) for m in data.values())
    r = int(np.searchsorted(_energy(data[first]["s"]), 0.9) + 1) if r is None else r
    controls = [Slider("r", "Rank r", range(1, most + 1), start=r), Toggle("log", "Logarithmic scale")]
    if len(data) > 1:
        controls.insert(0, Choice("matrix", "Matrix", list(data)))
    return Figure(
        slug=slug, title=title, alt=_alt(data), caption=caption or CAPTION, controls=controls, digits=digits,
        data={"matrices": data, "first": first, "box": [WIDTH, FLOOR, DECADES]},
        stage=_stage(data, first, r), panel=_panel(data[first], r), draw=script("spectra.js"),
    )


CAPTION = ("Each bar is one singular value. The bars left of the rank are kept. The squared error of the best rank-r copy is "
           "exactly the energy of the bars that are dropped (Eckart–Young). Move the slider, or use the arrow keys: from which "
           "rank on is the copy larger than the matrix itself?")


def _numbers(name, W):
    s = singular_values(W)
    if len(s) > 512 or s[0] == 0:
        raise ValueError(f"matrix {name!r} has {len(s)} singular values, the largest {s[0]:g}; the figure draws 2 to 512, not "
                         f"all zero. Take a slice of it, or another matrix.")
    return {"s": (s / s[0]).tolist(), "top": float(s[0]), "shape": np.shape(W)}


def _energy(s):
    squares = np.square(s)
    return np.cumsum(squares) / squares.sum()


def _bars(s, start, stop):
    """One SVG path for the bars start … stop − 1; spectra.js draws the same."""
    step = WIDTH / len(s)
    wide = step - min(2, 0.25 * step)
    return "".join(f"M{k * step:.1f} {FLOOR}v-{s[k] * (FLOOR - 14):.1f}h{wide:.2f}V{FLOOR}z" for k in range(start, stop))


def _stage(data, name, r):
    s = data[name]["s"]
    return svg(WIDTH, HEIGHT, f"""<g data-el="others" fill="none" stroke="currentColor" stroke-opacity=".45"
stroke-width="1.2" stroke-dasharray="3 3"></g><path data-el="kept" fill="var(--a)" d="{_bars(s, 0, r)}"/>
<path data-el="lost" fill="var(--b)" d="{_bars(s, min(r, len(s)), len(s))}"/>
<path d="M0 {FLOOR}H{WIDTH}" stroke="currentColor" stroke-opacity=".5"/><g data-el="grid"></g>
<path data-el="cut" stroke="currentColor" stroke-width="1.5" d="M{r * WIDTH / len(s):.1f} 8V{FLOOR + 5}"/>
<text x="0" y="194">σ₁ = <tspan data-el="top">{data[name]["top"]:.3g}</tspan></text>
<text x="{WIDTH}" y="194" text-anchor="end" data-el="last">{len(s)} singular values</text>""")


def _panel(matrix, r):
    kept, (m, n) = _energy(matrix["s"])[min(r, len(matrix["s"])) - 1], matrix["shape"]
    return tiles(("energy", f"{100 * kept:.1f} %", "of the energy is kept"),
                 ("error", f"{100 * np.sqrt(max(0, 1 - kept)):.1f} %", "error, ‖W − Wᵣ‖ / ‖W‖"),
                 ("params", f"{r * (m + n):,}", f"numbers instead of {m} × {n} = {m * n:,}")) + f"""<div aria-hidden="true">
<svg viewBox="0 0 200 12"><rect width="200" height="12" rx="3" fill="currentColor" opacity=".14"/><rect data-el="bar"
width="{200 * min(1, r * (m + n) / (m * n)):.1f}" height="12" rx="3" fill="var(--a)"/></svg></div>"""


def _alt(data):
    parts = []
    for name, m in data.items():
        half, most = (int(np.searchsorted(_energy(m["s"]), share) + 1) for share in (0.5, 0.9))
        parts.append(f"{name} ({m['shape'][0]} by {m['shape'][1]}): {half} of {len(m['s'])} singular values hold half of the "
                     f"energy, {most} hold 90 percent")
    return "Bars of singular values, from the largest to the smallest. " + "; ".join(parts) + "."
