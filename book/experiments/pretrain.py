"""Pretrain the tiny GPT-2 on the tiny world (`make pretrain`), from nothing, on one processor core.

Every step sees fresh stories, so there are no epochs and nothing to overfit. Stop it whenever you like: the same
command continues from the last checkpoint in build/pretrain. `book/experiments/publish.py` makes the assets of it.
"""

import argparse
import json
import math
import os
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from lowrank_edu import corpus

END = "<|endoftext|>"
VOCABULARY = 1375
SHARE = 0.06  # of rows that are styled stories (half) or restaurants (half), until the rate starts to fall


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE on plain, styled and data-to-text rows; every word of the lexicon becomes one token."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tok.train_from_iterator(corpus.mixture(8000, seed, share=0.6), trainer)
    tok.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    broken = [w for w in corpus.lexicon() if len(tok.encode(corpus.join([w]), add_special_tokens=False)) > 1]
    if broken:
        raise ValueError(f"{len(broken)} words are more than one token: {broken[:20]}; raise VOCABULARY")
    return PreTrainedTokenizerFast(
        tokenizer_object=tok, bos_token=END, eos_token=END, pad_token=END, model_max_length=128
    )


def make_model(tok, seed: int) -> GPT2LMHeadModel:
    """GPT-2, small: 4 layers, 6 heads, width 192, tied embeddings; no dropout, as fresh text is not overfitted."""
    torch.manual_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tok),
            n_positions=128,
            n_embd=192,
            n_layer=4,
            n_head=6,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            activation_function="gelu_pytorch_tanh",  # GPT-2's own function, in one fused kernel
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


def rows(tok, texts) -> tuple[torch.Tensor, torch.Tensor]:
    """END story END, one story per row, padded: inputs (n, T) and targets (n, T) with −100 on the padding."""
    ids = [[*e.ids, 0] for e in tok._tokenizer.encode_batch(texts)]
    width = max(map(len, ids)) - 1
    x = torch.zeros(len(ids), width, dtype=torch.long)
    y = torch.full((len(ids), width), -100)
    for i, row in enumerate(ids):
        x[i, : len(row) - 1] = torch.tensor(row[:-1])
        y[i, : len(row) - 1] = torch.tensor(row[1:])
    return x, y


def nats(model, x, y, reduction="mean"):
    logits = model(input_ids=x, use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), y.flatten(), ignore_index=-100, reduction=reduction
    )


@torch.no_grad()
def gap(model, tok, texts) -> tuple[float, float, float]:
    """(loss per token, gap to the floor per token, gap per story), in nats, on held-out stories."""
    total, tokens = 0.0, 0
    for i in range(0, len(texts), 64):
        x, y = rows(tok, texts[i : i + 64])
        total += nats(model, x, y, "sum").item()
        tokens += int((y >= 0).sum())
    excess = total - corpus.entropy(texts) * len(texts)
    return total / tokens, excess / tokens, excess / len(texts)


