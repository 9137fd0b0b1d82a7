"""Experiment of chapter 6: LoRA and its rivals at equal budgets, and the layers and ranks to spend a budget on.

    python book/experiments/ch06_rivals.py            40 minutes on one core; stops and resumes anywhere
    python book/experiments/ch06_rivals.py --check    say what is missing, train nothing

Written to lowrank_edu/assets/results/ch06_rivals.json; how, and what the numbers mean: see contest.py.

  budget         about 9,000 trained numbers: what all biases of the model (8,640) and a prompt of 45 tokens come to
  where          12,288 each, on different layers: q, k, v and o are the matrices of attention
  rank           q and v, from 3,072 numbers to 196,608
"""

import contest

import lowrank_edu as lo


def slices(names, r):
    """LoRA on slices of the fused q, k, v layer, each with an A of its own: 1,536 numbers per slice and rank."""
    return lo.LoRA(r, 2 * r, blocks={"c_attn": tuple(names)})


def entries():
    entry, adapter = contest.Entry, lo.BottleneckAdapter
    everywhere = lo.LoRA(2, 4, ("c_attn", "attn.c_proj"), blocks={"c_attn": ("q", "k", "v")})
    return {
        "budget lora": entry(slices("qv", 3), 1.6e-2),
        "budget houlsby": entry(adapter(2), 1.6e-2),
        "budget pfeiffer": entry(adapter(5, "pfeiffer"), 1.6e-2),
        "budget prefix": entry(lo.PrefixTuning(6), 3.2e-2),
        "budget prompt": entry(lo.PromptTuning(45), 3.2e-2),
        "budget bitfit": entry(lo.BitFit(), 1.6e-2),
        "full": entry(lo.FullFineTuning(), 1e-3),
        "where q r=8": entry(slices("q", 8), 1.6e-2),
        "where k r=8": entry(slices("k", 8), 1.6e-2),
        "where v r=8": entry(slices("v", 8), 1.6e-2),
        "where o r=8": entry(lo.LoRA(8, 16, ("attn.c_proj",)), 1.6e-2),
        "where q, v r=4": entry(slices("qv", 4), 1.6e-2),
        "where q, k, v, o r=2": entry(everywhere, 1.6e-2),
        "where all linear r=1": entry(lo.LoRA(1, 2, "all-linear"), 1.6e-2),
        **{f"rank r={r}": entry(slices("qv", r), 1.6e-2) for r in (1, 16, 64)},
    }


CONTEST = contest.Contest("ch06_rivals", entries)

if __name__ == "__main__":
    raise SystemExit(contest.main(__doc__, CONTEST))
