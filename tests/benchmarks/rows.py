"""The rows of the table: each function makes its contenders and returns them with the ratios that are to be reached.

A ratio is (label, contender, contender, target): the median of first / second is to be at most the target.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field

import models
import numpy as np
import torch
from models import Size

import lowrank_edu as lo
from lowrank_edu.fast import products
from lowrank_edu.fast.layer import FastLayer


@dataclass
class Row:
    """Contenders {name: a function that does the work once}, and the ratios wanted."""

    title: str
    works: dict
    ratios: list = field(default_factory=list)
    note: str = ""


def step_of_the_layer(size: Size):
    """LoRA's layer alone: torch's products, stock GELU and stock loss for all three."""
    base, ids = models.gpt2(size), models.tokens(size)
    model = models.ours(size, base, fast=False)
    for module in model.modules():
        if type(module) is lo.layers.AdaptedLayer:
            module.__class__ = FastLayer
    mine = models.stepper(model, models.stock_loss, ids)
    works = {
        "ours": lambda: with_torchs_products(mine),
        "PEFT": models.stepper(models.theirs(size, base), models.stock_loss, ids),
        "bound": models.stepper(models.bound(base), models.stock_loss, ids),
    }
    ratios = [("ours / bound", "ours", "bound", 1.07), ("ours / PEFT", "ours", "PEFT", 1.0),
              ("PEFT / bound", "PEFT", "bound", None)]  # fmt: skip
    return Row("training step, the LoRA layer alone", works, ratios)


def with_torchs_products(work):
    before, products.onednn = products.onednn, lambda: None
    try:
        return work()
    finally:
        products.onednn = before


def step_whole(size: Size, rows=None, length=None, targets=(0.75, 1.08)):
    """The whole fast path beside PEFT as it comes, and beside the model without adapter on both paths."""
    base, ids = models.gpt2(size), models.tokens(size, rows, length)
    works = {
        "ours": models.stepper(models.ours(size, base), models.our_loss, ids),
        "ours, plain": models.stepper(models.ours(size, base, fast=False), models.our_loss, ids),
        "PEFT": models.stepper(models.theirs(size, base), models.stock_loss, ids),
        "bound, stock": models.stepper(models.bound(base), models.stock_loss, ids),
        "bound, fast": models.stepper(models.bound(base, fast=True), models.our_loss, ids),
    }
    ratios = [("ours / PEFT", "ours", "PEFT", targets[0]), ("ours / bound, fast", "ours", "bound, fast", targets[1]),
              ("ours / bound, stock", "ours", "bound, stock", None),
              ("plain / PEFT", "ours, plain", "PEFT", None)]  # fmt: skip
    return Row(f"training step, whole fast path, {ids.shape[0]} × {ids.shape[1]}", works, ratios)


def step_of_one_row(size: Size):
    return step_whole(size, 1, size.length, (0.68, None))


def step_beside_compiled(size: Size):
    """torch.compile of PEFT's model, its first and slow call left out."""
    if not size.compiled:
        return None
    base, ids = models.gpt2(size), models.tokens(size)
    compiled = torch.compile(models.theirs(size, base))
    works = {
        "ours": models.stepper(models.ours(size, base), models.our_loss, ids),
        "PEFT, compiled": models.stepper(compiled, models.stock_loss, ids),
    }
    return Row("training step beside compiled PEFT", works, [("ours / PEFT", "ours", "PEFT, compiled", 0.90)])


def merging(size: Size):
    """Bake in and take out again. Ours keeps what it replaces and restores it bit for bit; PEFT subtracts."""
    base = models.gpt2(size)
    mine, other = models.ours(size, base, fast=False), models.theirs(size, base)
    weights = linear_weights(base)

    def cycle():
        lo.merge(mine)
        lo.unmerge(mine)

    def their_cycle():
        other.merge_adapter()
        other.unmerge_adapter()

    works = {"ours": cycle, "PEFT": their_cycle, "one copy of the weights": lambda: [w.clone() for w in weights]}
    ratios = [("ours / PEFT", "ours", "PEFT", 0.11), ("ours / copy", "ours", "one copy of the weights", None)]
    return Row("merge and unmerge, all linear layers", works, ratios)


def linear_weights(model):
    return [p.detach() for name, p in model.named_parameters() if name.endswith("weight") and p.dim() == 2][2:]


def swapping(size: Size):
    """One merged adapter makes room for another. No swap that keeps W0 can be quicker than copying W0 once."""
    names, base = ("a", "b"), models.gpt2(size)
    mine, other = models.ours(size, base, fast=False, names=names), models.theirs(size, base, names)
    lo.merge(mine)
    other.merge_adapter()
    turn = {"ours": 0, "PEFT": 0}

    def swap():
        turn["ours"] ^= 1
        lo.unmerge(mine)
        lo.set_adapter(mine, names[turn["ours"]])
        lo.merge(mine)

    def their_swap():
        turn["PEFT"] ^= 1
        other.unmerge_adapter()
        other.set_adapter(names[turn["PEFT"]])
        other.merge_adapter()

    weights = linear_weights(base)
    rooms = [torch.empty_like(W) for W in weights]

    def copy_over():
        for room, W in zip(rooms, weights, strict=True):
            room.copy_(W)

    works = {"ours": swap, "PEFT": their_swap, "weights copied into memory that is there": copy_over}
    ratios = [("ours / PEFT", "ours", "PEFT", 0.06),
              ("copy / PEFT", "weights copied into memory that is there", "PEFT", None)]  # fmt: skip
    return Row("swap a merged adapter", works, ratios)


