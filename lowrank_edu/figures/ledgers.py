"""What one training step holds: planned for models up to 175B, and measured on the tiny one.   chapter 8"""

from math import ceil, floor, log10

from .. import shipped
from .page import Choice, Figure, Select, Slider, Toggle, key, script, svg, tiles

PARTS = {"parameters": "a", "gradients": "b", "optimizer": "d", "activations": "c"}
WORDS = {"parameters": "weights", "gradients": "gradients", "optimizer": "optimizer", "activations": "activations"}
NAMES = {
    "tiny-gpt2": "the book's tiny GPT-2 (2 M)",
    "smollm2-135m": "SmolLM2 135M",
    "gpt2": "GPT-2 small (124 M)",
    "gpt2-medium": "GPT-2 medium (355 M)",
    "gpt2-large": "GPT-2 large (774 M)",
    "gpt2-xl": "GPT-2 XL (1.6 B)",
    "llama-7b": "LLaMA 7B",
    "llama-13b": "LLaMA 13B",
    "llama-65b": "LLaMA 65B",
    "gpt3-175b": "GPT-3 175B",
}
METHODS = {
    "full": "full fine-tuning",
    "lora": "LoRA",
    "lorafa": "LoRA-FA",
    "vera": "VeRA",
    "lamda": "LaMDA, at its start",
    "bitfit": "BitFit",
}
GPUS = [["T4", 15e9], ["L4", 22.5e9], ["A100", 80e9], ["8 A100", 640e9]]
START = {"model": "llama-7b", "method": "lora", "where": "qv", "r": 8, "batch": 1, "length": 512,
         "precision": "bf16", "optimizer": "adamw", "packed": False, "checkpointing": False}  # fmt: skip
WIDE, TOP, HIGH = 350, 22, 30


def evaluate(results, state):
    """{part: bytes} of one step, from the formulas of `ch08_plans`; planner.js does the same sums.

    Also "trained" numbers, and "packed" and "length" as they can be: what is trained is not packed, and no model
    reads more tokens than it has positions for.  None where the method does not exist for the model.
    """
    model, name = results["models"][state["model"]], state["method"]
    row = model["rows"].get(name if name in ("full", "bitfit") else f"{name} {state['where']}")
    if row is None:
        return None
    r, batch, length = state["r"], state["batch"], min(state["length"], model["room"])
    trained, frozen = (sum(c * r**k for k, c in enumerate(row[what])) for what in ("trained", "frozen"))
    packed = state["packed"] and name not in ("full", "lamda")
    own = 2 if name == "full" and state["precision"] != "fp32" else 4  # adapters are kept in fp32
    state_bytes = {"sgd": 0, "adamw": 2 * own, "master": 12 if own == 2 else 8}[state["optimizer"]]

    def grown(c):
        return c[0] + c[1] * length + c[2] * length**2 + c[3] * r * length

    outside, each = row["saved"][state["precision"]]
    saved = grown(outside) + model["blocks"] * grown(each)
    if state["checkpointing"]:
        kind = name if name in model["checkpointed"] else "adapters"
        ends, kept = model["checkpointed"][kind][state["precision"]]
        saved = grown(ends) + model["blocks"] * grown(kept) + grown(each)  # one block comes back at a time
    return {
        "parameters": model["base"][state["precision"]][int(packed)]
        + (0 if name == "full" else own * trained + frozen),
        "gradients": own * trained,
        "optimizer": state_bytes * trained,
        "activations": batch * saved,
        "trained": trained,
        "packed": packed,
        "length": length,
    }


def total(plan):
    return sum(plan[part] for part in PARTS)


