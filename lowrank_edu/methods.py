"""The table: a method is a row, one answer to each of the five questions.

Methods are frozen dataclasses, checked when they are made. `build(model, seed)` turns one into
{module path: Update} for a model and changes nothing; `adapting.py` puts the updates in place.
"""

import copy
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from .inits import INITS, SPECTRAL, embedding_factors, initial_factors
from .targets import leaves, resolve
from .updates import BlockLowRank, DoRA, LowRank, Projected, Update, Whole, weight_of

FUSED = {"c_attn": ("q", "k", "v")}
"""Slices of known fused layers, in the order in which they fill the output, each as wide as the input."""


def seeded(seed, path):
    """A generator of its own for every layer: adding a layer does not change the start of the others.

    Torch's CPU generator keeps 32 bits of its seed, so both are hashed together.
    """
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {path}".encode()))


def pattern_value(pattern, path, default):
    """The value of the first key that matches the end of the path, as PEFT reads its patterns."""
    return next((v for k, v in pattern.items() if re.match(rf"(.*\.)?({k})$", path)), default)


def beside(W0, *factors):
    """The factors on W0's device, in float32 or, for a float64 W0, in float64."""
    dtype = torch.promote_types(W0.dtype, torch.float32)
    return [factor.to(W0.device, dtype).contiguous() for factor in factors]


def some(paths):
    """A few of the paths, for an error text."""
    paths = list(paths)
    return ", ".join(paths[:4]) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")


def require(condition, message):
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class LoRA:
    """ΔW = α/r · B A on the chosen layers.   Hu et al. 2021 · chapters 3 to 5.

    r, alpha         rank and loudness; rank_pattern and alpha_pattern give single layers their own
                     {name or regex: value}
    target_modules   list of names or suffixes, a regular expression, or "all-linear": all but the head
    init             "kaiming", "gaussian", "orthogonal" start at B A = 0; "pissa" and "olora" start from W0
    use_rslora       scale α/√r instead of α/r: Kalajdzievski 2023
    use_dora         learn the norm of every row apart: Liu et al. 2024
    bias             "none", "lora_only" (of adapted layers), "all": train these biases too
    blocks           {"c_attn": ("q", "v")}: adapt slices of a fused layer, each with an A of its own
    modules_to_save  names of modules trained whole, such as a new head
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

    peft_type = "LORA"

    def __post_init__(self):
        for what, r in [("r", self.r), *((f"rank_pattern[{k!r}]", v) for k, v in self.rank_pattern.items())]:
            require(
                isinstance(r, int) and not isinstance(r, bool) and r >= 1,
                f"{what}={r!r}: a rank is a whole number ≥ 1.",
            )
            require(
                self.init != "orthogonal" or r % 2 == 0,
                f"{what}={r}: init='orthogonal' splits r in two; make it even.",
            )
        for what, a in [
            ("alpha", self.alpha),
            *((f"alpha_pattern[{k!r}]", v) for k, v in self.alpha_pattern.items()),
        ]:
            require(
                isinstance(a, (int, float)) and 0 < a < float("inf"),
                f"{what}={a!r}: alpha is a number > 0; alpha = r makes the scale 1.",
            )
        require(
            0 <= self.dropout < 1,
            f"dropout={self.dropout!r}: a share of inputs to drop, from 0 up to but not 1.",
        )
        require(
            self.bias in ("none", "lora_only", "all"),
            f"bias={self.bias!r} is not 'none', 'lora_only' or 'all'.",
        )
        require(self.init in INITS, f"init={self.init!r} is not one of {', '.join(INITS)}.")
        require(
            not (self.blocks and self.use_dora),
            "use_dora=True learns a magnitude for every row, also of the slices that blocks= leaves out. "
            "Drop blocks= to train DoRA on the whole fused layer.",
        )
        if self.target_modules is None:
            require(
                self.blocks,
                "target_modules is missing: name the layers, e.g. ['c_attn'], or say 'all-linear'.",
            )
            object.__setattr__(self, "target_modules", tuple(self.blocks))
        elif not isinstance(self.target_modules, str):
            object.__setattr__(self, "target_modules", tuple(self.target_modules))
            require(
                self.target_modules, "target_modules=[] adapts nothing: name the layers, or say 'all-linear'."
            )

    def rank(self, path):
        return pattern_value(self.rank_pattern, path, self.r)

    def scale(self, path):
        """α/r, or α/√r with use_rslora; r and α of a layer are looked up independently, as in PEFT."""
        r, alpha = self.rank(path), pattern_value(self.alpha_pattern, path, self.alpha)
        return alpha / r**0.5 if self.use_rslora else alpha / r

    def build(self, model, seed=0):
        targets = resolve(model, self.target_modules)
        for what in ("rank_pattern", "alpha_pattern", "blocks"):
            for key in getattr(self, what):
                used = any(pattern_value({key: True}, path, False) for path in targets)
                require(used, f"{what} names {key!r}, but no adapted layer ends in that: {some(targets)}.")
        updates = {path: self._update(path, base, seeded(seed, path)) for path, base in targets.items()}
        for path, base in self._whole(model).items():
            require(path not in updates, f"{path} is in target_modules and in modules_to_save; choose one.")
            updates[path] = Whole(copy.deepcopy(base))
        for path, base in leaves(model).items():
            bias, chosen = getattr(base, "bias", None), path in updates if self.bias == "lora_only" else True
            if self.bias == "none" or not chosen or not isinstance(bias, nn.Parameter):
                continue
            if not isinstance(updates.setdefault(path, Update()), Whole):
                updates[path].train_bias(bias)
        return updates

    def _whole(self, model):
        """{path: layer} of what `modules_to_save` names, all layers with parameters inside included."""
        found = {}
        for name in self.modules_to_save:
            named = {
                p: m for p, m in leaves(model).items() if f".{name}." in f".{p}." and list(m.parameters())
            }
            require(named, f"modules_to_save names {name!r}; no module with parameters is called that here.")
            found |= named
        return found

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
            return LowRank(A, B, scale, self.dropout, residual)
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


@dataclass(frozen=True)
class FullFineTuning:
    """ΔW is a whole matrix: every layer is trained. The frozen layers are kept beside the trained copies."""

    peft_type = None

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
class IntrinsicDimension:
    """ΔΘ = P θ with one trained vector θ (d) for all chosen layers, P fixed, random and sparse.

    Li et al. 2018, Aghajanyan et al. 2021 · chapter 2. The smallest d that still learns is the intrinsic
    dimension.
    """

    d: int
    target_modules: Sequence[str] | str = "all-linear"

    peft_type = None

    def __post_init__(self):
        require(
            isinstance(self.d, int) and self.d >= 1, f"d={self.d!r}: the length of θ is a whole number ≥ 1."
        )

    def build(self, model, seed=0):
        targets = resolve(model, self.target_modules)
        weights = sum(base.weight.numel() for base in targets.values())
        require(self.d <= weights, f"d={self.d} is more than the {weights} weights that θ would move.")
        theta = nn.Parameter(*beside(next(iter(targets.values())).weight, torch.zeros(self.d)))
        spread = (self.d / weights) ** 0.5
        return {p: Projected(theta, base, spread, seeded(seed, p), seed) for p, base in targets.items()}
