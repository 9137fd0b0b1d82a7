"""α × r × learning rate: where does a style get learned?   chapter 4"""

from .. import shipped
from .page import Choice, Figure, Slider, script, svg, tiles

RULES = {"r": "α / r", "root": "α / √r", "one": "α alone"}
LEFT, TOP, WIDE, HIGH, GAP = (
    50,
    36,
    49,
    42,
    7,
)  # first row of cells; size of a cell; half the space between rows


def scale_by(rule, alpha, r):
    """The scale that `LoRA` gives ΔW under α/r or α/√r; under "one", α itself."""
    from ..methods import LoRA  # here, because it loads torch

    return alpha if rule == "one" else LoRA(r, alpha, "all-linear", use_rslora=rule == "root").scale("")


def gaps(results):
    """{(r, scale, lr): held-out loss above the floor in nats per token, or None where training diverged}."""
    found = {}
    for name, loss in results["map"].items():
        r, scale, lr = (float(part.split("=")[1]) for part in name.split())
        found[int(r), scale, lr] = None if loss is None else round(loss - results["floor"], 3)
    return found


def table(results):
    """(ranks, alphas, rates, {rule: {alpha: one row of gaps per rank}}) for α/r, α/√r and α alone."""
    found = gaps(results)
    ranks, scales, rates = (sorted(set(column)) for column in zip(*found, strict=True))
    needed = {s: {(r, scale_by(rule, s, r)) for rule in RULES for r in ranks} for s in scales}
    trained = {(r, scale) for r, scale, _ in found}
    alphas = [int(s) for s, pairs in needed.items() if pairs <= trained]  # the α that every rule can be read at
    rows = {
        rule: {a: [[found[r, scale_by(rule, a, r), lr] for lr in rates] for r in ranks] for a in alphas}
        for rule in RULES
    }
    return ranks, alphas, rates, rows


def best(row):
    """Position of the smallest gap in a row."""
    return min(range(len(row)), key=lambda k: float("inf") if row[k] is None else row[k])


def learning_map(results=None, rule="r", alpha=8, r=64, slug="scale-map"):
    """Heat map of the loss gap, ranks down, learning rates across; buttons for the rule, sliders for α and r.

    results: what `shipped.results("ch04_scale_map")` gives (default). Numbers stand in the cells; the best
    of each row is framed.
    """
    results = results or shipped.results("ch04_scale_map")
    ranks, alphas, rates, rows = table(results)
    base = results["base"] - results["floor"]
    data = {"rows": rows, "ranks": ranks, "rates": rates, "base": base, "box": [LEFT, TOP, WIDE, HIGH, GAP]}
    shown = rows[rule][alpha]
    k = best(shown[ranks.index(r)])
    return Figure(
        slug=slug,
        title="Which learning rate learns, when the rank grows?",
        alt=_alt(ranks, rates, rows, alpha, base),
        caption=f"Each cell is one training of {results['steps']} steps: how far its loss ends above the "
        f"floor, in nats per token. Untrained: {base:.2f}. The frame marks the best rate of each rank, and the "
        "line joins the frames. Choose a rule: does the line stand upright, or does it lean? Then move α and "
        "watch the whole line walk.",
        controls=[
            Choice("rule", "The scale is", RULES, start=rule),
            Slider("alpha", "α", alphas, start=alpha),
            Slider("r", "Rank r", ranks, start=r),
        ],
        data=data,
        stage=_stage(ranks, rates, shown, r, base),
        panel=tiles(
            ("scale", f"{scale_by(rule, alpha, r):.3g}", f"scale at r = {r}"),
            ("best", f"{rates[k]:g}", "best learning rate"),
            ("kept", "", "lost if you keep the rate of r = 4"),
        ),
        css=CSS.replace("FIG", f"#fig-{slug}"),
        draw=script("scale_map.js"),
    )


CSS = """FIG .sq{fill:var(--a);stroke:var(--soft)}FIG .bad{fill:var(--b)}
FIG .top{stroke:currentColor;stroke-width:2.5}FIG .mine text{font-weight:700}
FIG .ridge{fill:none;stroke:currentColor;stroke-width:2.5}"""


def _stage(ranks, rates, shown, r, base):
    """The first state; scale_map.js draws the same."""
    cells, ridge = "", ""
    for i, row in enumerate(shown):
        y, mine = TOP + i * HIGH, best(row)
        line = f'<text x="{LEFT - 8}" y="{y + HIGH / 2 + 4:g}" text-anchor="end">r = {ranks[i]}</text>'
        for j, gap in enumerate(row):
            kind = "sq" + (" bad" if _bad(gap, base) else "") + (" top" if j == mine else "")
            line += (
                f'<rect class="{kind}" x="{LEFT + j * WIDE + 2}" y="{y + GAP}" width="{WIDE - 4}" '
                f'height="{HIGH - 2 * GAP}" rx="5" fill-opacity="{_amount(gap, base):.2f}"/>'
                f'<text x="{_middle(j):g}" y="{y + HIGH / 2 + 4:g}" text-anchor="middle">'
                f"{_number(gap)}</text>"
            )
        mine_too = ' class="mine"' if ranks[i] == r else ""
        cells += f'<g data-set="r={ranks[i]}"{mine_too}>{line}</g>'
        if i:
            ridge += f"M{_middle(best(shown[i - 1])):.1f} {y - GAP}L{_middle(mine):.1f} {y + GAP}"
    heads = "".join(
        f'<text x="{_middle(j):g}" y="{TOP - 4}" text-anchor="middle">{lr:.2g}</text>' for j, lr in enumerate(rates)
    )
    axis = f'<text x="{_middle((len(rates) - 1) / 2):g}" y="12" text-anchor="middle">learning rate</text>'
    body = f'{axis}{heads}<g data-el="cells">{cells}</g><path class="ridge" data-el="ridge" d="{ridge}"/>'
    return svg(LEFT + len(rates) * WIDE + 4, TOP + len(ranks) * HIGH, body)


def _middle(j):
    return LEFT + (j + 0.5) * WIDE


def _bad(gap, base):
    return gap is None or gap > base


def _amount(gap, base):
    """How strongly a cell is coloured: 0.55 all is learned, 0.06 nothing; 0.4 worse than untrained."""
    return 0.4 if _bad(gap, base) else 0.06 + 0.49 * (1 - gap / base) ** 3


def _number(gap):
    return "✕" if gap is None else f"{gap:.1f}" if gap >= 9.95 else f"{gap:.2f}"


def _alt(ranks, rates, rows, alpha, base):
    told = "; ".join(
        f"with {RULES[rule].replace(' / ', '/')} they are "
        + ", ".join(f"{rates[best(row)]:.2g}" for row in rows[rule][alpha])
        for rule in RULES
    )
    return (
        f"A table of {len(ranks)} ranks by {len(rates)} learning rates. Each cell holds the loss above the "
        f"floor after training; untrained it is {base:.2f}. Best learning rates for ranks "
        f"{', '.join(map(str, ranks))}, at α = {alpha}: {told}."
    )
