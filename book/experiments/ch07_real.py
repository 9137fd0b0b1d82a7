"""Experiment of chapter 7: a table turned into sentences, by the tiny model and by a real one, with LoRA and in full.

    python book/experiments/ch07_real.py            about 15 minutes on one core; stops and resumes anywhere
    python book/experiments/ch07_real.py --check    say what is missing, train nothing

Written to lowrank_edu/assets/results/ch07_real.json. A record of five facts is the prompt, one or two sentences that
say them are the completion; only the completion is learnt. "runs" has a row for each model, method and seed:

  loss     on held-out completions, nats per target token, before and after; "gap" is above the floor, which is ln 6 for
           each completion, because six wordings are equally likely
  slots    share of the facts that greedy completions of held-out records state
  other    loss on text of another kind, before and after: plain stories for the tiny model, English prose for SmolLM2
  texts    the completion of one held-out record at each stop

SmolLM2-135M-Instruct is dequantised from its 4-bit file. Every method has one learning rate, chosen by hand and
not tuned; "steps" and "batch" are in the file.
"""

import copy
import math
from functools import cache

import numpy as np
import records

import lowrank_edu as lo
from lowrank_edu.corpus.restaurants import meaning, restaurants, sentence, slot_accuracy
from lowrank_edu.data import read_data

NAME, SEEDS, HELD = "ch07_real", (0, 1, 2), 8
STOPS = {"tiny-gpt2": (0, 20, 60, 200), "smollm2-135m": (0, 5, 10, 25)}
QV = {"c_attn": ("q", "v")}
METHODS = {
    "tiny-gpt2 lora": (lo.LoRA(4, 32, blocks=QV), 8e-3),
    "tiny-gpt2 full": (lo.FullFineTuning(), 1e-3),
    "smollm2-135m lora": (lo.LoRA(8, 16, ("q_proj", "v_proj")), 2e-3),
    "smollm2-135m full": (lo.FullFineTuning(), 5e-5),
}
BATCH = 8
# English of another kind, written for this book.
PROSE = [
    "The ferry left before dawn, while the harbour was still dark and the gulls slept on the roofs.",
    "My grandmother kept her recipes in a tin box, and nobody was allowed to copy them.",
    "When the river rises, the people of the valley carry their furniture to the upper floor.",
    "A good teacher asks a question and then waits longer than is comfortable.",
    "He repaired clocks for forty years and was never on time himself.",
    "The committee met on Tuesday and agreed that more research was needed.",
    "Snow fell on the orchard for three days, and then the sun came out as if nothing had happened.",
    "If you heat the metal slowly, it changes colour before it begins to glow.",
    "She had learnt the language from films, so she spoke it fast and with great confidence.",
    "Most of the letters were about money, but one of them was about a dog.",
    "The bridge was built in a single summer by soldiers who had nothing else to do.",
    "Before the match the players shook hands, and afterwards they did not.",
]


@cache
def loaded(name):
    return lo.load_model(name)


@cache
def pairs(n, seed):
    """(records, [{"prompt", "completion"}])."""
    rng, found = np.random.default_rng(seed), restaurants(n, seed)
    return found, [{"prompt": meaning(r), "completion": sentence(r, rng)} for r in found]


def other(name, tok):
    return lo.tokenize(tok, lo.corpus.stories(48, 42) if name == "tiny-gpt2" else PROSE)


def floor(data):
    """ln 6 for each completion, per target token (the end of text is one, and is certain)."""
    return len(data) * math.log(6) / sum(int((e["labels"][1:] != -100).sum()) for e in data)


def completed(model, tok, found):
    """What the model makes of records, greedily, without the prompt."""
    prompts = [meaning(record) for record in found]
    texts = lo.sample(model, tok, prompts, max_new_tokens=48, temperature=0)
    return [text.partition("=")[2].strip() for text in texts]


def run(name, how, seed):
    """One row."""
    model, tok = loaded(name)
    model = copy.deepcopy(model)
    method, lr = METHODS[f"{name} {how}"]
    stops = STOPS[name]
    held, held_pairs = pairs(HELD if name != "tiny-gpt2" else 48, 7)
    data, away = read_data(held_pairs, tok), other(name, tok)
    train = read_data(pairs(stops[-1] * BATCH, 100 + seed)[1], tok)
    row = {"before": lo.evaluate(model, data, batch_size=8), "other before": lo.evaluate(model, away, batch_size=4)}
    report = lo.adapt(model, method, seed=seed)
    row |= {"trained": report.trainable, "floor": floor(data), "lr": lr, "texts": []}
    every, at = stops[1], iter(range(0, stops[-1] + 1, stops[1]))  # a scorer is asked at 0, every, 2 · every, …

    def look(model):
        if next(at) in stops:
            row["texts"].append(completed(model, tok, held[:1])[0])
        return 0.0

    history = lo.train(
        model, train, steps=stops[-1], batch_size=BATCH, lr=lr, seed=seed, schedule="linear", eval_data=data[:1],
        eval_every=every, scorer=look, progress=False,
    )  # fmt: skip
    row |= {"curve": history.loss, "loss": lo.evaluate(model, data, batch_size=8)}
    row["other"] = lo.evaluate(model, away, batch_size=4)
    texts = completed(model, tok, held[:8])
    row["slots"] = float(np.mean([slot_accuracy(r, t) for r, t in zip(held[:8], texts, strict=True)]))
    return row


def begun():
    settings = [repr(METHODS), STOPS, BATCH, HELD, PROSE, pairs(3, 7)[1]]
    empty = {"fingerprint": records.fingerprint(*settings), "runs": {}}
    return records.load(NAME, empty)


def missing(results):
    return [(NAME, label, seed) for label in METHODS for seed in SEEDS if f"{label} {seed}" not in results["runs"]]


def perform(files, name, label, seed):
    results = files[name]
    model, how = label.split()
    results |= {
        "batch_size": BATCH, "stops": {k: list(v) for k, v in STOPS.items()}, "seeds": list(SEEDS),
        "prompt": pairs(HELD, 7)[1][0]["prompt"], "versions": records.versions("torch", "transformers"),
    }  # fmt: skip
    row = results["runs"][f"{label} {seed}"] = run(model, how, seed)
    return f"loss {row['before']:.3f} to {row['loss']:.3f}, slots {row['slots']:.2f}, other {row['other']:.2f}"


if __name__ == "__main__":
    results = begun()
    raise SystemExit(records.resume(__doc__, {NAME: results}, lambda: missing(results), perform))
