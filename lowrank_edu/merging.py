"""Merging into a quantised layer, which needs a choice: a dense layer, or codes again? And what it costs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .quantized import Quantized
from .targets import leaves
from .updates import store_like, weight_of

WAYS = ("dequantise", "full", "requantise")
"""What merging into a quantised layer can make of it: see `merge`."""


@dataclass(frozen=True)
class MergeReport:
    """How far merged weights are from Ŵ + ΔW, the model that was trained, in Frobenius norms.

    layers  {path: (‖merged − (Ŵ + ΔW)‖, ‖ΔW‖)} of the quantised layers
    error   the first over the second, over all layers: 1 means as far as the adapter itself had moved
    """

    how: str
    layers: dict[str, tuple[float, float]]

    @property
    def error(self):
        away, moved = (math.hypot(*column) for column in zip(*self.layers.values(), strict=True))
        return away / moved if moved else math.inf if away else 0.0

    def __str__(self):
        return f"merged {len(self.layers)} quantised layers, {self.how}: off by {self.error:.3g} of the adapters' ΔW."

    __repr__ = __str__


def weights_to_merge_into(layers, active, how, weights):
    """{path: W (d_out, d_in), or None for Ŵ} of quantised layers that get a new weight; checks the choice."""
    found = {}
    for path, names in active.items():
        changing = [name for name in names if layers[path].updates[name].changes_weight]
        if isinstance(getattr(layers[path], "base", None), Quantized) and changing:
            found[path] = changing
    if how not in (WAYS if found else (None,)):
        raise ValueError(
            f"how={how!r}: {next(iter(found))} is quantised, so say what merging should make of it. 'dequantise': "
            "a dense layer Ŵ + ΔW, the model that was trained; 'full' with weights=...: the original W + ΔW, "
            "dense; 'requantise': Ŵ + ΔW in codes again, small and less exact."
            if found
            else f"how={how!r} is for quantised layers, and none is merged here. Leave it out."
        )
    if (weights is not None) != (how == "full"):
        raise ValueError(
            f"how={how!r} with weights={'...' if weights is not None else None}: the original weights (the model "
            "before quantising, or its state_dict) go with how='full', and only there."
        )
    if how != "full":
        return dict.fromkeys(found)
    folded = [p for p, names in found.items() if any(getattr(layers[p].updates[n], "folded", 0) for n in names)]
    if folded:
        raise ValueError(
            f"{folded[0]}: this adapter was started together with its quantised base, which is not q(W), so its ΔW "
            "does not belong on the original weights. Choose how='dequantise' or 'requantise'."
        )
    return {path: _original(path, layers[path].base, weights) for path in found}


def _original(path, base, weights):
    """W (d_out, d_in) of this layer from a model or a state_dict, on the layer's device."""
    if isinstance(weights, Mapping):
        W = weights.get(f"{path}.weight")
    else:
        W = getattr(leaves(weights).get(path), "weight", None)
    if W is None or not W.is_floating_point() or store_like(base, W).shape != base.shape:
        there = "no" if W is None else f"a {str(W.dtype).removeprefix('torch.')} {tuple(W.shape)}"
        raise ValueError(f"weights= has {there} {path}.weight; merging needs floats {tuple(base.weight.shape)}.")
    return store_like(base, W.detach()).to(base.packed.device)


@torch.no_grad()
def merge_report(layers, active, twins, originals, how):
    """The MergeReport of these twins, which are not in place yet."""
    rows = {}
    for path in originals:
        layer = layers[path]
        acting = [layer.updates[name] for name in active[path]]
        dW = sum(update.delta(layer.base) for update in acting if update.changes_weight)
        away = weight_of(twins[path]) - (weight_of(layer.base) + dW)
        rows[path] = float(away.norm()), float(dW.norm())
    return MergeReport(how, rows)
