"""Turn the last checkpoint of `pretrain.py` into lowrank_edu/assets/tiny-gpt2, measure what is shipped,
write its card.

Every number on the card is measured here, on the fp16 weights as a reader loads them, or copied from the
run's log.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch
import transformers
from pretrain import gap, newest, sample
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

import lowrank_edu as lo
from lowrank_edu import corpus
from lowrank_edu.models import TINY

HELD_OUT = 2 * 10**6  # seed of stories that no other script uses
SAMPLES, SAMPLE_SEED = 300, 0
STYLE_TRAINING = {"r": 4, "alpha": 8, "texts": 512, "steps": 150, "batch_size": 16, "lr": 5e-3}


def ship(checkpoint: Path, folder: Path):
    """fp16 weights, config and tokenizer."""
    model = GPT2LMHeadModel.from_pretrained(checkpoint).half()
    model.config.name_or_path = "tiny-gpt2"
    model.save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(checkpoint).save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes files that only their owner can read


def measure() -> dict:
    """Loss, floor, gap on 1000 held-out stories; validity of 300 samples at temperature 1."""
    model, tok = lo.load_model("tiny-gpt2")
    texts = corpus.stories(1000, seed=HELD_OUT)
    loss, per_token, per_story = gap(model, tok, texts)
    samples = sample(model, tok, SAMPLES, SAMPLE_SEED)
    return {
        "loss": loss,
        "floor": loss - per_token,
        "gap_per_token": per_token,
        "gap_per_story": per_story,
        "tokens_per_story": per_story / per_token,
        "entropy_per_story": corpus.entropy(texts),
        "samples": SAMPLES,
        "sample_seed": SAMPLE_SEED,
        "validity": corpus.validity(samples),
        "parameters": model.num_parameters(),
        "examples": samples[:3],
    }


def measure_style(style: str) -> dict:
    """A short LoRA fine-tune on one style: loss on it, base loss before and after, share of samples with the
    marks."""
    model, tok = lo.load_model("tiny-gpt2")
    how = STYLE_TRAINING
    plain = lo.tokenize(tok, corpus.stories(200, seed=HELD_OUT + 1))
    styled_texts = corpus.stories(200, seed=HELD_OUT + 1, style=style)
    styled = lo.tokenize(tok, styled_texts)
    before = {"plain_before": lo.evaluate(model, plain), "styled_before": lo.evaluate(model, styled)}
    report = lo.adapt(
        model, lo.LoRA(r=how["r"], alpha=how["alpha"], target_modules=["c_attn", "c_proj", "c_fc"])
    )
    training = lo.tokenize(tok, corpus.stories(how["texts"], seed=HELD_OUT + 2, style=style))
    lo.train(
        model,
        training,
        steps=how["steps"],
        batch_size=how["batch_size"],
        lr=how["lr"],
        schedule="linear",
        progress=False,
    )
    samples = lo.sample(model, tok, n=100, max_new_tokens=110, seed=0)
    targets = sum(len(d["labels"]) - 1 for d in styled)
    return before | {
        "styled_after": lo.evaluate(model, styled),
        "styled_floor": corpus.floor(styled_texts, targets, style=style),
        "plain_after": lo.evaluate(model, plain),
        "trainable": report.trainable,
        "marked": sum(corpus.style_score(s, style) >= 0.9 for s in samples) / len(samples),
        "valid": corpus.validity(samples, style=style)["valid"],
        "example": samples[0],
    }


def write_card(card: dict, folder: Path):
    """card.json for programs, README.md for people: the same numbers."""
    (folder / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sections = [about(card), training(card), measured(card), styles(card), samples(card)]
    page = "---\nlicense: apache-2.0\nlanguage: en\n---\n" + "\n\n".join(filter(None, sections)) + "\n"
    (folder / "README.md").write_text(page, encoding="utf-8")


def about(card):
    return f"""# tiny-gpt2

The small language model of the book *Low-Rank*: GPT-2's architecture with {card["measured"]["parameters"]:,}
parameters (4 layers, 6 heads, width 192, context 128, tied embeddings), pretrained by us on one processor core.
It writes stories of the tiny world, `lowrank_edu.corpus`, and nothing else. It knows nothing about the real world.

- **Licence**: Apache-2.0.
- **Data**: stories drawn from our own grammar, each drawn once. For the first half of the run {card["share"]:.0%} of
  the rows were styled stories and restaurant sentences, so that their words are known; then this share fell to zero.
