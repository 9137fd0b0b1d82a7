"""Chapter 8: what training steps hold, as formulas that a page can evaluate, and measured on the tiny model.

    python book/experiments/ch08_plans.py            about 4 minutes on one core; nothing is trained or downloaded
    python book/experiments/ch08_plans.py --check    say what is missing

For each model, `memory.plan` counts skeletons of two and three blocks. What a block adds is the same for every
further one, bytes per row are a polynomial in the tokens and linear in the rank, so a few counts give all sizes.
`tests/test_ch08.py` compares the formulas with whole plans, and the measured steps with new ones.
Writes lowrank_edu/assets/results/ch08_plans.json.
"""

import sys
from functools import cache

import numpy as np
import records
import torch
import torch.nn.functional as F
import transformers

import lowrank_edu as lo
from lowrank_edu import memory, shipped
from lowrank_edu.architectures import configuration

SMOLLM2 = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3,
           "vocab_size": 49152, "max_position_embeddings": 8192, "tie_word_embeddings": True}  # fmt: skip
MODELS = ["tiny-gpt2", "smollm2-135m", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl",
          "llama-7b", "llama-13b", "llama-65b", "gpt3-175b"]  # fmt: skip
BLOCKS = {"tiny-gpt2": 4, "smollm2-135m": 30}
METHODS = {"lora": lo.LoRA, "lorafa": lo.LoRAFA, "vera": lo.VeRA, "lamda": lo.LaMDA}
ROWS = ["full", "bitfit", *(f"{name} {where}" for name in METHODS for where in ("qv", "all"))]
CHECKPOINTED = {"full": "full", "bitfit": "bitfit", "lora qv": "adapters"}
PRECISIONS = ("fp32", "bf16")
LENGTHS, RANKS, BATCH = (32, 64, 128), (4, 8, 16), 4
MEASURED = {"rank": 8, "batch": 8, "length": 48}
EMPTY = {
    "fingerprint": records.fingerprint(SMOLLM2, MODELS, ROWS, PRECISIONS, LENGTHS, RANKS, BATCH, MEASURED),
    "models": {},
    "measured": {},
}


def config_of(name, blocks=None):
    """The configuration of a model, with another number of blocks if asked."""
    if name == "tiny-gpt2":
        config = transformers.GPT2Config.from_pretrained(shipped.ASSETS / name)
    elif name == "smollm2-135m":
        config = configuration("llama-7b", **SMOLLM2, num_hidden_layers=BLOCKS[name])
    else:
        config = configuration(name)
    if blocks is not None:
        config.num_hidden_layers = blocks  # GPT-2's n_layer is the same number
    return config


def method_of(model, row, r):
    """A row of this file as a row of the table of methods; None is full fine-tuning, in place."""
    name, _, where = row.partition(" ")
    if name in ("full", "bitfit"):
        return lo.BitFit() if name == "bitfit" else None
    qv = ["q", "v"] if "gpt" in model else ["q_proj", "v_proj"]
    return METHODS[name](r=r, target_modules=qv if where == "qv" else "all-linear")


@cache
def plan(model, row, r, blocks, precision="fp32", length=None, checkpointing=False, quantize=None):
    """`memory.plan` for the first few blocks of a model."""
    how = {"precision": precision, "quantize": quantize, "checkpointing": checkpointing}
    return memory.plan(config_of(model, blocks), method_of(model, row, r), batch=BATCH, length=length, **how)


def split(count):
    """[outside the blocks, in each block] of count(number of blocks), which is linear from two blocks on."""
    two, three = np.asarray(count(2)), np.asarray(count(3))
    return (two - 2 * (three - two)).tolist(), (three - two).tolist()


def polynomial(x, y):
    """[c0, c1, …] of the polynomial through the points, without rounding noise."""
    return np.rint(64 * np.polynomial.polynomial.polyfit(x, y, len(x) - 1)) / 64


def numbers(model, row, r, blocks):
    """(trained numbers, bytes of frozen adapter parts)."""
    at = plan(model, row, r, blocks)
    return at.trainable, at.held.get("adapters, frozen", 0)


def counts(model, row):
    """[trained, frozen bytes] of the whole model, each as [c0, c1, c2] in r."""
    blocks = config_of(model).num_hidden_layers
    if row in ("full", "bitfit"):
        outside, each = split(lambda n: numbers(model, row, 1, n))
        return [[o + blocks * e] for o, e in zip(outside, each, strict=True)]
    found = []
    for r in RANKS:
        outside, each = split(lambda n, r=r: numbers(model, row, r, n))
        found.append([o + blocks * e for o, e in zip(outside, each, strict=True)])
    return [polynomial(RANKS, column).astype(int).tolist() for column in zip(*found, strict=True)]


def saved_bytes(model, row, precision, r, length, **how):
    """(outside the blocks, in each block): bytes of saved activations for one row of tokens."""
    return split(lambda n: plan(model, row, r, n, precision, length, **how).activations / BATCH)


