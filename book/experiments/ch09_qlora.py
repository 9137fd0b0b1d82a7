"""Experiment of chapter 9: what does a base in 8 or 4 bits cost, before training and after?

    python book/experiments/ch09_qlora.py            10 minutes on one core; stops and resumes anywhere
    python book/experiments/ch09_qlora.py --check    say what is missing, train nothing

Tables, written to lowrank_edu/assets/results/ch09_qlora.json and ch09_levels.json after every run:

  base    the untrained model on each base: error of the weights, distance to the fp32 model, loss
  rates   LoRA on fp32 at each learning rate, a seed and held-out stories of their own; the best one serves every base
  runs    LoRA on each base, three seeds: held-out loss, loss on plain stories, training loss at every step
  merge   the trained "nf4 dq" adapters merged in three ways: distance to the model that was trained, and loss
  levels  for the figure: how values fill their block, which levels they use (both in ten-thousandths), the mean error

The base decides nothing but the frozen weights: a seed gives all of them the same start of A and B (except LoftQ) and
the same batches. Losses in nats per token; "kl" is the mean Kullback-Leibler divergence per token, in nats.
"""

from functools import cache

import numpy as np
import records
import torch

import lowrank_edu as lo
from lowrank_edu.quant import LEVELS, bits_per_parameter, codebook, dequantize, quantize
from lowrank_edu.training import collate
from lowrank_edu.updates import weight_of

NAME, LEVEL_NAME = "ch09_qlora", "ch09_levels"
BASES = {
    "fp32": None,
    "int8": lo.Quantization("int8", double_quant=False),
    "int4": lo.Quantization("int4", double_quant=False),
    "fp4": lo.Quantization("fp4", double_quant=False),
    "nf4": lo.Quantization("nf4", double_quant=False),
    "nf4 dq": lo.Quantization("nf4", double_quant=True),
    "loftq 1": lo.Quantization("nf4", double_quant=False),
    "loftq 5": lo.Quantization("nf4", double_quant=False),
}
RANK, ALPHA, TARGETS = 8, 16, "all-linear"
STYLE, STEPS, BATCH = "pirate", 100, 8
RATES, TUNE_SEED, SEEDS = [1e-3, 4e-3, 1.6e-2, 6.4e-2], 100, [0, 1, 2]
TRAIN, HELD_OUT, TUNING = (STEPS * BATCH, 41), (64, 42), (32, 43)  # (stories, seed)
WAYS = ("dequantise", "full", "requantise")
SHORT = 8  # steps of a run whose losses a test compares with its own

KINDS, BLOCKS, OUTLIERS = ["nf4", "fp4", "int4"], [16, 64, 256, 1024, 4096], [0, 10, 30, 100]
VALUES, BINS = 65_536, 60  # of the figure: values per source, and bars of the histogram from −1 to 1
LAYER = "transformer.h.0.mlp.c_fc"  # the real weight that it shows


@cache
def tokenizer():
    return lo.load_model("tiny-gpt2")[1]


@cache
def stories(n, seed, style=None):
    return lo.tokenize(tokenizer(), lo.corpus.stories(n, seed=seed, style=style))


def started(base, seed=0):
    """The tiny model, quantised as `base` says and adapted; B is zero except after LoftQ."""
    model, _ = lo.load_model("tiny-gpt2")
    extra = {"init": "loftq", "loftq_iterations": int(base.split()[1])} if base.startswith("loftq") else {}
    lo.adapt(model, lo.LoRA(RANK, ALPHA, TARGETS, **extra), seed=seed, quantize=BASES[base])
    return model.eval()


def train(model, lr, seed, steps=STEPS):
    data = stories(*TRAIN, STYLE)
    return lo.train(model, data, steps=steps, batch_size=BATCH, lr=lr, seed=seed, schedule="linear", progress=False)


