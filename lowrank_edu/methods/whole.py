"""Rows that move whole weights: every entry for itself, or all of them along a few random directions."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..targets import leaves, resolve
from ..updates import Projected, Whole
from .common import Method, beside, require, seeded

SUM = "only low-rank updates add up into one adapter. Activate several with set_adapter, or route rows instead."


@dataclass(frozen=True)
class FullFineTuning(Method):
    """ΔW is a whole matrix: every layer is trained. The frozen layers are kept beside the trained copies."""

    def cannot(self, what):
        return SUM if what == "combine" else None

    def build(self, model, seed=0):
        memo, updates = {}, {}  # one memo: weights that are tied stay tied in the copies
        for path, module in leaves(model).items():
            if any(True for _ in module.parameters(recurse=False)):
                updates[path] = Whole(copy.deepcopy(module, memo))
        covered = {id(p) for path in updates for p in leaves(model)[path].parameters()}
        loose = [
            name for name, p in model.named_parameters() if id(p) not in covered and ".updates." not in name
        ]
        require(
            not loose,
            f"full fine-tuning cannot reach parameters outside plain layers: {', '.join(loose[:5])}.",
        )
        return updates


@dataclass(frozen=True)
class IntrinsicDimension(Method):
    """ΔΘ = P θ with one trained vector θ (d) for all chosen layers, P fixed, random and sparse.

    Li et al. 2018, Aghajanyan et al. 2021 · chapter 2. The smallest d that still learns is the intrinsic
    dimension.
    """

    d: int
    target_modules: Sequence[str] | str = "all-linear"

    def __post_init__(self):
        require(
            isinstance(self.d, int) and self.d >= 1, f"d={self.d!r}: the length of θ is a whole number ≥ 1."
        )

    def cannot(self, what):
        return SUM if what == "combine" else None

    def build(self, model, seed=0):
        targets = resolve(model, self.target_modules)
        weights = sum(base.weight.numel() for base in targets.values())
        require(self.d <= weights, f"d={self.d} is more than the {weights} weights that θ would move.")
        theta = nn.Parameter(*beside(next(iter(targets.values())).weight, torch.zeros(self.d)))
        spread = (self.d / weights) ** 0.5
        return {p: Projected(theta, base, spread, seeded(seed, p), seed) for p, base in targets.items()}
