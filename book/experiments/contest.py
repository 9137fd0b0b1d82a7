"""One harness for every comparison of methods: the same stories, steps and batches, each method at its own best rate.

A script declares a `Contest` of `Entry`s and ends in `contest.main(__doc__, CONTEST)`. For every entry

  rates  a grid of learning rates, one seed, and held-out stories that nothing else sees. A best rate at the edge of
         the grid extends it, at most EXTRA times; if it stays there, the file says so ("edge": "lowest", "highest").
         Losses that differ by less than TIE are equal, and the lowest of equal rates is the best: it forgets less
  runs   the seeds at the best rate. A rate is always chosen for runs as long as those that it is used for

and a row for each seed:

  loss, gap  held-out loss, and how far it is above the floor that no model can beat, in nats per target token
  plain      loss on plain stories; the base model's own is in "base", so the difference is what was forgotten
  score      mean style score of samples from nothing: 1 is all in the style
  left       numbers that are still trained in the last step; "trained" of the entry counts those of the first
  stored     bytes of the adapter on disk

A run that diverges has no row but null. "bytes" of an entry are those that `lo.memory.plan` counts for its first step.
The file is written after every run, and belongs to the model, the stories and the settings: see `records`.
"""

import copy
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import numpy as np
import records

import lowrank_edu as lo
from lowrank_edu.figures.page import rounded
from lowrank_edu.schedules import schedule_of

TUNE_SEED = 100
TRAIN, HELD_OUT, TUNING = 41, 42, 43  # seeds of the stories
EXTRA, FACTOR = 4, 2  # rates beyond a grid, and the ratio of neighbours
TIE = 1e-3  # nats per token, about what the seed alone changes


@dataclass(frozen=True)
class Entry:
    """A method with its settings. `rate` is the middle of its grid; `replay(schedule)` of the first seed is kept."""

    method: object
    rate: float
    steps: int | None = None  # instead of the contest's
    replay: Callable | None = None

    @property
    def grid(self):
        return [self.rate / FACTOR, self.rate, self.rate * FACTOR]


@dataclass(frozen=True)
class Contest:
    """entries() → {label: Entry}, in the order in which they run; extras {key: function}: more for the file."""

    name: str
    entries: Callable
    style: str = "pirate"
    steps: int = 120
    batch: int = 8
    stories: int = 64
    samples: int = 16
    seeds: tuple = (0, 1, 2)
    extras: Mapping = field(default_factory=dict)

    def fingerprint(self):
        """Of the model, the stories and all settings but the entries, which have marks of their own, and the seeds."""
        texts = [lo.corpus.stories(2, seed, self.style) for seed in (TRAIN, HELD_OUT, TUNING)]
        counts = (self.style, self.steps, self.batch, self.stories, self.samples)
        return records.fingerprint(counts, texts, TUNE_SEED, EXTRA, FACTOR, TIE)

    def mark(self, entry):
        return records.fingerprint(entry.method, entry.grid, entry.steps or self.steps)


@cache
def loaded():
    return lo.load_model("tiny-gpt2")


def fresh():
    """(model, tokenizer): the pretrained model, a copy for every run."""
    return copy.deepcopy(loaded()[0]), loaded()[1]


@cache
def examples(n, seed, style):
    """(stories as training examples, their texts)."""
    texts = lo.corpus.stories(n, seed, style)
    return lo.tokenize(loaded()[1], texts), texts


# ---- one run ----------------------------------------


def trained(contest, entry, lr, seed):
    """(model, tokenizer) after training; None if that diverged."""
    model, tok = fresh()
    lo.adapt(model, entry.method, seed=seed)
    steps = entry.steps or contest.steps
    data, _ = examples(steps * contest.batch, TRAIN, contest.style)
    how = {"batch_size": contest.batch, "lr": lr, "seed": seed, "schedule": "linear", "progress": False}
    try:
        lo.train(model, data, steps=steps, **how)
    except FloatingPointError:
        return None
    return model, tok


def tuned(contest, entry, lr):
    """Loss at the end, on the stories for choosing a rate; None if the run diverged."""
    run = trained(contest, entry, lr, TUNE_SEED)
    loss = math.inf if run is None else lo.evaluate(run[0], examples(contest.stories, TUNING, contest.style)[0])
    return loss if math.isfinite(loss) else None


def judged(contest, model, tok, seed=0):
    """{"loss", "gap", "plain", "score"} of a model."""
    data, texts = examples(contest.stories, HELD_OUT, contest.style)
    floor = lo.corpus.floor(texts, sum(len(example["input_ids"]) - 1 for example in data), contest.style)
    samples = lo.sample(model, tok, n=contest.samples, max_new_tokens=80, seed=seed)
    loss = lo.evaluate(model, data)
    return {
        "loss": loss,
        "gap": loss - floor,
        "plain": lo.evaluate(model, examples(contest.stories, HELD_OUT, None)[0]),
        "score": float(np.mean([lo.corpus.style_score(text, contest.style) for text in samples])),
    }


def ran(contest, entry, lr, seed):
    """(row, replay); both None if the run diverged."""
    run = trained(contest, entry, lr, seed)
    if run is None:
        return None, None
    model, tok = run
    row = judged(contest, model, tok, seed)
    if not math.isfinite(row["loss"] + row["plain"]):
        return None, None
    row |= {"left": sum(p.numel() for p in model.parameters() if p.requires_grad), "stored": stored(model)}
    return row, entry.replay and entry.replay(schedule_of(model))


