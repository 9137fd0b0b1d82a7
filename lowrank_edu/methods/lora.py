"""LoRA and its relatives: two factors beside the frozen weight, in every shape, start and scale."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from ..inits import INITS, SPECTRAL, embedding_factors, initial_factors
from ..rates import Rates
from ..targets import resolve
from ..updates import BlockLowRank, DoRA, LowRank, weight_of
from .common import (
    FOLDED,
    Method,
    add_biases,
    add_whole,
    beside,
    check_alpha,
    check_count,
    check_dropout,
    check_rank,
    check_targets,
    check_used,
    pattern_value,
    require,
    seeded,
)

FUSED = {"c_attn": ("q", "k", "v")}
"""Slices of known fused layers, in the order in which they fill the output, each as wide as the input."""


@dataclass(frozen=True)
class LoRA(Method):
    """ΔW = α/r · B A on the chosen layers.   Hu et al. 2021 · chapters 3 to 5.

    r, alpha         rank and loudness; rank_pattern and alpha_pattern give single layers their own
                     {name or regex: value}
    target_modules   list of names or suffixes, a regular expression, or "all-linear": all but the head
    init             "kaiming", "gaussian", "orthogonal" start at B A = 0; "pissa" and "olora" start from W0,
                     "loftq" from what quantising loses (adapt(quantize=)) in loftq_iterations rounds
    use_rslora       scale α/√r instead of α/r: Kalajdzievski 2023
    use_dora         learn the norm of every row apart: Liu et al. 2024
    bias             "none", "lora_only" (of adapted layers), "all": train these biases too
    blocks           {"c_attn": ("q", "v")}: adapt slices of a fused layer, each with an A of its own
    modules_to_save  names of modules trained whole, such as a new head
    lr_ratio         LoRA+: B's learning rate over A's, e.g. 16; needs parameter_groups and attach, or lo.train
    """

    r: int = 8
    alpha: float = 16
    target_modules: Sequence[str] | str | None = None
    dropout: float = 0.0
    bias: str = "none"
    init: str = "kaiming"
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    blocks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    modules_to_save: Sequence[str] = ()
    loftq_iterations: int = 1
    lr_ratio: float | None = None

    peft_type = "LORA"

    def __post_init__(self):
        for what, r in [("r", self.r), *((f"rank_pattern[{k!r}]", v) for k, v in self.rank_pattern.items())]:
            check_rank(what, r)
            require(
                self.init != "orthogonal" or r % 2 == 0,
                f"{what}={r}: init='orthogonal' splits r in two; make it even.",
            )
        check_alpha("alpha", self.alpha)
        for key, alpha in self.alpha_pattern.items():
            check_alpha(f"alpha_pattern[{key!r}]", alpha)
        check_dropout(self.dropout)
        require(
            self.bias in ("none", "lora_only", "all"),
            f"bias={self.bias!r} is not 'none', 'lora_only' or 'all'.",
        )
        require(self.init in INITS, f"init={self.init!r} is not one of {', '.join(INITS)}.")
        check_count("loftq_iterations", self.loftq_iterations)
        ratio = self.lr_ratio
        good = ratio is None or (isinstance(ratio, (int, float)) and 0 < ratio < float("inf"))
        require(good, f"lr_ratio={ratio!r}: B's rate over A's, a number > 0 such as 16, or None for one rate.")
        require(
            not (self.blocks and self.init == "loftq"),
            "init='loftq' works on whole layers, and blocks= adapts slices. Drop blocks=, or choose init='pissa'.",
        )
        require(
            not (self.blocks and self.use_dora),
            "use_dora=True learns a magnitude for every row, also of the slices that blocks= leaves out. "
            "Drop blocks= to train DoRA on the whole fused layer.",
        )
        if self.target_modules is None and self.blocks:
            object.__setattr__(self, "target_modules", tuple(self.blocks))
        check_targets(self)

    def cannot(self, what):
        if what == "combine" and self.use_dora:
            return "DoRA divides by a norm, so two of them do not add up. Merge one (merge), or route rows (routed)."
        return FOLDED if what == "save" and self.init == "loftq" else None

    def schedule(self, model, name, total_steps=None):
        return None if self.lr_ratio is None else Rates(model, name, total_steps, self.lr_ratio)

    @property
    def scheduled(self):
        return self.lr_ratio is not None

    def rank(self, path):
        return pattern_value(self.rank_pattern, path, self.r)

    def scale(self, path):
        """α/r, or α/√r with use_rslora; r and α of a layer are looked up independently, as in PEFT."""
        r, alpha = self.rank(path), pattern_value(self.alpha_pattern, path, self.alpha)
        return alpha / r**0.5 if self.use_rslora else alpha / r

    def build(self, model, seed=0):
        require(
            self.init != "loftq",
            "init='loftq' starts from what quantising loses, and nothing is quantised here. "
            "Call adapt(model, method, quantize='nf4').",
        )
        targets = resolve(model, self.target_modules)
        check_used(self, targets, "rank_pattern", "alpha_pattern", "blocks")
        updates = {path: self._update(path, base, seeded(seed, path)) for path, base in targets.items()}
        add_whole(model, updates, self.modules_to_save)
        if self.bias != "none":
            add_biases(model, updates, set(updates) if self.bias == "lora_only" else None)
        return updates

    def _update(self, path, base, generator):
        r, scale, W0 = self.rank(path), self.scale(path), weight_of(base)
        residual = self.init in SPECTRAL
        slices = pattern_value(self.blocks, path, None)
        if slices is not None:
            return self._blocks(path, W0, slices, r, scale, generator)
        if isinstance(base, nn.Embedding):
            require(not residual, f"init={self.init!r} is for linear layers; {path} is an embedding.")
            A, B = embedding_factors(W0.shape[1], W0.shape[0], r, generator)
        else:
            A, B = initial_factors(self.init, W0, r, scale, generator)
        A, B = beside(W0, A, B)
        if not self.use_dora:
            return LowRank(A, B, scale, dropout=self.dropout, residual=residual)
        update = DoRA(A, B, scale, base, self.dropout, residual)
        require(
            W0.is_meta or bool((update.m > 0).all()),
            f"{path} has a row of zeros, and DoRA divides by the norm of each row. Leave this layer out.",
        )
        return update

    def _blocks(self, path, W0, slices, r, scale, generator):
        names, (d_out, width) = FUSED.get(path.rsplit(".", 1)[-1], ()), W0.shape
        require(
            d_out == len(names) * width,
            f"blocks= knows the slices of {', '.join(FUSED)} in GPT-2; {path} ({d_out} × {width}) is none.",
        )
        require(
            slices and set(slices) <= set(names) and len(set(slices)) == len(slices),
            f"blocks for {path} are {tuple(slices)}, but this layer holds {names}, each at most once.",
        )
        rows = torch.cat([torch.arange(width) + names.index(s) * width for s in slices])
        parts = W0.detach().split(width)
        pairs = [initial_factors(self.init, parts[names.index(s)], r, scale, generator) for s in slices]
        A, B = beside(W0, torch.cat([a for a, _ in pairs]), torch.stack([b for _, b in pairs]))
        return BlockLowRank(A, B, scale, rows.to(W0.device), d_out, self.dropout, self.init in SPECTRAL)
