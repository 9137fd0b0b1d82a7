"""The fast path: what the plain implementation computes, with less time and less memory. Asked for with `fast=True`.

Each trick is worth what chapter 8 counts, and each steps aside where it does not fit:

products    one oneDNN product for a frozen float32 weight, and the update added to it in place
remaking    norms' and GELU's outputs are made again in the backward pass; the tanh-GELU is one operation
loss        cross-entropy over a frozen head, piece by piece, its gradient made on the way

Outputs and gradients equal the plain ones within 1e-5 of their norm. In 16 bits and under autocast that could not be,
because there another order of sums rounds otherwise, so all of it steps aside. Which kernel is used follows from what
torch has, never from a clock.
"""

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..layers import AdaptedLayer, swap
from . import loss
from .layer import FastLayer, why_plain
from .products import onednn
from .remaking import GELU, GELUS, NORMS, FusedGELU, note

__all__ = ["FastReport", "fast_or_plain", "fast_report", "is_fast", "kernels", "switch_fast"]
FLAG = "lowrank_fast"


def is_fast(model):
    """Whether the fast path was asked for on this model."""
    return model.__dict__.get(FLAG, False)


def switch_fast(model, on=True):
    """Put the fast path on the model, or take it off. Weights, names and adapters stay what they are."""
    if not on and not is_fast(model):
        return
    model.__dict__[FLAG] = on
    for module in list(model.modules()):
        if type(module) is (AdaptedLayer if on else FastLayer):
            module.__class__ = FastLayer if on else AdaptedLayer
        if type(module).__name__ in NORMS + GELUS:
            for key in [key for key, hook in module._forward_hooks.items() if hook is note]:
                del module._forward_hooks[key]
            if on:
                module.register_forward_hook(note)
    if on:
        swap(model, {m: FusedGELU(m) for m in _unfused(model)})
    else:
        swap(model, {m: m.plain for m in model.modules() if isinstance(m, FusedGELU)})
        del model.__dict__[FLAG]


@contextmanager
def fast_or_plain(model, wanted=None):
    """The fast path on (True), off (False) or as it is (None), for as long as the block lasts."""
    before = is_fast(model)
    if wanted is not None:
        switch_fast(model, wanted)
    try:
        yield
    finally:
        switch_fast(model, before)


def _unfused(model):
    inside = {m.plain for m in model.modules() if isinstance(m, FusedGELU)}
    return [m for m in model.modules() if type(m).__name__ == GELU and m not in inside]


def kernels(model, wanted=None):
    """What a checkpoint remembers of the path that `fast_or_plain` would take: None, or whose products it uses."""
    fast = is_fast(model) if wanted is None else wanted
    return ("oneDNN" if onednn() else "torch's own") if fast else None


@dataclass(frozen=True)
class FastReport:
    """Which parts of a model take the fast path, and why the others do not.

    on        whether it was asked for
    products  "oneDNN", or "torch's own" where that is missing
    layers    paths of the adapted layers that add their updates in place
    plain     {path: why it computes as the plain layer does}
    norms, gelus   how many of their outputs are made again instead of kept
    loss      None if `train` and `evaluate` take the loss piece by piece, or why they do not
    """

    on: bool
    products: str
    layers: list = field(repr=False, default_factory=list)
    plain: dict = field(repr=False, default_factory=dict)
    norms: int = 0
    gelus: int = 0
    loss: str | None = None

    def __str__(self):
        if not self.on:
            return "plain: fast=True was not asked for."
        lines = [f"{len(self.layers)} adapted layers add their updates in place; frozen products: {self.products}"]
        lines += [f"{n} adapted layers are plain: {why}" for why, n in Counter(self.plain.values()).items()]
        lines += [f"{self.norms} norms and {self.gelus} GELUs are made again instead of kept"]
        lines += [f"loss: {'piece by piece' if self.loss is None else f'plain: {self.loss}'}"]
        return "\n".join([*lines, "in 16 bits and under autocast all of it is plain"])

    __repr__ = __str__


def fast_report(model):
    """A FastReport of the model as it is now: which parts are fast, and why the others are not."""
    products = "oneDNN" if onednn() else "torch's own"
    if not is_fast(model):
        return FastReport(False, products)
    reasons = {path: why_plain(m) for path, m in model.named_modules() if isinstance(m, AdaptedLayer)}
    noted = [m for m in model.modules() if note in m._forward_hooks.values()]
    fast = [path for path, why in reasons.items() if why is None]
    return FastReport(
        True, products, fast, {path: why for path, why in reasons.items() if why},
        sum(type(m).__name__ in NORMS for m in noted),
        sum(isinstance(m, FusedGELU) for m in model.modules()) + sum(type(m).__name__ in GELUS for m in noted),
        loss.why_plain(model),
    )  # fmt: skip
