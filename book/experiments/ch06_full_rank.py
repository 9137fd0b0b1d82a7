"""Experiment of chapter 6: how close does training LoRA at full rank come to training the matrices themselves?

    python book/experiments/ch06_full_rank.py            some minutes on one core; stops and resumes anywhere
    python book/experiments/ch06_full_rank.py --check    say what is missing, train nothing

Written to lowrank_edu/assets/results/ch06_full_rank.json; how, and what the numbers mean: see contest.py. The same
stories, steps and batches as in ch06_rivals.py, whose entry "full" trains everything: matrices, biases, embeddings
and layer norms.

  matrices       every linear layer of the blocks, its whole weight and its bias; embeddings and norms stay
  factors        LoRA of rank 192, the full rank of every one of these layers, and their biases: the same updates can
                 be written, on another path
  factors, rest  the same, and embeddings and layer norms trained whole
"""

from dataclasses import dataclass

import contest

import lowrank_edu as lo
from lowrank_edu.targets import is_linear, leaves, output_head

FULL = 192  # min(d_out, d_in) of every linear layer of the tiny GPT-2
REST = ("wte", "wpe", "ln_1", "ln_2", "ln_f")


@dataclass(frozen=True)
class LinearLayers(lo.FullFineTuning):
    """Full fine-tuning of what LoRA with biases could reach: linear layers, without the head."""

    def build(self, model, seed=0):
        modules, head = leaves(model), output_head(model)
        return {p: u for p, u in super().build(model, seed).items() if is_linear(modules[p]) and p != head}


def entries():
    lora = {"r": FULL, "alpha": FULL, "target_modules": "all-linear"}
    return {
        "matrices": contest.Entry(LinearLayers(), 1e-3),
        "factors": contest.Entry(lo.LoRA(**lora, bias="lora_only"), 1e-3),
        "factors, rest": contest.Entry(lo.LoRA(**lora, bias="lora_only", modules_to_save=REST), 1e-3),
    }


CONTEST = contest.Contest("ch06_full_rank", entries)

if __name__ == "__main__":
    raise SystemExit(contest.main(__doc__, CONTEST))
