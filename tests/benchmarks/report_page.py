"""The page of the book that shows a benchmark: all of it follows from the measured data."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

TITLE = "# How fast is it, beside others?"
NOTHING = """Nobody has published a measurement yet. `make benchmark` takes one on your machine, in about
three quarters of an hour, and writes it to `build/benchmark.md`.
"""
READING = """## How to read a ratio

A ratio of 0.75 means: the first takes three quarters of the second's time. At 1 they are equally fast; below 1 the
first is faster.

Machines are restless, so the contenders take turns. A round times each of them once, in an order that rotates, and
a ratio is taken within a round: a processor that slows down then slows both. The table has the median of the ratios
and their middle half. A round in which other programs used more than a tenth of a core is dropped and taken again.
Before each turn nothing runs for a moment: some libraries' idle threads keep a core busy for a tenth of a second.

- **ours** is the package with `fast=True`; **plain** is the path that the book teaches.
- **bound** is the same model without an adapter. No adapter can be faster and still do its work.
- An **aim** stands in the code before anything is measured. ✓ is reached, ✗ is missed; no row is left out.

Contenders are compared before they are timed. A time belongs to its machine; a ratio travels better, but another
processor can turn it around. No GPU was used.
"""
SAME = """With the same factors the contenders compute the same. For training steps their gradients are compared, for
other rows their outputs: the norm of the difference, over the norm of the first contender's."""
KEPT = """What a training step keeps for its backward pass, weights left out. It is counted, so it is the same on every
machine."""
FETCHED = """Large memory that a program frees goes back to the system, and what comes again is filled with zeros first,
page by page. How much a call fetches so is luck of the moment, and takes time: rows with *freed memory kept* leave it
out for all contenders."""
GROWTH = """The exponent p of value ≈ c · nᵖ, fitted to the larger half of a doubling series. With p = 1 twice the n
takes twice as much, with p = 2 four times as much, with p = 0 the same."""
METHODS = """One training step of each, the fastest of five; bytes are exact, 1 MB = 10⁶ bytes. Full fine-tuning holds
its weights twice in this package: the frozen ones stay beside the copy that is trained, so that it can be switched
off like an adapter."""
SHARED = """On this processor the fast path takes torch's own products, as PEFT does. On others it takes oneDNN's;
the aims were set on one of those."""
AGAIN = """## Measure it yourself

```bash
make benchmark      # three quarters of an hour on two quiet cores; writes build/benchmark.md
```

It goes on after a row that fails and says so in the table. After a stop, `make benchmark resume=1` continues.
"""


def markdown(report: dict | None) -> str:
    """The whole page; a short one where nothing has been measured."""
    if not report:
        return "\n\n".join([TITLE, NOTHING + "\n" + READING, AGAIN])
    parts = [TITLE, answer(report), READING, machine(report), rows(report), missed(report), agreement(report),
             kept(report.get("kept")), growth(report.get("growth")), methods(report.get("methods")),
             book(report.get("book")), AGAIN]  # fmt: skip
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def table(heads: Iterable[str], lines: Iterable[Iterable]) -> str:
    lines = [list(heads), ["---"] * len(list(heads)), *lines]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def failure(part) -> str | None:
    """What a part says that did not run to its end."""
    return f"failed: {part['failed']}" if isinstance(part, dict) and "failed" in part else None


def ratios(report: dict) -> list[tuple[dict, dict]]:
    """All (row, ratio) that were measured."""
    return [(row, r) for row in report["rows"].values() for r in row.get("ratios", ()) if "median" in r]


def reached(ratio: dict) -> bool | None:
    return None if ratio["target"] is None else ratio["median"] <= ratio["target"]