def routing(size: Size, length=None, target=1.05):
    """Eight rows, eight adapters, one forward pass."""
    names, base = [f"a{i}" for i in range(8)], models.gpt2(size).eval()
    ids = models.tokens(size, 8, length)
    mine, other = models.ours(size, base, fast=True, names=names).eval(), models.theirs(size, base, names).eval()

    def read():
        with torch.no_grad(), lo.routed(mine, names):
            mine(input_ids=ids)

    works = {"ours": read, "PEFT": reader(other, ids, adapter_names=names), "base": reader(base, ids)}
    ratios = [("ours / base", "ours", "base", target), ("PEFT / base", "PEFT", "base", None)]
    return Row(f"8 rows, 8 adapters, length {ids.shape[1]}", works, ratios)


def routing_short(size: Size):
    return routing(size, 16, 1.06)


def reader(model, ids, **more):
    def read():
        with torch.no_grad():
            model(input_ids=ids, **more)

    return read


def decoder(model, ids):
    """A function that decodes one token behind a cache that holds the rest of `ids`."""
    with torch.no_grad():
        cache = model(input_ids=ids[:, :-1], use_cache=True).past_key_values

    def decode():
        with torch.no_grad():
            model(input_ids=ids[:, -1:], past_key_values=cache, use_cache=True)
        cache.crop(-1)

    return decode


def latency(size: Size, one_token=False):
    """Unmerged against merged, a batch of one."""
    base, ids = models.gpt2(size).eval(), models.tokens(size, 1)
    make = decoder if one_token else reader
    contenders = {"ours": models.ours(size, base), "merged": models.ours(size, base), "PEFT": models.theirs(size, base)}
    lo.merge(contenders["merged"])
    works = {name: make(model.eval(), ids) for name, model in contenders.items()}
    what, target = ("one decoded token", 1.03) if one_token else (f"length {size.length}", 1.04)
    ratios = [("ours / merged", "ours", "merged", target), ("PEFT / merged", "PEFT", "merged", None)]
    return Row(f"latency unmerged, {what}", works, ratios)


def latency_decoding(size: Size):
    return latency(size, one_token=True)


def nf4_quantise(size: Size):
    from bitsandbytes import functional

    W = torch.randn(size.square, size.square, generator=torch.Generator().manual_seed(0))
    works = {"ours": lambda: lo.quant.quantize_nf4(W),
             "bitsandbytes": lambda: functional.quantize_4bit(W, quant_type="nf4")}  # fmt: skip
    return Row(f"NF4 quantise {size.square}²", works, [("ours / bitsandbytes", "ours", "bitsandbytes", 0.30)])


def nf4_dequantise(size: Size, dtype=torch.float32, target=0.55):
    from bitsandbytes import functional

    W = torch.randn(size.square, size.square, generator=torch.Generator().manual_seed(0)).to(dtype)
    q, (packed, state) = lo.quant.quantize_nf4(W), functional.quantize_4bit(W, quant_type="nf4")
    room = torch.empty_like(W)
    works = {"ours": lambda: lo.quant.dequantize(q, out=room),
             "ours, new memory": lambda: lo.quant.dequantize(q),
             "bitsandbytes": lambda: functional.dequantize_4bit(packed, state)}  # fmt: skip
    ratios = [("ours / bitsandbytes", "ours", "bitsandbytes", target)]
    note = "ours fills memory that is kept; bitsandbytes allocates, and its kernel alone is faster than ours."
    return Row(f"NF4 dequantise {size.square}², {str(dtype)[6:]}", works, ratios, note)


def nf4_dequantise_bf16(size: Size):
    return nf4_dequantise(size, torch.bfloat16, 0.82)


def randomised_svd(size: Size, side=None, target=0.008):
    """A falling spectrum, r = 32, beside all singular values and vectors."""
    side = side or size.square
    rng = np.random.default_rng(0)
    decay = 1 / (1 + np.arange(side, dtype=np.float32))
    U, V = (np.linalg.qr(rng.standard_normal((side, side), dtype=np.float32)).Q for _ in "UV")
    W = (U * decay) @ V.T
    works = {"ours": lambda: lo.factor.randomized_svd(W, min(32, side), oversample=20, rng=0),
             "numpy": lambda: np.linalg.svd(W, full_matrices=False)}  # fmt: skip
    found = lo.factor.reconstruct(*lo.factor.randomized_svd(W, min(32, side), oversample=20, rng=0))
    best = float(np.sqrt((decay[32:].astype(np.float64) ** 2).sum()))
    residual = f"residual {np.linalg.norm(W - found) / best:.4f} × the best possible" if side > 32 else ""
    return Row(f"randomised SVD, r=32, {side}²", works, [("ours / numpy", "ours", "numpy", target)], residual)


def randomised_svd_small(size: Size):
    return randomised_svd(size, min(768, size.square), 1 / 15)


def importing(size: Size):
    """A fresh interpreter that imports the package, beside one that imports numpy."""

    def run(code):
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    works = {"ours": run("import lowrank_edu"), "numpy": run("import numpy"), "nothing": run("")}
    return Row("import, a fresh interpreter", works, [("ours / numpy", "ours", "numpy", None)])


ROWS = [step_of_the_layer, step_whole, step_of_one_row, step_beside_compiled, merging, swapping, routing, routing_short,
        latency, latency_decoding, nf4_quantise, nf4_dequantise, nf4_dequantise_bf16, randomised_svd,
        randomised_svd_small, importing]  # fmt: skip
__all__ = ["ROWS", "Row"]
