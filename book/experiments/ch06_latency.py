"""Experiment of chapter 6: what a method costs when nobody trains any more. CPU time of inference, one thread.

    python book/experiments/ch06_latency.py            a few minutes on one core
    python book/experiments/ch06_latency.py --check    say what is missing, measure nothing

Written to lowrank_edu/assets/results/ch06_latency.json. The model has GPT-2 small's shapes and random weights, which
take the same time as trained ones; every method has about 2.36 million trained numbers.

Another program on the machine disturbs a clock more than the methods differ. So this counts the process's own CPU
seconds, on one thread; measures the variants in turn, in another order every round; and divides by the plain model of
the same round. The file keeps the median of these ratios, and the range of their middle half. It says nothing about a
GPU: there the many small launches of an adapter layer cost more than its arithmetic.

  read    one forward pass over the text, the last position's logits
  write   8 tokens written after a text of 16, greedily, with the key-value cache, minus writing 1
"""

import copy
import os
import platform
import random
import time

import numpy as np
import records
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import lowrank_edu as lo
from lowrank_edu.figures.page import rounded

NAME = "ch06_latency"
CASES = {  # rows, length, rounds
    "read, batch 1": (1, 128, 15),
    "read, batch 16": (16, 32, 5),
    "write, batch 1": (1, 16, 9),
    "write, batch 16": (16, 16, 5),
}
METHODS = {
    "LoRA merged": lo.LoRA(64, 128, blocks={"c_attn": ("q", "v")}),
    "LoRA unmerged": lo.LoRA(64, 128, blocks={"c_attn": ("q", "v")}),
    "Houlsby": lo.BottleneckAdapter(64),
    "Pfeiffer": lo.BottleneckAdapter(128, "pfeiffer"),
    "prefix": lo.PrefixTuning(128),
}


def variants():
    """({name: model}, {name: trained numbers}): the plain model, and one per method on the same frozen weights."""
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config()).eval()
    base.generation_config.eos_token_id = None
    models, trained = {"plain": base}, {"plain": 0}
    for name, method in METHODS.items():
        merged = name.endswith(" merged")
        shared = {} if merged else {id(p): p for p in base.parameters()}  # merging writes into its weights
        models[name] = model = copy.deepcopy(base, shared)
        trained[name] = lo.adapt(model, method).trainable
        for parameter in model.parameters():
            if parameter.requires_grad:  # B = 0 would be special
                torch.nn.init.normal_(parameter, std=0.01)
        if merged:
            lo.merge(model)
    return models, trained


def seconds(model, kind, ids):
    """CPU seconds of one forward pass, or of 7 more written tokens."""
    if kind.startswith("read"):
        return spent(lambda: model(ids, logits_to_keep=1))
    # the same first token in both, so that their difference is 7 steps of one token
    return spent(lambda: written(model, ids, 8)) - spent(lambda: written(model, ids, 1))


def written(model, ids, n):
    return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, min_new_tokens=n,
                          do_sample=False, pad_token_id=0)  # fmt: skip


def spent(work):
    began = time.process_time()
    work()
    return time.process_time() - began


@torch.no_grad()
def measure(cases=CASES):
    """{"cases": {case: {variant: {"ratio": median, "half": [quartiles], "fastest": ratio of the fastest rounds}}}}"""
    models, trained = variants()
    told, order, draw = {}, list(models), random.Random(0)
    for case, (rows, length, rounds) in cases.items():
        ids = torch.randint(50_000, (rows, length), generator=torch.Generator().manual_seed(1))
        times = {name: [] for name in models}
        for number in range(rounds + 1):
            draw.shuffle(order)
            for name in order:
                took = seconds(models[name], case, ids)
                if number:  # the first round warms up
                    times[name].append(took)
        told[case] = {"rows": rows, "length": length, "rounds": rounds, "seconds": float(np.median(times["plain"]))} | {
            name: compared(took, times["plain"]) for name, took in times.items() if name != "plain"
        }
        print(case, {name: round(row["ratio"], 3) for name, row in told[case].items() if name in METHODS}, flush=True)
    return {"cases": told, "trained": trained}


def compared(took, plain):
    ratios = np.divide(took, plain)
    half = [float(q) for q in np.quantile(ratios, [0.25, 0.75])]
    return {"ratio": float(np.median(ratios)), "half": half, "fastest": min(took) / min(plain)}


def about():
    """What the ratios were measured on, in words that hold no name of a machine."""
    return {
        "model": "GPT-2 small's shapes, random weights, fp32",
        "machine": f"{processor()}, 1 of {os.cpu_count()} threads, other jobs running",
        "clock": "process CPU time, interleaved rounds",
        "versions": records.versions("torch", "transformers") | {"system": platform.system()},
    }


def processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def fingerprint():
    return records.fingerprint(CASES, METHODS)


def missing(results):
    return [] if "cases" in results else [(NAME, "measure")]


def main():
    results = records.load(NAME, {"fingerprint": fingerprint()})

    def perform(files, name, *run):
        files[name] |= rounded(measure() | about())

    return records.resume(__doc__, {NAME: results}, lambda: missing(results), perform)


if __name__ == "__main__":
    raise SystemExit(main())