def size(n):
    """Bytes as a short text in powers of 1,000, as $.bytes writes them: 1.50 MB."""
    power = max(0, min(int(log10(max(n, 1))) // 3, 5))
    n = n / 1000**power
    return f"{n:.{2 - int(log10(max(n, 1)))}f} {['B', 'kB', 'MB', 'GB', 'TB', 'PB'][power]}" if power else f"{n:.0f} B"


def memory_planner(results=None, slug="memory-planner", **state):
    """Stacked bars of a training step against the memory of GPUs; controls for everything that matters.

    results: what `shipped.results("ch08_plans")` gives (default); `state` changes what the figure opens with.
    """
    results = results or shipped.results("ch08_plans")
    state = START | state
    at = {control: state[control] for control in START}
    return Figure(
        slug=slug,
        title="Does it fit?",
        alt=_alt(results, at),
        caption="Bytes of one step, from shapes alone. Upper bar: your choice; lower bar: full fine-tuning of the "
        "same model, with the same rows, tokens and optimizer. Adapters are kept in fp32; 4 bits are NF4 with double "
        "quantisation; attention's kernels are a CPU's choice. A GPU also needs room for its driver, its libraries "
        "and single operations, so leave a tenth free.",
        controls=[
            Select("model", "Model", {m: NAMES[m] for m in results["models"]}, start=at["model"]),
            Select("method", "Method", METHODS, start=at["method"]),
            Choice("where", "Adapted layers", {"qv": "q and v", "all": "all linear"}, start=at["where"]),
            Slider("r", "Rank r", [1, 2, 4, 8, 16, 32, 64, 128], start=at["r"]),
            Slider("batch", "Rows in a batch", [1, 2, 4, 8, 16, 32, 64], start=at["batch"]),
            Slider("length", "Tokens in a row", [32, 64, 128, 256, 512, 1024, 2048], start=at["length"]),
            Choice("precision", "Weights", {"fp32": "32 bits", "bf16": "16 bits"}, start=at["precision"]),
            Choice("optimizer", "Optimizer", {"master": "AdamW in fp32", "adamw": "AdamW", "sgd": "SGD"},
                   start=at["optimizer"]),
            Toggle("packed", "frozen weights in 4 bits", at["packed"]),
            Toggle("checkpointing", "checkpointing", at["checkpointing"]),
        ],
        data={"models": results["models"], "parts": PARTS, "words": WORDS, "gpus": GPUS, "box": [WIDE, TOP]},
        stage=_stage(results, at),
        under='<div><table><thead><tr><th scope="col">bytes</th><th scope="col">your choice</th><th scope="col">full '
        f'fine-tuning</th></tr></thead><tbody data-el="rows">{_table(results, at)}</tbody></table>'
        f'{tiles(("fits", *_fits(results, at)))}</div>',
        wide=True,
        css=CSS.replace("FIG", f"#fig-{slug}"),
        draw=script("planner.js"),
    )  # fmt: skip


CSS = """FIG .lo-row>div:not(.lo-side){flex:none!important;display:grid;gap:.6rem 1.6rem;
grid-template-columns:repeat(auto-fit,minmax(270px,1fr))}
FIG table{width:100%;border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums;margin:0 0 .8rem}
FIG td,FIG th{padding:.15rem .2rem;text-align:right;border-bottom:1px solid var(--soft);font-weight:400}
FIG th:first-child{text-align:left}FIG thead th,FIG tr:nth-last-child(2)>*{font-weight:650}"""


def span(most):
    """The right end of the axis: a round number that leaves room, and shows the next GPU from 1.5 GB on."""
    least = 20e9 if 1.5e9 < most < 17e9 else 100e9 if 17e9 <= most < 87e9 else 1.15 * most
    power = 10 ** floor(log10(least))
    return next(k * power for k in (1, 2, 5, 10) if k * power >= least * (1 - 1e-9))


def bar(plan, y, high, end):
    """A stacked bar as SVG, cut at the right end; planner.js draws the same."""
    x, out = 0.0, ""
    for part, colour in PARTS.items():
        wide = min(WIDE, x + WIDE * plan[part] / end) - x
        out += f'<rect x="{x:.1f}" y="{y}" width="{max(wide, 0):.1f}" height="{high}" fill="var(--{colour})"/>'
        x += max(wide, 0)
    return out


def _stage(results, state):
    mine, full = evaluate(results, state), evaluate(results, state | {"method": "full"})
    end = span(total(mine))
    whole = size(total(full)) + (" →" if total(full) > end else "")
    marks = "".join(
        f'<path d="M{WIDE * n / end:.1f} {TOP - 6}V112" stroke="currentColor" stroke-dasharray="3 3"/>'
        f'<text x="{WIDE * n / end:.1f}" y="126" text-anchor="middle">{name}</text>'
        for name, n in GPUS
        if 0.04 * end < n < end
    )
    keys = "".join(key(colour, WORDS[part]) for part, colour in PARTS.items())
    return (
        svg(
            WIDE + 10,
            132,
            f'<text data-el="mine" x="0" y="12">{size(total(mine))}</text><g data-el="bar">{bar(mine, TOP, HIGH, end)}'
            f'</g><text data-el="full" x="0" y="72">full fine-tuning: {whole}</text><g data-el="other">'
            f'{bar(full, 78, 14, end)}</g><g data-el="marks">{marks}</g>'
            f'<path d="M0 112H{WIDE}" stroke="currentColor" stroke-opacity=".5"/>'
            f'<text data-el="end" x="{WIDE + 4}" y="108" text-anchor="end">{size(end)}</text>',
        )
        + f"<p>{keys}</p>"
    )


def _table(results, state):
    """The rows of numbers under the bars in the first state."""
    both = evaluate(results, state), evaluate(results, state | {"method": "full"})
    rows = [(WORDS[part], *(size(plan[part]) for plan in both)) for part in PARTS]
    rows += [("all", *(size(total(plan)) for plan in both))]
    rows += [("trained", *(f"{plan['trained']:,}" for plan in both))]
    return "".join(f'<tr><th scope="row">{word}</th><td>{a}</td><td>{b}</td></tr>' for word, a, b in rows)


def _fits(results, state):
    n = total(evaluate(results, state))
    home = next(((f"fits {name}", f"{size(most)} of memory") for name, most in GPUS if n <= most), None)
    return home or (f"{ceil(n / 80e9)} A100", "of 80 GB each, if the model is split between them")


def _alt(results, state):
    mine, full = evaluate(results, state), evaluate(results, state | {"method": "full"})
    told = ", ".join(f"{WORDS[part]} {size(mine[part])}" for part in PARTS)
    big = START | {"model": list(results["models"])[-1], "precision": "fp32"}
    most = [evaluate(results, big | {"method": method}) for method in ("full", "lora")]
    return (
        f"Two stacked bars. {NAMES[state['model']]} with {METHODS[state['method']]}: {told}, "
        f"{size(total(mine))} in all; full fine-tuning {size(total(full))}. {NAMES[big['model']]} in fp32, one "
        f"row of {most[0]['length']} tokens: {size(total(most[0]))} for full fine-tuning, "
        f"{size(total(most[1]))} for LoRA."
    )


# ---------------------------------------------------------------- planned beside measured

LEFT, ROW, THIN = 76, 44, 13


def memory_measured(results=None, slug="memory-measured"):
    """Planned and measured bars of a step of the tiny model, a pair for each method; a switch for checkpointing."""
    results = results or shipped.results("ch08_plans")
    rows = results["measured"]
    how = results["settings"]
    most = max(sum(r["plain"][kind]) for r in rows.values() for kind in ("planned", "measured"))
    end = ceil(most / 1e7) * 1e7
    return Figure(
        slug=slug,
        title="Does the plan come true?",
        alt=_measured_alt(rows),
        caption=f"One step of the tiny model with AdamW: {how['batch']} stories of {how['length']} tokens, rank "
        f"{how['rank']} on all linear layers. Upper bar of each pair: planned from shapes; lower bar: measured. With "
        "checkpointing the bars show what is kept when the forward pass ends.",
        controls=[Toggle("checkpointing", "checkpointing")],
        data={"rows": rows, "names": METHODS, "end": end, "box": [LEFT, WIDE]},
        stage=svg(WIDE + 10, ROW * len(rows) + 4, f'<g data-el="pairs">{_pairs(rows, "plain", end)}</g>')
        + f"<p>{''.join(key(colour, WORDS[part]) for part, colour in PARTS.items())}</p>",
        panel=tiles(("worst", f"{100 * apart(rows, 'plain'):.1f} %", "largest difference of two totals")),
        draw=script("measured.js"),
    )  # fmt: skip


def apart(rows, kind):
    """The largest relative difference of a planned and a measured total."""
    pairs = [(sum(row[kind]["planned"]), sum(row[kind]["measured"])) for row in rows.values()]
    return max(abs(p - m) / m for p, m in pairs)


def _pairs(rows, kind, end):
    out = ""
    for i, (name, row) in enumerate(rows.items()):
        y, wide = 2 + i * ROW, WIDE - LEFT - 44
        label = METHODS[name].split(",")[0].replace("full fine-tuning", "full")
        out += f'<text x="0" y="{y + 18}">{label}</text>'
        for k, which in enumerate(("planned", "measured")):
            x = LEFT
            for n, colour in zip(row[kind][which], PARTS.values(), strict=True):
                out += (
                    f'<rect x="{x:.1f}" y="{y + k * (THIN + 2)}" width="{wide * n / end:.1f}" height="{THIN}" '
                    f'fill="var(--{colour})" fill-opacity="{1 if k else 0.55:g}"/>'
                )
                x += wide * n / end
            told = f"{sum(row[kind][which]) / 1e6:.1f} MB"
            out += f'<text x="{x + 4:.1f}" y="{y + 11 + k * (THIN + 2)}">{told}</text>'
    return out


def _measured_alt(rows):
    told = "; ".join(
        f"{METHODS[name].split(',')[0]} {sum(row['plain']['planned']) / 1e6:.1f} and "
        f"{sum(row['plain']['measured']) / 1e6:.1f} MB"
        for name, row in rows.items()
    )
    return f"Pairs of stacked bars, planned and measured: {told}. The activations are the largest part of each."
