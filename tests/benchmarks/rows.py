"""The rows of the table: each function makes its contenders and returns a Row. Training steps and the SVD are apart."""

from __future__ import annotations

import subprocess
import sys

import models
import peers
import torch
from kept_memory import in_kept_memory
from models import Size
from row import NotRun, Row
from steps import (
    step_beside_compiled,
    step_of_one_row,
    step_of_q_and_v,
    step_of_the_layer,
    step_whole,
    step_whole_in_kept_memory,
)
from svd import randomised_svd, randomised_svd_small

import lowrank_edu as lo


def merging(size: Size):
    """Bake in and take out again. Ours keeps what it replaces and restores it bit for bit; PEFT subtracts."""
    base = models.gpt2(size)
    mine, other = models.ours(size, base, fast=False), models.theirs(size, base)
    third, ids = peers.with_loralib(size, base) if peers.loralib else None, models.tokens(size, 1)
    peers.equalled(*filter(None, (mine, other, third)))
    weights = linear_weights(base)

    def cycle():
        lo.merge(mine)
        lo.unmerge(mine)

    def their_cycle():
        other.merge_adapter()
        other.unmerge_adapter()

    def third_cycle():  # loralib merges when a model is told that it no longer trains
        third.eval()
        third.train()

    def merged(model, merge, unmerge):
        merge(model)
        found = reader(model, ids)().logits
        unmerge(model)
        return found

    works = {"ours": cycle, "PEFT": their_cycle, "loralib": third_cycle if third else peers.NO_LORALIB,
             "one copy of the weights": lambda: [w.clone() for w in weights]}  # fmt: skip
    ratios = [("ours / PEFT", "ours", "PEFT", 0.11), ("ours / loralib", "ours", "loralib", None),
              ("ours / copy", "ours", "one copy of the weights", None)]  # fmt: skip
    same = {"PEFT": lambda: merged(other, lambda m: m.merge_adapter(), lambda m: m.unmerge_adapter()),
            "ours": lambda: merged(mine, lo.merge, lo.unmerge)}  # fmt: skip
    if third:
        same["loralib"] = lambda: merged(third, lambda m: m.eval(), lambda m: m.train())
    note = "ours keeps what it replaces and gives it back bit for bit; PEFT and loralib subtract."
    why = {"ours / PEFT": "the memory that it moves: one copy of the weights is timed beside it."}
    return Row("merge and unmerge, all linear layers", works, ratios, note, same, why=why)


def merging_in_kept_memory(size: Size):
    """The same where freed memory stays with the process, as with jemalloc or a server that has merged before."""
    return in_kept_memory(size, merging, "merge and unmerge, freed memory kept")


def linear_weights(model):
    return [p.detach() for name, p in model.named_parameters() if name.endswith("weight") and p.dim() == 2][2:]


def swapping(size: Size):
    """One merged adapter makes room for another. No swap that keeps W0 can be quicker than copying W0 once."""
    names, base = ("a", "b"), models.gpt2(size)
    mine, other = models.ours(size, base, fast=False, names=names), models.theirs(size, base, names)
    peers.equalled(mine, other)
    lo.merge(mine)
    other.merge_adapter()
    ids, turn = models.tokens(size, 1), {"ours": 0, "PEFT": 0}

    def swap():
        turn["ours"] ^= 1
        lo.swap_merged(mine, names[turn["ours"]])

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
    same = {"PEFT": lambda: (their_swap(), reader(other.eval(), ids)().logits)[1],
            "ours": lambda: (swap(), reader(mine.eval(), ids)().logits)[1]}  # fmt: skip
    note = "ours, `swap_merged`, writes into the memory of the weights that go; PEFT subtracts, then adds."
    why = {"ours / PEFT": "W0 + ΔW is written anew for every weight; a bare copy of them is timed beside it."}
    return Row("swap a merged adapter", works, ratios, note, same, why=why)


def routing(size: Size, length=None, target=1.05):
    """Eight rows, eight adapters, one forward pass."""
    names, base = [f"a{i}" for i in range(8)], models.gpt2(size).eval()
    ids = models.tokens(size, 8, length)
    mine, other = models.ours(size, base, fast=True, names=names).eval(), models.theirs(size, base, names).eval()
    peers.equalled(mine, other)

    def read():
        with torch.no_grad(), lo.routed(mine, names):
            return mine(input_ids=ids)

    works = {"ours": read, "PEFT": reader(other, ids, adapter_names=names), "base": reader(base, ids)}
    same = {name: lambda work=works[name]: work().logits for name in ("PEFT", "ours")}
    ratios = [("ours / base", "ours", "base", target), ("PEFT / base", "PEFT", "base", None)]
    why = {"ours / base": "two batched products in each layer for all adapters; the base model has none."}
    return Row(f"8 rows, 8 adapters, length {ids.shape[1]}", works, ratios, "", same, why=why)


