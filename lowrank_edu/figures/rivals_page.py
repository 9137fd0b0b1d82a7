"""LoRA and its rivals: what equal numbers buy, and what each costs afterwards.   chapter 6"""

from .. import shipped
from .page import Figure, Select, script, svg

LEFT, WIDE, TOP, STEP = 104, 196, 34, 27  # the names, the axis, the first row, the distance of rows
MEANS = 48  # behind the axis, a column for the means
RIVALS = {
    "full": "full fine-tuning", "budget lora": "LoRA, r = 3", "budget bitfit": "BitFit",
    "budget houlsby": "Houlsby", "budget pfeiffer": "Pfeiffer", "budget prefix": "prefix", "budget prompt": "prompt",
}  # fmt: skip
WHERE = {
    "where q r=8": "q, r = 8", "where k r=8": "k, r = 8", "where v r=8": "v, r = 8", "where o r=8": "o, r = 8",
    "where q, v r=4": "q, v, r = 4", "where q, k, v, o r=2": "q, k, v, o, r = 2",
    "where all linear r=1": "all linear, r = 1",
}  # fmt: skip
RANKS = {"rank r=1": "r = 1", "where q, v r=4": "r = 4", "rank r=16": "r = 16", "rank r=64": "r = 64"}
SPEED = {"LoRA merged": "LoRA, merged", "LoRA unmerged": "LoRA", "Houlsby": "Houlsby", "Pfeiffer": "Pfeiffer",
         "prefix": "prefix"}  # fmt: skip
CASES = {"read, batch 1": "reading 128 tokens, batch 1", "read, batch 16": "reading 32 tokens, batch 16",
         "write, batch 1": "writing, batch 1", "write, batch 16": "writing, batch 16"}  # fmt: skip


def views(results, latency):
    """{view: {"what", "log", "rows": [[name, mean, smallest, largest]]}}, everything that the figure can show."""
    base, entries = results["base"]["plain"], results["entries"]

    def rows(names, of):
        found = []
        for label, name in names.items():
            values = [of(entries[label], run) for run in entries[label]["runs"].values()]
            found.append([name, sum(values) / len(values), min(values), max(values)])
        return found

    gap, forgot = (lambda entry, run: run["gap"]), (lambda entry, run: max(run["plain"] - base, 1e-3))
    held = lambda entry, run: sum(entry["bytes"].values()) / 1e6  # noqa: E731
    made = {
        "rivals": ("Equal numbers: loss above the floor, nats per token", True, rows(RIVALS, gap)),
        "forgot": ("Equal numbers: rise of the loss on plain stories", False, rows(RIVALS, forgot)),
        "score": ("Equal numbers: share of pirate style in samples", False, rows(RIVALS, lambda e, r: r["score"])),
        "memory": ("Equal numbers: planned memory of a training step, MB", False, rows(RIVALS, held)),
        "where": ("Which matrices, 12,288 numbers each: loss above the floor", True, rows(WHERE, gap)),
        "rank": ("Rank of q and v: loss above the floor", True, rows(RANKS, gap)),
    }
    for case, told in CASES.items():
        found = [
            [name, latency["cases"][case][label]["ratio"], *latency["cases"][case][label]["half"]]
            for label, name in SPEED.items()
        ]
        made[case] = (f"Time when {told}; the plain model is 1", False, found)
    return {view: {"what": what, "log": log, "rows": found} for view, (what, log, found) in made.items()}


def rivals_compared(results=None, latency=None, slug="rivals"):
    """A dot and a range for each method; a list to choose what is compared.

    results, latency: what `shipped.results("ch06_rivals")` and `("ch06_latency")` give (default).
    """
    shown = views(results or shipped.results("ch06_rivals"), latency or shipped.results("ch06_latency"))
    most = max(len(view["rows"]) for view in shown.values())
    return Figure(
        slug=slug,
        title="What do nine thousand numbers buy?",
        alt=_alt(shown["rivals"]["rows"]),
        caption="A dot is a mean of three seeds, its line the range; for times, the median and the middle half of the "
        "rounds. The number is on the right. In the views of equal numbers full fine-tuning trains 2,068,416 numbers, "
        "all others about 9,000; for times all have 2.36 million. Choose what to compare: does one method win "
        "everywhere?",
        controls=[Select("view", "Compare", {view: found["what"] for view, found in shown.items()})],
        data={"views": shown, "box": [LEFT, WIDE, TOP, STEP, MEANS]},
        stage=svg(LEFT + WIDE + MEANS, TOP + STEP * most + 6, f'<g data-el="rows">{drawn(shown["rivals"])}</g>'),
        draw=script("rivals_page.js"),
        digits=7,  # rounded twice, 0.22747 would become 0.228
    )


def _place(value, low, high, log):
    if log:
        import math

        value, low, high = (math.log(v) for v in (value, low, high))
    return LEFT + WIDE * (value - low) / (high - low)


def drawn(view):
    """The rows of one view; rivals_page.js draws the same."""
    lows, highs = [row[2] for row in view["rows"]], [row[3] for row in view["rows"]]
    low, high = min(lows), max(highs)
    low, high = (low * 0.8, high * 1.25) if view["log"] else (low - 0.1 * (high - low), high + 0.1 * (high - low))
    out = f'<path d="M{LEFT} {TOP - 14}H{LEFT + WIDE}" stroke="currentColor" stroke-opacity=".4"/>'
    out += f'<text x="{LEFT}" y="12">{low:.2g}</text><text x="{LEFT + WIDE}" y="12" text-anchor="end">{high:.2g}</text>'
    for i, (name, mean, small, large) in enumerate(view["rows"]):
        y = TOP + STEP * i + 8
        x, a, b = (_place(v, low, high, view["log"]) for v in (mean, small, large))
        out += (
            f'<text x="0" y="{y + 4}">{name}</text><path d="M{a:.1f} {y}H{b:.1f}" stroke="var(--a)" stroke-width="3"/>'
            f'<circle cx="{x:.1f}" cy="{y}" r="5" fill="var(--a)"/>'
            f'<text x="{LEFT + WIDE + MEANS}" y="{y + 4}" text-anchor="end">{mean:.3g}</text>'
        )
    return out


def _alt(rows):
    ordered = sorted(rows, key=lambda row: row[1])
    told = ", ".join(f"{name} {mean:.2g}" for name, mean, *_ in ordered)
    return f"A dot for each method, loss above the floor after 120 steps on a logarithmic axis, best first: {told}."