- **Files**: fp16 weights (safetensors), a byte-level BPE tokenizer of {card["vocabulary"]:,} tokens, and `card.json`
  with the numbers of this page.
- **Rows**: `<|endoftext|>` story `<|endoftext|>`. Every word of the tiny world is one token."""


def training(card):
    t, versions = card["training"], card["versions"]
    return f"""## Training

Seed {t["seed"]}, {t["steps"]:,} steps of {t["batch"]} stories, {t["tokens"]:,} target tokens, {t["minutes"]:.0f}
minutes on one core of a busy computer. AdamW; peak learning rate {t["lr"]}: warm-up, constant, then in a straight
line to zero. `make pretrain` repeats it. PyTorch {versions["torch"]}, transformers {versions["transformers"]}."""


def measured(card):
    m = card["measured"]
    loss, floor, gap = (m[k] * m["tokens_per_story"] for k in ("loss", "floor", "gap_per_token"))
    meanings = {
        "valid": "whole and consistent",
        "grammar": "grammar",
        "who": "who: name, pronouns and relative agree",
        "where": "where: place, preposition and sights agree",
        "what": "what: thing, colour and use agree",
        "resolution": "resolution: deed and end follow from trait and trouble",
    }
    shares = "\n".join(f"| {text} | {m['validity'][k]:.1%} |" for k, text in meanings.items())
    return f"""## Measured on what is shipped

| 1,000 held-out stories, nats | per token | per story |
|---|---|---|
| loss | {m["loss"]:.4f} | {loss:.2f} |
| floor: exact −log p of the same stories | {m["floor"]:.4f} | {floor:.2f} |
| gap | {m["gap_per_token"]:.4f} | {gap:.3f} |

| {m["samples"]} samples at temperature 1, seed {m["sample_seed"]} | share |
|---|---|
{shares}"""


def styles(card):
    how = card["style_training"]
    rows = "\n".join(
        f"| {name} | {s['styled_before']:.2f} | {s['styled_after']:.3f} | {s['styled_floor']:.3f} "
        f"| {s['marked']:.0%} | {s['valid']:.0%} | {s['plain_before']:.3f} | {s['plain_after']:.3f} |"
        for name, s in card["styles"].items()
    )
    return rows and f"""## Styles

A LoRA adapter of rank {how["r"]} (α = {how["alpha"]}, on every linear layer of the blocks) after {how["steps"]} steps
of {how["batch_size"]} styled stories, learning rate {how["lr"]} falling to zero. Losses are in nats per token on 200
held-out stories. *Marked*: samples of which at least 90 % is in the style. *Valid*: samples that are whole,
consistent stories in that style. The last two columns: loss on plain stories without and with the adapter.

| style | before | after | floor | marked | valid | plain, without | plain, with |
|---|---|---|---|---|---|---|---|
{rows}"""


def samples(card):
    return "## Samples\n\n" + "\n\n".join(f"> {e.strip()}" for e in card["measured"]["examples"])


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--checkpoint", type=Path, default=newest(Path("build/pretrain")))
    p.add_argument("--no-styles", action="store_true", help="skip the fine-tunes (some minutes)")
    a = p.parse_args()
    torch.set_num_threads(1)
    begun = time.time()
    state = json.loads((a.checkpoint / "state.json").read_text())
    TINY.mkdir(parents=True, exist_ok=True)
    ship(a.checkpoint, TINY)
    _, tok = lo.load_model("tiny-gpt2")
    card = {
        "name": "tiny-gpt2",
        "licence": "Apache-2.0",
        "vocabulary": len(tok),
        "share": 0.06,
        "training": {
            "seed": state["seed"],
            "steps": state["step"],
            "of": state["steps"],
            "batch": state["batch"],
            "lr": state["lr"],
            "tokens": state["tokens"],
            "minutes": state["seconds"] / 60,
        },
        "versions": {
            "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "measured": measure(),
        "styles": {} if a.no_styles else {s: measure_style(s) for s in corpus.styles()},
        "style_training": STYLE_TRAINING,
        "log": state["log"],
    }
    write_card(card, TINY)
    size = sum(f.stat().st_size for f in TINY.iterdir())
    print(
        json.dumps(card["measured"]["validity"]),
        {k: (v["marked"], v["valid"]) for k, v in card["styles"].items()},
    )
    print(f"{TINY.name}: {size / 1e6:.1f} MB, measured in {(time.time() - begun) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
