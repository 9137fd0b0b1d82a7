"""From the spectra of all layers to their ranks: energy curves, and who gets how much of a budget.   chapter 12"""

import numpy as np

from .. import shipped
from ..allocation import ORDERS, allocate, energy_at
from .page import Choice, Figure, Slider, key, path, script, svg, tiles

COUNT = 192  # singular values of each of the sixteen layers: the width of the tiny model
RANKS = (2, 4, 8, 12, 16)
REFERENCES = (1, 2, 4, 8, 16, 32, 64)
BUDGETS = {"1024": "1,024", "256": "256"}
KINDS = {"attn.c_attn": "a", "attn.c_proj": "b", "mlp.c_fc": "c", "mlp.c_proj": "d"}
DASHES = ("", "9 3", "4 3", "1.5 3")  # blocks 0 to 3
LEFT, WIDE, TOP, LOW, FLOOR, TALL = 30, 310, 20, 160, 292, 84  # curves: box; bars: their floor, height of rank 16
TITLE = "Which layers get the rank?"
CAPTION = (
    "Above, E(k) of all 16 layers of the tiny model: the share of the energy that the first k directions hold. Solid "
    "lines are block 0, then long dashes, short dashes, dots. Below, the rank that each layer gets, blocks 0 to 3 from "
    "left to right. Move the reference rank, then change the order: who gains, and which of the numbers change? The "
    "allocation is a reconstruction of LaMDA++."
)


def whole(results):
    """{layer: singular values}: the recorded ones, and for the rest equal values with the energy that is missing.

    Every E(k) up to the recorded number of values is exact, and E is all that the allocation reads.
    """
    found = dict(results["spectra"])
    energy = found.pop("energy")
    spectra = {}
    for layer, top in found.items():
        rest = max(0.0, energy[layer] - float(np.sum(np.square(top))))
        tail = np.full(COUNT - len(top), np.sqrt(rest / (COUNT - len(top))))
        spectra[layer] = np.concatenate([top, np.minimum(tail, top[-1])])
    return spectra


def rank_budget(results=None, slug="rank-budget"):
    """Energy curves above, bars of ranks below; slider for the reference rank, choice of budget and order.

    results: what `shipped.results("ch12_spectrum")` gives (default).
    """
    spectra = whole(results or shipped.results("ch12_spectrum"))
    curves = {layer: [energy_at(S, k) for k in range(1, REFERENCES[-1] + 1)] for layer, S in spectra.items()}
    plans = {
        f"{order} {budget} {reference}": list(
            allocate(spectra, RANKS, int(budget), reference=reference, order=order).values()
        )
        for order in ORDERS
        for budget in BUDGETS
        for reference in REFERENCES
    }
    names = [layer.removeprefix("transformer.h.") for layer in spectra]
    shown = plans["flat-first 1024 8"]
    return Figure(
        slug=slug,
        title=TITLE,
        alt=_alt(curves, plans),
        caption=CAPTION,
        controls=[
            Slider("reference", "Reference rank", list(REFERENCES), start=8),
            Choice("order", "First in line", {"flat-first": "flat (low E)", "steep-first": "steep (high E)"}),
            Choice("budget", "Budget, Σ r²", BUDGETS),
        ],
        data={
            "at": {str(k): [curve[k - 1] for curve in curves.values()] for k in REFERENCES},
            "plans": plans,
            "names": names,
            "out": [_d_out(name) for name in names],
            "box": [LEFT, WIDE, TOP, LOW, FLOOR, TALL],
        },
        stage=_stage(curves, shown),
        panel="<div>"
        + "".join(key(colour, name) for name, colour in KINDS.items())
        + "</div>"
        + tiles(
            ("squares", f"{sum(r * r for r in shown):,}", "Σ r², what is trained for good"),
            ("sum", f"{sum(shown)}", "Σ r, all directions"),
            (
                "thin",
                f"{sum(r * _d_out(n) for r, n in zip(shown, names, strict=True)):,}",
                "numbers in B, trained at first",
            ),
        )
        + '<div data-el="first"></div>',
        draw=script("energies.js"),
    )


