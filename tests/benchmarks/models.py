"""The contenders: GPT-2 small with random weights, with our adapter, with PEFT's, and with none."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import peft
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import lowrank_edu as lo
from lowrank_edu.batches import token_loss
from lowrank_edu.fast import switch_fast
from lowrank_edu.fast.products import linear
from lowrank_edu.updates import weight_of

TARGETS = ["c_attn", "c_proj", "c_fc"]
NO_DROPOUT = {"resid_pdrop": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0}


@dataclass(frozen=True)
class Size:
    """How large the work is. The smoke size only proves that everything runs."""

    layers: int = 12
    d: int = 768
    heads: int = 12
    words: int = 50257
    rows: int = 4
    length: int = 128
    r: int = 8
    square: int = 4096  # side of the matrices of NF4 and the randomised SVD
    bottleneck: int = 64
    compiler: str = "inductor"


FULL, SMOKE = Size(), Size(2, 48, 2, 97, 2, 12, 2, 256, 8, "eager")  # "eager" compiles nothing, and takes no time


def gpt2(size: Size, **changes):
    torch.manual_seed(0)
    sizes = {"n_layer": size.layers, "n_embd": size.d, "n_head": size.heads, "vocab_size": size.words}
    config = GPT2Config(**{**sizes, "n_positions": 1024, "bos_token_id": 0, "eos_token_id": 0, **NO_DROPOUT, **changes})
    return GPT2LMHeadModel(config).train()


def lora(size: Size, **more):
    return lo.LoRA(**{"r": size.r, "alpha": 2 * size.r, "target_modules": TARGETS, **more})


def ours(size: Size, base=None, fast=True, method=None, names=("default",)):
    model = gpt2(size) if base is None else copy.deepcopy(base)
    for seed, name in enumerate(names):
        lo.adapt(model, method or lora(size), name, seed=seed, fast=fast)
    return model


def theirs(size: Size, base=None, names=("default",)):
    config = peft.LoraConfig(r=size.r, lora_alpha=2 * size.r, target_modules=TARGETS, fan_in_fan_out=True)
    model = peft.get_peft_model(gpt2(size) if base is None else copy.deepcopy(base), config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    return model


class Frozen(torch.autograd.Function):
    """x Wᵀ + b with the fast path's product and no adapter."""

    @staticmethod
    def forward(ctx, x, W, b):
        ctx.save_for_backward(W)
        return linear(x, W, b)

    @staticmethod
    def backward(ctx, dy):
        return linear(dy, ctx.saved_tensors[0].T), None, None


class FrozenLayer(torch.nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, x):
        y = Frozen.apply(x.reshape(-1, x.shape[-1]), weight_of(self.base), self.base.bias)
        return y.view(*x.shape[:-1], -1)


def bound(base, fast=False):
    """The model without an adapter, its weights frozen, the gradient going back to the embeddings."""
    model = copy.deepcopy(base).requires_grad_(False)
    model.transformer.wte.register_forward_hook(lambda module, args, y: y.detach().requires_grad_())
    if fast:
        switch_fast(model)
        for block in model.transformer.h:
            for parent in (block.attn, block.mlp):
                for name in {"c_attn", "c_proj", "c_fc"} & set(parent._modules):
                    setattr(parent, name, FrozenLayer(getattr(parent, name)))
    return model


def tokens(size: Size, rows=None, length=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, size.words, (rows or size.rows, length or size.length), generator=generator)


def stock_loss(model, ids):
    """As transformers computes it, without the cache that training does not read."""
    return model(input_ids=ids, labels=ids, use_cache=False).loss


def our_loss(model, ids):
    """As `lo.train` computes it."""
    summed, count = token_loss(model, {"input_ids": ids, "labels": ids})
    return summed / count


def stepper(model, loss, ids):
    """A function that makes one training step: forward, backward and AdamW on what is trained."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4) if trained else None

    def step():
        loss(model, ids).backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()

    return step
