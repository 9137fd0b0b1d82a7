"""LaMDA's freezing front: columns of B that no longer train, and what is left to train.   chapter 11"""

from .. import shipped
from .page import Choice, Figure, Slider, path, script, svg, tiles

RUNS = {
    "lamda": "frozen by 30 %",
    "lamda frozen by 1": "by 100 %",
    "lamda as released": "as released",
}
WIDTHS = [64, 192, 768, 1600, 4096, 12288]
R, LAYERS = 8, 16
LEFT, TOP, CELL, TALL = 44, 26, 26, 84  # B: eight columns; under it the numbers that are still trained
BOX = [LEFT, TOP + TALL + 44, 290, 84]


def recorded(results):
    """{run: [[step, frozen columns of one layer, numbers still trained], …]}, and the steps of a run."""
    runs = {
        label: [[step, frozen // LAYERS, left] for step, frozen, left in results["entries"][label]["replay"]]
        for label in RUNS
    }
    return runs, results["steps"]


def freezing_front(results=None, slug="front"):
    """B column by column, frozen from the left, with the numbers still trained over the run; and counts at any width.

    results: what `shipped.results("ch11_lamda")` gives (default).
    """
    runs, steps = recorded(results or shipped.results("ch11_lamda"))
    first = runs["lamda"]
    data = {"runs": runs, "names": RUNS, "steps": steps, "r": R, "box": BOX, "b": [LEFT, TOP, CELL, TALL]}
    return Figure(
        slug=slug,
        title="When does which column of B stop?",
        alt=f"A matrix B with {R} columns, and below it a staircase: the numbers that are trained over {steps} steps. "
        f"With B frozen by 30 percent of the run they fall from {first[0][2]:,} to {first[-1][2]:,} by step "
        f"{first[-1][0]}; as released, only {runs['lamda as released'][-1][1]} of {R} columns lose their gradient.",
        caption="Grey columns with a dashed edge get no gradient any more, the first one first. In the first two "
        "schedules they are frozen, and the first column is that of the largest singular value. As released there are "
        "no singular values, and AdamW moves the grey columns on. The second slider is apart from the run: what one "
        "square layer of width d trains with r = 8.",
        controls=[
            Slider("step", "Step", range(0, steps + 1, 4), start=0),
            Choice("run", "Schedule", RUNS),
            Slider("d", "Width d of a layer", WIDTHS, start=768, labels=[f"{d:,}" for d in WIDTHS]),
        ],
        data=data,
        stage=_stage(first, steps),
        panel=tiles(
            ("left", f"{first[0][2]:,}", "numbers still trained, 16 layers"),
            ("lora", f"{2 * R * 768:,}", "LoRA: r (d + d), one layer"),
            ("start", f"{R * 768 + R * R:,}", "LaMDA at the start: r d + r²"),
            ("end", f"{R * R}", "LaMDA with B frozen: r²"),
        ),
        draw=script("front_page.js"),
    )


def stairs(run, steps):
    """The staircase of numbers still trained, as points."""
    x, y, wide, high = BOX
    most, points = run[0][2], []
    for k, (step, _, left) in enumerate(run):
        level = y + high * (1 - left / most)
        end = run[k + 1][0] if k + 1 < len(run) else steps
        points += [(x + wide * step / steps, level), (x + wide * end / steps, level)]
    return points


def _stage(run, steps):
    """The first state; front_page.js draws the same."""
    x, y, wide, high = BOX
    columns = "".join(
        f'<rect x="{LEFT + CELL * k}" y="{TOP}" width="{CELL - 4}" height="{TALL}" rx="3" fill="var(--a)"/>'
        for k in range(R)
    )
    return svg(
        350,
        y + high + 24,
        f'<text x="{LEFT}" y="14">B, {R} columns, the first on the left</text><g data-el="columns">{columns}</g>'
        f'<rect x="{LEFT + CELL * R + 14}" y="{TOP}" width="40" height="40" rx="3" fill="var(--b)"/>'
        f'<text x="{LEFT + CELL * R + 60}" y="{TOP + 24}">Σ</text>'
        f'<text x="{LEFT}" y="{y - 12}">numbers still trained</text>'
        f'<path d="M{x} {y}V{y + high}H{x + wide}" fill="none" stroke="currentColor" stroke-opacity=".5"/>'
        f'<path data-el="stairs" d="{path(stairs(run, steps))}" fill="none" stroke="var(--a)" stroke-width="2"/>'
        f'<circle data-el="now" cx="{x:.1f}" cy="{y:.1f}" r="5" fill="var(--b)"/>'
        f'<text x="{x}" y="{y + high + 16}">step 0</text>'
        f'<text x="{x + wide}" y="{y + high + 16}" text-anchor="end">step {steps}</text>',
    )