def _d_out(name):
    return {"attn.c_attn": 576, "attn.c_proj": 192, "mlp.c_fc": 768, "mlp.c_proj": 192}[name.split(".", 1)[1]]


def _x(k):
    return LEFT + WIDE * np.log2(k) / np.log2(REFERENCES[-1])


def _y(share):
    return LOW - (LOW - TOP) * share


def _style(layer):
    block, kind = layer.removeprefix("transformer.h.").split(".", 1)
    return KINDS[kind], DASHES[int(block)]


def _stage(curves, ranks):
    """The first state; energies.js draws the same."""
    lines = ""
    for layer, curve in curves.items():
        colour, dash = _style(layer)
        points = path([(_x(k), _y(curve[k - 1])) for k in (*range(1, 17), *range(18, 65, 2))])
        lines += (
            f'<path fill="none" stroke="var(--{colour})" stroke-width="1.6" stroke-dasharray="{dash}" d="{points}"/>'
        )
    grid = "".join(
        f'<path d="M{LEFT} {_y(v):.1f}H{LEFT + WIDE}" stroke="currentColor" stroke-opacity=".15"/>'
        f'<text x="{LEFT - 5}" y="{_y(v) + 4:.1f}" text-anchor="end">{v:g}</text>'
        for v in (0, 0.5, 1)
    ) + "".join(f'<text x="{_x(k):.1f}" y="{LOW + 15}" text-anchor="middle">{k}</text>' for k in REFERENCES)
    slot, bars = WIDE / len(ranks), ""
    for i, (layer, r) in enumerate(zip(curves, ranks, strict=True)):
        x, high = LEFT + slot * (i + 0.08), TALL * r / RANKS[-1]
        middle = f'x="{x + slot * 0.42:.1f}" y="{FLOOR - high - 4:.1f}" text-anchor="middle"'
        bars += (
            f'<path data-el="bar{i}" fill="var(--{_style(layer)[0]})" '
            f'd="M{x:.1f} {FLOOR}v-{high:.1f}h{slot * 0.84:.1f}V{FLOOR}z"/>'
            f'<text data-el="rank{i}" {middle}>{r}</text>'
        )
    blocks = "".join(
        f'<text x="{LEFT + WIDE * (b + 0.5) / 4:.1f}" y="{FLOOR + 15}" text-anchor="middle">block {b}</text>'
        for b in range(4)
    )
    return svg(
        LEFT + WIDE + 10,
        FLOOR + 20,
        f'<text x="0" y="11">E(k), share of the energy in the first k directions</text>{grid}{lines}'
        f'<path data-el="cut" stroke="currentColor" stroke-width="1.5" d="M{_x(8):.1f} {TOP - 4}V{LOW + 3}"/>'
        f'<text x="0" y="{FLOOR - TALL - 18}">rank of each layer</text>{bars}'
        f'<path d="M{LEFT} {FLOOR}H{LEFT + WIDE}" stroke="currentColor" stroke-opacity=".5"/>{blocks}',
    )


def _alt(curves, plans):
    at = {layer.removeprefix("transformer.h."): curve[7] for layer, curve in curves.items()}
    low, high = min(at, key=at.get), max(at, key=at.get)
    served = {o: [n for n, r in zip(at, plans[f"{o} 1024 8"], strict=True) if r > 2] for o in ORDERS}
    return (
        "Sixteen rising curves: the share of the energy in the first k directions of each layer. At k = 8 they reach "
        f"from {at[low]:.2f} (block {low}) to {at[high]:.2f} (block {high}), and further right some of them cross. "
        "Below, bars of ranks: with a budget of 1,024, flat-first gives more than rank 2 to "
        f"{', '.join(served['flat-first'])}; steep-first to {', '.join(served['steep-first'])}. "
        "All other layers get rank 2."
    )
