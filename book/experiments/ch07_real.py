"""Experiment of chapter 7: a table turned into sentences, by the tiny model and by a real one, with LoRA and in full.

    python book/experiments/ch07_real.py            about 30 minutes on one core; stops and resumes anywhere
    python book/experiments/ch07_real.py --check    say what is missing, train nothing

Written to lowrank_edu/assets/results/ch07_real.json. A record of five facts is the prompt, one or two sentences that
say them are the completion; only the completion is learnt. "base" has, for each model before training, and "runs" for
each model, method and seed after it:

  held     loss on each of HELD held-out completions, nats per target token; the floor is ln 6 for a completion, because
           six wordings are equally likely
  stories  (tiny model) loss on each of 48 plain stories
  prose, rows, chat  (SmolLM2) loss on each paragraph of `ch07_probes` alone; on the same paragraphs in rows as in
           training, between two end-of-text tokens; and on each answer of its dialogues
  slots    share of the facts that greedy completions of the first SAID held-out records state
  texts    the completion of one held-out record at each stop

"tokens" counts the target tokens of every text, so that a mean and its standard error over the texts can be computed
from the file. "rates" has the grid of learning rates of each method, each with its loss after one run as long as the
others, on a seed and on completions that nothing else sees; a best rate at the edge of the grid extends it, at most
twice. GENTLE is the tiny model once more, at about a third of the best rates. SmolLM2-135M-Instruct is dequantised from
its 4-bit file (Q4_1): its weights are not the original ones.
"""

import copy
import math
from functools import cache

import numpy as np
import records
import torch
from ch07_probes import CHAT, PROSE, chat

import lowrank_edu as lo
from lowrank_edu.batches import collate, token_loss
from lowrank_edu.corpus.restaurants import meaning, restaurants, sentence, slot_accuracy
from lowrank_edu.data import read_data

NAME, SEEDS, HELD, SAID = "ch07_real", (0, 1, 2), 64, 32
STOPS = {"tiny-gpt2": (0, 20, 60, 200), "smollm2-135m": (0, 5, 10, 25)}
QV = {"c_attn": ("q", "v")}
METHODS = {
    "tiny-gpt2 lora": (lo.LoRA(4, 32, blocks=QV), (2.5e-3, 8e-3, 2.5e-2)),
    "tiny-gpt2 full": (lo.FullFineTuning(), (3e-4, 1e-3, 3e-3)),
    "smollm2-135m lora": (lo.LoRA(8, 16, ("q_proj", "v_proj")), (1e-3, 3e-3, 1e-2)),
    "smollm2-135m full": (lo.FullFineTuning(), (3e-5, 1e-4, 3e-4)),
}
GENTLE = {
    "tiny-gpt2 lora gentle": (lo.LoRA(4, 32, blocks=QV), 2.5e-3),
    "tiny-gpt2 full gentle": (lo.FullFineTuning(), 1e-3),
}
TUNE_SEED, TUNING, EXTRA = 50, 32, 2
BATCH = 8


@cache
def loaded(name):
    return lo.load_model(name)


@cache
def pairs(n, seed):
    """(records, [{"prompt", "completion"}])."""
    rng, found = np.random.default_rng(seed), restaurants(n, seed)
    return found, [{"prompt": meaning(r), "completion": sentence(r, rng)} for r in found]


def example(tok, prompt, text):
    """An example without end-of-text tokens around it, of which the prompt is not learnt."""
    given, ids = (tok(part, add_special_tokens=False)["input_ids"] for part in (prompt, text))
    return {"input_ids": torch.tensor(given + ids), "labels": torch.tensor([-100] * len(given) + ids)}


@cache
def probes(name):
    """{what: examples} that every model is asked before and after."""
    tok = loaded(name)[1]
    found = {"held": read_data(pairs(HELD, 7)[1], tok)}
    if name == "tiny-gpt2":
        return found | {"stories": lo.tokenize(tok, lo.corpus.stories(48, 42))}
    return found | {
        "prose": [example(tok, "", text) for text in PROSE],
        "rows": lo.tokenize(tok, PROSE),
        "chat": [example(tok, chat(question), answer + "<|im_end|>") for question, answer in CHAT],
    }


def each(model, data):
    """Loss of every example, nats per target token."""
    model.eval()
    with torch.no_grad():
        found = [token_loss(model, collate([e], "cpu")) for e in data]
    return [float(loss) / count for loss, count in found]


def counted(data):
    return [int((e["labels"][1:] != -100).sum()) for e in data]


def change(after, before, tokens):
    """(mean change of the loss, its standard error over the texts), nats per token; the same texts before and after.

    The mean weighs every token alike; the error is that of a ratio, from the deviations of the texts.
    """
    n = np.array(tokens, float)
    moved = (np.array(after) - np.array(before)) * n
    mean = moved.sum() / n.sum()
    off = moved - mean * n
    return mean, float(np.sqrt(len(n) / (len(n) - 1) * (off**2).sum()) / n.sum())


def completed(model, tok, found):
    """What the model makes of records, greedily, without the prompt."""
    prompts = [meaning(record) for record in found]
    texts = lo.sample(model, tok, prompts, max_new_tokens=48, temperature=0)
    return [text.partition("=")[2].strip() for text in texts]


