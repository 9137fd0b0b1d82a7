"""Experiment of chapter 11: what LaMDA's start and its freezing do, and how it compares with methods near it.

    python book/experiments/ch11_lamda.py            40 minutes on one core; stops and resumes anywhere
    python book/experiments/ch11_lamda.py --check    say what is missing, train nothing

Written to lowrank_edu/assets/results/ch11_lamda.json; how, and what the numbers mean: see contest.py.
"lamda" is the variant svd-residual with r = 8 on all linear layers, top directions, B frozen over the first 0.3 of the
run; the other lamda entries differ from it in what they name. "replay" says when columns of B froze.
"""

import contest

import lowrank_edu as lo

TARGETS = "all-linear"


def lamda(r=8, rate=8e-3, **settings):
    method = lo.LaMDA(r, TARGETS, **settings)
    return contest.Entry(method, rate, replay=freezing if method.scheduled else None)


def freezing(schedule):
    """[[step, frozen columns of B over all layers, numbers still trained], …], at each change."""
    return [[entry["step"], entry["frozen"], entry["trainable"]] for entry in schedule.history]


def entries():
    entry = contest.Entry
    return {
        "lamda": lamda(),
        "lora r=8": entry(lo.LoRA(8, 16, TARGETS), 1.6e-2),
        "lora-fa": entry(lo.LoRAFA(8, 16, TARGETS), 1.6e-2),
        "lora-xs": entry(lo.LoRAXS(8, TARGETS), 1.6e-2),
        "lamda svd-zero": lamda(variant="svd-zero"),
        "lamda released": lamda(variant="released", rate=1.6e-2),
        "lamda as released": lamda(variant="released", as_released=True, rate=1.6e-2),
        "lamda bottom": lamda(directions="bottom"),
        "lamda random": lamda(directions="random"),
        "lamda frozen at once": lamda(freeze_share=0.0, rate=3.2e-2),
        "lamda frozen by 0.1": lamda(freeze_share=0.1),
        "lamda frozen by 1": lamda(freeze_share=1.0),
        "vera": entry(lo.VeRA(64, TARGETS), 5.12e-1),  # vectors want high rates
        "aflora": entry(lo.AFLoRA(8, TARGETS), 1.6e-2),
        "lamda r=32": lamda(32),
        "lora r=1": entry(lo.LoRA(1, 2, TARGETS), 1.6e-2),
    }


CONTEST = contest.Contest("ch11_lamda", entries)

if __name__ == "__main__":
    raise SystemExit(contest.main(__doc__, CONTEST))
