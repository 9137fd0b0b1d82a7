"""Fresh cases for marks, for exercises whose own check uses fixed ones.

`CASES[exercise id](rng)` -> a list of argument tuples, other numbers for every seed.

A check may show the same cases to everybody: they stand in the package for all to read. Marks may not rest on them,
because a table of these cases with their answers would earn every point. numpy only.
"""

from __future__ import annotations

import numpy as np


def whole(rng, low: int, high: int) -> int:
    """A Python int, low ≤ n < high: it is written into a notebook as it is."""
    return int(rng.integers(low, high))


def energy(rng):
    """Spectra of several lengths. No running share comes near the one asked for, so rounding decides nothing."""
    found = []
    while len(found) < 6:
        steep = len(found) % 2 == 0
        S = np.sort(rng.exponential(1, whole(rng, 12, 30)) ** 2 if steep else rng.uniform(1, 3, 40))[::-1].copy()
        share = round(float(rng.uniform(0.4, 0.97)), 2)
        if np.abs(np.cumsum(S**2) / np.sum(S**2) - share).min() > 1e-6:
            found.append((S, share))
    return found


def d90(rng):
    """Noisy curves: under the line once, above it again, and lower at the end. Losses keep a distance from the line.

    The full loss is so small that the first loss under the line is still more than 1/0.9 of it.
    """
    found = []
    for _ in range(5):
        base, full = round(float(rng.uniform(3, 4)), 2), round(float(rng.uniform(0.6, 0.9)), 2)
        way, steps = base - full, whole(rng, 4, 7)
        first = whole(rng, 1, steps - 2)
        dims = [whole(rng, 5, 12) * 10**k for k in range(steps)]
        losses = full + way * rng.uniform(0.15, 0.95, steps)
        losses[first] = full + way * rng.uniform(0.06, 0.08)
        losses[first + 2 :] = full + way * rng.uniform(0.01, 0.05, steps - first - 2)
        found.append((dims, [round(float(loss), 4) for loss in losses], base, full))
    return found


def houlsby(rng):
    return [(whole(rng, 3, 100), whole(rng, 100, 5000), whole(rng, 2, 65)) for _ in range(4)]


def mask(rng):
    """Prompt and completion of different lengths, and an end that is none of their tokens."""
    return [
        ([whole(rng, 10, 900) for _ in range(p)], [whole(rng, 10, 900) for _ in range(c)], whole(rng, 0, 10))
        for p, c in ((1, 3), (4, 2), (whole(rng, 5, 9), 1), (2, whole(rng, 3, 9)))
    ]


def bits(rng):
    cases = [(whole(rng, 2, 9), whole(rng, 20, 200)) for _ in range(2)]
    return cases + [(whole(rng, 2, 9), whole(rng, 20, 200), whole(rng, 30, 300)) for _ in range(4)]


def budget(rng):
    """Each part of the schedule and both of its corners. Between them no value is a whole number up to rounding."""
    found = []
    for _ in range(2):
        goal, warmup, final = whole(rng, 20, 200), whole(rng, 8, 25), whole(rng, 15, 35)
        start, total = goal + whole(rng, 60, 300), warmup + final + whole(rng, 50, 90)
        rest = start, goal, warmup, final, total
        left = {t: 1 - (t - warmup) / (total - warmup - final) for t in range(warmup + 1, total - final)}
        clear = [t for t, part in left.items() if abs((start - goal) * part**3 % 1 - 0.5) < 0.45]
        times = [0, warmup, *rng.choice(clear, 6, replace=False), total - final, total - final + 1, total - 1]
        found += [(int(t), *rest) for t in times]
    return found


def counts(rng):
    """Layers that are not square, in both directions."""
    long, short = (whole(rng, 400, 3000), whole(rng, 5, 300)), (whole(rng, 5, 300), whole(rng, 400, 3000))
    return [(*sides, whole(rng, 2, 17)) for sides in (long, short, long[::-1])]


def front(rng):
    """Before the first column, between two, at the end and after it."""
    found = []
    for _ in range(3):
        r, steps = whole(rng, 3, 40), whole(rng, 50, 400)
        between = [int(t) for t in rng.integers(steps // r + 1, steps, 4)]
        found += [(t, r, steps) for t in (0, *between, steps - 1, steps, steps + 1, 3 * steps)]
    return found


def split(rng):
    """Budgets between "the smallest rank for all" and "the largest for all"; no two energies are equal."""
    found = []
    for _ in range(12):
        layers = whole(rng, 4, 8)
        ranks = [int(r) for r in rng.choice(np.arange(1, 13), 4, replace=False)]
        energies = [int(e) / 100 for e in rng.choice(np.arange(5, 95), layers, replace=False)]
        least, most = layers * min(ranks) ** 2, layers * max(ranks) ** 2
        found.append((energies, ranks, whole(rng, least + (most - least) // 4, least + 3 * (most - least) // 4)))
    return found


CASES = {
    "ch02-energy": energy,
    "ch02-d90": d90,
    "ch06-houlsby": houlsby,
    "ch07-mask": mask,
    "ch09-bits": bits,
    "ch10-budget": budget,
    "ch11-counts": counts,
    "ch11-front": front,
    "ch12-split": split,
}
