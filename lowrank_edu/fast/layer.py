"""An AdaptedLayer that adds its low-rank updates in place: y = W0 x + b, then y += B (A x)."""

import torch
import torch.nn.functional as F
from torch import nn

from ..layers import AdaptedLayer
from ..quantized import Quantized
from ..updates import LowRank, weight_of
from .products import Frozen, Project
from .remaking import full_precision, source_of


class FastLayer(AdaptedLayer):
    """What an AdaptedLayer becomes; wherever `why_plain` finds a reason it computes as an AdaptedLayer does."""

    def forward(self, x, *args, **kwargs):
        if args or kwargs or why_plain(self) or not full_precision(x):
            return super().forward(x, *args, **kwargs)
        source, rows = source_of(x), x.reshape(-1, x.shape[-1])  # (n, d_in)
        y = product(self.base, rows)  # (n, d_out): nobody has kept it, so it may change
        if y.dtype != x.dtype:
            return super().forward(x)
        updates = self.acting_updates()
        A, B, scale = factors(updates)
        z = F.linear(rows, A) if source is None else Project.apply(rows, A, source[1], source[0])
        y.addmm_(z, B.T, alpha=scale)
        for update in updates:
            if update.bias is not None:
                y.add_(update.bias)
        return y.view(*x.shape[:-1], -1)


def factors(updates):
    """(A, B, scale) with ΔW = scale · B A, (r, d_in) and (d_out, r), gradients attached: all that act, side by side."""
    if len(updates) == 1:
        return *updates[0].as_lora(), updates[0].scale
    pairs = [(A, B * update.scale) for update in updates for A, B in [update.as_lora()]]
    return torch.cat([A for A, _ in pairs]), torch.cat([B for _, B in pairs], dim=1), 1.0


def product(base, x):
    """W0 x + b, a fresh tensor: x (n, d_in) -> (n, d_out)."""
    frozen = not any(p.requires_grad for p in base.parameters())
    if isinstance(base, Quantized) or not frozen or base.weight.dtype != x.dtype:
        return base(x)
    return Frozen.apply(x, weight_of(base), base.bias)


def why_plain(layer):
    """Why this layer computes as the plain one does now, or None."""
    updates = layer.acting_updates()
    if not updates or not layer.enabled:
        return "no update acts"
    if layer.kept is not None:
        return "merged: nothing is left to add"
    if layer.rows is not None:
        return "routed: an adapter for each row"
    if isinstance(layer.base, nn.Embedding):
        return "an embedding looks up and multiplies nothing"
    for update in updates:
        kind = type(update)
        if not issubclass(kind, LowRank) or kind.change is not LowRank.change:
            return f"{kind.__name__} is more than a product of two factors"
        if update.training and update.dropout.p:
            return "dropout draws an input of its own for each update"
    return None