def stored(model):
    """Bytes of the tensors on disk."""
    with tempfile.TemporaryDirectory() as folder:
        lo.save_adapter(model, Path(folder) / "adapter")
        return sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))


def facts(contest, entry):
    """What needs no training: how the method is written, what it trains, and the bytes of its first step."""
    model, _ = fresh()
    length = max(len(example["input_ids"]) for example in examples(contest.stories, HELD_OUT, contest.style)[0])
    plan = lo.memory.plan(model, entry.method, batch=contest.batch, length=length)
    parts = ("parameters", "gradients", "optimizer", "activations")
    return {
        "method": repr(entry.method),
        "steps": entry.steps or contest.steps,
        "trained": lo.adapt(model, entry.method).trainable,
        "bytes": {part: getattr(plan, part) for part in parts},
    }


# ---- which rate ----------------------------------------


def choose(rates):
    """(best rate, "lowest" or "highest" if it is the edge of what was tried, else None), from {rate: loss}."""
    tried = sorted(rates, key=float)
    losses = [math.inf if rates[rate] is None else rates[rate] for rate in tried]
    if min(losses) == math.inf:
        return None, "lowest"  # all diverged
    at = next(i for i, loss in enumerate(losses) if round(loss - min(losses), 6) < TIE)
    edges = {len(tried) - 1: "highest", 0: "lowest"}
    return float(tried[at]), edges.get(at)


def untried(grid, rates):
    """Rates that come next: those of the grid, then at most EXTRA beyond the edge where the best one is."""
    left = [lr for lr in grid if f"{lr:g}" not in rates]
    if left or len(rates) >= len(grid) + EXTRA:
        return left
    tried = sorted(map(float, rates))
    return {"lowest": [tried[0] / FACTOR], "highest": [tried[-1] * FACTOR], None: []}[choose(rates)[1]]


# ---- all runs ----------------------------------------


def begun(contest):
    """What the file holds of this contest: an entry that has changed starts anew."""
    results = records.load(contest.name, {"fingerprint": contest.fingerprint(), "entries": {}})
    kept, entries = results["entries"], {}
    for label, entry in contest.entries().items():
        mark = contest.mark(entry)
        fits = kept.get(label, {}).get("mark") == mark
        entries[label] = kept[label] if fits else {"mark": mark, "rates": {}, "runs": {}}
    return results | {"entries": entries}


def missing(contest, results):
    """[(label, "rate" or "seed", value)] of the runs to do, as far as one can know now; first the extras."""
    todo = [(key, "extra", "") for key in contest.extras if key not in results]
    for label, entry in contest.entries().items():
        found = results["entries"][label]
        rates = untried(entry.grid, found["rates"])
        todo += [(label, "rate", lr) for lr in rates]
        if rates or choose(found["rates"])[0] is not None:
            todo += [(label, "seed", seed) for seed in contest.seeds if str(seed) not in found["runs"]]
    return todo


def perform(contest, files, name, *run):
    """One run, noted in files[name] as the file will hold it, so that a resumed script decides the same."""
    told = _perform(contest, files[name], *run)
    files[name].update(rounded(files[name]))
    return told


def _perform(contest, results, label, kind, value):
    if kind == "extra":
        results[label] = contest.extras[label]()
        return None
    if "base" not in results:
        results |= about(contest)
    entry, found = contest.entries()[label], results["entries"][label]
    if "trained" not in found:
        found |= facts(contest, entry)
    if kind == "rate":
        found["rates"][f"{value:g}"] = loss = rounded(tuned(contest, entry, value))  # `untried` sees this one
        found["lr"], found["edge"] = choose(found["rates"])
        return "diverged" if loss is None else f"loss {loss:.4f}"
    row, replay = ran(contest, entry, found["lr"], value)
    found["runs"][str(value)] = row
    if replay is not None and value == contest.seeds[0]:
        found["replay"] = replay
    return "diverged" if row is None else f"gap {row['gap']:.4f}, plain {row['plain']:.3f}, score {row['score']:.2f}"


def about(contest):
    """What the file says about all its entries."""
    base = judged(contest, *fresh())
    return {
        "style": contest.style, "steps": contest.steps, "batch_size": contest.batch, "seeds": list(contest.seeds),
        "tune_seed": TUNE_SEED, "floor": base["loss"] - base["gap"], "base": base,
        "versions": records.versions("torch", "transformers"),
    }  # fmt: skip


def summary(results, what="gap"):
    """{label: (mean, smallest, largest)} over the seeds of one column, of the entries that have runs."""
    columns = {
        label: [row[what] for row in entry["runs"].values() if row is not None]
        for label, entry in results["entries"].items()
    }
    return {label: (float(np.mean(c)), min(c), max(c)) for label, c in columns.items() if c}


def main(doc, contest):
    """Do what is missing; with --check only say what that is."""
    results = begun(contest)
    todo = lambda: [(contest.name, *run) for run in missing(contest, results)]  # noqa: E731
    return records.resume(doc, {contest.name: results}, todo, partial(perform, contest))
