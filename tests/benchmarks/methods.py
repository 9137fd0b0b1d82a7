"""One table of all methods on one model: step time, numbers trained, and each kind of bytes."""

from __future__ import annotations

import models
import torch
from growth import fastest

import lowrank_edu as lo


def methods(size: models.Size) -> dict:
    """{name: (method, settings of adapt)} on all four linear layers where a method chooses layers."""
    r, targets = size.r, {"target_modules": models.TARGETS}
    low = {"r": r, "alpha": 2 * r, **targets}
    return {
        "full fine-tuning": (lo.FullFineTuning(), {}),
        "BitFit": (lo.BitFit(), {}),
        "LoRA": (lo.LoRA(**low), {}),
        "LoRA, plain path": (lo.LoRA(**low), {"fast": False}),
        "LoRA-FA": (lo.LoRAFA(**low), {}),
        "AdaLoRA": (lo.AdaLoRA(init_r=r, target_r=max(1, r // 2), alpha=2 * r, total_steps=1000, **targets), {}),
        "VeRA": (lo.VeRA(r=32 * r, **targets), {}),
        "DoRA": (lo.LoRA(**low, use_dora=True), {}),
        "LaMDA, before freezing": (lo.LaMDA(r=4 * r, **targets), {}),
        "LaMDA, after freezing": (lo.LaMDA(r=4 * r, **targets), {}),
        "QLoRA": (lo.LoRA(**low), {"quantize": lo.Quantization("nf4", double_quant=True)}),
    }


def table(size: models.Size, calls: int) -> list[dict]:
    """One dict a method: "trained" numbers, "seconds" of a step, and the bytes of a Ledger by its names."""
    rows, ids = [], models.tokens(size)
    for name, (method, how) in methods(size).items():
        model = models.gpt2(size)
        lo.adapt(model, method, **{"fast": True, **how})
        optimizer = torch.optim.AdamW(lo.parameter_groups(model, 1e-4))
        with lo.attach(model, optimizer, 1000) as schedules:
            if name == "LaMDA, after freezing":
                _freeze(model, schedules, optimizer)

            def step(model=model, optimizer=optimizer):
                models.our_loss(model, ids).backward()
                optimizer.step()
                optimizer.zero_grad()

            bytes_of = lo.memory.ledger(step, model, optimizer)
            rows.append({
                "method": name, "trained": bytes_of.trainable, "seconds": fastest(step, calls),
                "parameters": bytes_of.parameters, "gradients": bytes_of.gradients,
                "optimizer": bytes_of.optimizer, "activations": bytes_of.activations,
            })  # fmt: skip
    return rows


def _freeze(model, schedules, optimizer):
    """As late in the run as nothing of B is left to train: B fixed, the square matrix alone learns."""
    for layer in lo.adapted_layers(model).values():
        for update in layer.updates.values():
            update.fix("B")
