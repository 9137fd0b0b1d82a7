"""Rows that move whole weights: every entry for itself, or all of them along a few random directions."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..schedules import Schedule, forget, is_active
from ..targets import block_paths, leaves, resolve
from ..updates import Projected, Whole
from .common import Method, beside, check_count, require, seeded

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
class LISA(FullFineTuning):
    """Full fine-tuning of a few blocks at a time; what lies outside the blocks is always trained.   Pan et al. 2024.

    Every K steps, γ blocks are drawn uniformly, without replacement. The others are frozen, and the optimizer forgets
    them; embeddings, final norm and head always train. Before `attach` makes the first draw, all have gradients, so
    that an optimizer finds them.

    active_blocks   γ; LMFlow's default is 2
    every           K, in optimizer steps; 20 in LMFlow
    layers          path of the list of blocks; None: every ModuleList of alike layers that is not inside another
    """

    active_blocks: int = 2
    every: int = 20
    layers: str | None = None

    def __post_init__(self):
        check_count("active_blocks", self.active_blocks)
        check_count("every", self.every)

    def build(self, model, seed=0):
        count = len(self.blocks(model))
        require(
            self.active_blocks <= count,
            f"active_blocks={self.active_blocks}, but this model has {count} blocks to draw from.",
        )
        updates = super().build(model, seed)
        for update in updates.values():
            update.seed = seed  # of the draws
        return updates

    def blocks(self, model):
        """Paths of the blocks, in order."""
        found = block_paths(model)
        if self.layers is not None:
            named = dict(model.named_modules()).get(self.layers)
            inside = named.named_children() if isinstance(named, nn.ModuleList | nn.Sequential) else ()
            found = [f"{self.layers}.{child}" for child, _ in inside]
        require(
            found,
            f"LISA draws from a list of blocks; layers={self.layers!r} finds none here. Name the ModuleList or "
            f"Sequential that holds the blocks: {', '.join(_lists(model)) or 'this model has none'}.",
        )
        return found

    def schedule(self, model, name, total_steps=None):
        return Draws(model, name, self, total_steps)


def _lists(model):
    return [p for p, m in model.named_modules() if p and isinstance(m, nn.ModuleList | nn.Sequential) and len(m)]


class Draws(Schedule):
    """LISA's draws: number ⌊step / K⌋ follows from it and the seed alone, so that a resumed run draws the same.

    history: {"step", "blocks": [indices], "trainable"}, for each draw
    """

    def __init__(self, model, name, method, total_steps):
        super().__init__(model, name, total_steps)
        self.method, self.blocks = method, method.blocks(model)
        self.seed = next(iter(self.updates.values())).seed

    def drawn(self):
        """Indices of the blocks that train now, rising."""
        generator = seeded(self.seed, f"draw {self.step // self.method.every}")
        return sorted(torch.randperm(len(self.blocks), generator=generator)[: self.method.active_blocks].tolist())

    def begin(self, optimizer):
        """An optimizer made while blocks were asleep lacks them; they join the group of those that it holds."""
        groups = optimizer.param_groups
        held = {id(p) for group in groups for p in group["params"]}
        every = {id(p): p for update in self.updates.values() for p in update.parameters()}
        group = next((g for g in groups if any(id(p) in every for p in g["params"])), groups[0])
        group["params"].extend(p for key, p in every.items() if key not in held)
        self.draw(optimizer)

    def after_step(self, optimizer):
        if self.step % self.method.every == 0:
            self.draw(optimizer)

    def draw(self, optimizer=None):
        """Wake the blocks that are drawn for this step, freeze the others, note it."""
        chosen = self.drawn()
        asleep = tuple(f"{block}." for i, block in enumerate(self.blocks) if i not in chosen)
        for path, update in self.updates.items():
            update.fixed.clear()
            update.wake(is_active(self))
            if path.startswith(asleep):
                update.fix(*(name for name, _ in update.named_parameters()))
                for parameter in update.parameters() if optimizer is not None else ():
                    forget(optimizer, parameter)
        if not self.history or self.history[-1]["step"] // self.method.every != self.step // self.method.every:
            trainable = sum(p.numel() for p in self.parameters())
            self.history.append({"step": self.step, "blocks": chosen, "trainable": trainable})

    def state(self):
        return super().state() | {"seed": self.seed}

    def load_state(self, state):
        super().load_state(state)
        self.seed = state["seed"]
        self.draw()


@dataclass(frozen=True)
class IntrinsicDimension(Method):
    """ΔΘ = P θ with one trained vector θ (d) for all chosen layers, P fixed, random and sparse.

    Li et al. 2018, Aghajanyan et al. 2021 · chapter 2. The smallest d that still learns is the intrinsic
    dimension.
    """

    d: int
    target_modules: Sequence[str] | str = "all-linear"

    def __post_init__(self):
        check_count("d", self.d, kind="the length of θ is a whole number")

    def cannot(self, what):
        return SUM if what == "combine" else None

    def build(self, model, seed=0):
        targets = resolve(model, self.target_modules)
        weights = sum(base.weight.numel() for base in targets.values())
        require(self.d <= weights, f"d={self.d} is more than the {weights} weights that θ would move.")
        theta = nn.Parameter(*beside(next(iter(targets.values())).weight, torch.zeros(self.d)))
        spread = (self.d / weights) ** 0.5
        return {p: Projected(theta, base, spread, seeded(seed, p), seed) for p, base in targets.items()}
