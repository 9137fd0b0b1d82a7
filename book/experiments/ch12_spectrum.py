"""Experiment of chapter 12: can the spectrum of the pretrained weights say how much rank each layer needs?

    python book/experiments/ch12_spectrum.py            40 minutes on one core; stops and resumes anywhere
    python book/experiments/ch12_spectrum.py --check    say what is missing, train nothing

Written to lowrank_edu/assets/results/ch12_spectrum.json; how, and what the numbers mean: see contest.py.

Each entry is LaMDA (svd-residual) on all linear layers, and a budget is Σ r² over the layers: 1,024 is r = 8
everywhere, 256 is r = 4. The ranks are uniform, or chosen by the spectrum in either order, or those of "flat-first"
shuffled over the layers: shuffles tell the order from the mere inequality of ranks. Five seeds, because what there is
to see is small. Equal Σ r² is not equal Σ r · d_out, what B trains before it is frozen ("trained" says how much);
the entries "no B" never train it, so that there the counts are equal throughout. "ranks" says who got what, "spectra"
has the largest singular values of every W0 and the sum of the squares of all. LoRA and AdaLoRA are there for
orientation: they have the same Σ r = 128 as the uniform budget of 1,024, but train all of A and B.
"""

from dataclasses import replace
from functools import cache

import contest
import numpy as np

import lowrank_edu as lo
from lowrank_edu.factor import singular_values
from lowrank_edu.updates import weight_of

TARGETS, RANKS = "all-linear", (2, 4, 8, 12, 16)
UNIFORM = {1024: 8, 256: 4}
SHOWN = 64  # singular values of each layer that the figure shows


@cache
def spectra():
    """{layer: singular values of W0, falling}."""
    model, _ = lo.load_model("tiny-gpt2")
    layers = lo.adapt(model, lo.LoRA(1, 1, TARGETS)).modules
    return {path: singular_values(weight_of(model.get_submodule(path).base)) for path in layers}


@cache
def allocations(budget):
    """{order: {layer: rank}} of one budget."""
    r = UNIFORM[budget]
    chosen = {o: lo.allocate(spectra(), RANKS, budget, reference=r, order=f"{o}-first") for o in ("flat", "steep")}
    layers, ranks = list(spectra()), list(chosen["flat"].values())
    for seed in (1, 2):
        mixed = np.random.default_rng(seed).permutation(ranks).tolist()
        chosen[f"shuffle {seed}"] = dict(zip(layers, mixed, strict=True))
    return {"uniform": dict.fromkeys(layers, r), **chosen}


def entries():
    found = {}
    for budget, share in (1024, 0.3), (1024, 0.0), (256, 0.3):
        row = lo.LaMDA(UNIFORM[budget], TARGETS, freeze_share=share)
        for order, ranks in allocations(budget).items():
            if "shuffle" in order and (budget, share) != (1024, 0.3):
                continue  # one budget is enough to tell the order from the mere inequality of ranks
            method = row if order == "uniform" else replace(row, rank_pattern=ranks)
            label = f"{budget} {order}" if share else f"{budget} {order}, no B"
            found[label] = contest.Entry(method, 8e-3 if share else 3.2e-2)
    adalora = lo.AdaLoRA(8, 12, 24, TARGETS, warmup_steps=20, final_steps=30, every=5)
    found["lora r=8"] = contest.Entry(lo.LoRA(8, 16, TARGETS), 1.6e-2)
    found["adalora r=8"] = contest.Entry(adalora, 3.2e-2)
    return found


def shown_spectra():
    """{layer: [the largest singular values]}, and Σ σ² of all under "energy"."""
    top = {path: S[:SHOWN].tolist() for path, S in spectra().items()}
    return top | {"energy": {path: float(np.sum(np.square(S))) for path, S in spectra().items()}}


EXTRAS = {
    "spectra": shown_spectra,
    "ranks": lambda: {f"{budget} {o}": list(r.values()) for budget in UNIFORM for o, r in allocations(budget).items()},
}
CONTEST = contest.Contest("ch12_spectrum", entries, seeds=(0, 1, 2, 3, 4), extras=EXTRAS)

if __name__ == "__main__":
    raise SystemExit(contest.main(__doc__, CONTEST))