@torch.no_grad()
def log_probs(model, data):
    """Log-probabilities at every target position of the stories, (tokens, vocabulary)."""
    batch = collate(data, "cpu")
    seen = batch["labels"][:, 1:] != -100
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits[:, :-1][seen].log_softmax(-1)


def divergence(p, q):
    """Mean KL(p ‖ q) per token, from log-probabilities."""
    return float((p.exp() * (p - q)).sum(-1).mean())


@cache
def reference():
    """Log-probabilities of the fp32 model on the plain stories."""
    return log_probs(lo.load_model("tiny-gpt2")[0], stories(*HELD_OUT))


@torch.no_grad()
def untrained(base):
    """One row of the table "base"."""
    model, (whole, _) = started(base), lo.load_model("tiny-gpt2")
    away = size = 0.0
    for path, layer in lo.adapted_layers(model).items():
        W = weight_of(whole.get_submodule(path)).double()
        here = weight_of(layer.base).double() + layer.delta("default").double()
        away, size = away + float((W - here).square().sum()), size + float(W.square().sum())
    settings, layers = BASES[base], [layer.base for layer in lo.adapted_layers(model).values()]
    return {
        "bits": bits_per_parameter(settings.kind, 64, settings.double_quant) if settings else 32,
        "bytes": sum(sum(t.nbytes for t in [*b.buffers()] or [b.weight]) for b in layers),
        "weights": (away / size) ** 0.5,
        "kl": divergence(reference(), log_probs(model, stories(*HELD_OUT))),
        "plain": lo.evaluate(model, stories(*HELD_OUT)),
        "style": lo.evaluate(model, stories(*HELD_OUT, STYLE)),
    }


def tuned(rates):
    """The learning rate with the lowest loss; one at the edge of the grid would mean that the grid is too small."""
    lr = min(rates, key=rates.get)
    if float(lr) in (RATES[0], RATES[-1]):
        raise ValueError(f"lr={lr} is the best and the last of {RATES}: extend RATES.")
    return float(lr)


def trained(base, lr, seed):
    """(model, one row of the table "runs")."""
    model = started(base, seed)
    curve = train(model, lr, seed).loss
    return model, {
        "loss": lo.evaluate(model, stories(*HELD_OUT, STYLE)),
        "plain": lo.evaluate(model, stories(*HELD_OUT)),
        "curve": [round(v, 3) for v in curve],
    }


def merged(model):
    """One row of the table "merge": the trained model merged in each way, and taken out again."""
    whole, data, rows = lo.load_model("tiny-gpt2")[0], stories(*HELD_OUT, STYLE), {}
    apart = log_probs(model, data)
    for how in WAYS:
        report = lo.merge(model, how=how, weights=whole if how == "full" else None)
        rows[how] = {
            "error": report.error,
            "kl": max(0.0, divergence(apart, log_probs(model, data))),
            "loss": lo.evaluate(model, data),
            "plain": lo.evaluate(model, stories(*HELD_OUT)),
        }
        lo.unmerge(model)
    return rows


# ---- the figure ----------------------------------------


def source(name):
    """VALUES values in their order in memory, in units of their standard deviation."""
    if name == "Gaussian":
        return np.random.default_rng(0).standard_normal(VALUES)
    W = weight_of(lo.load_model("tiny-gpt2")[0].get_submodule(LAYER)).detach().double().numpy().ravel()[:VALUES]
    return W / W.std()


def spoiled(x, outlier):
    """The values with one of every 4,096 set to `outlier` standard deviations; 0 leaves them alone."""
    x = x.copy()
    if outlier:
        x[100 :: max(BLOCKS)] = outlier
    return x


def shares(counts):
    return np.rint(10_000 * counts / counts.sum()).astype(int).tolist()


