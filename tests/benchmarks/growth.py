"""Growth: how time and kept bytes of a training step rise with rank, length, width and number of adapters.

The exponent p of value ≈ c · nᵖ is fitted to the last half of a doubling series, where the constant part counts least.
"""

from __future__ import annotations

import math
import time

import models
import torch

import lowrank_edu as lo
from lowrank_edu.accounting import Saved


def exponent(points: dict[int, float]) -> float:
    """Least squares of log value on log n over the larger half of the points, two at the least."""
    pairs = [(math.log(n), math.log(v)) for n, v in sorted(points.items())][-max(2, len(points) // 2) :]
    n = len(pairs)
    x, y = (sum(column) / n for column in zip(*pairs, strict=True))
    return sum((a - x) * (b - y) for a, b in pairs) / sum((a - x) ** 2 for a, _ in pairs)


def kept_bytes(model, loss, ids) -> int:
    """Bytes of all that autograd keeps, each storage once, weights apart."""
    saved = Saved(model)
    with saved.listening():
        kept = loss(model, ids)
        saved.look()
    del kept
    return sum(saved.largest.values())


def fastest(work, calls: int) -> float:
    """The least of some times: what the work takes when nothing disturbs it."""
    times = []
    for _ in range(calls + 1):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def series(size: models.Size, smoke: bool) -> list[dict]:
    """Rows {"of", "n": [...], "seconds", "bytes" or "numbers", their exponents, and what theory says}."""
    few = models.Size(2, size.d, size.heads, min(size.words, 1024), 2, size.length, size.r)
    calls, rows = (1, []) if smoke else (5, [])

    def add(of, points, theory):
        row = {"of": of, "n": list(points), "theory": theory}
        for key in ("seconds", "bytes", "numbers"):
            values = {n: point[key] for n, point in points.items()}
            row[key], row[f"{key}, exponent"] = list(values.values()), round(exponent(values), 3)
        rows.append(row)

    def step(model, ids):
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        work = models.stepper(model, models.our_loss, ids)
        return {"seconds": fastest(work, calls), "bytes": kept_bytes(model, models.our_loss, ids), "numbers": trained}

    ranks = (1, 2, 4) if smoke else (8, 16, 32, 64, 128, 256)
    base = models.gpt2(few)
    add("rank", {r: step(models.ours(few, base, method=models.lora(few, r=r)), models.tokens(few)) for r in ranks},
        "numbers 1; bytes below 1: r numbers a token beside what the base keeps; time below 1")  # fmt: skip
    lengths = (4, 8, 12) if smoke else (64, 128, 256, 512, 1024)
    model = models.ours(few, base)
    add("length", {n: step(model, models.tokens(few, 1, n)) for n in lengths},
        "numbers 0; bytes 1; time 1, rising towards 2 with the attention's length²")  # fmt: skip
    widths = (16, 32, 64) if smoke else (192, 384, 768, 1536)
    wide = {d: models.Size(2, d, max(1, d // 64), few.words, 2, few.length, few.r) for d in widths}
    add("width", {d: step(models.ours(s), models.tokens(s)) for d, s in wide.items()},
        "numbers 1, where full fine-tuning has 2; bytes 1; time 2: the products with W0")  # fmt: skip
    rows.append(adapters(few, (1, 2, 4) if smoke else (1, 2, 4, 8, 16, 32), calls))
    return rows


def adapters(size, counts, calls) -> dict:
    """A batch of as many rows as adapters, each row its own."""
    base, row = models.gpt2(size).eval(), {"of": "adapters, one a row", "n": list(counts), "seconds": [], "base": []}
    for n in counts:
        names, ids = [f"a{i}" for i in range(n)], models.tokens(size, n)
        model = models.ours(size, base, names=names).eval()

        def read(model=model, names=names, ids=ids):
            with torch.no_grad(), lo.routed(model, names):
                model(input_ids=ids)

        def bare(ids=ids):
            with torch.no_grad():
                base(input_ids=ids)

        row["seconds"].append(fastest(read, calls))
        row["base"].append(fastest(bare, calls))
    row["seconds, exponent"] = round(exponent(dict(zip(counts, row["seconds"], strict=True))), 3)
    row["theory"] = "time 1, as the base model: two batched products do for all adapters"
    return row
