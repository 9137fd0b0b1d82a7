"""Experiment of chapter 4: which α, r and learning rate learn a style, and from which start?

    python book/experiments/ch04_scale_map.py            10 minutes on one core; stops and resumes anywhere
    python book/experiments/ch04_scale_map.py --check    say what is missing, train nothing

Two tables, written to lowrank_edu/assets/results/ch04_scale_map.json after every run:

  map     held-out loss for every (r, scale, learning rate). α and the rule enter training only through the
          scale, so each scale is trained once and the figure reads it under α/r, α/√r and α alone.
  starts  the training loss at every step from five starts, at one scale, for three learning rates and three
          seeds, and the held-out loss at the end.

The task: stories told by a pirate who is also a poet. The model has met both styles, never the two at once.
All linear layers but the head are adapted; AdamW, its rate falling linearly to zero. Losses: nats per token.
"""

from functools import cache

import records
import torch

import lowrank_edu as lo
from lowrank_edu.figures.scale_map import RULES, scale_by
from lowrank_edu.inits import uniform

NAME = "ch04_scale_map"
STYLES, TARGETS = ("pirate", "poet"), "all-linear"
STEPS, BATCH = 30, 4
TRAIN, HELD_OUT = (120, 41), (32, 42)  # (stories, seed)

RANKS = [1, 4, 16, 64]
ALPHAS = [2, 8, 32]
RATES = [1e-4, 4e-4, 1.6e-3, 6.4e-3, 2.56e-2]
STARTS = ["kaiming", "mirrored", "orthogonal", "pissa", "olora"]
START_RANK, START_RATES, SEEDS = 8, [1.6e-3, 6.4e-3, 2.56e-2], [0, 1, 2]


def verses(n, seed):
    """(plain stories, the same told by the pirate poet): one to one, so both have the same probability."""
    plain = lo.corpus.stories(n, seed)
    told = plain
    for style in STYLES:
        told = [lo.corpus.restyle(text, style) for text in told]
    return plain, told


def data():
    """(training examples, held-out examples, floor of the held-out ones: no model can have a lower loss)."""
    _, tok = lo.load_model("tiny-gpt2")
    plain, told = verses(*HELD_OUT)
    examples = lo.tokenize(tok, told)
    floor = lo.corpus.floor(plain, sum(len(example["input_ids"]) - 1 for example in examples))
    return lo.tokenize(tok, verses(*TRAIN)[1]), examples, floor


def mirror(model):
    """The usual start the other way round: A = 0, and B drawn by A's law, U(±1/√columns)."""
    for n, layer in enumerate(lo.adapted_layers(model).values()):
        update = layer.updates["run"]
        update.A.data.zero_()
        r, draw = update.A.shape[0], torch.Generator().manual_seed(n)
        update.B.data.copy_(uniform(update.B.shape, r**-0.5, draw))


def run(model, train, held_out, *, r, scale, lr, seed=0, start="kaiming", steps=STEPS):
    """(held-out loss, [training loss at each step]); (None, […]) when the loss was no longer finite."""
    init = "kaiming" if start == "mirrored" else start
    method = lo.LoRA(r=r, alpha=scale * r, target_modules=TARGETS, init=init)
    lo.adapt(model, method, name="run", seed=seed)
    if start == "mirrored":
        mirror(model)
    try:
        how = {"steps": steps, "batch_size": BATCH, "lr": lr, "seed": seed, "schedule": "linear"}
        history = lo.train(model, train, **how, progress=False)
        return lo.evaluate(model, held_out), history.loss
    except FloatingPointError:
        return None, []
    finally:
        lo.delete_adapter(model, "run")


def fingerprint():
    """Of the model, the stories and the settings."""
    return records.fingerprint(STYLES, TARGETS, STEPS, BATCH, TRAIN, HELD_OUT, verses(3, 0))


def map_cells():
    """Every (r, scale, lr) that some α and some rule need."""
    scales = {(r, scale_by(rule, alpha, r)) for r in RANKS for alpha in ALPHAS for rule in RULES}
    return [{"r": r, "scale": s, "lr": lr} for r, s in sorted(scales) for lr in RATES]


def start_runs():
    return [
        {"start": start, "lr": lr, "seed": seed} for start in STARTS for lr in START_RATES for seed in SEEDS
    ]


def key(cell):
    return " ".join(f"{name}={value:g}" if name != "start" else value for name, value in cell.items())


@cache
def begin():
    """(model, training examples, held-out examples, what the file says about them)."""
    train, held_out, floor = data()
    model, _ = lo.load_model("tiny-gpt2")
    about = {
        "what": "LoRA, tiny GPT-2: held-out loss (map), training loss at every step (starts), nats per token",
        "styles": STYLES, "layers": TARGETS, "steps": STEPS, "batch_size": BATCH, "start_rank": START_RANK,
        "seeds": SEEDS, "floor": floor, "base": lo.evaluate(model, held_out), "versions": records.versions("torch"),
    }  # fmt: skip
    return model, train, held_out, about


def perform(files, name, table, cell):
    model, train, held_out, about = begin()
    fixed = {} if table == "map" else {"r": START_RANK, "scale": 1.0}
    loss, curve = run(model, train, held_out, **fixed, **cell)
    files[name] |= about
    files[name][table][key(cell)] = loss if table == "map" else {"loss": loss, "curve": curve}
    return "diverged" if loss is None else f"{loss - about['floor']:.3f} above the floor"


def main():
    results = records.load(NAME, {"fingerprint": fingerprint(), "map": {}, "starts": {}})
    todo = [("map", c) for c in map_cells()] + [("starts", c) for c in start_runs()]
    todo = [(NAME, table, cell) for table, cell in todo if key(cell) not in results[table]]
    return records.resume(__doc__, {NAME: results}, todo, perform)


if __name__ == "__main__":
    raise SystemExit(main())