def level_rows(x):
    """How these values fill blocks of each size, and what each kind of 4-bit code makes of them."""
    rows = {}
    for block in BLOCKS:
        scaled = (x.reshape(-1, block) / np.abs(x.reshape(-1, block)).max(1, keepdims=True)).ravel()
        row = {"hist": shares(np.histogram(scaled, BINS, (-1, 1))[0])}
        for kind in KINDS:
            for double in (False, True):
                q = quantize(torch.tensor(x, dtype=torch.float32), kind, block, double)
                error = float(np.abs(dequantize(q).double().numpy() - x).mean())
                row.setdefault(kind, {"error": []})["error"].append(error)
            codes = torch.stack([q.packed >> 4, q.packed & 15]).ravel().int()
            order = codebook(kind).sort(stable=True).indices
            row[kind]["use"] = shares(torch.bincount(codes, minlength=16)[order].numpy())
        rows[str(block)] = row
    return rows


# ---- the run ----------------------------------------


def fingerprints():
    """{file: fingerprint} of the model, the settings and the codebooks."""
    levels = (BLOCKS, OUTLIERS, VALUES, BINS, LAYER, {kind: LEVELS[kind] for kind in KINDS})
    runs = (RANK, ALPHA, TARGETS, STYLE, STEPS, BATCH, RATES, TRAIN, HELD_OUT, TUNING, BASES, levels[-1])
    return {NAME: records.fingerprint(*runs), LEVEL_NAME: records.fingerprint(*levels)}


def loaded():
    """{file: what it holds so far}."""
    tables = {NAME: ("base", "rates", "runs", "merge", "short"), LEVEL_NAME: ("levels",)}
    return {
        name: records.load(name, {"fingerprint": mark, **{table: {} for table in tables[name]}})
        for name, mark in fingerprints().items()
    }


def missing(files):
    """Runs that the files lack, in order."""
    wanted = [(NAME, "base", base) for base in BASES]
    wanted += [(LEVEL_NAME, "levels", f"{name} {o}") for name in ("Gaussian", "weight") for o in OUTLIERS]
    wanted += [(NAME, "rates", f"{rate:g}") for rate in RATES]
    wanted += [(NAME, "runs", f"{base} seed={seed}") for seed in SEEDS for base in BASES] + [(NAME, "short", "nf4")]
    return [(name, table, key) for name, table, key in wanted if key not in files[name][table]]


def about():
    """What the file of the runs says about them."""
    tokens = sum(len(example["input_ids"]) - 1 for example in stories(*HELD_OUT, STYLE))
    return {
        "what": f"LoRA r={RANK}, alpha={ALPHA}, on all linear layers of the tiny GPT-2, {STEPS} steps of {BATCH}",
        "style": STYLE, "steps": STEPS, "batch_size": BATCH, "seeds": SEEDS, "tune_seed": TUNE_SEED,
        "floor": lo.corpus.floor(lo.corpus.stories(*HELD_OUT, style=STYLE), tokens, style=STYLE),
        "versions": records.versions("torch"),
    }  # fmt: skip


def perform(files, name, table, key):
    results = files[name]
    if table == "levels":
        of, outlier = key.split()
        results[table][key] = level_rows(spoiled(source(of), int(outlier)))
        return None
    results |= about()
    if table == "base":
        row = untrained(key)
    elif table == "rates":
        model = started("fp32", TUNE_SEED)
        train(model, float(key), TUNE_SEED)
        row = lo.evaluate(model, stories(*TUNING, STYLE))
    else:
        lr = results["lr"] = tuned(results["rates"])
        if table == "short":
            row = train(started(key), lr, 0, SHORT).loss
        else:
            base, seed = key.split(" seed=")
            model, row = trained(base, lr, int(seed))
            if base == "nf4 dq":
                results["merge"][seed] = merged(model)
    results[table][key] = row
    return f"loss {row['loss']:.4f}" if table == "runs" else str(row)


def main():
    files = loaded()
    return records.resume(__doc__, files, missing(files), perform)


if __name__ == "__main__":
    raise SystemExit(main())
