"""Exercises of chapter 12: energy, a budget of squares, reading the curves, and what to compare with."""

import numpy as np

from ..checking import Exercise, Mistake

# ---- equal squares, unequal sums ----------------------------------------
SUMS = Exercise(
    id="ch12-sums",
    title="The same budget, spent unevenly",
    kind="predict",
    difficulty=1,
    minutes=3,
    needs="a guess, made before you read on",
    know="that Σ r² and Σ r are two budgets, and that uneven ranks cannot keep both",
    reference="fewer",
    options=("fewer", "as many", "more", "it depends"),
    mistakes=[
        Mistake(
            "as many",
            "as many",
            "The sum of the *squares* is kept, not the sum. One layer of rank 16 costs 256, which is what four layers "
            "of rank 8 cost: 16 directions for 32.",
        ),
        Mistake(
            "more",
            "more",
            "A large rank is dear: doubling r costs four times as much. Try it with two layers, 8² + 8² = 128, and "
            "one of them raised to 11.",
        ),
        Mistake(
            "it depends",
            "it depends",
            "It does not: with Σ r² fixed, Σ r is largest when all ranks are equal (Cauchy–Schwarz), whatever the "
            "uneven plan is.",
        ),
    ],
    praise="With Σ r² = 1,024 on 16 layers, equal ranks sum to 128, and no other plan reaches that.",
)


# ---- normalised energy ----------------------------------------
def energy(S, k):
    """E(k): the share of Σ σ² that the first k of the singular values S hold."""
    squares = np.square(S)
    return squares[:k].sum() / squares.sum()


ENERGY = Exercise(
    id="ch12-energy",
    title="Normalised energy",
    kind="code",
    difficulty=1,
    minutes=5,
    needs="a slice and two sums",
    know="the one number per layer that the allocation looks at",
    reference=energy,
    cases=lambda rng: [(np.sort(rng.exponential(2, size=n))[::-1], k) for n, k in [(9, 3), (14, 5), (6, 2)]],
    mistakes=[
        Mistake(
            "unsquared",
            lambda S, k: np.sum(S[:k]) / np.sum(S),
            "These are the singular values themselves. Energy is their squares: they add up to ‖W‖², and the squared "
            "error of the best rank-k copy is what is left of it.",
        ),
        Mistake(
            "not normalised",
            lambda S, k: np.sum(np.square(S[:k])),
            "This is the energy, not the share of it: a layer with large weights would always seem steep. Divide by "
            "the sum over all.",
        ),
        Mistake(
            "one value",
            lambda S, k: S[k - 1] ** 2 / np.sum(np.square(S)),
            "This is the share of the k-th singular value alone. E(k) adds up the first k.",
        ),
        Mistake(
            "what is left",
            lambda S, k: 1 - energy(S, k),
            "This is the share that is lost, 1 − E(k): the squared relative error. E(k) is the share that is kept.",
        ),
        Mistake(
            "one too few",
            lambda S, k: energy(S, k - 1),
            "One is missing: `S[:k]` holds exactly the first k.",
        ),
        Mistake(
            "one too many",
            lambda S, k: energy(S, k + 1),
            "One too many: counting starts at 0, and `S[:k]` ends before index k.",
        ),
        Mistake(
            "by the largest",
            lambda S, k: np.sum(np.square(S[:k])) / S[0] ** 2,
            "Divided by σ₁² alone, the result is 1 or more. Divide by the sum of all squares.",
        ),
        Mistake(
            "root",
            lambda S, k: np.sqrt(energy(S, k)),
            "A root too many: this is a ratio of lengths, ‖W_k‖ / ‖W‖. Energy is its square.",
        ),
    ],
    praise="One SVD per layer, one number per layer: that is all the allocation will see.",
)


# ---- split a budget ----------------------------------------
def split(energies, ranks, budget):
    """A rank for each layer, lowest energy served first: the largest that leaves all later ones the smallest rank."""
    ranks, left = sorted(ranks), budget - len(energies) * min(ranks) ** 2
    chosen = [0] * len(energies)
    for layer in np.argsort(energies, kind="stable"):
        chosen[layer] = max(r for r in ranks if r**2 - ranks[0] ** 2 <= left)
        left -= chosen[layer] ** 2 - ranks[0] ** 2
    return chosen


def _served(key=lambda e: e, cost=lambda r: r**2, reserve=True, back=True):
    """`split` with one thing changed."""

    def answer(energies, ranks, budget):
        least = min(ranks)
        chosen, left = {}, budget
        order = sorted(range(len(energies)), key=lambda i: key(energies[i]))
        for place, layer in enumerate(order):
            kept = cost(least) * (len(order) - place - 1) if reserve else 0
            chosen[layer] = max([r for r in ranks if cost(r) <= left - kept], default=0)
            left -= cost(chosen[layer])
        return [chosen[i] for i in (range(len(order)) if back else order)]

    return answer


