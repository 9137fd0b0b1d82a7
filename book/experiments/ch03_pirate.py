"""Experiment of chapter 3: LoRA (r = 8 on c_attn) learns the pirate style; what does the model write?

    python book/experiments/ch03_pirate.py            about a minute on one core

Writes lowrank_edu/assets/results/ch03_pirate.json: at a few steps the loss on held-out stories, the mean
style score of 64 sampled stories, and three of them. A test trains the first steps again and compares.
"""

import time

import records
import torch

import lowrank_edu as lo

STYLE, STOPS, SEED = "pirate", [0, 10, 20, 30, 40, 50, 60, 80], 0
SETTINGS = {"r": 8, "alpha": 16, "target_modules": ["c_attn"]}
TRAINING = {"batch_size": 16, "lr": 1e-2}


def run(stops=STOPS, shown=3, sampled=64):
    """The record of one run, from step 0 to the last of `stops`."""
    model, tok = lo.load_model("tiny-gpt2")
    lo.adapt(model, lo.LoRA(**SETTINGS), seed=SEED)
    data = lo.tokenize(tok, lo.corpus.stories(16 * STOPS[-1], seed=1, style=STYLE))
    unseen = lo.corpus.stories(128, seed=2, style=STYLE)
    held_out = lo.tokenize(tok, unseen)
    floor = lo.corpus.floor(unseen, sum(len(row["labels"]) - 1 for row in held_out), style=STYLE)
    record = {
        "style": STYLE,
        "steps": list(stops),
        "loss": [],
        "score": [],
        "texts": [],
        "floor": floor,
    }
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=TRAINING["lr"], weight_decay=0
    )
    step = 0
    for stop in stops:
        while step < stop:
            rows = data[16 * step : 16 * (step + 1)]
            loss = model(**lo.training.collate(rows, "cpu")).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
        texts = lo.sample(model, tok, n=sampled, max_new_tokens=110, seed=SEED)
        record["loss"].append(lo.evaluate(model, held_out))
        record["score"].append(sum(lo.corpus.style_score(t, STYLE) for t in texts) / len(texts))
        record["texts"].append(texts[:shown])
    return record


if __name__ == "__main__":
    start = time.perf_counter()
    record = run()
    record["about"] = {
        "settings": SETTINGS | TRAINING | {"seed": SEED},
        "versions": records.versions("torch", "transformers"),
        "seconds": round(time.perf_counter() - start),
    }
    records.save("ch03_pirate", record)
    for stop, loss, score in zip(record["steps"], record["loss"], record["score"], strict=True):
        print(f"step {stop:3}: loss {loss:.3f}, style {score:.0%}")
