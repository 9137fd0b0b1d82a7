"""`make benchmark`: the same work in lowrank_edu and in PEFT, in turns, on this machine.

Turns, because a machine that slows down or gets busy then slows both; the ratio of each pair is taken, and its median
and middle half are printed. Nothing is asserted: a time depends on the machine, and no test depends on a time.
"""

from __future__ import annotations

import os
import platform
import statistics
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import lowrank_edu as lo

TARGETS, RANK, ALPHA = ["c_attn", "c_proj", "c_fc"], 8, 16
ROUNDS = 11


def base_model():
    """GPT-2 small's width, two blocks: large enough that products, not Python, take the time."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2, n_embd=768, n_head=12, vocab_size=2048, n_positions=128, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config).eval()


def ours():
    model = base_model()
    lo.adapt(model, lo.LoRA(r=RANK, alpha=ALPHA, target_modules=TARGETS))
    return model


def theirs():
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, fan_in_fan_out=True)
    return peft.get_peft_model(base_model(), config)


def stepper(model, batch=2, length=64):
    """A function that makes one training step."""
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    ids = torch.randint(0, 2048, (batch, length), generator=torch.Generator().manual_seed(0))

    def step():
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def generator(model):
    """A function that reads a batch once without gradients."""
    model.eval()
    ids = torch.randint(0, 2048, (2, 64), generator=torch.Generator().manual_seed(1))

    def read():
        with torch.no_grad():
            model(input_ids=ids)

    return read


def our_cycle(model):
    def cycle():
        lo.merge(model)
        lo.unmerge(model)

    return cycle


def their_cycle(model):
    def cycle():
        model.merge_adapter()
        model.unmerge_adapter()

    return cycle


def seconds(work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(name: str, mine, other) -> None:
    for work in (mine, other, mine, other):
        work()  # warm up
    pairs = [(seconds(mine), seconds(other)) for _ in range(ROUNDS)]
    ratios = [a / b for a, b in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4)
    a, b = (1000 * statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"{name:22} {a:9.1f} ms {b:9.1f} ms   {middle:.2f}   ({low:.2f} to {high:.2f})", flush=True)


def main() -> None:
    threads = f"{torch.get_num_threads()} thread(s)"
    print(f"{platform.machine()}, {threads}, torch {torch.__version__}, peft {peft.__version__}, {ROUNDS} rounds")
    print(f"{'':22} {'lowrank_edu':>12} {'PEFT':>12}   ratio (middle half of the rounds); below 1 we are faster")
    compare("a training step", stepper(ours()), stepper(theirs()))
    compare("reading a batch", generator(ours()), generator(theirs()))
    compare("merge and unmerge", our_cycle(ours()), their_cycle(theirs()))
    print("Our merge keeps a copy of what it replaces, so that unmerge is exact; PEFT's subtracts, and drifts.")


if __name__ == "__main__":
    main()
