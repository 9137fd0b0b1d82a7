"""Experiment of chapter 9: QLoRA on a real pretrained model, beside LoRA on the same weights in 32 and 16 bits.

    python book/experiments/ch09_smollm2.py            about 25 minutes on one core; stops and resumes anywhere
    python book/experiments/ch09_smollm2.py --check    say what is missing, train nothing

Written to lowrank_edu/assets/results/ch09_smollm2.json. The task is that of chapter 7, a record of five facts that
becomes a sentence. "runs" has a row for each base and seed:

  before, loss   on held-out completions, nats per target token, on that base before and after training
  curve          training loss at every step
  frozen         bytes of the frozen weights

The base decides nothing but the frozen weights: a seed gives all of them the same start of A and B and the same
batches. The learning rate is 2e-3, not tuned for any base. SmolLM2-135M-Instruct is dequantised
from its 4-bit file (Q4_1, blocks of 32): its weights lie on a 4-bit grid already, though not on NF4's.
"""

import copy
from functools import cache

import records
import torch
from ch07_real import pairs

import lowrank_edu as lo
from lowrank_edu.data import read_data

NAME, SEEDS, HELD = "ch09_smollm2", (0, 1, 2), 24
STEPS, BATCH, LR = 20, 4, 2e-3
METHOD = lo.LoRA(8, 16, ("q_proj", "v_proj"))
BASES = ("fp32", "bf16", "nf4 dq")


@cache
def loaded():
    return lo.load_model("smollm2-135m")


@cache
def examples(n, seed):
    return read_data(pairs(n, seed)[1], loaded()[1])


def based(base, seed=0):
    """SmolLM2 on one of the bases, with an adapter."""
    model = copy.deepcopy(loaded()[0])
    if base == "bf16":
        model.to(torch.bfloat16)
    lo.adapt(model, METHOD, seed=seed, quantize=lo.Quantization("nf4", double_quant=True) if base == "nf4 dq" else None)
    return model


def run(base, seed, held=HELD, steps=STEPS):
    """One row."""
    model, data = based(base, seed), examples(HELD, 7)[:held]
    frozen = lo.memory.ledger(lambda: None, model).held
    row = {"before": lo.evaluate(model, data, batch_size=4)}
    history = lo.train(
        model, examples(STEPS * BATCH, 100 + seed), steps=steps, batch_size=BATCH, lr=LR, seed=seed, schedule="linear",
        progress=False,
    )  # fmt: skip
    row |= {"curve": history.loss, "loss": lo.evaluate(model, data, batch_size=4)}
    return row | {"frozen": sum(n for kind, n in frozen.items() if kind.endswith("frozen"))}


def begun():
    settings = [repr(METHOD), STEPS, BATCH, LR, HELD, BASES, pairs(3, 7)[1]]
    return records.load(NAME, {"fingerprint": records.fingerprint(*settings), "runs": {}})


def missing(results):
    return [(NAME, base, seed) for seed in SEEDS for base in BASES if f"{base} {seed}" not in results["runs"]]


def perform(files, name, base, seed):
    results = files[name]
    results |= {"steps": STEPS, "batch_size": BATCH, "lr": LR, "seeds": list(SEEDS), "held": HELD}
    results |= {"versions": records.versions("torch", "transformers")}
    row = results["runs"][f"{base} {seed}"] = run(base, seed)
    return f"loss {row['before']:.3f} to {row['loss']:.3f}, frozen {row['frozen'] / 1e6:.1f} MB"


if __name__ == "__main__":
    results = begun()
    raise SystemExit(records.resume(__doc__, {NAME: results}, lambda: missing(results), perform))
