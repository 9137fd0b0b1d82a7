"""Five starts, the same batches: which loss falls first?   chapter 4"""

import numpy as np

from .. import shipped
from .page import Figure, Slider, Toggle, path, script, svg

NAMES = {
    "kaiming": "A random, B = 0",
    "mirrored": "A = 0, B random",
    "orthogonal": "both, BA = 0",
    "pissa": "PiSSA",
    "olora": "OLoRA",
}
LINES = {
    "kaiming": ("a", ""),
    "mirrored": ("b", "8 4"),
    "orthogonal": ("e", "2 3"),
    "pissa": ("c", "12 3 2 3"),
    "olora": ("d", "5 2"),
}
LEFT, TOP, WIDE, HIGH = 28, 22, 314, 200
THICK = 'fill="none" stroke-width="2"'


def races(results):
    """{lr: {start: (mean curve of the seeds, [held-out gap of each])}}; an empty curve: one diverged."""
    out = {}
    for name, run in results["starts"].items():
        start, lr, _ = name.split()
        cell = out.setdefault(float(lr.split("=")[1]), {}).setdefault(start, ([], []))
        cell[0].append(run["curve"])
        cell[1].append(None if run["loss"] is None else run["loss"] - results["floor"])
    return {
        lr: {s: (_mean(curves) if None not in ends else [], ends) for s, (curves, ends) in starts.items()}
        for lr, starts in sorted(out.items())
    }


def _mean(curves):
    return [sum(values) / len(values) for values in zip(*curves, strict=True)]


def start_race(results=None, lr=1.6e-3, slug="start-race"):
    """Training loss over steps, a line for each start; slider for the learning rate; held-out ends beside it.

    results: what `shipped.results("ch04_scale_map")` gives (default). lr: the rate shown first.
    """
    results = results or shipped.results("ch04_scale_map")
    table = races(results)
    rates = list(table)
    every = [v for starts in table.values() for curve, _ in starts.values() for v in curve]
    span = [0.8 * min(results["floor"], *every), 1.1 * max(every)]
    data = {
        "floor": results["floor"],
        "span": span,
        "box": [LEFT, TOP, WIDE, HIGH],
        "names": NAMES,
        "lines": LINES,
        "runs": [{s: {"curve": curve, "ends": ends} for s, (curve, ends) in table[rate].items()} for rate in rates],
        "rates": rates,
    }
    return Figure(
        slug=slug,
        title="Which start learns fastest?",
        alt=_alt(table, results),
        caption=f"Rank {results['start_rank']}, scale 1, the same batches for all; each line is the mean of "
        f"{len(results['seeds'])} seeds. Beside it: how far the held-out loss ends above the floor, mean "
        "(smallest to largest). Move the learning rate: does one start win everywhere?",
        controls=[
            Slider("lr", "Learning rate", rates, start=lr, labels=[f"{rate:.2g}" for rate in rates]),
            Toggle("zoom", "Only the first 10 steps"),
        ],
        data=data,
        stage=_stage(data, rates.index(lr)),
        panel='<div data-el="ends"></div>',
        css=CSS.replace("FIG", f"#fig-{slug}"),
        draw=script("races.js"),
    )


CSS = """FIG .end{display:flex;gap:.6rem;align-items:center;font-size:14px;margin:.2rem 0}
FIG .end svg{flex:none;width:36px}
FIG .end b{margin-left:auto;white-space:nowrap;font-variant-numeric:tabular-nums}"""


def _stage(data, at):
    """The first state; races.js draws the same."""
    steps = max(len(run["curve"]) for run in data["runs"][at].values())

    def height(loss):
        low, high = data["span"]
        return TOP + HIGH * float(1 - np.log(loss / low) / np.log(high / low))

    lines = ""
    for name, run in data["runs"][at].items():
        points = [(LEFT + WIDE * k / (steps - 1), height(v)) for k, v in enumerate(run["curve"])]
        colour, dash = LINES[name]
        lines += f'<path {THICK} stroke="var(--{colour})" stroke-dasharray="{dash}" d="{path(points)}"/>'
    floor, right, low = height(data["floor"]), LEFT + WIDE, TOP + HIGH
    grid = "".join(
        f'<path d="M{LEFT} {height(v):.1f}H{right}" stroke="currentColor" stroke-opacity=".15"/>'
        f'<text x="{LEFT - 6}" y="{height(v) + 4:.1f}" text-anchor="end">{v:g}</text>'
        for v in (0.5, 1, 2, 5, 10)
        if data["span"][0] < v < data["span"][1]
    )
    return svg(
        right + 8,
        low + 24,
        f'<path d="M{LEFT} {TOP}V{low}H{right}" fill="none" stroke="currentColor" stroke-opacity=".5"/>'
        f'{grid}<path d="M{LEFT} {floor:.1f}H{right}" stroke="currentColor" stroke-dasharray="4 4"/>'
        f'<text x="{LEFT + 4}" y="{floor + 13:.1f}">floor</text><g data-el="lines">{lines}</g>'
        f'<text x="{LEFT}" y="{low + 16}">step 1</text>'
        f'<text data-el="last" x="{right}" y="{low + 16}" text-anchor="end">step {steps}</text>'
        f'<text x="0" y="12">loss, nats per token, logarithmic</text>',
    )


def _alt(table, results):
    told = []
    for lr, starts in table.items():
        ends = {s: sum(e) / len(e) for s, (curve, e) in starts.items() if curve}
        first = min(ends, key=ends.get)
        told.append(f"{lr:.2g}: {NAMES[first]} ends lowest, {ends[first]:.2f} above the floor")
    return (
        f"Training loss over {results['steps']} steps from {len(NAMES)} starts, one line each. "
        "By learning rate: " + "; ".join(told) + "."
    )
