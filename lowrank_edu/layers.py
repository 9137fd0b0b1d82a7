"""A frozen layer and the named updates that sit on it.

`AdaptedLayer` wraps; it never inherits from the layer and never changes a weight in `train()` or `eval()`.
Which updates act is plain state (`active`, `enabled`, `rows`, `kept`), set for the whole model by `switching.py`.
"""

import copy

import torch
from torch import nn

from .updates import store_like, weight_of


class AdaptedLayer(nn.Module):
    """y = base(x), then each active update in turn: y = update(x, y, base).

    base     the frozen layer (Linear, Conv1D, Embedding, or any leaf module for updates that replace it)
    updates  {name: Update}
    active   names that act, in order
    enabled  False inside `lo.disabled`
    rows     None, or one name (or None) per row of the batch, inside `lo.routed`
    kept     None, or the base's own parameters while updates are merged into it
    """

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.updates = nn.ModuleDict()
        self.active = ()
        self.enabled = True
        self.rows = None
        self.kept = None
        self.merged_names = ()

    def forward(self, x):
        if self.kept is not None or not self.enabled:
            return self.base(x)
        if self.rows is not None:
            return self._routed(x)
        names = [name for name in self.active if name in self.updates]
        y = None if any(self.updates[name].replaces for name in names) else self.base(x)
        for name in names:
            y = self.updates[name](x, y, self.base)
        return y

    def _routed(self, x):
        if x.shape[0] != len(self.rows):
            raise ValueError(
                f"this layer sees a batch of {x.shape[0]} rows, but {len(self.rows)} adapter names were routed. "
                "Give one name (or None) per row; position embeddings, which are shared by all rows, cannot be routed."
            )
        y = self.base(x)
        for name in sorted({n for n in self.rows if n in self.updates}):
            rows = torch.tensor([i for i, n in enumerate(self.rows) if n == name], device=x.device)
            y = y.index_copy(0, rows, self.updates[name](x[rows], y[rows], self.base).to(y.dtype))
        return y

    def delta(self, name="default"):
        """ΔW (d_out, d_in) of one update, a detached copy in float32 or wider."""
        if name not in self.updates:
            raise ValueError(f"no update {name!r} on this layer; it has {', '.join(self.updates) or 'none'}.")
        return self.updates[name].delta(self._unmerged())

    @torch.no_grad()
    def merge_values(self, names):
        """{parameter name: new value} of the base with these updates baked in; nothing is changed.

        Sums are made in float32 or wider and rounded once to the layer's dtype. Raises ValueError where a value
        would not be finite (NaN in an adapter, or an overflow of the layer's dtype).
        """
        updates = [self.updates[name] for name in names if name in self.updates]
        if any(update.replaces for update in updates):
            if len(updates) > 1:
                raise ValueError(f"{list(names)}: one of these replaces whole layers. Merge one at a time.")
            return {key: value.detach() for key, value in updates[0].copy.named_parameters()}
        new = {}
        deltas = [update.delta(self.base) for update in updates if update.changes_weight]
        if deltas:
            W = weight_of(self.base)
            total = sum(deltas[1:], deltas[0])
            new["weight"] = store_like(self.base, W.to(total.dtype) + total).to(W.dtype).contiguous()
        shifts = [update.bias for update in updates if update.bias is not None]
        if shifts:
            old = self.base.bias
            new["bias"] = (old.to(shifts[0].dtype) + sum(shifts)).to(old.dtype)
        for key, value in new.items():
            if not torch.isfinite(value).all():
                bad = "NaN" if torch.isnan(value).any() else "Inf"
                raise ValueError(
                    f"{key} would hold {bad} in {str(value.dtype).removeprefix('torch.')} after merging {list(names)}. "
                    "Look for NaN in the adapter, or load the model in a wider dtype."
                )
        return new

    def put(self, values, names, keep_base, shared, memo):
        """Replace base parameters by copies of merged `values`; values that are one tensor stay one (`memo`).

        The old Parameter objects are kept (on the CPU, unless another layer shares them), so that undoing is exact;
        `keep_base=False` drops them.
        """
        self.kept, self.merged_names = {}, tuple(names)
        for key, value in values.items():
            old = getattr(self.base, key)
            if value.data_ptr() not in memo:
                memo[value.data_ptr()] = nn.Parameter(value.clone(), requires_grad=False)
            setattr(self.base, key, memo[value.data_ptr()])
            if keep_base:
                self.kept[key] = old
                if id(old) not in shared:
                    old.data = old.data.to("cpu")

    def exchange(self):
        """Swap the base's parameters with the kept ones: merged becomes original, and back again."""
        for key, other in self.kept.items():
            current = getattr(self.base, key)
            other.data = other.data.to(current.device)
            setattr(self.base, key, other)
            self.kept[key] = current

    def restore(self):
        """Undo `put`: the very same Parameter objects return, so tied weights are tied again."""
        self.exchange()
        self.kept, self.merged_names = None, ()

    def _unmerged(self):
        """The base as it is without merging (ΔW of a DoRA update depends on W0)."""
        if not self.kept:
            return self.base
        twin = copy.copy(self.base)
        device = next(iter(self.base._parameters.values())).device
        twin._parameters = {**self.base._parameters, **{k: v.to(device) for k, v in self.kept.items()}}
        return twin

    def __getattr__(self, name):
        """Attributes of the frozen layer (`in_features`, `nf`, `num_embeddings` …) stay readable."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base":
                raise
            return getattr(super().__getattr__("base"), name)

    def extra_repr(self):
        return f"active={list(self.active)}" + (", merged" if self.kept is not None else "")
