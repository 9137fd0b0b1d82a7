"""An AdaptedLayer that adds its low-rank updates in place: see `products`."""

import torch
from torch import nn

from ..layers import AdaptedLayer
from ..quantized import Quantized
from ..updates import LowRank, weight_of
from .products import AdaptedProduct
from .remaking import full_precision, source_of


class FastLayer(AdaptedLayer):
    """What an AdaptedLayer becomes; wherever `why_plain` finds a reason it computes as an AdaptedLayer does."""

    def forward(self, x, *args, **kwargs):
        if args or kwargs or why_plain(self) or not full_precision(x) or x.dtype != self.base.weight.dtype:
            return super().forward(x, *args, **kwargs)
        updates, rows = self.acting_updates(), x.reshape(-1, x.shape[-1])  # (n, d_in)
        remake, source = source_of(x) or (_as_it_is, rows)
        y = AdaptedProduct.apply(rows, *factors(updates), weight_of(self.base), self.base.bias, source, remake)
        for update in updates:
            if update.bias is not None:
                y += update.bias
        return y.view(*x.shape[:-1], -1)


def _as_it_is(x):
    return x


def factors(updates):
    """(A, B, scale) with ΔW = scale · B A, (r, d_in) and (d_out, r), gradients attached: all that act, side by side."""
    if len(updates) == 1:
        return *updates[0].as_lora(), updates[0].scale
    pairs = [(A, B * update.scale) for update in updates for A, B in [update.as_lora()]]
    return torch.cat([A for A, _ in pairs]), torch.cat([B for _, B in pairs], dim=1), 1.0


def why_plain(layer):
    """Why this layer computes as the plain one does now, or None."""
    updates = layer.acting_updates()
    if not updates or not layer.enabled:
        return "no update acts"
    if layer.kept is not None:
        return "merged: nothing is left to add"
    if layer.rows is not None:
        return "routed: an adapter for each row"
    base = layer.base
    if isinstance(base, Quantized):
        return "the base is quantised"
    if type(base) is not nn.Linear and type(base).__name__ != "Conv1D":
        return f"a {type(base).__name__} is not known here"
    if base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad):
        return "the base is trained"
    if base._forward_hooks or base._forward_pre_hooks:
        return "a hook listens at the base"
    for update in updates:
        kind = type(update)
        if not issubclass(kind, LowRank) or kind.change is not LowRank.change:
            return f"{kind.__name__} is more than a product of two factors"
        if update.training and update.dropout.p:
            return "dropout draws an input of its own for each update"
    return None
