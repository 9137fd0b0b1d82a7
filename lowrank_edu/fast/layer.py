"""An AdaptedLayer that adds its low-rank updates in place: see `products`."""

import torch
from torch import nn

from ..layers import AdaptedLayer
from ..quantized import Quantized
from ..updates import LowRank, weight_of
from .products import AdaptedProduct, added
from .remaking import full_precision, source_of


class FastLayer(AdaptedLayer):
    """What an AdaptedLayer becomes; wherever `why_plain` finds a reason it computes as an AdaptedLayer does."""

    def forward(self, x, *args, **kwargs):
        updates, base = self.acting_updates(), self.base
        if args or kwargs or not full_precision(x) or why_plain(self, updates, base):
            return super().forward(x, *args, **kwargs)
        factors = *together(updates), weight_of(base), base.bias
        if not x.dtype == factors[0].dtype == factors[3].dtype:
            return super().forward(x)
        rows = x.reshape(-1, x.shape[-1])  # (n, d_in)
        if torch.is_grad_enabled():
            remake, source = source_of(x) or (_as_it_is, rows)
            y = AdaptedProduct.apply(rows, *factors, source, remake)
        else:
            y, _ = added(rows, *factors)
        for update in updates:
            if update.bias is not None:
                y += update.bias
        return y.view(*x.shape[:-1], -1)

    def _routed(self, x, *args, **kwargs):
        """Without gradients, an adapter for each row: two batched products with a stack of factors, one for each row.
        A row without an adapter here has factors of zeros."""
        acting, base = {n: self.updates[n] for n in self.rows if n in self.updates}, self.base
        fits = all(u.gathers and type(u).change is LowRank.change for u in acting.values())
        plain = args or kwargs or torch.is_grad_enabled() or not full_precision(x) or isinstance(base, nn.Embedding)
        pairs = {name: update.as_lora() for name, update in acting.items()} if fits and not plain else {}
        alike = len({A.shape for A, _ in pairs.values()}) == 1 and all(A.dtype == x.dtype for A, _ in pairs.values())
        if not alike or len(x) != len(self.rows) or x.dim() != 3:
            return super()._routed(x, *args, **kwargs)
        A, B = next(iter(pairs.values()))
        none = torch.zeros_like(A), torch.zeros_like(B)
        A, B = (torch.stack(half) for half in zip(*[pairs.get(name, none) for name in self.rows], strict=True))
        scales = x.new_tensor([acting[name].scale if name in acting else 0.0 for name in self.rows])
        z = torch.bmm(x, A.mT) * scales[:, None, None]  # (rows, tokens, d_in) -> (rows, tokens, r)
        return base(x).baddbmm_(z, B.mT)


def _as_it_is(x):
    return x


def together(updates):
    """(A, B, scale) with ΔW = scale · B A, (r, d_in) and (d_out, r), gradients attached: all that act, side by side."""
    if len(updates) == 1:
        return *updates[0].as_lora(), updates[0].scale
    pairs = [(A, B * update.scale) for update in updates for A, B in [update.as_lora()]]
    return torch.cat([A for A, _ in pairs]), torch.cat([B for _, B in pairs], dim=1), 1.0


def why_plain(layer, updates=None, base=None):
    """Why this layer computes as the plain one does now, or None. `updates` and `base` are its own."""
    updates = layer.acting_updates() if updates is None else updates
    base = layer.base if base is None else base
    if not updates or not layer.enabled:
        return "no update acts"
    if layer.kept is not None:
        return "merged: nothing is left to add"
    if layer.rows is not None:
        return "routed: an adapter for each row"
    if isinstance(base, Quantized):
        return "the base is quantised"
    if type(base) is not nn.Linear and type(base).__name__ != "Conv1D":
        return f"a {type(base).__name__} is not known here"
    if any(p is not None and p.requires_grad for p in base._parameters.values()):
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