def answer(report: dict) -> str:
    """The first sentence: step and bytes beside PEFT, and how many aims are reached."""
    step = next((r["median"] for r in report["rows"].get("step_whole", {}).get("ratios", ())
                 if r["of"] == "ours / PEFT" and "median" in r), None)  # fmt: skip
    share = (report.get("kept") or {}).get("ours / PEFT")
    said = [f"A training step takes {step:.2f} of PEFT's time" if step else "",
            f"keeps {share:.2f} of its bytes for the backward pass" if share else ""]  # fmt: skip
    said = " and ".join(filter(None, said))
    aims = [reached(r) for _, r in ratios(report) if r["target"] is not None]
    counted = f"Of {len(aims)} aims, {sum(aims)} are reached on this processor." if aims else ""
    warning = "**This is a trial in a tiny size: its times mean nothing.**" if report.get("smoke") else ""
    return " ".join(filter(None, [warning, f"**{said}.**" if said else "", counted]))


def machine(report: dict) -> str:
    m = report["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in m["versions"].items())
    model = "GPT-2 small's shapes, random weights, float32; LoRA r = 8 on all linear layers of its blocks"
    return f"""## On what

- Processor: {m["processor"]}, {m["cores"]} cores, {m["threads"]} threads
- Products of frozen weights in the fast path: {m["products"]}
- Versions: Python {m["python"]}, {versions}
- Model, unless a row says otherwise: {model}
- Measured on {report["date"]}, in {report["seconds"] / 60:.0f} minutes{processes(report)}{other(report)}"""


def processes(report: dict) -> str:
    """How many processes share a row's rounds, and how far apart their medians are."""
    if (report.get("processes") or 0) < 2:
        return ""
    spreads = [max(r["processes"]) / min(r["processes"]) - 1 for _, r in ratios(report) if r["target"] is not None]
    usual, worst = (f"{100 * spread:.0f} %" for spread in (statistics.median(spreads or [0]), max(spreads, default=0)))
    return (f"\n- Each row in {report['processes']} fresh processes that share its rounds: between them, ratios with\n"
            f"  an aim differed by {usual} in the median, by {worst} at most")  # fmt: skip


def other(report: dict) -> str:
    """Whose the numbers of the column "elsewhere" are; nothing where there is none."""
    found = report.get("elsewhere")
    if not found:
        return ""
    return (f"\n- Elsewhere: {found['machine']['processor']}, products: {found['machine']['products']}, "
            f"measured on {found['date']} with the code of that day")  # fmt: skip


def rows(report: dict) -> str:
    shown, times, there = [], [], (report.get("elsewhere") or {}).get("medians")
    heads = ("work", "compared", "median", "aim", "middle half", *(["elsewhere"] if there else []))
    for row in report["rows"].values():
        if failure(row):
            shown.append([row["row"], failure(row)] + [""] * (len(heads) - 2))
            continue
        for i, r in enumerate(row["ratios"]):
            mark = {None: "", True: "✓", False: "✗"}[reached(r) if "median" in r else None]
            aim = "" if r["target"] is None else f"≤ {r['target']:.3g} {mark}".strip()
            numbers = [f"{r['median']:.3g}", aim, f"{r['low']:.3g} to {r['high']:.3g}"] if "median" in r else [
                f"not run: {r['not run']}", aim, ""]  # fmt: skip
            if there:
                also = there.get(row["row"], {}).get(r["of"])
                numbers.append("" if also is None else f"{also:.3g}")
            shown.append([row["row"] if i == 0 else "", r["of"], *numbers])
        rounds = f"{row['rounds']}, {row['dropped']} dropped" + ("" if row["quiet"] else "; **the machine was busy**")
        spent = ", ".join(f"{name} {value:,.1f}" for name, value in row["milliseconds"].items())
        fetched = ", ".join(f"{name} {value:,.0f}" for name, value in row["fetched"].items() if value >= 0.5)
        times.append([row["row"], spent, fetched or "none", rounds])
    return "\n\n".join([
        "## Ratios", table(heads, shown),
        "What belongs to these rows:", notes(report),
        "## Times", FETCHED, table(("work", "milliseconds, median", "MiB fetched, median", "rounds"), times),
    ])  # fmt: skip


def notes(report: dict) -> str:
    """A line for each row that has something to say."""
    lines = []
    for row in report["rows"].values():
        facts = [f"{what} {value:,.4g}" if isinstance(value, float) else f"{what} {value:,}"
                 for what, value in row.get("facts", {}).items()]  # fmt: skip
        said = "; ".join([*filter(None, [row.get("note", "").rstrip(".")]), *facts])
        lines += [f"- *{row['row']}*: {said}."] if said else []
    return "\n".join(lines)


def missed(report: dict) -> str:
    """Which aims were missed, by how much, and what stands in the way."""
    lines = [f"- *{row['row']}*, {r['of']}: {r['median']:.3g}, the aim was {r['target']:.3g}. What is left: "
             f"{row['why'].get(r['of'], 'not known yet.')}"
             for row, r in ratios(report) if reached(r) is False]  # fmt: skip
    if lines and report["machine"]["products"] != "oneDNN":
        lines += ["", SHARED]
    return "## Aims that were missed\n\n" + ("\n".join(lines) if lines else "None, on this processor.")


def agreement(report: dict) -> str:
    """How far apart the contenders of a row are before they are timed."""
    lines = [[row["row"], ", ".join(f"{name} {value:.1e}" if value else f"{name} equal in every bit"
                                    for name, value in row["apart"].items())]
             for row in report["rows"].values() if row.get("apart")]  # fmt: skip
    return f"## The same results\n\n{SAME}\n\n{table(('work', 'distance'), lines)}" if lines else ""


def kept(b: dict | None) -> str:
    if not b or failure(b):
        return f"## Bytes, exact\n\n{failure(b)}" if b else ""
    lines = [[name, f"{value:,}", f"{value / 2**20:.1f}"] for name, value in b["bytes"].items()]
    pairs = ("ours / PEFT", "target"), ("ours / bound, fast", "target of the bound")
    said = [f"{of} is {b[of]:.4f}, the aim is ≤ {b[aim]} {'✓' if b[of] <= b[aim] else '✗'}" for of, aim in pairs]
    return f"## Bytes, exact\n\n{KEPT}\n\n{table(('model', 'bytes', 'MiB'), lines)}\n\n{'; '.join(said)}."


def growth(series) -> str:
    if not series or failure(series):
        return f"## Growth\n\n{failure(series)}" if series else ""
    lines = [[row["of"], ", ".join(map(str, row["n"])),
              ", ".join(f"{k.split(',')[0]} {v:.2f}" for k, v in row.items() if k.endswith("exponent")), row["theory"]]
             for row in series]  # fmt: skip
    return f"## Growth\n\n{GROWTH}\n\n{table(('n is', 'its values', 'fitted p', 'theory'), lines)}"


def methods(found) -> str:
    if not found or failure(found):
        return f"## All methods\n\n{failure(found)}" if found else ""
    kinds = ("parameters", "gradients", "optimizer", "activations")
    lines = [[row["method"], f"{row['trained']:,}", f"{1000 * row['seconds']:.0f}",
              *(f"{row[kind] / 1e6:.2f}" for kind in kinds)] for row in found]  # fmt: skip
    heads = ("method", "trained", "step, ms", *(f"{kind}, MB" for kind in kinds))
    return f"## All methods\n\n{METHODS}\n\n{table(heads, lines)}"


def book(found) -> str:
    if not found or failure(found):
        return f"## The book\n\n{failure(found)}" if found else ""
    lines = []
    for row in found["rows"]:
        limit = row["limit"]
        mark = "" if limit is None else f"≤ {limit} {'✓' if row['seconds'] <= limit else '✗'}"
        lines.append([row["what"].replace("_", " "), f"{row['seconds']:.1f}", mark])
    told = "Every chapter run from nothing on one thread, as `make book` does, then rendered, then built once more."
    return f"## The book\n\n{told}\n\n{table(('what', 'seconds', 'limit'), lines)}"
