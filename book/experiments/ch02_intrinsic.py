"""Experiments of chapter 2: what does full fine-tuning add to W0, and how few numbers learn as much?

    python book/experiments/ch02_intrinsic.py            6 minutes on one core; stops and resumes anywhere
    python book/experiments/ch02_intrinsic.py --check    say what is missing, train nothing

Two files in lowrank_edu/assets/results, written after every run:

  ch02_updates    full fine-tuning on one style: singular values of W0 and ΔW, how the spectrum of ΔW changes
                  with the steps, and the held-out loss when every linear layer keeps only part of its ΔW.
  ch02_intrinsic  held-out loss after training ΔΘ = P θ with d numbers, beside the same full fine-tuning.

Losses are in nats per token on held-out stories. The learning rate of θ is PUSH/√d: the columns of P have
length one, so that Adam's steps move the weights equally far, whatever d is.
"""

import numpy as np
import records
import torch

import lowrank_edu as lo
from lowrank_edu.updates import weight_of

STYLE, BATCH, SEEDS, STEPS = "pirate", 8, [0, 1], 60
TRAIN, HELD_OUT = (600, 21), (48, 22)  # (stories, seed)
LR, PUSH = 5e-4, 3.0
GROWTH = [1, 5, 20, STEPS]  # steps after which the spectrum of ΔW is looked at
WIDTH = 192  # the smaller side of every linear layer of the model
RANKS = [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, WIDTH]
KINDS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
SHOWN = [f"transformer.h.{block}.{kind}" for block in (0, 3) for kind in KINDS]
DIMENSIONS = [10, 30, 100, 300, 1000, 3000, 10_000, 30_000]
TOP = 4  # directions that the last table compares


# ---- training ----
def data(tok):
    """(training examples, held-out examples)."""
    return tuple(lo.tokenize(tok, lo.corpus.stories(n, seed, STYLE)) for n, seed in (TRAIN, HELD_OUT))


def tune(method, lr, seed, steps=STEPS):
    """(model, loss before, loss after) of one training run; the update is called "tuned"."""
    model, tok = lo.load_model("tiny-gpt2")
    train, held_out = data(tok)
    base = lo.evaluate(model, held_out)
    lo.adapt(model, method, name="tuned", seed=seed)
    lo.train(model, train, steps=steps, batch_size=BATCH, lr=lr, seed=seed, progress=False)
    return model, base, lo.evaluate(model, held_out)


def run_d(d, seed):
    _, _, loss = tune(lo.IntrinsicDimension(d=d), PUSH / d**0.5, seed)
    return {"d": d, "seed": seed, "loss": loss}


# ---- the updates of full fine-tuning ----
def linear_layers(model):
    """{path: layer} of all linear layers but the output head: 16 in the tiny model."""
    ends = {path.rsplit(".", 1)[-1] for path in SHOWN}
    return {p: layer for p, layer in lo.adapted_layers(model).items() if p.rsplit(".", 1)[-1] in ends}


def keep(model, part):
    """Adapter "part": ΔW of every linear layer reduced to the directions in the slice `part`, nothing else."""
    rank = len(range(WIDTH)[part])
    lo.adapt(model, lo.LoRA(r=rank, alpha=rank, target_modules="all-linear"), name="part")
    for layer in linear_layers(model).values():
        U, S, Vt = lo.factor.truncated_svd(layer.delta("tuned"), WIDTH)
        update = layer.updates["part"]
        update.B.data, update.A.data = torch.tensor(U[:, part] * S[part]), torch.tensor(Vt[part])


def loss_of(model, held_out, part):
    if not range(WIDTH)[part]:  # nothing kept: the base model
        with lo.disabled(model):
            return lo.evaluate(model, held_out)
    keep(model, part)
    loss = lo.evaluate(model, held_out)
    lo.delete_adapter(model, "part")
    return loss


def energy(model, rank):
    """Share of the energy of ΔW in its first `rank` directions, mean over the linear layers."""
    deltas = [layer.delta("tuned") for layer in linear_layers(model).values()]
    return float(np.mean([lo.factor.spectral_energy(d)[rank - 1] if rank else 0.0 for d in deltas]))


def cuts(seed):
    """(rows with energy, loss with only the first r directions, loss with only the others; the model)."""
    model, base, full = tune(lo.FullFineTuning(), LR, seed)
    _, held_out = data(lo.load_model("tiny-gpt2")[1])
    rows = [
        {"seed": seed, "rank": r, "base": base, "full": full, "energy": energy(model, r),
         "kept": loss_of(model, held_out, slice(0, r)), "rest": loss_of(model, held_out, slice(r, WIDTH))}
        for r in RANKS
    ]  # fmt: skip
    return rows, model


