"""Experiment of chapter 10: does AdaLoRA spend a rank better than LoRA, and which layers deserve it?

    python book/experiments/ch10_adalora.py            30 minutes on one core; stops and resumes anywhere
    python book/experiments/ch10_adalora.py --check    say what is missing, train nothing

Written to lowrank_edu/assets/results/ch10_adalora.json; how, and what the numbers mean: see contest.py. r is the rank
per layer, for AdaLoRA the mean of what is left at the end: it begins with init_r, and so trains up to twice as much.
"feed-forward" and "attention" are LoRA on these layers alone, with exactly as many trained numbers (23,040).
Last, one pair of runs that are twice as long. "replay" has the ranks of all layers at every choice.
"""

import contest

import lowrank_edu as lo

TARGETS = "all-linear"
FEED_FORWARD, ATTENTION = ("mlp.c_fc", "mlp.c_proj"), ("attn.c_attn", "attn.c_proj")


def lora(r, targets=TARGETS):
    return lo.LoRA(r, 2 * r, targets)


def adalora(r, init_r, steps=120, **settings):
    """The first sixth of the steps warms up, the last quarter trains the final choice, 16 choices in between."""
    phases = {"warmup_steps": steps // 6, "final_steps": steps // 4, "every": steps // 24}
    return lo.AdaLoRA(r, init_r, 2 * init_r, TARGETS, **phases, **settings)


def replay(schedule):
    """{"layers": paths, "choices": [[step, budget, total rank, [rank of each layer]], …]}."""
    layers = list(schedule.updates)
    choices = [[h["step"], h["budget"], h["rank"], [h["ranks"][path] for path in layers]] for h in schedule.history]
    return {"layers": layers, "choices": choices}


def entries():
    Entry, pruned = contest.Entry, {"rate": 1.6e-2, "replay": replay}
    return {
        "lora r=1": Entry(lora(1), 1.6e-2),
        "adalora r=1": Entry(adalora(1, 2), **pruned),
        "lora r=2": Entry(lora(2), 1.6e-2),
        "lora r=3": Entry(lora(3), 1.6e-2),  # as many numbers as AdaLoRA trains at its start
        "adalora r=2": Entry(adalora(2, 3), **pruned),
        "feed-forward r=3": Entry(lora(3, FEED_FORWARD), 1.6e-2),
        "attention r=5": Entry(lora(5, ATTENTION), 1.6e-2),
        "adalora r=2, paper": Entry(adalora(2, 3, mode="paper"), **pruned),
        "adalora r=2, no penalty": Entry(adalora(2, 3, orth_weight=0.0), **pruned),
        "lora r=2, 240 steps": Entry(lora(2), 1.6e-2, steps=240),
        "adalora r=2, 240 steps": Entry(adalora(2, 3, 240), steps=240, **pruned),
    }


CONTEST = contest.Contest("ch10_adalora", entries)

if __name__ == "__main__":
    raise SystemExit(contest.main(__doc__, CONTEST))
