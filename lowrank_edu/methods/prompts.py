"""Rows that stand in front of the text: trained keys and values, or trained embeddings."""

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ..front import PLACE, computed, unable
from ..rivals import Prefix, Prompt
from .common import Method, beside, check_count, require, seeded


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
            in PEFT's format a prefix is saved as plain keys and values, without the MLP
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