def growth(steps):
    """Means over the linear layers of what the chapter counts, after so many steps of full fine-tuning."""
    model, _, _ = tune(lo.FullFineTuning(), LR, SEEDS[0], steps)
    deltas = [layer.delta("tuned") for layer in linear_layers(model).values()]
    f = lo.factor
    counts = {
        "numerical": f.numerical_rank, "effective": f.effective_rank, "stable": f.stable_rank,
        "half": lambda dW: f.rank_for_energy(dW, 0.5), "norm": torch.linalg.norm,
    }  # fmt: skip
    means = {name: float(np.mean([float(count(d)) for d in deltas])) for name, count in counts.items()}
    return {"steps": steps} | means


def spectra(model):
    """{path: singular values of W0 and ΔW, and how their strongest directions meet}, for the layers drawn."""
    return {path: layer_numbers(linear_layers(model)[path]) for path in SHOWN}


def layer_numbers(layer):
    """‖Uᵀ W0 V‖: what ΔW's first directions see of W0, beside chance and W0's own.   Hu et al. 2021, §7.3"""
    W0 = weight_of(layer.base).detach().double().numpy()
    dW = layer.delta("tuned").double().numpy()
    U, S, Vt = lo.factor.truncated_svd(dW, TOP)
    spectrum = lo.factor.singular_values(W0)
    seen = {
        "by_delta": np.linalg.norm(U.T @ W0 @ Vt.T), "by_W0": np.linalg.norm(spectrum[:TOP]),
        "by_chance": np.linalg.norm(W0) * TOP / np.sqrt(W0.size), "delta": np.linalg.norm(S),
    }  # fmt: skip
    return {
        "shape": list(W0.shape), "W0": list(spectrum), "delta": list(lo.factor.singular_values(dW)),
        "phi": lo.factor.subspace_similarity(dW, W0, TOP, TOP), "seen": seen,
    }  # fmt: skip


# ---- files ----
def fingerprint():
    """Of the model and the settings."""
    return records.fingerprint(
        STYLE, BATCH, SEEDS, STEPS, TRAIN, HELD_OUT, LR, PUSH, GROWTH, RANKS, SHOWN, DIMENSIONS, TOP
    )


def load(name, **tables):
    """The results so far, or empty tables when there are none for this model and these settings."""
    model, _ = lo.load_model("tiny-gpt2")
    about = {"weights": model.num_parameters(), "style": STYLE, "steps": STEPS, "batch_size": BATCH, "seeds": SEEDS}
    about |= {"versions": records.versions("torch", "numpy"), "made_by": "book/experiments/ch02_intrinsic.py"}
    return records.load(name, about | {"fingerprint": fingerprint()} | tables)


def missing(updates, intrinsic):
    """What is still to do: [(file, what, argument), …]."""
    done = {row["seed"] for row in updates["cuts"]}
    todo = [("ch02_updates", "cuts", seed) for seed in SEEDS if seed not in done]
    done = {row["steps"] for row in updates["growth"]}
    todo += [("ch02_updates", "growth", n) for n in GROWTH if n not in done]
    done = {(row["d"], row["seed"]) for row in intrinsic["runs"]}
    pairs = [(d, seed) for d in DIMENSIONS for seed in SEEDS if (d, seed) not in done]
    return todo + [("ch02_intrinsic", "runs", pair) for pair in pairs]


def perform(files, name, what, argument):
    results = files[name]
    if what == "cuts":
        rows, model = cuts(argument)
        results["cuts"] += rows
        if argument == SEEDS[0]:
            results["layers"] = spectra(model)
    elif what == "growth":
        results["growth"].append(growth(argument))
    else:
        results["runs"].append(run_d(*argument))
        results["full"] = reference(files["ch02_updates"])


def reference(updates):
    """Full fine-tuning with the same steps and seeds: [{seed, base, loss}]."""
    runs = {row["seed"]: {"seed": row["seed"], "base": row["base"], "loss": row["full"]} for row in updates["cuts"]}
    return list(runs.values())


def main():
    files = {
        "ch02_updates": load("ch02_updates", cuts=[], growth=[], layers={}),
        "ch02_intrinsic": load("ch02_intrinsic", push=PUSH, runs=[]),
    }
    return records.resume(__doc__, files, missing(*files.values()), perform)


if __name__ == "__main__":
    raise SystemExit(main())
