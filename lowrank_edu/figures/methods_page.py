"""The table of all methods by the five questions, to sort and to filter.   chapter 13

Rows come from `lowrank_edu.methods.table()`. Two methods are named here and nowhere in the code: `NAMED`.
"""

from html import escape
from math import log10

from .page import Choice, Figure, Select, script, svg, tiles

QUESTIONS = ["shape", "start", "scale", "schedule", "storage"]
SORTS = {"table": "as in the book", "name": "name", "trained": "trained numbers"} | {q: q for q in QUESTIONS}
FILTERS = {"all": "all", "merge": "merges", "peft": "goes to PEFT", "codes": "works on 4-bit"}
SPECTRAL, RANKS = "LaMDA++", (2, 4, 8, 12, 16)
"""The row whose ranks are read off the model, and the ranks that a layer may have there."""
USE = {
    "LoRA": "Always first. It merges, every tool reads it, and others must beat it.",
    "rsLoRA": "You try large ranks and want the volume to stay level.",
    "LoRA+": "You can tune one more number and the model is wide.",
    "DoRA": "Small ranks fall short, and slower training steps are affordable.",
    "PiSSA": "The first steps count, and W0 can be factored before they begin.",
    "OLoRA": "As PiSSA, with a QR instead of an SVD. Begin with small learning rates.",
    "LoftQ": "The base must be 4-bit, and you make the codes yourself.",
    "LoRA-FA": "Saved layer inputs, not weights, fill the memory.",
    "VeRA": "Thousands of adapters must be stored, each of them tiny.",
    "AFLoRA": "As VeRA, if the first steps need more freedom than vectors.",
    "AdaLoRA": "Layers differ much, and you can pay for the larger start and tuning.",
    "LoRA-XS": "Files must be smallest, and r² numbers for each layer suffice.",
    "LaMDA": "Gradients and optimizer are short of memory, and the singular start suits the task.",
    "LaMDA++": "As LaMDA, if spectra differ much from layer to layer.",
    "intrinsic dimension": "You measure how many numbers a task needs. Not for serving.",
    "full fine-tuning": "Memory and data are plenty, and forgetting may be paid for.",
    "LISA": "You want whole matrices to move, and hold few blocks' optimizer state.",
    "BitFit": "You need a baseline in one line, and the layers have biases.",
    "Houlsby adapter": "Layers in series may stay when serving, and batches hide their delay.",
    "Pfeiffer adapter": "As Houlsby, with one bottleneck for each block instead of two.",
    "prefix tuning": "No weight may be touched, and there is context length to spare.",
    "prompt tuning": "As prefix tuning, if the model is very large and files tiny.",
    "P-tuning": "A frozen model is to classify or recall, and written prompts are brittle.",
    "diff pruning": "Tasks arrive one by one, and a sparse ΔW is the file you want.",
}
"""Method -> when to reach for it, at most 15 words."""

NAMED = [
    {
        "name": "P-tuning",
        "shape": "no ΔW; embeddings in the input, made by a small network",
        "start": "random",
        "scale": "1",
        "schedule": "the small network trains; the model may train too",
        "storage": "any",
        "source": "Liu, X. et al. 2021",
    },
    {
        "name": "diff pruning",
        "shape": "z ⊙ w, a sparse ΔW: gates z in (0, 1) and a whole matrix w",
        "start": "w = 0",
        "scale": "1; the gates are learned",
        "schedule": "gates and w train; then a fixed share stays and w trains on",
        "storage": "whole numbers while training; sparse in the file",
        "source": "Guo et al. 2021",
    },
]
"""Methods for completeness: named, not implemented in this package, and so without a count."""


def entries(table=None, counts=None):
    """A dict per method with its five answers, trained numbers on the tiny model (None: not implemented), and more.

    table: what `methods.table()` gives; counts: {name: trained numbers}, measured here when not given
    """
    if table is None:
        from ..methods import table as rows

        table = rows()
    counts = counted(table) if counts is None else counts
    found = [
        {"name": row.name, "code": _demo(row)}
        | {question: getattr(row, question) for question in QUESTIONS}
        | {"source": row.source or "the baseline", "trained": counts[row.name], "merge": row.merge is True}
        | {"peft": row.peft is True, "codes": "codes cannot" not in row.storage}
        for row in table
    ]
    found += [named | {"trained": None, "merge": False, "peft": False, "codes": False} for named in NAMED]
    return [entry | {"use": USE[entry["name"]]} for entry in found]


def _demo(row):
    """Two lines that adapt the tiny model with the settings of a row, and print the count."""
    ranks = f".allocated(model, {RANKS})" if row.name == SPECTRAL else ""
    codes = ', quantize="nf4"' if row.name == "LoftQ" else ""
    return f'model, tok = lo.load_model("tiny-gpt2")\nprint(lo.adapt(model, lo.{row.call}{ranks}{codes}))'


def counted(table):
    """{name: numbers that the example settings of a row train on the tiny model}, by adapting it."""
    from .. import adapting, models

    found = {}
    for row in table:
        model, _ = models.load_model("tiny-gpt2")
        quantize = "nf4" if row.name == "LoftQ" else None
        method = row.method.allocated(model, RANKS) if row.name == SPECTRAL else row.method
        found[row.name] = adapting.adapt(model, method, quantize=quantize).trainable
    return found


