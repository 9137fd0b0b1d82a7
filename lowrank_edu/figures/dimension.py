"""Loss against the number of trained directions: the intrinsic dimension.   chapter 2"""

import numpy as np

from .. import shipped
from .page import Figure, Slider, key, path, script, svg, tiles

LEFT, RIGHT, TOP, FLOOR = 40, 340, 14, 196  # the box that the curve is drawn in
INK = 'stroke="currentColor"'
SHARE = 0.9  # of full fine-tuning's improvement
CAPTION = (
    "Each dot is one training with d numbers behind a fixed random map; all take the same number of steps. "
    "The lower dashed line is full fine-tuning. Move d: where does the curve cross the 90 % line, and what "
    "share of all weights is that?"
)


def loss_against_d(results=None, slug="dimension"):
    """Held-out loss after training d numbers, for each d: dots are seeds, lines base and full fine-tuning.

    results: what `shipped.results("ch02_intrinsic")` gives (default).
    """
    results = results or shipped.results("ch02_intrinsic")
    base, full, rows = summary(results)
    d90 = intrinsic_dimension(results)
    start, weights = min(3, len(rows) - 1), results["weights"]
    data = {
        "rows": [[d, losses] for d, losses in rows],
        "levels": [base, full, needed(base, full)],
        "weights": weights,
        "box": [LEFT, RIGHT, TOP, FLOOR],
    }
    share = (base - np.mean(rows[start][1])) / (base - full)
    return Figure(
        slug=slug,
        title="How few numbers can learn the style?",
        alt=_alt(base, full, rows, d90),
        caption=CAPTION,
        controls=[
            Slider("d", "Trained numbers d", [d for d, _ in rows], start=rows[start][0],
                   labels=[f"{d:,}" for d, _ in rows]),
        ],
        data=data,
        stage=_stage(base, full, rows, start),
        panel=f"<div>{key('a', 'd numbers')}{key('c', 'your d')}</div>"
        + tiles(
            ("share", f"{100 * share:.0f} %", "of full fine-tuning’s improvement"),
            ("loss", f"{np.mean(rows[start][1]):.2f}", "nats per token, mean of the seeds"),
        )
        + tiles(("part", f"{100 * rows[start][0] / weights:.2g} %", f"of {weights:,} numbers are trained")),
        draw=script("dimension.js"),
    )  # fmt: skip


def summary(results):
    """(base loss, loss of full fine-tuning, [(d, its losses over the seeds)]) as means over the seeds."""
    base = float(np.mean([run["base"] for run in results["full"]]))
    full = float(np.mean([run["loss"] for run in results["full"]]))
    losses = {}
    for run in results["runs"]:
        losses.setdefault(run["d"], []).append(run["loss"])
    return base, full, sorted(losses.items())


def needed(base, full):
    """The loss that counts as learned: 90 % of the way from the base model to full fine-tuning."""
    return base - SHARE * (base - full)


def intrinsic_dimension(results):
    """d90: the smallest measured d whose mean loss is low enough, or None.   Li et al. 2018; chapter 2."""
    base, full, rows = summary(results)
    return next((d for d, losses in rows if np.mean(losses) <= needed(base, full)), None)


def _at(d, loss, rows, base, full):
    """Where a point stands in the picture; dimension.js computes the same."""
    first, last = np.log10(rows[0][0]), np.log10(rows[-1][0])
    x = LEFT + 12 + (RIGHT - LEFT - 24) * (np.log10(d) - first) / (last - first)
    low, high = np.log(0.8 * full), np.log(1.05 * base)  # a logarithmic axis: most is won by the first few d
    return x, FLOOR - (FLOOR - TOP) * (np.log(loss) - low) / (high - low)


def _stage(base, full, rows, start):
    def height(loss):
        return _at(rows[0][0], loss, rows, base, full)[1]

    levels = "".join(
        f'<path d="M{LEFT} {height(v):.1f}H{RIGHT}" {INK} stroke-opacity=".6" stroke-dasharray="{dash}"/>'
        f'<text x="{x}" y="{height(v) + dy:.1f}" text-anchor="{anchor}">{name}</text>'
        for v, dash, name, dy, x, anchor in (
            (base, "5 4", "base model", 14, RIGHT, "end"),
            (needed(base, full), "1 4", "90 % of the way", 13, LEFT + 6, "start"),
            (full, "5 4", "full fine-tuning", 14, LEFT + 6, "start"),
        )
    )
    mean = [_at(d, np.mean(v), rows, base, full) for d, v in rows]
    dots = "".join(
        f'<circle data-set="d={d}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        for d, losses in rows
        for x, y in (_at(d, loss, rows, base, full) for loss in losses)
    )
    ticks = "".join(
        f'<text x="{x:.1f}" y="{FLOOR + 16}" text-anchor="middle">{_power(d)}</text>'
        for (d, _), (x, _) in zip(rows, mean, strict=True)
        if np.log10(d) % 1 == 0
    )
    x, y = mean[start]
    body = (
        f'<path d="M{LEFT} {TOP}V{FLOOR}H{RIGHT}" fill="none" {INK} stroke-opacity=".5"/>{levels}'
        f'<path d="{path(mean)}" fill="none" stroke="var(--a)" stroke-width="2"/><g fill="var(--a)">{dots}</g>'
        f'<path data-el="mark" stroke="var(--c)" stroke-width="1.5" d="M{x:.1f} {TOP}V{FLOOR}"/>'
        f'<circle data-el="here" r="7" fill="none" stroke="var(--c)" stroke-width="2.5" '
        f'cx="{x:.1f}" cy="{y:.1f}"/>{ticks}'
        f'<text x="{(LEFT + RIGHT) / 2:g}" y="{FLOOR + 34}" text-anchor="middle">d, the length of θ</text>'
        f'<text x="{LEFT - 6}" y="{height(base) + 4:.1f}" text-anchor="end">{base:.2f}</text>'
        f'<text x="{LEFT - 6}" y="{height(full) + 4:.1f}" text-anchor="end">{full:.2f}</text>'
    )
    return svg(350, FLOOR + 40, body)


def _power(d):
    return "10" + str(round(np.log10(d))).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _alt(base, full, rows, d90):
    points = ", ".join(f"{np.mean(losses):.2f} for d = {d:,}" for d, losses in rows)
    found = f"The 90 percent line is first reached at d = {d90:,}." if d90 else "No d reaches the 90 percent line."
    return (
        f"Loss against d, both on logarithmic axes: {points}. The base model has {base:.2f}, full fine-tuning "
        f"{full:.2f}. {found}"
    )
