"""Chapter 5: three style adapters, and what merging, unmerging and swapping them does to the weights.

    python book/experiments/ch05_merge.py            about 15 minutes on one core
    python book/experiments/ch05_merge.py --four     the part about 4 bits alone, added to the file

Writes lowrank_edu/assets/adapters/<style>/ (PEFT format) and lowrank_edu/assets/results/ch05_merge.json.
`tests/test_ch05.py` runs parts of it again and compares.

In fp32, bf16 and fp16 PEFT itself merges and subtracts. In NF4 the arithmetic is PEFT's (unpack, add ΔW, pack again;
to take it out, unpack, subtract, pack again) and the quantiser ours, bitsandbytes' to the bit: a test runs both.
"""

import argparse
import time
import warnings
from base64 import b64encode
from pathlib import Path

import numpy as np
import peft
import records
import torch

import lowrank_edu as lo
from lowrank_edu import corpus, shipped
from lowrank_edu.quant import dequantize, quantize
from lowrank_edu.updates import store_like, weight_of

STYLES = ("pirate", "archaic", "telegram")
METHOD = lo.LoRA(r=4, alpha=8, target_modules="all-linear")
STEPS, BATCH, LR, SEED = 100, 16, 5e-3, 0
NF4 = "nf4"
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ORDERS = {"one": STYLES[:1], "three": STYLES}
SAMPLE = 8  # steps of a short run whose losses a test compares with its own
CYCLES = [1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000]
CORNER = 20  # rows and columns of the piece of a weight that the figure shows


def train_style(style, steps=STEPS):
    """(model, tokenizer, History) of the tiny model, fine-tuned on a style with LoRA."""
    model, tok = lo.load_model("tiny-gpt2")
    lo.adapt(model, METHOD, name=style, seed=SEED)
    data = lo.tokenize(tok, corpus.stories(steps * BATCH, seed=1, style=style))
    history = lo.train(model, data, steps=steps, batch_size=BATCH, lr=LR, seed=SEED, schedule="linear", progress=False)
    return model, tok, history


def judge(model, tok, style, n=50):
    """Of n samples from nothing: the share that is all in `style`, the mean score per style, and two texts."""
    texts = lo.sample(model, tok, n=n, max_new_tokens=100, seed=SEED)
    good = [corpus.style_score(t, style) > 0.9 for t in texts]
    scores = {other: round(float(np.mean([corpus.style_score(t, other) for t in texts])), 2) for other in STYLES}
    whole = [t for t, g in zip(texts, good, strict=True) if g and corpus.parse(t, style).valid]
    return {"in style": float(np.mean(good)), "scores": scores, "samples": (whole or texts)[:2]}


def loaded(dtype, styles=STYLES):
    """(model, tokenizer): the base in `dtype`, or NF4, the shipped adapters on it in fp32, as PEFT does it."""
    model, tok = lo.load_model("tiny-gpt2")
    if dtype == NF4:
        lo.quantize(model, NF4, double_quant=False)
    else:
        model.to(dtype)
    for style in styles:
        lo.load_adapter(model, shipped.adapter(style), name=style)
    return model, tok


@torch.no_grad()
def merge_error(dtype, style="pirate"):
    """What one merge does: changes lost, distance to W0 + ΔW, and the largest difference in a logit."""
    model, tok = loaded(dtype, [style])
    ids = lo.tokenize(tok, corpus.stories(1, seed=3, style=style))[0]["input_ids"][None]
    apart = model(ids).logits.float()
    layers = lo.adapted_layers(model)
    before = {path: weight_of(layer.base).double() for path, layer in layers.items()}
    deltas = {path: layer.delta(style).double() for path, layer in layers.items()}
    if dtype == NF4:
        lo.merge(model, how="requantise")
        after = {path: weight_of(layer.base).double() for path, layer in layers.items()}
    else:
        after = {p: store_like(la.base, la.merge_values([style])["weight"].double()) for p, la in layers.items()}
        lo.merge(model)
    lost = total = 0
    wrong = size = 0.0
    for path, dW in deltas.items():
        lost, total = lost + int(((after[path] == before[path]) & (dW != 0)).sum()), total + dW.numel()
        wrong, size = wrong + float(((after[path] - before[path] - dW) ** 2).sum()), size + float((dW**2).sum())
    logits = float((model(ids).logits.float() - apart).abs().max())
    return {"lost": lost / total, "relative": (wrong / size) ** 0.5, "logits": logits}


def peft_model(dtype, styles):
    """The same base and adapters in PEFT."""
    model, _ = lo.load_model("tiny-gpt2")
    first, *rest = styles
    wrapped = peft.PeftModel.from_pretrained(model.to(dtype), str(shipped.adapter(first)), adapter_name=first)
    for style in rest:
        wrapped.load_adapter(str(shipped.adapter(style)), adapter_name=style)
    return wrapped.eval()