def attention(model, precision):
    """[[c0, c1, c2] outside, the same in each block]: bytes of one row in full fine-tuning, in its tokens."""
    points = zip(*(saved_bytes(model, "full", precision, 1, length) for length in LENGTHS), strict=True)
    return [polynomial(LENGTHS, column).tolist() for column in points]


def per_row(model, row, precision, curve, **how):
    """The same for any row: [c0, c1, c2, what each rank adds per token].

    c0 and c2 come from the loss and from attention, which no method changes, so `curve` gives them.
    """
    longest, (low, high, _) = LENGTHS[-1], RANKS
    at = [saved_bytes(model, row, precision, low, longest, **how)]
    at += [] if row in ("full", "bitfit") or how else [saved_bytes(model, row, precision, high, longest)]
    found = []
    for part, (c0, _, c2) in enumerate(curve):
        step = (at[-1][part] - at[0][part]) / (high - low) / longest
        c2 = 0.0 if how else c2  # a checkpointed block keeps its input only
        found.append([c0, (at[0][part] - c0 - c2 * longest**2) / longest - low * step, c2, step])
    return found


def base_bytes(model, precision, quantize=None):
    """Bytes of the frozen weights and buffers of the whole model."""

    def held(blocks):
        at = plan(model, "lora qv", RANKS[0], blocks, precision, quantize=quantize)
        return [n for kind, n in at.held.items() if "base" in kind and kind != "adapters"]

    outside, each = split(lambda n: sum(held(n)))
    return outside + config_of(model).num_hidden_layers * each


def describe(files, name, model):
    """Add one model: everything that the figure multiplies."""
    config, rows = config_of(model), {}
    curves = {p: attention(model, p) for p in PRECISIONS}
    has_biases = "gpt" in model  # Llama's layers have none, so BitFit has nothing to train there
    for row in ROWS if has_biases else [row for row in ROWS if row != "bitfit"]:
        trained, frozen = counts(model, row)
        saved = {p: per_row(model, row, p, curve) for p, curve in curves.items()}
        rows[row] = {"trained": trained, "frozen": frozen, "saved": saved}
    checkpointed = {
        kind: {p: per_row(model, row, p, curve, checkpointing=True) for p, curve in curves.items()}
        for row, kind in CHECKPOINTED.items()
        if row in rows
    }
    files[name]["models"][model] = {
        "blocks": config.num_hidden_layers,
        "room": config.max_position_embeddings,
        "base": {p: [base_bytes(model, p), base_bytes(model, p, "nf4")] for p in PRECISIONS},
        "rows": rows,
        "checkpointed": checkpointed,
    }
    plan.cache_clear()


# ---------------------------------------------------------------- the tiny model, measured


def story_ids():
    """MEASURED["batch"] stories, all cut to the same length, so that nothing is padding."""
    _, tok = lo.load_model("tiny-gpt2")
    data = lo.tokenize(tok, lo.corpus.stories(MEASURED["batch"], seed=1), max_length=MEASURED["length"])
    return torch.stack([example["input_ids"] for example in data])


def step_ledger(method, checkpointing=False):
    """The ledger of one real step of the tiny model."""
    model, _ = lo.load_model("tiny-gpt2")
    if method is not None:
        lo.adapt(model, method)
    if checkpointing:
        model.config.use_cache = False
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    if method is not None and method.scheduled:
        lo.attach(model, optimizer, 10)
    ids = story_ids()

    def step():
        logits = model(ids, attention_mask=torch.ones_like(ids)).logits
        F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()

    return memory.ledger(step, model.train(), optimizer)


def parts(ledger):
    """[parameters, gradients, optimizer, activations]; what checkpointing brings back is not in it."""
    return [ledger.parameters, ledger.gradients, ledger.optimizer, ledger.activations]


def measure(files, name, row):
    """Add one method: planned and measured bytes, without and with checkpointing."""
    method = method_of("tiny", f"{row} all" if row in METHODS else row, MEASURED["rank"])
    found = {}
    for checkpointing in (False, True):
        how = {"batch": MEASURED["batch"], "length": MEASURED["length"], "checkpointing": checkpointing}
        planned = memory.plan(config_of("tiny-gpt2"), method, precision="fp32", **how)
        found["checkpointed" if checkpointing else "plain"] = {
            "planned": parts(planned),
            "again": planned.recomputed,
            "measured": parts(step_ledger(method, checkpointing)),
            "trained": planned.trainable,
        }
    files[name]["measured"][row] = found


def run(files, name, what, which):
    {"model": describe, "step": measure}[what](files, name, which)


def main():
    name = "ch08_plans"
    results = records.load(name, EMPTY)
    results |= {"settings": MEASURED, "versions": records.versions("torch", "transformers")}
    todo = [(name, "step", row) for row in ("full", "bitfit", *METHODS) if row not in results["measured"]]
    todo += [(name, "model", model) for model in MODELS if model not in results["models"]]
    return records.resume(__doc__, {name: results}, todo, run)


if __name__ == "__main__":
    sys.exit(main())