def method_table(table=None, counts=None, slug="method-table"):
    """Cards for all methods, to sort by a question and to filter, over a scale of their trained numbers."""
    rows = entries(table, counts)
    short = [
        {key: row[key] for key in ["name", *QUESTIONS, "trained", "merge", "peft", "codes"]} | {"x": _x(row["trained"])}
        for row in rows
    ]
    css = (
        "#fig-SLUG .cards{margin-top:.6rem}"  # one below the other: a grid would be laid out whole at every change
        "#fig-SLUG details{border:1px solid var(--soft);border-radius:8px;padding:.4rem .6rem;font-size:14px;"
        "margin:0 0 .4rem;background:none;box-shadow:none}"
        "@media screen{#fig-SLUG details{content-visibility:auto;contain-intrinsic-block-size:auto 58px}}"
        "#fig-SLUG details[hidden]{display:none}"
        "#fig-SLUG summary{cursor:pointer;list-style-position:outside;margin-left:1rem;overflow-wrap:anywhere;"
        "background:none;padding:0}"
        "#fig-SLUG summary:focus-visible{outline:3px solid var(--b);outline-offset:2px}"
        "#fig-SLUG summary b{margin-right:.4rem}"
        "#fig-SLUG .use{color:var(--muted);margin-left:.7em}"
        "#fig-SLUG .by{display:block}"
        "#fig-SLUG dl{display:grid;grid-template-columns:auto 1fr;gap:.1rem .6rem;margin:.4rem 0 0}"
        "#fig-SLUG code{display:block;font-size:12px;margin-top:.4rem;overflow-wrap:anywhere;white-space:pre-wrap;"
        "color:inherit}"
        "#fig-SLUG dt{font-weight:600;margin:0}#fig-SLUG dd{margin:0;overflow-wrap:anywhere}"
    ).replace("SLUG", slug)
    return Figure(
        slug=slug,
        title="Which method for which job?",
        alt=_alt(rows),
        caption="Open a card for its five answers. Sort by a question: cards with the same answer stand together. "
        "Filter: what is left when the update must merge, when PEFT must read the file, when W0 is in 4 bits? "
        "P-tuning and diff pruning are named for completeness; this package does not implement them, "
        "so they have no count and appear under “all” only. LISA's count is that of all blocks; two train at a time.",
        controls=[Select("sort", "Sort by", SORTS), Choice("keep", "Show", FILTERS)],
        data={"rows": short, "sorts": SORTS, "filters": FILTERS},
        stage=_scale(rows),
        under=f'<div class="cards">{"".join(_card(i, row) for i, row in enumerate(rows))}</div>',
        panel=tiles(("shown", str(len(rows)), "methods"), ("answers", _span(rows), "trained numbers, least to most")),
        css=css,
        wide=True,
        digits=6,
        draw=script("methods_page.js"),
    )


def _x(trained):
    """Where a count stands on the scale from 100 to 10 million, in units of 340; None without a count."""
    return None if trained is None else round(8 + 344 * (log10(trained) - 2) / 5, 1)


def _span(rows):
    numbers = [row["trained"] for row in rows if row["trained"] is not None]
    return f"{min(numbers):,} – {max(numbers):,}"


def _scale(rows):
    """A dot per method at its trained numbers; methods_page.js pales those that the filter takes away."""
    dots = "".join(
        f'<circle data-dot="{i}" cx="{_x(row["trained"])}" cy="14" r="5" fill="var(--a)" fill-opacity=".7"/>'
        for i, row in enumerate(rows)
        if row["trained"] is not None
    )
    ticks = "".join(
        f'<path d="M{_x(10**k)} 24v5" stroke="currentColor"/>'
        f'<text x="{_x(10**k)}" y="42" text-anchor="{"start" if k == 2 else "middle"}">{text}</text>'
        for k, text in [(2, "100"), (3, "1,000"), (4, "10,000"), (5, "100,000"), (6, "1 million")]
    )
    return svg(360, 46, f'<path d="M8 24H352" stroke="currentColor" stroke-opacity=".5"/>{dots}{ticks}')


def _card(i, row):
    count = "named, not implemented" if row["trained"] is None else f"trains {row['trained']:,}"
    answers = "".join(f"<dt>{q}</dt><dd>{escape(row[q])}</dd>" for q in QUESTIONS)
    code = escape(row.get("code", "# named, not implemented in this package"))
    return (  # every card has the same pieces of text, all filled: methods_page.js exchanges them
        f'<details data-row="{i}"><summary><b>{escape(row["name"])}</b><span class="count">{count}</span>'
        f'<span class="use">{escape(row["use"])}</span><span class="by"> </span></summary>'
        f"<dl>{answers}<dt>source</dt><dd>{escape(row['source'])}</dd></dl><code>{code}</code></details>"
    )


def _alt(rows):
    done = [row for row in rows if row["trained"] is not None]
    least, most = min(done, key=lambda row: row["trained"]), max(done, key=lambda row: row["trained"])
    kept = {key: sum(row[key] for row in rows) for key in ("merge", "peft", "codes")}
    return (
        f"A scale of trained numbers on the tiny model, a dot for each of {len(done)} methods: from "
        f"{least['trained']:,} ({least['name']}) to {most['trained']:,} ({most['name']}). Below it a card per method "
        f"with its five answers. {kept['merge']} merge, {kept['peft']} can be saved for PEFT, {kept['codes']} work on "
        f"4-bit weights; {len(rows) - len(done)} more are only named."
    )
