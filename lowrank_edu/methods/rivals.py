"""Rows that train what lies beside the weights: biases, and bottlenecks behind layers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..rivals import ACTIVATIONS, NONLINEAR, Bottleneck
from ..targets import is_linear, leaves, no_match, output_head
from ..updates import Update, weight_of
from .common import Method, add_biases, add_whole, beside, check_count, linear_targets, require, seeded
from .whole import SUM

PLACES = {
    "attention": r"(.*\.)?\w*(attn|[aA]ttention)\.(output\.dense|c_proj|o_proj|out_proj|out_lin|dense|o)",
    "feed-forward": r"(.*\.)?(mlp|ffn|DenseReluDense)\.(c_proj|down_proj|dense_4h_to_h|fc2|lin2|wo)"
    r"|(.*\.)?layers?\.\d+\.(fc2|output\.dense)",
}
"""Where a sub-layer ends, just before its output is added to the residual stream, in the models we know."""


@dataclass(frozen=True)
class BitFit(Method):
    """Δb: only biases are trained, those of layer norms included.   Ben-Zaken et al. 2022.

    target_modules   linear layers whose biases are trained; None for every layer that has a bias
    add_missing      give linear layers without a bias (all of Llama's) one that starts at zero. Merging then gives the
                     layer this bias, unmerging takes it away; saving the merged model needs a config that has biases
    """

    target_modules: Sequence[str] | str | None = None
    add_missing: bool = False

    def __post_init__(self):
        if isinstance(self.target_modules, list):
            object.__setattr__(self, "target_modules", tuple(self.target_modules))

    def cannot(self, what):
        return SUM if what == "combine" else None

    def build(self, model, seed=0):
        chosen = None if self.target_modules is None else linear_targets(model, self)
        updates = {}
        add_biases(model, updates, chosen)
        head = output_head(model)
        for path, base in leaves(model).items():
            wanted = path in chosen if chosen is not None else is_linear(base) and path != head
            if self.add_missing and wanted and path not in updates:
                updates[path] = Update()
                updates[path].train_bias(*beside(base.weight, torch.zeros(weight_of(base).shape[0])))
        missing = [path for path in chosen or () if path not in updates]
        require(
            updates and not missing,
            f"{missing[0] if missing else 'this model'} has no bias, so BitFit has nothing to train there. "
            "BitFit(add_missing=True) gives linear layers a bias that starts at zero.",
        )
        return updates


@dataclass(frozen=True)
class BottleneckAdapter(Method):
    """y + W2 act(W1 y + b1) + b2 behind the last layer of each sub-layer, before the residual sum.

    bottleneck       b, the inner width: 2·b·d + b + d parameters each
    placement        "houlsby": behind attention (cross-attention too) and feed-forward, Houlsby et al. 2019
                     "pfeiffer": behind feed-forward only, Pfeiffer et al. 2021
    activation       "gelu", "relu", "silu", "tanh"
    layer_norm       a layer norm of its own, 2·d more: Lin et al. 2020, the LoRA paper's Adapter_L
    init             "normal": W1 and W2 from N(0, 1e-3) cut at two sigma, as in the reference code, so the start is
                     near the base model; "zero": W2 = 0, so the start is the base model
    target_modules   linear layers to sit behind, instead of those of `placement`
    modules_to_save  names of modules trained whole: Houlsby et al. also train layer norms and the head

    It sits right behind the layer: a dropout that the model has there comes after it.
    """

    bottleneck: int = 64
    placement: str = "houlsby"
    activation: str = "gelu"
    layer_norm: bool = False
    init: str = "normal"
    target_modules: Sequence[str] | str | None = None
    modules_to_save: Sequence[str] = ()

    def __post_init__(self):
        check_count("bottleneck", self.bottleneck)
        known_values = {"placement": ("houlsby", "pfeiffer"), "activation": ACTIVATIONS, "init": ("normal", "zero")}
        for what, known in known_values.items():
            value = getattr(self, what)
            require(value in known, f"{what}={value!r} is not one of {', '.join(known)}.")
        for what in ("target_modules", "modules_to_save"):
            if isinstance(getattr(self, what), list):
                object.__setattr__(self, what, tuple(getattr(self, what)))

    def cannot(self, what):
        return {"merge": NONLINEAR, "combine": SUM}.get(what)

    def build(self, model, seed=0):
        targets = linear_targets(model, self) if self.target_modules is not None else self._places(model)
        updates = {path: self._update(base, seeded(seed, path)) for path, base in targets.items()}
        add_whole(model, updates, self.modules_to_save)
        return updates

    def _places(self, model):
        linear, found = {p: m for p, m in leaves(model).items() if is_linear(m)}, {}
        for kind in PLACES if self.placement == "houlsby" else ("feed-forward",):
            here = {path: base for path, base in linear.items() if re.fullmatch(PLACES[kind], path)}
            require(
                here,
                f"placement={self.placement!r}: this model has no layer that is known to end its {kind} part. "
                "Name the layers to sit behind with target_modules=[...].\n"
                + no_match(leaves(model), PLACES[kind], output_head(model)),
            )
            found |= here
        return {path: base for path, base in linear.items() if path in found}

    def _update(self, base, generator):
        W0, std = weight_of(base), 1e-3
        W1, W2 = torch.empty(self.bottleneck, W0.shape[0]), torch.zeros(W0.shape[0], self.bottleneck)
        for W in (W1, W2) if self.init == "normal" else (W1,):
            nn.init.trunc_normal_(W, std=std, a=-2 * std, b=2 * std, generator=generator)
        return Bottleneck(*beside(W0, W1, W2), self.activation, self.layer_norm)