def judged(model, name):
    """{what: losses} and the facts that the model says."""
    found, _ = pairs(HELD, 7)
    texts = completed(model, loaded(name)[1], found[:SAID])
    said = [slot_accuracy(r, text) for r, text in zip(found[:SAID], texts, strict=True)]
    return {what: each(model, data) for what, data in probes(name).items()} | {"slots": float(np.mean(said))}


def base(name):
    """A model before training, with what the file says of its probes."""
    tokens = {what: counted(data) for what, data in probes(name).items()}
    return judged(loaded(name)[0], name) | {"tokens": tokens, "floor": HELD * math.log(6) / sum(tokens["held"])}


def trained(label, lr, seed, look=None):
    """(model, report, history) after all steps; `look(model, step)` is called at the stops."""
    name = label.split()[0]
    model, stops = copy.deepcopy(loaded(name)[0]), STOPS[name]
    tok, every = loaded(name)[1], stops[1]
    data = read_data(pairs(stops[-1] * BATCH, 100 + seed)[1], tok)
    report = lo.adapt(model, (METHODS | GENTLE)[label][0], seed=seed)
    at = iter(range(0, stops[-1] + 1, every))  # a scorer is asked at 0, every, 2 · every, …

    def score(model):
        step = next(at)
        if step in stops:
            look(model)
        return 0.0

    seen = {"eval_data": probes(name)["held"][:1], "eval_every": every, "scorer": score} if look else {}
    how = {"batch_size": BATCH, "lr": lr, "seed": seed, "schedule": "linear", "progress": False}
    return model, report, lo.train(model, data, steps=stops[-1], **how, **seen)


def tuned(label, lr):
    """Loss at the end, on completions for choosing a rate; None if the run diverged."""
    name = label.split()[0]
    data = read_data(pairs(TUNING, 9)[1], loaded(name)[1])
    try:
        loss = lo.evaluate(trained(label, lr, TUNE_SEED)[0], data, batch_size=8)
    except FloatingPointError:
        return None
    return loss if math.isfinite(loss) else None


def run(label, lr, seed):
    """One row."""
    name, texts = label.split()[0], []
    tok, first = loaded(name)[1], pairs(HELD, 7)[0][:1]
    look = lambda model: texts.append(completed(model, tok, first)[0])  # noqa: E731
    model, report, history = trained(label, lr, seed, look)
    row = {"trained": report.trainable, "lr": lr, "texts": texts, "curve": history.loss}
    return row | judged(model, name)


# ---- all runs ----------------------------------------


def best(rates):
    """The rate with the lowest loss; a run that diverged has none."""
    return min((loss, float(rate)) for rate, loss in rates.items() if loss is not None)[1]


def untried(label, rates):
    """Rates that come next: the grid, then at most EXTRA beyond the edge where the best one is."""
    grid = METHODS[label][1]
    left = [lr for lr in grid if f"{lr:g}" not in rates]
    if left or len(rates) >= len(grid) + EXTRA:
        return left
    tried, found = sorted(map(float, rates)), best(rates)
    factor = grid[1] / grid[0]
    beyond = {tried[0]: found / factor, tried[-1]: found * factor}.get(found)
    return [float(f"{beyond:.1g}")] if beyond else []


def begun():
    settings = [repr(METHODS), STOPS, BATCH, HELD, SAID, TUNE_SEED, TUNING, PROSE, CHAT, pairs(3, 7)[1]]
    return records.load(NAME, {"fingerprint": records.fingerprint(*settings), "base": {}, "rates": {}, "runs": {}})


def missing(results):
    """The runs to do, as far as one can know now: first the rates, then seed after seed."""
    todo = [(NAME, name, "base", "") for name in STOPS if name not in results["base"]]
    for label in METHODS:
        todo += [(NAME, label, "rate", lr) for lr in untried(label, results["rates"].get(label, {}))]
    seeds = [(seed, label) for name in STOPS for seed in SEEDS for label in METHODS if label.startswith(name)]
    seeds += [(seed, label) for label in GENTLE for seed in SEEDS]
    return todo + [(NAME, label, "seed", n) for n, label in seeds if f"{label} {n}" not in results["runs"]]


def perform(files, name, label, kind, value):
    results = files[name]
    results |= {
        "batch_size": BATCH, "stops": {k: list(v) for k, v in STOPS.items()}, "seeds": list(SEEDS), "said": SAID,
        "prompt": pairs(HELD, 7)[1][0]["prompt"], "versions": records.versions("torch", "transformers"),
    }  # fmt: skip
    if kind == "base":
        results["base"][label] = base(label)
        return None
    if kind == "rate":
        results["rates"].setdefault(label, {})[f"{value:g}"] = loss = tuned(label, value)
        return f"loss {loss}"
    lr = GENTLE[label][1] if label in GENTLE else best(results["rates"][label])
    row = results["runs"][f"{label} {value}"] = run(label, lr, value)
    before = results["base"][label.split()[0]]
    moves = {what: change(row[what], before[what], n) for what, n in before["tokens"].items()}
    return f"slots {row['slots']:.2f}, " + ", ".join(f"{k} {m:+.3f} ± {e:.3f}" for k, (m, e) in moves.items())


if __name__ == "__main__":
    results = begun()
    raise SystemExit(records.resume(__doc__, {NAME: results}, lambda: missing(results), perform))