def _proportional(energies, ranks, budget):
    missing = 1 - np.asarray(energies)
    fair = np.sqrt(budget * missing / missing.sum())
    return [min(ranks, key=lambda r: abs(r - f)) for f in fair]


def _uniform(energies, ranks, budget):
    return [max(r for r in ranks if len(energies) * r**2 <= budget)] * len(energies)


SPLIT = Exercise(
    id="ch12-split",
    title="Split a budget",
    kind="code",
    difficulty=3,
    minutes=15,
    needs="sorting by a key, and a thought for those who come last",
    know="how a list of energies becomes a list of ranks",
    reference=split,
    cases=lambda rng: [
        ([0.32, 0.21, 0.47, 0.28, 0.55], [2, 4, 8], 120),
        ([0.7, 0.3, 0.2, 0.6, 0.5, 0.4], [8, 1, 3, 5], 100),
        ([0.1, 0.4, 0.25, 0.3], [2, 4, 6, 10], 140),
    ],
    mistakes=[
        Mistake(
            "steep first",
            _served(key=lambda e: -e),
            "The layers with the *highest* energy were served first. That is the other reading, steep-first; here a "
            "low E(k) comes first, because a flat spectrum needs more directions.",
        ),
        Mistake(
            "sum of ranks",
            _served(cost=lambda r: r),
            "You spent Σ r. The core of a layer is r × r, so the budget is Σ r²: rank 8 costs 64, not 8.",
        ),
        Mistake(
            "nothing kept",
            _served(reserve=False),
            "The first layers took so much that a later one was left with less than the smallest rank. Set "
            "min(ranks)² aside for every layer that still waits.",
        ),
        Mistake(
            "order of service",
            _served(back=False),
            "The right ranks in the wrong places: largest first. Either the layers were not sorted by energy, or their "
            "ranks were not put back where each layer stands in `energies`.",
        ),
        Mistake(
            "uniform",
            _uniform,
            "The same rank everywhere: this is the plan to compare with. Serve the layers one after the other.",
        ),
        Mistake(
            "in proportion",
            _proportional,
            "Here every layer got a share in proportion to what it lacks. A sensible rule, but another one, and "
            "rounding can exceed the budget. Serve one layer after the other.",
        ),
    ],
    praise="Greedy and short: a few layers get much, one gets the rest, all others the smallest rank.",
)


# ---- read the plot ----------------------------------------
READ = Exercise(
    id="ch12-read",
    title="Who is first in line?",
    kind="read-the-plot",
    difficulty=2,
    minutes=4,
    needs="the figure, with the slider at 8 and then at 32",
    know="that the order of the layers depends on the rank at which they are compared",
    reference="c_attn of block 0, then mlp.c_proj of block 2",
    options=(
        "c_attn of block 0, then mlp.c_proj of block 2",
        "c_attn of block 0, both times",
        "attn.c_proj of block 3, both times",
        "attn.c_proj of block 0, then c_attn of block 0",
    ),
    mistakes=[
        Mistake(
            "no change",
            "c_attn of block 0, both times",
            "Right at 8. Move the slider on to 32 and look at the bottom of the bundle: its curve has been crossed.",
        ),
        Mistake(
            "the top curve",
            "attn.c_proj of block 3, both times",
            "That is the top curve, the steepest spectrum of all. Flat-first serves the lowest curve first.",
        ),
        Mistake(
            "other way",
            "attn.c_proj of block 0, then c_attn of block 0",
            "attn.c_proj of block 0 is low only at the very left: at 8 it is fourth, and at 32 it has climbed "
            "into the upper half.",
        ),
    ],
    praise="The curves cross: a spectrum may be flat at its top and end early. The reference rank is a choice.",
)

# ---- design an experiment ----------------------------------------
CONTROL = Exercise(
    id="ch12-control",
    title="Which run is the control?",
    kind="design",
    difficulty=2,
    minutes=5,
    needs="the question: what exactly would the result be due to?",
    know="why shuffled ranks are the right control for a rule that assigns ranks",
    reference="the same ranks, shuffled",
    options=("the same ranks, shuffled", "uniform rank", "more seeds", "steep-first", "LoRA"),
    mistakes=[
        Mistake(
            "uniform",
            "uniform rank",
            "Uniform rank differs in two things at once: who gets the rank, and how unequal the ranks are. It shows "
            "whether the plan is worth using, not whether the *spectrum* chose well.",
        ),
        Mistake(
            "seeds",
            "more seeds",
            "More seeds make the difference more certain, but do not say what it comes from.",
        ),
        Mistake(
            "steep",
            "steep-first",
            "Steep-first may be worse than chance: then flat-first would win against it, and still know nothing. "
            "The right opponent is an assignment that looks at nothing.",
        ),
        Mistake(
            "LoRA",
            "LoRA",
            "LoRA is another method with other trained numbers; everything would change at once.",
        ),
    ],
    praise="Same ranks, same inequality, same Σ r² and Σ r; only the question who gets them is left to chance.",
)

EXERCISES = [SUMS, ENERGY, SPLIT, READ, CONTROL]
