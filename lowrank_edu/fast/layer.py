"""An AdaptedLayer that adds its low-rank updates in place: see `products`."""

import torch
from torch import nn

from ..layers import AdaptedLayer
from ..quantized import Quantized
from ..updates import LowRank
from .products import AdaptedProduct, added, linear, plainly_called
from .remaking import full_precision, source_of


class FastLayer(AdaptedLayer):
    """What an AdaptedLayer becomes; wherever `why_plain` finds a reason it computes as an AdaptedLayer does."""

    def forward(self, x, *args, **kwargs):
        base = self._modules["base"]  # torch's own look-up of a submodule takes as long as a thin product
        if self.kept is not None and self.rows is None:
            return base(x, *args, **kwargs)
        updates = self.acting_updates()
        if args or kwargs or not full_precision(x) or why_plain(self, updates, base):
            return super().forward(x, *args, **kwargs)
        A, B, scale = together(updates)
        W0, b = _frozen(base)
        if not x.dtype == A.dtype == W0.dtype:
            return super().forward(x)
        rows = x.reshape(-1, x.shape[-1])  # (n, d_in)
        if torch.is_grad_enabled():
            remake, source = source_of(x) or (_as_it_is, rows)
            y = AdaptedProduct.apply(rows, A, B, scale, W0, b, source, remake)
        else:
            y, _ = added(rows, A, B, scale, W0, b)
        for update in updates:
            if update.bias is not None:
                y += update.bias
        return y.view(*x.shape[:-1], -1)

    def _routed(self, x, *args, **kwargs):
        """Without gradients, an adapter for each row: two batched products with a stack of factors, one for each row.
        A row without an adapter here has factors of zeros."""
        base, here = self._modules["base"], self._modules["updates"]._modules
        acting = {name: here[name] for name in self.rows if name in here}
        plain = args or kwargs or torch.is_grad_enabled() or not full_precision(x) or isinstance(base, nn.Embedding)
        fits = not plain and all(map(_stacks, acting.values()))
        pairs = {name: _pair(update) for name, update in acting.items()} if fits else {}
        alike = len({A.shape for A, _ in pairs.values()}) == 1 and all(A.dtype == x.dtype for A, _ in pairs.values())
        if not alike or len(x) != len(self.rows) or x.dim() != 3:
            return super()._routed(x, *args, **kwargs)
        rows = {name: (*pair, acting[name].scale) for name, pair in pairs.items()}
        A, B, scales = self._stacked([rows.get(name) for name in self.rows])
        z = torch.bmm(x, A.mT) * scales  # (rows, tokens, d_in) -> (rows, tokens, r)
        if why_called(base) or base._parameters["weight"].dtype != x.dtype:
            return base(x).baddbmm_(z, B.mT)
        y = linear(x.reshape(-1, x.shape[-1]), *_frozen(base))
        return y.view(*x.shape[:-1], -1).baddbmm_(z, B.mT)

    def _stacked(self, rows):
        """`stack(rows)`; from the second pass on it is kept until `routed` ends, unless a factor has changed.

        A single pass would pay for new memory, where the stack of the layer before has just freed some."""
        if torch.compiler.is_compiling():  # a compiled graph reads the factors at every call
            return stack(rows)
        state = [row and (_state(row[0]), _state(row[1]), row[2]) for row in rows]
        if self.stacked is None or self.stacked[0] != state:
            self.stacked = state, rows, None  # with the rows, so that no other tensor gets their id
            return stack(rows)
        if self.stacked[2] is None:
            self.stacked = state, rows, stack(rows)
        return self.stacked[2]


def stack(rows):
    """(A (rows, r, d_in), B (rows, d_out, r), scales (rows, 1, 1)) of each row's (A, B, scale), or None for zeros."""
    some = next(row for row in rows if row)
    absent = torch.zeros_like(some[0]), torch.zeros_like(some[1]), 0.0
    A, B, scales = zip(*[row or absent for row in rows], strict=True)
    return torch.stack(A), torch.stack(B), some[0].new_tensor(scales)[:, None, None]


def _state(tensor):
    """What changes when the tensor does, but for what is done to its `.data`: torch does not count that."""
    return id(tensor), tensor.device, tensor.dtype, 0 if tensor.is_inference() else tensor._version


def _frozen(base):
    """(W0 (d_out, d_in), b or None) of an nn.Linear or a Conv1D."""
    W0, b = base._parameters["weight"], base._parameters["bias"]
    return W0 if type(base) is nn.Linear else W0.T, b


def _stacks(update):
    """Whether its factors may be read and stacked with those of others, in the place of a call."""
    return type(update).change is LowRank.change and update.gathers and plainly_called(update)


def _as_it_is(x):
    return x


def together(updates):
    """(A, B, scale) with ΔW = scale · B A, (r, d_in) and (d_out, r), gradients attached: all that act, side by side."""
    if len(updates) == 1:
        return *_pair(updates[0]), updates[0].scale
    pairs = [(A, B * update.scale) for update in updates for A, B in [_pair(update)]]
    return torch.cat([A for A, _ in pairs]), torch.cat([B for _, B in pairs], dim=1), 1.0


def _pair(update):
    """`as_lora`, without asking a plain LoRA for the parts that it has not."""
    own = update._parameters
    if type(update) is LowRank and own["core"] is own["gain"] is update._buffers["B0"] is None:
        return own["A"], own["B"]
    return update.as_lora()


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
    called = why_called(base)
    if called:
        return called
    for update in updates:
        kind = type(update)
        if not issubclass(kind, LowRank) or kind.change is not LowRank.change:
            return f"{kind.__name__} is more than a product of two factors"
        if not plainly_called(update):
            return "a hook listens at the update"
        if update.training and update.dropout.p:
            return "dropout draws an input of its own for each update"
    return None


def why_called(base):
    """Why this base is called, instead of its product being taken here, or None."""
    if type(base) is not nn.Linear and type(base).__name__ != "Conv1D":
        return "the base is quantised" if isinstance(base, Quantized) else f"a {type(base).__name__} is not known here"
    if not plainly_called(base):
        return "the base was given another forward" if "forward" in base.__dict__ else "a hook listens at the base"
    for parameter in base._parameters.values():
        if parameter is not None and parameter.requires_grad:
            return "the base is trained"
    return None
