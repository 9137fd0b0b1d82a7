"""Rows of the training step: forward, backward and AdamW."""

from __future__ import annotations

import models
import peers
import torch
from kept_memory import in_kept_memory
from models import Size
from row import NotRun, Row

import lowrank_edu as lo
from lowrank_edu.fast import products
from lowrank_edu.fast.layer import FastLayer

TURNED = "loralib knows no Conv1D: its layers hold W0 turned, as nn.Linear does."
LAYER = "LoRA's own thin products in each direction; the bound has none."
BASE = "both pay for the frozen model; only what lies around its products can be saved."
WHY = {"ours / bound": LAYER, "ours / bound, fast": LAYER, "ours / PEFT": BASE}


def step_of_the_layer(size: Size):
    kept = "Freed memory is kept, for all contenders: it is their stock loss that would have to fetch it."
    row = in_kept_memory(size, layer_alone, "training step, the LoRA layer alone", kept, without=True)
    row.note = f"{TURNED} {row.note}"
    return row


def layer_alone(size: Size):
    """LoRA's layer alone: torch's products, stock GELU and stock loss for all."""
    base, ids = models.gpt2(size), models.tokens(size)
    model, other = models.ours(size, base, fast=False), models.theirs(size, base)
    third = peers.with_loralib(size, base) if peers.loralib else None
    peers.equalled(*filter(None, (model, other, third)))
    for module in model.modules():
        if type(module) is lo.layers.AdaptedLayer:
            module.__class__ = FastLayer
    same = {
        "PEFT": lambda: peers.gradients(other, models.stock_loss, ids),
        "ours": lambda: with_torchs_products(lambda: peers.gradients(model, models.stock_loss, ids)),
    } | ({"loralib": lambda: peers.gradients(third, models.stock_loss, ids)} if third else {})
    mine = models.stepper(model, models.stock_loss, ids)
    works = {
        "ours": lambda: with_torchs_products(mine),
        "PEFT": models.stepper(other, models.stock_loss, ids),
        "loralib": models.stepper(third, models.stock_loss, ids) if third else peers.NO_LORALIB,
        "bound": models.stepper(models.bound(base), models.stock_loss, ids),
    }
    ratios = [("ours / bound", "ours", "bound", 1.07), ("ours / PEFT", "ours", "PEFT", 1.0),
              ("ours / loralib", "ours", "loralib", None), ("PEFT / bound", "PEFT", "bound", None)]  # fmt: skip
    return Row("", works, ratios, "", same, why=WHY)


def with_torchs_products(work):
    before, products.onednn = products.onednn, lambda: None
    try:
        return work()
    finally:
        products.onednn = before


def step_whole(size: Size, rows=None, length=None, targets=(0.75, 1.08)):
    """The whole fast path beside PEFT and loralib as they come, and beside the model without adapter on both paths."""
    base, ids = models.gpt2(size), models.tokens(size, rows, length)
    contenders = {
        "PEFT": (models.theirs(size, base), models.stock_loss),
        "ours": (models.ours(size, base), models.our_loss),
        "ours, plain": (models.ours(size, base, fast=False), models.our_loss),
    } | ({"loralib": (peers.with_loralib(size, base), models.stock_loss)} if peers.loralib else {})
    peers.equalled(*(model for model, _ in contenders.values()))
    same = {name: lambda it=it: peers.gradients(*it, ids) for name, it in contenders.items()}
    works = {name: models.stepper(*it, ids) for name, it in contenders.items()} | {
        "bound, stock": models.stepper(models.bound(base), models.stock_loss, ids),
        "bound, fast": models.stepper(models.bound(base, fast=True), models.our_loss, ids),
    }
    works.setdefault("loralib", peers.NO_LORALIB)
    ratios = [("ours / PEFT", "ours", "PEFT", targets[0]), ("ours / loralib", "ours", "loralib", None),
              ("ours / bound, fast", "ours", "bound, fast", targets[1]),
              ("ours / bound, stock", "ours", "bound, stock", None),
              ("plain / PEFT", "ours, plain", "PEFT", None)]  # fmt: skip
    title = f"training step, whole fast path, {ids.shape[0]} × {ids.shape[1]}"
    return Row(title, works, ratios, "", same, why=dict(WHY))


def step_whole_in_kept_memory(size: Size):
    title = "training step, whole fast path, freed memory kept"
    return in_kept_memory(size, lambda size: step_whole(size, targets=(None, None)), title)


def step_of_one_row(size: Size):
    row = step_whole(size, 1, size.length, (0.68, None))
    row.why["ours / PEFT"] = (f"{BASE} The aim is about what *bound, fast* takes in the table of times: the frozen "
                              "model on the same products, without an adapter.")  # fmt: skip
    return row


def step_of_q_and_v(size: Size):
    """An A of their own for q and v, as in the paper: loralib's MergedLinear beside our blocks."""
    base, ids = models.gpt2(size), models.tokens(size)
    method = lo.LoRA(size.r, 2 * size.r, blocks={"c_attn": ("q", "v")})
    mine, plain = models.ours(size, base, method=method), models.ours(size, base, fast=False, method=method)
    contenders = {"ours": (mine, models.our_loss), "ours, plain": (plain, models.our_loss)}
    if peers.loralib:
        contenders["loralib"] = (peers.with_loralib(size, base, q_and_v=True), models.stock_loss)
    peers.equalled(*(model for model, _ in contenders.values()))
    same = {name: lambda it=it: peers.gradients(*it, ids) for name, it in contenders.items()}
    works = {"loralib": peers.NO_LORALIB} | {name: models.stepper(*it, ids) for name, it in contenders.items()}
    ratios = [("ours / loralib", "ours", "loralib", None), ("plain / loralib", "ours, plain", "loralib", None),
              ("ours / plain", "ours", "ours, plain", None)]  # fmt: skip
    note = "MergedLinear builds ΔW in every forward pass. PEFT has no adapter of this form."
    return Row("training step, q and v only", works, ratios, note, same)


def step_beside_compiled(size: Size):
    """torch.compile of PEFT's model, its first and slow call left out."""
    base, ids = models.gpt2(size), models.tokens(size)
    mine, other = peers.equalled(models.ours(size, base), models.theirs(size, base))
    why_not = peers.why_not_compiled(size.compiler)
    compiled = NotRun(why_not) if why_not else (
        models.stepper(torch.compile(other, backend=size.compiler), models.stock_loss, ids))  # fmt: skip
    works = {"ours": models.stepper(mine, models.our_loss, ids), "PEFT, compiled": compiled}
    note = "compiling takes about a minute and is not counted; ours needs none."
    why = {"ours / PEFT, compiled": "compiled code joins the small operations between the products as well."}
    ratios = [("ours / PEFT, compiled", "ours", "PEFT, compiled", 0.90)]
    same = {"PEFT": lambda: peers.gradients(other, models.stock_loss, ids),
            "ours": lambda: peers.gradients(mine, models.our_loss, ids)}  # fmt: skip
    return Row("training step beside compiled PEFT", works, ratios, note, same, why=why)
