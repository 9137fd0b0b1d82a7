"""AdaLoRA's budget at work: the rank of every layer, choice by choice.   chapter 10"""

from .. import shipped
from .page import Choice, Figure, Replay, meter, path, script, svg, tiles

RUNS = {
    "adalora r=2": "reference",
    "adalora r=2, no penalty": "no penalty",
    "adalora r=2, paper": "as printed",
    "adalora r=2, 240 steps": "twice as long",
}
KINDS = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
LEFT, TOP, CELL, GAP = 64, 40, 68, 34  # the grid of layers; under it the budget over steps
BOX = [LEFT, TOP + 4 * GAP + 26, 4 * CELL - 8, 70]


def recorded(results):
    """{run: {"steps", "budget", "total", "ranks"}}: a row of 16 ranks per choice, blocks first, kinds as in KINDS."""
    found = {}
    for label in RUNS:
        replay = results["entries"][label]["replay"]
        names = [layer.removeprefix("transformer.h.") for layer in replay["layers"]]
        order = [names.index(f"{block}.{kind}") for block in range(4) for kind in KINDS]
        steps, budget, total, ranks = zip(*replay["choices"], strict=True)
        found[label] = {
            "steps": list(steps), "budget": list(budget), "total": list(total),
            "ranks": [[row[i] for i in order] for row in ranks],
        }  # fmt: skip
    return found


def adalora_replay(results=None, slug="rank-replay"):
    """Squares for the ranks of 16 layers, step by step as AdaLoRA takes them away, and the budget that it follows.

    results: what `shipped.results("ch10_adalora")` gives (default).
    """
    runs = recorded(results or shipped.results("ch10_adalora"))
    first = next(iter(runs.values()))
    stops = len(first["steps"])
    data = {"runs": runs, "box": BOX, "grid": [LEFT, TOP, CELL, GAP], "names": RUNS}
    return Figure(
        slug=slug,
        title="Which layers keep their rank?",
        alt=_alt(first),
        caption="Every square is one direction, a triplet of a λ, a row of A and a column of B; empty ones have λ = 0. "
        "Play it: layers part early, and a square may come back before the final phase. "
        "Compare the runs: do they agree on the layers?",
        controls=[
            Replay("at", "Choice", range(stops), start=0, milliseconds=600),
            Choice("run", "Run (first seed)", RUNS),
        ],
        data=data,
        stage=_stage(first),
        panel=tiles(
            ("total", f"{first['total'][0]}", f"directions, budget {first['budget'][0]}"),
            ("ffn", _share(first["ranks"][0]), "of them in the feed-forward part"),
        )
        + meter("bar", first["total"][0] / first["total"][0]),
        draw=script("rank_replay.js"),
    )


def _share(ranks):
    """What the layers of the feed-forward part hold, as text."""
    return f"{100 * sum(r for i, r in enumerate(ranks) if i % 4 > 1) / sum(ranks):.0f} %"


def _squares(ranks, most):
    out = ""
    for i, r in enumerate(ranks):
        x, y = LEFT + CELL * (i % 4), TOP + GAP * (i // 4)
        for k in range(most):
            fill = f'fill="var(--{"a" if i % 4 < 2 else "b"})"' if k < r else 'fill="none"'
            place = f'x="{x + 19 * k}" y="{y}" width="15" height="15" rx="3"'
            out += f'<rect {place} {fill} stroke="currentColor" stroke-opacity=".45"/>'
    return out


def _stage(run):
    """The first state; rank_replay.js draws the same."""
    left, top, wide, high = BOX
    most, last = max(run["ranks"][0]), run["steps"][-1]
    points = [
        (left + wide * s / last, top + high * (1 - b / run["budget"][0]))
        for s, b in zip(run["steps"], run["budget"], strict=True)
    ]
    words = "".join(
        f'<text x="{LEFT + CELL * k}" y="{TOP - 12}">{name}</text>'
        for k, name in enumerate(["q, k, v", "output", "up", "down"])
    )
    words += "".join(f'<text x="0" y="{TOP + GAP * b + 12}">block {b}</text>' for b in range(4))
    return svg(
        360,
        top + high + 22,
        f'<text x="{LEFT}" y="12">attention</text><text x="{LEFT + 2 * CELL}" y="12">feed-forward</text>{words}'
        f'<g data-el="squares">{_squares(run["ranks"][0], most)}</g>'
        f'<path d="M{left} {top}V{top + high}H{left + wide}" fill="none" stroke="currentColor" stroke-opacity=".5"/>'
        f'<path data-el="budget" d="{path(points)}" fill="none" stroke="var(--c)" stroke-width="2"/>'
        f'<circle data-el="now" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="5" fill="var(--c)"/>'
        f'<text x="0" y="{top + 10}">budget</text><text x="{left}" y="{top + high + 16}">step 0</text>'
        f'<text data-el="last" x="{left + wide}" y="{top + high + 16}" text-anchor="end">step {last}</text>',
    )


def _alt(run):
    ends = run["ranks"][-1]
    kinds = {kind: sum(ends[i::4]) for i, kind in enumerate(["q, k, v", "attention output", "up", "down"])}
    told = ", ".join(f"{name} {n}" for name, n in kinds.items())
    return (
        f"Ranks of 16 layers, four kinds in four blocks. All begin with {max(run['ranks'][0])}; over "
        f"{run['steps'][-1]} steps the total falls from {run['total'][0]} to {run['total'][-1]}. What is left by kind: "
        f"{told}; single layers keep between {min(ends)} and {max(ends)}."
    )
