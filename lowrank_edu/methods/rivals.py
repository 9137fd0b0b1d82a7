"""Rows that are not low-rank: biases, bottlenecks behind layers, prefixes and prompts in front of the text."""

import re
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ..rivals import ACTIVATIONS, NONLINEAR, PLACE, Bottleneck, Prefix, Prompt, computed, unable
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
                f"placement={self.placement!r}: no layer is known here as the end of a {kind} block. Name the layers "
                "to sit behind with target_modules=[...].\n"
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


@dataclass(frozen=True)
class InFrontMethod(Method):
    """What prefix and prompt tuning share: `length` positions, and where they start.

    init   "vocab": from the embeddings of random tokens; "random"; or token ids, such as tok("text")["input_ids"],
           repeated or cut to `length`
    """

    length: int
    init: Sequence[int] | str = "vocab"

    def __post_init__(self):
        check_count("length", self.length)
        if not isinstance(self.init, str):
            object.__setattr__(self, "init", tuple(int(i) for i in self.init))
        require(
            self.init in ("vocab", "random") if isinstance(self.init, str) else self.init and min(self.init) >= 0,
            f"init={self.init!r} is not 'vocab', 'random' or token ids. For a text give tok(text)['input_ids'].",
        )

    def cannot(self, what):
        return {
            "merge": "what stands in front of the text changes no weight. Keep it, or train LoRA, which merges. To "
            "merge another adapter, activate that alone, merge, unwrap, and load this one again.",
            "route": "one prefix stands in front of the whole batch. Run a batch per prefix, or route LoRA adapters.",
            "combine": "positions in front do not add up. Train LoRA adapters, which do, or one longer prefix.",
        }.get(what)

    def build(self, model, seed=0):
        reason = unable(model)
        require(reason is None, f"{type(model).__name__} cannot have a prefix: {reason}. Train LoRA or a bottleneck.")
        room = getattr(model.config, "max_position_embeddings", None) or float("inf")
        require(self.length < room, f"length={self.length} leaves no room for text: this model sees {room} positions.")
        generator = seeded(seed, PLACE)
        with _untouched(model):
            return {PLACE: self._update(model, self._embeddings(model, generator), generator)}

    def _embeddings(self, model, generator):
        """E (length, d): where the input embeddings start."""
        embed = model.get_input_embeddings()
        count, d = embed.weight.shape
        if self.init == "random":
            return torch.randn(self.length, d, generator=generator).to(embed.weight.device) * embed.weight.float().std()
        if self.init == "vocab":
            ids = torch.randint(count, (self.length,), generator=generator)
        else:
            require(max(self.init) < count, f"init holds token {max(self.init)}, but the vocabulary has {count}.")
            ids = torch.tensor((self.init * self.length)[: self.length])
        return embed(ids.to(embed.weight.device))


@dataclass(frozen=True)
class PrefixTuning(InFrontMethod):
    """Trained keys and values of `length` positions in every layer: 2·L·length·d parameters.   Li and Liang 2021.

    init    as the model computes them from those embeddings; "random": N(0, 1)
    width   inner width of an MLP that makes the prefix from embeddings during training, None for no such MLP;
            a saved prefix is always plain keys and values
    """

    width: int | None = None

    peft_type = "PREFIX_TUNING"

    def __post_init__(self):
        super().__post_init__()
        if self.width is not None:
            check_count("width", self.width)

    def _update(self, model, E, generator):
        states = computed(model, E)
        shapes = {tuple(tensor.shape) for pair in states for tensor in pair}
        require(len(shapes) == 1, f"keys and values differ in shape, {sorted(shapes)}. Use PromptTuning here.")
        KV = torch.stack([torch.cat(pair) for pair in states]).permute(3, 0, 1, 2, 4)  # (length, L, 2, heads, d_head)
        if self.init == "random":
            KV = torch.randn(KV.shape, generator=generator).to(KV.device)
        if self.width is None:
            return Prefix(*beside(model.get_input_embeddings().weight, KV))
        mlp = []
        for d_in, d_out in ((E.shape[1], self.width), (self.width, KV[0].numel())):
            for shape in ((d_out, d_in), (d_out,)):  # U(±1/√d_in), as nn.Linear starts
                mlp.append((2 * torch.rand(shape, generator=generator) - 1) / d_in**0.5)
        return Prefix(KV, *beside(E, E), beside(E, *mlp))


@dataclass(frozen=True)
class PromptTuning(InFrontMethod):
    """Trained input embeddings of `length` positions in front of every text: length·d.   Lester et al. 2021.

    init "random" draws from a normal as wide as the model's own embeddings.
    """

    peft_type = "PROMPT_TUNING"

    def _update(self, model, E, generator):
        return Prompt(*beside(E, E))


@contextmanager
def _untouched(model):
    """The base model without adapters, dropout and gradients; afterwards every module is in the mode it was in."""
    from ..switching import disabled

    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), disabled(model):
            yield
    finally:
        for module, training in modes.items():
            module.training = training