@torch.no_grad()
def drift(dtype, styles, cycles):
    """PEFT merges one adapter and subtracts it again, the next in turn, and so on: how far is W from W0?

    One entry per number of cycles: largest |W − W0|, share of weights that moved, and a corner of W − W0.
    """
    model = peft_model(dtype, styles)
    layers = [m for m in model.modules() if isinstance(m, peft.tuners.lora.LoraLayer)]
    start = [layer.get_base_layer().weight.clone() for layer in layers]
    out = []
    for cycle in range(1, max(cycles) + 1):
        model.merge_adapter(adapter_names=[styles[(cycle - 1) % len(styles)]])
        model.unmerge_adapter()
        if cycle in cycles:
            out.append(_distance([layer.get_base_layer().weight for layer in layers], start))
    return out


@torch.no_grad()
def drift_in_codes(styles, cycles):
    """The same with W in NF4: every merge and every subtraction unpacks and packs again."""
    model, _ = loaded(NF4, styles)
    layers = list(lo.adapted_layers(model).values())
    deltas = {style: [layer.delta(style) for layer in layers] for style in styles}
    start = [weight_of(layer.base) for layer in layers]
    now, out = [W.clone() for W in start], []
    for cycle in range(1, max(cycles) + 1):
        for sign in (1, -1):
            now = [_packed(W + sign * dW) for W, dW in zip(now, deltas[styles[(cycle - 1) % len(styles)]], strict=True)]
        if cycle in cycles:
            out.append(_distance(now, start))
    return out


def _packed(W):
    return dequantize(quantize(W, NF4, block_size=64, double_quant=False))


def _distance(now, start):
    moved = [a.double() - b.double() for a, b in zip(now, start, strict=True)]
    largest = max(float(m.abs().max()) for m in moved)
    share = sum(int((m != 0).sum()) for m in moved) / sum(m.numel() for m in moved)
    return {"max": largest, "moved": share, "corner": moved[len(moved) // 2][:CORNER, :CORNER]}


def ours(dtype, styles, cycles):
    """The same with lo.merge and lo.unmerge: is every weight what it was, bit for bit?"""
    model, _ = loaded(dtype, styles)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    for cycle in range(cycles):
        lo.set_adapter(model, styles[cycle % len(styles)])
        lo.merge(model, how="requantise" if dtype == NF4 else None)
        lo.unmerge(model)
    return all(torch.equal(v, start[k]) for k, v in model.state_dict().items())


def packed(entry):
    """For the file: the corner as bytes, 127 being the largest."""
    corner = entry["corner"].numpy()
    levels = np.rint(corner / (np.abs(corner).max() or 1) * 127).astype(np.int8)
    return entry | {"corner": b64encode(levels.tobytes()).decode()}


def four_bits(out):
    """Add what happens when W is stored in NF4."""
    out["merge"][NF4] = merge_error(NF4) | {"ours exact": ours(NF4, STYLES, CYCLES[-1])}
    for order, styles in ORDERS.items():
        entries = drift_in_codes(styles, CYCLES)
        out["drift"][f"{NF4} {order}"] = [packed(e) for e in entries]
        print(NF4, order, [(c, e["max"], e["moved"]) for c, e in zip(CYCLES, entries, strict=True)], flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--four", action="store_true", help="measure NF4 alone and add it to the file")
    if parser.parse_args().four:
        torch.set_num_threads(1)
        out = shipped.results("ch05_merge")
        four_bits(out)
        return records.save("ch05_merge", out)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    begun, out = time.time(), {"seed": SEED, "steps": STEPS, "styles": {}, "merge": {}, "drift": {}}
    for style in STYLES:
        model, tok, _ = train_style(style)
        plain = lo.tokenize(tok, corpus.stories(100, seed=2))
        styled = lo.tokenize(tok, corpus.stories(100, seed=2, style=style))
        with lo.disabled(model):
            base = lo.evaluate(model, styled)
        losses = {"before": base, "after": lo.evaluate(model, styled), "plain after": lo.evaluate(model, plain)}
        lo.save_adapter(model, Path(shipped.ASSETS / "adapters" / style), name=style)
        out["styles"][style] = judge(model, tok, style) | losses
        print(style, out["styles"][style], flush=True)
    out["first losses"] = train_style("pirate", SAMPLE)[2].loss
    for name, dtype in FORMATS.items():
        out["merge"][name] = merge_error(dtype)
        print(name, out["merge"][name], flush=True)
        for order, styles in ORDERS.items():
            entries = drift(dtype, styles, CYCLES)
            out["drift"][f"{name} {order}"] = [packed(e) for e in entries]
            print(
                name,
                order,
                [(c, e["max"], e["moved"]) for c, e in zip(CYCLES, entries, strict=True)],
                flush=True,
            )
        out["merge"][name]["ours exact"] = ours(dtype, STYLES, CYCLES[-1])
    four_bits(out)
    out |= {"cycles": CYCLES, "corner": CORNER, "minutes": round((time.time() - begun) / 60, 1)}
    out["versions"] = records.versions("torch", "peft", "transformers")
    records.save("ch05_merge", out)
    print(f"{out['minutes']} minutes")


if __name__ == "__main__":
    main()
