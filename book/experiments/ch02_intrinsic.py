"""Experiments of chapter 2: what does full fine-tuning add to the weights, and in how few dimensions can it be learned?

    python book/experiments/ch02_intrinsic.py            a few minutes on one core; stops and resumes anywhere
    python book/experiments/ch02_intrinsic.py --check    say what is missing, train nothing

Two files in lowrank_edu/assets/results, written after every run:

  ch02_updates    full fine-tuning on one style: singular values of W0 and ΔW, how the spectrum of ΔW changes with the
                  steps, and the held-out loss when every linear layer keeps only part of its ΔW.
  ch02_intrinsic  held-out loss after training ΔΘ = P θ with d numbers, for many d, beside full fine-tuning.

Losses are in nats per token on held-out stories. The learning rate of θ is c/√d: P has columns of length one, so every
step then moves the weights about equally far, whatever d is.
"""

import argparse
import hashlib
import json
import os
import platform
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

import lowrank_edu as lo
from lowrank_edu.updates import weight_of

ASSETS = Path(lo.__file__).parent / "assets"
STYLES = ["pirate", "telegram"]
TRAIN, HELD_OUT = (600, 21), (64, 22)  # (stories, seed)
BATCH, SEEDS = 8, [0, 1]

STEPS, LR = 150, 5e-4  # full fine-tuning
GROWTH = [1, 5, 15, 50, 150]
RANKS = [0, 1, 2, 4, 8, 16, 32, 64, 128, 192]

DIMENSIONS = [10, 30, 100, 300, 1000, 3000, 10_000, 30_000]
PUSH = 1.0  # the c of c/√d


def data(tok, style):
    """(training examples, held-out examples) in a style."""
    return tuple(lo.tokenize(tok, lo.corpus.stories(n, seed, style)) for n, seed in (TRAIN, HELD_OUT))


def full(style, seed=0, steps=STEPS):
    """(a model after full fine-tuning, its tokenizer); the update is called "full"."""
    model, tok = lo.load_model("tiny-gpt2")
    lo.adapt(model, lo.FullFineTuning(), name="full")
    how = {"steps": steps, "batch_size": BATCH, "lr": LR, "seed": seed}
    lo.train(model, data(tok, style)[0], **how, progress=False)
    return model, tok


def linear_layers(model):
    """{path: layer} of the layers whose ΔW the chapter looks at: all linear ones but the output head."""
    layers = lo.adapted_layers(model)
    return {p: layer for p, layer in layers.items() if p.rsplit(".", 1)[-1] in ("c_attn", "c_proj", "c_fc")}


def numbers(matrix):
    """What the chapter says about a matrix."""
    f = lo.factor
    return {
        "numerical": f.numerical_rank(matrix), "effective": round(f.effective_rank(matrix), 2),
        "stable": round(f.stable_rank(matrix), 2), "energy8": round(float(f.spectral_energy(matrix)[7]), 4),
    }  # fmt: skip


def keep(model, part):
    """The held-out model with ΔW of every linear layer reduced to the directions in `part` (a slice), nothing else."""
    rank = len(range(192)[part])
    lo.adapt(model, lo.LoRA(r=rank, alpha=rank, target_modules="all-linear"), name="part")
    for layer in linear_layers(model).values():
        U, S, Vt = lo.factor.truncated_svd(layer.delta("full"), 192)
        update = layer.updates["part"]
        update.B.data, update.A.data = torch.tensor(U[:, part] * S[part]), torch.tensor(Vt[part])


def loss_of_part(model, examples, part):
    keep(model, part)
    loss = lo.evaluate(model, examples)
    lo.delete_adapter(model, "part")
    return loss
