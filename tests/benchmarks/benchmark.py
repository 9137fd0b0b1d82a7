"""`make benchmark`: every row of the table against its peers, on this machine; writes build/benchmark.md and .json.

Nothing here is asserted: a time depends on the machine. `--smoke` runs all of it in a tiny size, and a test runs that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from importlib import metadata
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import growth
import methods
import models
import rows
import timing
import torch

PEERS = ("lowrank-edu", "torch", "numpy", "transformers", "peft", "bitsandbytes")


def machine() -> dict:
    """Versions, processor and threads."""
    told = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in told.read_text().splitlines() if line.startswith("model name")] if (
        told.exists()) else [platform.processor()]  # fmt: skip
    versions = {}
    for package in PEERS:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {"versions": versions, "processor": names[0] if names else "unknown", "cores": os.cpu_count(),
            "threads": torch.get_num_threads(), "python": platform.python_version(),
            "products": "oneDNN" if rows.products.onednn() else "torch's own"}  # fmt: skip


def measured(row: rows.Row, pairs: int, wait: float, least: float) -> dict:
    """The row raced, as plain data."""
    found = timing.race(row.works, pairs, wait=wait, least=least)
    return {
        "row": row.title, "note": row.note, "rounds": found["rounds"], "dropped": found["dropped"],
        "quiet": found["quiet"],
        "milliseconds": {name: 1000 * statistics.median(times) for name, times in found["seconds"].items()},
        "ratios": [{"of": label, "low": low, "median": middle, "high": high, "target": target}
                   for label, one, other, target in row.ratios
                   for low, middle, high in [timing.ratio(found["seconds"], one, other)]],
    }  # fmt: skip


def kept(size) -> dict:
    """Bytes that the forward pass keeps: exact, on every machine the same."""
    base, ids = models.gpt2(size), models.tokens(size)
    found = {
        "PEFT": growth.kept_bytes(models.theirs(size, base), models.stock_loss, ids),
        "bound, stock": growth.kept_bytes(models.bound(base), models.stock_loss, ids),
        "ours, plain": growth.kept_bytes(models.ours(size, base, fast=False), models.our_loss, ids),
        "ours": growth.kept_bytes(models.ours(size, base), models.our_loss, ids),
        "bound, fast": growth.kept_bytes(models.bound(base, fast=True), models.our_loss, ids),
    }
    return {"bytes": found, "ours / PEFT": found["ours"] / found["PEFT"], "target": 0.31,
            "ours / bound, fast": found["ours"] / found["bound, fast"], "target of the bound": 1.02}  # fmt: skip


def markdown(report: dict) -> str:
    """The report as a page."""
    m = report["machine"]
    lines = ["# Benchmark", "", f"{m['processor']}, {m['cores']} cores, {m['threads']} threads; frozen products: "
             f"{m['products']}; Python {m['python']}, " + ", ".join(f"{k} {v}" for k, v in m["versions"].items()) + ".",
             "", "| work | ratio | median | middle half | to reach | milliseconds | rounds |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in report["rows"]:
        times = ", ".join(f"{name} {value:.1f}" for name, value in row["milliseconds"].items())
        rounds = f"{row['rounds']}, {row['dropped']} dropped" + ("" if row["quiet"] else "; **the machine was busy**")
        for i, r in enumerate(row["ratios"]):
            wanted = "" if r["target"] is None else f"≤ {r['target']:.3g} {'✓' if r['median'] <= r['target'] else '✗'}"
            first = (row["row"], times, rounds) if i == 0 else ("", "", "")
            lines.append(f"| {first[0]} | {r['of']} | {r['median']:.4g} | {r['low']:.4g} to {r['high']:.4g} | {wanted} "
                         f"| {first[1]} | {first[2]} |")  # fmt: skip
    b = report["kept"]
    sizes = ", ".join(f"{k} {v / 2**20:.1f} MiB" for k, v in b["bytes"].items())
    lines += ["", f"Kept for the backward pass, exact: {sizes}. "
              f"Ours / PEFT {b['ours / PEFT']:.4f} (≤ {b['target']}), ours / bound {b['ours / bound, fast']:.4f} "
              f"(≤ {b['target of the bound']})."]  # fmt: skip
    lines += [f"{row['row']}: {row['note']}" for row in report["rows"] if row["note"]]
    lines += ["", "## Growth", "", "| of | n | exponents | theory |", "|---|---|---|---|"]
    for row in report["growth"]:
        powers = ", ".join(f"{k.split(',')[0]} {v}" for k, v in row.items() if k.endswith("exponent"))
        lines.append(f"| {row['of']} | {', '.join(map(str, row['n']))} | {powers} | {row['theory']} |")
    kinds = ("parameters", "gradients", "optimizer", "activations")
    heads = " | ".join(f"{k}, MB" for k in kinds)
    lines += ["", "## All methods", "", f"| method | trained | step, ms | {heads} |",
              "|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in report["methods"]:
        values = " | ".join(f"{row[k] / 1e6:.2f}" for k in kinds)
        lines.append(f"| {row['method']} | {row['trained']:,} | {1000 * row['seconds']:.0f} | {values} |")
    return "\n".join(lines) + "\n"


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round: does all of it run?")
    parser.add_argument("--pairs", type=int, default=7, help="rounds of each row")
    parser.add_argument("--wait", type=float, default=120, help="seconds to wait for a quiet machine before each row")
    parser.add_argument("--only", nargs="*", help="rows, by the names of their functions")
    parser.add_argument("--out", type=Path, default=Path("build"))
    asked = parser.parse_args(words)
    size, pairs, wait, least = (models.SMOKE, 1, 0, 0) if asked.smoke else (models.FULL, asked.pairs, asked.wait, 0.2)
    report = {"smoke": asked.smoke, "machine": machine(), "rows": [], "kept": kept(size)}
    for make in rows.ROWS:
        if asked.only and make.__name__ not in asked.only:
            continue
        row = make(size)
        if row is not None:
            report["rows"].append(measured(row, pairs, wait, least))
            told = ", ".join(f"{r['of']} {r['median']:.4g}" for r in report["rows"][-1]["ratios"])
            print(f"{row.title}: {told}", file=sys.stderr, flush=True)
    report["growth"] = [] if asked.only else growth.series(size, asked.smoke)
    report["methods"] = [] if asked.only else methods.table(size, 1 if asked.smoke else 5)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "benchmark.json").write_text(json.dumps(report, indent=1) + "\n")
    (asked.out / "benchmark.md").write_text(markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