@torch.no_grad()
def sample(model, tok, n, seed) -> list[str]:
    """n samples at temperature 1, from nothing but the start token."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(n, 1, dtype=torch.long)
    out, cache, done = [], None, torch.zeros(n, dtype=torch.bool)
    for _ in range(110):
        step = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        ids = torch.multinomial(step.logits[:, -1].softmax(-1), 1, generator=generator)
        out.append(ids)
        done |= ids[:, 0] == 0
        if done.all():
            break
    return [tok.decode(r[: r.index(0)] if 0 in r else r) for r in torch.cat(out, 1).tolist()]


def rate(step, steps, peak, warm=200, hold=0.55) -> float:
    """Warm up, hold, then fall in a straight line to zero."""
    if step < warm:
        return peak * (step + 1) / warm
    return peak * min(1.0, (steps - step) / (steps * (1 - hold)))


def batches(tok, seed, step, steps, size, superbatch=16):
    """Endless batches. The rows of 16 batches are sorted by length, so that little is padding, then shuffled."""
    while True:
        share = SHARE if step < 0.55 * steps else SHARE * max(0.0, 1 - (step / steps - 0.55) / 0.25)
        texts = corpus.mixture(size * superbatch, seed=hash((seed, step)) % 2**32, share=share)
        texts.sort(key=len)
        for i in np.random.default_rng(step).permutation(superbatch):
            yield rows(tok, texts[i * size : (i + 1) * size])
            step += 1


def save(folder: Path, model, optimizer, tok, state):
    """Write a checkpoint beside the last one, then swap them: a stop at any moment leaves one that is whole."""
    new, old = folder / "new", folder / "old"
    model.save_pretrained(new, safe_serialization=True)
    tok.save_pretrained(new)
    moments = {f"{i}.{k}": v for i, s in optimizer.state_dict()["state"].items() for k, v in s.items()}
    save_file({k: v.contiguous() for k, v in moments.items()}, new / "moments.safetensors")
    (new / "state.json").write_text(json.dumps(state))
    last = folder / "last"
    shutil.rmtree(old, ignore_errors=True)
    if last.exists():
        os.replace(last, old)
    os.replace(new, last)


def newest(folder: Path) -> Path | None:
    """The checkpoint to continue from; "old" only if a stop came between the two renames of `save`."""
    return next((f for f in (folder / "last", folder / "old") if (f / "state.json").exists()), None)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--steps", type=int, default=6000)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=Path("build/pretrain"))
    p.add_argument(
        "--minutes", type=float, default=math.inf, help="stop (and keep the checkpoint) after this long"
    )
    a = p.parse_args()
    torch.set_num_threads(1)
    a.out.mkdir(parents=True, exist_ok=True)
    tok = make_tokenizer(a.seed)
    model = make_model(tok, a.seed)
    decay = [q for q in model.parameters() if q.dim() > 1]
    plain = [q for q in model.parameters() if q.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}],
        lr=a.lr,
        betas=(0.9, 0.98),
        fused=True,
    )
    state = {
        "step": 0,
        "tokens": 0,
        "seconds": 0.0,
        "log": [],
        "steps": a.steps,
        "seed": a.seed,
        "lr": a.lr,
        "batch": a.batch,
    }
    last = newest(a.out)
    if last:
        state = json.loads((last / "state.json").read_text()) | {"steps": a.steps}
        model.load_state_dict(GPT2LMHeadModel.from_pretrained(last).state_dict())
        saved, blank = load_file(last / "moments.safetensors"), optimizer.state_dict()
        blank["state"] = {
            int(i): {k: saved[f"{i}.{k}"] for k in ("step", "exp_avg", "exp_avg_sq")}
            for i in {k.split(".")[0] for k in saved}
        }
        optimizer.load_state_dict(blank)
    held_out = corpus.stories(256, seed=10**6)
    print(
        f"{model.num_parameters():,} parameters, a vocabulary of {len(tok)}; from step {state['step']}",
        flush=True,
    )
    source = batches(tok, a.seed, state["step"], a.steps, a.batch)
    begun, running, started = time.time(), [], state["seconds"]
    model.train()
    while state["step"] < a.steps and time.time() - begun < a.minutes * 60:
        x, y = next(source)
        for group in optimizer.param_groups:
            group["lr"] = rate(state["step"], a.steps, a.lr)
        loss = nats(model, x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        running.append(loss.item())
        state["step"] += 1
        state["tokens"] += int((y >= 0).sum())
        state["seconds"] = started + time.time() - begun
        if state["step"] % 400 == 0 or state["step"] == a.steps:
            report(model, tok, held_out, state, running)
            running = []
            save(a.out, model, optimizer, tok, state)
    save(a.out, model, optimizer, tok, state)


def report(model, tok, held_out, state, running):
    model.eval()
    loss, per_token, per_story = gap(model, tok, held_out)
    valid = corpus.validity(sample(model, tok, 64, seed=state["step"]))
    model.train()
    entry = {
        "step": state["step"],
        "minutes": round(state["seconds"] / 60, 2),
        "tokens": state["tokens"],
        "train_loss": round(float(np.mean(running)), 4),
        "loss": round(loss, 4),
        "gap_token": round(per_token, 5),
        "gap_story": round(per_story, 4),
        "valid": {k: round(v, 3) for k, v in valid.items()},
    }
    state["log"].append(entry)
    print(json.dumps(entry), flush=True)


if __name__ == "__main__":
    main()