def routing_short(size: Size):
    return routing(size, 16, 1.06)


def reader(model, ids, **more):
    def read():
        with torch.no_grad():
            return model(input_ids=ids, **more)

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
    """Unmerged LoRA, ours and PEFT's, and Houlsby's adapter layers against merged, a batch of one."""
    base, ids = models.gpt2(size).eval(), models.tokens(size, 1)
    contenders = {"merged": models.ours(size, base), "ours": models.ours(size, base), "PEFT": models.theirs(size, base)}
    peers.equalled(*contenders.values())
    lo.merge(contenders["merged"])
    same = {name: lambda model=model: reader(model, ids)().logits for name, model in contenders.items()}
    contenders["Houlsby"] = models.ours(size, base, method=lo.BottleneckAdapter(size.bottleneck))
    facts = {f"numbers trained, {name}": sum(p.numel() for p in contenders[name].parameters() if p.requires_grad)
             for name in ("ours", "Houlsby")}  # fmt: skip
    make = decoder if one_token else reader
    works = {name: make(model.eval(), ids) for name, model in contenders.items()}
    what, target = ("one decoded token", 1.03) if one_token else (f"length {size.length}", 1.04)
    ratios = [("ours / merged", "ours", "merged", target), ("PEFT / merged", "PEFT", "merged", None),
              ("Houlsby / merged", "Houlsby", "merged", None)]  # fmt: skip
    note = f"Houlsby: two adapter layers of width {size.bottleneck} in each block, which nothing can merge."
    why = {"ours / merged": "two thin products more in each of four layers of a block; merging takes them away."}
    return Row(f"latency unmerged, {what}", works, ratios, note, same, facts, why)


def latency_decoding(size: Size):
    return latency(size, one_token=True)


def nf4_quantise(size: Size):
    from bitsandbytes import functional

    W = torch.randn(size.square, size.square, generator=torch.Generator().manual_seed(0))
    hard = W[:8].clone()  # with blocks of zeros, and of numbers too small for a float's full precision
    hard[1], hard[2] = 0, hard[2] * 1e-40

    def mine(W):
        q = lo.quant.quantize_nf4(W)
        return q.packed, q.absmax

    def theirs(W):
        packed, state = functional.quantize_4bit(W, quant_type="nf4")
        return packed, state.absmax

    contenders, why_not = {"bitsandbytes": theirs, "ours": mine}, peers.why_not_compiled(size.compiler)
    works = {} if not why_not else {"ours, compiled": NotRun(why_not)}
    if not why_not:
        contenders["ours, compiled"] = torch.compile(mine, backend=size.compiler, dynamic=False)
    works |= {name: lambda it=it: it(W) for name, it in contenders.items()}
    same = {name: lambda it=it: torch.cat([part.flatten().double() for M in (W, hard) for part in it(M)])
            for name, it in contenders.items()}  # fmt: skip
    ratios = [("ours / bitsandbytes", "ours", "bitsandbytes", 0.30),
              ("ours, compiled / bitsandbytes", "ours, compiled", "bitsandbytes", None)]  # fmt: skip
    note = "compiling takes about half a minute and is not counted; the package does not compile."
    why = {"ours / bitsandbytes": "fifteen comparisons read each value again; bitsandbytes reads it once."}
    return Row(f"NF4 quantise {size.square}²", works, ratios, note, same, why=why)


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
    why = {"ours / bitsandbytes": "its compiled kernel reads and writes once; ours looks up and multiplies in torch."}
    return Row(f"NF4 dequantise {size.square}², {str(dtype)[6:]}", works, ratios, note, why=why)


def nf4_dequantise_bf16(size: Size):
    return nf4_dequantise(size, torch.bfloat16, 0.82)


def importing(size: Size):
    """A fresh interpreter that imports the package, beside one that imports numpy."""

    def run(code):
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    works = {"ours": run("import lowrank_edu"), "numpy": run("import numpy"), "nothing": run("")}
    return Row("import, a fresh interpreter", works, [("ours / numpy", "ours", "numpy", None)])


ROWS = [step_of_the_layer, step_whole, step_whole_in_kept_memory, step_of_one_row, step_of_q_and_v, merging,
        merging_in_kept_memory, swapping, routing, routing_short, latency, latency_decoding, nf4_dequantise,
        nf4_dequantise_bf16, randomised_svd, randomised_svd_small, importing, nf4_quantise,
        step_beside_compiled]  # fmt: skip
__all__ = ["ROWS", "Row"]
